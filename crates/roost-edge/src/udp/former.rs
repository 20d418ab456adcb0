//! The machines that flows were with before: at the edge before this one, or
//! until the edge of the machine's node ended them. One that begins anew goes
//! on with its machine, while that takes traffic.

use super::socket::Path;
use crate::limits;
use parking_lot::Mutex;
use roost_model::id::MachineId;
use std::collections::HashMap;
use tokio::time::Instant;

/// What is known of flows that have ended and are expected to go on.
#[derive(Debug, Default)]
pub(super) struct Former(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    /// By port and path; until when it counts.
    machines: HashMap<(u16, Path), (MachineId, Instant)>,
    /// When the last of them is over.
    until: Option<Instant>,
}

impl Former {
    /// Notes the machine of a flow, as long as there is room.
    pub(super) fn note(&self, port: u16, path: Path, machine: MachineId, until: Instant) {
        let mut noted = self.0.lock();
        if noted.machines.len() >= limits::FLOWS_MAX {
            let now = Instant::now();
            noted.machines.retain(|_, (_, until)| *until > now);
        }
        if noted.machines.len() < limits::FLOWS_MAX {
            noted.machines.insert((port, path), (machine, until));
            noted.until = noted.until.max(Some(until));
        }
    }

    /// The machine of a flow that begins anew.
    pub(super) fn take(&self, port: u16, path: Path) -> Option<MachineId> {
        let mut noted = self.0.lock();
        let now = Instant::now();
        if noted.until? <= now {
            // Their memory is given back as well.
            *noted = Noted::default();
            return None;
        }
        let (machine, until) = noted.machines.remove(&(port, path))?;
        (until > now).then_some(machine)
    }
}

#[cfg(test)]
mod tests {
    use super::Former;
    use crate::limits;
    use crate::udp::socket::Path;
    use roost_model::id::MachineId;
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;
    use tokio::time::{Instant, advance};

    fn path(number: usize) -> Path {
        let [.., a, b, c] = number.to_be_bytes();
        Path {
            client: SocketAddr::from(([10, a, b, c], 1)),
            local: Ipv4Addr::LOCALHOST.into(),
        }
    }

    fn machine(number: u8) -> MachineId {
        MachineId::from_bytes([number; 7])
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_is_known_once_by_its_path_and_port_and_for_its_time() {
        let former = Former::default();
        let until = Instant::now() + Duration::from_secs(60);
        former.note(1, path(1), machine(1), until);
        former.note(1, path(2), machine(2), until - Duration::from_secs(30));
        former.note(1, path(3), machine(3), until);
        assert_eq!(former.take(2, path(1)), None);
        assert_eq!(former.take(1, path(1)), Some(machine(1)));
        assert_eq!(former.take(1, path(1)), None);
        advance(Duration::from_secs(45)).await;
        assert_eq!(former.take(1, path(2)), None, "it is over");
        assert_eq!(former.0.lock().machines.len(), 1);
        advance(Duration::from_secs(45)).await;
        assert_eq!(former.take(1, path(9)), None);
        assert_eq!(former.0.lock().machines.capacity(), 0, "nothing is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_known_than_there_can_be_flows_and_new_ones_displace_old_ones() {
        let former = Former::default();
        let until = Instant::now() + Duration::from_secs(60);
        for number in 0..=limits::FLOWS_MAX {
            former.note(1, path(number), machine(1), until);
        }
        assert_eq!(former.take(1, path(limits::FLOWS_MAX)), None);
        assert_eq!(former.0.lock().machines.len(), limits::FLOWS_MAX);
        advance(Duration::from_secs(61)).await;
        former.note(1, path(0), machine(2), until + Duration::from_secs(60));
        assert_eq!(former.0.lock().machines.len(), 1);
        assert_eq!(former.take(1, path(0)), Some(machine(2)));
    }
}
