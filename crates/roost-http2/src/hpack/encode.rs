//! Fields to blocks.
//!
//! What the static table has is an index. Of the rest, a field that comes a second time is put
//! into the dynamic table and is an index from then on; what comes once, as ids and times do, is
//! written as it is and changes nothing. Nothing is Huffman-coded: it would cost more than it
//! saves between programs that are near each other or repeat what they say.

use super::statics::{self, Found};
use super::{FIELD_COST, TABLE_BYTES, integer};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::collections::VecDeque;

/// A longer field is not remembered.
const FIELD_BYTES_MAX: usize = 512;
/// Runs of fields that are remembered as they were written.
const RUNS: usize = 4;
/// Buckets of fields that can be found in the table, and of those that came once.
const BUCKETS: usize = 32;
/// Fields of a bucket: more than a connection has in one of its buckets, nearly always. One that
/// is pushed out is put into the table again when it comes.
const WAYS: usize = 4;

#[derive(Debug)]
struct Entry {
    /// Name and value.
    text: Box<[u8]>,
    name_length: usize,
}

impl Entry {
    fn size(&self) -> usize {
        self.text.len() + FIELD_COST
    }
}

/// What one end of a connection has told the other of fields.
#[derive(Debug)]
pub struct Encoder {
    /// The newest first.
    table: VecDeque<Entry>,
    pub(super) size: usize,
    size_max: usize,
    /// The smallest size since the last block, if the size has changed.
    smallest: Option<usize>,
    /// How many have been put into the table.
    n_added: u32,
    /// By hash, the numbers of fields in the table, each behind its hash; the newest first.
    places: [[(u32, u32); WAYS]; BUCKETS],
    /// By hash, the hashes of what came last without being in the table, the newest first.
    seen: [[u32; WAYS]; BUCKETS],
    /// Runs that were indexes only, the newest at the end; none that is older than a change of
    /// the table.
    runs: VecDeque<Run>,
}

/// Fields that came together, as indexes.
#[derive(Debug)]
struct Run {
    text: Box<[u8]>,
    block: Box<[u8]>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            size_max: TABLE_BYTES,
            smallest: None,
            n_added: 0,
            places: [[(0, 0); WAYS]; BUCKETS],
            seen: [[0; WAYS]; BUCKETS],
            runs: VecDeque::new(),
        }
    }

    /// The other end's setting of the size of its table (RFC 7541 4.2).
    pub fn set_table_size(&mut self, size: u32) {
        let size = usize::try_from(size).map_or(TABLE_BYTES, |size| size.min(TABLE_BYTES));
        if size == self.size_max {
            return;
        }
        self.size_max = size;
        self.smallest = Some(self.smallest.map_or(size, |smallest| smallest.min(size)));
        self.shrink_to(size);
    }

    /// Begins a block behind what the buffer has already.
    pub fn block<'a>(&'a mut self, into: &'a mut Vec<u8>) -> Block<'a> {
        if let Some(smallest) = self.smallest.take() {
            if smallest < self.size_max {
                integer::write(smallest, 5, 0x20, into);
            }
            integer::write(self.size_max, 5, 0x20, into);
        }
        Block {
            encoder: self,
            into,
            has_literals: false,
        }
    }

    fn shrink_to(&mut self, most: usize) {
        while self.size > most
            && let Some(oldest) = self.table.pop_back()
        {
            self.size -= oldest.size();
            self.runs.clear();
        }
    }

    /// The index of a field that is in the table.
    fn find(&self, hash: u32, name: &str, value: &[u8]) -> Option<usize> {
        let mut bucket = self.places.get(place(hash))?.iter();
        let (_, number) = bucket.find(|(known, _)| *known == hash)?;
        // The newest has the number before the next.
        let at = usize::try_from(self.n_added.wrapping_sub(*number).wrapping_sub(1)).ok()?;
        let entry = self.table.get(at)?;
        let (one, other) = entry.text.split_at_checked(entry.name_length)?;
        (one == name.as_bytes() && other == value).then_some(statics::COUNT + 1 + at)
    }

    /// Whether a field came before, by its hash; it has now.
    fn came_before(&mut self, hash: u32) -> bool {
        let Some(bucket) = self.seen.get_mut(place(hash)) else {
            return false;
        };
        let came_before = bucket.contains(&hash);
        put_first(bucket, hash, |seen| *seen == hash);
        came_before
    }

    fn insert(&mut self, hash: u32, name: &str, value: &[u8]) {
        let entry = Entry {
            text: [name.as_bytes(), value].concat().into(),
            name_length: name.len(),
        };
        self.shrink_to(self.size_max.saturating_sub(entry.size()));
        if entry.size() > self.size_max {
            return;
        }
        self.runs.clear();
        if let Some(bucket) = self.places.get_mut(place(hash)) {
            put_first(bucket, (hash, self.n_added), |(known, _)| *known == hash);
        }
        self.n_added = self.n_added.wrapping_add(1);
        self.size += entry.size();
        self.table.push_front(entry);
    }
}

/// A block that is being written.
#[derive(Debug)]
pub struct Block<'a> {
    encoder: &'a mut Encoder,
    into: &'a mut Vec<u8>,
    /// Whether a field since the last look was more than an index.
    has_literals: bool,
}

impl Block<'_> {
    /// Adds a field; those of HTTP/2's own come first.
    pub fn field(&mut self, name: &str, value: &[u8]) {
        let found = statics::find(name, value);
        if let Found::Field(index) = found {
            return integer::write(index, 7, 0x80, self.into);
        }
        if is_secret(name) {
            return self.literal(found, 4, 0x10, name, value);
        }
        if name.len() + value.len() > FIELD_BYTES_MAX {
            return self.literal(found, 4, 0x00, name, value);
        }
        let hash = hash(name.as_bytes(), value);
        if let Some(index) = self.encoder.find(hash, name, value) {
            return integer::write(index, 7, 0x80, self.into);
        }
        if self.encoder.came_before(hash) {
            self.encoder.insert(hash, name, value);
            return self.literal(found, 6, 0x40, name, value);
        }
        self.literal(found, 4, 0x00, name, value);
    }

    /// Adds a field that will not come again with this value, and is not to be kept from anybody.
    pub fn once(&mut self, name: &str, value: &[u8]) {
        let found = statics::find(name, value);
        self.literal(found, 4, 0x00, name, value);
    }

    /// Adds fields that come together again and again. The text stands for them: with the same
    /// text the fields are the same.
    pub fn run(&mut self, text: &[u8], fields: impl FnOnce(&mut Self)) {
        let mut known = self.encoder.runs.iter();
        if let Some(run) = known.find(|run| *run.text == *text) {
            return self.into.extend_from_slice(&run.block);
        }
        let from = self.into.len();
        self.has_literals = false;
        fields(self);
        if !self.has_literals
            && let Some(block) = self.into.get(from..)
        {
            let runs = &mut self.encoder.runs;
            if runs.len() >= RUNS {
                runs.pop_front();
            }
            runs.push_back(Run {
                text: text.into(),
                block: block.into(),
            });
        }
    }

    /// Adds a header line.
    pub fn header(&mut self, name: &HeaderName, value: &HeaderValue) {
        if value.is_sensitive() {
            let found = statics::find(name.as_str(), b"");
            return self.literal(found, 4, 0x10, name.as_str(), value.as_bytes());
        }
        self.field(name.as_str(), value.as_bytes());
    }

    /// Adds header lines.
    pub fn headers(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            self.header(name, value);
        }
    }

    fn literal(&mut self, found: Found, prefix: u32, kind: u8, name: &str, value: &[u8]) {
        self.has_literals = true;
        match found {
            Found::Name(index) | Found::Field(index) => {
                integer::write(index, prefix, kind, self.into);
            }
            Found::Nothing => {
                self.into.push(kind);
                string(name.as_bytes(), self.into);
            }
        }
        string(value, self.into);
    }
}

fn string(text: &[u8], into: &mut Vec<u8>) {
    integer::write(text.len(), 7, 0, into);
    into.extend_from_slice(text);
}

/// What nobody may learn by guessing, from the size of a block (RFC 7541 7.1.3).
fn is_secret(name: &str) -> bool {
    matches!(
        name,
        "authorization" | "cookie" | "proxy-authorization" | "set-cookie"
    )
}

/// Puts one before the others: in place of the one that it is, else of the last.
fn put_first<T: Copy>(bucket: &mut [T; WAYS], one: T, is_it: impl Fn(&T) -> bool) {
    let at = bucket.iter().position(is_it).unwrap_or(WAYS - 1);
    bucket.copy_within(..at, 1);
    if let Some(first) = bucket.first_mut() {
        *first = one;
    }
}

fn place(hash: u32) -> usize {
    // The upper bits depend on all bytes.
    (hash >> 24) as usize % BUCKETS
}

/// Not zero, which stands for nothing.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = (name.len() as u64) << 32 | value.len() as u64;
    for text in [name, value] {
        let (words, rest) = text.as_chunks::<8>();
        for word in words {
            hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
        }
        // The last eight bytes, some of them once more: the length says which.
        let last = match text.last_chunk::<8>() {
            Some(last) => u64::from_le_bytes(*last),
            None => rest
                .iter()
                .fold(0, |last, byte| last << 8 | u64::from(*byte)),
        };
        hash = (hash.rotate_left(5) ^ last).wrapping_mul(FACTOR);
    }
    hash ^= hash >> 29;
    (hash.wrapping_mul(FACTOR) >> 32) as u32 | 1
}
