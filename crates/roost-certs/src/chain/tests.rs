//! Chains that serve and chains that do not, each refused by its own fault.

use super::{ChainFault, check};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use roost_model::host_name::HostName;
use roost_model::time::Timestamp;

const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

/// A chain for these names with its key, valid for 2023.
fn chain(names: &[&str]) -> (String, String) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::new(vec![]).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_certificate = root.self_signed(&root_key).unwrap();
    let issuer = Issuer::new(root, root_key);
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(names).unwrap();
    leaf.distinguished_name
        .push(rcgen::DnType::CommonName, "leaf");
    leaf.not_before = rcgen::date_time_ymd(2023, 1, 1);
    leaf.not_after = rcgen::date_time_ymd(2024, 1, 1);
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let chain = leaf.pem() + &root_certificate.pem();
    (chain, key.serialize_pem())
}

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

#[test]
fn a_chain_serves_its_names_and_those_of_its_wildcards() {
    let (chain, key) = chain(&["www.example.com", "*.shop.example.com"]);
    for name in [
        "www.example.com",
        "a.shop.example.com",
        "*.shop.example.com",
    ] {
        let facts = check(&chain, &key, &host(name), NOW).unwrap();
        assert_eq!(facts.not_after.as_ms(), 1_704_067_200_000);
        assert_eq!(facts.names.len(), 2);
    }
    for name in ["example.com", "a.b.shop.example.com", "*.example.com"] {
        let fault = check(&chain, &key, &host(name), NOW).unwrap_err();
        assert!(matches!(fault, ChainFault::Names { .. }), "{fault}");
        assert!(fault.to_string().contains("www.example.com"), "{fault}");
    }
}

#[test]
fn what_cannot_serve_is_refused_by_name() {
    let name = host("www.example.com");
    let (good, key) = chain(&["www.example.com"]);
    let (_, other_key) = chain(&["www.example.com"]);
    let fault = |chain: &str, key: &str, now| check(chain, key, &name, now).unwrap_err();
    assert_eq!(fault(&good, &other_key, NOW), ChainFault::KeyOfAnother);
    let later = Timestamp::from_ms(1_704_067_200_000);
    assert_eq!(fault(&good, &key, later), ChainFault::Expired);
    assert_eq!(
        fault(&good, &key, Timestamp::from_ms(0)),
        ChainFault::NotYet
    );
    assert_eq!(fault("", &key, NOW), ChainFault::Count(0));
    assert_eq!(fault("hello", &key, NOW), ChainFault::Count(0));
    assert!(matches!(
        fault(&good, "hello", NOW),
        ChainFault::Pem { what: "key", .. }
    ));
    // As an environment variable may have it: one line.
    let one_line = fault(&good, &key.replace('\n', " "), NOW).to_string();
    assert!(one_line.contains("lines of their own"), "{one_line}");
    assert!(one_line.len() < 200, "nothing of the key: {one_line}");
    assert!(matches!(
        fault(&good.repeat(80), &key, NOW),
        ChainFault::Long { .. }
    ));
    assert_eq!(fault(&good.repeat(6), &key, NOW), ChainFault::Count(12));
    let end = good.find("-----END CERTIFICATE-----\n").unwrap() + 26;
    let (leaf, root) = good.split_at(end);
    let reversed = format!("{root}{leaf}");
    assert_eq!(fault(&reversed, &key, NOW), ChainFault::Order(1));
    let broken = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    assert!(matches!(
        fault(broken, &key, NOW),
        ChainFault::Certificate { number: 1, .. }
    ));
}
