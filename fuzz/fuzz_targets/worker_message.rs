//! Messages between nodes: what is accepted arrives as it was.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roost_rpc::convert::fuzzing::run(bytes));
