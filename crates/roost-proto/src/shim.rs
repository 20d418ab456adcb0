//! Control messages between the worker and the shim of one machine.
