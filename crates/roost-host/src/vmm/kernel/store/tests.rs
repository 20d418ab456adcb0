//! The store over restarts, damage and removal.
