//! The seeds of the fuzz target `certificate_upload`, run as they are.

use roost_certs::chain::check;
use roost_model::host_name::HostName;
use roost_model::time::Timestamp;
use std::path::Path;

#[test]
fn uploads_are_taken_or_refused() {
    let dir =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-seeds/certificate_upload");
    let host = HostName::parse("www.example.com").unwrap();
    let mut ends = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (chain, key) = text.split_once("\n\n").unwrap();
        let checked = check(chain, key, &host, Timestamp::from_ms(1_800_000_000_000));
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        ends.push((name, checked.is_ok()));
    }
    ends.sort();
    let expected = [
        ("good", true),
        ("key_of_another", false),
        ("no_certificate", false),
    ];
    assert_eq!(ends, expected.map(|(name, is_ok)| (name.to_owned(), is_ok)));
}
