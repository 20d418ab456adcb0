//! Blocks to fields.

use super::integer::Cursor;
use super::statics::{self, Entry};
use super::{FIELD_COST, Field, HpackError, Name, TABLE_BYTES, huffman};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// A block of no more has few values that are not in a table: each has an allocation of its own.
const SHORT_BYTES: usize = 64;

/// Whether a message has more fields than its receiver takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// All were given.
    Good,
    /// From some place on none was given.
    TooLarge,
}

/// What one end of a connection knows of the fields that came before.
#[derive(Debug)]
pub struct Decoder {
    /// The newest first.
    pub(super) table: VecDeque<Entry>,
    pub(super) size: usize,
    /// As the encoder has chosen, below what it may.
    pub(super) size_max: usize,
    /// Whether blanks at the ends of values are taken away.
    trims: bool,
    /// About how many lines the blocks before had.
    pub(crate) lines_before: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// At the beginning of a connection whose settings leave the table as it is.
    pub fn new() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            size_max: TABLE_BYTES,
            trims: false,
            lines_before: 0,
        }
    }

    /// The same, but blanks at the ends of values, which make a message malformed (RFC 9113
    /// 8.2.1), are taken away, as everybody does who reads HTTP/1 (RFC 9112 5.1).
    pub fn that_trims() -> Self {
        Self {
            trims: true,
            ..Self::new()
        }
    }

    /// Decodes a block and gives its fields, one by one, as long as they are no more than
    /// `most` bytes together, as RFC 9113 6.5.2 counts them.
    pub fn decode(
        &mut self,
        block: &[u8],
        most: usize,
        mut sink: impl FnMut(Field),
    ) -> Result<Size, HpackError> {
        let mut cursor = Cursor(block);
        // One allocation for the values of a message, if there are many.
        let mut text = BytesMut::new();
        let mut left = Some(most);
        let mut is_first = true;
        while !cursor.0.is_empty() {
            let first = cursor.byte()?;
            if first & 0xe0 == 0x20 {
                if !is_first {
                    return Err(HpackError::TableSize);
                }
                self.resize(cursor.number(first, 5)?)?;
                continue;
            }
            is_first = false;
            let is_short = block.len() <= SHORT_BYTES;
            if text.capacity() == 0 && first & 0x80 == 0 && !is_short {
                text.reserve(cursor.0.len() * 8 / 5);
            }
            let mut fits = |size: usize| {
                left = left.and_then(|left| left.checked_sub(size));
                left.is_some()
            };
            if first & 0x80 != 0 {
                let entry = self.entry(cursor.number(first, 7)?)?;
                if fits(entry.size) {
                    sink(entry.field.clone());
                }
            } else if first & 0xc0 == 0x40 {
                let (name, name_length) = self.name(&mut cursor, first, 6, &mut text)?;
                let value = string(&mut cursor, &mut text)?;
                let size = name_length + value.len() + FIELD_COST;
                // It may stay for long, and what the others are in goes with the message.
                let value = Bytes::copy_from_slice(&value);
                let field = name.clone().with(value, self.trims);
                if fits(size) {
                    sink(field.clone());
                }
                self.insert(Entry {
                    name,
                    name_length,
                    field,
                    size,
                });
            } else {
                let (name, name_length) = self.name(&mut cursor, first, 4, &mut text)?;
                let value = string(&mut cursor, &mut text)?;
                let size = name_length + value.len() + FIELD_COST;
                if fits(size) {
                    sink(name.with(value, self.trims));
                }
            }
        }
        Ok(left.map_or(Size::TooLarge, |_| Size::Good))
    }

    fn entry(&self, index: usize) -> Result<&Entry, HpackError> {
        let entry = match index.checked_sub(statics::COUNT + 1) {
            Some(place) => self.table.get(place),
            None => statics::get(index),
        };
        entry.ok_or(HpackError::Index)
    }

    fn name(
        &self,
        cursor: &mut Cursor<'_>,
        first: u8,
        prefix: u32,
        text: &mut BytesMut,
    ) -> Result<(Name, usize), HpackError> {
        match cursor.number(first, prefix)? {
            0 => {
                let (bytes, is_coded) = raw_string(cursor)?;
                if !is_coded {
                    return Ok((Name::new(bytes), bytes.len()));
                }
                let start = text.len();
                huffman::decode(bytes, text)?;
                let name = text.get(start..).unwrap_or_default();
                let found = (Name::new(name), name.len());
                text.truncate(start);
                Ok(found)
            }
            index => {
                let entry = self.entry(index)?;
                Ok((entry.name.clone(), entry.name_length))
            }
        }
    }

    /// An entry larger than the table leaves the table empty (RFC 7541 4.4).
    fn insert(&mut self, entry: Entry) {
        self.shrink_to(self.size_max.saturating_sub(entry.size));
        if entry.size <= self.size_max {
            self.size += entry.size;
            self.table.push_front(entry);
        }
    }

    fn resize(&mut self, size: usize) -> Result<(), HpackError> {
        if size > TABLE_BYTES {
            return Err(HpackError::TableSize);
        }
        self.size_max = size;
        self.shrink_to(size);
        Ok(())
    }

    fn shrink_to(&mut self, most: usize) {
        while self.size > most
            && let Some(oldest) = self.table.pop_back()
        {
            self.size -= oldest.size;
        }
    }
}

/// Text as it is in the block, and whether it is in Huffman's code (RFC 7541 5.2).
fn raw_string<'a>(cursor: &mut Cursor<'a>) -> Result<(&'a [u8], bool), HpackError> {
    let first = cursor.byte()?;
    let length = cursor.number(first, 7)?;
    Ok((cursor.bytes(length)?, first & 0x80 != 0))
}

fn string(cursor: &mut Cursor<'_>, text: &mut BytesMut) -> Result<Bytes, HpackError> {
    let (bytes, is_coded) = raw_string(cursor)?;
    if is_coded {
        huffman::decode(bytes, text)?;
    } else if text.capacity() == 0 {
        return Ok(Bytes::copy_from_slice(bytes));
    } else {
        text.extend_from_slice(bytes);
    }
    Ok(text.split().freeze())
}
