//! Layers from registries: whatever they hold, nothing appears beside their folder.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    roost_image::fuzzing::unpack(bytes, dir.path());
});
