//! `roost.toml` and `fly.toml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    drop(roost_model::app_config::parse(text, "roost.toml"));
});
