//! What stands before the first byte of a connection from a proxy.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roost_edge::proxy_protocol::fuzz(bytes));
