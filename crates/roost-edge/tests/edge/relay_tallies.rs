//! From edge to edge: how a release that is tried out answers at all nodes.

use crate::limits::get;
use crate::relay::{Cluster, node, peers_of};
use crate::relay_loads::following;
use crate::wire::wire_to;
use crate::world::{World, backend, endpoint, full, nobody, says, wait_until};
use http::{Response, StatusCode};
use roost_model::canary::{self, Rules};
use roost_model::name::AppName;
use roost_model::split::Split;
use roost_proto::release_traffic::{Reading, SideBySide, Watch};
use roost_proto::traffic::Endpoint;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// The machine of a release.
fn of(release: u64, mut endpoint: Endpoint) -> Endpoint {
    endpoint.release = Some(release);
    endpoint
}

/// The machine that is tried out: of release 2, for those who say so.
fn canary(number: u8, address: SocketAddr) -> Endpoint {
    let mut endpoint = of(2, endpoint(number, address));
    endpoint.split = Some(Arc::new(
        Split::parse("percent=0;header=x-canary: yes").unwrap(),
    ));
    endpoint
}

/// A machine that answers each third request with an error: too seldom to be ejected.
async fn bad(world: &World) -> SocketAddr {
    let count = Arc::<AtomicUsize>::default();
    backend(&world.tasks, move |_| {
        let is_bad = count.fetch_add(1, Ordering::SeqCst) % 3 == 2;
        async move {
            let mut response = Response::new(full("new"));
            if is_bad {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            response
        }
    })
    .await
}

/// Clients of this edge try the new release out so many times.
async fn try_out(world: &World, n_times: usize) {
    let client = world.client();
    for _ in 0..n_times {
        let request = client.get(world.url("/")).header("x-canary", "yes");
        request.send().await.unwrap();
    }
}

fn reading(world: &World) -> Reading {
    world
        .edge
        .records()
        .tallies(&AppName::parse("app").unwrap())
}

/// Looks on until releases 1 and 2 have had so many requests.
async fn until_seen(world: &World, watch: &mut Watch, a: u64, b: u64) -> SideBySide {
    wait_until("what the other edge has counted", || {
        watch.look(&reading(world));
        let seen = watch.side_by_side(1, 2);
        (seen.a.requests(), seen.b.requests()) == (a, b)
    })
    .await;
    watch.side_by_side(1, 2)
}

#[tokio::test]
async fn bad_answers_at_the_edge_of_another_node_undo_a_canary() {
    let cluster = Cluster::new();
    let far = cluster.edge(2).await;
    let near = following(&cluster, &[peers_of(&far)]).await;
    let old = says(&far.tasks, "old").await;
    let new = bad(&far).await;
    far.publish(vec![of(1, endpoint(2, old)), canary(3, new)]);
    near.publish(vec![of(1, endpoint(1, old))]);
    wait_until("both edges to count", || {
        let seen = reading(&near);
        let n_told = seen.others.get(&node(2)).map(Vec::len);
        (seen.own.len(), n_told, seen.has_others()) == (1, Some(2), true)
    })
    .await;
    let mut watch = Watch::begin(&reading(&near));
    // Some come to the edge of the canary's node, some to the other one and from there to it.
    try_out(&far, 30).await;
    try_out(&near, 30).await;
    for world in [&near, &far] {
        for _ in 0..30 {
            assert_eq!(
                get(world.client(), world.url("/")).await,
                (200, "old".into())
            );
        }
    }
    let seen = until_seen(&near, &mut watch, 60, 60).await;
    assert_eq!((seen.a.errors(), seen.b.errors()), (0, 20));
    assert_eq!(seen.b.latencies.count(), 40);
    assert_eq!(reading(&near).silent, vec![]);
    let verdict = canary::judge(&Rules::DEFAULT, &(&seen.a).into(), &(&seen.b).into());
    assert!(!verdict.has_passed, "{verdict:?}");
    // No more comes of them: each was counted once, where the machine is.
    try_out(&far, 1).await;
    until_seen(&near, &mut watch, 60, 61).await;
    let own: Vec<u64> = reading(&near)
        .own
        .iter()
        .map(|tally| tally.release)
        .collect();
    assert_eq!(own, [1]);
    // When nothing is tried out any more nobody counts, and nothing is told.
    far.publish(vec![of(1, endpoint(2, old)), of(2, endpoint(3, new))]);
    wait_until("the end of the tallies", || {
        let seen = reading(&near);
        seen.own.is_empty() && seen.others.get(&node(2)).is_some_and(Vec::is_empty)
    })
    .await;
}

#[tokio::test]
async fn an_edge_that_is_restarted_or_not_reached_takes_nothing_from_what_it_has_told() {
    let cluster = Cluster::new();
    let first = cluster.edge(2).await;
    let (to, end) = watch::channel(peers_of(&first));
    let (address, _cut) = wire_to(&first, end, Duration::ZERO).await;
    let near = following(&cluster, &[address]).await;
    let old = says(&near.tasks, "old").await;
    let new = bad(&near).await;
    let all = || vec![of(1, endpoint(2, old)), canary(3, new)];
    near.publish(vec![of(1, endpoint(1, old))]);
    let mut watch = Watch::begin(&reading(&near));
    first.publish(all());
    try_out(&first, 12).await;
    until_seen(&near, &mut watch, 0, 12).await;
    // The machines stay in the table, and who judges hears that nothing is known of them.
    to.send_replace(nobody().await);
    wait_until("silence", || reading(&near).silent == [node(2)]).await;
    until_seen(&near, &mut watch, 0, 12).await;
    try_out(&first, 3).await;
    // What it has counted meanwhile comes with its next word.
    to.send_replace(peers_of(&first));
    let seen = until_seen(&near, &mut watch, 0, 15).await;
    assert_eq!(seen.b.errors(), 5);
    // Another one in its place begins with nothing.
    let second = cluster.edge(2).await;
    second.publish(all());
    to.send_replace(peers_of(&second));
    wait_until("the new edge's word", || {
        let seen = reading(&near);
        watch.look(&seen);
        let told = seen.others.get(&node(2)).into_iter().flatten();
        told.map(|tally| tally.traffic.requests()).eq([0, 0])
    })
    .await;
    until_seen(&near, &mut watch, 0, 15).await;
    try_out(&second, 6).await;
    let seen = until_seen(&near, &mut watch, 0, 21).await;
    assert_eq!(seen.b.errors(), 7);
}
