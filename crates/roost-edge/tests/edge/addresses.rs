//! Dedicated addresses: all that comes there is for one app, whatever others have elsewhere.

use crate::tcp::{PORT, app, ask, at_port, behind, echo, own_ip, read_all};
use crate::tickets::{self, Cluster};
use crate::udp;
use crate::world::{LIMIT, World, says, wait_until};
use roost_edge::{EdgeConfig, Network};
use roost_model::machine::{PortHandler, PortRange, Protocol, ServicePort};
use roost_model::name::AppName;
use roost_proto::names::NameTable;
use roost_proto::traffic::{Endpoint, PortStatus, TrafficTable};
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

type Names = watch::Sender<Arc<NameTable>>;

fn table(addresses: &[(IpAddr, &str)]) -> Arc<NameTable> {
    let own = |&(ip, app): &(IpAddr, &str)| (ip, AppName::parse(app).unwrap());
    Arc::new(NameTable {
        addresses: addresses.iter().map(own).collect(),
        ..NameTable::default()
    })
}

/// An edge that knows of these addresses.
async fn world(
    addresses: &[(IpAddr, &str)],
    change: impl FnOnce(&mut EdgeConfig),
) -> (World, Names) {
    let (names, feed) = watch::channel(table(addresses));
    let world = World::with(|config| {
        config.names = feed;
        change(config);
    });
    (world.await, names)
}

impl World {
    /// What became of the ports of an app, at its address or at those that all share.
    fn statuses(&self, app: &str, address: Option<IpAddr>) -> Vec<PortStatus> {
        let table = self.edge.ports().borrow().clone();
        let ports = table.get(&AppName::parse(app).unwrap());
        let ports = ports.into_iter().flatten();
        ports
            .filter(|port| port.address == address)
            .cloned()
            .collect()
    }

    /// Waits until all ports that an app asks for there are open.
    async fn is_open(&self, app: &str, address: Option<IpAddr>) {
        wait_until("the ports are open", || {
            let ports = self.statuses(app, address);
            !ports.is_empty() && ports.iter().all(|port| port.problem.is_none())
        })
        .await;
    }
}

/// Waits until nobody listens there.
async fn is_shut(address: SocketAddr) {
    let begun = std::time::Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(begun.elapsed() < LIMIT, "{address} is still open");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn answer_at(ip: IpAddr, port: u16) -> Vec<u8> {
    ask(TcpStream::connect((ip, port)).await.unwrap(), b"x").await
}

/// A port of every address that nobody has now, and no client is given; of each test another.
fn port_of_every_address(test: u16) -> u16 {
    let first = 20_000 + test * 1_000 + u16::try_from(std::process::id() % 8_000).unwrap();
    let mut ports = first..first + 1_000;
    let is_free = |port: &u16| {
        let all = (Ipv4Addr::UNSPECIFIED, *port);
        std::net::TcpListener::bind(all).is_ok() && std::net::UdpSocket::bind(all).is_ok()
    };
    ports.find(is_free).unwrap()
}

#[tokio::test]
async fn apps_with_addresses_of_their_own_have_the_same_raw_port() {
    let (shared, of_a, of_b) = (own_ip(), own_ip(), own_ip());
    let (world, names) = world(&[(of_b, "b")], |config| config.port_ips = vec![shared]).await;
    let raw = |number, address| vec![behind(at_port(PortHandler::Raw), number, address)];
    let (a, _) = echo(&world.tasks, "a").await;
    let (b, n_of_b) = echo(&world.tasks, "b").await;
    world.publish_apps([app("a", raw(1, a)), app("b", raw(2, b))]);
    world.is_open("a", None).await;
    world.is_open("b", Some(of_b)).await;
    assert_eq!(answer_at(shared, PORT).await, b"ax");
    assert_eq!(answer_at(of_b, PORT).await, b"bx");
    assert_eq!(world.statuses("b", None), [], "it lacks nothing");

    names.send_replace(table(&[(of_b, "b"), (of_a, "a")]));
    world.is_open("a", Some(of_a)).await;
    assert_eq!(answer_at(of_a, PORT).await, b"ax");

    // What is connected to an address stays so when that is released.
    let before = n_of_b.load(Ordering::SeqCst);
    let mut kept = TcpStream::connect((of_b, PORT)).await.unwrap();
    kept.write_all(b"kept").await.unwrap();
    wait_until("it is carried", || n_of_b.load(Ordering::SeqCst) > before).await;
    names.send_replace(table(&[(of_a, "a")]));
    is_shut((of_b, PORT).into()).await;
    assert_eq!(ask(kept, b"").await, b"bkept");
    wait_until("b lacks its port", || {
        let ports = world.statuses("b", None);
        let problem = ports.first().and_then(|port| port.problem.clone());
        problem.is_some_and(|problem| problem.contains("the app a has this port"))
    })
    .await;
    // Another app may get it.
    names.send_replace(table(&[(of_b, "a")]));
    world.is_open("a", Some(of_b)).await;
    assert_eq!(answer_at(of_b, PORT).await, b"ax");
}

#[tokio::test]
async fn a_dedicated_address_goes_before_every_address_whichever_was_first() {
    let (every, local) = (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into());
    let (own, number) = (own_ip(), port_of_every_address(0));
    let (world, _names) = world(&[(own, "b")], |config| config.port_ips = vec![every]).await;
    let port = || ServicePort::new(PortRange::single(number), PortHandler::Raw);
    let (a, _) = echo(&world.tasks, "a").await;
    let (b, _) = echo(&world.tasks, "b").await;
    let (a, b) = (
        app("a", vec![behind(port(), 1, a)]),
        app("b", vec![behind(port(), 2, b)]),
    );
    for alone_first in [&a, &b] {
        world.publish_apps([alone_first.clone()]);
        let (alone, other) = if alone_first.0 == a.0 {
            (("a", None), ("b", Some(own)))
        } else {
            (("b", Some(own)), ("a", None))
        };
        world.is_open(alone.0, alone.1).await;
        world.publish_apps([a.clone(), b.clone()]);
        world.is_open(other.0, other.1).await;
        assert_eq!(answer_at(local, number).await, b"ax");
        assert_eq!(answer_at(own, number).await, b"bx");
        // The port was shared for a moment only.
        let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let other = other.unwrap();
        other.set_reuse_port(true).unwrap();
        let all = SocketAddr::new(every, number);
        other.bind(&all.into()).unwrap_err();
    }
}

#[tokio::test]
async fn datagrams_to_a_dedicated_address_are_for_its_app() {
    let (every, local) = (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into());
    let (own, number) = (own_ip(), port_of_every_address(1));
    let (world, names) = world(&[(own, "b")], |config| config.port_ips = vec![every]).await;
    let (a, _) = udp::echo(&world.tasks, "a").await;
    let (b, _) = udp::echo(&world.tasks, "b").await;
    let range = PortRange::single(number);
    let (a, b) = (udp::at_ports(range, 1, a), udp::at_ports(range, 2, b));
    world.publish_apps([app("a", vec![a]), app("b", vec![b])]);
    world.is_open("a", None).await;
    world.is_open("b", Some(own)).await;
    let to_own = udp::client(own, number).await;
    udp::until_answered(&to_own, b"x", b"bx").await;
    udp::until_answered(&udp::client(local, number).await, b"x", b"ax").await;
    names.send_replace(table(&[]));
    udp::until_answered(&udp::client(own, number).await, b"x", b"ax").await;
}

#[tokio::test]
async fn what_comes_to_an_address_by_a_port_of_every_address_is_for_no_other_app() {
    let (every, local) = (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into());
    let (own, raw, http) = (own_ip(), port_of_every_address(2), port_of_every_address(3));
    let (world, names) = world(&[(own, "b")], |config| config.port_ips = vec![every]).await;
    let (a, _) = echo(&world.tasks, "a").await;
    let (datagrams, _) = udp::echo(&world.tasks, "a").await;
    let page = says(&world.tasks, "another app").await;
    let port = |number, handler| ServicePort::new(PortRange::single(number), handler);
    let of_a = vec![
        behind(port(raw, PortHandler::Raw), 1, a),
        behind(port(http, PortHandler::Http), 2, page),
        udp::at_ports(PortRange::single(raw), 3, datagrams),
    ];
    world.publish_apps([app("a", of_a)]);
    world.is_open("a", None).await;
    let request = "GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n";
    let get = async |ip: IpAddr| {
        let stream = TcpStream::connect((ip, http)).await.unwrap();
        answered(stream, request).await
    };
    assert_eq!(answer_at(local, raw).await, b"ax");
    assert!(get(local).await.ends_with("another app"));
    udp::until_answered(&udp::client(local, raw).await, b"x", b"ax").await;

    let mut stream = TcpStream::connect((own, raw)).await.unwrap();
    // It may be closed before this is said.
    let _ = stream.write_all(b"x").await;
    assert_eq!(read_all(stream).await.unwrap_or_default(), b"");
    let answer = get(own).await;
    assert!(answer.contains("no-such-app"), "{answer}");
    let client = udp::client(own, raw).await;
    client.send(b"x").await.unwrap();
    let mut buffer = [0; 8];
    let a_while = std::time::Duration::from_millis(200);
    let nothing = timeout(a_while, client.recv(&mut buffer)).await;
    assert!(nothing.is_err(), "{nothing:?}");

    names.send_replace(table(&[]));
    udp::until_answered(&client, b"x", b"ax").await;
    assert_eq!(answer_at(own, raw).await, b"ax");
    assert!(get(own).await.ends_with("another app"));
}

/// Sends a request, after which the edge closes, and returns the answer.
async fn answered(mut stream: TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = read_all(stream).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn asked(ip: IpAddr, host: &str) -> String {
    let request = format!("GET /path HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    answered(TcpStream::connect((ip, PORT)).await.unwrap(), &request).await
}

#[tokio::test]
async fn http_at_an_address_is_for_its_app_whatever_the_host() {
    let (own, of_forced) = (own_ip(), own_ip());
    let addresses = [(own, "app"), (of_forced, "forced")];
    let (world, names) = world(&addresses, |_| {}).await;
    let address = says(&world.tasks, "the app").await;
    let other = says(&world.tasks, "another app").await;
    let port = || at_port(PortHandler::Http);
    let forced = ServicePort {
        force_https: true,
        ..port()
    };
    world.publish_apps([
        app("app", vec![behind(port(), 1, address)]),
        app("other", vec![behind(port(), 2, other)]),
        app("forced", vec![behind(forced, 3, other)]),
    ]);
    world.is_open("app", Some(own)).await;
    world.is_open("forced", Some(of_forced)).await;
    let literal = own.to_string();
    for host in ["app.localhost", "other.localhost", "no.test", &literal] {
        let answer = asked(own, host).await;
        assert!(answer.ends_with("\r\n\r\nthe app"), "{host}: {answer}");
    }
    let answer = asked(of_forced, "shop.test:80").await;
    assert!(answer.starts_with("HTTP/1.1 301"), "{answer}");
    assert!(
        answer.contains("location: https://shop.test/path\r\n"),
        "{answer}"
    );

    // A connection that outlives the release finds no app there.
    let mut kept = TcpStream::connect((own, PORT)).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n";
    kept.write_all(request).await.unwrap();
    assert!(
        timeout(LIMIT, kept.read(&mut [0; 4096]))
            .await
            .unwrap()
            .unwrap()
            > 0
    );
    names.send_replace(table(&[(of_forced, "forced")]));
    is_shut((own, PORT).into()).await;
    let request = "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n";
    let answer = answered(kept, request).await;
    assert!(answer.contains("no-such-app"), "{answer}");
}

#[tokio::test]
async fn a_private_address_does_not_lead_to_https_and_takes_no_datagrams() {
    let (shared, own) = (own_ip(), own_ip());
    let (world, _names) = world(&[(own, "b")], |config| {
        config.port_ips = vec![shared];
        config.private = Network::parse(&own.to_string());
    })
    .await;
    let says = says(&world.tasks, "the app").await;
    let (echo, _) = udp::echo(&world.tasks, "").await;
    let datagrams = |number| udp::at_ports(PortRange::single(PORT), number, echo);
    let forced = ServicePort {
        force_https: true,
        ..at_port(PortHandler::Http)
    };
    world.publish_apps([
        app("a", vec![datagrams(1)]),
        app("b", vec![behind(forced, 2, says), datagrams(3)]),
    ]);
    world.is_open("b", Some(own)).await;
    let answer = asked(own, "b.localhost").await;
    assert!(answer.ends_with("\r\n\r\nthe app"), "{answer}");
    let answer = asked(shared, "b.localhost").await;
    assert!(!answer.ends_with("the app"), "{answer}");
    let at_own = world.statuses("b", Some(own));
    assert!(at_own.iter().all(|port| port.protocol == Protocol::Tcp));
    // So it lacks the port of datagrams that another app has.
    let elsewhere = world.statuses("b", None);
    let problem = elsewhere.iter().find_map(|port| port.problem.as_deref());
    assert_eq!(problem, Some("the app a has this port"));
}

#[tokio::test]
async fn tls_at_an_address_has_a_certificate_of_its_app_with_and_without_a_name() {
    let own = own_ip();
    let (world, _names) = world(&[(own, "app")], |_| {}).await;
    let (address, _) = echo(&world.tasks, "app ").await;
    let (other, _) = echo(&world.tasks, "other ").await;
    let tls = |number, address| vec![behind(at_port(PortHandler::Tls), number, address)];
    world.publish_apps([app("app", tls(1, address)), app("other", tls(2, other))]);
    world.is_open("app", Some(own)).await;
    let connect = async |name: &str, with_sni: bool| {
        let stream = TcpStream::connect((own, PORT)).await.unwrap();
        let set = |config: &mut rustls::ClientConfig| config.enable_sni = with_sni;
        world.tls(stream, name, set).await
    };
    for with_sni in [true, false] {
        let stream = connect("app.localhost", with_sni).await.unwrap();
        assert_eq!(ask(stream, b"x").await, b"app x", "{with_sni}");
    }
    for strange in ["other.localhost", "no.test"] {
        let error = connect(strange, true).await.unwrap_err().to_string();
        assert!(error.contains("app.localhost"), "{strange}: {error}");
    }
}

#[tokio::test]
async fn a_session_with_another_app_is_not_resumed_at_an_address() {
    for version in tickets::VERSIONS {
        let (shared, own, cluster) = (own_ip(), own_ip(), Cluster::new());
        let (world, _names) = world(&[(own, "app")], |config| {
            config.port_ips = vec![shared];
            config.tickets = Some(cluster.keys(tickets::BEGIN));
        })
        .await;
        let (address, _) = echo(&world.tasks, "app ").await;
        let (other, _) = echo(&world.tasks, "other ").await;
        let tls = |number, address| vec![behind(at_port(PortHandler::Tls), number, address)];
        world.publish_apps([app("app", tls(1, address)), app("other", tls(2, other))]);
        world.is_open("app", Some(own)).await;
        world.is_open("other", None).await;
        let client = tickets::client(version, &[&world]);
        let connect = async |ip: IpAddr| {
            let stream = TcpStream::connect((ip, PORT)).await.unwrap();
            let name = ServerName::try_from("other.localhost").unwrap();
            client.connect(name, stream).await
        };
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = connect(shared).await.unwrap();
            assert_eq!(ask(&mut stream, b"x").await, b"other x");
            let was = stream.get_ref().1.handshake_kind();
            assert_eq!(was, Some(kind), "{version:?}");
        }
        let error = connect(own).await.unwrap_err().to_string();
        assert!(error.contains("app.localhost"), "{version:?}: {error}");
    }
}

#[tokio::test]
async fn an_edge_that_takes_over_has_the_doors_at_addresses() {
    let own = own_ip();
    let (old, _names) = world(&[(own, "app")], |_| {}).await;
    let raw = |number, address| -> Vec<Endpoint> {
        vec![behind(at_port(PortHandler::Raw), number, address)]
    };
    let (before, _) = echo(&old.tasks, "old ").await;
    let (after, _) = echo(&old.tasks, "new ").await;
    old.publish(raw(1, before));
    old.is_open("app", Some(own)).await;
    let mut kept = TcpStream::connect((own, PORT)).await.unwrap();
    kept.write_all(b"kept ").await.unwrap();
    let gauge = old.edge.gauge();
    wait_until("it is carried", || {
        gauge.in_flight(&crate::world::machine(1)) == 1
    })
    .await;

    let (_names, feed) = watch::channel(table(&[(own, "app")]));
    let at = |config: &mut EdgeConfig| {
        config.names = feed;
        config.http = vec![old.http()];
        config.https = vec![old.https()];
    };
    let machines = Arc::new(TrafficTable::from([app("app", raw(2, after))]));
    let new = World::with_sockets(at, machines, old.edge.listeners().unwrap()).await;
    new.is_open("app", Some(own)).await;
    let clients = async {
        let begun = std::time::Instant::now();
        // Both accept until the old one has left.
        while answer_at(own, PORT).await != b"new x" {
            assert!(begun.elapsed() < LIMIT, "the new edge accepts nothing");
        }
        assert_eq!(ask(kept, b"on").await, b"old kept on");
    };
    let (nothing_was_cut, ()) = tokio::join!(old.edge.retire(LIMIT * 10), clients);
    assert!(nothing_was_cut);
    assert_eq!(answer_at(own, PORT).await, b"new x");
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_says_why() {
    let own = own_ip();
    let taken = TcpListener::bind((own, PORT)).await.unwrap();
    // For documentation only (RFC 5737): no host has it.
    let none: IpAddr = Ipv4Addr::new(192, 0, 2, 1).into();
    let (world, _names) = world(&[(own, "app"), (none, "app")], |_| {}).await;
    let (address, _) = echo(&world.tasks, "app ").await;
    world.publish(vec![behind(at_port(PortHandler::Raw), 1, address)]);
    let says = async |ip, text: &str| {
        wait_until(text, || {
            let ports = world.statuses("app", Some(ip));
            let problem = ports.first().and_then(|port| port.problem.clone());
            problem.is_some_and(|problem| problem.contains(text))
        })
        .await;
    };
    says(none, "no interface of this host has the address 192.0.2.1").await;
    says(own, "another program listens").await;
    drop(taken);
    world.is_open("app", Some(own)).await;
    assert_eq!(answer_at(own, PORT).await, b"app x");
}
