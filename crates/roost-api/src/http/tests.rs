//! The API as a client sees it, over a worker in memory.

mod access;
mod addresses;
mod apps;
mod bad_requests;
mod deletion;
mod full_disk;
mod machines;
mod metadata;
mod operations;
mod placement;
mod platform;
mod repeats;
mod requests;
mod secrets;
mod streams;

pub(crate) use platform::Platform;

use serde_json::{Value, json};
use std::path::Path;

/// The config of a web server with this image.
pub(crate) fn web(image: &str) -> Value {
    json!({"image": image, "services": [{"internal_port": 8080}]})
}

#[test]
fn the_committed_openapi_document_is_the_one_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/roost-v1.json");
    let text = serde_json::to_string_pretty(&super::openapi()).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == text,
        "openapi/roost-v1.json is old: run the test with UPDATE=1"
    );
}
