//! Replays that are kept: the app that replayed is not asked again.

use crate::world::{World, backend, endpoint, full, machine, nobody};
use http::{Request, Response};
use hyper::body::Incoming;
use roost_model::machine::{ReplayCacheRule, SessionKey};
use roost_model::name::AppName;
use roost_proto::traffic::{AppTraffic, Endpoint, EndpointHealth};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// An app that replays to another one with these headers, until it has none.
struct Origin {
    address: SocketAddr,
    n_asked: Arc<AtomicUsize>,
    replay: Arc<parking_lot::Mutex<Vec<(&'static str, &'static str)>>>,
}

const PATH_CACHE: [(&str, &str); 3] = [
    ("fly-replay", "app=other"),
    ("fly-replay-cache", "app.localhost/path/*"),
    ("fly-replay-cache-ttl-secs", "60"),
];

impl Origin {
    async fn new(world: &World, replay: &[(&'static str, &'static str)]) -> Self {
        let n_asked = Arc::new(AtomicUsize::new(0));
        let replay = Arc::new(parking_lot::Mutex::new(replay.to_vec()));
        let (count, headers) = (n_asked.clone(), replay.clone());
        let address = backend(&world.tasks, move |_: Request<Incoming>| {
            count.fetch_add(1, Ordering::SeqCst);
            let headers = headers.lock().clone();
            async move {
                let mut builder = Response::builder();
                let is_own = headers.is_empty();
                for (name, value) in headers {
                    builder = builder.header(name, value);
                }
                let body = if is_own { "own" } else { "not to be seen" };
                builder.body(full(body)).unwrap()
            }
        })
        .await;
        Self {
            address,
            n_asked,
            replay,
        }
    }

    fn n_asked(&self) -> usize {
        self.n_asked.load(Ordering::SeqCst)
    }
}

/// An app that tells how it was found; below `/path/away` it wants that forgotten.
async fn target(world: &World) -> SocketAddr {
    backend(&world.tasks, |request: Request<Incoming>| async move {
        let header = |name: &str| {
            let value = request.headers().get(name);
            value
                .map_or("-", |value| value.to_str().unwrap())
                .to_owned()
        };
        if request.uri().path() == "/path/away" && header("roost-replay-cache-status") == "hit" {
            let builder = Response::builder()
                .header("fly-replay", "app=app")
                .header("fly-replay-cache", "invalidate");
            return builder.body(full("")).unwrap();
        }
        let has_source = request.headers().contains_key("fly-replay-src");
        let status = header("fly-replay-cache-status");
        Response::new(full(format!("{status} {has_source}")))
    })
    .await
}

fn app(name: &str, endpoint: Endpoint) -> (AppName, AppTraffic) {
    let endpoints = vec![endpoint];
    (AppName::parse(name).unwrap(), AppTraffic { endpoints })
}

/// Two apps; requests come to the first.
async fn two(
    replay: &[(&'static str, &'static str)],
    rules: &[ReplayCacheRule],
) -> (World, Origin) {
    let world = World::new().await;
    let origin = Origin::new(&world, replay).await;
    let mut first = endpoint(1, origin.address);
    for port in &mut Arc::make_mut(&mut first.service).ports {
        port.http.replay_cache = rules.into();
    }
    let other = endpoint(2, target(&world).await);
    let apps = [app("app", first), app("other", other)];
    world.table.send_replace(Arc::new(apps.into()));
    world.edge.gauge().in_flight(&machine(0));
    (world, origin)
}

async fn get(world: &World, path: &str, header: (&'static str, &'static str)) -> (u16, String) {
    let request = world
        .client()
        .get(world.url(path))
        .header(header.0, header.1);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

const NOTHING: (&str, &str) = ("x-nothing", "1");

async fn told(world: &World, path: &str, header: (&'static str, &'static str)) -> String {
    let (status, text) = get(world, path, header).await;
    assert_eq!(status, 200, "{text}");
    text
}

#[tokio::test]
async fn a_kept_replay_goes_past_the_app_that_replayed() {
    let (world, origin) = two(&PATH_CACHE, &[]).await;
    assert_eq!(told(&world, "/path/1", NOTHING).await, "miss true");
    assert_eq!(told(&world, "/path/2?q=1", NOTHING).await, "hit false");
    // Nobody has allowed clients to do without.
    let skip = ("fly-replay-cache-control", "skip");
    assert_eq!(told(&world, "/path", skip).await, "hit false");
    // A client does not say where a request comes from.
    let pretended = ("roost-replay-cache-status", "bypass");
    assert_eq!(told(&world, "/path", pretended).await, "hit false");
    assert_eq!(origin.n_asked(), 1);
    // Who chooses the machine is asked for that one.
    let forced = ("fly-prefer-region", "local");
    assert_eq!(told(&world, "/path/1", forced).await, "miss true");
    assert_eq!(origin.n_asked(), 2);
    let (status, text) = get(&world, "/elsewhere", NOTHING).await;
    assert_eq!(status, 502, "it is not below the path: {text}");
}

#[tokio::test]
async fn a_client_may_do_without_where_the_app_allows_it() {
    let mut replay = PATH_CACHE.to_vec();
    replay.push(("fly-replay-cache-allow-bypass", "yes"));
    let (world, origin) = two(&replay, &[]).await;
    assert_eq!(told(&world, "/path", NOTHING).await, "miss true");
    for name in ["fly-replay-cache-control", "roost-replay-cache-control"] {
        assert_eq!(told(&world, "/path", (name, "skip")).await, "bypass true");
    }
    assert_eq!(told(&world, "/path", NOTHING).await, "hit false");
    assert_eq!(origin.n_asked(), 3);
}

#[tokio::test]
async fn the_target_may_have_a_replay_forgotten() {
    let (world, origin) = two(&PATH_CACHE, &[]).await;
    assert_eq!(told(&world, "/path/1", NOTHING).await, "miss true");
    // It goes back to the app, which replays it once more; that one is not kept.
    assert_eq!(told(&world, "/path/away", NOTHING).await, "miss true");
    assert_eq!(origin.n_asked(), 2);
    assert_eq!(told(&world, "/path/1", NOTHING).await, "miss true");
    assert_eq!(origin.n_asked(), 3);
    assert_eq!(told(&world, "/path/1", NOTHING).await, "hit false");
}

#[tokio::test]
async fn a_kept_replay_that_leads_nowhere_is_forgotten_and_the_app_asked() {
    let mut stopped = endpoint(2, nobody().await);
    stopped.health = EndpointHealth::Down("stopped".into());
    for other in [None, Some(app("other", stopped))] {
        let (world, origin) = two(&PATH_CACHE, &[]).await;
        assert_eq!(told(&world, "/path", NOTHING).await, "miss true");
        origin.replay.lock().clear();
        let apps = [app("app", endpoint(1, origin.address))];
        let apps = apps.into_iter().chain(other).collect();
        world.table.send_replace(Arc::new(apps));
        world.edge.gauge().in_flight(&machine(0));
        assert_eq!(told(&world, "/path", NOTHING).await, "own");
        assert_eq!(origin.n_asked(), 2);
    }
}

#[tokio::test]
async fn a_session_goes_where_its_first_request_was_replayed() {
    let rules = [ReplayCacheRule {
        host: None,
        path: String::new(),
        ttl: Duration::from_secs(60),
        key: SessionKey::Cookie("sid".into()),
        allow_bypass: false,
    }];
    let (world, origin) = two(&[("fly-replay", "app=other")], &rules).await;
    let (one, other) = (("cookie", "a=b; sid=1"), ("cookie", "sid=2"));
    assert_eq!(told(&world, "/a", one).await, "miss true");
    assert_eq!(told(&world, "/b", one).await, "hit false");
    assert_eq!(told(&world, "/b", other).await, "miss true");
    assert_eq!(told(&world, "/b", NOTHING).await, "miss true");
    assert_eq!(told(&world, "/c", other).await, "hit false");
    assert_eq!(origin.n_asked(), 3);
}

#[tokio::test]
async fn what_cannot_be_kept_is_the_apps_fault() {
    for (name, value) in [
        ("fly-replay-cache", "/path"),
        ("fly-replay-cache", "other.localhost/path/*"),
        ("fly-replay-cache-ttl-secs", "9"),
        ("fly-replay-cache-ttl-secs", "soon"),
        ("fly-replay", "app=other;state=x"),
        ("fly-replay", "app=other;timeout=1s"),
    ] {
        let mut replay = PATH_CACHE.to_vec();
        replay.retain(|(other, _)| *other != name);
        replay.push((name, value));
        let (world, _origin) = two(&replay, &[]).await;
        let (status, text) = get(&world, "/path", NOTHING).await;
        assert_eq!(status, 502, "{name}: {value}: {text}");
        assert!(text.contains("replay-invalid"), "{text}");
    }
}
