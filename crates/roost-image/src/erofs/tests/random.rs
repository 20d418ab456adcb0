//! Random layers: what comes out is what overlayfs makes of them.

use super::seen::{self, Mounted, Skipped};
use super::{Bench, MOUNT_POINTS, is_root, make_dir, node, set, whiteout, write_file, xattr};
use crate::unpack::OPAQUE_XATTR;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::fs::FileType;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Each makes some files and runs `fsck.erofs`.
const CASES: u32 = 48;

/// One entry of a layer. Few names, so that layers meet each other.
#[derive(Debug, Clone)]
struct Step {
    path: Vec<u8>,
    make: Make,
}

#[derive(Debug, Clone)]
enum Make {
    File { n_bytes: usize },
    HardLink { target: Vec<u8> },
    Directory { is_opaque: bool },
    Symlink { n_bytes: usize },
    Fifo,
    Whiteout,
    Attribute { n_bytes: usize },
}

fn paths() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(b'a'..=b'd', 1..4)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // About one and two blocks, and around the limits of inline content.
    let n_bytes = || {
        prop_oneof![
            0..100_usize,
            1_900..2_200_usize,
            3_900..4_200_usize,
            8_000..9_000_usize
        ]
    };
    let make = prop_oneof![
        4 => n_bytes().prop_map(|n_bytes| Make::File { n_bytes }),
        2 => paths().prop_map(|target| Make::HardLink { target }),
        4 => any::<bool>().prop_map(|is_opaque| Make::Directory { is_opaque }),
        2 => (1..4_000_usize).prop_map(|n_bytes| Make::Symlink { n_bytes }),
        1 => Just(Make::Fifo),
        3 => Just(Make::Whiteout),
        2 => (0..1_000_usize).prop_map(|n_bytes| Make::Attribute { n_bytes }),
    ];
    let step = (paths(), make).prop_map(|(path, make)| Step { path, make });
    proptest::collection::vec(step, 0..25)
}

fn joined(layer: &Path, path: &[u8]) -> std::path::PathBuf {
    let components = path.iter().map(|byte| char::from(*byte).to_string());
    components.fold(layer.to_owned(), |path, name| path.join(name))
}

/// Makes what can be made where it is; what cannot does not matter.
fn apply(layer: &Path, step: &Step) {
    let path = joined(layer, &step.path);
    let (Some(parent), Err(_)) = (path.parent(), path.symlink_metadata()) else {
        if let Make::Attribute { n_bytes } = step.make
            && !path.is_symlink()
            && (path.is_file() || path.is_dir())
        {
            xattr(&path, "user.random", &vec![b'x'; n_bytes]);
        }
        return;
    };
    if std::fs::create_dir_all(parent).is_err() {
        return;
    }
    match &step.make {
        Make::File { n_bytes } => write_file(&path, vec![step.path[0]; *n_bytes]),
        Make::HardLink { target } => {
            let target = joined(layer, target);
            // A second name of a whiteout would be one as well, and is not what it tests.
            if target.is_file() || target.is_symlink() {
                std::fs::hard_link(target, path).unwrap();
            }
        }
        Make::Directory { is_opaque } => {
            make_dir(&path);
            if *is_opaque {
                xattr(&path, OPAQUE_XATTR, b"y");
            }
        }
        Make::Symlink { n_bytes } => symlink("l".repeat(*n_bytes), path).unwrap(),
        Make::Fifo => node(&path, FileType::Fifo, 0),
        Make::Whiteout => whiteout(&path),
        Make::Attribute { .. } => {}
    }
}

fn assert_merges_as_in_overlayfs(layers: &[Vec<Step>], ids: (u32, u32)) -> Result<(), Skipped> {
    let bench = Bench::new(layers.len());
    for (dir, steps) in bench.layers.iter().zip(layers) {
        for step in steps {
            apply(dir, step);
        }
    }
    let highest = &bench.layers[layers.len() - 1];
    for name in MOUNT_POINTS {
        make_dir(&highest.join(name));
    }
    for path in seen::walk(highest).keys() {
        set(&highest.join(path), 0o1640, ids);
    }
    bench.write().unwrap();
    let (image, overlay) = (bench.mount()?, Mounted::overlay(&bench.layers)?);
    let (actual, expected) = (
        seen::walk(&image.path()),
        seen::walk_overlay(&overlay.path()),
    );
    seen::assert_same(&actual, &expected);
    Ok(())
}

#[test]
fn random_layers_merge_as_in_overlayfs() {
    if !is_root() {
        return;
    }
    if let Err(Skipped(reason)) = assert_merges_as_in_overlayfs(&[vec![], vec![]], (0, 0)) {
        return println!("skipped: {reason}");
    }
    let ids = (0..200_000_u32, 0..200_000_u32);
    let inputs = (proptest::collection::vec(steps(), 2..5), ids);
    let merges = |(layers, ids): (Vec<Vec<Step>>, _)| {
        assert_merges_as_in_overlayfs(&layers, ids)
            .map_err(|Skipped(reason)| TestCaseError::fail(reason))
    };
    let mut runner = TestRunner::new(ProptestConfig::with_cases(CASES));
    runner.run(&inputs, merges).unwrap();
}
