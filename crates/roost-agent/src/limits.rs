//! What either side bears of the other.

/// Most bytes of one message; a boot request carries the machine's files.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most bytes of data in one part of output, input or a file.
pub const PART_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of one message that the node takes from a guest.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;
