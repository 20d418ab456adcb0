//! The seeds of the fuzz target `worker_message`, run as they are.

use std::path::Path;

#[test]
fn messages_that_are_accepted_arrive_as_they_were() {
    let seeds =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-seeds/worker_message");
    let mut n_seeds = 0;
    for seed in std::fs::read_dir(seeds).unwrap() {
        roost_rpc::convert::fuzzing::run(&std::fs::read(seed.unwrap().path()).unwrap());
        n_seeds += 1;
    }
    assert!(n_seeds > 0, "no seeds");
}
