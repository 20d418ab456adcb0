//! What lines of a header say: hosts, files, ranges, wishes, cookies, replays that are kept.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| roost_edge::fuzzing::request_headers(text));
