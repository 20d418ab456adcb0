//! The seeds of the fuzz target, run as they are.

use std::path::Path;

#[test]
fn kernels_are_read_or_refused() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-seeds/bzimage");
    let mut n_seeds = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let result = roost_host::vmm::kernel::read_kernel(&std::fs::read(&path).unwrap())
            .map(|image| image.release);
        let is_good = path.file_stem().unwrap() == "good";
        assert_eq!(result.is_ok(), is_good, "{}: {result:?}", path.display());
        n_seeds += 1;
    }
    assert_eq!(n_seeds, 10);
}
