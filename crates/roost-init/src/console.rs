//! What init says on the guest's console: short lines, nothing secret.

use std::fmt::Display;

/// Writes one line to the console.
pub(crate) fn say(line: impl Display) {
    // The standard streams of the first process are the console.
    eprintln!("roost-init: {line}");
}
