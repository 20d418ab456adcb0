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

#[test]
fn the_seeds_of_http1_request_hold() {
    each_seed_of("http1_request", roost_edge::fuzzing::http1_request);
}

#[test]
fn the_seeds_of_http1_response_hold() {
    each_seed_of("http1_response", roost_edge::fuzzing::http1_response);
}

#[test]
fn the_seeds_of_sni_hold() {
    each_seed_of("sni", roost_edge::fuzzing::sni);
}

#[test]
fn the_seeds_of_relay_lines_hold() {
    each_seed_of("relay_lines", |bytes| {
        roost_edge::fuzzing::relay_lines(std::str::from_utf8(bytes).expect("a text"));
    });
}

#[test]
fn the_seeds_of_request_headers_hold() {
    each_seed_of("request_headers", |bytes| {
        roost_edge::fuzzing::request_headers(std::str::from_utf8(bytes).expect("a text"));
    });
}
