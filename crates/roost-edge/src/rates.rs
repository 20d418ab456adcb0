//! What one client and one app may ask of the edge: connections and requests at
//! once, and requests and TLS handshakes a second.
//!
//! A client is an IPv4 address or an IPv6 /64, which is what a customer is
//! given; of the node's own machines each is one. Who comes from the node itself (loopback) is no client to bound. What
//! is known of clients is bounded too: when the table is full, those without a
//! connection are forgotten.

use crate::{coarse, limits};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Bounds of one client or app; 0 is none. Each rate may be exceeded for a
/// moment, by what two seconds allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeRates {
    /// Connections of one client at once.
    pub client_connections: usize,
    /// Requests of one client a second.
    pub client_requests: u32,
    /// TLS handshakes of one client a second.
    pub client_handshakes: u32,
    /// Requests to one app a second.
    pub app_requests: u32,
    /// TLS handshakes with the names of one app a second.
    pub app_handshakes: u32,
    /// Requests, WebSockets, raw connections and flows of datagrams of one app at once. One
    /// client may have half as many.
    pub app_open: usize,
}

impl Default for EdgeRates {
    fn default() -> Self {
        Self {
            // No client has more than a quarter of the edge's connections.
            client_connections: limits::CONNECTIONS_MAX / 4,
            client_requests: 5_000,
            client_handshakes: 500,
            app_requests: 0,
            app_handshakes: 10_000,
            // No app has more than half of them.
            app_open: limits::CONNECTIONS_MAX / 2,
        }
    }
}

/// A rate that is kept: the moment at which what was taken has been earned.
#[derive(Debug)]
pub(crate) struct Bucket {
    origin: Instant,
    /// Microseconds since then.
    earned_at: AtomicU64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            origin: coarse::now(),
            earned_at: AtomicU64::new(0),
        }
    }
}

impl Bucket {
    /// Takes one of so many a second, if there is one.
    pub(crate) fn take(&self, per_second: u32) -> bool {
        per_second == 0 || self.take_at(self.now_us(), per_second)
    }

    fn now_us(&self) -> u128 {
        coarse::now()
            .saturating_duration_since(self.origin)
            .as_micros()
    }

    fn take_at(&self, now_us: u128, per_second: u32) -> bool {
        let now = u64::try_from(now_us).unwrap_or(u64::MAX);
        let price = 1_000_000_u64.div_ceil(u64::from(per_second));
        let take = |earned_at: u64| {
            let after = earned_at.max(now).saturating_add(price);
            (after <= now.saturating_add(limits::RATE_BURST_US)).then_some(after)
        };
        self.earned_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

/// What is asked of one app.
#[derive(Debug, Default)]
pub(crate) struct AppRates {
    pub(crate) requests: Bucket,
    pub(crate) handshakes: Bucket,
    open: Arc<AtomicUsize>,
}

/// Who has too much under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooManyOpen {
    /// The app.
    App,
    /// The client, however many apps it asks.
    Client,
}

/// A request or raw connection, as one of its client's and one of its app's.
#[derive(Debug)]
pub(crate) struct Open {
    _client: Option<Counted>,
    app: Counted,
}

impl Open {
    /// Counts one more, if both may have it.
    pub(crate) fn new(
        visit: Option<&Visit>,
        app: &Arc<AppRates>,
        most: usize,
    ) -> Result<Self, TooManyOpen> {
        // A client that may have half leaves half to all others.
        let half = most.div_ceil(2);
        let client = visit.and_then(|visit| visit.client.as_ref());
        let client =
            client.map(|client| Counted::new(&client.open, half).ok_or(TooManyOpen::Client));
        Ok(Self {
            _client: client.transpose()?,
            app: Counted::new(&app.open, most).ok_or(TooManyOpen::App)?,
        })
    }

    /// Counts it as one of this app's from now on, if it may have one more.
    pub(crate) fn go_to(&mut self, app: &Arc<AppRates>, most: usize) -> Result<(), TooManyOpen> {
        if !Arc::ptr_eq(&self.app.0, &app.open) {
            self.app = Counted::new(&app.open, most).ok_or(TooManyOpen::App)?;
        }
        Ok(())
    }
}

/// One in a count, until dropped.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// One more; `None` when there are as many as there may be. 0 is no bound.
    fn new(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        // Dropped, it counts down again.
        let counted = Self(count.clone());
        (most == 0 || before < most).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is counted of one client.
#[derive(Debug, Default)]
struct Client {
    connections: AtomicUsize,
    requests: Bucket,
    handshakes: Bucket,
    /// Requests, WebSockets, raw connections and flows of datagrams.
    open: Arc<AtomicUsize>,
}

/// The clients of an edge.
#[derive(Debug)]
pub(crate) struct Clients {
    rates: EdgeRates,
    known: Mutex<HashMap<IpAddr, Arc<Client>>>,
}

impl Clients {
    /// Nobody yet.
    pub(crate) fn new(rates: EdgeRates) -> Self {
        Self {
            rates,
            known: Mutex::default(),
        }
    }

    /// A client comes; `None` when it has too many connections already.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Visit> {
        self.enter_alone(key(address.to_canonical()))
    }

    /// The same, if no other address counts as this client: a machine of the node comes.
    pub(crate) fn enter_alone(&self, address: IpAddr) -> Option<Visit> {
        let client = (!address.is_loopback()).then(|| self.client(address));
        let visit = Visit {
            client,
            rates: self.rates,
        };
        let most = self.rates.client_connections;
        let is_one_too_many = visit.client.as_ref().is_some_and(|client| {
            let before = client.connections.fetch_add(1, Ordering::Relaxed);
            most > 0 && before >= most
        });
        // Dropped, it counts down again.
        (!is_one_too_many).then_some(visit)
    }

    fn client(&self, key: IpAddr) -> Arc<Client> {
        let mut known = self.known.lock();
        if known.len() >= limits::CLIENTS_MAX && !known.contains_key(&key) {
            // More than connections are possible, so this makes room for many.
            known.retain(|_, client| client.connections.load(Ordering::Relaxed) > 0);
        }
        known.entry(key).or_default().clone()
    }
}

/// One connection of a client; counted until dropped.
#[derive(Debug)]
pub(crate) struct Visit {
    /// None from the node itself.
    client: Option<Arc<Client>>,
    rates: EdgeRates,
}

impl Visit {
    /// Whether the client may send one more request now.
    pub(crate) fn may_ask(&self) -> bool {
        let client = self.client.as_ref();
        client.is_none_or(|client| client.requests.take(self.rates.client_requests))
    }

    /// Whether the client may begin TLS once more now.
    pub(crate) fn may_shake_hands(&self) -> bool {
        let client = self.client.as_ref();
        client.is_none_or(|client| client.handshakes.take(self.rates.client_handshakes))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(client) = &self.client {
            client.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The addresses that count as one client, by their first; loopback is itself.
pub(crate) fn key(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::{Bucket, Clients, EdgeRates};
    use crate::limits;
    use std::net::{IpAddr, Ipv4Addr};

    #[test]
    fn two_seconds_worth_may_come_at_once_and_then_the_rate_holds() {
        let bucket = Bucket::default();
        let taken = |now_us| (0..1000).filter(|_| bucket.take_at(now_us, 10)).count();
        assert_eq!(taken(0), 20);
        assert_eq!(taken(99_999), 0);
        assert_eq!(taken(100_000), 1);
        assert_eq!(taken(1_100_000), 10);
        assert_eq!(taken(100_000_000), 20, "no more is saved up");
        assert!((0..1000).all(|_| bucket.take(0)), "0 is no bound");
    }

    fn at_most(client_connections: usize) -> Clients {
        Clients::new(EdgeRates {
            client_connections,
            ..EdgeRates::default()
        })
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_64() {
        let clients = at_most(1);
        let enter = |address: &str| clients.enter(address.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none() && enter("::ffff:192.0.2.1").is_none());
        let _others = [enter("192.0.2.2").unwrap(), enter("2001:db8::1").unwrap()];
        assert!(enter("2001:db8::ffff:0:0:1").is_none());
        let _next = enter("2001:db8:0:1::1").unwrap();
        drop(first);
        let _again = enter("192.0.2.1").unwrap();
        let _node = [enter("127.0.0.1").unwrap(), enter("127.0.0.1").unwrap()];
        let machine = |address: &str| clients.enter_alone(address.parse().unwrap());
        let _machines = [machine("fdaa::2").unwrap(), machine("fdaa::3").unwrap()];
        assert!(machine("fdaa::2").is_none());
    }

    #[test]
    fn a_full_table_forgets_who_has_no_connection() {
        let clients = at_most(1);
        let stays = clients.enter(IpAddr::from([192, 0, 2, 1])).unwrap();
        for number in 0..u32::try_from(limits::CLIENTS_MAX).unwrap() * 2 {
            let address = Ipv4Addr::from_bits(0x0a00_0000 + number);
            drop(clients.enter(address.into()).unwrap());
            assert!(clients.known.lock().len() <= limits::CLIENTS_MAX);
        }
        assert!(clients.enter(IpAddr::from([192, 0, 2, 1])).is_none());
        drop(stays);
    }
}
