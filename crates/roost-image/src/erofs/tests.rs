//! Tests of the writer: the kernel mounts what it wrote, and shows the tree that
//! overlayfs shows of the same layers.

mod random;
mod seen;

use super::layers::Layers;
use super::layout::Layout;
use super::tree::{Node, ROOT_IDX, Tree};
use super::{WriteErofsError, merge, write, write_erofs};
use crate::limits::{ROOT_IMAGE_BYTES_MAX, ROOT_IMAGE_INODES_MAX};
use crate::unpack::OPAQUE_XATTR;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, makedev,
};
use seen::{Mounted, Seen, Skipped};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const UUID: [u8; 16] = [7; 16];
const MTIME: i64 = 1_234_567_890;
/// As `unpack` leaves them: what init needs is there, so that both mounts are alike.
const MOUNT_POINTS: [&str; 6] = ["dev", "etc", "proc", "run", "sys", "tmp"];

/// Layers to be filled, lowest first, and the image of them.
struct Bench {
    dir: tempfile::TempDir,
    layers: Vec<PathBuf>,
}

impl Bench {
    fn new(n_layers: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = (0..n_layers)
            .map(|number| dir.path().join(format!("layer{number}")))
            .collect();
        for layer in &layers {
            std::fs::create_dir(layer).unwrap();
        }
        Self { dir, layers }
    }

    fn image_path(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn write(&self) -> Result<(), WriteErofsError> {
        let file = File::create(self.image_path()).unwrap();
        write_erofs(&self.layers, UUID, &file)
    }

    fn image(&self) -> Vec<u8> {
        self.write().unwrap();
        std::fs::read(self.image_path()).unwrap()
    }

    /// Has the kernel and, where it is installed, `fsck.erofs` look at the image.
    fn mount(&self) -> Result<Mounted, Skipped> {
        let fsck = Command::new("fsck.erofs").arg(self.image_path()).output();
        if let Ok(output) = fsck {
            let said =
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success(), "{said}");
        }
        Mounted::erofs(&self.image_path())
    }
}

fn set(path: &Path, mode: u32, (uid, gid): (u32, u32)) {
    rustix::fs::chownat(
        CWD,
        path,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
    if !path.is_symlink() {
        rustix::fs::chmod(path, Mode::from_raw_mode(mode)).unwrap();
    }
    let time = Timespec {
        tv_sec: MTIME,
        tv_nsec: 5,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn node(path: &Path, kind: FileType, device: u64) {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

fn whiteout(path: &Path) {
    node(path, FileType::CharacterDevice, makedev(0, 0));
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn make_dir(path: &Path) {
    std::fs::create_dir(path).unwrap();
}

fn write_file(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::write(path, content).unwrap();
}

/// A lower layer with one of everything.
fn fill_lower(lower: &Path) {
    for name in MOUNT_POINTS {
        make_dir(&lower.join(name));
    }
    write_file(&lower.join("empty"), "");
    write_file(&lower.join("gone"), "hidden by a whiteout");
    write_file(&lower.join("replaced"), "old");
    write_file(&lower.join("block"), vec![1; 4096]);
    write_file(&lower.join("block-and-a-byte"), vec![2; 4097]);
    let large: Vec<u8> = (0..5_u32 << 20)
        .map(|n| (n / 997).to_le_bytes()[0])
        .collect();
    write_file(&lower.join("large"), large);
    File::create(lower.join("sparse"))
        .and_then(|file| file.write_all_at(b"end", 3 << 20))
        .unwrap();
    make_dir(&lower.join("many"));
    for number in 0..2_000 {
        write_file(
            &lower.join(format!("many/entry-{number}")),
            number.to_string(),
        );
    }
    for name in ["#first", "-", "...", "\u{ff}"] {
        write_file(&lower.join("many").join(name), name);
    }
    make_dir(&lower.join("long"));
    for byte in b'a'..=b'z' {
        let name = [byte; 255];
        write_file(&lower.join("long").join(OsStr::from_bytes(&name)), [byte]);
    }
    for name in ["merged", "opaque", "becomes-file"] {
        make_dir(&lower.join(name));
        write_file(&lower.join(name).join("lower"), name);
    }
    write_file(&lower.join("becomes-dir"), "file");
    make_dir(&lower.join("merged/deep"));
    write_file(&lower.join("merged/deep/lower"), "lower");
    std::fs::hard_link(lower.join("large"), lower.join("merged/large-again")).unwrap();
    symlink("/etc/passwd", lower.join("short-link")).unwrap();
    symlink("x/".repeat(2_047), lower.join("long-link")).unwrap();
    write_file(&lower.join("with-attributes"), "attributes");
    xattr(&lower.join("with-attributes"), "user.note", b"a note");
    xattr(&lower.join("with-attributes"), "user.empty", b"");
    xattr(&lower.join("many"), "user.note", &[b'n'; 700]);
    node(&lower.join("pipe"), FileType::Fifo, 0);
    node(&lower.join("socket"), FileType::Socket, 0);
    node(
        &lower.join("null"),
        FileType::CharacterDevice,
        makedev(1, 3),
    );
    node(
        &lower.join("disk"),
        FileType::BlockDevice,
        makedev(259, 70_000),
    );
}

fn fill_upper(upper: &Path) {
    whiteout(&upper.join("gone"));
    whiteout(&upper.join("never-there"));
    write_file(&upper.join("replaced"), "new");
    for name in ["merged", "merged/deep", "opaque", "becomes-dir"] {
        make_dir(&upper.join(name));
        write_file(&upper.join(name).join("upper"), name);
    }
    xattr(&upper.join("opaque"), OPAQUE_XATTR, b"y");
    whiteout(&upper.join("merged/deep/lower"));
    write_file(&upper.join("becomes-file"), "file");
    write_file(&upper.join("set-user-id"), "#!");
    write_file(&upper.join("capable"), "#!");
}

/// Owners, modes and times; security.capability comes last, a new owner takes it away.
fn finish(lower: &Path, upper: &Path) {
    for layer in [lower, upper] {
        let seen = seen::walk(layer);
        for path in seen.keys().rev() {
            set(&layer.join(path), 0o751, (100_000, 70_000));
        }
    }
    set(&upper.join("set-user-id"), 0o4755, (0, 0));
    // VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE; see capabilities(7).
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr(&upper.join("capable"), "security.capability", &capability);
    set(upper, 0o755, (0, 0));
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: layers have owners and devices that only root can make");
    }
    is_root
}

#[test]
fn the_kernel_mounts_the_image_and_shows_what_overlayfs_shows() {
    if !is_root() {
        return;
    }
    let bench = Bench::new(2);
    fill_lower(&bench.layers[0]);
    fill_upper(&bench.layers[1]);
    finish(&bench.layers[0], &bench.layers[1]);
    bench.write().unwrap();
    let mounts = bench
        .mount()
        .and_then(|image| Ok((image, Mounted::overlay(&bench.layers)?)));
    let (image, overlay) = match mounts {
        Ok(mounts) => mounts,
        Err(Skipped(reason)) => return println!("skipped: {reason}"),
    };
    let seen = seen::walk(&image.path());
    seen::assert_same(&seen, &seen::walk_overlay(&overlay.path()));
    // So that the comparison does not hold for nothing.
    let find = |path: &str| seen.get(Path::new(path));
    assert_eq!(seen.len(), 2_064);
    assert!(find("gone").is_none() && find("opaque/lower").is_none());
    assert!(find("merged/deep/lower").is_none() && find("merged/deep/upper").is_some());
    assert_eq!(find("set-user-id").unwrap().mode, 0o104_755);
    assert_eq!(find("large").unwrap().owner, (100_000, 70_000));
    assert_eq!(find("large").unwrap().mtime, (MTIME, 5));
    assert_eq!(find("long-link").unwrap().content.len(), 4_094);
    assert_eq!(find("with-attributes").unwrap().xattrs.len(), 2);
    assert_eq!(find("capable").unwrap().xattrs.len(), 1);
    let links = |path: &str| image.path().join(path).symlink_metadata().unwrap();
    assert_eq!(links("large").ino(), links("merged/large-again").ino());
    assert_eq!(links("large").nlink(), 2);
    assert_eq!(
        links("merged").nlink(),
        3,
        "itself, its name, and one directory in it"
    );
    // A name that is looked up, not listed.
    for path in ["many/entry-1234", "many/#first", "merged/../null", "sparse"] {
        assert!(image.path().join(path).exists(), "{path}");
    }
    assert!(!image.path().join("many/entry-2000").exists());
}

#[test]
fn the_same_layers_give_the_same_bytes_and_holes_take_no_room() {
    let content = |layer: &Path, order: [&str; 3]| {
        for name in order {
            write_file(&layer.join(name), name);
            set(&layer.join(name), 0o644, (0, 0));
        }
        let file = File::create(layer.join("holes")).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"middle", 32 << 20).unwrap();
        for path in ["holes", "."] {
            set(&layer.join(path), 0o755, (0, 0));
        }
    };
    if !is_root() {
        return;
    }
    let (one, other) = (Bench::new(1), Bench::new(1));
    content(&one.layers[0], ["a", "b", "c"]);
    content(&other.layers[0], ["c", "a", "b"]);
    assert!(one.image() == other.image());
    let data = std::fs::metadata(one.image_path()).unwrap();
    assert!(data.len() > 64 << 20 && data.blocks() * 512 < 2 << 20);
}

#[test]
fn a_root_without_mount_points_gets_them_and_keeps_what_it_has() {
    let bench = Bench::new(1);
    let layer = &bench.layers[0];
    symlink("/var/run", layer.join("run")).unwrap();
    bench.write().unwrap();
    let layers = Layers::open(&bench.layers).unwrap();
    let tree = merge::merge(&layers).unwrap();
    let dirents = tree.dirents(ROOT_IDX);
    let names: Vec<(&str, u16)> = dirents
        .iter()
        .map(|dirent| {
            let name = std::str::from_utf8(dirent.name).unwrap();
            (name, tree.nodes()[dirent.node_idx].mode)
        })
        .skip(2)
        .collect();
    let expected = [
        ("dev", 0o040_755),
        ("etc", 0o040_755),
        ("proc", 0o040_755),
        ("run", 0o120_777),
        ("sys", 0o040_755),
        ("tmp", 0o041_777),
    ];
    assert_eq!(names, expected);
    match bench.mount() {
        Ok(image) => assert_eq!(seen::walk(&image.path()).len(), 6),
        Err(Skipped(reason)) => println!("skipped: {reason}"),
    }
}

#[test]
fn an_image_without_layers_has_a_root_with_mount_points() {
    let bench = Bench::new(0);
    bench.write().unwrap();
    match bench.mount() {
        Ok(image) => {
            let seen: BTreeMap<PathBuf, Seen> = seen::walk(&image.path());
            assert!(seen.keys().eq(MOUNT_POINTS.map(Path::new)));
        }
        Err(Skipped(reason)) => println!("skipped: {reason}"),
    }
}

#[test]
fn attributes_larger_than_a_block_are_kept() {
    let bench = Bench::new(1);
    let path = bench.layers[0].join("file");
    write_file(&path, "content");
    // A file system that takes that much is seldom at hand; the tree takes it directly.
    let layers = Layers::open(&bench.layers).unwrap();
    let mut tree = merge::merge(&layers).unwrap();
    let dirents = tree.dirents(ROOT_IDX);
    let file = dirents
        .iter()
        .find(|dirent| dirent.name == b"file")
        .unwrap();
    let file_idx = file.node_idx;
    let large = [
        (b"user.a".to_vec(), vec![b'a'; 9_000]),
        (b"user.b".to_vec(), vec![b'b'; 3_000]),
    ];
    tree.set_xattrs(file_idx, &large).unwrap();
    let layout = Layout::of(&tree).unwrap();
    let target = File::create(bench.image_path()).unwrap();
    write::write(&layers, &tree, &layout, UUID, &target).unwrap();
    match bench.mount() {
        Ok(image) => {
            let seen = seen::walk(&image.path());
            let file = &seen[Path::new("file")];
            assert_eq!(file.content, b"content");
            assert!(file.xattrs.clone().into_iter().eq(large));
        }
        Err(Skipped(reason)) => println!("skipped: {reason}"),
    }
}

#[test]
fn a_layer_that_changes_meanwhile_is_refused_and_its_links_are_not_followed() {
    let bench = Bench::new(1);
    let layer = &bench.layers[0];
    let outside = bench.dir.path().join("outside");
    make_dir(&outside);
    write_file(&outside.join("file"), "content");
    let refused = |change: &dyn Fn()| {
        make_dir(&layer.join("dir"));
        write_file(&layer.join("dir/file"), "content");
        let layers = Layers::open(&bench.layers).unwrap();
        let tree = merge::merge(&layers).unwrap();
        let layout = Layout::of(&tree).unwrap();
        change();
        let target = tempfile::tempfile().unwrap();
        let error = write::write(&layers, &tree, &layout, UUID, &target).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, WriteErofsError::Changed { .. }), "{text}");
        assert!(text.contains("`dir/file`"), "{text}");
        std::fs::remove_dir_all(layer.join("dir"))
            .or_else(|_| std::fs::remove_file(layer.join("dir")))
            .unwrap();
    };
    let file = layer.join("dir/file");
    refused(&|| write_file(&file, "more content"));
    refused(&|| std::fs::remove_file(&file).unwrap());
    refused(&|| {
        std::fs::remove_file(&file).unwrap();
        symlink(outside.join("file"), &file).unwrap();
    });
    refused(&|| {
        std::fs::remove_dir_all(layer.join("dir")).unwrap();
        symlink(&outside, layer.join("dir")).unwrap();
    });
}

#[test]
fn more_files_layers_or_bytes_than_the_limit_are_refused() {
    let mut tree = Tree::new(Node::directory(0o755));
    tree.begin_directory(ROOT_IDX);
    let error = std::iter::repeat_with(|| tree.add_node(ROOT_IDX, b"n", Node::directory(0)))
        .find_map(Result::err)
        .unwrap();
    assert_eq!(
        error.to_string(),
        format!("image has more than {ROOT_IMAGE_INODES_MAX} files and directories")
    );
    let bench = Bench::new(1);
    let layers = vec![bench.layers[0].clone(); 128];
    let error = Layers::open(&layers).unwrap_err();
    assert_eq!(error.to_string(), "image has more than 127 layers");
    // Apart they would do.
    for name in ["one", "other"] {
        let file = File::create(bench.layers[0].join(name)).unwrap();
        file.set_len(ROOT_IMAGE_BYTES_MAX - (1 << 20)).unwrap();
    }
    let error = bench.write().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("image has more than {ROOT_IMAGE_BYTES_MAX} bytes")
    );
    assert_eq!(std::fs::metadata(bench.image_path()).unwrap().len(), 0);
}
