//! Phase 4, pick: which machine. Round robin over the healthy ones; when none
//! is healthy but one may soon be, the request waits a little.

use crate::exchange::Shared;
use crate::gauge::InFlight;
use crate::limits;
use crate::pages::Page;
use crate::table::{AppRoute, Target};
use http::StatusCode;
use roost_model::machine::MachineState;
use roost_proto::traffic::EndpointHealth;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::{Instant, sleep, timeout_at};

/// A machine that has been counted as busy with this request.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) target: Arc<Target>,
    pub(crate) in_flight: InFlight,
}

/// Where the request has been refused so far.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    addresses: Vec<SocketAddr>,
    /// Until when the same endpoints may be tried again.
    again_until: Option<Instant>,
    last: Option<String>,
}

impl Tried {
    /// Notes an endpoint that could not be reached, and why.
    pub(crate) fn refused(&mut self, shared: &Shared, address: SocketAddr, why: String) {
        self.addresses.push(address);
        self.last = Some(why);
        self.again_until
            .get_or_insert_with(|| Instant::now() + shared.config.timeouts.connect);
    }
}

/// Picks a machine of the app.
pub(crate) async fn pick(
    shared: &Shared,
    app_name: &str,
    tried: &mut Tried,
) -> Result<Picked, Page> {
    let deadline = Instant::now() + shared.config.timeouts.healthy;
    let mut place = None;
    loop {
        let mut changes = shared.router.changes();
        let Some(app) = shared.router.routes().app(app_name).cloned() else {
            return Err(nothing_runs(app_name, None));
        };
        if let Some(picked) = choose(&app, &tried.addresses) {
            if shared.router.is_current(&app) {
                return Ok(picked);
            }
            continue;
        }
        if !app.passing.is_empty() {
            // All were tried: a machine that is being replaced is back, or gone from the table, in a moment.
            if tried
                .again_until
                .is_some_and(|until| Instant::now() < until)
            {
                sleep(limits::RETRY_PAUSE).await;
                tried.addresses.clear();
                continue;
            }
            return Err(unreachable(app_name, tried));
        }
        if !may_become_healthy(&app) {
            return Err(nothing_runs(app_name, Some(&app)));
        }
        if place.is_none() {
            let Ok(permit) = shared.waiters.try_acquire() else {
                return Err(nothing_runs(app_name, Some(&app)));
            };
            place = Some(permit);
        }
        match timeout_at(deadline, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(nothing_runs(app_name, Some(&app))),
        }
    }
}

fn choose(app: &AppRoute, tried: &[SocketAddr]) -> Option<Picked> {
    let count = app.passing.len();
    if count == 0 {
        return None;
    }
    let turn = app.next_turn();
    let candidates = (0..count).filter_map(|step| app.passing.get(turn.wrapping_add(step) % count));
    let target = candidates
        .into_iter()
        .find(|target| !tried.contains(&target.endpoint.address))?;
    Some(Picked {
        in_flight: InFlight::begin(&target.in_flight),
        target: target.clone(),
    })
}

fn may_become_healthy(app: &AppRoute) -> bool {
    app.targets
        .iter()
        .any(|target| match &target.endpoint.health {
            EndpointHealth::Failing(_) => true,
            EndpointHealth::Down(state) => {
                MachineState::parse(state) == Some(MachineState::Starting)
            }
            EndpointHealth::Passing | EndpointHealth::Draining => false,
        })
}

fn nothing_runs(app_name: &str, app: Option<&AppRoute>) -> Page {
    let targets = app.map(|app| app.targets.as_slice()).unwrap_or_default();
    let (code, title) = if targets.is_empty() {
        ("no-machines", "this app has no machine that takes traffic")
    } else {
        (
            "no-healthy-machine",
            "no machine of this app can answer now",
        )
    };
    let mut page = Page::new(StatusCode::SERVICE_UNAVAILABLE, code, title).retry_after(5);
    for target in targets.iter().take(10) {
        let state = match &target.endpoint.health {
            EndpointHealth::Passing => "healthy".to_owned(),
            EndpointHealth::Failing(why) => format!("runs, but is not healthy: {why}"),
            EndpointHealth::Draining => "finishes what it has and takes nothing new".to_owned(),
            EndpointHealth::Down(state) => format!("does not run: {state}"),
        };
        page = page.detail(format!("machine {} {state}", target.endpoint.machine_id));
    }
    page.next(format!(
        "`roost status -a {app_name}` shows the machines and their checks"
    ))
    .next(format!("`roost logs -a {app_name}` shows what they said"))
}

fn unreachable(app_name: &str, tried: &Tried) -> Page {
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
            "`roost status -a {app_name}` shows the machines and their checks"
        ))
}
