//! Datagrams as edges of other nodes send them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roost_edge::datagram_frames::fuzz(bytes));
