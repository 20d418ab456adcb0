//! Small files that are built like kernels, modules and programs.

use std::io::Write as _;

pub(super) const RELEASE: &str = "6.12.1-sample";
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;

/// A kernel with what roost looks at: a PVH entry and its banner.
pub(super) fn vmlinux(banner: &str) -> Vec<u8> {
    let mut note = Vec::new();
    // Name of 4 bytes, content of 4, type 18; an entry point.
    for word in [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), 0x0100_0000] {
        note.extend_from_slice(&u32::to_le_bytes(word));
    }
    elf(
        &[(".rodata", banner.as_bytes())],
        &[(PT_NOTE, note.as_slice())],
    )
}

/// The banner of [`RELEASE`].
pub(super) fn banner() -> String {
    format!("\0version\0Linux version {RELEASE} (somebody@somewhere)\0")
}

/// A module that needs others.
pub(super) fn module(name: &str, depends: &str) -> Vec<u8> {
    let info = format!(
        "license=GPL\0depends={depends}\0name={name}\0vermagic={RELEASE} SMP preempt mod_unload \0"
    );
    elf(&[(".modinfo", info.as_bytes())], &[])
}

/// A program without, or with, a dynamic linker.
pub(super) fn program(is_dynamic: bool) -> Vec<u8> {
    let segments: &[(u32, &[u8])] = match is_dynamic {
        true => &[(PT_INTERP, b"/lib64/ld-linux-x86-64.so.2\0")],
        false => &[],
    };
    elf(&[], segments)
}

/// A bzImage around a payload.
pub(super) fn bzimage(payload: &[u8]) -> Vec<u8> {
    const SETUP_SECTORS: u8 = 2;
    const OFFSET: usize = 0x100;
    let start = (usize::from(SETUP_SECTORS) + 1) * 512 + OFFSET;
    let mut file = vec![0; start];
    file[0x1f1] = SETUP_SECTORS;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    let payload_len = u32::try_from(payload.len()).unwrap();
    file[0x248..0x24c].copy_from_slice(&u32::try_from(OFFSET).unwrap().to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&payload_len.to_le_bytes());
    file.extend_from_slice(payload);
    file.extend_from_slice(b"what a boot loader has behind it");
    file
}

/// Compressed as the kernel's build does it: a frame and the size.
pub(super) fn zstd_payload(kernel: &[u8]) -> Vec<u8> {
    let mut payload = zstd::stream::encode_all(kernel, 3).unwrap();
    payload.extend_from_slice(&u32::try_from(kernel.len()).unwrap().to_le_bytes());
    payload
}

/// The same with gzip, whose own last four bytes are the size.
pub(super) fn gzip_payload(kernel: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(kernel).unwrap();
    encoder.finish().unwrap()
}

/// The same with `lz4 -l`, in blocks that hold literals only.
pub(super) fn lz4_payload(kernel: &[u8]) -> Vec<u8> {
    let mut payload = b"\x02\x21\x4c\x18".to_vec();
    for chunk in kernel.chunks(100) {
        let mut block = Vec::new();
        match u8::try_from(chunk.len()).unwrap() {
            len @ 0..15 => block.push(len << 4),
            len => block.extend_from_slice(&[0xf0, len - 15]),
        }
        block.extend_from_slice(chunk);
        payload.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
        payload.extend_from_slice(&block);
    }
    payload.extend_from_slice(&u32::try_from(kernel.len()).unwrap().to_le_bytes());
    payload
}

fn elf(sections: &[(&str, &[u8])], segments: &[(u32, &[u8])]) -> Vec<u8> {
    let n_sections = sections.len() + 1;
    let segments_start = 64;
    let sections_start = segments_start + 56 * segments.len();
    let mut content_start = sections_start + 64 * n_sections;
    let mut headers = vec![0_u8; content_start];
    let mut contents: Vec<u8> = Vec::new();
    headers[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let mut put = |offset: usize, len: usize, value: usize| {
        headers[offset..offset + len].copy_from_slice(&value.to_le_bytes()[..len]);
    };
    put(18, 2, 62);
    put(32, 8, segments_start);
    put(40, 8, sections_start);
    put(54, 2, 56);
    put(56, 2, segments.len());
    put(58, 2, 64);
    put(60, 2, n_sections);
    put(62, 2, n_sections - 1);
    for (index, (kind, content)) in segments.iter().enumerate() {
        let header = segments_start + 56 * index;
        put(header, 4, usize::try_from(*kind).unwrap());
        put(header + 8, 8, content_start);
        put(header + 32, 8, content.len());
        put(header + 48, 8, 4);
        content_start += content.len();
        contents.extend_from_slice(content);
    }
    let mut names: Vec<u8> = Vec::new();
    for (index, (name, content)) in sections.iter().enumerate() {
        let header = sections_start + 64 * index;
        put(header, 4, names.len());
        put(header + 24, 8, content_start);
        put(header + 32, 8, content.len());
        names.extend_from_slice(name.as_bytes());
        names.push(0);
        content_start += content.len();
        contents.extend_from_slice(content);
    }
    let header = sections_start + 64 * sections.len();
    put(header, 4, names.len());
    names.extend_from_slice(b".shstrtab\0");
    put(header + 24, 8, content_start);
    put(header + 32, 8, names.len());
    [headers, contents, names].concat()
}
