//! Who may do what, and what is kept sealed: bearer tokens, the authorisation
//! choke point, sealed values; and who is who: the authority of certificates
//! for names, and that of the cluster's nodes; and the keys of session tickets.

#![forbid(unsafe_code)]

pub mod authority;
pub mod cluster;
pub mod policy;
pub mod seal;
pub mod tickets;
pub mod token;
