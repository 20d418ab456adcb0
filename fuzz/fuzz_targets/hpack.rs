//! Header blocks of HTTP/2: one after the other, each behind a byte with its length. What is read
//! of them is written and read again.
#![no_main]

use roost_http2::hpack::{Decoder, Encoder, Field, Size};

/// The most that a block may give.
const MOST: usize = 4096;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (mut decoder, mut encoder, mut other) = (Decoder::new(), Encoder::new(), Decoder::new());
    let mut rest = bytes;
    while let Some((length, behind)) = rest.split_first() {
        let (block, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = behind;
        let mut fields = Vec::new();
        let mut n_bytes = 0;
        let decoded = decoder.decode(block, MOST, |field| {
            if let Field::Header(name, value) = field {
                n_bytes += name.as_str().len() + value.len();
                fields.push((name, value));
            }
        });
        assert!(n_bytes <= MOST);
        let mut written = Vec::new();
        let mut block = encoder.block(&mut written);
        for (name, value) in &fields {
            block.header(name, value);
        }
        let mut read = Vec::new();
        let size = other.decode(&written, MOST, |field| {
            let Field::Header(name, value) = field else {
                panic!("{field:?} was written");
            };
            read.push((name, value));
        });
        assert_eq!(size, Ok(Size::Good));
        assert_eq!(read, fields);
        if decoded.is_err() {
            return;
        }
    }
});
