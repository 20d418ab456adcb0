//! The seeds of the fuzz target `agent_session`, run as they are.

use std::path::Path;

#[test]
fn streams_are_read_in_any_pieces_and_a_new_host_gets_through() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-seeds/agent_session");
    let mut n_seeds = 0;
    for seed in std::fs::read_dir(seeds).unwrap() {
        roost_agent::session::fuzzing::run(&std::fs::read(seed.unwrap().path()).unwrap());
        n_seeds += 1;
    }
    assert!(n_seeds > 0, "no seeds");
}
