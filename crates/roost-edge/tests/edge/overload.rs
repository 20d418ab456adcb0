//! An edge, or an app, with more to do than it can.

use crate::limits::{Held, get};
use crate::raw::{HOST, nothing_is_left, status};
use crate::tcp::{PORT, at_port, behind};
use crate::world::{LIMIT, World, endpoint, machine, says, wait_until};
use roost_edge::EdgeRates;
use roost_model::machine::PortHandler;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

#[tokio::test]
async fn an_app_that_has_all_it_may_gets_no_more_until_one_ends() {
    let (world, ip) = crate::tcp::world(|config| {
        config.rates = EdgeRates {
            app_open: 2,
            ..EdgeRates::default()
        };
    })
    .await;
    let held = Held::new(&world).await;
    world.publish(vec![
        endpoint(1, held.address),
        behind(at_port(PortHandler::Raw), 1, held.address),
    ]);
    world.port_problem("app", |problem| problem.is_none()).await;
    let client = world.client();
    let mut under_way = JoinSet::new();
    under_way.spawn(get(client.clone(), world.url("/")));
    held.wait_for(1).await;
    let raw = TcpStream::connect((ip, PORT)).await.unwrap();
    let gauge = world.edge.gauge();
    wait_until("both are under way", || gauge.in_flight(&machine(1)) == 2).await;
    let (code, page) = get(client.clone(), world.url("/")).await;
    assert_eq!(code, 503, "{page}");
    assert!(page.contains("code app-open"), "{page}");
    let mut refused = TcpStream::connect((ip, PORT)).await.unwrap();
    let read = tokio::time::timeout(LIMIT, refused.read(&mut [0; 1])).await;
    // A reset is as good an end as a close.
    assert_eq!(read.expect("it is closed").unwrap_or(0), 0);
    drop(raw);
    wait_until("one has ended", || gauge.in_flight(&machine(1)) == 1).await;
    under_way.spawn(get(client.clone(), world.url("/")));
    held.wait_for(2).await;
    held.release.add_permits(2);
    let served = under_way.join_all().await;
    assert!(served.iter().all(|(code, _)| *code == 200), "{served:?}");
}

/// What the edge says to a request.
async fn ask(world: &World) -> String {
    world.raw(format!("GET / HTTP/1.1\r\n{HOST}\r\n")).await
}

#[tokio::test]
async fn an_edge_that_runs_late_refuses_at_once_and_recovers() {
    let world = World::with(|config| config.late_max = Duration::from_millis(50)).await;
    world.publish(vec![endpoint(1, says(&world.tasks, "ok").await)]);
    let begun = Instant::now();
    let refused = loop {
        assert!(begun.elapsed() < LIMIT, "it is late and does not say so");
        for _ in 0..4 {
            // This thread is the edge's only one.
            let busy = Instant::now();
            while busy.elapsed() < Duration::from_millis(250) {}
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let answer = ask(&world).await;
        if status(&answer) == "503" {
            break answer;
        }
    };
    assert!(refused.contains("code edge-overloaded"), "{refused}");
    assert!(refused.to_lowercase().contains("retry-after: 1\r\n"));
    let begun = Instant::now();
    while status(&ask(&world).await) != "200" {
        assert!(begun.elapsed() < LIMIT, "it does not recover");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    nothing_is_left(&world, 1).await;
}

#[tokio::test]
async fn an_edge_without_memory_takes_nothing_new() {
    let world = World::with(|config| config.memory_max = Some(4096)).await;
    world.publish(vec![endpoint(1, says(&world.tasks, "ok").await)]);
    let begun = Instant::now();
    while status(&ask(&world).await) != "503" {
        assert!(begun.elapsed() < LIMIT, "it takes more");
    }
    let mut tls = TcpStream::connect(world.https()).await.unwrap();
    // The edge may have closed it already.
    let _ = tls.write_all(&[22, 3, 1, 2, 0]).await;
    let read = tokio::time::timeout(LIMIT, tls.read(&mut [0; 16])).await;
    assert_eq!(read.expect("it is closed").unwrap_or(0), 0);
    nothing_is_left(&world, 1).await;
}
