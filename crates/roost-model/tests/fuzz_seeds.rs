//! The seeds of the fuzz targets, run as they are: none panics.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use roost_model::image_ref::ImageRef;
use std::path::Path;

fn seeds(target: &str) -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus-seeds")
        .join(target);
    let paths = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    paths
        .map(|path| (name(&path), std::fs::read_to_string(path).unwrap()))
        .collect()
}

#[test]
fn app_configs_are_read_or_refused() {
    for (name, text) in seeds("app_config") {
        let result = roost_model::app_config::parse(&text, &name);
        let is_good = ["service.toml", "fly.toml"].contains(&name.as_str());
        assert_eq!(result.is_ok(), is_good, "{name}: {:?}", result.err());
    }
}

#[test]
fn accepted_image_references_read_back_as_themselves() {
    for (name, text) in seeds("image_ref") {
        let result = ImageRef::parse(&text);
        let is_good = ["bare", "full", "port"].contains(&name.as_str());
        assert_eq!(result.is_ok(), is_good, "{name}");
        if let Ok(reference) = result {
            assert_eq!(ImageRef::parse(&reference.to_string()), Ok(reference));
        }
    }
}
