//! Tests of reading manifests and configs.

use super::{DOCKER_LIST, Manifest, OCI_MANIFEST, parse_image_config, parse_manifest};
use proptest::prelude::*;

fn descriptor(media_type: &str, size: u64) -> serde_json::Value {
    serde_json::json!({
        "mediaType": media_type, "size": size, "digest": format!("sha256:{}", "a".repeat(64)),
    })
}

fn parse(json: &serde_json::Value) -> Result<Manifest, String> {
    parse_manifest(json.to_string().as_bytes()).map_err(|error| roost_model::error::chain(&error))
}

#[test]
fn both_forms_are_read_with_and_without_a_media_type() {
    let image = serde_json::json!({
        "schemaVersion": 2, "config": descriptor("c", 1),
        "layers": [descriptor("l", 2), descriptor("l", 3)], "annotations": null,
    });
    let image = parse(&image).unwrap();
    assert_eq!(image.media_type(), OCI_MANIFEST);
    assert_eq!(image.children().count(), 3);
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [descriptor("m", 1)],
    });
    let index = parse(&index).unwrap();
    assert_eq!(
        (index.media_type(), index.children().count()),
        (DOCKER_LIST, 1)
    );
}

#[test]
fn what_is_not_a_manifest_is_refused_with_the_reason() {
    let layers: Vec<_> = (0..200).map(|_| descriptor("l", 1)).collect();
    let huge = descriptor("l", u64::MAX);
    let mut short_digest = descriptor("c", 1);
    short_digest["digest"] = "sha256:12".into();
    let cases = [
        (
            serde_json::json!({"schemaVersion": 1, "fsLayers": []}),
            "schema version 1",
        ),
        (serde_json::json!({"schemaVersion": 3}), "schema version 3"),
        (
            serde_json::json!({"schemaVersion": 2, "mediaType": "text/html"}),
            "text/html",
        ),
        (serde_json::json!({"schemaVersion": 2}), "`config`"),
        (
            serde_json::json!({"schemaVersion": 2, "config": short_digest, "layers": []}),
            "64 hex",
        ),
        (
            serde_json::json!({"schemaVersion": 2, "config": descriptor("c", 1), "layers": layers}),
            "200 layers",
        ),
        (
            serde_json::json!({
                "schemaVersion": 2, "config": descriptor("c", 1), "layers": [huge.clone(), huge],
            }),
            "bytes",
        ),
        (
            serde_json::json!({
                "schemaVersion": 2, "config": descriptor("c", 1), "layers": [], "manifests": [],
            }),
            "either",
        ),
        (serde_json::json!([]), "JSON"),
    ];
    for (json, part) in cases {
        let error = parse(&json).unwrap_err();
        assert!(error.contains(part), "{error} should contain {part}");
    }
    assert!(
        parse_manifest(&vec![b' '; 5 << 20])
            .unwrap_err()
            .to_string()
            .contains("5242880")
    );
}

#[test]
fn a_config_with_nulls_and_nothing_is_read() {
    let json = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
        "config":{"Cmd":null,"Env":["A=b"],"ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT"}}"#;
    let parsed = parse_image_config(json).unwrap();
    assert_eq!(parsed.config.env, ["A=b"]);
    assert_eq!(parsed.config.exposed_ports, ["80/tcp"]);
    assert_eq!(parsed.config.stop_signal.as_deref(), Some("SIGQUIT"));
    assert!(parsed.config.cmd.is_empty());
    parse_image_config(br#"{"rootfs":{}}"#).unwrap();
    parse_image_config(br#"{"config":{"Cmd":"a"},"rootfs":{}}"#).unwrap_err();
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(parse_manifest(&bytes));
        drop(parse_image_config(&bytes));
    }
}
