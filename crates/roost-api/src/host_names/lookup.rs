//! Where a host name leads, as far as that can be known from here.

use crate::limits;
use crate::state::ApiState;
use roost_model::host_name::HostName;
use roost_proto::rest::HostLookup;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Looks a name up with the resolver of the system.
pub(crate) async fn lookup(state: &ApiState, host: &HostName) -> HostLookup {
    let own = &state.host_names.parts.public_ips;
    if host.is_wildcard() {
        let message = "a wildcard has no addresses of its own".into();
        return told(&BTreeSet::new(), None, message);
    }
    let found = tokio::net::lookup_host((host.as_str(), 0));
    match tokio::time::timeout(limits::LOOKUP_TIMEOUT, found).await {
        Ok(Ok(found)) => judged(host, found.map(|address| address.ip()).collect(), own),
        Ok(Err(_)) => judged(host, BTreeSet::new(), own),
        Err(_) => {
            let message = format!("nobody says in time which addresses {host} has");
            told(&BTreeSet::new(), None, message)
        }
    }
}

/// Whether these addresses are ours.
fn judged(host: &HostName, found: BTreeSet<IpAddr>, own: &[IpAddr]) -> HostLookup {
    let text = |ips: &mut dyn Iterator<Item = &IpAddr>| {
        ips.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let leads = if found.is_empty() {
        format!("{host} has no address")
    } else {
        format!("{host} leads to {}", text(&mut found.iter()))
    };
    if own.is_empty() {
        let message =
            format!("{leads}; this platform does not know its public address (`--public-ip`)");
        return told(&found, None, message);
    }
    let here = found.iter().any(|ip| own.contains(&ip.to_canonical()));
    let message = match (
        here,
        found.iter().all(|ip| own.contains(&ip.to_canonical())),
    ) {
        (true, true) => format!("{leads}, which is here"),
        (true, false) => format!(
            "{leads}; only {} is here, and an authority may ask any of them",
            text(&mut own.iter())
        ),
        (false, _) => format!("{leads}, and this platform is {}", text(&mut own.iter())),
    };
    told(&found, Some(here), message)
}

fn told(found: &BTreeSet<IpAddr>, points_here: Option<bool>, message: String) -> HostLookup {
    HostLookup {
        addresses: found.iter().map(ToString::to_string).collect(),
        points_here,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::judged;
    use roost_model::host_name::HostName;
    use std::net::IpAddr;

    #[test]
    fn a_name_points_here_when_one_of_its_addresses_is_ours_and_that_may_be_unknown() {
        let host = HostName::parse("www.example.com").unwrap();
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let judged = |found: &[&str], own: &[&str]| {
            let own: Vec<IpAddr> = own.iter().map(|text| ip(text)).collect();
            judged(&host, found.iter().map(|text| ip(text)).collect(), &own)
        };
        assert_eq!(judged(&["192.0.2.1"], &[]).points_here, None);
        assert_eq!(
            judged(&["192.0.2.1"], &["192.0.2.1"]).points_here,
            Some(true)
        );
        let both = judged(&["192.0.2.1", "2001:db8::1"], &["192.0.2.1"]);
        assert_eq!(both.points_here, Some(true));
        assert!(both.message.contains("only 192.0.2.1"), "{}", both.message);
        let away = judged(&["192.0.2.2"], &["192.0.2.1"]);
        assert_eq!(away.points_here, Some(false));
        assert!(
            away.message
                .ends_with("192.0.2.2, and this platform is 192.0.2.1")
        );
        let none = judged(&[], &["192.0.2.1"]);
        assert!(none.message.starts_with("www.example.com has no address"));
        assert_eq!(none.points_here, Some(false));
    }
}
