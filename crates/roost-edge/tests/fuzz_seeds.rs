//! The seeds of the fuzz targets of this crate, run as a test.

#[test]
fn the_seeds_of_proxy_header_hold() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fuzz/corpus-seeds/proxy_header"
    );
    let mut n_seeds = 0;
    for entry in std::fs::read_dir(folder).expect("the seeds are there") {
        let path = entry.expect("a seed").path();
        roost_edge::proxy_protocol::fuzz(&std::fs::read(path).expect("a seed is read"));
        n_seeds += 1;
    }
    assert!(n_seeds > 0);
}
