//! Custom host names: whose they are, and what is answered before the app is asked.

use crate::world::{World, endpoint, says};
use roost_model::host_name::HostName;
use roost_model::name::AppName;
use roost_proto::names::{ChallengeAnswer, Host, NameTable};
use std::sync::Arc;
use tokio::sync::watch;

fn table(hosts: &[(&str, &str)]) -> NameTable {
    let host = |(name, app): &(&str, &str)| {
        let host = Host {
            app: AppName::parse(app).unwrap(),
            certificate: None,
        };
        (HostName::parse(name).unwrap(), host)
    };
    NameTable {
        hosts: hosts.iter().map(host).collect(),
        ..NameTable::default()
    }
}

async fn ask(world: &World, host: &str, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    world.raw(request).await
}

#[tokio::test]
async fn a_custom_host_name_leads_to_its_app_and_stays_when_the_control_plane_is_gone() {
    let names = table(&[
        ("www.shop.test", "app"),
        ("*.shop.test", "app"),
        ("no.shop.test", "gone"),
    ]);
    let (sender, feed) = watch::channel(Arc::new(names));
    let world = World::with(|config| config.names = feed).await;
    let address = says(&world.tasks, "the shop").await;
    world.publish(vec![endpoint(1, address)]);
    for host in ["www.shop.test", "WWW.Shop.Test.:80", "any.shop.test"] {
        assert!(ask(&world, host, "/").await.ends_with("the shop"), "{host}");
    }
    for host in ["shop.test", "a.b.shop.test", "no.shop.test", ".shop.test"] {
        let answer = ask(&world, host, "/").await;
        assert!(!answer.ends_with("the shop"), "{host}: {answer}");
    }
    drop(sender);
    assert!(
        ask(&world, "www.shop.test", "/")
            .await
            .ends_with("the shop")
    );
}

#[tokio::test]
async fn a_validation_is_answered_for_its_own_host_and_token_only() {
    let (sender, feed) = watch::channel(Arc::default());
    let world = World::with(|config| config.names = feed).await;
    let mut names = table(&[("www.shop.test", "app")]);
    let answer = ChallengeAnswer::Http {
        token: "token".into(),
        key_authorization: "token.thumb".into(),
    };
    let host = HostName::parse("www.shop.test").unwrap();
    names.challenges.insert(host, answer);
    sender.send_replace(Arc::new(names));
    let path = "/.well-known/acme-challenge/token";
    let answer = ask(&world, "www.shop.test", path).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\ntoken.thumb"),
        "{answer}"
    );
    for (host, path) in [
        ("www.shop.test", "/.well-known/acme-challenge/other"),
        ("www.shop.test", "/.well-known/acme-challenge/"),
        ("app.localhost", path),
    ] {
        let answer = ask(&world, host, path).await;
        assert!(!answer.contains("thumb"), "{host}{path}: {answer}");
    }
}
