//! The Huffman code of text (RFC 7541 5.2 and appendix B).
//!
//! The code is canonical: the lengths of its words say which words they are. Short words, which
//! nearly all text has, are found by their first bits, longer ones by their length.

use super::HpackError;
use bytes::BytesMut;

/// The lengths of the words of appendix B, in bits; the last one ends a text and is never sent.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
const LONGEST: usize = 30;
/// Words up to so many bits are looked up at once.
const SHORT: usize = 9;

struct Code {
    /// For each beginning of a word: the symbol, and the length if the word is short.
    short: [(u8, u8); 1 << SHORT],
    /// Symbols by the length of their words, then by their value.
    symbols: [u16; 257],
    /// By length: the first word, how many there are, and where their symbols begin.
    first: [u32; LONGEST + 1],
    count: [u16; LONGEST + 1],
    start: [u16; LONGEST + 1],
}

static CODE: Code = code();

#[expect(clippy::cast_possible_truncation, reason = "there are 257 symbols")]
const fn code() -> Code {
    let mut code = Code {
        short: [(0, 0); 1 << SHORT],
        symbols: [0; 257],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
    };
    let (mut length, mut word, mut n) = (1, 0_u32, 0);
    while length <= LONGEST {
        word <<= 1;
        code.first[length] = word;
        code.start[length] = n as u16;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.symbols[n] = symbol as u16;
                if length <= SHORT {
                    let mut at = (word as usize) << (SHORT - length);
                    let end = (word as usize + 1) << (SHORT - length);
                    while at < end {
                        code.short[at] = (symbol as u8, length as u8);
                        at += 1;
                    }
                }
                code.count[length] += 1;
                word += 1;
                n += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    code
}

/// The symbol and the length of the word that begins these bits, of which there are 32.
fn word(bits: u32) -> Option<(u16, usize)> {
    let (symbol, length) = CODE.short[(bits >> (32 - SHORT)) as usize];
    if length != 0 {
        return Some((u16::from(symbol), usize::from(length)));
    }
    (SHORT + 1..=LONGEST).find_map(|length| {
        let place = (bits >> (32 - length)).checked_sub(CODE.first[length])?;
        let place = u16::try_from(place).ok()?;
        (place < CODE.count[length]).then(|| {
            (
                CODE.symbols[usize::from(CODE.start[length] + place)],
                length,
            )
        })
    })
}

/// Adds the text that these bytes stand for.
pub(super) fn decode(mut bytes: &[u8], into: &mut BytesMut) -> Result<(), HpackError> {
    let mut end = into.len();
    // No word has less than five bits.
    into.resize(end + bytes.len() * 8 / 5, 0);
    // The next bits at the top, and how many they are; ones follow, as they do at the end.
    let (mut bits, mut n_bits) = (u64::MAX, 0_usize);
    loop {
        while n_bits <= 56
            && let Some((byte, rest)) = bytes.split_first()
        {
            let others = !(0xff << (56 - n_bits));
            bits = bits & others | u64::from(*byte) << (56 - n_bits);
            n_bits += 8;
            bytes = rest;
        }
        let (symbol, length) = word((bits >> 32) as u32).ok_or(HpackError::Huffman)?;
        if length > n_bits {
            break;
        }
        let symbol = u8::try_from(symbol).map_err(|_| HpackError::Huffman)?;
        *into.get_mut(end).ok_or(HpackError::Huffman)? = symbol;
        end += 1;
        bits = bits << length | ((1 << length) - 1);
        n_bits -= length;
    }
    // The rest is the beginning of the word that ends a text, and less than a byte.
    if n_bits > 7 || bits != u64::MAX {
        return Err(HpackError::Huffman);
    }
    into.truncate(end);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{LENGTHS, LONGEST, decode, word};
    use bytes::BytesMut;

    fn text(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut text = BytesMut::from(&b"-"[..]);
        decode(bytes, &mut text).ok()?;
        Some(text[1..].to_vec())
    }

    #[test]
    fn the_code_is_whole_and_has_each_word_once() {
        let mut sum = 0_u64;
        for length in LENGTHS {
            sum += 1 << (LONGEST - usize::from(length));
        }
        assert_eq!(sum, 1 << LONGEST);
        // Samples of appendix B.
        for (bits, length, symbol) in [
            (0x0, 5, b'0'),
            (0x7, 5, b'o'),
            (0x3f8, 10, b'!'),
            (0x7ffd_u32, 15, b'`'),
            (0x7_fff0, 19, b'\\'),
            (0x1ff_ffec, 25, 199),
            (0xfff_fff1, 28, 20),
            (0x3fff_fffc, 30, b'\n'),
        ] {
            let found = word(bits << (32 - length));
            assert_eq!(found, Some((u16::from(symbol), length)), "{symbol}");
        }
        assert_eq!(word(u32::MAX), Some((256, 30)));
    }

    #[test]
    fn text_ends_with_less_than_a_byte_of_ones() {
        assert_eq!(text(b""), Some(vec![]));
        assert_eq!(text(&[0x07]), Some(b"0".to_vec()));
        // Zeros, a whole byte of ones, and the end itself.
        assert_eq!(text(&[0x00]), None);
        assert_eq!(text(&[0x07, 0xff]), None);
        assert_eq!(text(&[0xff]), None);
        assert_eq!(text(&[0xff, 0xff, 0xff, 0xff]), None);
        // The longest words.
        let word = [0xff, 0xff, 0xff, 0xf3];
        assert_eq!(text(&word), Some(b"\n".to_vec()));
        // The shortest ones.
        assert_eq!(text(&[0; 5]), Some(b"00000000".to_vec()));
    }
}
