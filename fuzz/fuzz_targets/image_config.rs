//! Image configs from registries.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drop(roost_image::manifest::parse_image_config(bytes));
});
