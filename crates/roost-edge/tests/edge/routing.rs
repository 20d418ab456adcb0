//! Which machine a request goes to, what happens when one fails, and the
//! edge's own pages.

use crate::world::{
    LIMIT, World, backend, endpoint, full, machine, nobody, says, wait_until, with_health,
};
use http::Response;
use roost_proto::traffic::EndpointHealth;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

async fn get(world: &World, client: &reqwest::Client) -> (u16, String) {
    let response = client.get(world.url("/")).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn requests_go_round_the_healthy_machines_only() {
    let world = World::new().await;
    let (a, b, c) = (
        says(&world.tasks, "a").await,
        says(&world.tasks, "b").await,
        says(&world.tasks, "c").await,
    );
    world.publish(vec![
        endpoint(1, a),
        endpoint(2, b),
        with_health(
            endpoint(3, c),
            EndpointHealth::Failing("http check: 500".into()),
        ),
        with_health(endpoint(4, c), EndpointHealth::Draining),
        with_health(endpoint(5, c), EndpointHealth::Down("stopped".into())),
    ]);
    let client = world.client();
    let mut seen = BTreeMap::<String, usize>::new();
    for _ in 0..10 {
        *seen.entry(get(&world, &client).await.1).or_default() += 1;
    }
    assert_eq!(seen, BTreeMap::from([("a".into(), 5), ("b".into(), 5)]));
}

#[tokio::test]
async fn an_unknown_name_and_an_app_without_healthy_machines_get_pages_that_help() {
    let world = World::new().await;
    let answer = world.raw("GET / HTTP/1.1\r\nHost: nope.localhost\r\nAccept: application/json\r\nConnection: close\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 404") && answer.contains("\"code\":\"no-such-app\""),
        "{answer}"
    );
    assert!(
        answer.contains("request_id") && answer.contains("roost deploy"),
        "{answer}"
    );
    world.publish(vec![with_health(
        endpoint(7, nobody().await),
        EndpointHealth::Down("stopped".into()),
    )]);
    let response = world
        .client()
        .get(world.url("/"))
        .header("accept", "text/html")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert!(
        response.headers().contains_key("retry-after")
            && response.headers().contains_key("roost-request-id")
    );
    let page = response.text().await.unwrap();
    assert!(
        page.contains("<!doctype html>") && page.contains("does not run: stopped"),
        "{page}"
    );
    assert!(
        page.contains(machine(7).as_str()) && page.contains("roost status -a app"),
        "{page}"
    );
}

#[tokio::test]
async fn a_request_waits_for_the_first_machine_to_become_healthy() {
    let world = World::new().await;
    let address = says(&world.tasks, "ready").await;
    world.publish(vec![with_health(
        endpoint(1, address),
        EndpointHealth::Failing("no check has passed yet".into()),
    )]);
    let client = world.client();
    let mut waiting = Box::pin(get(&world, &client));
    assert!(
        tokio::time::timeout(Duration::from_millis(100), &mut waiting)
            .await
            .is_err()
    );
    world.publish(vec![endpoint(1, address)]);
    assert_eq!(waiting.await, (200, "ready".into()));
}

#[tokio::test]
async fn a_wait_for_health_ends_with_the_reason() {
    let world = World::with(|config| config.timeouts.machine = Duration::from_millis(50)).await;
    world.publish(vec![with_health(
        endpoint(1, nobody().await),
        EndpointHealth::Failing("tcp check: refused".into()),
    )]);
    let (status, page) = get(&world, &world.client()).await;
    assert_eq!(status, 503);
    assert!(page.contains("tcp check: refused"), "{page}");
}

#[tokio::test]
async fn a_machine_that_refuses_connections_is_passed_over() {
    let world = World::new().await;
    let good = says(&world.tasks, "good").await;
    world.publish(vec![endpoint(1, nobody().await), endpoint(2, good)]);
    let client = world.client();
    for _ in 0..6 {
        let response = client
            .post(world.url("/"))
            .body("not idempotent")
            .send()
            .await
            .unwrap();
        assert_eq!(response.text().await.unwrap(), "good");
    }
    world.publish(vec![endpoint(1, nobody().await)]);
    let (status, page) = get(&world, &client).await;
    assert_eq!(status, 502);
    assert!(
        page.contains("machine-unreachable") && page.contains("refused"),
        "{page}"
    );
}

#[tokio::test]
async fn a_machine_that_is_too_busy_to_take_a_connection_is_asked_again() {
    let world = World::with(|config| {
        config.timeouts.connect = Duration::from_millis(100);
        config.timeouts.machine = LIMIT * 2;
    })
    .await;
    // A queue of one, and nobody who accepts: the kernel answers to no more of them.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let first = tokio::net::TcpStream::connect(address).await.unwrap();
    world.publish(vec![endpoint(1, address)]);
    let (client, url) = (world.client(), world.url("/"));
    let waiting = async { client.get(url).send().await.unwrap().text().await };
    let mut waiting = std::pin::pin!(waiting);
    // For several attempts and more than the time in which a refusal would have ended it.
    let early = tokio::time::timeout(Duration::from_millis(800), &mut waiting).await;
    assert!(early.is_err(), "{early:?}");
    drop(first);
    world.tasks.spawn("awake", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nawake";
            // The one that filled the queue, and those that were given up, are gone.
            let _ = stream.write_all(answer).await;
            let _ = stream.read(&mut [0; 4096]).await;
        }
    });
    assert_eq!(waiting.await.unwrap(), "awake");
}

/// A machine that answers the first request of each connection, and closes the
/// connection when the second one has come.
async fn closes_at_second_request(world: &World) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = world.tasks.clone();
    world.tasks.spawn("closer", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tasks.spawn("closer-connection", async move {
                let mut buffer = [0; 4096];
                if stream.read(&mut buffer).await.unwrap_or(0) > 0 {
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        .await
                        .unwrap();
                }
                let _ = stream.read(&mut buffer).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_kept_connection_that_dies_under_a_request_is_not_the_clients_problem() {
    let world = World::new().await;
    world.publish(vec![endpoint(1, closes_at_second_request(&world).await)]);
    let client = world.client();
    for _ in 0..10 {
        assert_eq!(get(&world, &client).await, (200, "ok".into()));
    }
    let response = client
        .post(world.url("/"))
        .body("a body that must not be sent twice")
        .send()
        .await
        .unwrap();
    assert!([200, 502].contains(&response.status().as_u16()));
}

#[tokio::test]
async fn a_draining_machine_finishes_its_request_and_gets_no_new_one() {
    let world = World::new().await;
    let (release, released) = tokio::sync::watch::channel(false);
    let hits = Arc::new(AtomicUsize::new(0));
    let old = {
        let hits = hits.clone();
        backend(&world.tasks, move |_| {
            let (mut released, hits) = (released.clone(), hits.clone());
            async move {
                hits.fetch_add(1, Ordering::SeqCst);
                released.wait_for(|released| *released).await.unwrap();
                Response::new(full("old"))
            }
        })
        .await
    };
    let new = says(&world.tasks, "new").await;
    world.publish(vec![endpoint(1, old)]);
    let client = world.client();
    let mut running = JoinSet::new();
    running.spawn(client.get(world.url("/")).send());
    wait_until("the old machine works", || hits.load(Ordering::SeqCst) == 1).await;
    let gauge = world.edge.gauge();
    world.publish(vec![
        with_health(endpoint(1, old), EndpointHealth::Draining),
        endpoint(2, new),
    ]);
    for _ in 0..5 {
        assert_eq!(get(&world, &client).await.1, "new");
    }
    assert_eq!(gauge.in_flight(&machine(1)), 1);
    release.send(true).unwrap();
    let response = running.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(response.text().await.unwrap(), "old");
    wait_until("the old machine is idle", || {
        gauge.in_flight(&machine(1)) == 0
    })
    .await;
    assert_eq!(hits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_work_of_the_app() {
    struct Gone(Arc<AtomicBool>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let world = World::new().await;
    let (begun, gone) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let address = {
        let (begun, gone) = (begun.clone(), gone.clone());
        backend(&world.tasks, move |_| {
            let guard = Gone(gone.clone());
            begun.store(true, Ordering::SeqCst);
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        })
        .await
    };
    world.publish(vec![endpoint(1, address)]);
    let mut stream = tokio::net::TcpStream::connect(world.http()).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n")
        .await
        .unwrap();
    wait_until("the app works", || begun.load(Ordering::SeqCst)).await;
    drop(stream);
    wait_until("the app was told", || gone.load(Ordering::SeqCst)).await;
    wait_until("nothing is on the way", || {
        world.edge.gauge().in_flight(&machine(1)) == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_notice_nothing_while_machines_are_replaced() {
    let world = Arc::new(World::new().await);
    let mut current = endpoint(0, says(&world.tasks, "machine 0").await);
    world.publish(vec![current.clone()]);
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for number in 0..200_usize {
        let (stop, served, world) = (stop.clone(), served.clone(), world.clone());
        clients.spawn(async move {
            let client = world.client();
            while !stop.load(Ordering::Relaxed) {
                let request = if number % 2 == 0 {
                    client.get(world.url("/"))
                } else {
                    client.post(world.url("/")).body("x")
                };
                let response = request.send().await.expect("no request fails");
                let status = response.status();
                let text = response.text().await.expect("no answer breaks off");
                assert!(status.is_success(), "{status}: {text}");
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for round in 1..=10_u8 {
        // Each machine has tasks of its own: stopping them is what kills it.
        let machine_tasks = world.tasks.child();
        let next = endpoint(round, says(&machine_tasks, "next").await);
        world.publish(vec![
            with_health(current, EndpointHealth::Draining),
            next.clone(),
        ]);
        let before = served.load(Ordering::Relaxed);
        wait_until("requests go on", || {
            served.load(Ordering::Relaxed) > before + 100
        })
        .await;
        let gauge = world.edge.gauge();
        wait_until("the old machine is idle", || {
            gauge.in_flight(&machine(round - 1)) == 0
        })
        .await;
        world.publish(vec![next.clone()]);
        current = next;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(result) = clients.join_next().await {
        result.expect("no client saw a failure");
    }
}
