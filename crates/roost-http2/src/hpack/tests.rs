//! Decoder and encoder together, and with the examples of RFC 7541 appendix C.

use super::{Decoder, Encoder, Field, HpackError, Pseudo, Size, TABLE_BYTES};
use proptest::prelude::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// As lines of text.
fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, HpackError> {
    let mut lines = Vec::new();
    let size = decoder.decode(block, 64 * 1024, |field| {
        lines.push(match field {
            Field::Pseudo(pseudo, value) => {
                format!("{pseudo:?}: {}", String::from_utf8_lossy(&value))
            }
            Field::Header(name, value) => format!("{name}: {}", value.to_str().unwrap()),
            Field::Malformed => "malformed".to_owned(),
        });
    })?;
    assert_eq!(size, Size::Good);
    Ok(lines)
}

#[test]
fn examples_of_the_rfc_are_decoded() {
    // C.3 and C.4: requests on one connection, without and with Huffman's code.
    let requests: [&[&str]; 3] = [
        &[
            "Method: GET",
            "Scheme: http",
            "Path: /",
            "Authority: www.example.com",
        ],
        &[
            "Method: GET",
            "Scheme: http",
            "Path: /",
            "Authority: www.example.com",
            "cache-control: no-cache",
        ],
        &[
            "Method: GET",
            "Scheme: https",
            "Path: /index.html",
            "Authority: www.example.com",
            "custom-key: custom-value",
        ],
    ];
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new();
        for (block, expected) in blocks.into_iter().zip(&requests) {
            assert_eq!(decode(&mut decoder, &bytes(block)).unwrap(), *expected);
        }
    }
    // C.2.1 to C.2.3: each kind of literal.
    for (block, expected) in [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            "custom-key: custom-header",
        ),
        ("040c 2f73 616d 706c 652f 7061 7468", "Path: /sample/path"),
        (
            "1008 7061 7373 776f 7264 0673 6563 7265 74",
            "password: secret",
        ),
    ] {
        assert_eq!(
            decode(&mut Decoder::new(), &bytes(block)).unwrap(),
            [expected]
        );
    }
}

#[test]
fn examples_of_the_rfc_with_evictions_are_decoded() {
    // C.6: responses over a table of 256 bytes.
    let mut decoder = Decoder::new();
    assert!(decode(&mut decoder, &bytes("3fe101")).unwrap().is_empty());
    let blocks = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e
         919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7
         821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed
         4ee5 b106 3d50 07",
    ];
    let date = |second| format!("date: Mon, 21 Oct 2013 20:13:{second} GMT");
    let (private, location) = (
        "cache-control: private",
        "location: https://www.example.com",
    );
    let cookie = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    let expected = [
        ["Status: 302", private, &date(21), location].join("\n"),
        ["Status: 307", private, &date(21), location].join("\n"),
        [
            "Status: 200",
            private,
            &date(22),
            location,
            "content-encoding: gzip",
            cookie,
        ]
        .join("\n"),
    ];
    for (block, expected) in blocks.into_iter().zip(expected) {
        assert_eq!(
            decode(&mut decoder, &bytes(block)).unwrap().join("\n"),
            expected
        );
    }
    // What is left: 215 bytes in three fields.
    assert_eq!(decoder.size, 215);
    let left = decode(&mut decoder, &[0x80 | 62, 0x80 | 63, 0x80 | 64]).unwrap();
    assert_eq!(left, [cookie, "content-encoding: gzip", &date(22)]);
    assert_eq!(decode(&mut decoder, &[0x80 | 65]), Err(HpackError::Index));
}

#[test]
fn a_bad_block_is_refused() {
    for (block, expected) in [
        ("80", HpackError::Index),
        ("be", HpackError::Index),
        ("7f 00 01 61", HpackError::Index),
        ("ff ff ff ff ff ff", HpackError::Number),
        ("ff 80 80 80 80 00", HpackError::Number),
        ("ff 80 80 80", HpackError::Truncated),
        ("41", HpackError::Truncated),
        ("41 05 61", HpackError::Truncated),
        ("41 7f ff ff ff 7f", HpackError::Truncated),
        ("41 81 ff", HpackError::Huffman),
        ("41 81 00", HpackError::Huffman),
        // 4097 bytes, and a change behind a field.
        ("3f e2 1f", HpackError::TableSize),
        ("82 20", HpackError::TableSize),
    ] {
        let found = decode(&mut Decoder::new(), &bytes(block));
        assert_eq!(found, Err(expected), "{block}");
    }
    assert_eq!(decode(&mut Decoder::new(), &bytes("3f e1 1f")), Ok(vec![]));
    assert_eq!(
        decode(&mut Decoder::new(), &bytes("20 20 82")).unwrap(),
        ["Method: GET"]
    );
}

#[test]
fn a_field_that_is_too_large_empties_the_table() {
    let mut decoder = Decoder::new();
    decode(&mut decoder, b"\x40\x01a\x01b").unwrap();
    assert_eq!(decoder.size, 34);
    assert_eq!(decode(&mut decoder, &[0x80 | 62]).unwrap(), ["a: b"]);
    let mut block = b"\x40\x01a\x7f\x81\x1f".to_vec();
    block.extend([b'b'; 127 + 0xf81]);
    decode(&mut decoder, &block).unwrap();
    assert_eq!((decoder.size, decoder.table.len()), (0, 0));
    // A malformed field is as good as others for the table: both ends must agree.
    assert_eq!(
        decode(&mut decoder, b"\x40\x01A\x01b").unwrap(),
        ["malformed"]
    );
    assert_eq!(
        decode(&mut decoder, b"\x40\x01c\x01\n").unwrap(),
        ["malformed"]
    );
    assert_eq!(decode(&mut decoder, &[0x80 | 62]).unwrap(), ["malformed"]);
    assert_eq!(decode(&mut decoder, b"\x7e\x01x").unwrap(), ["c: x"]);
}

#[test]
fn what_is_beyond_the_limit_is_decoded_and_not_given() {
    let mut decoder = Decoder::new();
    let mut given = Vec::new();
    let block = b"\x40\x01a\x01b\x40\x01c\x01d\x00\x01e\x01f";
    let size = decoder
        .decode(block, 34, |field| given.push(field))
        .unwrap();
    assert_eq!((size, given.len()), (Size::TooLarge, 1));
    assert_eq!(decode(&mut decoder, &[0x80 | 62]).unwrap(), ["c: d"]);
    // A block of references to one large field.
    let mut block = b"\x40\x01a\x7f\x80\x01".to_vec();
    block.extend([b'b'; 255]);
    block.extend([0x80 | 62; 10_000]);
    let mut n_given = 0;
    let size = decoder.decode(&block, 32 * 1024, |_| n_given += 1).unwrap();
    assert_eq!((size, n_given), (Size::TooLarge, 32 * 1024 / (32 + 256)));
}

#[test]
fn what_comes_twice_is_an_index_from_then_on() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new();
    let mut sizes = Vec::new();
    for id in 0..4 {
        let id = format!("id-{id}");
        let mut written = Vec::new();
        let mut block = encoder.block(&mut written);
        block.field(":status", b"200");
        block.field("content-type", b"text/html; charset=utf-8");
        block.field("x-id", id.as_bytes());
        block.field("set-cookie", b"secret");
        sizes.push(written.len());
        let lines = decode(&mut decoder, &written).unwrap();
        let id = format!("x-id: {id}");
        let expected = [
            "Status: 200",
            "content-type: text/html; charset=utf-8",
            &id,
            "set-cookie: secret",
        ];
        assert_eq!(lines, expected);
    }
    assert_eq!(sizes[1] - sizes[2], 25);
    assert_eq!(sizes[2], sizes[3]);
    // Neither ids nor secrets are kept.
    assert_eq!(decoder.table.len(), 1);
}

#[test]
fn many_fields_that_come_again_are_indexes_and_stay_so() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new();
    let sizes = [(); 6].map(|()| {
        let mut written = Vec::new();
        let mut block = encoder.block(&mut written);
        for n in 0..32 {
            block.field(&format!("x-name-{n}"), b"some value of this field");
        }
        block.once("x-id", b"1");
        decode(&mut decoder, &written).unwrap();
        written.len()
    });
    // One byte each, and what is not kept.
    assert_eq!(sizes[2..], [32 + 1 + 5 + 2; 4]);
    assert_eq!(decoder.table.len(), 32);
}

#[test]
fn fields_that_come_together_are_written_as_they_were() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new();
    let mut n_asked = 0;
    let mut write = |text: &str, other: &[u8]| {
        let mut written = Vec::new();
        let mut block = encoder.block(&mut written);
        block.run(text.as_bytes(), |block| {
            n_asked += 1;
            block.field("a", text.as_bytes());
            block.field("accept-encoding", b"gzip, deflate");
        });
        block.field("other", other);
        let expected = [
            format!("a: {text}"),
            "accept-encoding: gzip, deflate".to_owned(),
            format!("other: {}", String::from_utf8_lossy(other)),
        ];
        assert_eq!(decode(&mut decoder, &written).unwrap(), expected);
        n_asked
    };
    // A literal, one that is put into the table, an index: from then on it is known.
    for n in 1..=3 {
        assert_eq!(write("b", b"1"), n.min(3));
    }
    assert_eq!(
        [write("b", b"1"), write("b", b"2"), write("c", b"3")],
        [3, 3, 4]
    );
    assert_eq!(
        [write("c", b"3"), write("c", b"3"), write("c", b"3")],
        [5, 6, 6]
    );
    // What has come into the table since then has moved the index.
    assert_eq!([write("b", b"3"), write("b", b"3")], [7, 7]);
    assert_eq!(
        [write("c", b"4"), write("b", b"4"), write("b", b"4")],
        [7, 7, 8]
    );
}

#[test]
fn a_smaller_table_is_told_and_kept_to() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new();
    let mut write = |encoder: &mut Encoder| {
        let mut written = Vec::new();
        for _ in 0..2 {
            written.clear();
            let mut block = encoder.block(&mut written);
            block.field("a", b"b");
            decode(&mut decoder, &written).unwrap();
        }
        (written, decoder.size, decoder.size_max)
    };
    assert_eq!(write(&mut encoder).1, 34);
    encoder.set_table_size(0);
    assert_eq!(write(&mut encoder).1, 0);
    encoder.set_table_size(100);
    encoder.set_table_size(10);
    encoder.set_table_size(1 << 20);
    let mut written = Vec::new();
    encoder.block(&mut written).field("a", b"b");
    // The smallest one first (RFC 7541 4.2).
    assert_eq!(written[..5], [0x20 | 10, 0x3f, 0xe1, 0x1f, 0x40]);
    assert_eq!(decode(&mut Decoder::new(), &written).unwrap(), ["a: b"]);
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        messages in prop::collection::vec(
            (prop::collection::vec((0..4_u8, 0..40_usize), 0..20), 0..8_u32, 0..6_usize),
            1..20,
        )
    ) {
        let mut encoder = Encoder::new();
        let mut decoder = Decoder::new();
        for (fields, size, run) in messages {
            if size < 4 {
                encoder.set_table_size(size * 64);
            } else if size == 4 {
                encoder.set_table_size(u32::MAX);
            }
            // Some values are too long to be kept.
            let field = |(name, value): (u8, usize)| {
                let length = if value > 36 { value * 20 } else { value };
                (format!("name-{name}"), "v".repeat(length))
            };
            let mut fields: Vec<_> = fields.into_iter().map(field).collect();
            let together = [("name-1", run), ("run-1", run), ("run-2", 7)];
            let together = together.map(|(name, value)| (name.to_owned(), "v".repeat(value)));
            let mut written = Vec::new();
            let mut block = encoder.block(&mut written);
            for (name, value) in &fields {
                block.field(name, value.as_bytes());
            }
            block.run(run.to_string().as_bytes(), |block| {
                for (name, value) in &together {
                    block.field(name, value.as_bytes());
                }
            });
            fields.extend(together);
            let lines = decode(&mut decoder, &written).unwrap();
            let expected: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            prop_assert_eq!(lines, expected);
            prop_assert_eq!(decoder.size, encoder.size);
            prop_assert!(decoder.size <= TABLE_BYTES);
        }
    }

    #[test]
    fn no_block_panics(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..6)) {
        let mut decoder = Decoder::new();
        for block in blocks {
            let mut n_bytes = 0;
            let decoded = decoder.decode(&block, 500, |field| {
                if let Field::Pseudo(Pseudo::Path, value) = field {
                    n_bytes += value.len();
                }
            });
            prop_assert!(n_bytes <= 500 && decoder.size <= TABLE_BYTES);
            if decoded.is_err() {
                break;
            }
        }
    }
}
