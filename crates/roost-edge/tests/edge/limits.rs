//! Concurrency limits, the queue, and machines that fail.

use crate::world::{World, backend, endpoint, full, machine, says, wait_until};
use http::{Response, StatusCode};
use roost_model::machine::Concurrency;
use roost_proto::traffic::Endpoint;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub(crate) fn limited(
    number: u8,
    address: SocketAddr,
    soft_limit: u32,
    hard_limit: u32,
) -> Endpoint {
    let mut endpoint = endpoint(number, address);
    Arc::make_mut(&mut endpoint.service).concurrency = Concurrency {
        soft_limit,
        hard_limit: Some(hard_limit),
        ..Concurrency::DEFAULT
    };
    endpoint
}

/// A machine that answers a request with its path once it is released, one per permit.
pub(crate) struct Held {
    pub(crate) address: SocketAddr,
    pub(crate) arrived: Arc<AtomicUsize>,
    pub(crate) release: Arc<Semaphore>,
}

impl Held {
    pub(crate) async fn new(world: &World) -> Self {
        let (arrived, release) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
        let parts = (arrived.clone(), release.clone());
        let address = backend(&world.tasks, move |request| {
            let (arrived, release) = parts.clone();
            async move {
                arrived.fetch_add(1, Ordering::SeqCst);
                release.acquire().await.unwrap().forget();
                Response::new(full(request.uri().path().to_owned()))
            }
        })
        .await;
        Self {
            address,
            arrived,
            release,
        }
    }

    pub(crate) async fn wait_for(&self, count: usize) {
        wait_until("requests have arrived", || {
            self.arrived.load(Ordering::SeqCst) == count
        })
        .await;
    }
}

pub(crate) async fn get(client: reqwest::Client, url: String) -> (u16, String) {
    let response = client.get(url).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_machine_never_has_more_than_its_hard_limit() {
    let world = World::new().await;
    let (a, b) = (Held::new(&world).await, Held::new(&world).await);
    world.publish(vec![
        limited(1, a.address, 1, 2),
        limited(2, b.address, 1, 3),
    ]);
    let client = world.client();
    let mut requests = JoinSet::new();
    for _ in 0..9 {
        requests.spawn(get(client.clone(), world.url("/")));
    }
    a.wait_for(2).await;
    b.wait_for(3).await;
    let gauge = world.edge.gauge();
    assert_eq!(
        (gauge.in_flight(&machine(1)), gauge.in_flight(&machine(2))),
        (2, 3)
    );
    a.release.add_permits(9);
    b.release.add_permits(9);
    let answers = requests.join_all().await;
    assert!(
        answers.iter().all(|(status, _)| *status == 200),
        "{answers:?}"
    );
}

#[tokio::test]
async fn requests_beyond_the_hard_limit_are_served_in_the_order_in_which_they_came() {
    let world = World::new().await;
    let held = Held::new(&world).await;
    world.publish(vec![limited(1, held.address, 1, 1)]);
    let client = world.client();
    let mut requests = JoinSet::new();
    for number in 0..5 {
        requests.spawn(get(client.clone(), world.url(&format!("/{number}"))));
        if number == 0 {
            held.wait_for(1).await;
        }
        wait_until("it waits", || world.edge.queued() == number).await;
    }
    for number in 0..5_usize {
        held.release.add_permits(1);
        let answer = requests.join_next().await.unwrap().unwrap();
        assert_eq!(answer, (200, format!("/{number}")));
    }
}

#[tokio::test]
async fn a_wait_at_the_hard_limit_ends_with_503_and_when_to_come_again() {
    let world = World::with(|config| config.timeouts.machine = Duration::from_millis(50)).await;
    let held = Held::new(&world).await;
    world.publish(vec![limited(1, held.address, 1, 1)]);
    let mut first = JoinSet::new();
    first.spawn(get(world.client(), world.url("/")));
    held.wait_for(1).await;
    let response = world.client().get(world.url("/")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    let page = response.text().await.unwrap();
    assert!(page.contains("code hard-limit"), "{page}");
    held.release.add_permits(1);
    assert_eq!(first.join_next().await.unwrap().unwrap().0, 200);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_queue() {
    let world = World::new().await;
    let held = Held::new(&world).await;
    world.publish(vec![limited(1, held.address, 1, 1)]);
    let client = world.client();
    let mut first = JoinSet::new();
    first.spawn(get(client.clone(), world.url("/first")));
    held.wait_for(1).await;
    let mut gone = JoinSet::new();
    gone.spawn(get(client.clone(), world.url("/gone")));
    wait_until("it waits", || world.edge.queued() == 1).await;
    gone.shutdown().await;
    wait_until("nobody waits", || world.edge.queued() == 0).await;
    held.release.add_permits(2);
    assert_eq!(first.join_next().await.unwrap().unwrap().1, "/first");
    assert_eq!(get(client, world.url("/next")).await.1, "/next");
}

#[tokio::test]
async fn another_region_gets_requests_only_when_the_edges_own_is_full() {
    let world = World::new().await;
    let (near, far) = (Held::new(&world).await, Held::new(&world).await);
    let mut away = limited(1, far.address, 5, 5);
    away.region = roost_model::name::RegionCode::parse("far").unwrap();
    world.publish(vec![away, limited(2, near.address, 1, 2)]);
    let client = world.client();
    let mut requests = JoinSet::new();
    for _ in 0..2 {
        requests.spawn(get(client.clone(), world.url("/")));
    }
    // Over its soft limit it is still nearer.
    near.wait_for(2).await;
    assert_eq!(far.arrived.load(Ordering::SeqCst), 0);
    requests.spawn(get(client.clone(), world.url("/")));
    far.wait_for(1).await;
    near.release.add_permits(2);
    far.release.add_permits(1);
    assert_eq!(requests.join_all().await.len(), 3);
}

#[tokio::test]
async fn a_machine_that_keeps_failing_is_ejected_and_comes_back() {
    let world = World::new().await;
    let status = Arc::new(AtomicUsize::new(503));
    let failing = {
        let status = status.clone();
        backend(&world.tasks, move |_| {
            let code = u16::try_from(status.load(Ordering::SeqCst)).unwrap();
            let mut response = Response::new(full("sometimes"));
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            async move { response }
        })
        .await
    };
    let good = says(&world.tasks, "good").await;
    world.publish(vec![endpoint(1, failing), endpoint(2, good)]);
    let client = world.client();
    let batch = async |size| {
        let mut requests = JoinSet::new();
        for _ in 0..size {
            requests.spawn(get(client.clone(), world.url("/")));
        }
        let answers = requests.join_all().await;
        answers.iter().filter(|(status, _)| *status == 503).count()
    };
    // An app may say 503 five times in a row: it has said something.
    for _ in 0..10 {
        batch(1).await;
    }
    let is_asked = batch(8).await;
    assert!(is_asked > 1, "not out yet: {is_asked}");
    // A burst is another matter.
    let begun = std::time::Instant::now();
    while batch(60).await > 10 {
        assert!(begun.elapsed() < crate::world::LIMIT, "it is never ejected");
    }
    status.store(200, Ordering::SeqCst);
    let mut came_back = false;
    let begun = std::time::Instant::now();
    while !came_back && begun.elapsed() < crate::world::LIMIT {
        came_back = get(client.clone(), world.url("/")).await.1 == "sometimes";
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(came_back, "it gets requests again");
}

#[tokio::test]
async fn the_only_machine_is_never_ejected() {
    let world = World::new().await;
    let failing = backend(&world.tasks, |_| async {
        let mut response = Response::new(full("mine"));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    })
    .await;
    world.publish(vec![endpoint(1, failing)]);
    for _ in 0..10 {
        let answer = get(world.client(), world.url("/")).await;
        assert_eq!(answer, (502, "mine".into()));
    }
}

#[tokio::test]
async fn without_any_machine_that_could_answer_the_edge_says_so_at_once() {
    let world = World::with(|config| config.timeouts.machine = crate::world::LIMIT * 2).await;
    let stopped = crate::world::with_health(
        endpoint(1, crate::world::nobody().await),
        roost_proto::traffic::EndpointHealth::Down("stopped".into()),
    );
    world.publish(vec![stopped]);
    let (status, page) = get(world.client(), world.url("/")).await;
    assert!(
        status == 503 && page.contains("no-healthy-machine"),
        "{page}"
    );
}
