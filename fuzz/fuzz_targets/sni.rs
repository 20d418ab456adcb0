//! The first bytes of TLS, and the name that a client asks for by them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roost_edge::fuzzing::sni(bytes));
