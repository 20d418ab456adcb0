//! Claims about the local certificate authority.

use super::{LocalAuthority, OpenAuthorityError};
use roost_model::time::Timestamp;
use roost_runtime::clock;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

fn verify(
    authority: &LocalAuthority,
    chain: &[CertificateDer<'static>],
    name: &str,
    at: Timestamp,
) -> Result<(), rustls::Error> {
    use rustls::client::danger::ServerCertVerifier as _;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_millis(at.as_ms()));
    verifier
        .verify_server_cert(
            &chain[0],
            &chain[1..],
            &ServerName::try_from(name.to_owned()).unwrap(),
            &[],
            at,
        )
        .map(drop)
}

#[test]
fn a_certificate_is_valid_for_its_name_until_after_it_should_be_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let authority = LocalAuthority::open(dir.path()).unwrap();
    let now = clock::now();
    let issued = authority.issue("hello.localhost", now).unwrap();
    verify(&authority, &issued.chain, "hello.localhost", now).unwrap();
    verify(
        &authority,
        &issued.chain,
        "hello.localhost",
        issued.renew_at,
    )
    .unwrap();
    assert!(verify(&authority, &issued.chain, "other.localhost", now).is_err());
    let late = issued
        .renew_at
        .after(super::LEAF_RENEW_BEFORE + Duration::from_secs(2));
    assert!(verify(&authority, &issued.chain, "hello.localhost", late).is_err());
}

#[test]
fn an_authority_opened_again_is_the_same_and_its_key_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let first = LocalAuthority::open(dir.path()).unwrap();
    let issued = first.issue("a.localhost", clock::now()).unwrap();
    let second = LocalAuthority::open(dir.path()).unwrap();
    assert_eq!(first.certificate_pem(), second.certificate_pem());
    verify(&second, &issued.chain, "a.localhost", clock::now()).unwrap();
    let mode = std::fs::metadata(dir.path().join("ca-key.pem"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let other = tempfile::tempdir().unwrap();
    let stranger = LocalAuthority::open(other.path()).unwrap();
    assert!(verify(&stranger, &issued.chain, "a.localhost", clock::now()).is_err());
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    LocalAuthority::open(dir.path()).unwrap();
    std::fs::write(dir.path().join("ca-key.pem"), "nonsense").unwrap();
    let error = LocalAuthority::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenAuthorityError::Unreadable { .. }));
    assert!(error.to_string().contains("ca-key.pem"), "{error}");
    std::fs::remove_file(dir.path().join("ca-key.pem")).unwrap();
    let error = LocalAuthority::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenAuthorityError::Half { .. }));
    assert!(error.to_string().contains("ca-key.pem"), "{error}");
}
