//! A release that is tried out gets its part of the requests, and the others the rest.

use crate::seeing::{id_of, reason_of, record};
use crate::tcp;
use crate::world::{World, backend, endpoint, full, machine, nobody, says, with_health};
use http::{Response, StatusCode};
use roost_model::machine::PortHandler;
use roost_model::split::Split;
use roost_proto::traffic::{Endpoint, EndpointHealth};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

fn with_split(mut endpoint: Endpoint, split: &str) -> Endpoint {
    endpoint.release = Some(2);
    endpoint.split = Some(Arc::new(Split::parse(split).unwrap()));
    endpoint
}

/// Two machines that serve and one whose release is tried out. They answer `old` and `new`.
async fn world_with(split: &str) -> World {
    let world = World::new().await;
    let old = says(&world.tasks, "old").await;
    let new = says(&world.tasks, "new").await;
    let canary = with_split(endpoint(3, new), split);
    world.publish(vec![endpoint(1, old), endpoint(2, old), canary]);
    world
}

async fn is_new(request: reqwest::RequestBuilder) -> bool {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    match response.text().await.unwrap().as_str() {
        "new" => true,
        "old" => false,
        other => panic!("{other}"),
    }
}

async fn n_new(world: &World, n_times: usize) -> usize {
    let client = world.client();
    let mut n_new = 0;
    for _ in 0..n_times {
        n_new += usize::from(is_new(client.get(world.url("/"))).await);
    }
    n_new
}

#[tokio::test]
async fn a_release_that_is_tried_out_gets_its_share_of_the_requests() {
    let world = world_with("percent=20").await;
    let n_new = n_new(&world, 600).await;
    // 120, give or take six standard deviations.
    assert!((60..=180).contains(&n_new), "{n_new} of 600");
}

#[tokio::test]
async fn who_has_the_header_gets_the_release_that_is_tried_out_and_nobody_else_does() {
    let world = world_with("percent=0;header=x-canary: yes").await;
    let client = world.client();
    for _ in 0..10 {
        let get = || client.get(world.url("/"));
        assert!(is_new(get().header("X-Canary", "yes")).await);
        let twice = get().header("X-Canary", "no").header("X-Canary", "yes");
        assert!(is_new(twice).await, "one of two values is enough");
        assert!(!is_new(get().header("X-Canary", "no")).await);
        assert!(!is_new(get()).await);
    }
}

#[tokio::test]
async fn who_comes_to_an_edge_of_a_region_gets_the_release_that_is_tried_out_there() {
    let here = world_with("percent=0;regions=far,local").await;
    assert_eq!(n_new(&here, 10).await, 10);
    let elsewhere = world_with("percent=0;regions=far").await;
    assert_eq!(n_new(&elsewhere, 10).await, 0);
}

#[tokio::test]
async fn a_client_stays_with_one_release_when_the_share_is_one_of_clients() {
    let world = world_with("percent=50;by=client").await;
    let mut n_new = 0;
    for number in 1..=40 {
        let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, number));
        let client = world.client_builder().local_address(from).build().unwrap();
        let first = is_new(client.get(world.url("/"))).await;
        for _ in 0..3 {
            assert_eq!(is_new(client.get(world.url("/"))).await, first);
        }
        n_new += usize::from(first);
    }
    assert!((8..=32).contains(&n_new), "{n_new} of 40 clients");
}

#[tokio::test]
async fn who_asks_for_a_machine_gets_it_whatever_its_release() {
    let world = world_with("percent=0;header=x-canary: 1").await;
    let client = world.client();
    for header in ["fly-force-instance-id", "fly-prefer-instance-id"] {
        let request = client.get(world.url("/"));
        assert!(is_new(request.header(header, machine(3).as_str())).await);
    }
}

/// A machine that answers 500.
async fn fails(world: &World) -> SocketAddr {
    backend(&world.tasks, |_| async {
        let mut response = Response::new(full("broken"));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
    .await
}

#[tokio::test]
async fn a_request_leaves_its_side_when_nobody_there_takes_it() {
    let world = World::new().await;
    let old = says(&world.tasks, "old").await;
    let new = says(&world.tasks, "new").await;
    let all = "percent=100";
    // The one that is tried out refuses connections, or is not healthy.
    let refuses = with_split(endpoint(3, nobody().await), all);
    world.publish(vec![endpoint(1, old), refuses]);
    assert_eq!(n_new(&world, 5).await, 0);
    let failing = EndpointHealth::Failing("check".into());
    let unhealthy = with_health(with_split(endpoint(3, new), all), failing.clone());
    world.publish(vec![endpoint(1, old), unhealthy]);
    assert_eq!(n_new(&world, 5).await, 0);
    // The others are not healthy.
    let canary = with_split(endpoint(3, new), "percent=0;header=x: 1");
    world.publish(vec![with_health(endpoint(1, old), failing), canary]);
    assert_eq!(n_new(&world, 5).await, 5);
}

#[tokio::test]
async fn a_release_that_is_tried_out_and_fails_without_end_is_ejected() {
    let world = World::new().await;
    let old = says(&world.tasks, "old").await;
    let broken = fails(&world).await;
    world.publish(vec![
        endpoint(1, old),
        with_split(endpoint(3, broken), "percent=100"),
    ]);
    let client = world.client();
    for _ in 0..200 {
        let response = client.get(world.url("/")).send().await.unwrap();
        if response.status() == StatusCode::OK {
            return;
        }
    }
    panic!("it gets all requests for ever");
}

#[tokio::test]
async fn a_record_says_that_a_request_was_for_the_other_release() {
    let world = world_with("percent=0;header=x-canary: 1").await;
    let client = world.client();
    let response = client.get(world.url("/")).send().await.unwrap();
    let id = id_of(&response);
    response.bytes().await.unwrap();
    let skipped = &record(&world, &id).await.attempts[0].skipped;
    assert_eq!(reason_of(skipped, 3), "split");
    let canarys = client.get(world.url("/")).header("x-canary", "1");
    let response = canarys.send().await.unwrap();
    let id = id_of(&response);
    response.bytes().await.unwrap();
    let skipped = &record(&world, &id).await.attempts[0].skipped;
    assert_eq!([1, 2].map(|old| reason_of(skipped, old)), ["split"; 2]);
}

#[tokio::test]
async fn a_raw_connection_goes_where_the_split_of_its_region_sends_it() {
    let (world, ip) = tcp::world(|_| {}).await;
    let (old, n_old) = tcp::echo(&world.tasks, "old ").await;
    let (new, n_new) = tcp::echo(&world.tasks, "new ").await;
    let at = |number, address| tcp::behind(tcp::at_port(PortHandler::Raw), number, address);
    let canary = with_split(at(2, new), "percent=0;regions=local");
    let machines = vec![at(1, old), canary];
    for _ in 0..5 {
        let stream = world.connect(ip, machines.clone()).await;
        assert_eq!(tcp::ask(stream, b"x").await, b"new x");
    }
    let count =
        |n: &Arc<std::sync::atomic::AtomicUsize>| n.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((count(&n_old), count(&n_new)), (0, 5));
}
