//! Custom host names over a real edge, with certificates of the ACME test server and of our own.

mod issuing;

use super::{HostNameParts, publish};
use crate::app::certificates::{check, get, issue, list, remove, upload};
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::reconcile::certificates_pass;
use crate::state::{ApiParts, ApiState};
use crate::testing;
use rcgen::{CertificateParams, KeyPair};
use roost_auth::authority::LocalAuthority;
use roost_auth::policy::Caller;
use roost_certs::acme::AcmeSettings;
use roost_edge::{Edge, EdgeConfig, LocalCertificates, TrafficCounter};
use roost_model::host_name::HostName;
use roost_model::name::{AppName, RegionCode};
use roost_model::time::Timestamp;
use roost_proto::names::CertificatePem;
use roost_proto::rest::Certificate;
use roost_runtime::clock::{Clock, SystemClock};
use roost_runtime::tasks::Tasks;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longer than anything takes here on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The wall clock, moved.
#[derive(Debug, Default)]
struct MovedClock(AtomicU64);

impl Clock for MovedClock {
    fn now(&self) -> Timestamp {
        let ahead = Duration::from_millis(self.0.load(Ordering::SeqCst));
        SystemClock.now().after(ahead)
    }
}

/// A control plane and an edge that knows nothing but its table of names. Reconcilers look when
/// the test says so.
struct World {
    state: ApiState,
    clock: Arc<MovedClock>,
    edge: Edge,
    dir: tempfile::TempDir,
}

fn app(name: &str) -> AppName {
    AppName::parse(name).unwrap()
}

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

fn ctx() -> RequestCtx {
    RequestCtx {
        caller: Caller::Platform,
        request_id: "test".into(),
        idempotency_key: None,
        lease_nonce: None,
    }
}

impl World {
    /// With the apps `web` and `other`.
    async fn new(acme: impl FnOnce(&Path, [u16; 2]) -> Option<AcmeSettings>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = EdgeConfig::new(RegionCode::parse("local").unwrap());
        config.http = vec!["127.0.0.1:0".parse().unwrap()];
        config.https = vec!["127.0.0.1:0".parse().unwrap()];
        let host_names = HostNameParts::default();
        config.names = host_names.table.subscribe();
        let authority = Arc::new(LocalAuthority::open(dir.path()).unwrap());
        let local = LocalCertificates::new(authority, &config.domains);
        let (_, traffic) = tokio::sync::watch::channel(Arc::default());
        let tasks = Tasks::new();
        let edge = Edge::bind(config, traffic, TrafficCounter::new(), local, &tasks);
        let edge = edge.await.unwrap();
        let ports = [edge.http_addrs()[0].port(), edge.https_addrs()[0].port()];
        let clock = Arc::new(MovedClock::default());
        let state = ApiState::new(ApiParts {
            host_names: HostNameParts {
                acme: acme(dir.path(), ports),
                ..host_names
            },
            clock: clock.clone(),
            tasks,
            ..testing::parts(dir.path(), vec![]).await
        });
        for (id, name) in [("app_1", "web"), ("app_2", "other")] {
            let name = app(name);
            let made = state.store.create_app(id, &name, clock.now(), None);
            made.await.unwrap();
        }
        publish(&state).await.unwrap();
        Self {
            state,
            clock,
            edge,
            dir,
        }
    }

    fn https(&self) -> SocketAddr {
        self.edge.https_addrs()[0]
    }

    async fn get(&self, name: &str) -> Certificate {
        let found = get(&ctx(), &self.state, &app("web"), &host(name)).await;
        found.unwrap()
    }

    async fn upload(
        &self,
        app_name: &str,
        name: &str,
        pem: &CertificatePem,
    ) -> Result<Certificate, ApiError> {
        upload(&ctx(), &self.state, &app(app_name), name, pem.clone()).await
    }

    async fn remove(&self, name: &str) {
        let removed = remove(&ctx(), &self.state, &app("web"), &host(name)).await;
        removed.unwrap();
    }

    async fn check(&self, name: &str) -> Certificate {
        let checked = check(&ctx(), &self.state, &app("web"), &host(name)).await;
        checked.unwrap()
    }

    /// One look of the reconciler.
    async fn pass(&self) -> Vec<String> {
        certificates_pass(&self.state).await.unwrap().done
    }

    /// What the edge answers over HTTPS to a client that trusts this root only.
    async fn ask(&self, name: &str, root: &str) -> Result<u16, reqwest::Error> {
        let root = reqwest::Certificate::from_pem(root.as_bytes()).unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([root])
            .resolve(name, self.https())
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        let url = format!("https://{name}:{}/", self.https().port());
        Ok(client.get(url).send().await?.status().as_u16())
    }

    /// Asks until the edge, which follows in a moment, shows a certificate below `root`.
    async fn shown(&self, name: &str, root: &str) -> u16 {
        let start = Instant::now();
        loop {
            match self.ask(name, root).await {
                Ok(code) => return code,
                Err(error) => assert!(start.elapsed() < PATIENCE, "{name} is not shown: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks until it shows none any more.
    async fn hidden(&self, name: &str, root: &str) {
        let start = Instant::now();
        while self.ask(name, root).await.is_ok() {
            assert!(start.elapsed() < PATIENCE, "{name} is still shown");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self) {
        assert!(self.state.tasks.shutdown(Duration::from_secs(60)).await);
    }
}

/// A certificate for this name that signs itself.
fn own(name: &str) -> CertificatePem {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    CertificatePem {
        chain: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem().into(),
    }
}

#[tokio::test]
async fn an_uploaded_certificate_serves_its_host_until_it_is_removed_and_lies_sealed() {
    let world = World::new(|_, _| None).await;
    let (pem, wild) = (own("www.shop.test"), own("*.shop.test"));
    assert!(world.ask("www.shop.test", &pem.chain).await.is_err());
    let added = world.upload("web", "WWW.shop.test.", &pem).await.unwrap();
    assert_eq!(
        (added.hostname.as_str(), added.status.as_str()),
        ("www.shop.test", "active")
    );
    assert_eq!(
        (added.source.as_str(), &added.next_attempt_at),
        ("custom", &None)
    );
    // The handshake is what counts; no machine is behind the name.
    let code = world.shown("www.shop.test", &pem.chain).await;
    assert_eq!(code, 404);
    world.upload("web", "*.shop.test", &wild).await.unwrap();
    world.shown("a.shop.test", &wild.chain).await;
    // The exact name comes first.
    world.shown("www.shop.test", &pem.chain).await;
    let listed = list(&ctx(), &world.state, &app("web")).await.unwrap();
    assert_eq!(listed.certificates.len(), 2);

    let taken = world
        .upload("other", "www.shop.test", &pem)
        .await
        .unwrap_err();
    assert_eq!(taken.code, "host-name-taken");
    let newer = own("www.shop.test");
    world.upload("web", "www.shop.test", &newer).await.unwrap();
    world.shown("www.shop.test", &newer.chain).await;
    world.remove("www.shop.test").await;
    // The wildcard is left.
    world.shown("www.shop.test", &wild.chain).await;
    let gone = get(&ctx(), &world.state, &app("web"), &host("www.shop.test")).await;
    assert_eq!(gone.unwrap_err().code, "host-name-not-found");

    let secret = wild.key.lines().nth(1).unwrap().as_bytes();
    for entry in std::fs::read_dir(world.dir.path()).unwrap().flatten() {
        let bytes = std::fs::read(entry.path()).unwrap();
        let has = bytes.windows(secret.len()).any(|window| window == secret);
        assert!(!has, "{:?} holds the key", entry.path());
    }
    world.end().await;
}

#[tokio::test]
async fn what_cannot_be_added_is_refused_with_its_own_code() {
    let world = World::new(|_, _| None).await;
    let (pem, other) = (own("www.shop.test"), own("www.shop.test"));
    let crossed = CertificatePem {
        key: other.key.clone(),
        ..pem.clone()
    };
    for (name, pem, code) in [
        ("www.shop.test", &crossed, "certificate-invalid"),
        ("shop.test", &pem, "certificate-invalid"),
        ("web.localhost", &pem, "invalid-request"),
        ("a b.test", &pem, "invalid-request"),
    ] {
        let error = world.upload("web", name, pem).await.unwrap_err();
        assert_eq!(error.code, code, "{name}: {}", error.message);
    }
    for (name, code) in [
        ("*.shop.test", "wildcard-not-issued"),
        ("www.shop.test", "no-certificate-authority"),
    ] {
        let refused = issue(&ctx(), &world.state, &app("web"), name).await;
        assert_eq!(refused.unwrap_err().code, code);
    }
    let years = Duration::from_secs(3600 * 24 * 365 * 3000);
    let ms = u64::try_from(years.as_millis()).unwrap();
    world.clock.0.store(ms, Ordering::SeqCst);
    let late = world
        .upload("web", "www.shop.test", &pem)
        .await
        .unwrap_err();
    assert!(late.message.contains("expired"), "{}", late.message);
    world.end().await;
}
