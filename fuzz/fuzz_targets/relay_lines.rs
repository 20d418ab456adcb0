//! What one edge tells another, line by line: what is accepted is told again as it was.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| roost_edge::fuzzing::relay_lines(text));
