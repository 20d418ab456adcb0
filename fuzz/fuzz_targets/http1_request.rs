//! The header of a client's request over HTTP/1.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roost_edge::fuzzing::http1_request(bytes));
