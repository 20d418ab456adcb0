//! As much of ELF (64 bit, little endian) as a kernel, its modules and its
//! first process need to be looked at. Every offset is checked.

/// A program that is a file of its own.
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const EM_X86_64: u16 = 62;
/// Xen's note that tells a loader the 32-bit entry point (PVH).
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// An ELF file for x86-64.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elf<'a> {
    bytes: &'a [u8],
}

impl<'a> Elf<'a> {
    /// The file, if its header is that of a 64-bit program, kernel or module.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        // Class 2: 64 bit. Data 1: little endian.
        let is_elf64 = bytes.get(..6)? == b"\x7fELF\x02\x01";
        (is_elf64 && u16_at(bytes, 18)? == EM_X86_64).then_some(Self { bytes })
    }

    /// Whether a hypervisor can enter this kernel without its boot loader part.
    pub(super) fn has_pvh_entry(self) -> bool {
        self.segments(PT_NOTE)
            .any(|(notes, align)| has_note(notes, align, b"Xen\0", XEN_ELFNOTE_PHYS32_ENTRY))
    }

    /// Whether this program needs a dynamic linker.
    pub(super) fn is_dynamic(self) -> bool {
        self.segments(PT_INTERP).next().is_some()
    }

    /// The content of the first section of a name.
    pub(super) fn section(self, name: &str) -> Option<&'a [u8]> {
        let names = self.section_content(usize::from(u16_at(self.bytes, 62)?))?;
        let n_sections = usize::from(u16_at(self.bytes, 60)?);
        (0..n_sections)
            .filter(|index| {
                let offset = self.section_header(*index).and_then(|h| u32_at(h, 0));
                let of_section = offset.and_then(|offset| names.get(to_usize(offset.into())?..));
                of_section.is_some_and(|bytes| {
                    bytes.strip_prefix(name.as_bytes()).map(<[u8]>::first) == Some(Some(&0))
                })
            })
            .find_map(|index| self.section_content(index))
    }

    /// Content and alignment of each segment of a kind.
    fn segments(self, kind: u32) -> impl Iterator<Item = (&'a [u8], u64)> {
        let table = u64_at(self.bytes, 32).and_then(to_usize);
        let entry_bytes = u16_at(self.bytes, 54).map(usize::from);
        let n_entries = u16_at(self.bytes, 56).map(usize::from).unwrap_or_default();
        (0..n_entries).filter_map(move |index| {
            let start = index.checked_mul(entry_bytes?)?.checked_add(table?)?;
            let header = slice(self.bytes, start, 56)?;
            if u32_at(header, 0)? != kind {
                return None;
            }
            let offset = to_usize(u64_at(header, 8)?)?;
            let size = to_usize(u64_at(header, 32)?)?;
            Some((slice(self.bytes, offset, size)?, u64_at(header, 48)?))
        })
    }

    fn section_header(self, index: usize) -> Option<&'a [u8]> {
        let table = to_usize(u64_at(self.bytes, 40)?)?;
        let entry_bytes = usize::from(u16_at(self.bytes, 58)?);
        let start = index.checked_mul(entry_bytes)?.checked_add(table)?;
        slice(self.bytes, start, 64)
    }

    fn section_content(self, index: usize) -> Option<&'a [u8]> {
        let header = self.section_header(index)?;
        let offset = to_usize(u64_at(header, 24)?)?;
        slice(self.bytes, offset, to_usize(u64_at(header, 32)?)?)
    }
}

fn has_note(mut notes: &[u8], segment_align: u64, name: &[u8], kind: u32) -> bool {
    let align = if segment_align == 8 { 8 } else { 4 };
    let mut next = || {
        let name_bytes = to_usize(u32_at(notes, 0)?.into())?;
        let content_bytes = to_usize(u32_at(notes, 4)?.into())?;
        let note_kind = u32_at(notes, 8)?;
        let note_name = slice(notes, 12, name_bytes)?;
        let content_start = name_bytes
            .checked_add(12)?
            .checked_next_multiple_of(align)?;
        let end = content_start.checked_add(content_bytes)?;
        let next_start = end.checked_next_multiple_of(align)?;
        notes = notes.get(next_start..).unwrap_or_default();
        Some((note_name, note_kind))
    };
    while let Some(note) = next() {
        if note == (name, kind) {
            return true;
        }
    }
    false
}

/// `len` bytes from `start` on, if all are there.
pub(super) fn slice(bytes: &[u8], start: usize, len: usize) -> Option<&[u8]> {
    bytes.get(start..start.checked_add(len)?)
}

pub(super) fn u16_at(bytes: &[u8], start: usize) -> Option<u16> {
    Some(u16::from_le_bytes(slice(bytes, start, 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], start: usize) -> Option<u32> {
    Some(u32::from_le_bytes(slice(bytes, start, 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], start: usize) -> Option<u64> {
    Some(u64::from_le_bytes(slice(bytes, start, 8)?.try_into().ok()?))
}

fn to_usize(value: u64) -> Option<usize> {
    usize::try_from(value).ok()
}
