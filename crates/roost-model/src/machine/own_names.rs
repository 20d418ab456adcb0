//! The names by which a machine knows its own addresses.

use std::net::IpAddr;

/// By which an app binds to its private addresses.
const PRIVATE: &str = "fly-local-6pn";
/// By which an app binds to the address where the datagrams of its services come.
const DATAGRAMS: &str = "fly-global-services";

/// The names of one of a machine's addresses, for its `/etc/hosts`.
///
/// The edge sends datagrams to the IPv4 address. The other one does not have the name: an app
/// that was given it first would bind where nothing comes.
pub fn own_names(machine_id: &str, address: IpAddr) -> Vec<&str> {
    let mut names = vec![machine_id, PRIVATE];
    if address.is_ipv4() {
        names.push(DATAGRAMS);
    }
    names
}
