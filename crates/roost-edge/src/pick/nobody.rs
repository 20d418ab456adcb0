//! What a client is told when no machine gets its request.

use super::{Asked, Tried, has_passing};
use crate::pages::Page;
use crate::shared::Shared;
use crate::table::PortRoute;
use crate::wake;
use http::StatusCode;
use roost_proto::traffic::EndpointHealth;

pub(super) fn too_late(shared: &Shared, asked: Asked<'_>) -> Page {
    let app = shared.router.routes().app(asked.app).cloned();
    let port = app.as_ref().and_then(|app| asked.port(app));
    match port {
        Some(port) if has_passing(port, asked) => {
            let title = "all machines of this app are at their hard limits";
            Page::new(StatusCode::SERVICE_UNAVAILABLE, "hard-limit", title)
                .detail("the request waited until its time was over")
                .retry_after(1)
                .next("more machines, or a higher `hard_limit`, make room")
        }
        Some(port) if wake::is_one_waking(port, |one| asked.wants.allows_at_all(one)) => {
            let limit = shared.config.timeouts.wake.as_secs_f32();
            let title = "a machine of this app was woken and is not ready yet";
            let page = Page::new(StatusCode::SERVICE_UNAVAILABLE, "wake-timeout", title)
                .detail(format!("the request waited for it for {limit} s"))
                .retry_after(5);
            about_machines(page, asked, Some(port))
        }
        port => nothing_runs(asked, port),
    }
}

/// None of those that sleep and would do could be woken.
pub(super) fn not_woken(asked: Asked<'_>, why: Vec<String>) -> Page {
    let title = "the machines of this app sleep and could not be woken";
    let page = Page::new(StatusCode::SERVICE_UNAVAILABLE, "wake-failed", title).retry_after(5);
    let page = why.into_iter().take(10).fold(page, Page::detail);
    about_machines(page, asked, None)
}

pub(super) fn queue_full(asked: Asked<'_>) -> Page {
    let title = "too many requests wait for a machine of this app";
    Page::new(StatusCode::SERVICE_UNAVAILABLE, "queue-full", title)
        .retry_after(5)
        .next(format!(
            "`roost status -a {}` shows the machines",
            asked.app
        ))
}

pub(super) fn nothing_runs(asked: Asked<'_>, port: Option<&PortRoute>) -> Page {
    let all = port.map(|port| port.targets.as_slice()).unwrap_or_default();
    let wanted: Vec<_> = all
        .iter()
        .filter(|target| asked.wants.allows_at_all(target))
        .collect();
    let (code, title) = match (all.is_empty(), wanted.is_empty()) {
        (true, _) => ("no-machines", "this app has no machine that takes traffic"),
        (false, true) => (
            "no-wanted-machine",
            "this app has no machine as the request asks for",
        ),
        (false, false) => (
            "no-healthy-machine",
            "no machine of this app can answer now",
        ),
    };
    let page = Page::new(StatusCode::SERVICE_UNAVAILABLE, code, title).retry_after(5);
    about_machines(page, asked, port)
}

/// Adds what each machine that would do is doing, and where to read more.
fn about_machines(mut page: Page, asked: Asked<'_>, port: Option<&PortRoute>) -> Page {
    let all = port.map(|port| port.targets.as_slice()).unwrap_or_default();
    let wanted = all
        .iter()
        .filter(|target| asked.wants.allows_at_all(target));
    for target in wanted.take(10) {
        let state = match &target.endpoint.health {
            EndpointHealth::Passing => "healthy".to_owned(),
            EndpointHealth::Failing(why) => format!("runs, but is not healthy: {why}"),
            EndpointHealth::Draining => "finishes what it has and takes nothing new".to_owned(),
            EndpointHealth::Asleep(state) => format!("sleeps: {state}"),
            EndpointHealth::Down(state) => format!("does not run: {state}"),
        };
        page = page.detail(format!("machine {} {state}", target.endpoint.machine_id));
    }
    page.next(format!(
        "`roost status -a {}` shows the machines and their checks",
        asked.app
    ))
    .next(format!(
        "`roost logs -a {}` shows what they said",
        asked.app
    ))
}

pub(super) fn unreachable(asked: Asked<'_>, tried: &Tried) -> Page {
    let page = Page::new(
        StatusCode::BAD_GATEWAY,
        "machine-unreachable",
        "no machine of this app could be reached",
    );
    let page = match &tried.last {
        Some(why) => page.detail(why.clone()),
        None => page,
    };
    page.retry_after(1)
        .next(
            "the app has to listen on 0.0.0.0 or [::], at the internal port that its service names",
        )
        .next(format!(
            "`roost status -a {}` shows the machines and their checks",
            asked.app
        ))
}
