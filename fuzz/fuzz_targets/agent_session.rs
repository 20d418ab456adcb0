//! Streams between a node and a guest: any damage, any pieces, any leftovers.
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| roost_agent::session::fuzzing::run(script));
