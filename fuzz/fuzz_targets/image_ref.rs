//! Image references: what is accepted reads back as itself.
#![no_main]

use roost_model::image_ref::ImageRef;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(reference) = ImageRef::parse(text) {
        assert_eq!(ImageRef::parse(&reference.to_string()), Ok(reference));
    }
});
