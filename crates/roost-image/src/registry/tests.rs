//! The registry's rules, request by request, without a network.

use super::{RegistryAccess, RegistryAuth, router};
use crate::manifest::{OCI_INDEX, OCI_MANIFEST};
use crate::store::ContentStore;
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use roost_model::digest::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use tower::ServiceExt as _;

struct TwoTokens;

#[async_trait]
impl RegistryAuth for TwoTokens {
    async fn check(&self, secret: &str) -> Option<RegistryAccess> {
        match secret {
            "write" => Some(RegistryAccess::Write),
            "read" => Some(RegistryAccess::Read),
            _ => None,
        }
    }
}

struct Client {
    _dir: tempfile::TempDir,
    router: Router,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn code(&self) -> String {
        self.json()["errors"][0]["code"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

impl Client {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).await.unwrap();
        Self {
            _dir: dir,
            router: router(store, Arc::new(TwoTokens)),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            request = request.header("authorization", "Bearer write");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Body::empty()).await
    }

    async fn push_blob(&self, name: &str, content: &'static str) -> Digest {
        let digest = digest(content.as_bytes());
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let answer = self.send(Method::POST, &path, &[], content).await;
        assert_eq!(answer.status, StatusCode::CREATED);
        digest
    }

    async fn push_manifest(&self, path: &str, manifest: &Value) -> Answer {
        let kind = manifest["mediaType"].as_str().unwrap().to_owned();
        let headers = [("content-type", kind.as_str())];
        self.send(Method::PUT, path, &headers, manifest.to_string())
            .await
    }
}

fn digest(content: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(content).into())
}

fn descriptor(kind: &str, content: &str) -> Value {
    json!({ "mediaType": kind, "digest": digest(content.as_bytes()), "size": content.len() })
}

fn image(config: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [],
    })
}

#[tokio::test]
async fn every_path_needs_a_token_and_a_read_token_cannot_push() {
    let client = Client::new().await;
    for path in [
        "/v2/",
        "/v2",
        "/v2/_catalog",
        "/v2/a/tags/list",
        "/v2/nonsense",
    ] {
        let answer = client
            .send(Method::GET, path, &[("authorization", "Bearer x")], "")
            .await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"roost\"");
        assert_eq!(answer.code(), "UNAUTHORIZED");
    }
    let basic = base64::engine::general_purpose::STANDARD.encode("anyone:read");
    let basic = format!("Basic {basic}");
    let headers = [("authorization", basic.as_str())];
    let base = client.send(Method::GET, "/v2/", &headers, "").await;
    assert_eq!(base.status, StatusCode::OK);
    assert_eq!(
        base.header("docker-distribution-api-version"),
        "registry/2.0"
    );
    let push = client
        .send(Method::POST, "/v2/a/blobs/uploads/", &headers, "")
        .await;
    assert_eq!(
        (push.status, push.code().as_str()),
        (StatusCode::FORBIDDEN, "DENIED")
    );
}

#[tokio::test]
async fn a_blob_is_pushed_whole_and_read_in_parts() {
    let client = Client::new().await;
    let digest = client.push_blob("team/app", "hello world").await;
    let path = format!("/v2/team/app/blobs/{digest}");
    let head = client.send(Method::HEAD, &path, &[], "").await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (StatusCode::OK, "11")
    );
    assert_eq!(head.header("docker-content-digest"), digest.as_str());
    let part = client
        .send(Method::GET, &path, &[("range", "bytes=6-")], "")
        .await;
    assert_eq!(
        (part.status, &part.body[..]),
        (StatusCode::PARTIAL_CONTENT, &b"world"[..])
    );
    assert_eq!(part.header("content-range"), "bytes 6-10/11");
    let beyond = client
        .send(Method::GET, &path, &[("range", "bytes=11-")], "")
        .await;
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let elsewhere = client.get(&format!("/v2/other/blobs/{digest}")).await;
    assert_eq!(
        (elsewhere.status, elsewhere.code().as_str()),
        (StatusCode::NOT_FOUND, "BLOB_UNKNOWN")
    );
}

#[tokio::test]
async fn chunks_must_follow_each_other_and_the_digest_must_match() {
    let client = Client::new().await;
    let begun = client
        .send(Method::POST, "/v2/a/blobs/uploads/", &[], "")
        .await;
    assert_eq!(begun.status, StatusCode::ACCEPTED);
    let location = begun.header("location").to_owned();
    let patch = |range: &'static str, body: &'static str| {
        let (client, location) = (&client, &location);
        async move {
            client
                .send(Method::PATCH, location, &[("content-range", range)], body)
                .await
        }
    };
    let first = patch("0-4", "hello").await;
    assert_eq!(
        (first.status, first.header("range")),
        (StatusCode::ACCEPTED, "0-4")
    );
    let gap = patch("6-10", "world").await;
    assert_eq!(
        (gap.status, gap.header("range")),
        (StatusCode::RANGE_NOT_SATISFIABLE, "0-4")
    );
    let again = patch("0-4", "hello").await;
    assert_eq!(
        again.status,
        StatusCode::RANGE_NOT_SATISFIABLE,
        "a repeated chunk is no next one"
    );
    let status = client.get(&location).await;
    assert_eq!(
        (status.status, status.header("range")),
        (StatusCode::NO_CONTENT, "0-4")
    );
    assert_eq!(patch("5-5", " ").await.status, StatusCode::ACCEPTED);
    let whole = digest(b"hello world");
    let other_repository = location.replace("/v2/a/", "/v2/b/");
    let stolen = client
        .send(
            Method::PUT,
            &format!("{other_repository}?digest={whole}"),
            &[],
            "",
        )
        .await;
    assert_eq!(stolen.code(), "BLOB_UPLOAD_UNKNOWN");
    let path = format!("{location}?digest={whole}");
    let end = client
        .send(Method::PUT, &path, &[("content-range", "6-10")], "world")
        .await;
    assert_eq!(end.status, StatusCode::CREATED);
    assert_eq!(client.get(end.header("location")).await.body, "hello world");
    assert_eq!(
        client.get(&location).await.code(),
        "BLOB_UPLOAD_UNKNOWN",
        "it has ended"
    );
}

#[tokio::test]
async fn a_wrong_digest_and_a_cancel_end_an_upload() {
    let client = Client::new().await;
    let begun = client
        .send(Method::POST, "/v2/a/blobs/uploads/", &[], "")
        .await;
    let path = format!(
        "{}?digest={}",
        begun.header("location"),
        digest(b"hello world")
    );
    let wrong = client.send(Method::PUT, &path, &[], "jello world").await;
    assert_eq!(
        (wrong.status, wrong.code().as_str()),
        (StatusCode::BAD_REQUEST, "DIGEST_INVALID")
    );
    let begun = client
        .send(Method::POST, "/v2/a/blobs/uploads/", &[], "")
        .await;
    let location = begun.header("location");
    let cancelled = client.send(Method::DELETE, location, &[], "").await;
    assert_eq!(cancelled.status, StatusCode::NO_CONTENT);
    assert_eq!(client.get(location).await.code(), "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_gone_with_its_file() {
    let client = Client::new().await;
    let begun = client
        .send(Method::POST, "/v2/a/blobs/uploads/", &[], "")
        .await;
    let location = begun.header("location").to_owned();
    let chunks = [
        Ok(Bytes::from("half")),
        Err(std::io::Error::other("cable cut")),
    ];
    let body = Body::from_stream(futures_util::stream::iter(chunks));
    let broken = client.send(Method::PATCH, &location, &[], body).await;
    assert_eq!(broken.code(), "BLOB_UPLOAD_INVALID");
    assert_eq!(client.get(&location).await.code(), "BLOB_UPLOAD_UNKNOWN");
    let partial = client._dir.path().join("partial");
    assert_eq!(std::fs::read_dir(partial).unwrap().count(), 0);
}

#[tokio::test]
async fn a_blob_is_mounted_from_a_repository_that_has_it() {
    let client = Client::new().await;
    let digest = client.push_blob("a", "shared").await;
    let path = format!("/v2/b/c/blobs/uploads/?mount={digest}&from=a");
    let mounted = client.send(Method::POST, &path, &[], "").await;
    assert_eq!(mounted.status, StatusCode::CREATED);
    assert_eq!(client.get(mounted.header("location")).await.body, "shared");
    let path = format!("/v2/b/blobs/uploads/?mount={digest}&from=nobody");
    let upload = client.send(Method::POST, &path, &[], "").await;
    assert_eq!(
        upload.status,
        StatusCode::ACCEPTED,
        "an ordinary upload begins"
    );
}

#[tokio::test]
async fn a_manifest_needs_its_blobs_and_its_own_digest() {
    let client = Client::new().await;
    let manifest = image("{}");
    let early = client.push_manifest("/v2/a/manifests/v1", &manifest).await;
    assert_eq!(
        (early.status, early.code().as_str()),
        (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN")
    );
    client.push_blob("a", "{}").await;
    let wrong = format!("/v2/a/manifests/{}", digest(b"other"));
    assert_eq!(
        client.push_manifest(&wrong, &manifest).await.code(),
        "DIGEST_INVALID"
    );
    let pushed = client.push_manifest("/v2/a/manifests/v1", &manifest).await;
    assert_eq!(pushed.status, StatusCode::CREATED);
    let by_tag = client.get("/v2/a/manifests/v1").await;
    assert_eq!(by_tag.body, manifest.to_string());
    assert_eq!(by_tag.header("content-type"), OCI_MANIFEST);
    let by_digest = client.get(pushed.header("location")).await;
    assert_eq!(by_digest.body, by_tag.body);
    let headers = [("content-type", OCI_INDEX)];
    let path = "/v2/a/manifests/v2";
    let lying = client
        .send(Method::PUT, path, &headers, manifest.to_string())
        .await;
    assert_eq!(
        (lying.status, lying.code().as_str()),
        (StatusCode::BAD_REQUEST, "MANIFEST_INVALID")
    );
    let garbage = client.send(Method::PUT, path, &headers, "{").await;
    assert_eq!(garbage.code(), "MANIFEST_INVALID");
}

#[tokio::test]
async fn large_bodies_are_refused_by_their_head() {
    let client = Client::new().await;
    let huge = [("content-length", "1073741824")];
    for (method, path) in [
        (Method::PUT, "/v2/a/manifests/v1"),
        (Method::GET, "/v2/"),
        (Method::DELETE, "/v2/a/manifests/v1"),
    ] {
        let never = Body::from_stream(futures_util::stream::pending::<std::io::Result<Bytes>>());
        let answer = client.send(method, path, &huge, never).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{path}");
    }
    let too_large = [("content-length", "99999999999999")];
    let answer = client
        .send(Method::POST, "/v2/a/blobs/uploads/", &too_large, "")
        .await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let long = "x".repeat(5 * 1024 * 1024);
    let unannounced =
        Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(long)]));
    let answer = client
        .send(Method::PUT, "/v2/a/manifests/v1", &[], unannounced)
        .await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let client = Client::new().await;
    assert_eq!(client.get("/v2/a/tags/list").await.code(), "NAME_UNKNOWN");
    for name in ["a", "b/c"] {
        client.push_blob(name, "{}").await;
    }
    for path in [
        "/v2/a/manifests/v3",
        "/v2/a/manifests/v1",
        "/v2/a/manifests/v2",
        "/v2/b/c/manifests/x",
    ] {
        assert_eq!(
            client.push_manifest(path, &image("{}")).await.status,
            StatusCode::CREATED
        );
    }
    let first = client.get("/v2/a/tags/list?n=2").await;
    assert_eq!(first.json(), json!({ "name": "a", "tags": ["v1", "v2"] }));
    assert_eq!(
        first.header("link"),
        "</v2/a/tags/list?n=2&last=v2>; rel=\"next\""
    );
    let second = client.get("/v2/a/tags/list?n=2&last=v2").await;
    assert_eq!(
        (second.json()["tags"].clone(), second.header("link")),
        (json!(["v3"]), "")
    );
    assert_eq!(
        client.get("/v2/a/tags/list?n=0").await.json()["tags"],
        json!([])
    );
    assert_eq!(
        client.get("/v2/a/tags/list?n=x").await.status,
        StatusCode::BAD_REQUEST
    );
    let catalog = client.get("/v2/_catalog?n=1").await;
    assert_eq!(catalog.json(), json!({ "repositories": ["a"] }));
    assert_eq!(
        catalog.header("link"),
        "</v2/_catalog?n=1&last=a>; rel=\"next\""
    );
}

#[tokio::test]
async fn referrers_are_listed_and_filtered() {
    let client = Client::new().await;
    client.push_blob("a", "{}").await;
    let subject = image("{}").to_string();
    client
        .push_manifest("/v2/a/manifests/v1", &image("{}"))
        .await;
    let mut signature = image("{}");
    signature["artifactType"] = json!("application/x-signature");
    signature["subject"] = descriptor(OCI_MANIFEST, &subject);
    signature["annotations"] = json!({ "by": "me" });
    let path = format!(
        "/v2/a/manifests/{}",
        digest(signature.to_string().as_bytes())
    );
    let pushed = client.push_manifest(&path, &signature).await;
    assert_eq!(
        pushed.header("oci-subject"),
        digest(subject.as_bytes()).as_str()
    );
    let path = format!("/v2/a/referrers/{}", digest(subject.as_bytes()));
    let all = client.get(&path).await;
    assert_eq!(all.header("content-type"), OCI_INDEX);
    let found = &all.json()["manifests"][0];
    assert_eq!(found["artifactType"], "application/x-signature");
    assert_eq!(found["annotations"], json!({ "by": "me" }));
    let none = client
        .get(&format!("{path}?artifactType=application%2Fx-other"))
        .await;
    assert_eq!(none.json()["manifests"], json!([]));
    assert_eq!(none.header("oci-filters-applied"), "artifactType");
}

#[tokio::test]
async fn tags_manifests_and_blobs_are_deleted_one_by_one() {
    let client = Client::new().await;
    let blob = client.push_blob("a", "{}").await;
    client
        .push_manifest("/v2/a/manifests/v1", &image("{}"))
        .await;
    let pushed = client
        .push_manifest("/v2/a/manifests/v2", &image("{}"))
        .await;
    let delete = |path: String| {
        let client = &client;
        async move { client.send(Method::DELETE, &path, &[], "").await.status }
    };
    assert_eq!(
        delete("/v2/a/manifests/v1".into()).await,
        StatusCode::ACCEPTED
    );
    assert_eq!(
        delete("/v2/a/manifests/v1".into()).await,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        client.get("/v2/a/manifests/v2").await.status,
        StatusCode::OK
    );
    assert_eq!(
        delete(pushed.header("location").into()).await,
        StatusCode::ACCEPTED
    );
    assert_eq!(
        client.get("/v2/a/manifests/v2").await.code(),
        "MANIFEST_UNKNOWN"
    );
    assert_eq!(
        delete(format!("/v2/a/blobs/{blob}")).await,
        StatusCode::ACCEPTED
    );
    assert_eq!(
        client.get(&format!("/v2/a/blobs/{blob}")).await.code(),
        "BLOB_UNKNOWN"
    );
}
