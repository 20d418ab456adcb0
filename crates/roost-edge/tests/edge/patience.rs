//! Who waits for whom, and who does not.

use crate::limits::{Held, get, limited};
use crate::tcp::{PORT, at_port, behind};
use crate::world::{World, endpoint, machine, nobody, says, wait_until};
use roost_model::machine::{Concurrency, PortHandler};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

#[tokio::test]
async fn a_full_service_holds_up_no_other_service_of_its_app() {
    let (world, ip) = crate::tcp::world(|_| {}).await;
    let held = Held::new(&world).await;
    let free = says(&world.tasks, "free").await;
    world.publish(vec![
        limited(1, held.address, 1, 1),
        behind(at_port(PortHandler::Http), 1, free),
    ]);
    world.port_problem("app", |problem| problem.is_none()).await;
    let client = world.client();
    let mut waiting = JoinSet::new();
    for _ in 0..2 {
        waiting.spawn(get(client.clone(), world.url("/")));
    }
    wait_until("one is served and one waits", || world.edge.queued() == 1).await;
    let request = client.get(format!("http://{ip}:{PORT}/"));
    let answer = request.header("host", "app.localhost").send().await;
    assert_eq!(answer.unwrap().text().await.unwrap(), "free");
    assert_eq!(world.edge.queued(), 1, "the other one still waits");
    held.release.add_permits(2);
    let served = waiting.join_all().await;
    assert!(served.iter().all(|(status, _)| *status == 200));
}

#[tokio::test]
async fn who_waits_for_a_machine_of_his_choice_holds_up_nobody() {
    let world = World::new().await;
    let (one, other) = (Held::new(&world).await, Held::new(&world).await);
    world.publish(vec![
        limited(1, one.address, 1, 1),
        limited(2, other.address, 1, 1),
    ]);
    let client = world.client();
    let forced = |number| {
        let request = client.get(world.url("/forced"));
        let request = request.header("fly-force-instance-id", machine(number).as_str());
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let mut choosy = JoinSet::new();
    choosy.spawn(forced(1));
    one.wait_for(1).await;
    choosy.spawn(forced(1));
    wait_until("the second waits", || world.edge.queued() == 1).await;
    other.release.add_permits(1);
    assert_eq!(get(client.clone(), world.url("/any")).await.0, 200);
    assert_eq!(world.edge.queued(), 1);
    one.release.add_permits(2);
    assert_eq!(choosy.join_all().await, [200, 200]);
}

#[tokio::test]
async fn a_machine_that_refuses_again_and_again_does_not_prolong_the_wait() {
    let world = World::with(|config| config.timeouts.machine = Duration::from_millis(300)).await;
    let held = Held::new(&world).await;
    world.publish(vec![
        limited(1, held.address, 1, 1),
        endpoint(2, nobody().await),
    ]);
    let client = world.client();
    let mut first = JoinSet::new();
    let request = client.get(world.url("/"));
    let request = request.header("fly-force-instance-id", machine(1).as_str());
    first.spawn(request.send());
    held.wait_for(1).await;
    // The client's own patience ends this test otherwise.
    let (status, page) = get(client, world.url("/")).await;
    assert!([502, 503].contains(&status), "{status} {page}");
    held.release.add_permits(1);
    first.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_port_that_nobody_uses_takes_no_place_from_the_others() {
    let (world, ip) = crate::tcp::world(|config| config.connections_max = 1).await;
    let address = says(&world.tasks, "here").await;
    let own = behind(at_port(PortHandler::Http), 1, address);
    world.publish(vec![endpoint(1, address), own]);
    world.port_problem("app", |problem| problem.is_none()).await;
    for place in [world.http(), (ip, PORT).into(), world.http()] {
        let mut stream = TcpStream::connect(place).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        let read = tokio::time::timeout(crate::world::LIMIT, read).await;
        read.expect("it is served").unwrap();
        assert!(answer.ends_with("here"), "{answer}");
    }
}

/// A machine that closes each connection when the request is there, and counts them.
async fn hangs_up(world: &World) -> (std::net::SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::<std::sync::atomic::AtomicUsize>::default();
    let counted = count.clone();
    world.tasks.spawn("hangs-up", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    });
    (address, count)
}

#[tokio::test]
async fn five_hang_ups_in_a_row_eject_a_machine() {
    let world = World::new().await;
    let (address, hang_ups) = hangs_up(&world).await;
    let good = says(&world.tasks, "good").await;
    world.publish(vec![endpoint(1, address), endpoint(2, good)]);
    let client = world.client();
    for _ in 0..60 {
        assert_eq!(get(client.clone(), world.url("/")).await.1, "good");
    }
    // Each time that it is let through again it is out for twice as long.
    let seen = hang_ups.load(std::sync::atomic::Ordering::SeqCst);
    assert!((5..=12).contains(&seen), "{seen}");
}

#[tokio::test]
async fn a_client_whose_body_stands_still_is_no_fault_of_the_machine() {
    for h2_backend in [false, true] {
        let world = World::with(|config| {
            config.timeouts.body_idle = Duration::from_millis(50);
            config.timeouts.response_header = Duration::from_millis(50);
        })
        .await;
        let reads = crate::world::backend(&world.tasks, |request| async {
            let body = http_body_util::BodyExt::collect(request.into_body()).await;
            http::Response::new(crate::world::full(format!("{}", body.is_ok())))
        })
        .await;
        let other = says(&world.tasks, "other").await;
        let mut machines = vec![endpoint(1, reads), endpoint(2, other)];
        for machine in &mut machines {
            let service = Arc::make_mut(&mut machine.service);
            service.concurrency = Concurrency::DEFAULT;
            for port in &mut service.ports {
                port.http.h2_backend = h2_backend;
            }
        }
        world.publish(machines);
        for _ in 0..8 {
            let mut stream = TcpStream::connect(world.http()).await.unwrap();
            let head = format!(
                "POST / HTTP/1.1\r\nHost: app.localhost\r\nfly-force-instance-id: {}\r\n\
                 Content-Length: 10\r\n\r\nhalf",
                machine(1)
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let read = stream.read_to_string(&mut answer);
            let read = tokio::time::timeout(crate::world::LIMIT, read).await;
            read.expect("the edge ends it").unwrap();
            assert!(answer.contains("code request-body"), "{answer}");
        }
        let client = world.client();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..2 {
            seen.insert(get(client.clone(), world.url("/")).await.1);
        }
        assert_eq!(seen.len(), 2, "both machines take requests: {seen:?}");
    }
}
