//! The external ports that apps ask for, besides the shared 80 and 443: opened
//! and closed as the table changes.
//!
//! At a dedicated address all ports of its app are open, and all that comes there is for that app.
//! The rest is of the addresses that apps share.
//!
//! Apps whose streams say which app they are for share a port: HTTP by host
//! name, TLS by server name. A port whose stream says nothing is one app's
//! alone. Who has a port keeps it for as long as it wants it; among those that
//! come at once the name decides. The control plane refuses what would not be
//! given here, but it may be asked twice at once: so the edge decides too.

use crate::accept;
use crate::limits;
use crate::shared::Shared;
use crate::table::Routes;
use crate::udp;
use arc_swap::ArcSwap;
use roost_model::machine::{PortSharing, Protocol};
use roost_model::name::AppName;
use roost_proto::traffic::{PortStatus, PortTable};
use roost_runtime::tasks::Tasks;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What the streams of a port begin with, which says where they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// The host name of each request.
    Http,
    /// TLS, with the server's name.
    Tls,
    /// The same, after PostgreSQL's request for it.
    PgTls,
    /// Nothing: all are for this app.
    Raw(AppName),
}

impl Way {
    fn new(sharing: PortSharing, app: &AppName) -> Self {
        match sharing {
            PortSharing::Alone => Self::Raw(app.clone()),
            PortSharing::ByHost => Self::Http,
            PortSharing::ByServerName => Self::Tls,
            PortSharing::ByServerNameOfPostgres => Self::PgTls,
        }
    }
}

/// A port as its listener has it.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    /// The external port; 80 and 443 for the shared ones, whatever their numbers.
    pub(crate) external: u16,
    /// The dedicated address, whose app has all that comes.
    pub(crate) own: Option<IpAddr>,
    /// The way of a connection that comes now.
    pub(crate) way: Arc<ArcSwap<Way>>,
    /// Fires when the port is closed.
    pub(crate) closed: CancellationToken,
}

impl Door {
    /// A door of the addresses that apps share.
    pub(crate) fn new(external: u16, way: Way) -> Self {
        Self {
            external,
            own: None,
            way: Arc::new(ArcSwap::from_pointee(way)),
            closed: CancellationToken::new(),
        }
    }
}

/// An external port: each protocol has its own, and so has each dedicated address.
type Key = (Protocol, Option<IpAddr>, u16);

/// What the apps of the table get of the ports that they ask for.
#[derive(Default)]
struct Division {
    ways: BTreeMap<Key, Way>,
    /// Whoever asks for a port, and why it does not get it.
    asked: Vec<(AppName, Key, Option<String>)>,
}

/// Divides the ports among the apps; who has one already goes before others. Who has an address of
/// its own has all its ports there, but those of datagrams at a private one; with a dedicated one it
/// gets of the shared ports those that nobody else asks for.
fn divide(
    routes: &Routes,
    addresses: &BTreeMap<IpAddr, AppName>,
    is_private: impl Fn(IpAddr) -> bool,
    held: impl Fn(Key) -> Option<Way>,
) -> Division {
    let has = |address, protocol| protocol == Protocol::Tcp || !is_private(address);
    let mut asked: BTreeMap<Key, BTreeMap<&AppName, Way>> = BTreeMap::new();
    for app in routes.with_ports() {
        for port in app.own_ports() {
            let way = Way::new(port.rule.handler.sharing(), &app.name);
            let key = (port.protocol, None, port.number);
            asked.entry(key).or_default().insert(&app.name, way);
        }
    }
    let has_dedicated = |app: &AppName| {
        let mut addresses = addresses.iter();
        addresses.any(|(&address, with_own)| with_own == app && !is_private(address))
    };
    let mut division = Division::default();
    for (key, asked) in asked {
        let held = held(key).filter(|held| asked.values().any(|way| way == held));
        // After a restart nobody holds a port: one may be all that an app without an address has.
        let first = || {
            let mut ways = asked.iter();
            let without = ways.find(|&(&app, _)| !has_dedicated(app));
            without.or_else(|| asked.iter().next())
        };
        let Some(way) = held.or_else(|| first().map(|(_, way)| way.clone())) else {
            continue;
        };
        let holder = asked.iter().find(|(_, theirs)| **theirs == way);
        for (&app, theirs) in &asked {
            let why = holder.filter(|_| *theirs != way);
            let mut own = addresses.iter().filter(|(_, with_own)| *with_own == app);
            if why.is_some() && own.any(|(&address, _)| has(address, key.0)) {
                continue;
            }
            let why = why.map(|(holder, _)| format!("the app {holder} has this port"));
            division.asked.push((app.clone(), key, why));
        }
        division.ways.insert(key, way);
    }
    for (&address, name) in addresses {
        let app = routes.app(name.as_str());
        let ports = app.iter().flat_map(|app| app.ports());
        for port in ports.filter(|port| has(address, port.protocol)) {
            let way = Way::new(port.rule.handler.sharing(), name);
            let key = (port.protocol, Some(address), port.number);
            division.ways.insert(key, way);
            division.asked.push((name.clone(), key, None));
        }
    }
    division
}

/// The open ports: each is closed when its guard is dropped.
type OpenPorts = BTreeMap<Key, (Door, DropGuard)>;

/// Opens what is asked for now; then opens and closes ports until the edge ends.
pub(crate) fn follow(shared: Arc<Shared>, tasks: Tasks) -> impl Future<Output = ()> + Send {
    let mut changes = shared.router.changes();
    let mut open = OpenPorts::new();
    let mut all_open = apply(&shared, &tasks, &mut open);
    async move {
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep(limits::PORT_RETRY_INTERVAL), if !all_open => {}
                () = shared.graceful.cancelled() => return,
                () = shared.retired.cancelled() => {
                    // What has been accepted and waits for a place is served on.
                    shared.graceful.cancelled().await;
                    return;
                }
            }
            all_open = apply(&shared, &tasks, &mut open);
        }
    }
}

/// Brings the open ports in line with the routes, and publishes what became of
/// each. Whether all could be opened.
fn apply(shared: &Arc<Shared>, tasks: &Tasks, open: &mut OpenPorts) -> bool {
    let addresses = shared.names.addresses();
    let routes = shared.router.routes();
    let is_private = |address| shared.config.is_private(address);
    let division = divide(&routes, &addresses, is_private, |key| {
        let (door, _) = open.get(&key)?;
        Some(Way::clone(&door.way.load()))
    });
    open.retain(|key, _| division.ways.contains_key(key));
    let mut failed: BTreeMap<Key, String> = BTreeMap::new();
    for (key, way) in division.ways {
        if let Some((door, _)) = open.get(&key) {
            door.way.store(Arc::new(way));
            continue;
        }
        let (protocol, own, number) = key;
        let door = Door {
            own,
            ..Door::new(number, way)
        };
        let opened = match protocol {
            Protocol::Tcp => open_port(shared, tasks, &door),
            Protocol::Udp => open_datagrams(shared, tasks, &door),
        };
        match opened {
            Ok(()) => {
                let guard = door.closed.clone().drop_guard();
                open.insert(key, (door, guard));
            }
            Err(problem) => {
                failed.insert(key, problem);
            }
        }
    }
    let mut table = PortTable::new();
    for (app, key, refused) in division.asked {
        let problem = refused.or_else(|| failed.get(&key).cloned());
        let statuses = table.entry(app).or_default();
        let (protocol, address, port) = key;
        statuses.push(PortStatus {
            address,
            protocol,
            port,
            problem,
        });
    }
    shared.ports.send_if_modified(|published| {
        let is_new = **published != table;
        if is_new {
            *published = Arc::new(table);
        }
        is_new
    });
    failed.is_empty()
}

/// Where a door listens.
fn addresses_of(shared: &Shared, door: &Door) -> impl Iterator<Item = SocketAddr> {
    let shared_ips = shared.config.port_ips.iter().copied();
    let shared_ips = shared_ips.filter(|_| door.own.is_none());
    let ips = door.own.into_iter().chain(shared_ips);
    ips.map(|ip| SocketAddr::new(ip, door.external))
}

/// Listens at this port of its address or of all that apps share, or says why not.
fn open_port(shared: &Arc<Shared>, tasks: &Tasks, door: &Door) -> Result<(), String> {
    let addresses = addresses_of(shared, door);
    let _at = shared.lanes.first().enter();
    let listeners: Result<Vec<_>, String> = addresses
        .map(|address| {
            let listener = shared.sockets.listen(address);
            listener.map_err(|error| problem(Protocol::Tcp, address, &error))
        })
        .collect();
    for listener in listeners? {
        let accepting = accept::accept_loop(shared.clone(), listener, door.clone());
        tasks.spawn("edge-port", accepting);
    }
    Ok(())
}

/// The same for datagrams.
fn open_datagrams(shared: &Arc<Shared>, tasks: &Tasks, door: &Door) -> Result<(), String> {
    let addresses = addresses_of(shared, door);
    let sockets: Result<Vec<_>, String> = addresses
        .map(|address| {
            let socket = shared.sockets.take_datagrams(address);
            socket.map_err(|error| problem(Protocol::Udp, address, &error))
        })
        .collect();
    for socket in sockets? {
        let receiving = udp::receive_loop(shared.clone(), socket, door.clone());
        tasks.spawn("edge-datagrams", receiving);
    }
    Ok(())
}

fn problem(protocol: Protocol, address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let shows = match protocol {
                Protocol::Tcp => "ss -ltnp",
                Protocol::Udp => "ss -lunp",
            };
            format!("another program listens on {address} (`{shows}` shows it)")
        }
        io::ErrorKind::PermissionDenied => format!("roostd may not listen on {address}"),
        io::ErrorKind::AddrNotAvailable => {
            format!("no interface of this host has the address {}", address.ip())
        }
        _ => format!("roostd cannot listen on {address}: {error}"),
    }
}

#[cfg(test)]
mod tests;
