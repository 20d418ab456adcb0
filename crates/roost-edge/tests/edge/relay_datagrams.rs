//! From edge to edge: flows of datagrams. What the app sees of its client is
//! tested with real machines, end to end.

use crate::limits::limited;
use crate::relay::{Cluster, at, impostor, node, peers_of};
use crate::relay_loads::{sender, wish};
use crate::tcp::{PORT, own_ip};
use crate::udp::{ask, at_udp, client, clients_of_two, echo};
use crate::udp::{nobody, receive, until_answered, until_ejected};
use crate::wake::Control;
use crate::wire::{wire, wire_to};
use crate::world::{LIMIT, World, full, machine, wait_until, with_health};
use http::{HeaderValue, Method, Response};
use hyper_util::rt::TokioIo;
use roost_edge::{EdgeConfig, limits};
use roost_model::name::AppName;
use roost_proto::traffic::{Endpoint, EndpointHealth, PeerNode};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::timeout;

/// An edge with a port for datagrams.
async fn near(cluster: &Cluster, change: impl FnOnce(&mut EdgeConfig)) -> (World, IpAddr) {
    let ip = own_ip();
    let near = cluster.edge_with(1, |config| {
        config.port_ips = vec![ip];
        change(config);
    });
    (near.await, ip)
}

/// The same, and another one with the machine.
async fn two(cluster: &Cluster) -> (World, World, IpAddr) {
    let (near, ip) = near(cluster, |_| {}).await;
    (near, cluster.edge(2).await, ip)
}

/// A machine of the other edge's node, with this change, that answers as [`echo`] does; the port
/// is open for it.
async fn open_there(
    near: &World,
    far: &World,
    prefix: &'static str,
    change: impl FnOnce(Endpoint) -> Endpoint,
) -> (Endpoint, Arc<AtomicUsize>) {
    let (address, count) = echo(&far.tasks, prefix).await;
    let app = change(at_udp(1, address));
    far.publish(vec![app.clone()]);
    near.open(vec![at(2, peers_of(far), app.clone())]).await;
    (app, count)
}

/// So many flows lead to the machine, at each of these edges.
async fn has_flows(worlds: &[&World], number: u8, count: usize) {
    let gauges: Vec<_> = worlds.iter().map(|world| world.edge.gauge()).collect();
    wait_until("flows to begin or end", || {
        let mut gauges = gauges.iter();
        gauges.all(|gauge| gauge.in_flight(&machine(number)) == count)
    })
    .await;
}

#[tokio::test]
async fn datagrams_go_both_ways_through_two_edges_and_each_client_gets_its_own_answers() {
    let cluster = Cluster::new();
    let (near, far, ip) = two(&cluster).await;
    open_there(&near, &far, "got ", |app| app).await;
    let clients = [client(ip, PORT).await, client(ip, PORT).await];
    for round in 0..3 {
        for (number, client) in clients.iter().enumerate() {
            let text = format!("{number} in round {round}");
            let answer = format!("got {text}");
            until_answered(client, text.as_bytes(), answer.as_bytes()).await;
        }
    }
    has_flows(&[&near, &far], 1, 2).await;
    for (world, begun) in [(&near, true), (&far, false)] {
        let metrics = world.edge.records().metrics();
        assert!(metrics.contains("roost_edge_flows 2\n"), "{metrics}");
        // They are counted where the client is.
        let count = "roost_edge_flows_begun_count{app=\"app\",region=\"local\"} 2\n";
        assert_eq!(metrics.contains(count), begun, "{metrics}");
    }
}

#[tokio::test]
async fn datagrams_of_nothing_and_the_largest_ones_pass_through_two_edges() {
    let cluster = Cluster::new();
    let (near, far, ip) = two(&cluster).await;
    open_there(&near, &far, "", |app| app).await;
    let client = client(ip, PORT).await;
    let largest: Vec<u8> = (0..limits::DATAGRAM_PAYLOAD_BYTES_MAX)
        .map(|n| n.to_le_bytes()[0])
        .collect();
    for sent in [&b""[..], &largest, b"last"] {
        client.send(sent).await.unwrap();
        assert!(receive(&client).await == sent);
    }
}

#[tokio::test]
async fn a_flow_goes_on_to_a_machine_that_takes_it() {
    let cluster = Cluster::new();
    let (near, far, ip) = two(&cluster).await;
    let (here, _) = echo(&near.tasks, "here ").await;
    let (there, _) = echo(&far.tasks, "there ").await;
    // The other node does not have it, or nobody is at its door.
    let gone = at(2, peers_of(&far), at_udp(1, there));
    let nowhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let dead = at(3, nowhere, at_udp(3, there));
    near.open(vec![gone, dead, at_udp(2, here)]).await;
    for _ in 0..6 {
        let client = client(ip, PORT).await;
        client.send(b"x").await.unwrap();
        assert_eq!(
            receive(&client).await,
            b"here x",
            "what has waited goes there"
        );
    }
}

/// The same with a bound of flows.
fn with_limits(endpoint: Endpoint, soft_limit: u32, hard_limit: u32) -> Endpoint {
    let mut service = (*endpoint.service).clone();
    let like = limited(1, endpoint.address, soft_limit, hard_limit);
    service.concurrency = like.service.concurrency;
    Endpoint {
        service: service.into(),
        ..endpoint
    }
}

#[tokio::test]
async fn the_edge_of_the_node_holds_to_the_hard_limit_of_flows() {
    let cluster = Cluster::new();
    let (near, far, ip) = two(&cluster).await;
    let (other, other_ip) = self::near(&cluster, |_| {}).await;
    let one_flow = |app| with_limits(app, 1, 1);
    let (app, count) = open_there(&near, &far, "", one_flow).await;
    let seen = at(2, peers_of(&far), app);
    other.open(vec![seen.clone()]).await;
    let first = client(other_ip, PORT).await;
    until_answered(&first, b"x", b"x").await;
    // This edge does not know that it is full: the other one's word counts.
    let (address, _) = echo(&near.tasks, "here ").await;
    near.publish(vec![seen, at_udp(2, address)]);
    for _ in 0..6 {
        until_answered(&client(ip, PORT).await, b"y", b"here y").await;
    }
    has_flows(&[&far], 1, 1).await;
    until_answered(&first, b"z", b"z").await;
    assert!(count.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn a_flow_ends_with_the_edge_of_its_machines_node_and_the_next_datagram_finds_another() {
    let cluster = Cluster::new();
    let (near, far, ip) = two(&cluster).await;
    let (there, _) = echo(&far.tasks, "there ").await;
    let (here, _) = echo(&near.tasks, "here ").await;
    let (edge, cut) = wire(&far, peers_of(&far), Duration::ZERO).await;
    let app = at_udp(1, there);
    far.publish(vec![app.clone()]);
    near.open(vec![at(2, edge, app.clone())]).await;
    let client = client(ip, PORT).await;
    until_answered(&client, b"x", b"there x").await;
    near.publish(vec![at(2, edge, app), at_udp(2, here)]);
    until_answered(&client, b"y", b"there y").await;
    cut.cancel();
    has_flows(&[&near, &far], 1, 0).await;
    until_answered(&client, b"z", b"here z").await;
}

#[tokio::test]
async fn flows_that_the_edge_of_their_machines_node_has_ended_find_their_machines_again() {
    let cluster = Cluster::new();
    let (near, far, ip) = two(&cluster).await;
    let (one, _) = echo(&far.tasks, "1").await;
    let (two, _) = echo(&far.tasks, "2").await;
    let (end, to) = watch::channel(peers_of(&far));
    let (edge, _) = wire_to(&far, to, Duration::ZERO).await;
    let both = [at_udp(1, one), at_udp(2, two)];
    far.publish(both.to_vec());
    near.open(both.map(|app| at(2, edge, app)).to_vec()).await;
    let clients = clients_of_two(ip).await;
    // As when another edge takes its place: all that was under way ends.
    end.send_replace(peers_of(&far));
    has_flows(&[&near, &far], 1, 0).await;
    has_flows(&[&near, &far], 2, 0).await;
    for (machine, client) in &clients {
        assert_eq!(ask(client, b"").await, *machine);
    }
}

#[tokio::test]
async fn flows_hold_up_no_edge_that_is_replaced() {
    let cluster = Cluster::new();
    let (near, far, ip) = two(&cluster).await;
    open_there(&near, &far, "", |app| app).await;
    let client = client(ip, PORT).await;
    until_answered(&client, b"x", b"x").await;
    assert!(far.edge.retire(LIMIT).await, "no flow holds it up");
    has_flows(&[&near, &far], 1, 0).await;
}

#[tokio::test]
async fn a_flow_to_another_node_ends_when_it_is_idle_at_the_first_edge() {
    let cluster = Cluster::new();
    let idle = Duration::from_secs(1);
    let (near, ip) = near(&cluster, |config| config.timeouts.flow_idle = idle).await;
    let far = cluster.edge(2).await;
    open_there(&near, &far, "", |app| app).await;
    let client = client(ip, PORT).await;
    for _ in 0..2 {
        until_answered(&client, b"x", b"x").await;
        // The other one, which would wait for a minute, hears of the end.
        has_flows(&[&near, &far], 1, 0).await;
    }
}

#[tokio::test]
async fn a_flow_ends_when_the_edge_of_its_machines_node_says_that_the_machine_is_gone() {
    let cluster = Cluster::new();
    let (near, far, ip) = two(&cluster).await;
    let (app, _) = open_there(&near, &far, "", |app| app).await;
    let client = client(ip, PORT).await;
    until_answered(&client, b"x", b"x").await;
    let draining = with_health(app.clone(), EndpointHealth::Draining);
    far.publish(vec![draining]);
    until_answered(&client, b"y", b"y").await;
    // The first edge still believes that the machine is there.
    far.publish(vec![with_health(
        app,
        EndpointHealth::Down("stopped".into()),
    )]);
    has_flows(&[&near, &far], 1, 0).await;
}

#[tokio::test]
async fn a_machine_of_another_node_where_nobody_listens_is_passed_over_and_ejected() {
    let cluster = Cluster::new();
    let (near, far, ip) = two(&cluster).await;
    let closed = at_udp(1, nobody().await);
    let (here, _) = echo(&near.tasks, "").await;
    far.publish(vec![closed.clone()]);
    near.open(vec![at(2, peers_of(&far), closed), at_udp(2, here)])
        .await;
    until_ejected(&near, ip, LIMIT * 2).await;
    has_flows(&[&near, &far], 1, 0).await;
}

#[tokio::test]
async fn the_first_datagram_wakes_a_machine_of_another_node() {
    let cluster = Cluster::new();
    let control = Arc::<Control>::default();
    let theirs = control.clone();
    let (near, ip) = near(&cluster, |_| {}).await;
    let sleep = |config: &mut EdgeConfig| config.sleep = Some(theirs);
    let far = cluster.edge_with(2, sleep).await;
    let asleep = |app| with_health(app, EndpointHealth::Asleep("stopped".into()));
    let (app, _) = open_there(&near, &far, "", asleep).await;
    let client = client(ip, PORT).await;
    for text in [b"1", b"2"] {
        client.send(text).await.unwrap();
    }
    control.wait_for(&[1]).await;
    let app = with_health(app, EndpointHealth::Passing);
    far.publish(vec![app.clone()]);
    near.publish(vec![at(2, peers_of(&far), app)]);
    for text in [b"1", b"2"] {
        assert_eq!(receive(&client).await, text);
    }
}

#[tokio::test]
async fn a_machine_that_clients_of_its_node_keep_busy_gets_fewer_flows_from_here() {
    let cluster = Cluster::new();
    let far_ip = own_ip();
    let far = cluster.edge_with(2, |config| config.port_ips = vec![far_ip]);
    let far = far.await;
    let edge = peers_of(&far);
    let follow = |config: &mut EdgeConfig| {
        let id = node(2);
        config.relay.as_mut().unwrap().peers = vec![PeerNode { id, edge }];
    };
    let (near, ip) = near(&cluster, follow).await;
    let (there, _) = echo(&far.tasks, "there").await;
    let (here, _) = echo(&near.tasks, "here").await;
    far.open(vec![with_limits(at_udp(1, there), 20, 100)]).await;
    let mut busy = Vec::new();
    for _ in 0..15 {
        let client = client(far_ip, PORT).await;
        until_answered(&client, b"", b"there").await;
        busy.push(client);
    }
    near.open(vec![with_limits(at_udp(2, here), 20, 100)]).await;
    let app = AppName::parse("app").unwrap();
    let gauge = near.edge.gauge();
    let is_known = || !gauge.elsewhere(&app).is_empty();
    wait_until("the other machine is known", is_known).await;
    // Of its own flows it has none there: without a word of the other edge they would take turns.
    let asking = async {
        let (mut in_a_row, mut n_asked) = (0, 0);
        while in_a_row < 6 {
            n_asked += 1;
            // With so many the other machine is not full yet; and they take longer than the word.
            assert!(n_asked < 150, "they take turns");
            tokio::time::sleep(Duration::from_millis(50)).await;
            let client = client(ip, PORT).await;
            let is_here = ask(&client, b"").await == b"here";
            in_a_row = if is_here { in_a_row + 1 } else { 0 };
            busy.push(client);
        }
    };
    timeout(LIMIT * 2, asking)
        .await
        .expect("it hears of the others");
}

/// What an edge would say that hands a flow over.
fn block(number: u8) -> HeaderValue {
    let text = format!(
        "1;kind=datagrams;app=app;machine={};port={PORT};client=127.0.0.1:9;local=127.0.0.1:{PORT};\
         tls=0;http=1.1;region=x;id=00000000000000000000000000;at=1;hop=1;attempt=1;wait=0",
        machine(number)
    );
    HeaderValue::try_from(text).unwrap()
}

/// A length that no datagram has.
const GARBAGE: [u8; 2] = [0xff, 0xfe];

#[tokio::test]
async fn an_edge_that_hands_over_garbage_loses_the_flow_and_no_machine_sees_it() {
    let cluster = Cluster::new();
    let far = cluster.edge(2).await;
    let (address, count) = echo(&far.tasks, "").await;
    far.publish(vec![at_udp(1, address)]);
    let mut sender = sender(&cluster, &far).await;
    let mut request = wish("datagrams");
    request.headers_mut().insert("roost-relay", block(1));
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.headers()["roost-relay"], "1;is=answer");
    let stream = hyper::upgrade::on(response).await.unwrap();
    let mut stream = TokioIo::new(stream);
    stream.write_all(&[0, 1, b'x', 0]).await.unwrap();
    let mut answer = [0; 3];
    let read = timeout(LIMIT, stream.read_exact(&mut answer)).await;
    read.expect("an answer").unwrap();
    assert_eq!(answer, [0, 1, b'x']);
    // The next one has begun: its length is 2.
    stream.write_all(&[2, b'a']).await.unwrap();
    has_flows(&[&far], 1, 1).await;
    stream.write_all(b"b").await.unwrap();
    let mut answer = [0; 4];
    let read = timeout(LIMIT, stream.read_exact(&mut answer)).await;
    read.expect("an answer").unwrap();
    assert_eq!(answer, [0, 2, b'a', b'b']);
    let flood = async {
        stream.write_all(&GARBAGE).await?;
        for _ in 0..1000 {
            stream.write_all(&[0; 64 * 1024]).await?;
        }
        std::io::Result::Ok(())
    };
    let flooded = timeout(LIMIT, flood).await.expect("it is cut off");
    assert!(flooded.is_err());
    has_flows(&[&far], 1, 0).await;
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_edge_that_answers_with_garbage_loses_the_flow_and_the_client_hears_none_of_it() {
    let cluster = Cluster::new();
    let (near, ip) = near(&cluster, |_| {}).await;
    let tasks = near.tasks.clone();
    let peer = impostor(&cluster, &near, move |_, request| {
        if request.method() == Method::CONNECT {
            let upgrade = hyper::upgrade::on(request);
            tasks.spawn("impostor-stream", async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut sent = [0; 3];
                stream.read_exact(&mut sent).await.unwrap();
                assert_eq!(sent, [0, 1, b'x']);
                stream.write_all(b"\0\x05there").await.unwrap();
                stream.write_all(&GARBAGE).await.unwrap();
                // It would go on for ever, but for the edge that ends it.
                while stream.write_all(&[0; 1024]).await.is_ok() {}
            });
        }
        let response = Response::builder().header("roost-relay", "1;is=answer");
        response.body(full("")).unwrap()
    })
    .await;
    let (here, _) = echo(&near.tasks, "here ").await;
    let there = at_udp(1, here);
    near.open(vec![at(2, peer, there)]).await;
    let client = client(ip, PORT).await;
    client.send(b"x").await.unwrap();
    assert_eq!(receive(&client).await, b"there");
    has_flows(&[&near], 1, 0).await;
    near.publish(vec![at_udp(2, here)]);
    client.send(b"y").await.unwrap();
    assert_eq!(receive(&client).await, b"here y", "and nothing before");
}
