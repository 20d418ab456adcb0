//! Paths, queries and ranges of requests to the registry, one a line.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| roost_image::fuzzing::registry_request(text));
