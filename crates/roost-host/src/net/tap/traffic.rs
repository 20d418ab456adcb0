//! Traffic control by netlink: redirects between two links, and rate limits.
//!
//! The messages are those of `tc-u32(8)`, `tc-mirred(8)` and `tc-tbf(8)`.

use crate::net::PlumbError;
use crate::net::netlink::{Link, Netlink, OnLink as _};
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption,
    TcActionOption, TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage,
    TcMirror, TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use std::num::NonZeroU64;

/// The queueing discipline at which frames arrive, `ffff:`.
const INGRESS: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};

/// `ETH_P_ALL` of `linux/if_ether.h`.
const ANY_ETHER_TYPE: u16 = 3;

/// `TCA_TBF_PARMS`, `TCA_TBF_RATE64` and `TCA_TBF_BURST` of `linux/pkt_sched.h`.
const TBF_PARAMETERS: u16 = 1;
const TBF_RATE_64: u16 = 4;
const TBF_BURST: u16 = 6;
/// `TC_LINKLAYER_ETHERNET`: a frame costs its length.
const LINK_LAYER_ETHERNET: u8 = 1;

/// What may be sent at once after a silence, as a part of a second at the rate.
const BURST_PER_SECOND: u64 = 50;
/// The longest frame that a sender hands over is sent whole: 64 KiB and its headers.
const BURST_BYTES_MIN: u32 = 66 * 1024;
/// What waits for its turn, as a part of a second at the rate; more is dropped.
const QUEUE_PER_SECOND: u64 = 10;
/// At low rates the queue still holds a few of the longest frames.
const QUEUE_BYTES_MIN: u32 = 256 * 1024;

/// Which frames a redirect takes.
#[derive(Debug, Clone)]
pub(super) struct Frames {
    ether_type: u16,
    keys: Vec<TcU32Key>,
}

impl Frames {
    /// Each one.
    pub(super) fn all() -> Self {
        Self::of(ANY_ETHER_TYPE)
    }

    /// Those of one protocol, by its number in the Ethernet header.
    pub(super) fn of(ether_type: u16) -> Self {
        Self {
            ether_type,
            keys: Vec::new(),
        }
    }

    /// Only those that have these bytes at this offset from the Ethernet header's end.
    pub(super) fn with(mut self, offset: i32, bytes: &[u8]) -> Self {
        for (word, place) in bytes.chunks(4).zip((offset..).step_by(4)) {
            let mut key = TcU32Key::default();
            key.off = place;
            for (idx, byte) in word.iter().enumerate() {
                let shift = 24 - 8 * idx;
                key.val |= u32::from(*byte) << shift;
                key.mask |= 0xff << shift;
            }
            self.keys.push(key);
        }
        self
    }
}

/// Sends frames that arrive at one link out of another one, by all of these rules.
///
/// Replaces what was there. Frames that no rule takes go on to the namespace's
/// own network stack.
pub(super) async fn redirect(
    netlink: &Netlink,
    from: &Link,
    to: &Link,
    rules: impl IntoIterator<Item = Frames>,
) -> Result<(), PlumbError> {
    remove(netlink, from, INGRESS, TcHandle::INGRESS).await?;
    let mut ingress = message(from, INGRESS, TcHandle::INGRESS);
    ingress
        .attributes
        .push(TcAttribute::Kind("ingress".to_owned()));
    netlink
        .send(
            RouteNetlinkMessage::NewQueueDiscipline(ingress),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await
        .on(|| format!("take the frames that arrive at {}", from.name))?;
    for (priority, frames) in (1..).zip(rules) {
        netlink
            .send(
                RouteNetlinkMessage::NewTrafficFilter(filter(from, to, priority, frames)),
                NLM_F_CREATE | NLM_F_EXCL,
            )
            .await
            .on(|| format!("redirect frames from {} to {}", from.name, to.name))?;
    }
    Ok(())
}

/// Limits what leaves by a link, in bytes per second; `None` takes a limit away.
pub(super) async fn limit(
    netlink: &Netlink,
    link: &Link,
    rate: Option<NonZeroU64>,
) -> Result<(), PlumbError> {
    remove(netlink, link, TcHandle::UNSPEC, TcHandle::ROOT).await?;
    let Some(rate) = rate else {
        return Ok(());
    };
    let mut bucket = message(link, TcHandle::UNSPEC, TcHandle::ROOT);
    bucket.attributes.extend([
        TcAttribute::Kind("tbf".to_owned()),
        TcAttribute::Options(token_bucket(rate.get())),
    ]);
    netlink
        .send(
            RouteNetlinkMessage::NewQueueDiscipline(bucket),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await
        .on(|| format!("limit the rate of {}", link.name))
}

/// Removes a queueing discipline with its filters; none is fine.
async fn remove(
    netlink: &Netlink,
    link: &Link,
    handle: TcHandle,
    parent: TcHandle,
) -> Result<(), PlumbError> {
    let request = RouteNetlinkMessage::DelQueueDiscipline(message(link, handle, parent));
    match netlink.send(request, 0).await {
        // There is none, or only the one that the kernel gives to each link.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
        result => result.on(|| format!("remove a queueing discipline of {}", link.name)),
    }
}

fn message(link: &Link, handle: TcHandle, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(link.index.cast_signed());
    message.header.handle = handle;
    message.header.parent = parent;
    message
}

fn filter(from: &Link, to: &Link, priority: u16, frames: Frames) -> TcMessage {
    let mut keys = frames.keys;
    if keys.is_empty() {
        // A filter has at least one key; this one matches anything.
        keys.push(TcU32Key::default());
    }
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = u8::try_from(keys.len()).unwrap_or(u8::MAX);
    selector.keys = keys;
    let options = [
        TcFilterU32Option::Selector(selector),
        TcFilterU32Option::Action(vec![redirect_action(to)]),
    ];
    let mut message = message(from, TcHandle::UNSPEC, INGRESS);
    message.header.info = TcHandle {
        major: priority,
        minor: frames.ether_type.to_be(),
    }
    .into();
    message.attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
        TcAttribute::Options(options.map(TcOption::U32).to_vec()),
    ];
    message
}

fn redirect_action(to: &Link) -> TcAction {
    let mut generic = TcActionGeneric::default();
    generic.action = TcActionType::Stolen;
    let mut redirect = TcMirror::default();
    redirect.generic = generic;
    redirect.eaction = TcMirrorActionType::EgressRedir;
    redirect.ifindex = to.index;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            redirect,
        ))]),
    ];
    action
}

/// `struct tc_tbf_qopt` of `linux/pkt_sched.h` and what overrides its narrow fields.
fn token_bucket(rate: u64) -> Vec<TcOption> {
    let part = |per_second: u64, min: u32| {
        let n_bytes = u32::try_from(rate / per_second).unwrap_or(u32::MAX);
        n_bytes.max(min)
    };
    let mut parameters = Vec::with_capacity(36);
    // The rate: a `struct tc_ratespec`.
    parameters.extend([0, LINK_LAYER_ETHERNET, 0, 0, 0, 0, 0, 0]);
    parameters.extend(u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    // The peak rate: none.
    parameters.extend([0; 12]);
    parameters.extend(part(QUEUE_PER_SECOND, QUEUE_BYTES_MIN).to_ne_bytes());
    // The burst as a time, which its length in bytes overrides, and that at the peak rate.
    parameters.extend([0; 8]);
    let burst = part(BURST_PER_SECOND, BURST_BYTES_MIN);
    let options = [
        (TBF_PARAMETERS, parameters),
        (TBF_RATE_64, rate.to_ne_bytes().to_vec()),
        (TBF_BURST, burst.to_ne_bytes().to_vec()),
    ];
    options
        .map(|(kind, value)| TcOption::Other(DefaultNla::new(kind, value)))
        .to_vec()
}
