//! The split of an app whose new release is tried out: which machines a request goes to, those of
//! that release or the others ([`roost_model::split`]).

use crate::affinity::Affinity;
use crate::pick::Asked;
use crate::rates;
use crate::shared::Shared;
use crate::table::{AppRoute, Target};
use http::HeaderMap;
use roost_model::name::RegionCode;
use roost_model::split::HeaderMatch;
use std::net::{IpAddr, SocketAddr};

/// One of the two sides of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Machines of the release that is tried out.
    Canary,
    /// All others.
    Rest,
}

/// What a split looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking<'a> {
    /// The header of a request; raw connections and flows have none.
    pub(crate) headers: Option<&'a HeaderMap>,
    pub(crate) client: IpAddr,
    /// A number by chance.
    pub(crate) random: u64,
}

impl Side {
    /// The side that gets what is asked for, while the app has two. Who asks for a certain machine
    /// is on neither.
    pub(crate) fn of(
        app: &AppRoute,
        asked: &Asked<'_>,
        region: &RegionCode,
        asking: Asking<'_>,
    ) -> Option<Self> {
        // Most apps are not, at most times.
        if !app.is_split {
            return None;
        }
        let port = app.port_of(asked.protocol, asked.external)?;
        let split = port.split.as_ref()?;
        if asked.wants.names_a_machine() {
            return None;
        }
        let has = |header: &HeaderMatch| {
            let values = asking.headers.map(|headers| headers.get_all(&header.name));
            let mut values = values.into_iter().flatten();
            values.any(|value| value.as_bytes() == header.value.as_bytes())
        };
        let release = || {
            let tried = port.targets.iter().map(|target| &target.endpoint);
            let mut tried = tried.filter(|endpoint| endpoint.split.is_some());
            tried.find_map(|endpoint| endpoint.release)
        };
        // A session is not to go to and fro between the releases.
        let draw = || match asked.affinity {
            Some(Affinity::Header(value)) => number_for(asked.app, release(), &value.to_be_bytes()),
            None if !split.by_client => asking.random,
            Some(Affinity::Cookie { .. }) | None => {
                number_of_client(asked.app, release(), asking.client)
            }
        };
        let is_canarys = split.takes(region, has, draw);
        Some(if is_canarys { Self::Canary } else { Self::Rest })
    }

    /// The same for a raw connection, or a flow of datagrams.
    pub(crate) fn of_stream(
        shared: &Shared,
        asked: &Asked<'_>,
        client: SocketAddr,
    ) -> Option<Self> {
        let routes = shared.router.routes();
        let asking = Asking {
            headers: None,
            client: client.ip().to_canonical(),
            random: number_of(&[&octets(client.ip()), &client.port().to_be_bytes()]),
        };
        Self::of(routes.app(asked.app)?, asked, &shared.config.region, asking)
    }

    /// Whether a machine is on this side.
    pub(crate) fn has(self, target: &Target) -> bool {
        (self == Self::Canary) == target.endpoint.split.is_some()
    }
}

/// The number of a client, which is another one for each app and each release: not always the same
/// people try everything out.
fn number_of_client(app: &str, release: Option<u64>, client: IpAddr) -> u64 {
    number_for(app, release, &octets(rates::key(client)))
}

fn number_for(app: &str, release: Option<u64>, who: &[u8]) -> u64 {
    let release = release.unwrap_or_default().to_be_bytes();
    // No name has a zero byte in it.
    number_of(&[app.as_bytes(), &[0], &release, who])
}

/// An IPv4 address counts as its mapped IPv6 address.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A number that is the same whenever it is asked for, on each edge and in each version: FNV-1a,
/// with its upper half folded into the lower one, which alone is not mixed well.
pub(crate) fn number_of(parts: &[&[u8]]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::{number_of, number_of_client};
    use std::net::{IpAddr, Ipv4Addr};

    #[test]
    fn the_number_of_a_client_is_fixed_and_another_one_for_each_app_and_release() {
        let hash: u64 = 0xaf63_dc4c_8601_ec8c;
        assert_eq!(number_of(&[b"a"]), hash ^ (hash >> 32), "as published");
        let clients = (0..10_000_u32).map(|n| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)));
        let tenth = |app: &str, release| -> Vec<IpAddr> {
            let is_taken =
                |client: &IpAddr| number_of_client(app, Some(release), *client) % 100 < 10;
            clients.clone().filter(is_taken).collect()
        };
        let one = tenth("web", 7);
        assert!((850..1150).contains(&one.len()), "{}", one.len());
        for other in [tenth("web", 8), tenth("api", 7)] {
            let n_both = one.iter().filter(|client| other.contains(client)).count();
            assert!(n_both < 300, "{n_both} are tried upon again");
        }
    }
}
