//! Requests that ask for machines or regions by header.

use crate::world::{World, backend, endpoint, full, machine, says, with_health};
use http::Response;
use roost_model::name::RegionCode;
use roost_proto::traffic::{Endpoint, EndpointHealth};

/// Answers with its name, and which machine it heard could not be used.
async fn named(world: &World, name: &'static str) -> std::net::SocketAddr {
    backend(&world.tasks, move |request| async move {
        let unavailable = request.headers().get("fly-preferred-instance-unavailable");
        let unavailable = unavailable.map_or("", |id| id.to_str().unwrap());
        Response::new(full(format!("{name} {unavailable}").trim_end().to_owned()))
    })
    .await
}

fn in_region(region: &str, mut endpoint: Endpoint) -> Endpoint {
    endpoint.region = RegionCode::parse(region).unwrap();
    endpoint
}

async fn three_machines() -> World {
    let world = World::new().await;
    world.publish(vec![
        endpoint(1, named(&world, "a").await),
        in_region("fra", endpoint(2, named(&world, "b").await)),
        in_region("ams", endpoint(3, named(&world, "c").await)),
    ]);
    world
}

async fn ask(world: &World, lines: &[(&str, &str)]) -> (u16, String) {
    let mut request = world.client().get(world.url("/"));
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_request_goes_to_the_first_of_its_regions_that_has_a_machine() {
    let world = three_machines().await;
    for (list, answer) in [
        ("fra", "b"),
        ("nrt,ams,fra", "c"),
        ("nrt", "a"),
        ("any", "a"),
    ] {
        for name in ["fly-prefer-region", "roost-prefer-region"] {
            assert_eq!(
                ask(&world, &[(name, list)]).await,
                (200, answer.into()),
                "{name}: {list}"
            );
        }
    }
    assert_eq!(ask(&world, &[("fly-force-region", "ams")]).await.1, "c");
    let (status, page) = ask(&world, &[("fly-force-region", "nrt")]).await;
    assert!(
        status == 503 && page.contains("no-wanted-machine"),
        "{page}"
    );
}

#[tokio::test]
async fn a_name_for_several_regions_is_any_of_them() {
    let world = three_machines().await;
    for list in ["eu", "EU", "apac,eu", "us, eu ,any"] {
        let (status, answer) = ask(&world, &[("fly-force-region", list)]).await;
        assert_eq!(status, 200, "{list}");
        assert!(["b", "c"].contains(&answer.as_str()), "{list}: {answer}");
    }
    assert_eq!(ask(&world, &[("fly-prefer-region", "sa")]).await.1, "a");
    assert_eq!(ask(&world, &[("fly-force-region", "na")]).await.0, 503);
}

#[tokio::test]
async fn a_preferred_machine_gets_the_request_or_the_app_hears_that_it_could_not() {
    let world = three_machines().await;
    let (second, nobody) = (machine(2), machine(9));
    assert_eq!(
        ask(&world, &[("fly-prefer-instance-id", second.as_str())])
            .await
            .1,
        "b"
    );
    let (status, text) = ask(&world, &[("roost-prefer-instance-id", nobody.as_str())]).await;
    assert_eq!((status, text), (200, format!("a {nobody}")));
}

#[tokio::test]
async fn a_forced_machine_is_waited_for_and_nobody_else_answers() {
    let world = World::new().await;
    let (a, b) = (says(&world.tasks, "a").await, says(&world.tasks, "b").await);
    let unhealthy = with_health(endpoint(2, b), EndpointHealth::Failing("not yet".into()));
    world.publish(vec![endpoint(1, a), unhealthy]);
    let second = machine(2);
    let forced = [("fly-force-instance-id", second.as_str())];
    let mut waiting = Box::pin(ask(&world, &forced));
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), &mut waiting).await;
    assert!(early.is_err());
    world.publish(vec![endpoint(1, a), endpoint(2, b)]);
    assert_eq!(waiting.await, (200, "b".into()));
    let (status, page) = ask(&world, &[("fly-force-instance-id", machine(9).as_str())]).await;
    assert!(
        status == 503 && page.contains("no-wanted-machine"),
        "{page}"
    );
}
