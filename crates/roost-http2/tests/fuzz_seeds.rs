//! The seeds of the fuzz target, run as they are: none panics, and those that are good are read.

use roost_http2::hpack::Decoder;
use std::path::Path;

#[test]
fn header_blocks_are_read_or_refused() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-seeds/hpack");
    let mut n_seeds = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let mut decoder = Decoder::new();
        let mut rest = &bytes[..];
        let mut is_good = true;
        while let Some((length, behind)) = rest.split_first() {
            let (block, behind) = behind.split_at(usize::from(*length));
            rest = behind;
            is_good &= decoder.decode(block, 1000, drop).is_ok();
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(
            is_good,
            ["requests", "responses"].contains(&name.as_str()),
            "{name}"
        );
        n_seeds += 1;
    }
    assert_eq!(n_seeds, 4);
}
