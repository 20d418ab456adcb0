//! The seeds of the fuzz targets of this crate, run as a test.

fn each_seed_of(target: &str, fuzz: impl Fn(&[u8])) {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus-seeds");
    let mut n_seeds = 0;
    for entry in std::fs::read_dir(format!("{seeds}/{target}")).expect("the seeds are there") {
        let path = entry.expect("a seed").path();
        fuzz(&std::fs::read(path).expect("a seed is read"));
        n_seeds += 1;
    }
    assert!(n_seeds > 0);
}

#[test]
fn the_seeds_of_proxy_header_hold() {
    each_seed_of("proxy_header", roost_edge::proxy_protocol::fuzz);
}

#[test]
fn the_seeds_of_datagram_frames_hold() {
    each_seed_of("datagram_frames", roost_edge::datagram_frames::fuzz);
}
