//! What Linux tells of processes and sockets below `/proc` (proc(5)), read alike
//! by a node and by the agent of a guest.
//!
//! What a process says of itself there is its own to choose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// `USER_HZ`, in which the kernel tells times to programs, whatever its own clock.
const TICKS_PER_SECOND: u64 = 100;
/// The flag of threads that are the kernel's own (`PF_KTHREAD`).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What is needed of `/proc/PID/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStat {
    /// Its name, of 15 bytes at most.
    pub name: String,
    /// Whether it is a thread of the kernel.
    pub is_kernel_thread: bool,
    /// The processor time that it has used.
    pub cpu_time: Duration,
    /// When it was started, counted from the kernel's start.
    pub started_after: Duration,
}

impl ProcessStat {
    /// Reads `7 (a name) S …`; the name may have brackets and spaces in it.
    pub fn parse(text: &str) -> Option<Self> {
        let (start, rest) = text.rsplit_once(')')?;
        let (_, name) = start.split_once('(')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The first of these is field 3 of the manual.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let ticks = |field| {
            let ms = number(field)?.saturating_mul(1_000 / TICKS_PER_SECOND);
            Some(Duration::from_millis(ms))
        };
        Some(Self {
            name: name.to_owned(),
            is_kernel_thread: number(9)? & KERNEL_THREAD != 0,
            cpu_time: ticks(14)?.checked_add(ticks(15)?)?,
            started_after: ticks(22)?,
        })
    }
}

/// What is needed of `/proc/PID/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStatus {
    /// Its id as the innermost of its namespaces has it.
    pub pid_inside: u32,
    /// Its resident memory in bytes.
    pub resident: u64,
}

impl ProcessStatus {
    /// Reads lines of `Name:  value`.
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        // A process that is ending has no memory.
        let resident = field("VmRSS").and_then(|rest| rest.split_whitespace().next());
        let kib: u64 = resident.unwrap_or("0").parse().ok()?;
        Some(Self {
            pid_inside: field("NSpid")?.split_whitespace().last()?.parse().ok()?,
            resident: kib.checked_mul(1024)?,
        })
    }
}

/// For how long the kernel has run, from `/proc/uptime`.
pub fn uptime(text: &str) -> Option<Duration> {
    let seconds = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The command of a process for one line of a table, from `/proc/PID/cmdline`;
/// its name in brackets when it shows none, as a thread of the kernel does.
pub fn command(arguments: &str, name: &str) -> String {
    match one_line(arguments.trim_end_matches('\0')) {
        empty if empty.is_empty() => format!("[{}]", one_line(name)),
        command => command,
    }
}

/// Text for one line of a table: zeros, which separate arguments, are spaces,
/// and other control characters are replaced.
pub fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\0' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// In which state a socket of `/proc/net` takes what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketState {
    /// Of `tcp` and `tcp6`.
    Listening,
    /// Of `udp` and `udp6`.
    Unconnected,
}

/// Address and inode of each socket in this state, from a table of `/proc/net`.
pub fn sockets(table: &str, state: SocketState) -> impl Iterator<Item = (SocketAddr, u64)> {
    let wanted = match state {
        SocketState::Listening => "0A",
        SocketState::Unconnected => "07",
    };
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        if *state != wanted {
            return None;
        }
        Some((socket_address(local)?, inode.parse().ok()?))
    })
}

/// Reads `0100007F:0016`: 32-bit words in the byte order of the processor.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at..at + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let words: Option<Vec<[u8; 4]>> = (0..address.len()).step_by(8).map(word).collect();
    let bytes = words?.concat();
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The inode in `socket:[number]`, to which the descriptor of a socket leads.
pub fn socket_inode(link: &str) -> Option<u64> {
    let number = link.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{ProcessStat, ProcessStatus, SocketState, command, sockets, uptime};
    use std::time::Duration;

    #[test]
    fn a_name_cannot_pass_for_other_fields() {
        let text = "7 (a) R 1 (b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 900 1 2";
        let stat = ProcessStat::parse(text).unwrap();
        assert_eq!(stat.name, "a) R 1 (b");
        assert_eq!(stat.cpu_time, Duration::from_secs(2));
        assert_eq!(stat.started_after, Duration::from_secs(9));
        assert!(!stat.is_kernel_thread);
        assert_eq!(ProcessStat::parse("7 no name"), None);
        assert_eq!(ProcessStat::parse("7 (short) S 1 2"), None);
    }

    #[test]
    fn threads_of_the_kernel_are_known_as_such() {
        let text = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 3 0 0";
        assert!(ProcessStat::parse(text).unwrap().is_kernel_thread);
    }

    #[test]
    fn the_innermost_process_id_is_told_and_a_zombie_has_no_memory() {
        let running = "Name:\tsh\nNSpid:\t4711\t23\t1\nVmRSS:\t     12 kB\n";
        let zombie = "Name:\tsh\nNSpid:\t4711\t23\t7\n";
        let read = |text| {
            let status = ProcessStatus::parse(text)?;
            Some((status.pid_inside, status.resident))
        };
        assert_eq!(read(running), Some((1, 12 * 1024)));
        assert_eq!(read(zombie), Some((7, 0)));
        assert_eq!(read("Name:\tsh\n"), None);
    }

    #[test]
    fn what_a_process_calls_itself_stays_on_one_line() {
        assert_eq!(
            command("sh\0-c\0echo\n\u{1b}[31m\0", "sh"),
            "sh -c echo\u{fffd}\u{fffd}[31m"
        );
        assert_eq!(command("", "a\nb"), "[a\u{fffd}b]");
    }

    #[test]
    fn the_time_since_the_start_has_a_fraction() {
        let time = uptime("12.50 20.00\n");
        assert_eq!(time, Some(Duration::from_millis(12_500)));
        assert_eq!(uptime("nan 1"), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn only_sockets_in_the_wanted_state_are_taken() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0\n   \
            1: 0100007F:1F91 0100007F:ABCD 01 00000000:00000000 00:00000000 00000000     0        0 12346 1 0 100 0 0 10 0\n   \
            2: broken\n   \
            3: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 7 1\n   \
            4: zz:zz 0 0A 0 0 0 0 0 0 9\n";
        let found: Vec<_> = sockets(table, SocketState::Listening).collect();
        let expected = [
            ("127.0.0.1:8080".parse().unwrap(), 12345),
            ("[::1]:80".parse().unwrap(), 7),
        ];
        assert_eq!(found, expected);
        assert_eq!(sockets(table, SocketState::Unconnected).count(), 0);
    }
}
