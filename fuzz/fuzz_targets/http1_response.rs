//! What a machine answers over HTTP/1: its header, and chunks.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roost_edge::fuzzing::http1_response(bytes));
