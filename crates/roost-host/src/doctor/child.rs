//! Trying something in a process of its own, which may die or hang of it.

use super::sys::{self, Fork};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, kill_process, waitpid};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

/// A step of what was tried has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    /// What was attempted: text that is part of this program.
    pub(super) step: &'static str,
    /// The kernel's answer.
    pub(super) errno: i32,
}

impl Failure {
    /// The step failed with this error of the operating system.
    pub(super) fn new(step: &'static str, errno: Errno) -> Self {
        let errno = errno.raw_os_error();
        Self { step, errno }
    }
}

/// How it went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It worked.
    Done,
    /// A step failed.
    Failed {
        /// What was attempted.
        step: String,
        /// Why it failed.
        error: io::Error,
    },
    /// The process ended of itself: text such as `was ended by signal 9`.
    Ended(String),
    /// It took too long and was killed.
    TimedOut,
}

/// Runs `attempt` in a child of this process.
///
/// This process has other threads, whose locks the child has in whatever state
/// they were: `attempt` must make system calls only, and allocate nothing.
pub(super) fn run(
    limit: Duration,
    attempt: impl FnOnce() -> Result<(), Failure>,
) -> io::Result<Outcome> {
    let (mut answer, report) = io::pipe()?;
    let child = match sys::fork()? {
        Fork::Child => {
            let fd = report.as_raw_fd();
            match attempt() {
                Ok(()) => sys::write_raw(fd, &[0]),
                Err(Failure { step, errno }) => {
                    sys::write_raw(fd, &[1]);
                    sys::write_raw(fd, &errno.to_ne_bytes());
                    sys::write_raw(fd, step.as_bytes());
                }
            }
            sys::exit_now(0);
        }
        Fork::Parent(pid) => pid,
    };
    drop(report);
    let deadline = Instant::now() + limit;
    let in_time = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let ready = PollFlags::IN | PollFlags::HUP;
        match poll(&mut [PollFd::new(&answer, ready)], Some(&left)) {
            Ok(0) => break false,
            Ok(_) => break true,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if !in_time {
        let _ = kill_process(child, Signal::KILL);
    }
    let mut bytes = Vec::new();
    if in_time {
        // Ends when the child does: it writes a few bytes and exits.
        answer.read_to_end(&mut bytes)?;
    }
    let status = waitpid(Some(child), WaitOptions::empty())?.map(|(_, status)| status);
    if !in_time {
        return Ok(Outcome::TimedOut);
    }
    Ok(match bytes.split_first() {
        Some((0, _)) => Outcome::Done,
        Some((_, rest)) if rest.len() >= 4 => {
            let (errno, step) = rest.split_at(4);
            let errno = i32::from_ne_bytes(errno.try_into().unwrap_or_default());
            Outcome::Failed {
                step: String::from_utf8_lossy(step).into_owned(),
                error: io::Error::from_raw_os_error(errno),
            }
        }
        _ => Outcome::Ended(
            match status.and_then(|status| status.terminating_signal()) {
                Some(signal) => format!("was ended by signal {signal}"),
                None => "ended without a word".to_owned(),
            },
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::{Failure, Outcome, run};
    use crate::doctor::sys;
    use rustix::io::Errno;
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn success_failure_death_and_a_hang_are_told_apart() {
        assert!(matches!(run(LIMIT, || Ok(())).unwrap(), Outcome::Done));
        let failing = || Err(Failure::new("try", Errno::NOSYS));
        match run(LIMIT, failing).unwrap() {
            Outcome::Failed { step, error } => {
                assert_eq!(
                    (step.as_str(), error.raw_os_error()),
                    ("try", Some(libc::ENOSYS))
                );
            }
            other => panic!("{other:?}"),
        }
        match run(LIMIT, || sys::exit_now(3)).unwrap() {
            Outcome::Ended(how) => assert_eq!(how, "ended without a word"),
            other => panic!("{other:?}"),
        }
        let hang = || loop {
            std::hint::spin_loop();
        };
        let outcome = run(Duration::from_millis(50), hang).unwrap();
        assert!(matches!(outcome, Outcome::TimedOut), "{outcome:?}");
    }
}
