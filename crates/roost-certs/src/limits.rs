//! Bounds of certificates and of talk with their authorities.

use std::time::Duration;

/// Most bytes of a chain or a key as PEM.
pub const PEM_BYTES_MAX: usize = 64 * 1024;
/// Most certificates of one chain.
pub const CHAIN_MAX: usize = 10;
/// Longest wait for a connection to an authority.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for one whole answer of an authority.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of one answer.
pub(crate) const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// An order that has not come to its end after so long is given up.
pub(crate) const ORDER_MAX: Duration = Duration::from_secs(600);
/// Wait after the first failure, the second and so on; the last one for all that follow. Public
/// authorities take five failed validations of a name in an hour.
pub(crate) const BACKOFF: [Duration; 6] = [
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(6 * 3600),
    Duration::from_secs(24 * 3600),
];
/// Wait after an authority has said that it is too much and not for how long.
pub(crate) const RATE_LIMITED: Duration = Duration::from_secs(3600);
/// Longest wait that an authority may ask for.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
