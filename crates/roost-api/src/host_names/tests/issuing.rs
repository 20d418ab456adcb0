//! Issued certificates: by the ACME test server, and by authorities that have a reason not to.

use super::{MovedClock, PATIENCE, World, app, ctx, host, issue};
use async_trait::async_trait;
use roost_certs::acme::AcmeSettings;
use roost_certs::challenge::Method;
use roost_certs::issue::{Authority, AuthorityError, Seen};
use roost_model::host_name::HostName;
use roost_proto::rest::Certificate;
use roost_testkit::pebble::{self, Pebble};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

impl MovedClock {
    fn advance(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl World {
    /// A world whose authority looks at this HTTP port (the edge's when none is given).
    async fn with_pebble(http_port: Option<u16>) -> (Self, Pebble) {
        let mut started = None;
        let world = Self::new(|dir, [http, https]| {
            let server = Pebble::start(dir, http_port.unwrap_or(http), https);
            let settings = AcmeSettings {
                directory: server.directory.clone(),
                email: Some("ops@example.com".into()),
                root: Some(server.root.clone()),
            };
            started = Some(server);
            Some(settings)
        });
        (world.await, started.unwrap())
    }

    /// Lets the reconciler look until the certificate is as it should be.
    async fn until(
        &self,
        name: &str,
        what: &str,
        is: impl Fn(&Certificate) -> bool,
    ) -> Certificate {
        let start = Instant::now();
        loop {
            self.pass().await;
            let found = self.get(name).await;
            if is(&found) {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "not {what}: {found:#?}");
            // What waits for the authority is looked at again after a moment.
            self.clock.advance(Duration::from_secs(2));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn issue(&self, name: &str) -> Certificate {
        issue(&ctx(), &self.state, &app("web"), name).await.unwrap()
    }

    async fn chain(&self, name: &str) -> String {
        let records = self.state.store.host_names(None).await.unwrap();
        let record = records.into_iter().find(|record| record.host == host(name));
        record.unwrap().certificate.unwrap().chain
    }
}

fn serial(chain: &str) -> String {
    let (_, pem) = x509_parser::pem::parse_x509_pem(chain.as_bytes()).unwrap();
    pem.parse_x509()
        .unwrap()
        .raw_serial_as_string()
        .replace(':', "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_issued_by_http_renewed_in_time_and_revoked_at_the_end() {
    if let Some(reason) = pebble::why_not() {
        println!("skipped: {reason}");
        return;
    }
    let (world, server) = World::with_pebble(None).await;
    let added = world.issue("www.shop.test").await;
    assert_eq!(
        (added.status.as_str(), added.source.as_str()),
        ("pending", "acme")
    );
    let issued = world.until("www.shop.test", "issued", |found| found.status == "active");
    let issued = issued.await;
    let attempt = &issued.attempts[0];
    assert_eq!(
        (attempt.outcome.as_str(), attempt.method.as_str()),
        ("issued", "http-01")
    );
    let root = server.issuing_root();
    world.shown("www.shop.test", &root).await;
    let first = world.chain("www.shop.test").await;

    let (expires, next) = (issued.expires_at.unwrap(), issued.next_attempt_at.unwrap());
    let left = Duration::from_millis(expires - next);
    assert!(
        left > Duration::from_millis(expires - attempt.at) / 4,
        "{issued:#?}"
    );
    world.pass().await;
    assert_eq!(world.chain("www.shop.test").await, first, "it is not due");
    world
        .clock
        .advance(Duration::from_millis(next - attempt.at + 60_000));
    let renewed = world.until("www.shop.test", "renewed", |found| found.attempts.len() > 1);
    assert_eq!(renewed.await.attempts[0].outcome, "issued");
    let second = world.chain("www.shop.test").await;
    assert_ne!(first, second);
    world.shown("www.shop.test", &root).await;

    assert_eq!(server.status(&serial(&second)), "Valid");
    world.remove("www.shop.test").await;
    world.hidden("www.shop.test", &root).await;
    let start = Instant::now();
    while server.status(&serial(&second)) != "Revoked" {
        world.pass().await;
        assert!(start.elapsed() < PATIENCE, "not revoked");
        world.clock.advance(Duration::from_secs(60));
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_validation_is_told_and_the_other_way_is_taken_next() {
    if let Some(reason) = pebble::why_not() {
        println!("skipped: {reason}");
        return;
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let (world, server) = World::with_pebble(Some(port)).await;
    world.issue("shop.test").await;
    let failing = world.until("shop.test", "failing", |found| found.status == "failing");
    let attempt = failing.await.attempts.remove(0);
    assert_eq!(
        (attempt.outcome.as_str(), attempt.method.as_str()),
        ("failed", "http-01")
    );
    assert!(attempt.message.contains("refused"), "{}", attempt.message);
    let checked = world.check("shop.test").await;
    let lookup = checked.lookup.unwrap();
    assert_eq!(lookup.points_here, None, "{lookup:?}");
    let issued = world.until("shop.test", "issued", |found| found.status == "active");
    let attempt = issued.await.attempts.remove(0);
    assert_eq!(
        (attempt.outcome.as_str(), attempt.method.as_str()),
        ("issued", "tls-alpn-01")
    );
    let root = server.issuing_root();
    world.shown("shop.test", &root).await;
    world.end().await;
}

/// An authority that gives one answer to everything.
struct Refuses(AuthorityError);

#[async_trait]
impl Authority for Refuses {
    async fn order(&self, _: &HostName) -> Result<String, AuthorityError> {
        Err(self.0.clone())
    }
    async fn look(&self, _: &str, _: Method) -> Result<Seen, AuthorityError> {
        Err(self.0.clone())
    }
    async fn tell(&self, _: &str, _: Method) -> Result<(), AuthorityError> {
        Err(self.0.clone())
    }
    async fn finalise(&self, _: &str, _: &[u8]) -> Result<(), AuthorityError> {
        Err(self.0.clone())
    }
    async fn fetch(&self, _: &str) -> Result<String, AuthorityError> {
        Err(self.0.clone())
    }
    async fn revoke(&self, _: &str) -> Result<(), AuthorityError> {
        Err(self.0.clone())
    }
}

fn nowhere() -> Option<AcmeSettings> {
    Some(AcmeSettings {
        directory: "https://127.0.0.1:1/dir".into(),
        email: None,
        root: None,
    })
}

#[tokio::test]
async fn an_authority_that_says_it_is_too_much_is_left_alone_for_as_long_as_it_asks() {
    let world = World::new(|_, _| nowhere()).await;
    let too_much = AuthorityError::RateLimited {
        detail: "too many certificates".into(),
        retry_after: Some(Duration::from_secs(7200)),
    };
    let names = &world.state.host_names;
    names.set_authority(Arc::new(Refuses(too_much))).await;
    world.issue("www.shop.test").await;
    world.pass().await;
    let found = world.get("www.shop.test").await;
    assert_eq!(found.attempts[0].outcome, "rate-limited");
    assert!(found.attempts[0].message.contains("too many certificates"));
    let until = found.rate_limited_until.unwrap();
    assert!(until >= found.attempts[0].at + 7_200_000);
    let checked = world.check("www.shop.test").await;
    assert_eq!(checked.next_attempt_at, Some(until));
    world.clock.advance(Duration::from_secs(3600));
    world.pass().await;
    assert_eq!(world.get("www.shop.test").await.attempts.len(), 1);
    world.clock.advance(Duration::from_secs(2 * 3600));
    world.pass().await;
    assert_eq!(world.get("www.shop.test").await.attempts.len(), 2);
    world.end().await;
}

#[tokio::test]
async fn an_authority_that_does_not_answer_is_told_and_tried_again_later() {
    let world = World::new(|_, _| nowhere()).await;
    world.issue("www.shop.test").await;
    world.pass().await;
    let found = world.get("www.shop.test").await;
    assert_eq!(
        (found.status.as_str(), found.attempts.len()),
        ("failing", 1)
    );
    assert_eq!(found.attempts[0].outcome, "unreachable");
    let next = found.next_attempt_at.unwrap();
    assert!(next >= found.attempts[0].at + 60_000, "{found:?}");
    world.pass().await;
    assert_eq!(
        world.get("www.shop.test").await.attempts.len(),
        1,
        "it is not due"
    );
    world.end().await;
}
