//! A snapshot is used whole, unchanged and where it fits, or not at all.

use super::{SnapshotRefusal, SnapshotTags, is_sealed, prepare, seal, verify};
use crate::vmm::{Accelerator, HypervisorFacts, HypervisorKind};
use std::path::{Path, PathBuf};

struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let case = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::write(case.disk(), b"disk").unwrap();
        case
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("snapshot")
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("scratch.img")
    }

    fn sealed() -> Self {
        let case = Self::new();
        let new = prepare(&case.path()).unwrap();
        std::fs::write(new.join("state"), vec![7; 700_000]).unwrap();
        std::fs::write(new.join("memory"), b"memory").unwrap();
        seal(&case.path(), &case.disk(), &tags()).unwrap();
        case
    }

    fn verify(&self) -> Result<(), SnapshotRefusal> {
        verify(&self.path(), &self.disk(), &tags())
    }
}

fn tags() -> SnapshotTags {
    SnapshotTags {
        hypervisor: HypervisorFacts {
            kind: HypervisorKind::Qemu,
            version: "7.2.22".into(),
            accelerator: Accelerator::Emulation,
        },
        kernel: "k1".into(),
        cpu: "max".into(),
        config: "c1".into(),
    }
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_sealed_snapshot_is_accepted_as_often_as_one_looks() {
    let case = Case::sealed();
    assert!(is_sealed(&case.path()));
    case.verify().unwrap();
    case.verify().unwrap();
}

#[test]
fn a_half_written_snapshot_is_none() {
    let case = Case::new();
    let new = prepare(&case.path()).unwrap();
    std::fs::write(new.join("state"), b"half").unwrap();
    assert!(!is_sealed(&case.path()));
    assert!(matches!(case.verify(), Err(SnapshotRefusal::Missing)));
    // Even where the rename came without the manifest.
    std::fs::rename(new, case.path()).unwrap();
    assert!(!is_sealed(&case.path()));
    assert!(matches!(case.verify(), Err(SnapshotRefusal::Incomplete(_))));
    // And the next one begins anew.
    assert_eq!(
        std::fs::read_dir(prepare(&case.path()).unwrap())
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_changed_bit_is_found() {
    let case = Case::sealed();
    flip(&case.path().join("state"));
    assert!(matches!(case.verify(), Err(SnapshotRefusal::Damaged(name)) if name == "state"));
}

#[test]
fn a_shortened_or_missing_file_is_found() {
    let case = Case::sealed();
    std::fs::write(case.path().join("memory"), b"").unwrap();
    assert!(matches!(case.verify(), Err(SnapshotRefusal::Damaged(_))));
    std::fs::remove_file(case.path().join("memory")).unwrap();
    assert!(matches!(case.verify(), Err(SnapshotRefusal::Incomplete(_))));
}

#[test]
fn a_disk_that_went_on_refuses_the_snapshot() {
    let case = Case::sealed();
    std::fs::write(case.disk(), b"later").unwrap();
    assert!(matches!(case.verify(), Err(SnapshotRefusal::DiskChanged)));
}

#[test]
fn every_tag_has_to_fit() {
    let case = Case::sealed();
    type Change = fn(&mut SnapshotTags);
    let changes: [(&str, Change); 4] = [
        ("hypervisor", |tags| tags.hypervisor.version = "8.0".into()),
        ("hypervisor", |tags| {
            tags.hypervisor.accelerator = Accelerator::Kvm;
        }),
        ("guest kernel", |tags| tags.kernel = "k2".into()),
        ("processor", |tags| tags.cpu = "other".into()),
    ];
    for (expected, change) in changes {
        let mut now = tags();
        change(&mut now);
        match verify(&case.path(), &case.disk(), &now) {
            Err(SnapshotRefusal::Differs { what, .. }) => assert_eq!(what, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    let mut now = tags();
    now.config = "c2".into();
    let refused = verify(&case.path(), &case.disk(), &now).unwrap_err();
    assert!(matches!(refused, SnapshotRefusal::OtherVersion));
    assert!(!refused.to_string().contains("c2"), "{refused}");
}

#[test]
fn a_manifest_that_points_elsewhere_is_refused() {
    let case = Case::sealed();
    let path = case.path().join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"state\"", "\"../scratch.img\"")).unwrap();
    assert!(matches!(case.verify(), Err(SnapshotRefusal::Incomplete(_))));
    std::fs::write(&path, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    assert!(matches!(
        case.verify(),
        Err(SnapshotRefusal::Differs { what: "format", .. })
    ));
}
