//! Leases: while one holds, nobody else changes the machine.

use roost_model::id::InstanceId;
use roost_model::time::Timestamp;
use std::time::Duration;

/// What proves that a lease is one's own. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct LeaseNonce(String);

impl LeaseNonce {
    /// Longest text of a nonce.
    pub const BYTES_MAX: usize = 128;

    /// A nonce that somebody gave: 1 to [`Self::BYTES_MAX`] visible ASCII characters.
    pub fn parse(text: &str) -> Option<Self> {
        let is_valid = (1..=Self::BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_valid.then(|| Self(text.to_owned()))
    }

    /// A new one of these random bytes.
    pub fn from_bytes(random: [u8; 16]) -> Self {
        Self(random.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The text, for its holder.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for LeaseNonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeaseNonce(…)")
    }
}

/// A request for a lease, or for more time of one that the asker holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeLease {
    /// Chosen by the caller, so that a repeated request is the same one.
    pub nonce: LeaseNonce,
    /// From now; at most [`Lease::TTL_MAX`].
    pub ttl: Duration,
    /// What it is for, for people; at most [`Lease::DESCRIPTION_BYTES_MAX`].
    pub description: String,
}

/// A lease as everybody may see it: without its nonce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who took it, for people.
    pub owner: String,
    /// What it is for, for people.
    pub description: String,
    /// The version that the machine had when it was taken.
    pub version: InstanceId,
    /// From then on it holds no more.
    pub expires_at: Timestamp,
    /// Whether the asker is its holder: gave its nonce.
    pub is_own: bool,
}

impl Lease {
    /// Longest time that a lease is given at once.
    pub const TTL_MAX: Duration = Duration::from_secs(3_600);
    /// Longest text that says what it is for.
    pub const DESCRIPTION_BYTES_MAX: usize = 256;
}

/// How a lease is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseLease {
    /// By its holder, who gives its nonce.
    Own,
    /// By anybody, whoever holds it; this is kept in the machine's history.
    Any,
}

#[cfg(test)]
mod tests {
    use super::LeaseNonce;

    #[test]
    fn a_nonce_is_bounded_printable_and_not_in_debug_output() {
        let nonce = LeaseNonce::from_bytes([0xab; 16]);
        assert_eq!(LeaseNonce::parse(nonce.expose()), Some(nonce.clone()));
        assert!(!format!("{nonce:?}").contains("ab"));
        let longest = "x".repeat(LeaseNonce::BYTES_MAX);
        assert!(LeaseNonce::parse(&longest).is_some());
        for bad in ["", "a b", "a\n", "ä", &format!("{longest}x")] {
            assert_eq!(LeaseNonce::parse(bad), None, "{bad}");
        }
    }
}
