//! Who may do what, and what is kept sealed: bearer tokens, the authorisation
//! choke point, sealed values.

#![forbid(unsafe_code)]

pub mod authority;
pub mod policy;
pub mod seal;
pub mod token;
