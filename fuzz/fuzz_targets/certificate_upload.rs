//! Certificates and keys that users upload: the chain, an empty line, the key.
#![no_main]

use roost_certs::chain;
use roost_model::host_name::HostName;
use roost_model::time::Timestamp;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (certificates, key) = text.split_once("\n\n").unwrap_or((text, ""));
    let host = HostName::parse("www.example.com").expect("a host name");
    let facts = chain::facts(certificates);
    for now in [1_800_000_000_000, 0] {
        if let Ok(checked) = chain::check(certificates, key, &host, Timestamp::from_ms(now)) {
            assert!(checked.not_before < checked.not_after && !checked.names.is_empty());
            assert_eq!(facts.as_ref(), Ok(&checked));
        }
    }
});
