//! Route netlink in a network namespace of choice.
//!
//! A netlink socket belongs to the namespace of the thread that opened it, so
//! each piece of work runs on a short-lived thread of its own: it enters the
//! namespace, opens the socket, works and ends. Threads of the runtime never
//! change namespace. Dropping the future leaves the thread to finish its work.

use super::PlumbError;
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, RouteMessageBuilder};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// Whose network namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Netns {
    /// That of the calling thread.
    Own,
    /// That of a process. It may belong to another user namespace.
    OfProcess(u32),
}

/// Runs netlink work in a namespace.
pub(crate) async fn run_in<T, W, F>(netns: Netns, work: W) -> Result<T, PlumbError>
where
    T: Send + 'static,
    W: FnOnce(Netlink) -> F + Send + 'static,
    F: Future<Output = Result<T, PlumbError>>,
{
    let (tx, rx) = tokio::sync::oneshot::channel();
    let thread = move || {
        // Nobody waits any more when the caller's future was dropped.
        drop(tx.send(run_blocking(netns, work)));
    };
    std::thread::Builder::new()
        .name("netlink".to_owned())
        .spawn(thread)
        .on(|| "start a netlink thread".to_owned())?;
    let ended = |_| io::Error::other("the netlink thread ended early");
    rx.await
        .map_err(ended)
        .on(|| "wait for netlink".to_owned())?
}

fn run_blocking<T, W, F>(netns: Netns, work: W) -> Result<T, PlumbError>
where
    W: FnOnce(Netlink) -> F,
    F: Future<Output = Result<T, PlumbError>>,
{
    if let Netns::OfProcess(pid) = netns {
        enter(pid)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .on(|| "start a runtime for netlink".to_owned())?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().on(|| "open a netlink socket".to_owned())?;
        // Ends with this scope, and the connection with it.
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(connection);
        work(Netlink { handle }).await
    })
}

fn enter(pid: u32) -> Result<(), PlumbError> {
    let path = format!("/proc/{pid}/ns/net");
    let operation = || format!("enter the network namespace of process {pid}");
    let file = File::open(&path).on(operation)?;
    if is_same_namespace(Path::new(&path)).on(operation)? {
        return Err(PlumbError::NotIsolated(pid));
    }
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(io::Error::from)
        .on(operation)
}

/// Whether a network namespace is that of this thread.
pub(crate) fn is_same_namespace(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let [ours, other] = [Path::new("/proc/thread-self/ns/net"), path].map(std::fs::metadata);
    let (ours, other) = (ours?, other?);
    Ok((ours.dev(), ours.ino()) == (other.dev(), other.ino()))
}

/// Adds to an error what was attempted.
pub(crate) trait OnLink<T> {
    fn on(self, operation: impl FnOnce() -> String) -> Result<T, PlumbError>;
}

impl<T> OnLink<T> for io::Result<T> {
    fn on(self, operation: impl FnOnce() -> String) -> Result<T, PlumbError> {
        self.map_err(|source| PlumbError::Netlink {
            operation: operation(),
            source,
        })
    }
}

impl<T> OnLink<T> for Result<T, rtnetlink::Error> {
    fn on(self, operation: impl FnOnce() -> String) -> Result<T, PlumbError> {
        self.map_err(io_error).on(operation)
    }
}

fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        // The kernel's answer is a negative errno.
        rtnetlink::Error::NetlinkError(message) => {
            io::Error::from_raw_os_error(-message.raw_code())
        }
        other => io::Error::other(other),
    }
}

/// A link of the namespace.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
}

/// A route to one address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoundRoute {
    pub(crate) destination: IpAddr,
    pub(crate) prefix: u8,
    pub(crate) link_index: Option<u32>,
    pub(crate) is_static: bool,
}

/// An open netlink socket.
#[derive(Debug, Clone)]
pub(crate) struct Netlink {
    pub(crate) handle: Handle,
}

impl Netlink {
    /// The links whose names begin with this.
    pub(crate) async fn links(&self, prefix: &str) -> Result<Vec<Link>, PlumbError> {
        let messages: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .on(|| "list links".to_owned())?;
        let links = messages.iter().filter_map(read_link);
        Ok(links.filter(|link| link.name.starts_with(prefix)).collect())
    }

    /// The link of this name, if there is one.
    pub(crate) async fn link(&self, name: &str) -> Result<Option<Link>, PlumbError> {
        Ok(self
            .links(name)
            .await?
            .into_iter()
            .find(|link| link.name == name))
    }

    /// The link of this name, which must be there.
    pub(crate) async fn expect_link(&self, name: &str) -> Result<Link, PlumbError> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        self.link(name)
            .await?
            .ok_or_else(missing)
            .on(|| format!("find link {name}"))
    }

    /// Deletes a link; one that has gone meanwhile is fine.
    pub(crate) async fn delete_link(&self, link: &Link) -> Result<(), PlumbError> {
        match self
            .handle
            .link()
            .del(link.index)
            .execute()
            .await
            .map_err(io_error)
        {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            result => result.on(|| format!("delete link {}", link.name)),
        }
    }

    /// Sends a change of a link.
    pub(crate) async fn change_link(
        &self,
        message: LinkMessage,
        name: &str,
    ) -> Result<(), PlumbError> {
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .on(|| format!("change link {name}"))
    }

    /// Adds an address that works at once, without a search for duplicates.
    pub(crate) async fn add_address(
        &self,
        link: &Link,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), PlumbError> {
        let mut request = self.handle.address().add(link.index, address, prefix);
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request
            .execute()
            .await
            .on(|| format!("add address {address} to {}", link.name))
    }

    /// Takes all addresses of a link away.
    pub(crate) async fn clear_addresses(&self, link: &Link) -> Result<(), PlumbError> {
        let operation = || format!("take the addresses of {} away", link.name);
        let handle = self.handle.address();
        let listed = handle.get().set_link_index_filter(link.index).execute();
        let addresses: Vec<AddressMessage> = listed.try_collect().await.on(operation)?;
        for address in addresses {
            match handle.del(address).execute().await.map_err(io_error) {
                // Went meanwhile, by itself or with another one.
                Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                result => result.on(operation)?,
            }
        }
        Ok(())
    }

    /// Sends a request for which the handle has no method, and waits until it is done.
    pub(crate) async fn send(&self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut handle = self.handle.clone();
        let mut answers = handle.request(message).map_err(io_error)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                return Err(io_error(rtnetlink::Error::NetlinkError(error)));
            }
        }
        Ok(())
    }

    /// Adds a route.
    pub(crate) async fn add_route(
        &self,
        route: RouteMessage,
        what: &str,
    ) -> Result<(), PlumbError> {
        self.handle
            .route()
            .add(route)
            .execute()
            .await
            .on(|| format!("add {what}"))
    }

    /// All routes of both families in a table of this number.
    pub(crate) async fn routes_of_table(
        &self,
        table: u32,
    ) -> Result<Vec<RouteMessage>, PlumbError> {
        let ipv4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let ipv6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
        let mut found = Vec::new();
        for family in [ipv4, ipv6] {
            let routes = self.handle.route().get(family).execute();
            let messages: Vec<RouteMessage> =
                routes.try_collect().await.on(|| "list routes".to_owned())?;
            let is_of =
                |route: &RouteMessage| route.attributes.contains(&RouteAttribute::Table(table));
            found.extend(messages.into_iter().filter(is_of));
        }
        Ok(found)
    }

    /// All routes of both families that have a destination.
    pub(crate) async fn routes(&self) -> Result<Vec<FoundRoute>, PlumbError> {
        let ipv4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let ipv6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
        let mut found = Vec::new();
        for family in [ipv4, ipv6] {
            let routes = self.handle.route().get(family).execute();
            let messages: Vec<RouteMessage> =
                routes.try_collect().await.on(|| "list routes".to_owned())?;
            found.extend(messages.iter().filter_map(read_route));
        }
        Ok(found)
    }
}

fn read_link(message: &LinkMessage) -> Option<Link> {
    let mut name = None;
    let mut alias = None;
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(text) = attribute {
            name = Some(text.clone());
        } else if let LinkAttribute::IfAlias(text) = attribute {
            alias = Some(text.clone());
        }
    }
    Some(Link {
        index: message.header.index,
        name: name?,
        alias,
    })
}

fn read_route(message: &RouteMessage) -> Option<FoundRoute> {
    let mut destination = None;
    let mut link_index = None;
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            destination = match address {
                RouteAddress::Inet(ipv4) => Some(IpAddr::V4(*ipv4)),
                RouteAddress::Inet6(ipv6) => Some(IpAddr::V6(*ipv6)),
                _ => None,
            };
        } else if let RouteAttribute::Oif(index) = attribute {
            link_index = Some(*index);
        }
    }
    Some(FoundRoute {
        destination: destination?,
        prefix: message.header.destination_prefix_length,
        link_index,
        is_static: message.header.protocol == rtnetlink::packet_route::route::RouteProtocol::Static,
    })
}
