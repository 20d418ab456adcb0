//! Session affinity: requests of one client, or with the same header, go to one machine while that
//! takes them.
//!
//! It is a wish that gives way: to a machine that the client asks for, to replays, to the side of a
//! split, to health and hard limits. The edge keeps nothing: a cookie names its machine, and for
//! a header each edge computes the same one.

use crate::choose::Candidate;
use crate::headers;
use crate::split::number_of;
use crate::table::Target;
use http::{HeaderMap, HeaderValue};
use roost_model::id::MachineId;
use roost_model::machine::SessionKey;
use std::ops::Range;

/// What a request has in common with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Affinity {
    /// Clients stay where their cookie of this name says; the machine, once they have one.
    Cookie {
        name: String,
        machine: Option<MachineId>,
    },
    /// A number that is the same for the same value of the header.
    Header(u64),
}

impl Affinity {
    /// What a request says. The cookie is the edge's own: the app does not see it.
    pub(crate) fn take(key: &SessionKey, headers: &mut HeaderMap) -> Option<Self> {
        match key {
            SessionKey::Cookie(name) => {
                // What is no id was not set here: the app may have one of the same name and another
                // path or domain.
                let id = |value| MachineId::parse(std::str::from_utf8(value).ok()?).ok();
                let machine = headers::cookies(headers, name).find_map(id);
                headers::take_cookie(headers, name);
                let name = name.clone();
                Some(Self::Cookie { name, machine })
            }
            SessionKey::Header(name) => {
                let value = headers.get(name.as_str())?.as_bytes();
                (!value.is_empty()).then(|| Self::Header(number_of(&[value])))
            }
        }
    }

    /// The machine that the request goes to, of those that are numbered class by class, the nearest
    /// class first; `None` when there is none, or it takes nothing now.
    pub(crate) fn choose<'a>(
        &self,
        classes: &[Range<usize>],
        id: impl Fn(usize) -> &'a str,
        look: impl Fn(usize) -> Candidate,
    ) -> Option<usize> {
        match self {
            Self::Cookie { machine, .. } => {
                let machine = machine.as_ref()?.as_str();
                let mut all = classes.iter().cloned().flatten();
                let number = all.find(|number| id(*number) == machine)?;
                look(number).is_open().then_some(number)
            }
            Self::Header(value) => {
                let of_class = |class: &Range<usize>| {
                    let open = class.clone().filter(|number| look(*number).is_open());
                    open.max_by_key(|number| (weight(*value, id(*number)), id(*number)))
                };
                classes.iter().find_map(of_class)
            }
        }
    }

    /// Whether it has brought a request to this machine, as far as can be told.
    pub(crate) fn is_for(&self, target: &Target) -> bool {
        match self {
            Self::Cookie { machine, .. } => machine.as_ref() == Some(&target.endpoint.machine_id),
            Self::Header(_) => true,
        }
    }

    /// The cookie that brings the client's next request to this machine, unless it has it.
    pub(crate) fn cookie_for(&self, target: &Target, is_tls: bool) -> Option<HeaderValue> {
        let Self::Cookie { name, .. } = self else {
            return None;
        };
        if self.is_for(target) {
            return None;
        }
        let secure = if is_tls { "; Secure" } else { "" };
        let id = &target.endpoint.machine_id;
        let text = format!("{name}={id}; Path=/; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::from_str(&text).ok()
    }
}

/// What a machine weighs for a value: the heaviest one gets it (rendezvous hashing). The same on
/// each edge and in each version.
fn weight(value: u64, machine: &str) -> u64 {
    let number = number_of(&[&value.to_be_bytes(), machine.as_bytes()]);
    // The finalizer of SplitMix64: the last bytes of an id have to reach the upper bits as well.
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests;
