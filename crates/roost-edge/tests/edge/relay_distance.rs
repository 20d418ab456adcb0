//! From edge to edge: how far other nodes are, and who gets the requests for that.

use crate::limits::get;
use crate::relay::{Cluster, node, peers_of, record};
use crate::relay_loads::{following, of_machine, until_skipped};
use crate::wire::wire;
use crate::world::{World, endpoint, machine, says, wait_until};
use roost_model::name::{AppName, RegionCode};
use roost_proto::traffic::{Endpoint, EndpointHealth, TrafficGauge as _};
use std::net::SocketAddr;
use std::time::Duration;

/// One way: far beyond what a slow machine adds to a way that is none.
const FAR: Duration = Duration::from_millis(150);

fn in_region(region: &str, number: u8, address: SocketAddr) -> Endpoint {
    Endpoint {
        region: RegionCode::parse(region).unwrap(),
        ..endpoint(number, address)
    }
}

/// The gauge of the round trip to the edge of a node, in seconds.
fn round_trip(world: &World, n: u8) -> Option<f64> {
    let metrics = world.edge.records().metrics();
    let name = format!("roost_edge_round_trip_seconds{{node=\"{}\"}} ", node(n));
    let mut lines = metrics.lines();
    lines.find_map(|line| line.strip_prefix(&name)?.parse().ok())
}

#[tokio::test]
async fn the_nearer_of_two_regions_gets_the_requests_when_the_own_one_has_nobody() {
    let cluster = Cluster::new();
    let (far, close) = (cluster.edge(2).await, cluster.edge(3).await);
    let (long_way, _) = wire(&far, peers_of(&far), FAR).await;
    let near = following(&cluster, &[long_way, peers_of(&close)]).await;
    // By name and number the farther one comes first.
    let (a, b) = (
        says(&far.tasks, "far").await,
        says(&close.tasks, "close").await,
    );
    far.publish(vec![in_region("aaa", 1, a)]);
    close.publish(vec![in_region("bbb", 2, b)]);
    wait_until("both ways are measured", || {
        round_trip(&near, 2).is_some() && round_trip(&near, 3).is_some()
    })
    .await;
    let times = [2, 3].map(|n| round_trip(&near, n).unwrap());
    assert!(
        times[0] >= 2.0 * FAR.as_secs_f64() && times[1] < times[0],
        "{times:?}"
    );
    until_skipped(&near, 1, "farther", 0).await;
    let client = near.client();
    its_record_has_the_ways(&near, &client).await;
    for _ in 0..20 {
        let answer = get(client.clone(), near.url("/")).await;
        assert_eq!(answer, (200, "close".to_owned()));
    }
    // The edge's own region is before both.
    near.publish(vec![endpoint(3, says(&near.tasks, "own").await)]);
    assert_eq!(get(client.clone(), near.url("/")).await.1, "own");
    // And the farther one after them.
    near.publish(vec![]);
    close.publish(vec![]);
    until_far_answers(&near, &client).await;
}

/// Of a request that goes to the close machine.
async fn its_record_has_the_ways(near: &World, client: &reqwest::Client) {
    let response = client.get(near.url("/")).send().await.unwrap();
    let record = record(near, &response).await;
    let attempt = &record.attempts[0];
    let chosen = (attempt.node.clone(), attempt.round_trip_us.unwrap());
    let skipped = of_machine(&record, 1).unwrap();
    let far = (skipped.node.clone(), skipped.round_trip_us.unwrap());
    let nodes = [3, 2].map(|n| Some(node(n).to_string()));
    assert_eq!([chosen.0, far.0], nodes);
    let long_way = 2 * u64::try_from(FAR.as_micros()).unwrap();
    assert!(far.1 >= long_way && chosen.1 < far.1, "{attempt:?}");
}

/// Asks until the machine that is far away answers.
async fn until_far_answers(near: &World, client: &reqwest::Client) {
    let begun = std::time::Instant::now();
    while get(client.clone(), near.url("/")).await != (200, "far".to_owned()) {
        assert!(begun.elapsed() < crate::world::LIMIT, "nobody asks it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn of_equals_in_a_region_the_machine_that_is_nearer_gets_the_request() {
    let cluster = Cluster::new();
    let far = cluster.edge(2).await;
    let (long_way, cut) = wire(&far, peers_of(&far), FAR).await;
    let near = following(&cluster, &[long_way]).await;
    let own = endpoint(2, says(&near.tasks, "own").await);
    far.publish(vec![endpoint(1, says(&far.tasks, "far").await)]);
    near.publish(vec![own.clone()]);
    wait_until("the way is measured", || round_trip(&near, 2).is_some()).await;
    until_skipped(&near, 1, "other-chosen", 0).await;
    let client = near.client();
    for _ in 0..20 {
        let answer = get(client.clone(), near.url("/")).await;
        assert_eq!(answer, (200, "own".to_owned()));
    }
    // It is a matter of who is nearer, and not of who takes requests at all.
    let mut failing = own;
    failing.health = EndpointHealth::Failing("no".to_owned());
    near.publish(vec![failing]);
    assert_eq!(get(client, near.url("/")).await, (200, "far".to_owned()));
    cut.cancel();
    wait_until("nobody measures", || round_trip(&near, 2).is_none()).await;
}

#[tokio::test]
async fn machines_of_nodes_that_tell_of_them_are_known_to_the_worker() {
    let cluster = Cluster::new();
    let far = cluster.edge(2).await;
    let (way, cut) = wire(&far, peers_of(&far), Duration::ZERO).await;
    let near = following(&cluster, &[way]).await;
    far.publish(vec![endpoint(1, says(&far.tasks, "far").await)]);
    near.publish(vec![endpoint(2, says(&near.tasks, "own").await)]);
    let app = AppName::parse("app").unwrap();
    let known = || {
        let elsewhere = near.counter.elsewhere(&app).into_iter();
        let known = elsewhere.map(|it| (it.node.unwrap().id.clone(), it.machine_id));
        known.collect::<Vec<_>>()
    };
    wait_until("it is known", || known() == [(node(2), machine(1))]).await;
    // The table stays for requests, but who says nothing may be gone.
    cut.cancel();
    wait_until("it is not counted on", || known().is_empty()).await;
}
