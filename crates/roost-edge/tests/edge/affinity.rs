//! Session affinity: requests of a session stay with one machine while it takes them.

use crate::limits::{Held, get, limited};
use crate::raw;
use crate::relay::{Cluster, at, peers_of};
use crate::seeing::{id_of, reason_of, record};
use crate::world::{AnyBody, World, backend, endpoint, full, machine, with_health};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use roost_model::machine::SessionKey;
use roost_model::name::{AppName, RegionCode};
use roost_model::split::Split;
use roost_proto::traffic::{AppTraffic, Endpoint, EndpointHealth};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

/// The machine of this number says so, and what cookies it has seen. It takes WebSockets.
async fn tells(world: &World, number: u8) -> SocketAddr {
    backend(&world.tasks, move |request: Request<Incoming>| async move {
        told(number, &request)
    })
    .await
}

fn told(number: u8, request: &Request<Incoming>) -> Response<AnyBody> {
    let cookies = request.headers().get_all("cookie").iter();
    let cookies: Vec<&str> = cookies.map(|line| line.to_str().unwrap()).collect();
    let response = Response::builder().header("set-cookie", "app=own");
    if request.headers().contains_key("upgrade") {
        let response = response.status(StatusCode::SWITCHING_PROTOCOLS);
        let response = response.header("connection", "upgrade");
        return response
            .header("upgrade", "websocket")
            .body(full(""))
            .unwrap();
    }
    let text = format!("{number} {}", cookies.join("; "));
    response.body(full(text)).unwrap()
}

fn keeps(mut endpoint: Endpoint, key: &SessionKey) -> Endpoint {
    for port in &mut Arc::make_mut(&mut endpoint.service).ports {
        port.http.session_affinity = Some(Box::new(key.clone()));
    }
    endpoint
}

fn by_cookie() -> SessionKey {
    SessionKey::Cookie("sid".into())
}

/// Machines 1 to 4 of a service with this affinity.
async fn four(world: &World, key: &SessionKey) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for number in 1..=4 {
        all.push(keeps(endpoint(number, tells(world, number).await), key));
    }
    world.publish(all.clone());
    all
}

/// An answer as it matters here.
#[derive(Debug, PartialEq)]
struct Told {
    machine: u8,
    /// The cookies that the machine saw.
    seen: String,
    /// What the edge sets.
    set: Option<String>,
    id: String,
}

async fn ask(request: reqwest::RequestBuilder) -> Told {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let id = id_of(&response);
    let set = response.headers().get_all("set-cookie").iter();
    let set: Vec<String> = set.map(|line| line.to_str().unwrap().to_owned()).collect();
    let (own, apps): (Vec<_>, Vec<_>) = set.into_iter().partition(|it| it.starts_with("sid="));
    assert_eq!(apps, ["app=own"], "the app's own is not lost");
    assert!(own.len() <= 1, "{own:?}");
    let text = response.text().await.unwrap();
    let (machine, seen) = text.split_once(' ').unwrap();
    Told {
        machine: machine.parse().unwrap(),
        seen: seen.to_owned(),
        set: own.into_iter().next(),
        id,
    }
}

fn cookie_of(number: u8) -> String {
    format!("sid={}", machine(number))
}

async fn with_cookie(world: &World, cookie: &str) -> Told {
    ask(world.client().get(world.url("/")).header("cookie", cookie)).await
}

#[tokio::test]
async fn a_client_gets_a_cookie_once_and_stays_with_its_machine() {
    let world = World::new().await;
    four(&world, &by_cookie()).await;
    let first = ask(world.client().get(world.url("/"))).await;
    let own = cookie_of(first.machine);
    let expected = format!("{own}; Path=/; HttpOnly; SameSite=Lax");
    assert_eq!(first.set.as_ref(), Some(&expected));
    for _ in 0..8 {
        let again = with_cookie(&world, &format!("a=1; {own}; b=2")).await;
        assert_eq!((again.machine, again.set), (first.machine, None));
        assert_eq!(again.seen, "a=1; b=2", "the edge's is not the app's");
    }
    let others = [(); 8].map(|()| ask(world.client().get(world.url("/"))));
    let others = futures_util::future::join_all(others).await;
    let others: BTreeSet<u8> = others.iter().map(|it| it.machine).collect();
    assert_eq!(others.len(), 4, "clients without a cookie go round");
    let secure = ask(world.client().get(world.tls_url("/"))).await;
    let set = secure.set.unwrap();
    assert!(set.ends_with("; SameSite=Lax; Secure"), "{set}");
    let followed = with_cookie(&world, &own).await;
    let record = record(&world, &followed.id).await;
    let skipped = &record.attempts[0].skipped;
    let other = (1..=4).find(|number| *number != first.machine).unwrap();
    assert_eq!(reason_of(skipped, other), "session");
}

#[tokio::test]
async fn a_client_moves_on_when_its_machine_takes_nothing_and_stays_there() {
    let world = World::new().await;
    let all = four(&world, &by_cookie()).await;
    let own = cookie_of(3);
    for health in [
        EndpointHealth::Draining,
        EndpointHealth::Failing("check".into()),
        EndpointHealth::Down("stopped".into()),
        EndpointHealth::Asleep("stopped".into()),
    ] {
        let mut all = all.clone();
        all[2] = with_health(all[2].clone(), health);
        world.publish(all);
        let moved = with_cookie(&world, &own).await;
        assert_ne!(moved.machine, 3);
        assert!(moved.set.unwrap().starts_with(&cookie_of(moved.machine)));
        let after = with_cookie(&world, &cookie_of(moved.machine)).await;
        assert_eq!((after.machine, after.set), (moved.machine, None));
    }
    world.publish(all[..2].to_vec());
    assert_ne!(with_cookie(&world, &own).await.machine, 3);
    // Who refuses connections is passed over, whoever asks.
    let mut refuses = all.clone();
    refuses[2].address = crate::world::nobody().await;
    world.publish(refuses);
    let moved = with_cookie(&world, &own).await;
    assert!(moved.machine != 3 && moved.set.is_some(), "{moved:?}");
}

#[tokio::test]
async fn a_session_leaves_a_machine_that_is_full() {
    for key in [by_cookie(), SessionKey::Header("x-session".into())] {
        let world = World::new().await;
        let held = Held::new(&world).await;
        let full = keeps(limited(1, held.address, 1, 1), &key);
        let other = keeps(endpoint(2, tells(&world, 2).await), &key);
        world.publish(vec![full.clone()]);
        let mut waits = JoinSet::new();
        waits.spawn(get(world.client(), world.url("/")));
        held.wait_for(1).await;
        world.publish(vec![full, other]);
        for number in 0..4 {
            let request = world.client().get(world.url("/"));
            let request = request.header("cookie", cookie_of(1));
            let told = ask(request.header("x-session", number.to_string())).await;
            let is_set = key == by_cookie();
            assert_eq!((told.machine, told.set.is_some()), (2, is_set));
        }
        held.release.add_permits(1);
        assert_eq!(waits.join_next().await.unwrap().unwrap().0, 200);
    }
}

#[tokio::test]
async fn cookies_that_the_edge_has_not_set_are_as_none() {
    let world = World::new().await;
    four(&world, &by_cookie()).await;
    for bad in [
        "sid=",
        "sid=x",
        "sid=../../../etc/passwd",
        "sid=0101010101010G",
        "sid=01010101010101010101",
        "sid=\"01010101010101\"",
        "sid=ffffffffffffff",
    ] {
        let told = with_cookie(&world, bad).await;
        assert!(told.set.is_some(), "{bad}");
        assert_eq!(told.seen, "", "{bad}");
    }
}

#[tokio::test]
async fn requests_with_the_same_header_go_to_one_machine_and_few_move() {
    let world = World::new().await;
    let key = SessionKey::Header("x-session".into());
    let mut all = four(&world, &key).await;
    let client = world.client();
    let machine_of = async |n: usize| {
        let request = client
            .get(world.url("/"))
            .header("X-Session", n.to_string());
        let told = ask(request).await;
        assert_eq!(told.set, None);
        told.machine
    };
    let mut before = Vec::new();
    for n in 0..40 {
        before.push(machine_of(n).await);
        assert_eq!(machine_of(n).await, before[n]);
    }
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 4);
    all[1].health = EndpointHealth::Draining;
    world.publish(all.clone());
    for (n, before) in before.iter().enumerate() {
        let after = machine_of(n).await;
        assert!(if *before == 2 {
            after != 2
        } else {
            after == *before
        });
    }
    let without = [(); 8].map(|()| ask(client.get(world.url("/"))));
    let without = futures_util::future::join_all(without).await;
    let without: BTreeSet<u8> = without.iter().map(|it| it.machine).collect();
    assert_eq!(without.len(), 3, "without the header they go round");
    // The machines of another region are for when nobody here takes it.
    for endpoint in &mut all[2..] {
        endpoint.region = RegionCode::parse("far").unwrap();
    }
    world.publish(all);
    for n in 0..8 {
        assert_eq!(machine_of(n).await, 1);
    }
}

#[tokio::test]
async fn a_record_calls_machines_farther_that_no_header_could_have_chosen() {
    let world = World::new().await;
    let key = SessionKey::Header("x-session".into());
    let mut all = four(&world, &key).await;
    for endpoint in &mut all[2..] {
        endpoint.region = RegionCode::parse("far").unwrap();
    }
    world.publish(all);
    let request = world.client().get(world.url("/"));
    let followed = ask(request.header("x-session", "1")).await;
    let record = record(&world, &followed.id).await;
    let skipped = &record.attempts[0].skipped;
    let reasons = [3 - followed.machine, 3, 4].map(|number| reason_of(skipped, number));
    assert_eq!(reasons, ["session", "farther", "farther"]);
}

#[tokio::test]
async fn who_asks_for_a_machine_or_region_gets_it_whatever_his_session() {
    let world = World::new().await;
    let mut all = four(&world, &by_cookie()).await;
    all[3].region = RegionCode::parse("far").unwrap();
    world.publish(all);
    let client = world.client();
    for (header, value, machine) in [
        ("fly-force-instance-id", machine(2).to_string(), 2),
        ("roost-prefer-instance-id", machine(2).to_string(), 2),
        ("fly-force-region", "far".to_owned(), 4),
        ("fly-prefer-region", "far".to_owned(), 4),
    ] {
        let request = client.get(world.url("/")).header(header, value);
        let told = ask(request.header("cookie", cookie_of(1))).await;
        assert_eq!(
            (told.machine, told.seen.as_str()),
            (machine, ""),
            "{header}"
        );
        // One request for a certain machine says nothing about the next ones.
        assert_eq!(told.set.is_some(), header.ends_with("region"), "{header}");
    }
    // Within what is asked for, the session counts.
    for _ in 0..4 {
        let request = client.get(world.url("/"));
        let request = request.header("fly-force-region", "local");
        let told = ask(request.header("cookie", cookie_of(3))).await;
        assert_eq!((told.machine, told.set), (3, None));
    }
}

#[tokio::test]
async fn a_replay_goes_where_the_app_says_and_sets_no_cookie() {
    let world = World::new().await;
    let first = backend(&world.tasks, |_| async {
        let to = format!("instance={}", machine(2));
        let response = Response::builder().header("fly-replay", to);
        response.body(full("not to be seen")).unwrap()
    })
    .await;
    let first = keeps(endpoint(1, first), &by_cookie());
    let second = keeps(endpoint(2, tells(&world, 2).await), &by_cookie());
    world.publish(vec![first, second]);
    for _ in 0..4 {
        let told = with_cookie(&world, &cookie_of(1)).await;
        assert_eq!((told.machine, told.seen.as_str(), told.set), (2, "", None));
    }
}

#[tokio::test]
async fn a_session_counts_again_when_a_kept_replay_leads_nowhere() {
    for (cookie, is_known) in [(cookie_of(4), true), (cookie_of(9), false)] {
        let world = World::new().await;
        let publish = |own: Vec<Endpoint>, other: Endpoint| {
            let app = |name: &str, endpoints: Vec<Endpoint>| {
                (AppName::parse(name).unwrap(), AppTraffic { endpoints })
            };
            let apps = [app("app", own), app("other", vec![other])];
            world.table.send_replace(Arc::new(apps.into()));
            world.edge.gauge().in_flight(&machine(0));
        };
        let replays = backend(&world.tasks, |_| async {
            let response = Response::builder()
                .header("fly-replay", "app=other")
                .header("fly-replay-cache", "app.localhost/path/*")
                .header("fly-replay-cache-ttl-secs", "60");
            response.body(full("not to be seen")).unwrap()
        })
        .await;
        let other = endpoint(2, tells(&world, 2).await);
        let own = keeps(endpoint(1, replays), &by_cookie());
        publish(vec![own], other.clone());
        let get = || {
            let request = world.client().get(world.url("/path"));
            ask(request.header("cookie", cookie.as_str()))
        };
        let kept = get().await;
        assert_eq!((kept.machine, kept.set), (2, None));
        let mut own = Vec::new();
        for number in 3..=6 {
            own.push(keeps(
                endpoint(number, tells(&world, number).await),
                &by_cookie(),
            ));
        }
        publish(
            own,
            with_health(other, EndpointHealth::Down("stopped".into())),
        );
        let told = get().await;
        assert_eq!(told.machine == 4 && told.set.is_none(), is_known);
        assert!(is_known || told.set.is_some(), "{told:?}");
    }
}

#[tokio::test]
async fn a_session_goes_to_the_side_that_its_split_says_and_stays_with_a_machine_there() {
    let world = World::new().await;
    let mut all = four(&world, &by_cookie()).await;
    for canary in &mut all[2..] {
        canary.release = Some(2);
        let split = Split::parse("percent=0;header=x-canary: 1").unwrap();
        canary.split = Some(Arc::new(split));
    }
    world.publish(all);
    let client = world.client();
    let canary = |cookie: u8| {
        let request = client.get(world.url("/")).header("x-canary", "1");
        ask(request.header("cookie", cookie_of(cookie)))
    };
    let moved = canary(1).await;
    assert!(moved.machine > 2 && moved.set.is_some(), "{moved:?}");
    for _ in 0..4 {
        let again = canary(moved.machine).await;
        assert_eq!((again.machine, again.set), (moved.machine, None));
    }
    let back = with_cookie(&world, &cookie_of(moved.machine)).await;
    assert!(back.machine <= 2 && back.set.is_some(), "{back:?}");
}

#[tokio::test]
async fn a_split_by_chance_does_not_send_a_session_to_and_fro() {
    for (key, header) in [
        (by_cookie(), None),
        (SessionKey::Header("x-session".into()), Some("x-session")),
    ] {
        let world = World::new().await;
        let mut all = four(&world, &key).await;
        for canary in &mut all[2..] {
            canary.release = Some(2);
            canary.split = Some(Arc::new(Split::parse("percent=50").unwrap()));
        }
        world.publish(all);
        let client = world.client();
        let mut sides = BTreeSet::new();
        for session in 0..12 {
            let get = || client.get(world.url("/")).header("x-session", session);
            let first = ask(get()).await.machine;
            for _ in 0..4 {
                let cookie = cookie_of(first);
                assert_eq!(ask(get().header("cookie", cookie)).await.machine, first);
            }
            sides.insert(first > 2);
        }
        // All come from one address.
        assert_eq!(sides.len(), if header.is_some() { 2 } else { 1 });
    }
}

#[tokio::test]
async fn cookies_that_come_one_by_one_over_http2_are_read() {
    let world = World::new().await;
    four(&world, &by_cookie()).await;
    let fields = [
        raw::request_fields("/"),
        raw::field("cookie", "a=1"),
        raw::field("cookie", &cookie_of(4)),
        raw::field("cookie", "b=2"),
    ]
    .concat();
    for _ in 0..3 {
        let mut stream = raw::http2(&world, &[]).await;
        let flags = raw::END_STREAM | raw::END_HEADERS;
        let request = raw::frame(raw::HEADERS, flags, 1, &fields);
        stream.write_all(&request).await.unwrap();
        let body = loop {
            let (kind, _, payload) = raw::next_frame(&mut stream).await.expect("an answer");
            if kind == raw::DATA {
                break String::from_utf8(payload).unwrap();
            }
        };
        assert_eq!(body, "4 a=1; b=2");
    }
}

#[tokio::test]
async fn a_websocket_goes_to_the_machine_of_its_session_and_may_set_the_cookie() {
    let world = World::new().await;
    four(&world, &by_cookie()).await;
    let shake = async |cookie: &str| {
        let answer = world
            .raw(format!(
                "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{cookie}\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        let line = answer.lines().find(|line| line.contains("sid="));
        line.map(str::to_owned)
    };
    let set = shake("").await.expect("the cookie");
    let cookie = set.split_once(": ").unwrap().1.split_once(';').unwrap().0;
    assert_eq!(shake(&format!("Cookie: {cookie}\r\n")).await, None);
}

#[tokio::test]
async fn answers_that_are_to_be_pristine_and_those_of_the_edge_have_no_cookie() {
    let world = World::new().await;
    let mut pristine = keeps(endpoint(1, tells(&world, 1).await), &by_cookie());
    for port in &mut Arc::make_mut(&mut pristine.service).ports {
        port.http.pristine = true;
    }
    world.publish(vec![pristine]);
    let response = world.client().get(world.url("/")).send().await.unwrap();
    assert_eq!(response.headers().get_all("set-cookie").iter().count(), 1);
    let refuses = endpoint(2, crate::world::nobody().await);
    world.publish(vec![keeps(refuses, &by_cookie())]);
    let response = world.client().get(world.url("/")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert!(!response.headers().contains_key("set-cookie"));
}

#[tokio::test]
async fn an_answer_for_shared_caches_sets_no_cookie() {
    let world = World::new().await;
    let address = backend(&world.tasks, |request: Request<Incoming>| async move {
        let kept = request.headers()["x-kept"].clone();
        let response = Response::builder().header("cache-control", kept);
        response.body(full("")).unwrap()
    })
    .await;
    world.publish(vec![keeps(endpoint(1, address), &by_cookie())]);
    for (kept, is_set) in [
        ("public, max-age=60", false),
        ("s-maxage=60", false),
        ("private, max-age=60", true),
    ] {
        let request = world.client().get(world.url("/")).header("x-kept", kept);
        let response = request.send().await.unwrap();
        assert_eq!(response.headers().contains_key("set-cookie"), is_set);
    }
}

#[tokio::test]
async fn a_session_stays_with_a_machine_of_another_node() {
    let cluster = Cluster::new();
    let (near, far) = (cluster.edge(1).await, cluster.edge(2).await);
    let here = keeps(endpoint(1, tells(&near, 1).await), &by_cookie());
    let there = keeps(endpoint(2, tells(&far, 2).await), &by_cookie());
    far.publish(vec![there.clone()]);
    near.publish(vec![here.clone(), at(2, peers_of(&far), there)]);
    for _ in 0..4 {
        let told = with_cookie(&near, &format!("a=1; {}", cookie_of(2))).await;
        assert_eq!((told.machine, told.set), (2, None));
        assert_eq!(told.seen, "a=1");
    }
    let first = ask(near.client().get(near.url("/"))).await;
    assert!(first.set.unwrap().starts_with(&cookie_of(first.machine)));
    // Its node has it no more, which the near edge hears from that.
    let gone = [(AppName::parse("app").unwrap(), AppTraffic::default())];
    far.table.send_replace(Arc::new(gone.into()));
    far.edge.gauge().in_flight(&machine(0));
    let moved = with_cookie(&near, &cookie_of(2)).await;
    assert!(moved.set.unwrap().starts_with(&cookie_of(1)));
}
