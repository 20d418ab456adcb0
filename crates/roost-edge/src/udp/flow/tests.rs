//! The bounds of flows, and their ends.

use super::{Datagrams, Fate, Flow, Flows, Machine, Towards};
use crate::limits;
use crate::meter::Series;
use crate::udp::socket::Path;
use roost_model::id::MachineId;
use roost_model::name::RegionCode;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::UdpSocket;
use tokio::time::{Duration, Instant, advance};

fn path(number: u16) -> Path {
    Path {
        client: SocketAddr::from(([192, 0, 2, 1], number)),
        local: Ipv4Addr::LOCALHOST.into(),
    }
}

/// A machine, and the flow's end towards it.
async fn machine() -> (UdpSocket, Machine) {
    let machine = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(machine.local_addr().unwrap()).await.unwrap();
    let region = RegionCode::parse("local").unwrap();
    let towards = Machine {
        id: MachineId::from_bytes([1; 7]),
        towards: Towards::Socket(Arc::new(socket)),
        series: Some(Arc::new(Series::new(region))),
    };
    (machine, towards)
}

#[tokio::test]
async fn what_comes_early_is_kept_in_order_up_to_the_bound() {
    let (datagrams, flow) = (Datagrams::default(), Flow::new(path(1)));
    for number in 0..limits::EARLY_DATAGRAMS_MAX {
        let bytes = [u8::try_from(number).unwrap()];
        assert_eq!(flow.take(&datagrams, &bytes), Fate::Kept);
    }
    assert_eq!(flow.take(&datagrams, b"one too many"), Fate::Dropped);
    assert_eq!(flow.n_early(), limits::EARLY_DATAGRAMS_MAX);
    let (machine, towards) = machine().await;
    assert_eq!(flow.begin(&towards), 0, "none is dropped");
    assert_eq!(flow.take(&datagrams, b""), Fate::Sent);
    let mut buffer = [0; 4];
    for number in 0..limits::EARLY_DATAGRAMS_MAX {
        let n_bytes = machine.recv(&mut buffer).await.unwrap();
        assert_eq!((n_bytes, usize::from(buffer[0])), (1, number));
    }
    let n_bytes = machine.recv(&mut buffer).await.unwrap();
    assert_eq!(n_bytes, 0, "a datagram of nothing is one");
    let counts = towards.series.unwrap().read().datagrams;
    let n_sent = limits::EARLY_DATAGRAMS_MAX as u64;
    assert_eq!(
        (counts.flows, counts.in_count, counts.in_bytes),
        (1, n_sent + 1, n_sent)
    );
}

#[tokio::test]
async fn the_bytes_that_wait_are_bounded_over_all_flows() {
    let datagrams = Datagrams::default();
    let bytes = vec![0; 60_000];
    let mut flows = Vec::new();
    let mut n_kept = 0;
    for number in 0..1000 {
        let flow = Flow::new(path(number));
        n_kept += usize::from(flow.take(&datagrams, &bytes) == Fate::Kept);
        flows.push(flow);
    }
    assert_eq!(n_kept, limits::EARLY_DATAGRAM_BYTES_MAX / bytes.len());
    drop(flows);
    assert_eq!(Flow::new(path(1)).take(&datagrams, &bytes), Fate::Kept);
}

#[tokio::test]
async fn the_flows_are_bounded_and_each_gives_its_place_back() {
    let datagrams = Datagrams::default();
    let mut places: Vec<_> = std::iter::from_fn(|| datagrams.flow()).collect();
    assert_eq!(
        (places.len(), datagrams.n_flows()),
        (limits::FLOWS_MAX, limits::FLOWS_MAX)
    );
    places.pop();
    assert!(datagrams.flow().is_some());
}

#[tokio::test]
async fn flows_to_other_nodes_have_a_bound_of_their_own() {
    let datagrams = Datagrams::default();
    let mut places: Vec<_> = std::iter::from_fn(|| datagrams.flow_there()).collect();
    assert_eq!(places.len(), limits::RELAY_FLOWS_MAX);
    assert!(datagrams.flow().is_some(), "flows to machines here go on");
    places.pop();
    assert!(datagrams.flow_there().is_some());
}

#[tokio::test]
async fn a_flow_that_has_ended_takes_nothing_and_leaves_its_successor_in_peace() {
    let (datagrams, flows) = (Datagrams::default(), Arc::<Flows>::default());
    let (old, new) = (Flow::new(path(1)), Flow::new(path(1)));
    let entered = flows.add(&old);
    old.end();
    assert_eq!(old.take(&datagrams, b"late"), Fate::Refused);
    let successor = flows.add(&new);
    drop(entered);
    assert!(Arc::ptr_eq(&flows.find(path(1)).unwrap(), &new));
    assert_eq!(new.take(&datagrams, b"x"), Fate::Kept);
    drop(successor);
    assert_eq!(flows.len(), 0);
    assert_eq!(new.take(&datagrams, b"x"), Fate::Refused);
}

#[tokio::test(start_paused = true)]
async fn a_flow_is_idle_so_long_after_it_last_moved() {
    let flow = Flow::new(path(1));
    let limit = Duration::from_secs(60);
    advance(Duration::from_secs(50)).await;
    flow.moves();
    assert_eq!(flow.idle_at(limit), Instant::now() + limit);
    advance(limit).await;
    assert!(flow.idle_at(limit) <= Instant::now());
}
