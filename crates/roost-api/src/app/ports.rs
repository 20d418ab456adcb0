//! External ports of apps, besides 80 and 443, which all share.
//!
//! At a dedicated address its app has all its ports. Of those that apps share the edge decides who
//! has a port. Here a request for one that is another
//! app's is refused before anything changes; of two requests at once one is
//! told by its status.

use super::addresses;
use crate::error::ApiError;
use crate::state::ApiState;
use roost_model::machine::{MachineState, PortRange, PortSharing, Protocol, Service, ServicePort};
use roost_model::name::AppName;
use roost_proto::rest::AppPort;
use roost_store::addresses::{AddressKind, AddressRecord};

/// Refuses services at ports that another app has and cannot share.
pub(crate) async fn refuse_taken(
    state: &ApiState,
    app: &AppName,
    services: &[Service],
) -> Result<(), ApiError> {
    let mut wanted: Vec<_> = own(services).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let addresses = addresses::in_use(state).await?;
    let has_own = |app: &AppName, protocol: Protocol| {
        // Datagrams do not come to private ones.
        let has =
            |own: &AddressRecord| protocol == Protocol::Tcp || own.kind != AddressKind::PrivateV6;
        addresses.iter().any(|own| own.app == *app && has(own))
    };
    wanted.retain(|(protocol, _)| !has_own(app, *protocol));
    if wanted.is_empty() {
        return Ok(());
    }
    for machine in state.worker.machines(None).await? {
        let is_going = matches!(
            machine.state,
            MachineState::Destroying | MachineState::Destroyed
        );
        if is_going || machine.spec.app == *app {
            continue;
        }
        for taken in own(&machine.spec.services) {
            let mut wanted = wanted.iter();
            let Some(port) = wanted.find(|port| exclude_each_other(**port, taken)) else {
                continue;
            };
            let (holder, (protocol, port)) = (&machine.spec.app, port);
            // One that lacks nothing without the port goes after others, unless it has it already.
            if has_own(holder, *protocol) && !is_served(state, holder, *protocol, port.ports) {
                continue;
            }
            let (what, hint) = match protocol {
                Protocol::Tcp => (
                    "port",
                    "choose another port, or give the app an address of its own (`roost ips allocate-v4`); with the same of the handlers tls, pg_tls or http apps share one",
                ),
                Protocol::Udp => (
                    "udp port",
                    "choose another port, or give the app an address of its own (`roost ips allocate-v4`)",
                ),
            };
            let message = format!("{what} {} is the app `{holder}`'s", port.ports);
            return Err(ApiError::conflict("port-taken", message).with_hint(hint));
        }
    }
    Ok(())
}

/// Whether the edge serves an app at one of these ports of the addresses that apps share.
fn is_served(state: &ApiState, app: &AppName, protocol: Protocol, ports: PortRange) -> bool {
    let Some(feed) = state.edge_ports.get() else {
        return false;
    };
    let table = feed.borrow().clone();
    let mut statuses = table.get(app).into_iter().flatten();
    statuses.any(|status| {
        let is_shared = status.address.is_none() && status.problem.is_none();
        is_shared && status.protocol == protocol && ports.contains(status.port)
    })
}

/// The ports that are not the shared ones.
fn own(services: &[Service]) -> impl Iterator<Item = (Protocol, &ServicePort)> {
    let shared = [Service::HTTP_PORT, Service::HTTPS_PORT];
    let ports = services.iter().flat_map(|service| {
        let ports = service.ports.iter();
        ports.map(|port| (service.protocol, port))
    });
    ports.filter(move |(protocol, port)| {
        let mut numbers = port.ports.iter();
        *protocol != Protocol::Tcp || !numbers.all(|number| shared.contains(&number))
    })
}

fn exclude_each_other(a: (Protocol, &ServicePort), b: (Protocol, &ServicePort)) -> bool {
    let ((protocol_a, a), (protocol_b, b)) = (a, b);
    let (of_a, of_b) = (a.handler.sharing(), b.handler.sharing());
    protocol_a == protocol_b
        && a.ports.overlaps(b.ports)
        && (of_a == PortSharing::Alone || of_a != of_b)
}

/// What became of the ports of an app.
pub(crate) fn of_app(state: &ApiState, app: &AppName) -> Vec<AppPort> {
    let Some(feed) = state.edge_ports.get() else {
        return vec![];
    };
    let table = feed.borrow().clone();
    let ports = table.get(app).map_or(&[][..], Vec::as_slice);
    let view = |status: &roost_proto::traffic::PortStatus| AppPort {
        address: status.address.map(|address| address.to_string()),
        protocol: status.protocol.as_str().to_owned(),
        port: status.port,
        problem: status.problem.clone(),
    };
    ports.iter().map(view).collect()
}
