//! Replays: one machine answers that another is to have the request.

use crate::limits::{Held, get};
use crate::world::{World, backend, endpoint, full, machine, nobody};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use roost_edge::EdgeRates;
use roost_model::name::{AppName, RegionCode};
use roost_proto::traffic::{AppTraffic, Endpoint};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::JoinSet;

/// A machine that replays every request that no replay has brought, by this header.
async fn replays(world: &World, instruction: String) -> SocketAddr {
    backend(&world.tasks, move |request: Request<Incoming>| {
        let instruction = instruction.clone();
        async move {
            let failed = request.headers().get("fly-replay-failed").cloned();
            if let Some(failed) = failed {
                return Response::new(full(format!("failed {}", failed.to_str().unwrap())));
            }
            drop(request.into_body().collect().await);
            let builder = Response::builder()
                .status(307)
                .header("fly-replay", instruction);
            builder.body(full("the client must not see this")).unwrap()
        }
    })
    .await
}

/// A machine that says what it has received.
async fn tells(world: &World, name: &'static str) -> SocketAddr {
    backend(&world.tasks, move |request: Request<Incoming>| async move {
        let header = |name: &str| {
            let value = request.headers().get(name);
            value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
        };
        let (source, extra) = (header("fly-replay-src"), header("x-extra"));
        let path = request.uri().to_string();
        let method = request.method().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Response::new(full(format!(
            "{name} {method} {path} [{extra}] {body} <{source}>"
        )))
    })
    .await
}

fn app(name: &str, endpoints: Vec<Endpoint>) -> (AppName, AppTraffic) {
    (AppName::parse(name).unwrap(), AppTraffic { endpoints })
}

fn publish(world: &World, apps: [(AppName, AppTraffic); 2]) {
    world.table.send_replace(Arc::new(apps.into()));
    world.edge.gauge().in_flight(&machine(0));
}

async fn post(world: &World, body: impl Into<reqwest::Body>) -> (u16, String) {
    let request = world.client().post(world.url("/path?q=1")).body(body);
    let response = request.send().await.unwrap();
    assert!(!response.headers().contains_key("fly-replay"));
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Two machines; requests reach the second only by replay.
async fn replayed(instruction: &str) -> World {
    let world = World::new().await;
    let (from, to) = (
        replays(&world, instruction.into()).await,
        tells(&world, "b").await,
    );
    let mut far = endpoint(2, to);
    far.region = RegionCode::parse("fra").unwrap();
    world.publish(vec![endpoint(1, from), far]);
    world
}

#[tokio::test]
async fn a_replay_brings_method_path_and_body_to_the_machine_that_it_names() {
    let second = machine(2);
    for instruction in [
        format!("instance={second};state=some-state"),
        "region=fra;state=some-state".to_owned(),
        "elsewhere=true;state=some-state".to_owned(),
        format!("prefer_instance={second};state=some-state"),
    ] {
        let world = replayed(&instruction).await;
        let (status, text) = post(&world, "the body").await;
        assert_eq!(status, 200, "{instruction}: {text}");
        assert!(
            text.starts_with("b POST /path?q=1 [] the body <"),
            "{instruction}: {text}"
        );
        let source = format!("<instance={};region=local;t=", machine(1));
        assert!(
            text.contains(&source) && text.ends_with(";state=some-state>"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_replay_may_name_another_app() {
    let world = World::new().await;
    let (from, to) = (
        replays(&world, "app=other".into()).await,
        tells(&world, "other").await,
    );
    publish(
        &world,
        [
            app("app", vec![endpoint(1, from)]),
            app("other", vec![endpoint(2, to)]),
        ],
    );
    let (status, text) = post(&world, "x".repeat(200_000)).await;
    assert!(
        status == 200 && text.starts_with("other POST /path?q=1 [] xxx"),
        "{text:.100}"
    );
    let unknown = replayed("app=nowhere").await;
    let (status, page) = post(&unknown, "").await;
    assert!(
        status == 502 && page.contains("replay-app-unknown"),
        "{page}"
    );
}

#[tokio::test]
async fn a_replay_counts_at_the_app_that_it_goes_to() {
    let world = World::with(|config| {
        config.rates = EdgeRates {
            app_open: 1,
            ..EdgeRates::default()
        };
    })
    .await;
    let from = replays(&world, "app=other".into()).await;
    let held = Held::new(&world).await;
    let apps = [
        app("app", vec![endpoint(1, from)]),
        app("other", vec![endpoint(2, held.address)]),
    ];
    publish(&world, apps);
    let mut first = JoinSet::new();
    first.spawn(get(world.client(), world.url("/")));
    held.wait_for(1).await;
    // The app that replayed has its place back; the other one has no more.
    let (code, page) = get(world.client(), world.url("/")).await;
    assert_eq!(code, 503, "{page}");
    assert!(page.contains("code app-open"), "{page}");
    let direct = world
        .raw("GET / HTTP/1.1\r\nHost: other.localhost\r\nConnection: close\r\n\r\n")
        .await;
    assert!(direct.contains("code app-open"), "{direct}");
    held.release.add_permits(1);
    assert_eq!(first.join_all().await[0].0, 200);
}

#[tokio::test]
async fn a_json_replay_changes_path_and_headers() {
    let world = World::new().await;
    let from = backend(&world.tasks, |_| async {
        let body = r#"{"elsewhere": true, "transform": {"path": "/new?z=2",
            "set_headers": [{"name": "x-extra", "value": "set"}], "delete_headers": ["x-gone"]}}"#;
        let builder = Response::builder().header("content-type", "application/vnd.fly.replay+json");
        builder.body(full(body)).unwrap()
    })
    .await;
    let mut far = endpoint(2, tells(&world, "b").await);
    far.region = RegionCode::parse("fra").unwrap();
    world.publish(vec![endpoint(1, from), far]);
    let (status, text) = post(&world, "").await;
    assert!(
        status == 200 && text.starts_with("b POST /new?z=2 [set]"),
        "{text}"
    );
}

#[tokio::test]
async fn replays_end_after_ten() {
    let world = replayed(&format!("instance={}", machine(1))).await;
    let (status, page) = post(&world, "").await;
    assert!(status == 508 && page.contains("replay-loop"), "{page}");
}

#[tokio::test]
async fn a_replay_that_is_not_understood_is_the_apps_fault() {
    for instruction in ["nonsense", "instance=x;colour=red", "timeout=5s"] {
        let (status, page) = post(&replayed(instruction).await, "").await;
        assert!(
            status == 502 && page.contains("replay-invalid"),
            "{instruction}: {page}"
        );
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_cannot_be_replayed() {
    let world = replayed("region=fra").await;
    let limit = roost_edge::limits::KEPT_BODY_BYTES_MAX;
    let (status, text) = post(&world, "x".repeat(limit)).await;
    assert!(status == 200 && text.len() > limit, "{text:.100}");
    let (status, page) = post(&world, "x".repeat(limit + 1)).await;
    assert!(status == 413 && page.contains("replay-body"), "{page:.200}");
}

#[tokio::test]
async fn a_replay_without_a_machine_falls_back_to_who_asked_for_it() {
    for fallback in ["force_self", "prefer_self"] {
        let world = replayed(&format!("instance={};fallback={fallback}", machine(9))).await;
        let (status, text) = post(&world, "x").await;
        assert_eq!(status, 200, "{text}");
        for part in ["failed instance=", "reason=no_candidate", ";elapsed_ms="] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[tokio::test]
async fn a_replay_that_takes_too_long_falls_back() {
    let world = World::new().await;
    let stuck = backend(&world.tasks, |_| std::future::pending()).await;
    let from = replays(&world, "app=other;timeout=50ms;fallback=force_self".into()).await;
    publish(
        &world,
        [
            app("app", vec![endpoint(1, from)]),
            app("other", vec![endpoint(2, stuck)]),
        ],
    );
    let (status, text) = post(&world, "x").await;
    assert!(status == 200 && text.contains("reason=timeout"), "{text}");
    assert!(text.contains("app=other;"), "{text}");
}

#[tokio::test]
async fn a_replay_to_a_machine_that_cannot_be_reached_says_which() {
    let world = World::new().await;
    let from = replays(&world, "app=other".into()).await;
    let dead = endpoint(2, nobody().await);
    publish(
        &world,
        [
            app("app", vec![endpoint(1, from)]),
            app("other", vec![dead]),
        ],
    );
    let (status, page) = post(&world, "x").await;
    assert!(
        status == 502 && page.contains("machine-unreachable"),
        "{page}"
    );
}
