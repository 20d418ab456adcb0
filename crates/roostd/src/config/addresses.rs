//! Addresses of the host that apps may have for themselves.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};

/// The addresses; `shared` are those at which the edge listens for all apps.
pub(super) fn edge_addresses(
    texts: &[String],
    shared: &[SocketAddr],
    faults: &mut Vec<String>,
) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for text in texts {
        match check(text, shared, &addresses) {
            Ok(address) => addresses.push(address),
            Err(problem) => faults.push(format!("--edge-address `{text}` {problem}")),
        }
    }
    addresses
}

fn check(text: &str, shared: &[SocketAddr], before: &[IpAddr]) -> Result<IpAddr, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| "is not an IPv4 or IPv6 address".to_owned())?;
    if address.is_unspecified() || address.is_multicast() {
        return Err("is not the address of one host".into());
    }
    if shared.iter().any(|shared| shared.ip() == address) {
        return Err("is one that all apps share (--listen)".into());
    }
    if before.contains(&address) {
        return Err("is given twice".into());
    }
    match TcpListener::bind((address, 0)) {
        Ok(_) => Ok(address),
        // It may come later, or again: the edge tries each second, and all else works meanwhile.
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            let prefix = if address.is_ipv4() { 32 } else { 128 };
            tracing::warn!(
                %address,
                "--edge-address is not an address of this host; add it, as with `ip address add {address}/{prefix} dev INTERFACE`"
            );
            Ok(address)
        }
        Err(error) => Err(format!("cannot be listened on: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::edge_addresses;

    #[test]
    fn addresses_are_those_of_the_host_that_apps_do_not_share() {
        let shared = ["127.0.0.1:80".parse().unwrap()];
        let addresses = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            let mut faults = vec![];
            let found = edge_addresses(&texts, &shared, &mut faults);
            (found, faults)
        };
        // The last is no host's (RFC 5737): it may come later.
        let texts = ["127.0.0.2", "127.0.0.3", "192.0.2.1"];
        let (found, faults) = addresses(&texts);
        assert_eq!(faults, [""; 0]);
        assert_eq!(
            found,
            texts.map(|ip| ip.parse::<std::net::IpAddr>().unwrap())
        );
        for (bad, why) in [
            ("127.0.0", "is not an IPv4"),
            ("0.0.0.0", "is not the address of one host"),
            ("ff02::1", "is not the address of one host"),
            ("127.0.0.1", "is one that all apps share"),
            ("127.0.0.2", "is given twice"),
        ] {
            let (_, faults) = addresses(&["127.0.0.2", bad]);
            let [fault] = faults.as_slice() else {
                panic!("{bad}: {faults:?}");
            };
            assert!(fault.contains(bad) && fault.contains(why), "{fault}");
        }
    }
}
