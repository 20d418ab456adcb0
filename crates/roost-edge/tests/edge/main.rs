//! The edge against real sockets: clients on one side, small servers as
//! machines on the other.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod addresses;
mod affinity;
mod answers;
mod asking;
mod backends;
mod bad_input;
mod compress;
mod first_bytes;
mod h2_conformance;
mod h2_floods;
mod h2_machines;
mod h2_streams;
mod hardening;
mod hostile;
mod lanes;
mod limits;
mod names;
mod options;
mod overload;
mod patience;
mod protocols;
mod rates;
mod raw;
mod relay;
mod relay_datagrams;
mod relay_distance;
mod relay_loads;
mod relay_streams;
mod relay_tallies;
mod replay;
mod replay_cache;
mod restart;
mod rfc9112;
mod rollout;
mod routing;
mod seeing;
mod statics;
mod tcp;
mod tickets;
mod udp;
mod wake;
mod wire;
mod world;
