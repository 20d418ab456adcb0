//! Manifests and image indexes from registries.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = roost_image::parse_manifest(bytes) {
        // What was accepted keeps its own bounds.
        assert!(manifest.children().count() <= roost_image::limits::INDEX_MANIFESTS_MAX + 1);
    }
});
