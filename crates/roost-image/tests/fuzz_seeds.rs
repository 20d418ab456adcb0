//! The seeds of the fuzz targets, run as they are: none panics, none escapes.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::path::{Path, PathBuf};

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus-seeds")
        .join(target);
    let paths = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    paths
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

#[test]
fn manifests_and_configs_are_read_or_refused() {
    let accepted: Vec<String> = seeds("manifest")
        .iter()
        .filter(|(_, bytes)| roost_image::parse_manifest(bytes).is_ok())
        .map(|(path, _)| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    for name in ["image", "index", "docker"] {
        assert!(
            accepted.iter().any(|accepted| accepted == name),
            "{name}: {accepted:?}"
        );
    }
    assert_eq!(accepted.len(), 3, "{accepted:?}");
    for (path, bytes) in seeds("image_config") {
        let is_good = roost_image::manifest::parse_image_config(&bytes).is_ok();
        assert_eq!(
            is_good,
            !path.ends_with("bad-digest.json"),
            "{}",
            path.display()
        );
    }
}

#[test]
fn no_layer_writes_beside_its_folder() {
    for (_, bytes) in seeds("layer") {
        let dir = tempfile::tempdir().unwrap();
        roost_image::fuzzing::unpack(&bytes, dir.path());
    }
}

#[test]
fn no_upload_writes_beside_its_folder_and_a_refused_one_leaves_nothing() {
    let mut taken = Vec::new();
    for (path, bytes) in seeds("build_upload") {
        let dir = tempfile::tempdir().unwrap();
        roost_image::fuzzing::receive(&bytes, dir.path());
        if dir.path().join("folder").exists() {
            taken.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    taken.sort();
    assert_eq!(taken, ["good.tar", "good.tar.gz", "long-name.tar"]);
}

#[test]
fn requests_to_the_registry_are_read_or_refused() {
    for (_, bytes) in seeds("registry_request") {
        roost_image::fuzzing::registry_request(std::str::from_utf8(&bytes).unwrap());
    }
}
