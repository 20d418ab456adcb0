//! Services that are not HTTP: raw TCP, TLS, PostgreSQL's TLS, the PROXY protocol.

use crate::world::{LIMIT, World, endpoint, machine, nobody, wait_until};
use roost_edge::proxy_protocol::{Told, header};
use roost_edge::{EdgeConfig, Network};
use roost_model::machine::{
    PortHandler, PortRange, ProxyVersion, Service, ServicePort, TlsVersion,
};
use roost_model::name::AppName;
use roost_proto::traffic::{AppTraffic, Endpoint, TrafficTable};
use roost_runtime::tasks::Tasks;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The external port of these tests; each has an address of its own for it.
pub(crate) const PORT: u16 = 5_000;

/// A loopback address that no other test has.
pub(crate) fn own_ip() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// An edge that opens ports at an address of its own.
pub(crate) async fn world(change: impl FnOnce(&mut EdgeConfig)) -> (World, IpAddr) {
    let ip = own_ip();
    let world = World::with(|config| {
        config.port_ips = vec![ip];
        change(config);
    });
    (world.await, ip)
}

fn service(port: ServicePort) -> Service {
    Service {
        ports: vec![port],
        ..Service::http(1)
    }
}

pub(crate) fn at_port(handler: PortHandler) -> ServicePort {
    ServicePort::new(PortRange::single(PORT), handler)
}

pub(crate) fn behind(port: ServicePort, number: u8, address: SocketAddr) -> Endpoint {
    Endpoint {
        service: service(port).into(),
        ..endpoint(number, address)
    }
}

pub(crate) fn app(name: &str, endpoints: Vec<Endpoint>) -> (AppName, AppTraffic) {
    (AppName::parse(name).unwrap(), AppTraffic { endpoints })
}

impl World {
    pub(crate) fn publish_apps<const N: usize>(&self, apps: [(AppName, AppTraffic); N]) {
        self.table.send_replace(Arc::new(TrafficTable::from(apps)));
    }

    /// What is wrong with the app's one port; waits until that is as expected.
    pub(crate) async fn port_problem(&self, app: &str, is_expected: impl Fn(Option<&str>) -> bool) {
        let app = AppName::parse(app).unwrap();
        wait_until("the port's status", || {
            let table = self.edge.ports().borrow().clone();
            let status = table.get(&app).and_then(|ports| ports.first());
            status.is_some_and(|status| is_expected(status.problem.as_deref()))
        })
        .await;
    }

    /// Publishes one app behind this port, and connects once it is open.
    pub(crate) async fn connect(&self, ip: IpAddr, endpoints: Vec<Endpoint>) -> TcpStream {
        self.publish(endpoints);
        self.port_problem("app", |problem| problem.is_none()).await;
        TcpStream::connect((ip, PORT)).await.unwrap()
    }

    pub(crate) async fn tls(
        &self,
        stream: TcpStream,
        name: &str,
        change: impl FnOnce(&mut ClientConfig),
    ) -> io::Result<TlsStream<TcpStream>> {
        let pem = self.authority.certificate_pem().as_bytes();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(pem).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        change(&mut config);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }
}

/// A machine that answers the whole of what it got, after its end, with a prefix.
pub(crate) async fn echo(tasks: &Tasks, prefix: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let (connections, counted) = (tasks.clone(), count.clone());
    tasks.spawn("echo", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            connections.spawn("echo-connection", async move {
                let mut bytes = prefix.as_bytes().to_vec();
                if stream.read_to_end(&mut bytes).await.is_ok() {
                    let _ = stream.write_all(&bytes).await;
                }
            });
        }
    });
    (address, count)
}

/// Says something, ends its side, and returns all that comes.
pub(crate) async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &[u8]) -> Vec<u8> {
    stream.write_all(text).await.unwrap();
    stream.shutdown().await.unwrap();
    read_all(stream).await.unwrap()
}

pub(crate) async fn read_all(mut stream: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let read = timeout(LIMIT, stream.read_to_end(&mut answer)).await;
    read.expect("the edge ends the connection").map(|_| answer)
}

/// Nothing comes, and the connection ends.
async fn is_closed(stream: impl AsyncRead + Unpin) {
    // A reset is as good an end as a close.
    assert_eq!(read_all(stream).await.unwrap_or_default(), b"");
}

#[tokio::test]
async fn bytes_go_both_ways_after_one_side_has_ended_and_count_until_both_have() {
    let (world, ip) = world(|_| {}).await;
    let (address, _) = echo(&world.tasks, "got ").await;
    let app = behind(at_port(PortHandler::Raw), 1, address);
    let stream = world.connect(ip, vec![app]).await;
    let gauge = world.edge.gauge();
    wait_until("it is counted", || gauge.in_flight(&machine(1)) == 1).await;
    assert_eq!(ask(stream, b"hello").await, b"got hello");
    wait_until("it is over", || gauge.in_flight(&machine(1)) == 0).await;
}

#[tokio::test]
async fn a_machine_that_refuses_is_passed_over_and_without_another_the_client_is_closed() {
    let (world, ip) = world(|_| {}).await;
    let (address, _) = echo(&world.tasks, "").await;
    let refuses = behind(at_port(PortHandler::Raw), 1, nobody().await);
    let stream = world.connect(ip, vec![refuses.clone()]).await;
    is_closed(stream).await;
    let takes = behind(at_port(PortHandler::Raw), 2, address);
    world.publish(vec![refuses, takes]);
    for _ in 0..4 {
        let stream = TcpStream::connect((ip, PORT)).await.unwrap();
        assert_eq!(ask(stream, b"x").await, b"x");
    }
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_nothing_behind() {
    let (world, ip) = world(|_| {}).await;
    let (address, count) = echo(&world.tasks, "").await;
    let app = behind(at_port(PortHandler::Raw), 1, address);
    let mut stream = world.connect(ip, vec![app]).await;
    stream.write_all(b"half a ").await.unwrap();
    wait_until("the machine has it", || count.load(Ordering::SeqCst) == 1).await;
    socket2::SockRef::from(&stream)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
    drop(stream);
    let gauge = world.edge.gauge();
    wait_until("it is over", || gauge.in_flight(&machine(1)) == 0).await;
}

#[tokio::test]
async fn a_machine_that_is_silent_after_its_client_has_ended_is_cut_off() {
    let (world, ip) = world(|config| {
        config.timeouts.tunnel_idle = std::time::Duration::from_millis(200);
    })
    .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = behind(at_port(PortHandler::Raw), 1, address);
    let mut stream = world.connect(ip, vec![app]).await;
    stream.write_all(b"bye").await.unwrap();
    stream.shutdown().await.unwrap();
    // It reads nothing, says nothing, and does not end.
    let _silent = listener.accept().await.unwrap();
    is_closed(stream).await;
    let gauge = world.edge.gauge();
    wait_until("it is over", || gauge.in_flight(&machine(1)) == 0).await;
}

#[tokio::test]
async fn a_slow_reader_holds_up_the_machine_and_not_the_edges_memory() {
    const ALL: usize = 256 * 1024 * 1024;
    let (world, ip) = world(|_| {}).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    world.tasks.spawn("sender", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let piece = vec![7; 64 * 1024];
        while count.load(Ordering::SeqCst) < ALL && stream.write_all(&piece).await.is_ok() {
            count.fetch_add(piece.len(), Ordering::SeqCst);
        }
    });
    let app = behind(at_port(PortHandler::Raw), 1, address);
    let mut stream = world.connect(ip, vec![app]).await;
    let mut before = 0;
    let held_up = async {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let now = written.load(Ordering::SeqCst);
            if now > 0 && now == before {
                return now;
            }
            before = now;
        }
    };
    // What the kernel's buffers of two connections hold, and two of the edge's.
    let held_up = timeout(LIMIT, held_up).await.unwrap();
    assert!(held_up < 64 * 1024 * 1024, "{held_up}");
    let mut piece = vec![0; 64 * 1024];
    let mut n_read = 0;
    while n_read < ALL {
        let n = timeout(LIMIT, stream.read(&mut piece))
            .await
            .unwrap()
            .unwrap();
        assert!(n > 0 && piece[..n].iter().all(|&byte| byte == 7));
        n_read += n;
    }
}

#[tokio::test]
async fn tls_is_taken_off_with_the_alpn_of_the_service_and_apps_share_its_port() {
    let (world, ip) = world(|_| {}).await;
    let (first, _) = echo(&world.tasks, "first ").await;
    let (second, seen) = echo(&world.tasks, "second ").await;
    let mut mqtt = at_port(PortHandler::Tls);
    mqtt.tls.alpn = vec!["mqtt".into()];
    let (first, second) = (
        behind(mqtt, 1, first),
        behind(at_port(PortHandler::Tls), 2, second),
    );
    world.publish_apps([app("first", vec![first]), app("second", vec![second])]);
    world
        .port_problem("first", |problem| problem.is_none())
        .await;
    world
        .port_problem("second", |problem| problem.is_none())
        .await;
    let connect = async || TcpStream::connect((ip, PORT)).await.unwrap();
    let offers = |name: &'static str| {
        move |config: &mut ClientConfig| config.alpn_protocols = vec![name.as_bytes().to_vec()]
    };
    let stream = world
        .tls(connect().await, "first.localhost", offers("mqtt"))
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"mqtt"[..]));
    assert_eq!(ask(stream, b"hi").await, b"first hi");
    let stream = world
        .tls(connect().await, "second.localhost", |_| {})
        .await
        .unwrap();
    assert_eq!(ask(stream, b"hi").await, b"second hi");
    let other = world
        .tls(connect().await, "first.localhost", offers("h2"))
        .await;
    let error = other.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    for name in ["third.localhost", "localhost", "example.com"] {
        let error = world.tls(connect().await, name, |_| {}).await.unwrap_err();
        assert!(
            error.to_string().contains("AccessDenied"),
            "{name}: {error}"
        );
    }
    // An address is sent as no name at all.
    world
        .tls(connect().await, "127.0.0.1", |_| {})
        .await
        .unwrap_err();
    let mut plain = connect().await;
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _alert = read_all(plain).await;
    assert_eq!(seen.load(Ordering::SeqCst), 1, "no machine saw what failed");
}

#[tokio::test]
async fn a_service_may_leave_out_tls_1_2_also_on_the_shared_port() {
    let (world, ip) = world(|_| {}).await;
    let (address, _) = echo(&world.tasks, "").await;
    let mut tls = at_port(PortHandler::Tls);
    tls.tls.only = Some(TlsVersion::V13);
    let shared = ServicePort {
        ports: PortRange::single(443),
        ..tls.clone()
    };
    let mut endpoint = behind(tls, 1, address);
    Arc::make_mut(&mut endpoint.service).ports.push(shared);
    drop(world.connect(ip, vec![endpoint]).await);
    let old = |config: &mut ClientConfig| {
        let provider = config.crypto_provider().clone();
        let roots = RootCertStore::empty();
        *config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    };
    for address in [SocketAddr::new(ip, PORT), world.https()] {
        let connect = async || TcpStream::connect(address).await.unwrap();
        let error = world
            .tls(connect().await, "app.localhost", old)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("ProtocolVersion"), "{error}");
        let stream = world
            .tls(connect().await, "app.localhost", |_| {})
            .await
            .unwrap();
        assert_eq!(ask(stream, b"1.3").await, b"1.3");
    }
}

#[tokio::test]
async fn http_is_served_on_ports_of_an_apps_own_and_only_there() {
    let (world, ip) = world(|_| {}).await;
    let address = crate::world::says(&world.tasks, "hello").await;
    let http = at_port(PortHandler::Http);
    let https = ServicePort::new(PortRange::single(PORT + 1), PortHandler::Https);
    let mut endpoint = behind(http, 1, address);
    Arc::make_mut(&mut endpoint.service).ports.push(https);
    drop(world.connect(ip, vec![endpoint]).await);
    let client = world
        .client_builder()
        .resolve("app.localhost", (ip, 0).into());
    let client = client.build().unwrap();
    for url in ["http://app.localhost:5000/", "https://app.localhost:5001/"] {
        let answer = client.get(url).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "hello", "{url}");
    }
    let answer = world.client().get(world.url("/")).send().await.unwrap();
    assert_eq!(answer.status(), 404);
    assert!(
        answer
            .text()
            .await
            .unwrap()
            .contains("takes no HTTP at this port")
    );
}

#[tokio::test]
async fn ports_open_and_close_with_the_table_and_say_why_they_could_not() {
    let (world, ip) = world(|_| {}).await;
    let (address, _) = echo(&world.tasks, "").await;
    let taken = TcpListener::bind((ip, PORT)).await.unwrap();
    let range = PortRange {
        first: PORT,
        last: PORT + 2,
    };
    let endpoint = behind(ServicePort::new(range, PortHandler::Raw), 1, address);
    world.publish(vec![endpoint]);
    let says_why = |problem: Option<&str>| {
        problem.is_some_and(|problem| problem.contains("another program listens on 127."))
    };
    world.port_problem("app", says_why).await;
    for port in [PORT + 1, PORT + 2] {
        let stream = TcpStream::connect((ip, port)).await.unwrap();
        assert_eq!(ask(stream, b"x").await, b"x");
    }
    drop(taken);
    world.port_problem("app", |problem| problem.is_none()).await;
    let stream = TcpStream::connect((ip, PORT)).await.unwrap();
    let gauge = world.edge.gauge();
    wait_until("it is accepted", || gauge.in_flight(&machine(1)) == 1).await;
    world.publish_apps([]);
    wait_until("the port is closed", || {
        std::net::TcpStream::connect((ip, PORT)).is_err()
    })
    .await;
    assert_eq!(
        ask(stream, b"still").await,
        b"still",
        "a connection outlives its port"
    );
}

#[tokio::test]
async fn who_has_a_raw_port_keeps_it_and_others_are_told_who_has_it() {
    let (world, ip) = world(|_| {}).await;
    let (first, _) = echo(&world.tasks, "b ").await;
    let (second, _) = echo(&world.tasks, "a ").await;
    let b = app("b", vec![behind(at_port(PortHandler::Raw), 1, first)]);
    let a = app("a", vec![behind(at_port(PortHandler::Raw), 2, second)]);
    let tls = app("c", vec![behind(at_port(PortHandler::Tls), 3, second)]);
    world.publish_apps([b.clone()]);
    world.port_problem("b", |problem| problem.is_none()).await;
    world.publish_apps([a.clone(), b, tls]);
    let told = |problem: Option<&str>| problem == Some("the app b has this port");
    world.port_problem("a", told).await;
    world.port_problem("c", told).await;
    let stream = TcpStream::connect((ip, PORT)).await.unwrap();
    assert_eq!(ask(stream, b"x").await, b"b x");
    world.publish_apps([a]);
    world.port_problem("a", |problem| problem.is_none()).await;
    let stream = TcpStream::connect((ip, PORT)).await.unwrap();
    assert_eq!(ask(stream, b"x").await, b"a x");
}

const TLS_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const GSS_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";

#[tokio::test]
async fn postgres_clients_ask_for_tls_or_begin_with_it() {
    let (world, ip) = world(|_| {}).await;
    let (address, _) = echo(&world.tasks, "pg ").await;
    let endpoint = behind(at_port(PortHandler::PgTls), 1, address);
    let mut stream = world.connect(ip, vec![endpoint]).await;
    let mut answer = [0];
    for (request, expected) in [(GSS_REQUEST, b'N'), (TLS_REQUEST, b'S')] {
        stream.write_all(request).await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[0], expected);
    }
    let stream = world.tls(stream, "app.localhost", |_| {}).await.unwrap();
    assert_eq!(ask(stream, b"start").await, b"pg start");
    let stream = TcpStream::connect((ip, PORT)).await.unwrap();
    let direct = |config: &mut ClientConfig| config.alpn_protocols = vec![b"postgresql".to_vec()];
    let stream = world.tls(stream, "app.localhost", direct).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"postgresql"[..]));
    assert_eq!(ask(stream, b"start").await, b"pg start");
}

#[tokio::test]
async fn postgres_clients_without_tls_get_an_error_in_their_own_words() {
    let (world, ip) = world(|_| {}).await;
    let (address, seen) = echo(&world.tasks, "").await;
    let endpoint = behind(at_port(PortHandler::PgTls), 1, address);
    drop(world.connect(ip, vec![endpoint]).await);
    let startup = b"\0\0\0\x14\0\x03\0\0user\0alice\0\0";
    let endless = GSS_REQUEST.repeat(3);
    for (bytes, n_refusals) in [
        (&startup[..], 0),
        (&endless, 3),
        (b"GET / HTTP/1.1\r\n\r\n", 0),
    ] {
        let mut stream = TcpStream::connect((ip, PORT)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = vec![0; n_refusals];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, vec![b'N'; n_refusals]);
        // What the edge left unread may reset the connection before the error arrives.
        let mut error = [0; 1];
        if stream.read_exact(&mut error).await.is_ok() {
            assert_eq!(&error, b"E");
        }
    }
    let mut stream = TcpStream::connect((ip, PORT)).await.unwrap();
    stream.write_all(b"\0\0\0\x08\0\x03\0\0").await.unwrap();
    let error = read_all(stream).await.unwrap();
    let text = String::from_utf8_lossy(&error);
    assert!(text.starts_with('E') && text.contains("SFATAL\0"), "{text}");
    assert!(
        text.contains("C28000\0") && text.contains("TLS only"),
        "{text}"
    );
    let n_bytes = u32::from_be_bytes(error[1..5].try_into().unwrap());
    assert_eq!(n_bytes as usize, error.len() - 1);
    // Bytes that came with the request are not taken for the client's after the handshake.
    let mut stream = TcpStream::connect((ip, PORT)).await.unwrap();
    let stuffed = [TLS_REQUEST, b"Qdrop everything"].concat();
    stream.write_all(&stuffed).await.unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).await.unwrap();
    world
        .tls(stream, "app.localhost", |_| {})
        .await
        .unwrap_err();
    assert_eq!(seen.load(Ordering::SeqCst), 0, "no machine saw any of it");
}

#[tokio::test]
async fn the_app_is_told_who_its_client_is_in_the_version_that_it_asks_for() {
    for (version, handler) in [
        (ProxyVersion::V1, PortHandler::Raw),
        (ProxyVersion::V2, PortHandler::Raw),
        (ProxyVersion::V2, PortHandler::Tls),
    ] {
        let (world, ip) = world(|_| {}).await;
        let (address, _) = echo(&world.tasks, "").await;
        let mut port = at_port(handler);
        port.proxy_proto = Some(version);
        let stream = world.connect(ip, vec![behind(port, 1, address)]).await;
        let told = Told {
            source: stream.local_addr().unwrap(),
            destination: stream.peer_addr().unwrap(),
        };
        let expected = [header(version, told), b"hi".to_vec()].concat();
        let answer = if handler == PortHandler::Tls {
            let stream = world.tls(stream, "app.localhost", |_| {}).await.unwrap();
            ask(stream, b"hi").await
        } else {
            ask(stream, b"hi").await
        };
        assert_eq!(answer, expected, "{version:?} {handler:?}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is_for_every_kind_of_port() {
    let trusts =
        |config: &mut EdgeConfig| config.proxies = vec![Network::parse("127.0.0.0/8").unwrap()];
    let (world, ip) = world(trusts).await;
    let (address, _) = echo(&world.tasks, "").await;
    let told = Told {
        source: "192.0.2.9:1234".parse().unwrap(),
        destination: "198.51.100.1:5000".parse().unwrap(),
    };
    let mut port = at_port(PortHandler::Tls);
    port.proxy_proto = Some(ProxyVersion::V1);
    let web = crate::world::backend(&world.tasks, |request| async move {
        let headers = request.headers();
        let client = headers["fly-client-ip"].to_str().unwrap();
        http::Response::new(crate::world::full(client.to_owned()))
    })
    .await;
    let endpoints = vec![behind(port, 1, address), endpoint(2, web)];
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let mut stream = world.connect(ip, endpoints.clone()).await;
        stream.write_all(&header(version, told)).await.unwrap();
        let stream = world.tls(stream, "app.localhost", |_| {}).await.unwrap();
        let expected = [header(ProxyVersion::V1, told), b"hi".to_vec()].concat();
        assert_eq!(ask(stream, b"hi").await, expected);
        let mut request = header(version, told);
        request.extend(b"GET / HTTP/1.1\r\nhost: app.localhost\r\nconnection: close\r\n\r\n");
        let answer = world.raw(request).await;
        assert!(answer.ends_with("192.0.2.9"), "{answer}");
    }
    // A health check of the proxy itself.
    let itself =
        b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\nhost: app.localhost\r\nconnection: close\r\n\r\n";
    let answer = world.raw(itself).await;
    assert!(answer.ends_with("127.0.0.1"), "{answer}");
}

#[tokio::test]
async fn bad_headers_of_a_trusted_proxy_are_closed_and_no_machine_sees_them() {
    let trusts =
        |config: &mut EdgeConfig| config.proxies = vec![Network::parse("127.0.0.1").unwrap()];
    let (world, ip) = world(trusts).await;
    let (address, seen) = echo(&world.tasks, "").await;
    let endpoint = behind(at_port(PortHandler::Raw), 1, address);
    drop(world.connect(ip, vec![endpoint]).await);
    for bad in [
        b"hello".to_vec(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n".to_vec(),
        [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(),
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(),
    ] {
        let mut stream = TcpStream::connect((ip, PORT)).await.unwrap();
        stream.write_all(&bad).await.unwrap();
        is_closed(stream).await;
    }
    // Cut off in the middle.
    let mut stream = TcpStream::connect((ip, PORT)).await.unwrap();
    stream.write_all(b"PROXY TCP4 192.0").await.unwrap();
    stream.shutdown().await.unwrap();
    is_closed(stream).await;
    assert_eq!(seen.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_header_of_somebody_else_is_not_read_as_one() {
    let trusts =
        |config: &mut EdgeConfig| config.proxies = vec![Network::parse("192.0.2.0/24").unwrap()];
    let (world, ip) = world(trusts).await;
    let (address, _) = echo(&world.tasks, "").await;
    let stream = world
        .connect(ip, vec![behind(at_port(PortHandler::Raw), 1, address)])
        .await;
    let forged = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nhi";
    assert_eq!(ask(stream, forged).await, forged, "it is the app's bytes");
    let answer = world.raw(forged).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn raw_connections_are_cut_when_the_edge_has_drained_long_enough() {
    let (world, ip) = world(|_| {}).await;
    let (address, count) = echo(&world.tasks, "").await;
    let endpoint = behind(at_port(PortHandler::Raw), 1, address);
    let mut stream = world.connect(ip, vec![endpoint]).await;
    stream.write_all(b"x").await.unwrap();
    wait_until("the machine has it", || count.load(Ordering::SeqCst) == 1).await;
    assert!(!world.edge.drain(std::time::Duration::from_millis(50)).await);
    is_closed(stream).await;
    let refused = || std::net::TcpStream::connect((ip, PORT)).is_err();
    wait_until("the port is closed", refused).await;
}
