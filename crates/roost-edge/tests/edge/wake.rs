//! Machines that sleep, and requests that wake them.

use crate::limits::{Held, get, limited};
use crate::tcp::{PORT, at_port, behind};
use crate::world::{LIMIT, World, endpoint, machine, nobody, says, wait_until, with_health};
use parking_lot::Mutex;
use roost_edge::EdgeConfig;
use roost_model::id::MachineId;
use roost_model::machine::PortHandler;
use roost_proto::traffic::{Endpoint, EndpointHealth, SleepControl, WakeError, Waking};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Notes who is to be woken; the test does the rest.
#[derive(Debug, Default)]
pub(crate) struct Control {
    woken: Mutex<Vec<MachineId>>,
    refusal: Mutex<Option<WakeError>>,
}

impl SleepControl for Control {
    fn wake(&self, machine_id: MachineId) -> Waking {
        self.woken.lock().push(machine_id);
        let answer = self.refusal.lock().clone().map_or(Ok(()), Err);
        Box::pin(std::future::ready(answer))
    }
}

impl Control {
    pub(crate) async fn wait_for(&self, machines: &[u8]) {
        let machines: Vec<MachineId> = machines.iter().map(|number| machine(*number)).collect();
        // A wish that has changed nothing yet is repeated.
        let woken = || {
            let mut woken = self.woken.lock().clone();
            woken.dedup();
            woken
        };
        wait_until("the machines are woken", || woken() == machines).await;
    }

    fn refuse(&self, error: WakeError) {
        *self.refusal.lock() = Some(error);
    }
}

/// Lets the client ask while the test goes on.
pub(crate) fn begin<T: Send + 'static>(
    asking: impl Future<Output = T> + Send + 'static,
) -> JoinSet<T> {
    let mut request = JoinSet::new();
    request.spawn(asking);
    request
}

/// What came of it.
pub(crate) async fn end<T: 'static>(request: JoinSet<T>) -> T {
    request.join_all().await.remove(0)
}

pub(crate) fn sleepy(control: &Arc<Control>) -> impl FnOnce(&mut EdgeConfig) + use<> {
    let control = control.clone();
    |config| config.sleep = Some(control)
}

async fn world(control: &Arc<Control>) -> World {
    World::with(sleepy(control)).await
}

pub(crate) fn asleep(number: u8, address: SocketAddr) -> Endpoint {
    with_health(
        endpoint(number, address),
        EndpointHealth::Asleep("stopped".into()),
    )
}

fn down(number: u8, address: SocketAddr, state: &str) -> Endpoint {
    with_health(
        endpoint(number, address),
        EndpointHealth::Down(state.into()),
    )
}

#[tokio::test]
async fn a_request_wakes_the_machine_that_sleeps_and_hears_how_long_it_took() {
    let control = Arc::<Control>::default();
    let world = world(&control).await;
    let address = says(&world.tasks, "awake").await;
    world.publish(vec![asleep(1, address)]);
    let request = world.client().get(world.url("/"));
    let request = begin(request.header("roost-debug", "timings").send());
    control.wait_for(&[1]).await;
    world.publish(vec![down(1, address, "starting")]);
    let unchecked = EndpointHealth::Failing("not checked yet".into());
    world.publish(vec![with_health(endpoint(1, address), unchecked)]);
    assert_eq!(
        world.edge.queued(),
        1,
        "it waits until the machine is healthy"
    );
    world.publish(vec![endpoint(1, address)]);
    let answer = end(request).await.unwrap();
    let timing = answer.headers()["server-timing"]
        .to_str()
        .unwrap()
        .to_owned();
    let stages: Vec<&str> = timing
        .split(", ")
        .map(|stage| stage.split_once(";dur=").unwrap().0)
        .collect();
    let expected = [
        "pick",
        "wake-ask",
        "wake-start",
        "wake-ready",
        "connect",
        "app",
    ];
    assert_eq!(stages, expected, "{timing}");
    assert_eq!(answer.text().await.unwrap(), "awake");
    // One that nobody was woken for, and one that does not ask.
    let again = world.client().get(world.url("/"));
    let again = again.header("roost-debug", "timings").send().await.unwrap();
    let timing = again.headers()["server-timing"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        timing.starts_with("pick;dur=") && !timing.contains("wake"),
        "{timing}"
    );
    let silent = world.client().get(world.url("/")).send().await.unwrap();
    assert!(!silent.headers().contains_key("server-timing"));
    control.wait_for(&[1]).await;
}

#[tokio::test]
async fn many_requests_wake_a_machine_once() {
    let control = Arc::<Control>::default();
    let world = world(&control).await;
    let address = says(&world.tasks, "awake").await;
    let roomy = |health: EndpointHealth| with_health(limited(1, address, 100, 100), health);
    let sleeps = || EndpointHealth::Asleep("stopped".into());
    world.publish(vec![roomy(sleeps()), asleep(2, address)]);
    let client = world.client();
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        requests.spawn(get(client.clone(), world.url("/")));
    }
    wait_until("all wait", || world.edge.queued() == 50).await;
    let starting = EndpointHealth::Down("starting".into());
    world.publish(vec![roomy(starting), asleep(2, address)]);
    world.publish(vec![roomy(EndpointHealth::Passing), asleep(2, address)]);
    for (status, text) in requests.join_all().await {
        assert_eq!((status, text.as_str()), (200, "awake"));
    }
    control.wait_for(&[1]).await;
}

#[tokio::test]
async fn a_machine_that_is_about_to_sleep_is_woken_as_well() {
    let control = Arc::<Control>::default();
    let world = world(&control).await;
    let address = says(&world.tasks, "awake").await;
    let stopping = EndpointHealth::Asleep("stopping".into());
    world.publish(vec![with_health(endpoint(1, address), stopping)]);
    let request = begin(get(world.client(), world.url("/")));
    control.wait_for(&[1]).await;
    world.publish(vec![asleep(1, address)]);
    world.publish(vec![down(1, address, "starting")]);
    world.publish(vec![endpoint(1, address)]);
    assert_eq!(end(request).await.0, 200);
}

#[tokio::test]
async fn a_machine_that_does_not_come_up_is_waited_for_so_long_and_no_longer() {
    let control = Arc::<Control>::default();
    let world = World::with(|config| {
        sleepy(&control)(config);
        config.timeouts.machine = Duration::from_millis(50);
        config.timeouts.wake = Duration::from_millis(500);
    })
    .await;
    let address = nobody().await;
    world.publish(vec![asleep(1, address)]);
    let begun = std::time::Instant::now();
    let request = begin(get(world.client(), world.url("/")));
    control.wait_for(&[1]).await;
    world.publish(vec![down(1, address, "starting")]);
    let (status, page) = end(request).await;
    assert_eq!(status, 503);
    assert!(page.contains("code wake-timeout"), "{page}");
    assert!(page.contains("does not run: starting"), "{page}");
    assert!(begun.elapsed() >= Duration::from_millis(500));
}

#[tokio::test]
async fn who_asks_for_a_machine_that_cannot_be_woken_hears_why() {
    let control = Arc::<Control>::default();
    let world = world(&control).await;
    let address = nobody().await;
    control.refuse(WakeError::Refused("it is cordoned".into()));
    world.publish(vec![asleep(1, address)]);
    let (status, page) = get(world.client(), world.url("/")).await;
    assert_eq!(status, 503);
    assert!(page.contains("code wake-failed"), "{page}");
    assert!(page.contains("it is cordoned"), "{page}");
    // It starts, and ends before it is healthy.
    *control.refusal.lock() = None;
    world.publish(vec![asleep(2, address)]);
    let request = begin(get(world.client(), world.url("/")));
    control.wait_for(&[1, 2]).await;
    world.publish(vec![down(2, address, "starting")]);
    world.publish(vec![asleep(2, address)]);
    let (_, page) = end(request).await;
    assert!(
        page.contains("it was started and is stopped again"),
        "{page}"
    );
}

#[tokio::test]
async fn a_machine_that_does_not_sleep_but_rests_is_not_woken() {
    let control = Arc::<Control>::default();
    let world = world(&control).await;
    world.publish(vec![down(1, nobody().await, "stopped")]);
    let (status, page) = get(world.client(), world.url("/")).await;
    assert_eq!(status, 503);
    assert!(page.contains("code no-healthy-machine"), "{page}");
    assert!(control.woken.lock().is_empty());
}

#[tokio::test]
async fn a_machine_beyond_its_soft_limit_gets_help_and_serves_on() {
    let control = Arc::<Control>::default();
    let world = world(&control).await;
    let held = Held::new(&world).await;
    let help = with_health(
        limited(2, nobody().await, 1, 9),
        EndpointHealth::Asleep("suspended".into()),
    );
    world.publish(vec![limited(1, held.address, 1, 9), help]);
    let mut requests = JoinSet::new();
    requests.spawn(get(world.client(), world.url("/")));
    held.wait_for(1).await;
    assert!(
        control.woken.lock().is_empty(),
        "at the soft limit, not beyond"
    );
    requests.spawn(get(world.client(), world.url("/")));
    held.wait_for(2).await;
    control.wait_for(&[2]).await;
    held.release.add_permits(2);
    let served = requests.join_all().await;
    assert!(served.iter().all(|(status, _)| *status == 200));
}

#[tokio::test]
async fn who_asks_for_a_certain_machine_wakes_that_one() {
    let control = Arc::<Control>::default();
    let world = world(&control).await;
    let address = says(&world.tasks, "awake").await;
    let ready = endpoint(1, address);
    world.publish(vec![ready.clone(), asleep(2, address), asleep(3, address)]);
    let request = world.client().get(world.url("/"));
    let request = request.header("fly-force-instance-id", machine(3).as_str());
    let request = begin(request.send());
    control.wait_for(&[3]).await;
    world.publish(vec![ready, asleep(2, address), endpoint(3, address)]);
    assert_eq!(end(request).await.unwrap().status(), 200);
    control.wait_for(&[3]).await;
}

#[tokio::test]
async fn a_raw_connection_wakes_a_machine() {
    let control = Arc::<Control>::default();
    let (world, ip) = crate::tcp::world(sleepy(&control)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let raw = behind(at_port(PortHandler::Raw), 1, address);
    let asleep = EndpointHealth::Asleep("suspended".into());
    world.publish(vec![with_health(raw.clone(), asleep)]);
    world.port_problem("app", |problem| problem.is_none()).await;
    let mut client = TcpStream::connect((ip, PORT)).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    control.wait_for(&[1]).await;
    world.publish(vec![raw]);
    let (mut machine, _) = tokio::time::timeout(LIMIT, listener.accept())
        .await
        .unwrap()
        .unwrap();
    let mut heard = [0; 5];
    machine.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn without_a_worker_it_is_waited_for_unless_the_edge_ends() {
    let control = Arc::<Control>::default();
    let world = world(&control).await;
    let address = says(&world.tasks, "awake").await;
    control.refuse(WakeError::Away);
    world.publish(vec![asleep(1, address)]);
    let request = begin(get(world.client(), world.url("/")));
    wait_until("it is asked again", || control.woken.lock().len() > 1).await;
    *control.refusal.lock() = None;
    world.publish(vec![endpoint(1, address)]);
    assert_eq!(end(request).await.0, 200);

    // Another edge has the sockets, and the worker.
    control.refuse(WakeError::Away);
    world.publish(vec![asleep(1, address)]);
    wait_until("the first client has gone", || world.edge.clients() == 0).await;
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    wait_until("it is connected", || world.edge.clients() > 0).await;
    let ask = async {
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(LIMIT, client.read_to_string(&mut answer));
        read.await.expect("it is told").unwrap();
        answer
    };
    let (answer, _) = tokio::join!(ask, world.edge.retire(LIMIT));
    assert!(answer.contains("code wake-failed"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}
