//! Folders that users upload to build them: nothing appears beside their folder.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    roost_image::fuzzing::receive(bytes, dir.path());
});
