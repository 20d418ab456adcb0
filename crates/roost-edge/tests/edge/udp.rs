//! Services of datagrams. Here clients and machines are on the loopback, whose
//! addresses no machine can answer to: what an app sees of its client is
//! tested with real machines, end to end.

use crate::tcp::{PORT, behind, world};
use crate::wake::{Control, sleepy};
use crate::world::{LIMIT, World, machine, wait_until, with_health};
use roost_edge::limits;
use roost_model::machine::{PortHandler, PortRange, Protocol, Service, ServicePort};
use roost_proto::traffic::{Endpoint, EndpointHealth};
use roost_runtime::tasks::Tasks;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// A machine that answers each datagram with a prefix and the same.
pub(crate) async fn echo(tasks: &Tasks, prefix: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tasks.spawn("echo", async move {
        let mut buffer = vec![0; limits::DATAGRAM_BYTES_MAX];
        while let Ok((n_bytes, client)) = socket.recv_from(&mut buffer).await {
            counted.fetch_add(1, Ordering::SeqCst);
            let answer = [prefix.as_bytes(), &buffer[..n_bytes]].concat();
            let _ = socket.send_to(&answer, client).await;
        }
    });
    (address, count)
}

pub(crate) fn at_ports(range: PortRange, number: u8, address: SocketAddr) -> Endpoint {
    let mut endpoint = behind(ServicePort::new(range, PortHandler::Raw), number, address);
    let service: &mut Service = Arc::make_mut(&mut endpoint.service);
    service.protocol = Protocol::Udp;
    endpoint
}

pub(crate) fn at_udp(number: u8, address: SocketAddr) -> Endpoint {
    at_ports(PortRange::single(PORT), number, address)
}

impl World {
    /// Publishes these, and waits until the port is open.
    pub(crate) async fn open(&self, endpoints: Vec<Endpoint>) {
        self.publish(endpoints);
        self.port_problem("app", |problem| problem.is_none()).await;
    }
}

/// A client that sends to one port.
pub(crate) async fn client(ip: IpAddr, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect((ip, port)).await.unwrap();
    socket
}

pub(crate) async fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; limits::DATAGRAM_BYTES_MAX];
    let received = timeout(LIMIT, client.recv(&mut buffer)).await;
    let n_bytes = received.expect("an answer").unwrap();
    buffer.truncate(n_bytes);
    buffer
}

pub(crate) async fn ask(client: &UdpSocket, text: &[u8]) -> Vec<u8> {
    client.send(text).await.unwrap();
    receive(client).await
}

/// Asks again and again, as clients of datagrams do, until the answer is this one.
pub(crate) async fn until_answered(client: &UdpSocket, text: &[u8], expected: &[u8]) {
    let asking = async {
        loop {
            // A refusal of the port is an error that the next call tells.
            let _ = client.send(text).await;
            let mut buffer = [0; 1024];
            let answer = timeout(Duration::from_millis(200), client.recv(&mut buffer)).await;
            if let Ok(Ok(n_bytes)) = answer
                && &buffer[..n_bytes] == expected
            {
                return;
            }
        }
    };
    let expected = String::from_utf8_lossy(expected);
    timeout(LIMIT, asking)
        .await
        .unwrap_or_else(|_| panic!("{expected}"));
}

/// Begins flows until machine 1, which takes none, is ejected; another one answers them.
pub(crate) async fn until_ejected(world: &World, ip: IpAddr, limit: Duration) {
    let gauge = world.edge.gauge();
    let asking = async {
        loop {
            let before = gauge.n_begun(&machine(1));
            for _ in 0..20 {
                until_answered(&client(ip, PORT).await, b"x", b"x").await;
            }
            // It has nothing under way, so that each flow would lead there. Now and then one
            // does, to find out.
            if gauge.n_begun(&machine(1)) < before + 5 {
                return;
            }
        }
    };
    timeout(limit, asking).await.expect("it is ejected");
}

#[tokio::test]
async fn datagrams_go_both_ways_and_each_client_gets_its_own_answers() {
    let (world, ip) = world(|_| {}).await;
    let (address, _) = echo(&world.tasks, "got ").await;
    world.open(vec![at_udp(1, address)]).await;
    let clients = [client(ip, PORT).await, client(ip, PORT).await];
    for round in 0..3 {
        for (number, client) in clients.iter().enumerate() {
            let text = format!("{number} in round {round}");
            let answer = ask(client, text.as_bytes()).await;
            assert_eq!(answer, format!("got {text}").into_bytes());
        }
    }
    let gauge = world.edge.gauge();
    assert_eq!(gauge.in_flight(&machine(1)), 2, "each flow counts");
    let metrics = world.edge.records().metrics();
    for (name, count) in [
        ("flows_begun", 2),
        ("datagrams_in", 6),
        ("datagrams_in_bytes", 6 * 12),
        ("datagrams_out", 6),
        ("datagrams_out_bytes", 6 * 16),
    ] {
        let line = format!("roost_edge_{name}_count{{app=\"app\",region=\"local\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}in\n{metrics}");
    }
    assert!(metrics.contains("roost_edge_flows 2\n"), "{metrics}");
}

#[tokio::test]
async fn datagrams_of_nothing_and_the_largest_ones_pass() {
    let (world, ip) = world(|_| {}).await;
    let (address, _) = echo(&world.tasks, "").await;
    world.open(vec![at_udp(1, address)]).await;
    let client = client(ip, PORT).await;
    assert_eq!(ask(&client, b"").await, b"");
    let largest: Vec<u8> = (0..65_507_u32).map(|n| n.to_le_bytes()[0]).collect();
    assert!(ask(&client, &largest).await == largest);
}

#[tokio::test]
async fn tcp_and_udp_have_ports_of_their_own_and_a_range_leads_to_one_machine_port() {
    let (world, ip) = world(|_| {}).await;
    let (address, _) = echo(&world.tasks, "udp ").await;
    let range = PortRange {
        first: PORT,
        last: PORT + 2,
    };
    let stream = ServicePort::new(PortRange::single(PORT), PortHandler::Raw);
    let tcp = behind(stream, 1, crate::world::nobody().await);
    world.open(vec![tcp, at_ports(range, 1, address)]).await;
    wait_until("all are open", || {
        let table = world.edge.ports().borrow().clone();
        let ports: Vec<_> = table.values().flatten().collect();
        ports.len() == 4 && ports.iter().all(|port| port.problem.is_none())
    })
    .await;
    for port in PORT..=PORT + 2 {
        assert_eq!(ask(&client(ip, port).await, b"x").await, b"udp x");
    }
}

#[tokio::test]
async fn a_flow_stays_with_its_machine_until_that_is_gone() {
    let (world, ip) = world(|_| {}).await;
    let (one, _) = echo(&world.tasks, "1").await;
    let (two, _) = echo(&world.tasks, "2").await;
    world.open(vec![at_udp(1, one), at_udp(2, two)]).await;
    let client = client(ip, PORT).await;
    let first = ask(&client, b"").await;
    for _ in 0..10 {
        assert_eq!(ask(&client, b"").await, first);
    }
    let (gone, other, left) = if first == b"1" {
        (1, 2, two)
    } else {
        (2, 1, one)
    };
    let draining = with_health(
        at_udp(gone, if gone == 1 { one } else { two }),
        EndpointHealth::Draining,
    );
    world.publish(vec![draining.clone(), at_udp(other, left)]);
    assert_eq!(ask(&client, b"").await, first, "it finishes what it has");
    let down = with_health(draining, EndpointHealth::Down("stopped".into()));
    world.publish(vec![down, at_udp(other, left)]);
    until_answered(&client, b"", other.to_string().as_bytes()).await;
    let gauge = world.edge.gauge();
    wait_until("only the new flow counts", || {
        gauge.in_flight(&machine(gone)) == 0 && gauge.in_flight(&machine(other)) == 1
    })
    .await;
}

/// An address where nobody takes datagrams.
pub(crate) async fn nobody() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.local_addr().unwrap()
}

#[tokio::test]
async fn a_machine_where_nobody_listens_is_passed_over() {
    let (world, ip) = world(|_| {}).await;
    let closed = nobody().await;
    let (address, _) = echo(&world.tasks, "").await;
    world
        .open(vec![at_udp(1, closed), at_udp(2, address)])
        .await;
    for _ in 0..4 {
        until_answered(&client(ip, PORT).await, b"x", b"x").await;
    }
}

#[tokio::test]
async fn a_flow_ends_when_its_machine_refuses() {
    let (world, ip) = world(|_| {}).await;
    let closed = nobody().await;
    world.open(vec![at_udp(1, closed)]).await;
    let client = client(ip, PORT).await;
    let gauge = world.edge.gauge();
    let flows = |count: usize| {
        let metrics = world.edge.records().metrics();
        metrics.contains(&format!("roost_edge_flows {count}\n"))
    };
    client.send(b"alone").await.unwrap();
    // Of one datagram only the kernel tells, of more the next one too.
    wait_until("the only datagram's flow has ended", || {
        gauge.n_begun(&machine(1)) == 1 && gauge.in_flight(&machine(1)) == 0 && flows(0)
    })
    .await;
    for _ in 0..20 {
        client.send(b"x").await.unwrap();
        tokio::task::yield_now().await;
    }
    wait_until("all flows have ended", || {
        gauge.n_begun(&machine(1)) > 1 && gauge.in_flight(&machine(1)) == 0 && flows(0)
    })
    .await;
}

#[tokio::test]
async fn a_machine_that_refuses_again_and_again_is_ejected() {
    let (world, ip) = world(|_| {}).await;
    let closed = nobody().await;
    let (address, _) = echo(&world.tasks, "").await;
    world
        .open(vec![at_udp(1, closed), at_udp(2, address)])
        .await;
    until_ejected(&world, ip, LIMIT).await;
}

#[tokio::test]
async fn a_flow_without_datagrams_ends_and_begins_anew() {
    let idle = Duration::from_secs(1);
    let (world, ip) = world(|config| config.timeouts.flow_idle = idle).await;
    let (address, _) = echo(&world.tasks, "").await;
    world.open(vec![at_udp(1, address)]).await;
    let client = client(ip, PORT).await;
    let gauge = world.edge.gauge();
    for n_begun in 1..=2 {
        // On a busy machine it may be idle before it has answered.
        until_answered(&client, b"x", b"x").await;
        wait_until("it is idle", || gauge.in_flight(&machine(1)) == 0).await;
        assert!(gauge.n_begun(&machine(1)) >= n_begun);
    }
}

#[tokio::test]
async fn the_first_datagram_wakes_a_machine_and_waits_for_it() {
    let control = Arc::<Control>::default();
    let (world, ip) = world(sleepy(&control)).await;
    let (address, _) = echo(&world.tasks, "").await;
    let asleep = EndpointHealth::Asleep("stopped".into());
    world
        .open(vec![with_health(at_udp(1, address), asleep)])
        .await;
    let client = client(ip, PORT).await;
    for text in [b"1", b"2", b"3"] {
        client.send(text).await.unwrap();
    }
    control.wait_for(&[1]).await;
    world.publish(vec![at_udp(1, address)]);
    for text in [b"1", b"2", b"3"] {
        assert_eq!(receive(&client).await, text);
    }
}

#[tokio::test]
async fn an_app_that_has_all_flows_it_may_gets_no_more_until_one_ends() {
    let (world, ip) = world(|config| config.rates.app_open = 2).await;
    let (address, count) = echo(&world.tasks, "").await;
    world.open(vec![at_udp(1, address)]).await;
    let held = [client(ip, PORT).await, client(ip, PORT).await];
    for one in &held {
        assert_eq!(ask(one, b"x").await, b"x");
    }
    let others = [client(ip, PORT).await, client(ip, PORT).await];
    for _ in 0..100 {
        for other in &others {
            other.send(b"no room").await.unwrap();
        }
        let _ = ask(&held[0], b"x").await;
        let _ = ask(&held[1], b"x").await;
    }
    assert_eq!(
        count.load(Ordering::SeqCst),
        202,
        "only those that had flows"
    );
    let metrics = world.edge.records().metrics();
    assert!(
        metrics.contains("roost_edge_datagrams_dropped_count 200\n"),
        "{metrics}"
    );
    let down = EndpointHealth::Down("stopped".into());
    world.publish(vec![with_health(at_udp(1, address), down)]);
    let gauge = world.edge.gauge();
    wait_until("both have ended", || gauge.in_flight(&machine(1)) == 0).await;
    world.publish(vec![at_udp(1, address)]);
    until_answered(&others[0], b"room", b"room").await;
}

#[tokio::test]
async fn a_flood_from_many_addresses_has_no_more_flows_than_the_bound() {
    let (world, ip) = world(|config| config.rates.app_open = 0).await;
    let (address, _) = echo(&world.tasks, "").await;
    let asleep = EndpointHealth::Asleep("stopped".into());
    // Nobody wakes it: all that can wait does.
    world
        .open(vec![with_health(at_udp(1, address), asleep)])
        .await;
    let count = |name: &str| {
        let metrics = world.edge.records().metrics();
        let mut lines = metrics.lines();
        let count = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        count.unwrap().parse::<usize>().unwrap()
    };
    let (flows, dropped) = ("roost_edge_flows", "roost_edge_datagrams_dropped_count");
    let n_sources = 2 * limits::QUEUE_MAX;
    for number in 1..=n_sources {
        let [.., high, low] = number.to_be_bytes();
        let source = SocketAddr::from(([127, 200, high, low], 0));
        let socket = UdpSocket::bind(source).await.unwrap();
        socket.send_to(&[0; 1000], (ip, PORT)).await.unwrap();
        // Few enough at once for the kernel to lose none.
        if number % 50 == 0 {
            let seen = || count(flows) + count(dropped);
            wait_until("all to be seen", || seen() == number).await;
            assert!(count(flows) <= limits::QUEUE_MAX);
        }
    }
    assert!(count(dropped) >= n_sources - limits::QUEUE_MAX);
    assert!(world.edge.queued() <= limits::QUEUE_MAX);
    world.publish(vec![at_udp(1, address)]);
    until_answered(&client(ip, PORT).await, b"x", b"x").await;
}

#[tokio::test]
async fn the_port_is_closed_when_no_machine_asks_for_it() {
    let (world, ip) = world(|_| {}).await;
    let (address, _) = echo(&world.tasks, "").await;
    world.open(vec![at_udp(1, address)]).await;
    let client = client(ip, PORT).await;
    assert_eq!(ask(&client, b"x").await, b"x");
    world.publish(vec![]);
    wait_until("the port is free", || {
        std::net::UdpSocket::bind((ip, PORT)).is_ok()
    })
    .await;
    let taken = std::net::UdpSocket::bind((ip, PORT)).unwrap();
    world.publish(vec![at_udp(1, address)]);
    world
        .port_problem("app", |problem| {
            problem.is_some_and(|problem| problem.contains("`ss -lunp` shows it"))
        })
        .await;
    drop(taken);
    world.port_problem("app", |problem| problem.is_none()).await;
    until_answered(&client, b"x", b"x").await;
}

/// Clients with the machines that answer them, those of one machine after those of the other: who
/// picks for them anew, and takes turns, would send half of each elsewhere.
pub(crate) async fn clients_of_two(ip: IpAddr) -> Vec<(Vec<u8>, UdpSocket)> {
    let mut clients = Vec::new();
    for _ in 0..8 {
        let client = client(ip, PORT).await;
        clients.push((ask(&client, b"").await, client));
    }
    clients.sort_by(|(one, _), (other, _)| one.cmp(other));
    let machines: BTreeSet<_> = clients.iter().map(|(machine, _)| machine).collect();
    assert_eq!(machines.len(), 2);
    clients
}

#[tokio::test]
async fn an_edge_that_takes_over_has_the_socket_and_the_flows_go_on_there_with_their_machines() {
    let (old, ip) = world(|_| {}).await;
    let (one, _) = echo(&old.tasks, "1").await;
    let (two, _) = echo(&old.tasks, "2").await;
    let both = vec![at_udp(1, one), at_udp(2, two)];
    old.open(both.clone()).await;
    let clients = clients_of_two(ip).await;
    let new = World::taking_over_at(&old, both, vec![ip]).await;
    let table = new.edge.ports().borrow().clone();
    assert!(table.values().flatten().all(|port| port.problem.is_none()));
    let flows = |world: &World| {
        let gauge = world.edge.gauge();
        gauge.in_flight(&machine(1)) + gauge.in_flight(&machine(2))
    };
    for (machine, client) in &clients {
        assert_eq!(ask(client, b"").await, *machine, "the old edge has it");
    }
    assert_eq!((flows(&old), flows(&new)), (8, 0));
    new.edge.take_flows(old.edge.flows());
    assert!(old.edge.retire(LIMIT).await, "no flow holds it up");
    // Not once is the port closed: the client would hear of it.
    for _ in 0..2 {
        for (machine, client) in &clients {
            assert_eq!(ask(client, b"").await, *machine);
        }
    }
    assert_eq!((flows(&old), flows(&new)), (0, 8));
}

#[tokio::test]
async fn a_flow_whose_machine_takes_no_traffic_at_the_edge_that_takes_over_finds_another() {
    let (old, ip) = world(|_| {}).await;
    let (one, _) = echo(&old.tasks, "1").await;
    let (two, _) = echo(&old.tasks, "2").await;
    old.open(vec![at_udp(1, one), at_udp(2, two)]).await;
    let clients = clients_of_two(ip).await;
    let draining = with_health(at_udp(1, one), EndpointHealth::Draining);
    let new = World::taking_over_at(&old, vec![draining, at_udp(2, two)], vec![ip]).await;
    new.edge.take_flows(old.edge.flows());
    assert!(old.edge.retire(LIMIT).await, "no flow holds it up");
    for (_, client) in &clients {
        assert_eq!(ask(client, b"").await, b"2");
    }
}
