//! Tests of unpacking: what images need, and what attackers try.

use super::{LayerSource, UnpackError, unpack_layer};
use roost_model::digest::Digest;
use rustix::fs::{FileType, fstat};
use sha2::Digest as _;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

/// A folder with a place outside the layer that nothing may touch.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        Self { dir }
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    fn unpack_bytes(&self, blob: &[u8], diff_id: Digest) -> Result<super::Unpacked, UnpackError> {
        let path = self.dir.path().join("blob");
        std::fs::write(&path, blob).unwrap();
        let source = LayerSource {
            blob: path,
            blob_bytes: blob.len() as u64,
            diff_id,
        };
        unpack_layer(&source, &self.dir.path().join("tmp"), &self.target())
    }

    fn unpack(&self, tar: &[u8]) -> Result<super::Unpacked, UnpackError> {
        self.unpack_bytes(tar, digest_of(tar))
    }

    /// The error of unpacking, after which nothing is left and nothing outside was touched.
    fn refusal(&self, tar: &[u8]) -> String {
        let error = self.unpack(tar).unwrap_err();
        assert!(!self.target().exists() && !self.dir.path().join("tmp").exists());
        let outside = std::fs::read_dir(self.dir.path().join("outside")).unwrap();
        assert_eq!(outside.count(), 0, "nothing outside was touched");
        roost_model::error::chain(&error)
    }
}

fn digest_of(content: &[u8]) -> Digest {
    Digest::from_sha256(sha2::Sha256::digest(content).into())
}

/// One header with this name, written raw: the library refuses bad names.
fn raw(kind: u8, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(content.len() as u64);
    header.set_device_major(0).unwrap();
    header.set_device_minor(0).unwrap();
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in records {
        let bare = key.len() + value.len() + 3;
        let mut length = bare + 1;
        while length != bare + length.to_string().len() {
            length += 1;
        }
        content.extend_from_slice(format!("{length} {key}=").as_bytes());
        content.extend_from_slice(value);
        content.push(b'\n');
    }
    raw(b'x', "pax", "", &content)
}

#[test]
fn files_links_modes_owners_and_times_come_out_as_they_went_in() {
    let bench = Bench::new();
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o4755);
    header.set_uid(33);
    header.set_gid(44);
    header.set_mtime(1_234_567_890);
    let mut builder = tar::Builder::new(Vec::new());
    let long = format!("a/{}/file", "d".repeat(150));
    builder.append_data(&mut header, &long, &b"hi"[..]).unwrap();
    builder.append_data(&mut header, "/abs", &b"ab"[..]).ok();
    let mut tar = builder.into_inner().unwrap();
    tar.truncate(tar.len() - 1024);
    tar.extend(archive(&[
        raw(b'5', "./bin/", "", b""),
        raw(b'0', "./bin/tool", "", b"tool"),
        raw(b'1', "bin/again", "bin/tool", b""),
        raw(b'2', "bin/out", "/outside", b""),
        raw(b'6', "pipe", "", b""),
        raw(b'3', "null", "", b""),
    ]));
    let unpacked = bench.unpack(&tar).unwrap();
    assert_eq!(unpacked.n_dropped, 1, "the device was left out");
    let root = bench.target();
    let file = std::fs::metadata(root.join(&long)).unwrap();
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o7777),
        (33, 44, 0o4755)
    );
    assert_eq!(file.mtime(), 1_234_567_890);
    assert_eq!(std::fs::read(root.join(&long)).unwrap(), b"hi");
    assert_eq!(std::fs::metadata(root.join("bin/tool")).unwrap().nlink(), 2);
    assert_eq!(
        std::fs::metadata(root.join("bin")).unwrap().mtime(),
        1_000_000_000
    );
    assert_eq!(
        std::fs::read_link(root.join("bin/out")).unwrap(),
        PathBuf::from("/outside")
    );
    assert!(
        std::fs::symlink_metadata(root.join("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert!(!root.join("null").exists());
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    let bench = Bench::new();
    let tar = archive(&[
        raw(b'0', "dir/.wh.gone", "", b""),
        raw(b'0', "opaque/.wh..wh..opq", "", b""),
        raw(b'0', "opaque/new", "", b"n"),
        raw(b'0', ".wh.back", "", b""),
        raw(b'5', "back/", "", b""),
        raw(b'0', ".wh..wh.plnk", "", b""),
    ]);
    bench.unpack(&tar).unwrap();
    let root = bench.target();
    let gone = std::fs::symlink_metadata(root.join("dir/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let opaque = |name: &str| {
        let mut value = [0_u8; 8];
        let n = rustix::fs::lgetxattr(root.join(name), "trusted.overlay.opaque", &mut value);
        n.is_ok_and(|n| &value[..n] == b"y")
    };
    assert!(opaque("opaque") && opaque("back") && !opaque("dir"));
    assert!(!root.join("opaque/.wh..wh..opq").exists());
    let refused = bench_refusal(&[raw(b'0', ".wh...", "", b"")]);
    assert!(refused.contains("hides nothing"), "{refused}");
}

fn bench_refusal(entries: &[Vec<u8>]) -> String {
    Bench::new().refusal(&archive(entries))
}

#[test]
fn paths_that_escape_are_refused() {
    let cases: [(&[Vec<u8>], &str); 7] = [
        (&[raw(b'0', "../outside/x", "", b"x")], "`..`"),
        (&[raw(b'0', "a/../../outside/x", "", b"x")], "`..`"),
        (
            &[
                raw(b'2', "l", "../outside", b""),
                raw(b'0', "l/x", "", b"x"),
            ],
            "no directory",
        ),
        (
            &[
                raw(b'2', "l", "../outside", b""),
                raw(b'0', "l/d/x", "", b"x"),
            ],
            "no directory",
        ),
        (
            &[
                raw(b'2', "l", "../outside", b""),
                raw(b'0', "l/.wh.x", "", b""),
            ],
            "no directory",
        ),
        (&[raw(b'1', "h", "../outside", b"")], "`..`"),
        (
            &[raw(b'2', "l", "..", b""), raw(b'1', "h", "l/blob", b"")],
            "hard link to no file",
        ),
    ];
    for (entries, part) in cases {
        let error = bench_refusal(entries);
        assert!(error.contains(part), "{error} should contain {part}");
    }
}

#[test]
fn a_directory_that_an_earlier_link_replaces_is_not_written_through() {
    let bench = Bench::new();
    let outside = bench.dir.path().join("outside");
    // A directory entry over a symbolic link replaces the link; a file replaces it too.
    let tar = archive(&[
        raw(b'2', "l", outside.to_str().unwrap(), b""),
        raw(b'5', "l", "", b""),
        raw(b'0', "l/x", "", b"inside"),
        raw(b'2', "f", outside.join("f").to_str().unwrap(), b""),
        raw(b'0', "f", "", b"inside"),
    ]);
    bench.unpack(&tar).unwrap();
    assert_eq!(
        std::fs::read(bench.target().join("l/x")).unwrap(),
        b"inside"
    );
    assert_eq!(std::fs::read(bench.target().join("f")).unwrap(), b"inside");
    assert_eq!(std::fs::read_dir(outside).unwrap().count(), 0);
}

#[test]
fn the_padding_of_the_last_entry_may_be_missing() {
    let bench = Bench::new();
    bench.unpack(&raw(b'0', "a", "", b"xyz")[..515]).unwrap();
    assert_eq!(std::fs::read(bench.target().join("a")).unwrap(), b"xyz");
}

#[test]
fn damaged_and_absurd_archives_are_refused() {
    let mut bad_sum = raw(b'0', "a", "", b"x");
    bad_sum[0] = b'b';
    assert!(bench_refusal(&[bad_sum]).contains("checksum"));
    assert!(
        Bench::new()
            .refusal(&raw(b'0', "a", "", b"xyz")[..514])
            .contains("cut off")
    );
    assert!(Bench::new().refusal(&[1; 100]).contains("cut off"));
    assert!(bench_refusal(&[raw(b'S', "a", "", b"")]).contains("sparse"));
    let big = pax(&[("uid", b"65536")]);
    assert!(bench_refusal(&[big, raw(b'0', "a", "", b"")]).contains("65535"));
    let sparse = pax(&[("GNU.sparse.size", b"1")]);
    assert!(bench_refusal(&[sparse, raw(b'0', "a", "", b"")]).contains("sparse"));
    let huge = pax(&[("size", b"18446744073709551615")]);
    assert!(bench_refusal(&[huge, raw(b'0', "a", "", b"")]).contains("cut off"));
    let deep = pax(&[("path", "d/".repeat(300).as_bytes())]);
    assert!(bench_refusal(&[deep, raw(b'5', "a", "", b"")]).contains("deep"));
    let long = pax(&[("path", "d".repeat(5_000).as_bytes())]);
    assert!(bench_refusal(&[long, raw(b'0', "a", "", b"")]).contains("too long"));
    let extended = raw(b'x', "pax", "", &vec![b'1'; 2 << 20]);
    assert!(bench_refusal(&[extended]).contains("extended header"));
    let over = [raw(b'5', "a", "", b""), raw(b'0', "a", "", b"x")];
    assert!(bench_refusal(&over).contains("also a directory"));
}

#[test]
fn only_harmless_attributes_are_kept() {
    let bench = Bench::new();
    let capability =
        b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let attributes = pax(&[
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.security.capability", capability),
    ]);
    let tar = archive(&[attributes, raw(b'0', "ping", "", b"x")]);
    assert_eq!(bench.unpack(&tar).unwrap().n_dropped, 1);
    let path = bench.target().join("ping");
    let mut value = [0_u8; 64];
    let n = rustix::fs::lgetxattr(&path, "security.capability", &mut value).unwrap();
    assert_eq!(&value[..n], capability);
    rustix::fs::lgetxattr(&path, "trusted.overlay.redirect", &mut value).unwrap_err();
    let file = std::fs::File::open(path).unwrap();
    assert_eq!(
        FileType::from_raw_mode(fstat(&file).unwrap().st_mode),
        FileType::RegularFile
    );
}

#[test]
fn gzip_and_zstd_are_read_and_a_bomb_or_a_wrong_diff_id_is_refused() {
    let tar = archive(&[raw(b'0', "a", "", b"hello")]);
    let gzip = |content: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    };
    for blob in [gzip(&tar), zstd::encode_all(&tar[..], 1).unwrap()] {
        let bench = Bench::new();
        bench.unpack_bytes(&blob, digest_of(&tar)).unwrap();
        assert_eq!(std::fs::read(bench.target().join("a")).unwrap(), b"hello");
    }
    let bench = Bench::new();
    let error = bench
        .unpack_bytes(&gzip(&tar), digest_of(b"other"))
        .unwrap_err();
    assert!(matches!(error, UnpackError::DiffId { .. }), "{error}");
    assert!(!bench.target().exists());
    let half = &gzip(&tar)[..60];
    assert!(bench.unpack_bytes(half, digest_of(&tar)).is_err());
    // 300 MiB of zeroes from 300 kB: an archive that ends at once, with a long tail.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeroes = vec![0; 1 << 20];
    for _ in 0..300 {
        encoder.write_all(&zeroes).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let error = bench.unpack_bytes(&bomb, digest_of(&tar)).unwrap_err();
    assert!(
        roost_model::error::chain(&error).contains("bytes come out of it"),
        "{error}"
    );
    assert!(!bench.target().exists());
}

/// Unpacks into a tree with this much room.
fn in_room(tar: &[u8], room: super::tree::Room) -> Result<(), UnpackError> {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = super::tree::Tree::open(dir.path()).unwrap();
    tree.room = room;
    let mut reader = tar;
    while let Some(entry) = super::next_entry(&mut reader)? {
        tree.place(&entry)?;
    }
    tree.finish().map(drop)
}

#[test]
fn directories_that_no_entry_lists_are_counted() {
    let room = |parents| super::tree::Room {
        parents,
        ..super::tree::Room::default()
    };
    let tar = archive(&[raw(b'5', "a/b/c/d", "", b""), raw(b'5', "a/b/e/f", "", b"")]);
    in_room(&tar, room(4)).unwrap();
    let error = in_room(&tar, room(3)).unwrap_err().to_string();
    assert!(
        error.contains("directories that it does not list"),
        "{error}"
    );
}

#[test]
fn paths_that_are_kept_until_the_end_are_bounded_even_when_they_repeat() {
    let room = |path_bytes| super::tree::Room {
        path_bytes,
        ..super::tree::Room::default()
    };
    let tar = archive(&[raw(b'5', "abcd", "", b""), raw(b'5', "abcd", "", b"")]);
    in_room(&tar, room(8)).unwrap();
    let error = in_room(&tar, room(7)).unwrap_err().to_string();
    assert!(error.contains("paths of its directories"), "{error}");
}
