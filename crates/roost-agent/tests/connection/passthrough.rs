//! Others on the host use the connection too.
