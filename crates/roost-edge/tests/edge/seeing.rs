//! What the edge tells of requests afterwards.

use crate::world::{
    World, backend, endpoint, full, machine, nobody, says, wait_until, with_health,
};
use http::{Response, StatusCode};
use roost_model::name::RegionCode;
use roost_proto::rest::{RequestRecord, SkippedMachine};
use roost_proto::traffic::EndpointHealth;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The id of a response, as the client sees it.
fn id_of(response: &reqwest::Response) -> String {
    let id = &response.headers()["roost-request-id"];
    id.to_str().unwrap().to_owned()
}

/// The record of a request. It is there once the last byte has gone, which the client may see first.
async fn record(world: &World, id: &str) -> Arc<RequestRecord> {
    let records = world.edge.records();
    wait_until("the record", || records.request(id).is_some()).await;
    records.request(id).unwrap()
}

async fn ask(world: &World, path: &str) -> (StatusCode, Arc<RequestRecord>) {
    let response = world.client().get(world.url(path)).send().await.unwrap();
    let (status, id) = (response.status(), id_of(&response));
    response.bytes().await.unwrap();
    (status, record(world, &id).await)
}

fn reason_of(skipped: &[SkippedMachine], number: u8) -> &str {
    let id = machine(number);
    let found = skipped.iter().find(|one| one.machine == id.as_str());
    &found
        .unwrap_or_else(|| panic!("{number}: {skipped:?}"))
        .reason
}

#[tokio::test]
async fn a_record_says_who_got_the_request_who_did_not_and_where_the_time_went() {
    let world = World::with(|config| config.node = "n1".to_owned()).await;
    let address = says(&world.tasks, "hello").await;
    let mut far = endpoint(2, address);
    far.region = RegionCode::parse("far").unwrap();
    world.publish(vec![
        endpoint(1, address),
        far,
        with_health(
            endpoint(3, address),
            EndpointHealth::Failing("check".into()),
        ),
        with_health(endpoint(4, address), EndpointHealth::Draining),
        with_health(endpoint(5, address), EndpointHealth::Down("stopped".into())),
    ]);
    let (status, record) = ask(&world, "/a/b?secret=x").await;
    assert_eq!((status, record.status), (StatusCode::OK, 200));
    assert_eq!(
        (record.edge.as_str(), record.region.as_str()),
        ("n1", "local")
    );
    assert_eq!(record.table_version, 2, "the empty one, and this");
    assert_eq!(record.path, "/a/b", "queries may hold secrets");
    assert_eq!(
        (record.method.as_str(), record.protocol.as_str()),
        ("GET", "HTTP/1.1")
    );
    assert_eq!(record.app.as_deref(), Some("app"));
    assert_eq!(record.machine.as_deref(), Some(machine(1).as_str()));
    assert_eq!((record.response_bytes, record.complete), (5, true));
    let [attempt] = &record.attempts[..] else {
        panic!("{record:?}")
    };
    assert_eq!((attempt.status, attempt.followed), (Some(200), true));
    for (number, reason) in [
        (2, "farther"),
        (3, "unhealthy"),
        (4, "draining"),
        (5, "down"),
    ] {
        assert_eq!(reason_of(&attempt.skipped, number), reason);
    }
    assert_eq!(attempt.skipped.len(), 4);
    let names: Vec<&str> = record.spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["route", "queue", "connect", "first_byte", "body"]);
    // One after the other, and none later than the end.
    let ends = |span: &roost_proto::rest::RequestSpan| span.start_us + span.duration_us;
    assert!(
        record
            .spans
            .windows(2)
            .all(|two| two[0].start_us <= two[1].start_us)
    );
    assert!(
        record
            .spans
            .iter()
            .all(|span| ends(span) <= record.total_us)
    );
}

#[tokio::test]
async fn a_record_has_each_attempt_and_why_it_came_to_nothing() {
    let world = World::new().await;
    let (dead, address) = (nobody().await, says(&world.tasks, "hello").await);
    world.publish(vec![endpoint(1, dead), endpoint(2, address)]);
    // Of two requests at least one begins with the machine that refuses.
    let mut n_refused = 0;
    for _ in 0..2 {
        let (status, record) = ask(&world, "/").await;
        assert_eq!(status, StatusCode::OK);
        let last = record.attempts.last().unwrap();
        assert_eq!(last.machine.as_deref(), Some(machine(2).as_str()));
        if let [first, _] = &record.attempts[..] {
            n_refused += 1;
            assert_eq!(first.machine.as_deref(), Some(machine(1).as_str()));
            assert!(
                first.error.as_ref().unwrap().starts_with("connect to"),
                "{first:?}"
            );
            assert_eq!(reason_of(&last.skipped, 1), "refused");
        }
    }
    assert!(n_refused > 0);
}

#[tokio::test]
async fn a_failure_is_kept_with_its_code_and_the_machines_that_did_not_take_it() {
    let world = World::with(|config| {
        config.timeouts.machine = Duration::from_millis(50);
    })
    .await;
    let address = says(&world.tasks, "hello").await;
    let unhealthy = EndpointHealth::Failing("connection refused".into());
    world.publish(vec![with_health(endpoint(1, address), unhealthy)]);
    let (status, record) = ask(&world, "/").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(record.error.as_deref(), Some("no-healthy-machine"));
    assert_eq!((record.status, record.machine.as_ref()), (503, None));
    let [attempt] = &record.attempts[..] else {
        panic!("{record:?}")
    };
    assert_eq!(attempt.machine, None);
    assert_eq!(reason_of(&attempt.skipped, 1), "unhealthy");
    assert!(attempt.skipped[0].message.contains("connection refused"));
    let queue = record
        .spans
        .iter()
        .find(|span| span.name == "queue")
        .unwrap();
    assert!(queue.duration_us >= 50_000, "{queue:?}");
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_leaves_a_record() {
    let world = World::new().await;
    let asked = Arc::new(Notify::new());
    let id = Arc::new(std::sync::OnceLock::new());
    let (tell, set) = (asked.clone(), id.clone());
    let address = backend(&world.tasks, move |request| {
        let id = request.headers()["roost-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        set.get_or_init(|| id);
        tell.notify_one();
        async {
            std::future::pending::<()>().await;
            Response::new(full(""))
        }
    })
    .await;
    world.publish(vec![endpoint(1, address)]);
    let client = world.client();
    let request = client.get(world.url("/")).send();
    tokio::select! {
        _ = request => panic!("nobody answers"),
        () = asked.notified() => {}
    }
    let record = record(&world, id.get().unwrap()).await;
    assert_eq!((record.status, record.complete), (499, false));
    assert_eq!(record.error.as_deref(), Some("client-gone"));
    assert_eq!(
        record.attempts[0].machine.as_deref(),
        Some(machine(1).as_str())
    );
}

#[tokio::test]
async fn a_record_has_the_trace_of_the_client_and_the_handshake() {
    let world = World::new().await;
    let address = says(&world.tasks, "hello").await;
    world.publish(vec![endpoint(1, address)]);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = world.client().get(world.tls_url("/"));
    let request = request.header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
    let response = request.send().await.unwrap();
    let id = id_of(&response);
    response.bytes().await.unwrap();
    let record = record(&world, &id).await;
    assert_eq!(record.trace_id, trace);
    assert!(record.tls);
    assert_eq!(record.spans[0].name, "tls");
    assert!(record.spans[0].duration_us > 0);
}
