//! The plumber against a real kernel.

use super::{LinuxPlumber, NetConfig};
use crate::instance::InstanceTag;
use crate::net::addresses::NodeNetwork;
use crate::net::testing::{Host, LIMIT, Namespace, addresses_of, host_state, in_fresh_host, shell};
use crate::net::{PacketPlumber as _, PlumbError};
use roost_model::id::MachineId;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn the_host_reaches_machines_and_machines_reach_neither_host_nor_each_other() {
    in_fresh_host(async || {
        let host = Host::new();
        host.plumber.ensure_node().await.unwrap();
        let (one, _, one_addresses) = host.machine(1).await;
        let (two, _, two_addresses) = host.machine(2).await;
        let _listeners = [one.listen(80), two.listen(80)];
        for address in [one_addresses, two_addresses]
            .into_iter()
            .flat_map(addresses_of)
        {
            TcpStream::connect_timeout(&SocketAddr::new(address, 80), LIMIT)
                .unwrap_or_else(|error| panic!("{address}: {error}"));
        }
        let _host_listener = TcpListener::bind("[::]:9000").unwrap();
        let gateways = [
            IpAddr::from(host.network.gateway_ipv4()),
            host.network.gateway_ipv6().into(),
        ];
        for gateway in gateways {
            assert!(
                one.connect(SocketAddr::new(gateway, 9000)).is_err(),
                "{gateway} answers a machine"
            );
        }
        for address in addresses_of(two_addresses) {
            assert!(
                one.connect(SocketAddr::new(address, 80)).is_err(),
                "{address} answers another machine"
            );
        }
    });
}

/// A cable from the host, `up0`, to the namespace of this process, `eth0`; they have the
/// addresses 1 and 2 of 192.0.2.0/24 and 2001:db8::/64.
fn uplink(pid: u32) {
    shell(&format!(
        "ip link add up0 type veth peer name eth0 netns {pid}
         ip addr add 192.0.2.1/24 dev up0; ip addr add 2001:db8::1/64 dev up0 nodad; ip link set up0 up
         nsenter -t {pid} -n sh -ec 'ip addr add 192.0.2.2/24 dev eth0; ip link set lo up
         ip addr add 2001:db8::2/64 dev eth0 nodad; ip link set eth0 up'"
    ));
}

#[test]
fn machines_reach_the_outside_with_the_hosts_address_and_only_as_themselves() {
    in_fresh_host(async || {
        let host = Host::new();
        let outside = Namespace::new();
        let pid = outside.pid();
        uplink(pid);
        shell(&format!(
            "nsenter -t {pid} -n sh -ec 'ip route add default via 192.0.2.1
             ip route add default via 2001:db8::1'"
        ));
        host.plumber.ensure_node().await.unwrap();
        let (machine, _, addresses) = host.machine(1).await;
        let listener = outside.listen(80);
        for (target, seen_as) in [
            ("192.0.2.2:80", "::ffff:192.0.2.1"),
            ("[2001:db8::2]:80", "2001:db8::1"),
        ] {
            let address = target.parse().unwrap();
            let start = Instant::now();
            // The kernel notices in its own time that a new link is connected.
            let _stream = loop {
                match machine.run(|| TcpStream::connect_timeout(&address, LIMIT)) {
                    Ok(stream) => break stream,
                    Err(error) => assert!(
                        start.elapsed() < LIMIT,
                        "{target}: {error}\n{}",
                        shell("nft list ruleset; ip -s link; ip -6 neigh")
                    ),
                }
                std::thread::sleep(Duration::from_millis(10));
            };
            let (_, peer) = listener.accept().unwrap();
            assert_eq!(peer.ip().to_string(), seen_as);
        }
        let _in_machine = machine.listen(80);
        let from_outside = outside.connect(SocketAddr::new(addresses.ipv4.into(), 80));
        assert!(from_outside.is_err(), "the outside reaches a machine");

        let receiver = outside.run(|| UdpSocket::bind("192.0.2.2:53").unwrap());
        receiver.set_read_timeout(Some(LIMIT)).unwrap();
        shell(&format!(
            "nsenter -t {} -n ip addr add 10.99.0.7/32 dev eth0",
            machine.pid()
        ));
        for (source, text) in [
            ("10.99.0.7".parse().unwrap(), "false"),
            (IpAddr::from(addresses.ipv4), "true"),
        ] {
            let sender = machine.run(|| UdpSocket::bind((source, 0)).unwrap());
            sender.send_to(text.as_bytes(), "192.0.2.2:53").unwrap();
        }
        let mut buffer = [0; 16];
        let (n_bytes, _) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(
            &buffer[..n_bytes],
            b"true",
            "a packet with a false source came through"
        );
    });
}

#[test]
fn machines_reach_the_private_addresses_of_apps_and_the_outside_does_not() {
    in_fresh_host(async || {
        let host = Host::new();
        let outside = Namespace::new();
        let pid = outside.pid();
        uplink(pid);
        shell(&format!(
            "nsenter -t {pid} -n ip route add fdaa::/16 via 2001:db8::1"
        ));
        host.plumber.ensure_node().await.unwrap();
        // As after a restart of the node.
        host.restarted().ensure_node().await.unwrap();
        let (machine, _, addresses) = host.machine(1).await;
        let app = host.network.apps_ipv6().to_bits() + 7;
        let app = SocketAddr::new(Ipv6Addr::from_bits(app).into(), 80);
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_freebind_v6(true).unwrap();
        socket.bind(&app.into()).unwrap();
        socket.listen(16).unwrap();
        let listener = TcpListener::from(socket);
        let _all = TcpListener::bind("[::]:9000").unwrap();

        let _stream = machine
            .run(|| TcpStream::connect_timeout(&app, LIMIT))
            .unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), IpAddr::from(addresses.ipv6));
        // Nobody listens at the one; at the other a program of the host does, at every address.
        for port in [81, 9000] {
            let other = SocketAddr::new(app.ip(), port);
            let refused = machine.run(|| TcpStream::connect_timeout(&other, LIMIT));
            let kind = refused.map(drop).map_err(|error| error.kind());
            assert_eq!(kind, Err(io::ErrorKind::ConnectionRefused), "{port}");
        }
        // The way is there: what the host offers to all is reached by it.
        let public = "[2001:db8::1]:9000".parse().unwrap();
        let start = Instant::now();
        while outside.connect(public).is_err() {
            assert!(start.elapsed() < LIMIT, "the outside reaches nothing");
        }
        for port in [80, 9000] {
            let from_outside = outside.connect(SocketAddr::new(app.ip(), port));
            assert!(
                from_outside.is_err(),
                "the outside reaches a private address"
            );
        }
        host.plumber.remove_node().await.unwrap();
        let routes = shell("ip -6 route show table all");
        assert!(!routes.contains("fdaa:1a2b:0:0:1::/80"), "{routes}");
    });
}

/// A socket of the host that speaks in the name of somebody else, as the edge has them.
fn in_the_name_of(client: SocketAddr, machine: SocketAddr) -> UdpSocket {
    let domain = Domain::for_address(client);
    let socket = Socket::new(domain, Type::DGRAM, None).unwrap();
    socket.set_ip_transparent_v4(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&client.into()).unwrap();
    socket.connect(&machine.into()).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.into()
}

#[test]
fn a_machine_sees_the_client_in_whose_name_the_host_speaks_and_answers_it() {
    in_fresh_host(async || {
        let host = Host::new();
        let outside = Namespace::new();
        let pid = outside.pid();
        // The clients are behind the uplink; strict about sources, as some hosts are.
        uplink(pid);
        shell(
            "ip route add default via 192.0.2.2; ip route add default via 2001:db8::2
             echo 1 > /proc/sys/net/ipv4/conf/all/src_valid_mark",
        );
        host.plumber.ensure_node().await.unwrap();
        let (machine, _, addresses) = host.machine(1).await;
        // As after a restart of the node.
        host.restarted().ensure_node().await.unwrap();
        let clients = ["198.51.100.7:4000", "[2001:db8:7::7]:4000"];
        for (client, address) in clients.into_iter().zip(addresses_of(addresses)) {
            let client: SocketAddr = client.parse().unwrap();
            let app = machine.run(|| UdpSocket::bind((address, 5_000)).unwrap());
            app.set_read_timeout(Some(LIMIT)).unwrap();
            let other_app = machine.run(|| UdpSocket::bind((address, 5_001)).unwrap());
            let socket = in_the_name_of(client, SocketAddr::new(address, 5_000));
            let other = in_the_name_of(client, SocketAddr::new(address, 5_001));
            let large = vec![7; 20_000];
            for question in [&b"hello"[..], b"", &large] {
                socket.send(question).unwrap();
                let mut buffer = vec![0; 65_536];
                let (n_bytes, from) = app.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..n_bytes], from), (question, client));
                app.send_to(&buffer[..n_bytes], from).unwrap();
                let n_bytes = socket.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..n_bytes], question);
            }
            // Also when the kernel has no record of the flow, as after a long silence.
            other_app.send_to(b"news", client).unwrap();
            let mut buffer = [0; 16];
            let n_bytes = other.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n_bytes], b"news");
            // That nobody listens there any more is told to the socket as well.
            drop(app);
            socket.send(b"anybody?").unwrap();
            let refused = socket.recv(&mut buffer).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }
    });
}

#[test]
fn answers_to_a_client_whose_socket_is_gone_do_not_leave_the_host() {
    in_fresh_host(async || {
        let host = Host::new();
        let outside = Namespace::new();
        let pid = outside.pid();
        uplink(pid);
        shell(&format!(
            "nsenter -t {pid} -n ip route add default via 192.0.2.1"
        ));
        host.plumber.ensure_node().await.unwrap();
        let (machine, _, addresses) = host.machine(1).await;
        let client: SocketAddr = "192.0.2.2:4000".parse().unwrap();
        let at_client = outside.run(|| UdpSocket::bind(client).unwrap());
        at_client.set_read_timeout(Some(LIMIT)).unwrap();
        let at = SocketAddr::new(addresses.ipv4.into(), 5_000);
        let app = machine.run(|| UdpSocket::bind(at).unwrap());
        app.set_read_timeout(Some(LIMIT)).unwrap();
        let socket = in_the_name_of(client, at);
        socket.send(b"hello").unwrap();
        let mut buffer = [0; 16];
        let (_, from) = app.recv_from(&mut buffer).unwrap();
        drop(socket);
        app.send_to(b"from a private address", from).unwrap();
        // What the machine says to a stranger of its own accord goes out, after it.
        let own = machine.run(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap());
        own.send_to(b"own", client).unwrap();
        let (n_bytes, from) = at_client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..n_bytes], b"own");
        assert_eq!(from.ip().to_string(), "192.0.2.1");
    });
}

#[test]
fn a_machine_that_has_gone_is_not_answered_for_by_the_outside() {
    in_fresh_host(async || {
        let host = Host::new();
        let outside = Namespace::new();
        let pid = outside.pid();
        host.plumber.ensure_node().await.unwrap();
        let (_machine, id, addresses) = host.machine(1).await;
        // An uplink that answers for every address, as some networks do.
        uplink(pid);
        shell(&format!(
            "nsenter -t {pid} -n ip addr add {}/32 dev lo; ip route add default via 192.0.2.2",
            addresses.ipv4
        ));
        let _answers = outside.listen(80);
        let target = SocketAddr::new(addresses.ipv4.into(), 80);
        host.plumber.detach(&id).await.unwrap();
        assert!(TcpStream::connect_timeout(&target, LIMIT).is_err());
        // Without the firewall the stranger would have answered: the test can tell.
        host.plumber.remove_node().await.unwrap();
        TcpStream::connect_timeout(&target, LIMIT).unwrap();
    });
}

#[test]
fn a_node_that_was_removed_has_left_nothing() {
    in_fresh_host(async || {
        let before = host_state();
        let host = Host::new();
        host.plumber.ensure_node().await.unwrap();
        let (_namespace, id, _) = host.machine(1).await;
        assert_ne!(host_state(), before);
        assert_eq!(
            host.plumber.attached().await.unwrap(),
            std::slice::from_ref(&id)
        );
        host.plumber.detach(&id).await.unwrap();
        host.plumber.detach(&id).await.unwrap();
        assert!(host.plumber.attached().await.unwrap().is_empty());
        let (_other, _, _) = host.machine(2).await;
        host.plumber.remove_node().await.unwrap();
        host.plumber.remove_node().await.unwrap();
        assert_eq!(host_state(), before);
    });
}

#[test]
fn a_new_plumber_takes_over_what_an_earlier_one_attached() {
    in_fresh_host(async || {
        let host = Host::new();
        host.plumber.ensure_node().await.unwrap();
        let (machine, id, addresses) = host.machine(1).await;
        let restarted = host.restarted();
        restarted.ensure_node().await.unwrap();
        assert_eq!(
            restarted.attached().await.unwrap(),
            std::slice::from_ref(&id)
        );
        let _listener = machine.listen(80);
        for address in addresses_of(addresses) {
            TcpStream::connect_timeout(&SocketAddr::new(address, 80), LIMIT).unwrap();
        }
        restarted.detach(&id).await.unwrap();
        assert!(
            !shell("nft list ruleset").contains("elements"),
            "the firewall forgets it"
        );
    });
}

#[test]
fn a_failed_attach_leaves_nothing_and_the_hosts_own_namespace_is_refused() {
    in_fresh_host(async || {
        let host = Host::new();
        host.plumber.ensure_node().await.unwrap();
        let before = host_state();
        let id = MachineId::from_bytes([7; 7]);
        let addresses = host.network.address(7).unwrap();
        let own = nix::unistd::gettid().as_raw().unsigned_abs();
        let error = host.plumber.attach(&id, addresses, own).await.unwrap_err();
        assert!(matches!(error, PlumbError::NotIsolated(_)), "{error:?}");
        let none = Namespace::new();
        let pid = none.pid();
        drop(none);
        host.plumber.attach(&id, addresses, pid).await.unwrap_err();
        assert_eq!(host_state(), before);
    });
}

#[test]
fn the_last_of_two_instances_restores_the_hosts_settings() {
    in_fresh_host(async || {
        let before = host_state();
        let one = Host::new();
        one.plumber.ensure_node().await.unwrap();
        let tag = InstanceTag::parse("3c4d").unwrap();
        let network = NodeNetwork::choose(tag, &[]).unwrap();
        let sysctl_record = one.record_dir.path().join("sysctl.json");
        let two = LinuxPlumber::new(NetConfig {
            tag,
            network,
            sysctl_record,
        });
        two.ensure_node().await.unwrap();
        one.plumber.remove_node().await.unwrap();
        assert_eq!(shell("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
        two.remove_node().await.unwrap();
        assert_eq!(host_state(), before);
    });
}

#[test]
fn a_machine_cannot_fill_the_hosts_table_of_neighbours() {
    in_fresh_host(async || {
        let host = Host::new();
        host.plumber.ensure_node().await.unwrap();
        let (machine, id, addresses) = host.machine(1).await;
        let pid = machine.pid();
        shell(&format!(
            "nsenter -t {pid} -n sh -ec 'ip addr add 10.99.0.1/32 dev eth0
             ip addr add fe80::99:1/64 dev eth0 nodad; ip addr add 2001:db8::99/128 dev eth0 nodad'"
        ));
        let index = shell(&format!(
            "nsenter -t {pid} -n ip -o link show eth0 | cut -d: -f1"
        ));
        let index: u32 = index.trim().parse().unwrap();
        let gateway: IpAddr = host.network.gateway_ipv4().into();
        let on_link = |address: &str| SocketAddrV6::new(address.parse().unwrap(), 0, 0, index);
        let mut to_gateway = on_link("fe80::1");
        to_gateway.set_port(9);
        let pairs: [(SocketAddr, SocketAddr); 4] = [
            ("10.99.0.1:0".parse().unwrap(), SocketAddr::new(gateway, 9)),
            (on_link("fe80::99:1").into(), to_gateway.into()),
            ("[2001:db8::99]:0".parse().unwrap(), to_gateway.into()),
            // Last, and answered: the others were dealt with before it.
            (SocketAddr::new(addresses.ipv6.into(), 0), to_gateway.into()),
        ];
        for (source, target) in pairs {
            // The machine's kernel asks for the gateway with the source of the packet.
            shell(&format!("nsenter -t {pid} -n ip neigh flush dev eth0"));
            let socket = machine.run(|| UdpSocket::bind(source).unwrap());
            socket.send_to(b"x", target).unwrap();
        }
        let link = host.tag.interface_name(&id);
        let known = || shell(&format!("ip neigh show dev {link}"));
        let start = Instant::now();
        while !known().contains(&addresses.ipv6.to_string()) {
            assert!(start.elapsed() < LIMIT, "{}", known());
            std::thread::sleep(Duration::from_millis(5));
        }
        for source in ["10.99.0.1", "fe80::99:1", "2001:db8::99"] {
            assert!(!known().contains(source), "{}", known());
        }
    });
}

#[test]
fn a_machine_reaches_none_of_the_hosts_addresses_by_any_way() {
    in_fresh_host(async || {
        shell(
            "ip link add up0 type veth peer name up1; ip addr add 192.0.2.1/24 dev up0
             ip addr add 169.254.169.254/32 dev up0; ip addr add 2001:db8::1/64 dev up0 nodad; ip link set up0 up",
        );
        let host = Host::new();
        host.plumber.ensure_node().await.unwrap();
        let (machine, id, _) = host.machine(1).await;
        let link = host.tag.interface_name(&id);
        // As careless as a host can be.
        shell(&format!(
            "echo 1 > /proc/sys/net/ipv4/conf/{link}/route_localnet"
        ));
        let _host_listener = TcpListener::bind("[::]:9000").unwrap();
        let automatic = shell(&format!("ip -6 -o addr show dev {link} scope link"));
        let link_local = automatic
            .split_whitespace()
            .filter_map(|word| word.strip_suffix("/64"));
        let targets = [
            "192.0.2.1",
            "169.254.169.254",
            "127.0.0.1",
            "2001:db8::1",
            "fe80::1%eth0",
        ];
        shell(&format!(
            "nsenter -t {0} -n sh -ec 'ip addr flush dev lo; ip route add 127.0.0.1 via {1} dev eth0 onlink'",
            machine.pid(),
            host.network.gateway_ipv4(),
        ));
        let scoped: Vec<String> = link_local
            .map(|address| format!("{address}%eth0"))
            .collect();
        assert!(!scoped.is_empty(), "{automatic}");
        for target in targets.into_iter().chain(scoped.iter().map(String::as_str)) {
            let answer = Command::new("nsenter")
                .args([
                    "-t",
                    &machine.pid().to_string(),
                    "-n",
                    "busybox",
                    "nc",
                    "-w",
                    "1",
                    target,
                    "9000",
                ])
                .stdin(Stdio::null())
                .status()
                .unwrap();
            assert!(!answer.success(), "{target} answers a machine");
        }
    });
}
