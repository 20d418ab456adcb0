//! `fly-replay`, as a header and as a body.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    drop(roost_edge::replay::parse(text));
});
