//! Dedicated addresses: who gets them, what the edge hears, and which ports they make free.

use super::Platform;
use crate::state::ApiParts;
use crate::testing;
use roost_model::machine::Protocol;
use roost_model::name::AppName;
use roost_proto::names::NameTable;
use roost_proto::traffic::{PortStatus, PortTable};
use roost_store::addresses::AddressKind;
use roost_testkit::sim_worker::SimWorker;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// A platform with the apps `one` and `two` and these addresses to give.
async fn start(dir: &Path, pool: &[&str]) -> (Platform, watch::Receiver<Arc<NameTable>>) {
    let mut parts: ApiParts = testing::parts(dir, vec![]).await;
    parts.node.edge_addresses = pool.iter().map(|text| text.parse().unwrap()).collect();
    let table = parts.host_names.table.subscribe();
    let platform = Platform::start_of(parts, Arc::new(SimWorker::new())).await;
    platform.state.resume().await.unwrap();
    for app in ["one", "two"] {
        let body = json!({"app_name": app});
        assert_eq!(platform.call("POST", "/v1/apps", body).await.0, 201);
    }
    (platform, table)
}

impl Platform {
    async fn allocate(&self, app: &str, kind: &str) -> (u16, Value) {
        let path = format!("/v1/apps/{app}/ip_assignments");
        let (status, body) = self.call("POST", &path, json!({"type": kind})).await;
        (status.as_u16(), body)
    }

    async fn release(&self, app: &str, address: &str) -> (u16, Value) {
        let path = format!("/v1/apps/{app}/ip_assignments/{address}");
        let (status, body) = self.call("DELETE", &path, Value::Null).await;
        (status.as_u16(), body)
    }

    /// Makes a machine at the raw port 5432.
    async fn machine(&self, app: &str) -> (u16, Value) {
        let service = json!({"internal_port": 5432, "ports": [{"port": 5432}]});
        let body = json!({"config": {"image": "hello", "services": [service]}});
        let path = format!("/v1/apps/{app}/machines");
        let (status, body) = self.call("POST", &path, body).await;
        (status.as_u16(), body)
    }

    async fn addresses(&self, app: &str) -> Vec<String> {
        let path = format!("/v1/apps/{app}/ip_assignments");
        let (status, body) = self.call("GET", &path, Value::Null).await;
        assert_eq!(status, 200, "{body}");
        let ips = body["ips"].as_array().unwrap().iter();
        ips.map(|own| own["ip"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// What the edge knows.
fn published(table: &watch::Receiver<Arc<NameTable>>) -> Vec<(String, AppName)> {
    let known = table.borrow().addresses.clone();
    known
        .into_iter()
        .map(|(ip, app): (IpAddr, AppName)| (ip.to_string(), app))
        .collect()
}

#[tokio::test]
async fn addresses_are_given_while_there_are_some_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (platform, table) = start(dir.path(), &["192.0.2.1", "2001:db8::1", "192.0.2.2"]).await;
    let name = |text: &str| AppName::parse(text).unwrap();
    let (status, own) = platform.allocate("one", "v4").await;
    assert_eq!(status, 201, "{own}");
    assert_eq!(
        (&own["ip"], &own["type"]),
        (&json!("192.0.2.1"), &json!("v4"))
    );
    assert_eq!(
        (&own["region"], &own["shared"]),
        (&json!("local"), &json!(false))
    );
    assert_eq!(published(&table), [("192.0.2.1".into(), name("one"))]);
    assert_eq!(platform.allocate("two", "v6").await.1["ip"], "2001:db8::1");
    assert_eq!(platform.allocate("two", "v4").await.1["ip"], "192.0.2.2");
    for (kind, says) in [("v4", "all 2 v4"), ("v6", "all 1 v6")] {
        let (status, error) = platform.allocate("one", kind).await;
        assert_eq!((status, &error["code"]), (409, &json!("no-free-address")));
        assert!(error["error"].as_str().unwrap().contains(says), "{error}");
    }
    // Another app's address is not one's own to give back.
    let (status, error) = platform.release("one", "192.0.2.2").await;
    assert_eq!((status, &error["code"]), (404, &json!("address-not-found")));
    assert_eq!(
        platform.addresses("two").await,
        ["2001:db8::1", "192.0.2.2"]
    );
    assert_eq!(platform.release("two", "2001:DB8:0::1").await.0, 204);
    assert_eq!(platform.addresses("two").await, ["192.0.2.2"]);
    assert_eq!(platform.allocate("one", "v6").await.0, 201);

    // An app that is destroyed leaves its addresses.
    let (status, body) = platform.call("DELETE", "/v1/apps/one", Value::Null).await;
    assert!(status.is_success(), "{body}");
    let mut gone = table.clone();
    let gone = gone.wait_for(|table| table.addresses.len() == 1);
    tokio::time::timeout(super::platform::PATIENCE, gone)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(published(&table), [("192.0.2.2".into(), name("two"))]);
    assert_eq!(platform.allocate("two", "v4").await.1["ip"], "192.0.2.1");
    platform.stop().await;
}

#[tokio::test]
async fn a_private_address_is_of_the_nodes_network_and_stays_the_apps() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts: ApiParts = testing::parts(dir.path(), vec![]).await;
    parts.node.private_addresses = Some("fdaa:1:0:0:1::".parse().unwrap());
    let platform = Platform::start_of(parts, Arc::new(SimWorker::new())).await;
    for app in ["one", "two"] {
        let body = json!({"app_name": app});
        assert_eq!(platform.call("POST", "/v1/apps", body).await.0, 201);
    }
    let (status, own) = platform.allocate("one", "private_v6").await;
    assert_eq!(status, 201, "{own}");
    assert_eq!(
        (&own["ip"], &own["type"]),
        (&json!("fdaa:1::1:0:0:1"), &json!("private_v6"))
    );
    assert_eq!(
        platform.allocate("two", "private_v6").await.1["ip"],
        "fdaa:1::1:0:0:2"
    );
    assert_eq!(platform.addresses("one").await, ["fdaa:1::1:0:0:1"]);

    // There it has ports of streams that others have elsewhere, and none of datagrams.
    for (app, protocol, expected) in [
        ("one", "tcp", 201),
        ("one", "udp", 201),
        ("two", "tcp", 201),
        ("two", "udp", 409),
    ] {
        let port = json!({"port": 5432});
        let service = json!({"protocol": protocol, "internal_port": 5432, "ports": [port]});
        let body = json!({"config": {"image": "hello", "services": [service]}});
        let path = format!("/v1/apps/{app}/machines");
        let (status, made) = platform.call("POST", &path, body).await;
        assert_eq!(status, expected, "{app} {protocol}: {made}");
    }
    assert_eq!(platform.release("one", "fdaa:1::1:0:0:1").await.0, 204);
    assert_eq!(platform.addresses("two").await, ["fdaa:1::1:0:0:2"]);
    platform.stop().await;
}

#[tokio::test]
async fn what_is_no_address_or_no_app_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (platform, _table) = start(dir.path(), &[]).await;
    let code = |(status, body): (u16, Value)| (status, body["code"].as_str().unwrap().to_owned());
    let refused = |status, code: &str| (status, code.to_owned());
    let shared = platform.allocate("one", "shared_v4").await;
    assert_eq!(code(shared), refused(422, "invalid-request"));
    let (status, none) = platform.allocate("one", "v4").await;
    assert_eq!((status, &none["code"]), (409, &json!("no-free-address")));
    assert!(
        none["hint"].as_str().unwrap().contains("--edge-address"),
        "{none}"
    );
    let absent = platform.allocate("absent", "v4").await;
    assert_eq!(code(absent), refused(404, "app-not-found"));
    let garbled = platform.release("one", "192.0.2").await;
    assert_eq!(garbled.1["code"], "malformed-request");
    let never = platform.release("one", "192.0.2.1").await;
    assert_eq!(code(never), refused(404, "address-not-found"));
    platform.stop().await;
}

#[tokio::test]
async fn with_an_address_of_its_own_an_app_may_have_a_port_that_another_has() {
    let dir = tempfile::tempdir().unwrap();
    let (platform, _table) = start(dir.path(), &["192.0.2.1"]).await;
    assert_eq!(platform.machine("one").await.0, 201);
    let (status, error) = platform.machine("two").await;
    assert_eq!(
        (status, &error["code"]),
        (409, &json!("port-taken")),
        "{error}"
    );
    assert!(
        error["hint"]
            .as_str()
            .unwrap()
            .contains("roost ips allocate-v4"),
        "{error}"
    );
    assert_eq!(platform.allocate("two", "v4").await.0, 201);
    let (status, made) = platform.machine("two").await;
    assert_eq!(status, 201, "{made}");
    platform.stop().await;
}

#[tokio::test]
async fn an_app_with_an_address_of_its_own_keeps_from_others_only_a_port_that_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let (platform, _table) = start(dir.path(), &["192.0.2.1"]).await;
    assert_eq!(platform.allocate("one", "v4").await.0, 201);
    assert_eq!(platform.machine("one").await.0, 201);
    let status = |address: Option<&str>| PortStatus {
        address: address.map(|text| text.parse().unwrap()),
        protocol: Protocol::Tcp,
        port: 5432,
        problem: None,
    };
    let ports = |statuses| {
        Arc::new(PortTable::from([(
            AppName::parse("one").unwrap(),
            statuses,
        )]))
    };
    let (edge, feed) = watch::channel(ports(vec![status(Some("192.0.2.1"))]));
    platform.state.show_ports(feed);
    let (code, made) = platform.machine("two").await;
    assert_eq!(code, 201, "{made}");
    edge.send_replace(ports(vec![status(None)]));
    let (code, error) = platform.machine("two").await;
    assert_eq!((code, &error["code"]), (409, &json!("port-taken")));
    platform.stop().await;
}

#[tokio::test]
async fn a_request_for_an_address_that_is_repeated_gets_one_and_an_app_has_only_so_many() {
    let dir = tempfile::tempdir().unwrap();
    let pool: Vec<String> = (1..=17).map(|n| format!("192.0.2.{n}")).collect();
    let pool: Vec<&str> = pool.iter().map(String::as_str).collect();
    let (platform, _table) = start(dir.path(), &pool).await;
    let path = "/v1/apps/one/ip_assignments";
    for _ in 0..2 {
        let body = json!({"type": "v4"});
        let (status, own) = platform.call_with_key(path, "key", body).await;
        assert_eq!((status, &own["ip"]), (201, &json!("192.0.2.1")));
    }
    let (status, error) = platform
        .call_with_key(path, "key", json!({"type": "v6"}))
        .await;
    assert_eq!(
        (status, &error["code"]),
        (409, &json!("idempotency-mismatch"))
    );
    for _ in 2..=16 {
        assert_eq!(platform.allocate("one", "v4").await.0, 201);
    }
    let (status, error) = platform.allocate("one", "v4").await;
    assert_eq!((status, &error["code"]), (422, &json!("too-many")));
    assert_eq!(platform.allocate("two", "v4").await.0, 201);
    platform.stop().await;
}

#[tokio::test]
async fn an_address_that_the_platform_no_longer_gives_is_nobodys() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts: ApiParts = testing::parts(dir.path(), vec![]).await;
    let pool = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
    let (app, now) = (AppName::parse("one").unwrap(), parts.clock.now());
    let store = &parts.store;
    store.create_app("app_1", &app, now, None).await.unwrap();
    for _ in &pool {
        let taken = store.take_address("app_1", AddressKind::V4, pool, now, None);
        taken.await.unwrap().unwrap();
    }
    parts.node.edge_addresses = vec![pool[1]];
    let table = parts.host_names.table.subscribe();
    let platform = Platform::start_of(parts, Arc::new(SimWorker::new())).await;
    platform.state.resume().await.unwrap();
    assert_eq!(published(&table), [("192.0.2.2".into(), app)]);
    // It is the app's again if the platform gives it again, unless it is released.
    let path = "/v1/apps/one/ip_assignments";
    let (_, list) = platform.call("GET", path, Value::Null).await;
    let states = [0, 1].map(|n| (&list["ips"][n]["ip"], &list["ips"][n]["state"]));
    assert_eq!(
        states,
        [
            (&json!("192.0.2.1"), &json!("not-served")),
            (&json!("192.0.2.2"), &json!("active"))
        ]
    );
    assert_eq!(platform.release("one", "192.0.2.1").await.0, 204);
    platform.stop().await;
}
