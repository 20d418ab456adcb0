//! Tests of pulling from a registry that misbehaves.

use super::{NoProgress, PullProgress};
use crate::images::{Images, ImagesConfig};
use crate::manifest::{OCI_INDEX, OCI_MANIFEST};
use crate::platform::Platform;
use crate::remote::Credentials;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use roost_model::digest::Digest;
use roost_model::image_ref::ImageRef;
use roost_model::size::ByteSize;
use sha2::Digest as _;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

fn digest_of(content: &[u8]) -> Digest {
    Digest::from_sha256(sha2::Sha256::digest(content).into())
}

/// How the registry treats the large layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Fault {
    #[default]
    None,
    /// Each answer ends after a quarter of the blob; ranges are honoured.
    BreaksOff,
    /// Each answer stops half way without ending; ranges are honoured.
    Stalls,
    /// Breaks off once, then ignores the range.
    IgnoresRange,
    /// Sends other bytes.
    Lies,
    /// Never gets further than the first bytes.
    Dies,
}

#[derive(Default)]
struct Registry {
    blobs: HashMap<String, Bytes>,
    manifests: HashMap<String, (String, Bytes)>,
    fault: Mutex<Fault>,
    large: String,
    login: Mutex<Option<&'static str>>,
    address: Mutex<String>,
    redirect_to: Mutex<Option<String>>,
    seen_authorization: Mutex<Vec<String>>,
    n_large: AtomicU64,
    n_range: AtomicU64,
}

async fn serve(State(registry): State<Arc<Registry>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let headers = request.headers();
    let authorization = headers
        .get(header::AUTHORIZATION)
        .map(|value| value.to_str().unwrap().to_owned())
        .unwrap_or_default();
    registry
        .seen_authorization
        .lock()
        .push(authorization.clone());
    if path == "/token" {
        let query = request.uri().query().unwrap_or_default().to_owned();
        assert!(query.contains("scope="), "{query}");
        return axum::Json(serde_json::json!({"token": "secret-token"})).into_response();
    }
    if let Some(challenge) = challenge(&registry, &authorization) {
        return challenge;
    }
    let reference = path.rsplit('/').next().unwrap().to_owned();
    if path.contains("/manifests/") {
        return match registry.manifests.get(&reference) {
            Some((media_type, bytes)) => {
                ([(header::CONTENT_TYPE, media_type.clone())], bytes.clone()).into_response()
            }
            None => StatusCode::NOT_FOUND.into_response(),
        };
    }
    if let Some(host) = registry.redirect_to.lock().clone() {
        return (
            StatusCode::TEMPORARY_REDIRECT,
            [(header::LOCATION, format!("{host}{path}"))],
        )
            .into_response();
    }
    match registry.blobs.get(&reference) {
        Some(blob) if reference == registry.large => large(&registry, blob, headers),
        Some(blob) => blob.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn challenge(registry: &Registry, authorization: &str) -> Option<Response> {
    let (wanted, challenge) = match (*registry.login.lock())? {
        "basic" => (
            "Basic dXNlcjpwYXNz".to_owned(),
            "Basic realm=\"r\"".to_owned(),
        ),
        _ => {
            let address = registry.address.lock().clone();
            let scope = "repository:app:pull";
            let challenge =
                format!("Bearer realm=\"http://{address}/token\",service=\"s\",scope=\"{scope}\"");
            ("Bearer secret-token".to_owned(), challenge)
        }
    };
    (authorization != wanted).then(|| {
        (
            StatusCode::UNAUTHORIZED,
            [(header::WWW_AUTHENTICATE, challenge)],
        )
            .into_response()
    })
}

fn large(registry: &Registry, blob: &Bytes, headers: &HeaderMap) -> Response {
    let fault = *registry.fault.lock();
    let n_before = registry.n_large.fetch_add(1, Ordering::Relaxed);
    let range = headers
        .get(header::RANGE)
        .map(|value| value.to_str().unwrap().to_owned());
    let offset: usize = range.as_deref().map_or(0, |range| {
        registry.n_range.fetch_add(1, Ordering::Relaxed);
        range
            .trim_start_matches("bytes=")
            .trim_end_matches('-')
            .parse()
            .unwrap()
    });
    let offset = if fault == Fault::IgnoresRange {
        0
    } else {
        offset
    };
    let part = match fault {
        Fault::None => blob.slice(offset..),
        Fault::BreaksOff => blob.slice(offset..blob.len().min(offset + blob.len() / 4 + 1)),
        Fault::Stalls => blob.slice(offset..offset + (blob.len() - offset).div_ceil(2)),
        Fault::IgnoresRange if n_before == 0 => blob.slice(..blob.len() / 2),
        Fault::IgnoresRange => blob.clone(),
        Fault::Lies => Bytes::from(vec![7; blob.len()]),
        Fault::Dies => blob.slice(..100),
    };
    let is_short = offset + part.len() < blob.len();
    let start = futures_util::stream::iter([Ok::<_, std::io::Error>(part)]);
    let body = match fault {
        Fault::Stalls if is_short => {
            Body::from_stream(start.chain(futures_util::stream::pending()))
        }
        _ if is_short => {
            // A pause in between, in which the server sends what it has.
            let end = futures_util::stream::once(async {
                tokio::task::yield_now().await;
                Err(std::io::Error::other("broken on purpose"))
            });
            Body::from_stream(start.chain(end))
        }
        _ => Body::from_stream(start),
    };
    if offset > 0 {
        let range = format!("bytes {offset}-{}/{}", blob.len() - 1, blob.len());
        return (
            StatusCode::PARTIAL_CONTENT,
            [(header::CONTENT_RANGE, range)],
            body,
        )
            .into_response();
    }
    body.into_response()
}

/// A registry with one image of two layers, and a store to pull into.
struct Bench {
    registry: Arc<Registry>,
    address: String,
    servers: JoinSet<()>,
    dir: tempfile::TempDir,
}

fn layer(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, name, content).unwrap();
    builder.into_inner().unwrap()
}

/// Manifests and blobs of an image for this CPU.
fn image(registry: &mut Registry, architecture: &str) -> Bytes {
    let content: Vec<u8> = (0..700_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    let layers = [layer("large", &content), layer("small", b"small")];
    let diff_ids = layers.each_ref().map(|layer| digest_of(layer));
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {"Cmd": ["/large"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let descriptor = |media_type: &str, content: &[u8]| {
        let size = content.len();
        serde_json::json!({"mediaType": media_type, "digest": digest_of(content), "size": size})
    };
    let tar = "application/vnd.oci.image.layer.v1.tar";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.each_ref().map(|layer| descriptor(tar, layer)),
    });
    let manifest = Bytes::from(manifest.to_string());
    registry.large = digest_of(&layers[0]).to_string();
    for blob in layers.into_iter().chain([config]) {
        registry
            .blobs
            .insert(digest_of(&blob).to_string(), Bytes::from(blob));
    }
    let entry = (OCI_MANIFEST.to_owned(), manifest.clone());
    registry
        .manifests
        .insert(digest_of(&manifest).to_string(), entry);
    manifest
}

fn put(registry: &mut Registry, tag: &str, media_type: &str, bytes: Bytes) {
    registry
        .manifests
        .insert(tag.to_owned(), (media_type.to_owned(), bytes));
}

async fn listen(servers: &mut JoinSet<()>, registry: &Arc<Registry>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new()
        .fallback(serve)
        .with_state(Arc::clone(registry));
    servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

impl Bench {
    async fn new() -> Self {
        Self::with(|_registry| {}).await
    }

    async fn with(change: impl FnOnce(&mut Registry)) -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let mut registry = Registry::default();
        let manifest = image(&mut registry, "amd64");
        put(&mut registry, "latest", OCI_MANIFEST, manifest);
        change(&mut registry);
        let registry = Arc::new(registry);
        let mut servers = JoinSet::new();
        let address = listen(&mut servers, &registry).await;
        registry.address.lock().clone_from(&address);
        Self {
            registry,
            address,
            servers,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    async fn images(&self) -> Images {
        let mut config = ImagesConfig::new(self.dir.path().to_owned());
        config.platform = Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            variant: None,
        };
        config.stall_timeout = Duration::from_millis(500);
        config.backoff_min = Duration::from_millis(1);
        config.garbage_age_min = Duration::ZERO;
        let credentials = Credentials {
            username: "user".to_owned(),
            password: "pass".to_owned(),
        };
        config.credentials.insert(self.address.clone(), credentials);
        Images::open(config).await.unwrap()
    }

    fn reference(&self, tag: &str) -> ImageRef {
        ImageRef::parse(&format!("{}/app:{tag}", self.address)).unwrap()
    }

    async fn refusal(&self, tag: &str) -> String {
        let images = self.images().await;
        let error = images
            .pull(&self.reference(tag), &NoProgress)
            .await
            .unwrap_err();
        roost_model::error::chain(&error)
    }
}

#[derive(Default)]
struct Counter {
    total: AtomicU64,
    bytes: AtomicU64,
    layers: AtomicU64,
    layers_done: AtomicU64,
}

impl PullProgress for Counter {
    fn started(&self, n_layers: usize, bytes_total: u64) {
        self.layers.store(n_layers as u64, Ordering::Relaxed);
        self.total.store(bytes_total, Ordering::Relaxed);
    }
    fn layer_done(&self, _digest: &Digest) {
        self.layers_done.fetch_add(1, Ordering::Relaxed);
    }
    fn advanced(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

async fn pull_with(fault: Fault) -> (Bench, Counter) {
    let bench = Bench::new().await;
    *bench.registry.fault.lock() = fault;
    let counter = Counter::default();
    let images = bench.images().await;
    let image = images
        .pull(&bench.reference("latest"), &counter)
        .await
        .unwrap();
    let paths = images.rootfs_layers(&image).await.unwrap();
    assert_eq!(
        std::fs::read(paths[0].join("large")).unwrap().len(),
        700_000
    );
    assert_eq!(std::fs::read(paths[1].join("small")).unwrap(), b"small");
    (bench, counter)
}

#[tokio::test]
async fn an_image_is_pulled_unpacked_and_found_again_without_the_registry() {
    let (mut bench, counter) = pull_with(Fault::None).await;
    assert_eq!(counter.bytes.into_inner(), counter.total.into_inner());
    assert_eq!(counter.layers.into_inner(), 2);
    assert_eq!(counter.layers_done.into_inner(), 2);
    let images = bench.images().await;
    let image = images
        .pull(&bench.reference("latest"), &NoProgress)
        .await
        .unwrap();
    assert_eq!(
        bench.registry.n_large.load(Ordering::Relaxed),
        1,
        "layers are kept"
    );
    bench.servers.shutdown().await;
    let pinned = bench.reference("latest").with_digest(image.digest.clone());
    let counter = Counter::default();
    assert_eq!(images.pull(&pinned, &counter).await.unwrap(), image);
    assert_eq!(counter.bytes.into_inner(), counter.total.into_inner());
    assert_eq!(counter.layers_done.into_inner(), 2, "here already");
    assert_eq!(
        images
            .image(&image.digest)
            .await
            .unwrap()
            .unwrap()
            .config
            .cmd,
        ["/large"]
    );
}

#[tokio::test]
async fn a_download_that_breaks_off_or_stalls_is_resumed() {
    for fault in [Fault::BreaksOff, Fault::Stalls, Fault::IgnoresRange] {
        let (bench, counter) = pull_with(fault).await;
        assert!(
            bench.registry.n_range.load(Ordering::Relaxed) >= 1,
            "{fault:?}"
        );
        assert_eq!(
            counter.bytes.into_inner(),
            counter.total.into_inner(),
            "{fault:?}"
        );
    }
}

#[tokio::test]
async fn a_registry_that_lies_or_dies_is_refused_by_name_and_leaves_no_blob() {
    for (fault, part) in [
        (Fault::Lies, "with digest"),
        (Fault::Dies, "stopped sending"),
    ] {
        let bench = Bench::new().await;
        *bench.registry.fault.lock() = fault;
        let error = bench.refusal("latest").await;
        assert!(
            error.contains(part) && error.contains(&bench.registry.large),
            "{error}"
        );
        let large = bench.registry.large.trim_start_matches("sha256:");
        assert!(!bench.dir.path().join("blobs/sha256").join(large).exists());
    }
}

#[tokio::test]
async fn a_pull_after_one_that_died_goes_on_where_it_stopped() {
    let bench = Bench::new().await;
    *bench.registry.fault.lock() = Fault::Dies;
    bench.refusal("latest").await;
    *bench.registry.fault.lock() = Fault::None;
    let n_before = bench.registry.n_range.load(Ordering::Relaxed);
    let images = bench.images().await;
    images
        .pull(&bench.reference("latest"), &NoProgress)
        .await
        .unwrap();
    assert_eq!(bench.registry.n_range.load(Ordering::Relaxed), n_before + 1);
}

#[tokio::test]
async fn pulls_at_the_same_time_download_and_unpack_once() {
    let bench = Bench::new().await;
    let images = bench.images().await;
    let mut pulls = JoinSet::new();
    for _ in 0..6 {
        let (images, reference) = (images.clone(), bench.reference("latest"));
        pulls.spawn(async move {
            let image = images.pull(&reference, &NoProgress).await.unwrap();
            images.rootfs_layers(&image).await.unwrap()
        });
    }
    let paths = pulls.join_all().await;
    assert!(paths.iter().all(|path| path == &paths[0]));
    assert_eq!(bench.registry.n_large.load(Ordering::Relaxed), 1);
    let n_layers = std::fs::read_dir(bench.dir.path().join("layers"))
        .unwrap()
        .count();
    assert_eq!(n_layers, 2);
}

#[tokio::test]
async fn basic_and_bearer_logins_work_and_credentials_stay_with_their_host() {
    for login in ["basic", "bearer"] {
        let bench = Bench::new().await;
        *bench.registry.login.lock() = Some(login);
        let other = Arc::new(Registry {
            blobs: bench.registry.blobs.clone(),
            large: bench.registry.large.clone(),
            ..Registry::default()
        });
        let mut servers = JoinSet::new();
        let host = listen(&mut servers, &other).await;
        *bench.registry.redirect_to.lock() = Some(format!("http://{host}"));
        let images = bench.images().await;
        images
            .pull(&bench.reference("latest"), &NoProgress)
            .await
            .unwrap();
        let seen = other.seen_authorization.lock().clone();
        assert!(
            !seen.is_empty() && seen.iter().all(String::is_empty),
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn an_index_gives_the_image_for_this_cpu_or_names_both() {
    let entry = |bytes: &[u8], architecture: &str| {
        serde_json::json!({
            "mediaType": OCI_MANIFEST, "digest": digest_of(bytes), "size": bytes.len(),
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let index = |manifests: Vec<serde_json::Value>| {
        let json = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests,
        });
        Bytes::from(json.to_string())
    };
    let bench = Bench::with(|registry| {
        let mine = registry.manifests["latest"].1.clone();
        let both = index(vec![entry(b"none", "s390x"), entry(&mine, "amd64")]);
        put(registry, "both", OCI_INDEX, both);
        put(
            registry,
            "other",
            OCI_INDEX,
            index(vec![entry(b"none", "s390x")]),
        );
        let arm = image(registry, "arm64");
        put(registry, "arm", OCI_MANIFEST, arm);
    })
    .await;
    let images = bench.images().await;
    images
        .pull(&bench.reference("both"), &NoProgress)
        .await
        .unwrap();
    for (tag, found) in [("other", "linux/s390x"), ("arm", "linux/arm64")] {
        let error = bench.refusal(tag).await;
        assert!(
            error.contains(found) && error.contains("linux/amd64"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn bad_manifests_are_refused_with_the_reason() {
    let bench = Bench::with(|registry| {
        put(
            registry,
            "broken",
            OCI_MANIFEST,
            Bytes::from_static(b"{\"schemaVersion\": 2,"),
        );
        put(
            registry,
            "one",
            OCI_MANIFEST,
            Bytes::from_static(b"{\"schemaVersion\": 1}"),
        );
        put(
            registry,
            "huge",
            OCI_MANIFEST,
            Bytes::from(vec![b' '; 5 << 20]),
        );
        let mut foreign: serde_json::Value =
            serde_json::from_slice(&registry.manifests["latest"].1).unwrap();
        foreign["layers"][0]["mediaType"] =
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
        put(
            registry,
            "foreign",
            OCI_MANIFEST,
            Bytes::from(foreign.to_string()),
        );
        let wrong = digest_of(b"something else");
        put(
            registry,
            wrong.as_str(),
            OCI_MANIFEST,
            Bytes::from_static(b"{}"),
        );
    })
    .await;
    for (tag, part) in [
        ("none", "has no manifest"),
        ("broken", "not JSON"),
        ("one", "schema version 1"),
        ("huge", "more than 4194304"),
        ("foreign", "may not distribute"),
    ] {
        let error = bench.refusal(tag).await;
        assert!(error.contains(part), "{error} should contain {part}");
    }
    let images = bench.images().await;
    let pinned = bench
        .reference("latest")
        .with_digest(digest_of(b"something else"));
    let error = images.pull(&pinned, &NoProgress).await.unwrap_err();
    assert!(
        roost_model::error::chain(&error).contains("with digest"),
        "{error}"
    );
}

#[tokio::test]
async fn unpacked_layers_of_a_held_image_survive_a_collection_and_others_go() {
    let bench = Bench::new().await;
    let images = bench.images().await;
    let image = images
        .pull(&bench.reference("latest"), &NoProgress)
        .await
        .unwrap();
    let paths = images.rootfs_layers(&image).await.unwrap();
    images.retain("machine:1", &image.digest).await.unwrap();
    images.collect_garbage(ByteSize(0)).await.unwrap();
    assert!(paths.iter().all(|path| path.exists()));
    assert!(images.image(&image.digest).await.unwrap().is_some());
    images.release("machine:1").await.unwrap();
    let report = images.collect_garbage(ByteSize(0)).await.unwrap();
    assert_eq!((report.n_layers, report.left), (2, ByteSize(0)));
    assert!(!paths.iter().any(|path| Path::exists(path)));
    assert!(images.image(&image.digest).await.unwrap().is_none());
}
