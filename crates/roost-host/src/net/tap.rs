//! The way from a guest's network card to the machine's link.
//!
//! A virtual machine has a network namespace of its own, as a container has.
//! [`attach`](super::PacketPlumber::attach) puts `eth0` into it, and there the
//! machine is known to the host. The guest's card is a tap device in the same
//! namespace; [`connect`] wires the two together like the ends of a cable:
//!
//! ```text
//!   guest             namespace of the machine           host
//!   eth0 ─ hypervisor ─ tap0  ══════════  eth0  ───────  r1a2b-04050607
//!                         its own frames →
//!                                 ← all frames
//! ```
//!
//! - What leaves the guest has the machine's hardware address as its sender and
//!   is of a protocol that containers speak too. ARP speaks of the machine's own
//!   address only. That IP packets come from its own addresses is for the host's
//!   [`firewall`](super::firewall) to see, which is the same for all machines.
//! - Nothing else leaves: other frames reach the namespace's own network
//!   stack, which is left without addresses, without IPv6 and without
//!   forwarding. So it answers none and hands none on, and the hypervisor
//!   itself has no network either.
//! - Frames are moved within the kernel, with checksums and segments still to
//!   be computed where both ends can do so.
//!
//! All this ends with the namespace: nothing of it is on the host.

use super::PlumbError;
use super::addresses::GuestNetwork;
use super::linux::{has_ipv6, write_setting};
use super::netlink::{Link, Netlink, Netns, OnLink as _, run_in};
use rtnetlink::LinkUnspec;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

#[expect(
    unsafe_code,
    reason = "tap devices have no safe wrapper; all calls of this module are there"
)]
mod sys;
mod traffic;

use traffic::Frames;

/// How long a queue may be somebody else's before that is an error, and the pause between looks.
const QUEUE_BUSY_MAX: Duration = Duration::from_millis(200);
const QUEUE_BUSY_PAUSE: Duration = Duration::from_millis(2);

/// Protocols as numbered in the Ethernet header.
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Where an Ethernet header has the sender, seen from the header's end.
const SENDER: i32 = -8;
/// Where an ARP packet has the sender's hardware address (RFC 826)…
const ARP_SENDER: i32 = 8;
/// … and its IPv4 address.
const ARP_SENDER_IPV4: i32 = 14;

/// A tap device: an Ethernet link whose other end is a file descriptor.
///
/// It is of the network namespace of the thread that made it, has one queue,
/// lasts when no queue is open, and ends with the namespace. Each frame has a
/// virtio network header before it, as hypervisors want.
#[derive(Debug, Clone)]
pub struct Tap {
    name: String,
}

/// Most bytes per second, frame by frame; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// From the guest to the host.
    pub from_guest: Option<NonZeroU64>,
    /// From the host to the guest.
    pub to_guest: Option<NonZeroU64>,
}

impl Tap {
    /// Makes the device in the calling thread's network namespace, still down.
    ///
    /// The owner is a user id of the host, which needs no capability to open
    /// the queue by the device's name from within the namespace. One that
    /// exists already is taken over; it must have no open queue.
    pub fn create(name: &str, owner: u32) -> Result<Self, PlumbError> {
        let operation = || format!("create tap device {name}");
        let queue = sys::open_queue(name).on(operation)?;
        sys::set_owner(&queue, owner).on(operation)?;
        sys::set_persistent(&queue).on(operation)?;
        Ok(Self {
            name: name.to_owned(),
        })
    }

    /// The device's name, for a hypervisor that opens it by itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens the only queue, for a hypervisor that is given the descriptor.
    ///
    /// The descriptor does not block and is closed on `exec`. While it is open
    /// nobody else can open the queue; one that is only just closed is waited for, on this thread:
    /// a child that was forked meanwhile has it until its `exec`.
    pub fn open_queue(&self) -> Result<OwnedFd, PlumbError> {
        let begun = Instant::now();
        loop {
            match sys::open_queue(&self.name) {
                Err(error)
                    if error.raw_os_error() == Some(libc::EBUSY)
                        && begun.elapsed() < QUEUE_BUSY_MAX =>
                {
                    std::thread::sleep(QUEUE_BUSY_PAUSE);
                }
                opened => {
                    let opened = opened.on(|| format!("open tap device {}", self.name));
                    return Ok(opened?.into());
                }
            }
        }
    }
}

/// Connects a tap device with the machine's link of the same network namespace,
/// that of the calling thread, and brings the tap device up.
///
/// Takes the link's addresses away from the namespace: they are the guest's.
/// The guest is to be told `network`, since frames that do not agree with it do
/// not leave. Idempotent: a repeated call replaces what an earlier one has set.
pub async fn connect(
    tap: &Tap,
    link: &str,
    network: GuestNetwork,
    limits: RateLimits,
) -> Result<(), PlumbError> {
    let names = [tap.name.clone(), link.to_owned()];
    run_in(Netns::Own, async move |netlink: Netlink| {
        let [tap, link] = names;
        let tap = netlink.expect_link(&tap).await?;
        let link = netlink.expect_link(&link).await?;
        for end in [&tap, &link] {
            take_from_stack(&netlink, end).await?;
        }
        traffic::limit(&netlink, &link, limits.from_guest).await?;
        traffic::limit(&netlink, &tap, limits.to_guest).await?;
        traffic::redirect(&netlink, &link, &tap, [Frames::all()]).await?;
        traffic::redirect(&netlink, &tap, &link, frames_of(network)).await?;
        let up = LinkUnspec::new_with_index(tap.index).mtu(network.mtu).up();
        netlink.change_link(up.build(), &tap.name).await
    })
    .await
}

/// What a guest may send.
fn frames_of(network: GuestNetwork) -> [Frames; 3] {
    let own = network.hardware_address;
    let [arp, ipv4, ipv6] = [ARP, IPV4, IPV6].map(|kind| Frames::of(kind).with(SENDER, &own));
    let arp = arp
        .with(ARP_SENDER, &own)
        .with(ARP_SENDER_IPV4, &network.addresses.ipv4.octets());
    [arp, ipv4, ipv6]
}

/// Leaves the namespace's own network stack nothing to answer with on this link.
async fn take_from_stack(netlink: &Netlink, link: &Link) -> Result<(), PlumbError> {
    if has_ipv6() {
        write_setting("ipv6", &link.name, "disable_ipv6", "1")?;
    }
    // A new namespace takes the host's setting of forwarding.
    write_setting("ipv4", &link.name, "forwarding", "0")?;
    // Answer no ARP request, whatever the address.
    write_setting("ipv4", &link.name, "arp_ignore", "8")?;
    netlink.clear_addresses(link).await
}

#[cfg(test)]
mod tests;
