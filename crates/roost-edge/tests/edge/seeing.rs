//! What the edge tells of requests afterwards.

use crate::world::{
    World, backend, endpoint, full, machine, nobody, says, wait_until, with_health,
};
use http::{Response, StatusCode};
use roost_model::name::RegionCode;
use roost_model::split::Split;
use roost_proto::release_traffic::{Reading, Watch};
use roost_proto::rest::{RequestRecord, SkippedMachine};
use roost_proto::traffic::EndpointHealth;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The id of a response, as the client sees it.
pub(crate) fn id_of(response: &reqwest::Response) -> String {
    let id = &response.headers()["roost-request-id"];
    id.to_str().unwrap().to_owned()
}

/// The record of a request. It is there once the last byte has gone, which the client may see first.
pub(crate) async fn record(world: &World, id: &str) -> Arc<RequestRecord> {
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

pub(crate) fn reason_of(skipped: &[SkippedMachine], number: u8) -> &str {
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
    // `ask` has found it by the id as the answer has it.
    let (id, region) = record.request_id.split_once('-').unwrap();
    assert_eq!(region, "local");
    assert!(world.edge.records().request(id).is_some());
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

/// Answers with this status after this long.
async fn answers(world: &World, status: StatusCode, after: Duration) -> std::net::SocketAddr {
    backend(&world.tasks, move |_| async move {
        tokio::time::sleep(after).await;
        let mut response = Response::new(full("x"));
        *response.status_mut() = status;
        response
    })
    .await
}

#[tokio::test]
async fn metrics_count_responses_by_app_region_and_class_of_status() {
    let world = World::new().await;
    let (ok, broken) = (StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR);
    let good = answers(&world, ok, Duration::ZERO).await;
    let mut far = endpoint(2, answers(&world, broken, Duration::ZERO).await);
    far.region = RegionCode::parse("far").unwrap();
    world.publish(vec![endpoint(1, good), far]);
    for _ in 0..3 {
        ask(&world, "/").await;
    }
    let forced = world.client().get(world.url("/"));
    let forced = forced.header("fly-force-region", "far").send().await;
    assert_eq!(forced.unwrap().status(), broken);
    let nowhere = world.client().get(world.url("/"));
    let nowhere = nowhere.header("fly-force-region", "nowhere").send().await;
    assert_eq!(nowhere.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    let text = world.edge.records().metrics();
    for line in [
        "fly_edge_http_responses_count{app=\"app\",region=\"local\",status=\"2xx\"} 3",
        "fly_edge_http_responses_count{app=\"app\",region=\"far\",status=\"5xx\"} 1",
        // That one is the edge's own answer.
        "fly_edge_http_responses_count{app=\"app\",region=\"local\",status=\"5xx\"} 1",
        "fly_app_http_responses_count{app=\"app\",region=\"local\",status=\"2xx\"} 3",
        "fly_app_http_responses_count{app=\"app\",region=\"far\",status=\"5xx\"} 1",
        "fly_edge_http_response_time_seconds_bucket{app=\"app\",region=\"local\",status=\"2xx\",le=\"+Inf\"} 3",
        "fly_edge_http_response_time_seconds_count{app=\"app\",region=\"local\",status=\"2xx\"} 3",
        "roost_app_unanswered_count{app=\"app\",region=\"local\"} 0",
        "roost_edge_queued 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let own = "fly_app_http_responses_count{app=\"app\",region=\"local\",status=\"5xx\"}";
    assert!(!text.contains(own), "{text}");
    // A new table keeps the counts.
    world.publish(vec![endpoint(1, good)]);
    let text = world.edge.records().metrics();
    assert!(text.contains("region=\"far\",status=\"5xx\"} 1"), "{text}");
}

#[tokio::test]
async fn two_releases_are_seen_side_by_side_with_their_errors_and_latencies() {
    let world = World::new().await;
    let slow = Duration::from_millis(120);
    let of_release = |release, mut endpoint: roost_proto::traffic::Endpoint| {
        endpoint.release = Some(release);
        endpoint
    };
    let old = answers(&world, StatusCode::OK, Duration::ZERO).await;
    let broken = answers(&world, StatusCode::BAD_GATEWAY, Duration::ZERO).await;
    let new = answers(&world, StatusCode::OK, slow).await;
    world.publish(vec![
        of_release(7, endpoint(1, old)),
        of_release(8, endpoint(2, broken)),
        of_release(8, endpoint(3, new)),
    ]);
    let app = roost_model::name::AppName::parse("app").unwrap();
    let ask_of = async |number: u8, n_times: usize| {
        for _ in 0..n_times {
            let id = machine(number);
            let request = world.client().get(world.url("/"));
            let request = request.header("fly-force-instance-id", id.as_str());
            request.send().await.unwrap();
        }
    };
    let read = || world.edge.records().tallies(&app);
    assert_eq!(read(), Reading::default(), "nothing is tried out");
    let mut canary = of_release(8, endpoint(3, new));
    canary.split = Some(Arc::new(Split::parse("percent=0;header=x: y").unwrap()));
    world.publish(vec![
        of_release(7, endpoint(1, old)),
        of_release(8, endpoint(2, broken)),
        canary,
    ]);
    wait_until("it is tried out", || read().own.len() == 2).await;
    ask_of(1, 5).await;
    let mut watch = Watch::begin(&read());
    let before = watch.side_by_side(7, 8);
    assert_eq!(before.b.error_rate(), None, "nothing is known of it");
    ask_of(1, 4).await;
    ask_of(2, 2).await;
    ask_of(3, 2).await;
    watch.look(&read());
    let window = watch.side_by_side(7, 8);
    assert_eq!((window.a.requests(), window.b.requests()), (4, 4));
    assert_eq!(window.a.error_rate(), Some(0.0));
    assert_eq!(window.b.error_rate(), Some(0.5));
    // Errors that come at once do not hide that.
    let median_of_new = window.b.latencies.quantile(0.5).unwrap();
    assert!(median_of_new >= Duration::from_millis(100), "{window:?}");
    assert_eq!(window.a.latencies.count(), 4);
}
