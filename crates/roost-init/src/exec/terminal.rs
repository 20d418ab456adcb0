//! Terminals of commands.

use super::{Command, Input, Surroundings, spawn};
use crate::cgroup::Member;
use crate::descriptor::Descriptor;
use crate::failure::{Attempt as _, Failure};
use crate::process::{Recipe, Terminal};
use roost_agent::proto::{TerminalSize, exec_output};
use rustix::fs::{Gid, Mode, Uid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The group of terminals on Debian and most others; nothing depends on it.
const TTY_GROUP: u32 = 5;

/// Starts a command on a terminal of its own.
pub(super) fn start(
    recipe: &Recipe,
    open_files_max: u64,
    size: &TerminalSize,
    around: &Surroundings,
) -> Result<Command, Failure> {
    let (ours, theirs) = open(Uid::from_raw(recipe.account.uid)).attempt("make a terminal")?;
    resize(theirs.as_fd(), size);
    let copy = || theirs.try_clone().attempt("copy a terminal");
    let mut command = recipe.command(
        (&around.cgroups, Member::Command),
        open_files_max,
        Terminal::Stdin,
    )?;
    command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
    let child = spawn(recipe, &mut command, around)?;
    let ours = Arc::new(Descriptor::new(ours).attempt("set up a terminal")?);
    Ok(Command {
        child,
        input: Input::Terminal(ours.clone()),
        outlets: vec![(ours, exec_output::Output::Stdout)],
    })
}

/// Tells a terminal, and the programs on it, its size.
pub(super) fn resize(terminal: BorrowedFd<'_>, size: &TerminalSize) {
    let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let size = Winsize {
        ws_row: clamp(size.rows),
        ws_col: clamp(size.columns),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // A terminal that is gone has no size.
    let _ = tcsetwinsize(terminal, size);
}

/// Both ends of a new terminal: the caller's, and the programs', which `owner` owns.
fn open(owner: Uid) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    rustix::fs::fchown(&theirs, Some(owner), Some(Gid::from_raw(TTY_GROUP)))?;
    rustix::fs::fchmod(&theirs, Mode::from_raw_mode(0o620))?;
    Ok((ours, theirs))
}
