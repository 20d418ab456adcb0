//! Claims about the cluster's authority.

use super::{
    CLOCK_SKEW_MAX, ClusterAuthority, ClusterIdentity, IDENTITY_LIFE, Peer, RENEWAL_JITTER_MAX,
    Role,
};
use crate::authority::OpenAuthorityError;
use crate::seal::{SealError, SealingKey};
use roost_model::id::NodeId;
use roost_model::time::Timestamp;
use roost_runtime::clock;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn sealer() -> SealingKey {
    SealingKey::from_bytes(&[5; 32]).unwrap()
}

fn authority(dir: &Path) -> ClusterAuthority {
    ClusterAuthority::open(dir, &sealer()).unwrap()
}

fn peer(n: u128, role: Role) -> Peer {
    let node = NodeId::from_ulid(ulid::Ulid::from_parts(1, n));
    Peer { node, role }
}

fn verify(
    authority: &ClusterAuthority,
    certificate: &CertificateDer<'static>,
    dialled: &Peer,
    at: Timestamp,
) -> Result<(), rustls::Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    let at = UnixTime::since_unix_epoch(Duration::from_millis(at.as_ms()));
    let name = ServerName::try_from(dialled.name()).unwrap();
    let verifier = verifier.build().unwrap();
    verifier
        .verify_server_cert(certificate, &[], &name, &[], at)
        .map(drop)
}

#[test]
fn an_identity_is_of_one_node_in_one_role() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let now = clock::now();
    let worker = peer(1, Role::Worker);
    let issued = authority.issue(&worker, now).unwrap();
    verify(&authority, &issued.chain[0], &worker, now).unwrap();
    for other in [peer(2, Role::Worker), peer(1, Role::Api)] {
        assert!(verify(&authority, &issued.chain[0], &other, now).is_err());
    }
    assert_eq!(Role::of(&issued.chain[0]), Some(Role::Worker));
    let api = authority.issue(&peer(1, Role::Api), now).unwrap();
    assert_eq!(Role::of(&api.chain[0]), Some(Role::Api));
    let stranger = crate::authority::LocalAuthority::open(&dir.path().join("ca")).unwrap();
    let page = stranger.issue("hello.localhost", now).unwrap();
    assert_eq!(Role::of(&page.chain[0]), None);
    assert_eq!(Role::of(&CertificateDer::from(vec![1, 2, 3])), None);
}

#[test]
fn an_identity_lives_a_day_and_bears_clocks_that_differ() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let now = clock::now();
    let worker = peer(1, Role::Worker);
    let leaf = authority.issue(&worker, now).unwrap().chain.remove(0);
    let second = Duration::from_secs(1);
    let early = Timestamp::from_ms(now.as_ms() - 1_000 * (CLOCK_SKEW_MAX.as_secs() - 1));
    let late = now.after(IDENTITY_LIFE + CLOCK_SKEW_MAX - second);
    verify(&authority, &leaf, &worker, early).unwrap();
    verify(&authority, &leaf, &worker, late).unwrap();
    let too_early = Timestamp::from_ms(early.as_ms() - 3_000);
    assert!(verify(&authority, &leaf, &worker, too_early).is_err());
    assert!(verify(&authority, &leaf, &worker, late.after(second * 3)).is_err());
}

#[test]
fn identities_are_renewed_by_two_thirds_of_their_life_and_not_all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let now = clock::now();
    let mut times: Vec<Timestamp> = (0..8)
        .map(|n| authority.issue(&peer(n, Role::Worker), now).unwrap())
        .map(|issued| issued.renew_at)
        .collect();
    let latest = now.after(IDENTITY_LIFE * 2 / 3);
    for at in &times {
        assert!(*at <= latest && at.after(RENEWAL_JITTER_MAX) >= latest);
    }
    times.dedup();
    assert!(times.len() > 1);
}

#[test]
fn a_renewed_identity_shows_another_certificate_of_the_same_peer() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let now = clock::now();
    let identity = ClusterIdentity::new(&authority, peer(1, Role::Api), now).unwrap();
    let first = identity.certificate();
    let later = now.after(Duration::from_secs(16 * 3600));
    identity.renew(&authority, later).unwrap();
    assert_ne!(identity.certificate(), first);
    assert!(identity.renew_at() > later);
    verify(&authority, &identity.certificate(), identity.peer(), later).unwrap();
}

#[test]
fn the_key_is_private_and_opens_only_with_the_sealing_key() {
    let dir = tempfile::tempdir().unwrap();
    let first = authority(dir.path());
    assert_eq!(authority(dir.path()).certificate(), first.certificate());
    let path = dir.path().join("root.key");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let other = SealingKey::from_bytes(&[6; 32]).unwrap();
    let error = ClusterAuthority::open(dir.path(), &other).unwrap_err();
    let source = SealError::Wrong;
    assert!(
        matches!(&error, OpenAuthorityError::Sealed { source: found, .. } if *found == source),
        "{error}"
    );
    std::fs::remove_file(&path).unwrap();
    let error = ClusterAuthority::open(dir.path(), &sealer()).unwrap_err();
    assert!(matches!(error, OpenAuthorityError::Half { .. }), "{error}");
}
