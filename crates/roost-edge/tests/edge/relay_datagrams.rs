//! From edge to edge: flows of datagrams. What the app sees of its client is
//! tested with real machines, end to end.

use crate::relay::{Cluster, at, node, peers_of};
use crate::tcp::{PORT, own_ip};
use crate::udp::{at_udp, client, echo, until_answered};
use crate::world::{World, machine, wait_until};
use std::net::IpAddr;

/// An edge with a port for datagrams, and another one with the machine.
async fn two(cluster: &Cluster) -> (World, World, IpAddr) {
    let ip = own_ip();
    let near = cluster.edge_with(1, |config| config.port_ips = vec![ip]);
    (near.await, cluster.edge(2).await, ip)
}

#[tokio::test]
async fn datagrams_go_both_ways_through_two_edges_and_each_client_gets_its_own_answers() {
    let cluster = Cluster::new();
    let (near, far, ip) = two(&cluster).await;
    let (address, _) = echo(&far.tasks, "got ").await;
    let app = at_udp(1, address);
    far.publish(vec![app.clone()]);
    near.open(vec![at(2, peers_of(&far), app)]).await;
    let clients = [client(ip, PORT).await, client(ip, PORT).await];
    for round in 0..3 {
        for (number, client) in clients.iter().enumerate() {
            let text = format!("{number} in round {round}");
            let answer = format!("got {text}");
            until_answered(client, text.as_bytes(), answer.as_bytes()).await;
        }
    }
    for world in [&near, &far] {
        let gauge = world.edge.gauge();
        wait_until("each flow counts", || gauge.in_flight(&machine(1)) == 2).await;
    }
    assert_ne!(node(1), node(2));
}
