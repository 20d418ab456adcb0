//! The split of an app whose new release is tried out: which machines a request goes to, those of
//! that release or the others ([`roost_model::split`]).

use crate::pick::Asked;
use crate::rates;
use crate::shared::Shared;
use crate::table::{AppRoute, Target};
use http::HeaderMap;
use roost_model::name::RegionCode;
use roost_model::split::HeaderMatch;
use std::hash::{DefaultHasher, Hash, Hasher as _};
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
        let split = app
            .port_of(asked.protocol, asked.external)?
            .split
            .as_ref()?;
        if asked.wants.names_a_machine() {
            return None;
        }
        let has = |header: &HeaderMatch| {
            let values = asking.headers.map(|headers| headers.get_all(&header.name));
            let mut values = values.into_iter().flatten();
            values.any(|value| value.as_bytes() == header.value.as_bytes())
        };
        let draw = || {
            if split.by_client {
                number_of(rates::key(asking.client))
            } else {
                asking.random
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
            random: number_of(client),
        };
        Self::of(routes.app(asked.app)?, asked, &shared.config.region, asking)
    }

    /// Whether a machine is on this side.
    pub(crate) fn has(self, target: &Target) -> bool {
        (self == Self::Canary) == target.endpoint.split.is_some()
    }
}

/// A number that is the same whenever it is asked for, on each edge.
fn number_of(one: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    one.hash(&mut hasher);
    hasher.finish()
}
