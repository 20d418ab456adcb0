//! What init says on the guest's console: short lines, nothing secret.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Writes one line to the console.
pub(crate) fn say(line: impl Display) {
    // The standard streams of the first process are the console. A guest with
    // none, or one that takes nothing, goes on without.
    let _ = writeln!(io::stderr(), "roost-init: {line}");
}
