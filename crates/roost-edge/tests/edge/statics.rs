//! Static files of machines, which the edge serves without the app.

use crate::relay::{Cluster, at, peers_of};
use crate::world::{World, backend, endpoint, full, machine, says, wait_until};
use http::{Response, StatusCode};
use roost_edge::limits;
use roost_model::id::MachineId;
use roost_model::machine::{SessionKey, StaticFolder};
use roost_proto::traffic::{AppTraffic, Endpoint, MachineFiles, OpenFileError, Opening};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Machines whose files are in a folder each, named by the machine.
#[derive(Debug)]
struct Folders(PathBuf);

impl MachineFiles for Folders {
    fn open(&self, machine_id: MachineId, path: String) -> Opening {
        let file = self.0.join(machine_id.as_str()).join(&path[1..]);
        Box::pin(async move {
            if file.ends_with("broken") {
                return Err(OpenFileError("the disk is gone".to_owned()));
            }
            Ok(File::open(file).ok())
        })
    }
}

/// Machines whose files take as long to open as there is somebody who holds them up.
#[derive(Debug, Clone, Default)]
struct Slow {
    begun: Arc<AtomicUsize>,
    go_on: CancellationToken,
}

impl MachineFiles for Slow {
    fn open(&self, _: MachineId, _: String) -> Opening {
        let slow = self.clone();
        Box::pin(async move {
            slow.begun.fetch_add(1, Ordering::SeqCst);
            slow.go_on.cancelled().await;
            Ok(None)
        })
    }
}

/// An edge that looks for files there.
async fn world(dir: &Path) -> World {
    let files = Folders(dir.to_owned());
    World::with(|config| config.files = Some(Arc::new(files))).await
}

/// Puts a file into a machine.
fn put(dir: &Path, number: u8, path: &str, content: impl AsRef<[u8]>) {
    let path = dir.join(machine(number).as_str()).join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn with_statics(mut endpoint: Endpoint) -> Endpoint {
    let folder = |prefix, index| StaticFolder::new("/srv", prefix, index).unwrap();
    endpoint.statics = [folder("/static", None), folder("/docs", Some("index.html"))].into();
    endpoint
}

async fn get(world: &World, path: &str) -> (StatusCode, String) {
    let response = world.client().get(world.url(path)).send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_file_of_a_service_that_compresses_is_compressed_and_parts_of_it_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path()).await;
    let text = "all alike ".repeat(10_000);
    put(dir.path(), 1, "srv/a.css", &text);
    let app = says(&world.tasks, "app").await;
    let mut machine = with_statics(endpoint(1, app));
    for port in &mut Arc::make_mut(&mut machine.service).ports {
        port.http.compress = true;
    }
    world.publish(vec![machine]);
    let url = world.url("/static/a.css");
    let request = || world.client().get(&url).header("accept-encoding", "zstd");
    let answer = request().send().await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "zstd");
    let tag = answer.headers()["etag"].clone();
    assert!(tag.to_str().unwrap().starts_with("W/"), "{tag:?}");
    let sent = answer.bytes().await.unwrap();
    assert_eq!(zstd::decode_all(&*sent).unwrap(), text.as_bytes());
    let again = request().header("if-none-match", tag).send().await;
    assert_eq!(again.unwrap().status(), StatusCode::NOT_MODIFIED);
    let part = request().header("range", "bytes=0-8").send().await.unwrap();
    assert!(!part.headers().contains_key("content-encoding"));
    assert_eq!(part.text().await.unwrap(), "all alike");
}

#[tokio::test]
async fn a_file_is_served_without_the_app_and_what_is_none_is_the_apps() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path()).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let app = backend(&world.tasks, {
        let asked = asked.clone();
        move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            async { Response::new(full("app")) }
        }
    })
    .await;
    put(dir.path(), 1, "srv/a b.css", "body {}");
    put(dir.path(), 1, "srv/index.html", "<p>");
    put(dir.path(), 1, "srv/broken", "");
    put(dir.path(), 1, "srv/empty.txt", "");
    world.publish(vec![with_statics(endpoint(1, app))]);
    for (path, content_type, content) in [
        (
            "/static/a%20b.css?v=1",
            "text/css; charset=utf-8",
            "body {}",
        ),
        ("/docs/", "text/html; charset=utf-8", "<p>"),
        ("/static/empty.txt", "text/plain; charset=utf-8", ""),
    ] {
        for url in [world.url(path), world.tls_url(path)] {
            let response = world.client().get(url).send().await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
            let headers = response.headers().clone();
            assert_eq!(headers["content-type"], content_type);
            assert_eq!(headers["content-length"], content.len().to_string());
            assert!(headers.contains_key("etag") && headers.contains_key("last-modified"));
            assert!(headers.contains_key("fly-request-id"));
            assert_eq!(response.text().await.unwrap(), content, "{path}");
        }
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "the app was not asked");
    let (status, page) = get(&world, "/static/broken").await;
    assert_eq!(status, 502);
    assert!(page.contains("code static-file"), "{page}");
    let paths = [
        "/static/none",
        "/static/",
        "/static/%2e%2e/srv/a",
        "/staticx",
        "/",
    ];
    for path in paths {
        assert_eq!(
            get(&world, path).await,
            (StatusCode::OK, "app".into()),
            "{path}"
        );
    }
    let post = world.client().post(world.url("/static/a%20b.css"));
    assert_eq!(post.send().await.unwrap().text().await.unwrap(), "app");
    assert_eq!(asked.load(Ordering::SeqCst), paths.len() + 1);
}

#[tokio::test]
async fn conditions_ranges_and_head_are_obeyed() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path()).await;
    let app = says(&world.tasks, "app").await;
    put(dir.path(), 1, "srv/digits", "0123456789");
    world.publish(vec![with_statics(endpoint(1, app))]);
    let client = world.client();
    let url = world.url("/static/digits");
    let first = client.get(&url).send().await.unwrap();
    let headers = first.headers().clone();
    for (name, of) in [
        ("if-none-match", "etag"),
        ("if-modified-since", "last-modified"),
    ] {
        let again = client.get(&url).header(name, &headers[of]);
        let again = again.send().await.unwrap();
        assert_eq!(again.status(), 304, "{name}");
        assert_eq!(again.headers()["etag"], headers["etag"]);
        assert_eq!(again.text().await.unwrap(), "");
    }
    for (range, status, part, content) in [
        ("bytes=2-4", 206, "bytes 2-4/10", "234"),
        ("bytes=-2", 206, "bytes 8-9/10", "89"),
        ("bytes=10-", 416, "bytes */10", ""),
    ] {
        let answer = client
            .get(&url)
            .header("range", range)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), status, "{range}");
        assert_eq!(answer.headers()["content-range"], part);
        assert_eq!(answer.text().await.unwrap(), content);
    }
    let other = client
        .get(&url)
        .header("range", "bytes=2-4")
        .header("if-range", "\"other\"");
    assert_eq!(
        other.send().await.unwrap().text().await.unwrap(),
        "0123456789"
    );
    let head = client.head(&url).send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), &head.headers()["content-length"]),
        (200, &"10".parse().unwrap())
    );
    assert_eq!(head.text().await.unwrap(), "");
    // A file that is another one has another tag.
    put(dir.path(), 1, "srv/digits", "9876543210-");
    let changed = client.get(&url).header("if-none-match", &headers["etag"]);
    assert_eq!(
        changed.send().await.unwrap().text().await.unwrap(),
        "9876543210-"
    );
}

#[tokio::test]
async fn a_large_file_streams_and_its_machine_is_busy_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path()).await;
    let app = says(&world.tasks, "app").await;
    // More than buffers and sockets hold.
    let content = vec![7; 48 << 20];
    put(dir.path(), 1, "srv/large", &content);
    world.publish(vec![with_statics(endpoint(1, app))]);
    let mut response = world
        .client()
        .get(world.url("/static/large"))
        .send()
        .await
        .unwrap();
    let gauge = world.edge.gauge();
    assert_eq!(gauge.in_flight(&machine(1)), 1);
    let mut read = 0;
    while let Some(piece) = response.chunk().await.unwrap() {
        assert!(piece.iter().all(|byte| *byte == 7));
        read += piece.len();
    }
    assert_eq!(read, content.len());
    crate::world::wait_until("it is idle", || gauge.in_flight(&machine(1)) == 0).await;
}

#[tokio::test]
async fn a_file_that_becomes_shorter_breaks_off_and_looks_not_complete() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path()).await;
    let app = says(&world.tasks, "app").await;
    put(dir.path(), 1, "srv/large", vec![7; 48 << 20]);
    world.publish(vec![with_statics(endpoint(1, app))]);
    let mut response = world
        .client()
        .get(world.url("/static/large"))
        .send()
        .await
        .unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    put(dir.path(), 1, "srv/large", "");
    let end = loop {
        match response.chunk().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test]
async fn a_replayed_request_gets_the_files_of_the_machine_that_it_goes_to() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path()).await;
    let from = backend(&world.tasks, |_| async {
        let builder = Response::builder().header("fly-replay", "app=other");
        builder.body(full("")).unwrap()
    })
    .await;
    let to = says(&world.tasks, "app").await;
    put(dir.path(), 2, "srv/a.txt", "of the second");
    let app = |name: &str, endpoint| {
        let name = roost_model::name::AppName::parse(name).unwrap();
        (
            name,
            AppTraffic {
                endpoints: vec![endpoint],
            },
        )
    };
    let apps = [
        app("app", endpoint(1, from)),
        app("other", with_statics(endpoint(2, to))),
    ];
    world.table.send_replace(Arc::new(apps.into()));
    world.edge.gauge().in_flight(&machine(0));
    let expected = (StatusCode::OK, "of the second".to_owned());
    assert_eq!(get(&world, "/static/a.txt").await, expected);
}

#[tokio::test]
async fn the_files_of_a_machine_of_another_node_come_from_that_nodes_edge() {
    let (dir, cluster) = (tempfile::tempdir().unwrap(), Cluster::new());
    let near = cluster.edge(1).await;
    let files = Folders(dir.path().to_owned());
    let far = cluster.edge_with(2, |config| config.files = Some(Arc::new(files)));
    let far = far.await;
    put(dir.path(), 1, "srv/a.txt", "far away");
    put(dir.path(), 1, "srv/broken", "");
    let mut one = with_statics(endpoint(1, says(&far.tasks, "app").await));
    for port in &mut Arc::make_mut(&mut one.service).ports {
        port.http.session_affinity = Some(Box::new(SessionKey::Cookie("sid".into())));
    }
    far.publish(vec![one.clone()]);
    near.publish(vec![at(2, peers_of(&far), one)]);
    for (path, content) in [("/static/a.txt", "far away"), ("/static/none", "app")] {
        let expected = (StatusCode::OK, content.to_owned());
        assert_eq!(get(&near, path).await, expected, "{path}");
    }
    let head = near.client().head(near.url("/static/a.txt"));
    let head = head.send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "8");
    assert!(!head.headers().contains_key("roost-relay"), "{head:?}");
    assert!(!head.headers().contains_key("set-cookie"), "{head:?}");
    let apps = near.client().get(near.url("/static/none"));
    let apps = apps.send().await.unwrap();
    assert!(apps.headers().contains_key("set-cookie"), "{apps:?}");
    assert_eq!(get(&near, "/static/broken").await.0, 502);
}

#[tokio::test]
async fn an_opening_has_its_place_until_it_ends_even_if_nobody_waits_for_it() {
    let slow = Slow::default();
    let files = Arc::new(slow.clone());
    let world = World::with(|config| config.files = Some(files)).await;
    let app = says(&world.tasks, "app").await;
    world.publish(vec![with_statics(endpoint(1, app))]);
    let mut requests = JoinSet::new();
    for _ in 0..limits::FILE_OPENINGS_MAX {
        let request = world.client().get(world.url("/static/a"));
        requests.spawn(request.send());
    }
    let begun = || slow.begun.load(Ordering::SeqCst);
    wait_until("all places are taken", || {
        begun() == limits::FILE_OPENINGS_MAX
    })
    .await;
    let gauge = world.edge.gauge();
    requests.shutdown().await;
    wait_until("nobody waits", || gauge.in_flight(&machine(1)) == 0).await;
    let waits = get(&world, "/static/a").await;
    assert_eq!(waits.0, StatusCode::BAD_GATEWAY, "{}", waits.1);
    assert_eq!(begun(), limits::FILE_OPENINGS_MAX);
    slow.go_on.cancel();
    assert_eq!(get(&world, "/static/a").await.1, "app");
}
