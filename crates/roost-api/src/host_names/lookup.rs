//! Where a host name leads, as far as that can be known from here.

use crate::app::addresses::in_use;
use crate::limits;
use crate::state::ApiState;
use roost_model::error::chain;
use roost_model::host_name::HostName;
use roost_model::name::AppName;
use roost_proto::rest::HostLookup;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Where the edge serves an app, as far as that is known.
struct Here {
    /// The addresses that all apps share; none if they are not known.
    shared: Vec<IpAddr>,
    /// Those that are the app's alone.
    own: Vec<IpAddr>,
}

impl Here {
    async fn of(state: &ApiState, app: &AppName) -> Self {
        let shared = state.host_names.parts.public_ips.clone();
        let own = in_use(state).await.unwrap_or_else(|error| {
            let error = chain(&error);
            tracing::warn!(%app, error, "the app's own addresses are not known");
            vec![]
        });
        let own = own.into_iter().filter(|own| own.app == *app);
        let own = own.map(|own| own.address).collect();
        Self { shared, own }
    }

    fn has(&self, ip: &IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.shared.contains(&ip) || self.own.contains(&ip)
    }

    fn all(&self) -> impl Iterator<Item = &IpAddr> {
        self.shared.iter().chain(&self.own)
    }
}

/// Looks the name of an app up with the resolver of the system.
pub(crate) async fn lookup(state: &ApiState, app: &AppName, host: &HostName) -> HostLookup {
    let here = Here::of(state, app).await;
    if host.is_wildcard() {
        let message = "a wildcard has no addresses of its own".into();
        return told(&BTreeSet::new(), None, message);
    }
    let found = tokio::net::lookup_host((host.as_str(), 0));
    match tokio::time::timeout(limits::LOOKUP_TIMEOUT, found).await {
        Ok(Ok(found)) => judged(host, found.map(|address| address.ip()).collect(), &here),
        Ok(Err(_)) => judged(host, BTreeSet::new(), &here),
        Err(_) => {
            let message = format!("nobody says in time which addresses {host} has");
            told(&BTreeSet::new(), None, message)
        }
    }
}

/// Whether these addresses are ours.
fn judged(host: &HostName, found: BTreeSet<IpAddr>, ours: &Here) -> HostLookup {
    let text = |ips: &mut dyn Iterator<Item = &IpAddr>| {
        ips.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let leads = if found.is_empty() {
        format!("{host} has no address")
    } else {
        format!("{host} leads to {}", text(&mut found.iter()))
    };
    let here = found.iter().any(|ip| ours.has(ip));
    if ours.shared.is_empty() && !here {
        let message =
            format!("{leads}; this platform does not know its public address (`--public-ip`)");
        return told(&found, None, message);
    }
    let message = match (here, found.iter().all(|ip| ours.has(ip))) {
        (true, true) => format!("{leads}, which is here"),
        (true, false) => format!(
            "{leads}; only {} is here, and an authority may ask any of them",
            text(&mut ours.all())
        ),
        (false, _) => format!("{leads}, and this platform is {}", text(&mut ours.all())),
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
    use super::{Here, judged};
    use roost_model::host_name::HostName;
    use std::net::IpAddr;

    #[test]
    fn a_name_points_here_when_one_of_its_addresses_is_ours_and_that_may_be_unknown() {
        let host = HostName::parse("www.example.com").unwrap();
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let judged = |found: &[&str], own: &[&str]| {
            let shared = own.iter().map(|text| ip(text)).collect();
            let own = vec![ip("198.51.100.1")];
            let here = Here { shared, own };
            judged(&host, found.iter().map(|text| ip(text)).collect(), &here)
        };
        let own = judged(&["198.51.100.1"], &["192.0.2.1"]);
        assert_eq!(own.points_here, Some(true), "{}", own.message);
        let own = judged(&["198.51.100.1"], &[]);
        assert_eq!(own.points_here, Some(true), "{}", own.message);
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
                .ends_with("192.0.2.2, and this platform is 192.0.2.1, 198.51.100.1")
        );
        let none = judged(&[], &["192.0.2.1"]);
        assert!(none.message.starts_with("www.example.com has no address"));
        assert_eq!(none.points_here, Some(false));
    }
}
