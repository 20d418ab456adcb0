//! Phase 4, pick: which machine. [`crate::choose`] decides; this waits, when no
//! machine takes the request but one may soon.
//!
//! Requests wait in a queue of their service, first come, first served, until a
//! deadline; a machine that sleeps is woken for them ([`crate::wake`]). Beside the queue wait those that ask for certain machines and
//! those that all machines have refused: they must not hold up the others.

mod nobody;

use crate::affinity::Affinity;
use crate::choose::{Choice, choose};
use crate::connect::ConnectError;
use crate::eject::Outcome;
use crate::gauge::InFlight;
use crate::limits;
use crate::load::{Queue, Waiting};
use crate::looked::Looked;
use crate::pages::Page;
use crate::relay::wire::Elsewhere;
use crate::shared::Shared;
use crate::split::Side;
use crate::table::{AppRoute, PortRoute, Target};
use crate::wake::{self, Prospect, Stages};
use crate::wants::{Group, Wants};
use nobody::{not_woken, nothing_runs, queue_full, too_late, unreachable};
use roost_model::id::MachineId;
use roost_model::machine::{MachineState, Protocol};
use roost_proto::traffic::{Endpoint, EndpointHealth};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::{Duration, Instant, sleep, sleep_until, timeout_at};

/// A machine that has been counted as busy with this request.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) target: Arc<Target>,
    pub(crate) in_flight: InFlight,
}

/// Where the request has been refused so far.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    places: Vec<(MachineId, SocketAddr)>,
    /// When it was refused first.
    refused_at: Option<Instant>,
    /// For how long after that the same endpoints may be tried again.
    again_for: Duration,
    /// Since when the request waits for a machine.
    since: Option<Instant>,
    /// Whether one was woken meanwhile: that takes longer.
    is_waking: bool,
    /// The stages of the wake that it waited for.
    pub(crate) woken: Option<Stages>,
    last: Option<String>,
    /// How often the edge of another node has said "elsewhere".
    n_elsewhere: usize,
    /// How often all that would do have been tried.
    n_passes: usize,
    /// The most that the request may wait.
    limit: Option<Duration>,
    /// What the last look found.
    pub(crate) looked: Looked,
}

impl Tried {
    /// Nowhere yet; of a request that is followed, each look is noted.
    pub(crate) fn new(is_followed: bool) -> Self {
        let mut tried = Self::default();
        tried.looked.is_followed = is_followed;
        tried
    }

    /// Notes an endpoint that could not be reached, and why.
    pub(crate) fn refused(&mut self, shared: &Shared, endpoint: &Endpoint, why: String) {
        self.pass_over(endpoint);
        self.last = Some(why);
        self.refused_at.get_or_insert_with(Instant::now);
        self.again_for = self.again_for.max(shared.config.timeouts.connect);
    }

    /// Notes one to which there is no connection, and why. One that has not taken it in time is
    /// there, but busy: it is given longer.
    pub(crate) fn unreached(&mut self, shared: &Shared, endpoint: &Endpoint, error: &ConnectError) {
        self.refused(shared, endpoint, error.to_string());
        if matches!(error, ConnectError::Timeout { .. }) {
            self.again_for = self.again_for.max(shared.config.timeouts.machine / 2);
        }
    }

    /// Notes a machine whose node would not take the request, and why. `false` when there
    /// were too many of them.
    pub(crate) fn elsewhere(
        &mut self,
        shared: &Shared,
        target: &Target,
        elsewhere: &Elsewhere,
    ) -> bool {
        self.n_elsewhere += 1;
        target.load.was_not_taken();
        if elsewhere.reason.may_pass() {
            self.pass_over(&target.endpoint);
        } else {
            self.refused(shared, &target.endpoint, elsewhere.to_string());
        }
        self.n_elsewhere < limits::RELAY_ELSEWHERE_MAX
    }

    fn pass_over(&mut self, endpoint: &Endpoint) {
        self.places
            .push((endpoint.machine_id.clone(), endpoint.address));
    }

    fn has(&self, endpoint: &Endpoint) -> bool {
        let mut places = self.places.iter();
        places.any(|(id, address)| *address == endpoint.address && *id == endpoint.machine_id)
    }

    /// How long the edge of another node may have the request wait: not while others may
    /// take it at once.
    pub(crate) fn patience(&self, shared: &Shared) -> Duration {
        let Some(since) = self.since.filter(|_| self.n_passes > 0) else {
            return Duration::ZERO;
        };
        let left = (since + shared.config.timeouts.machine).duration_since(Instant::now());
        left.min(limits::RELAY_WAIT_MAX)
    }

    /// Bounds the wait for a machine, for a request that another edge waits for as well.
    pub(crate) fn waits_at_most(limit: Duration) -> Self {
        Self {
            limit: Some(limit),
            ..Self::default()
        }
    }

    /// Until when the request may wait, once it has begun to.
    fn deadline(&mut self, shared: &Shared, asked: Asked<'_>) -> Instant {
        let since = *self.since.get_or_insert_with(Instant::now);
        let routes = shared.router.routes();
        let port = routes.app(asked.app).and_then(|app| asked.port(app));
        self.is_waking |= port
            .is_some_and(|port| wake::is_one_waking(port, |one| asked.wants.allows_at_all(one)));
        let timeouts = &shared.config.timeouts;
        let limit = if self.is_waking {
            timeouts.wake.max(timeouts.machine)
        } else {
            timeouts.machine
        };
        since + self.limit.map_or(limit, |most| most.min(limit))
    }

    /// Notes what the request has waited for.
    fn picked(&mut self, picked: Picked) -> Picked {
        if let Some(since) = self.since {
            self.woken = picked.target.load.wake.stages_after(since);
        }
        picked
    }

    /// Notes why the others did not get the request, unless the first look found a machine.
    fn note_look(
        &mut self,
        shared: &Shared,
        port: &PortRoute,
        asked: Asked<'_>,
        chosen: Option<&Arc<Target>>,
    ) {
        let is_first = self.places.is_empty() && self.since.is_none();
        if self.looked.is_followed || chosen.is_none() || !is_first {
            let places = std::mem::take(&mut self.places);
            let round_trips = shared.peers.round_trips();
            self.looked.note(port, asked, &places, chosen, round_trips);
            self.places = places;
        }
    }

    /// Whether the request had to wait for a machine.
    pub(crate) fn has_waited(&self) -> bool {
        self.since.is_some()
    }

    fn is_over(&self) -> bool {
        self.refused_at
            .is_some_and(|at| at.elapsed() >= self.again_for)
    }
}

/// Whom a request asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) app: &'a str,
    /// What it came by.
    pub(crate) protocol: Protocol,
    /// The external port that it came to.
    pub(crate) external: u16,
    pub(crate) wants: &'a Wants,
    /// Where a split sends it. That is left only when nobody there takes it.
    pub(crate) side: Option<Side>,
    /// What keeps it with others, if something does.
    pub(crate) affinity: Option<&'a Affinity>,
}

impl Asked<'_> {
    /// What is behind the port that it came to.
    fn port<'r>(&self, app: &'r AppRoute) -> Option<&'r PortRoute> {
        app.port_of(self.protocol, self.external)
    }
}

/// What a look at the machines found.
enum Look {
    Picked(Picked),
    /// Those that would do are at their hard limits.
    Full,
    /// Those that would do have all been tried.
    Tried,
    /// None that would do is healthy, but one may become so.
    NotHealthy,
}

/// Picks a machine. `known` is how the app was routed a moment ago: if it still is, nobody has to
/// look.
pub(crate) async fn pick(
    shared: &Shared,
    known: Option<&AppRoute>,
    asked: Asked<'_>,
    tried: &mut Tried,
) -> Result<Picked, Page> {
    let looked_up;
    let app = match known.filter(|app| app.is_current()) {
        Some(app) => app,
        None => {
            let app = shared.router.routes().app(asked.app).cloned();
            looked_up = app.ok_or_else(|| nothing_runs(asked, None))?;
            &looked_up
        }
    };
    let port = asked.port(app);
    let queue = &port.ok_or_else(|| nothing_runs(asked, None))?.queue;
    let beside = !asked.wants.is_anything() || !tried.places.is_empty();
    // Also when machines that refuse it are found again and again.
    if !tried.places.is_empty()
        && tried.since.is_some()
        && Instant::now() >= tried.deadline(shared, asked)
    {
        return Err(too_late(shared, asked));
    }
    // Nobody passes those that wait already.
    if beside || queue.is_empty() {
        let looked = look_at(shared, app, asked, tried)?;
        let looked = looked.map_or_else(|| look(shared, asked, tried), Ok)?;
        if let Look::Picked(picked) = looked {
            return Ok(tried.picked(picked));
        }
    }
    // On the heap: most requests do not wait.
    Box::pin(pick_in_turn(shared, asked, tried, queue)).await
}

async fn pick_in_turn(
    shared: &Shared,
    asked: Asked<'_>,
    tried: &mut Tried,
    queue: &Arc<Queue>,
) -> Result<Picked, Page> {
    // For all of the wait: who waits beside the queue is not told of what becomes free.
    let beside = !asked.wants.is_anything() || !tried.places.is_empty();
    let waiting = Waiting::join(queue, beside, limits::QUEUE_MAX);
    let (Some(_waiting), Ok(_place)) = (waiting, shared.waiters.try_acquire()) else {
        return Err(queue_full(asked));
    };
    let mut front = None;
    loop {
        let deadline = tried.deadline(shared, asked);
        if front.is_none() && !beside {
            // Cancel-safe: who leaves the queue loses only his own place.
            match timeout_at(deadline, queue.front.lock()).await {
                Ok(place) => front = Some(place),
                // A machine may have been woken since.
                Err(_) if tried.deadline(shared, asked) > deadline => continue,
                Err(_) => return Err(too_late(shared, asked)),
            }
        }
        let mut changes = shared.router.changes();
        let freed = queue.freed.notify.notified();
        let looked = look(shared, asked, tried)?;
        let is_unhealthy = matches!(looked, Look::NotHealthy);
        match looked {
            Look::Picked(picked) => return Ok(tried.picked(picked)),
            Look::Tried if tried.is_over() => return Err(unreachable(asked, tried)),
            Look::Full | Look::Tried | Look::NotHealthy => {}
        }
        // The look may have woken a machine.
        let deadline = tried.deadline(shared, asked);
        // Cancel-safe, all of them: each only says that another look is due.
        tokio::select! {
            () = freed, if front.is_some() => {}
            changed = changes.changed() => if changed.is_err() {
                return Err(too_late(shared, asked));
            },
            // A machine that is being replaced is back, or gone from the table, in a moment.
            () = sleep(limits::RETRY_PAUSE), if beside => {
                tried.places.clear();
                tried.n_passes += 1;
            }
            () = sleep(limits::WAKE_REPEAT), if tried.is_waking => {}
            // The other edge hears when one is healthy; this one has heard its last.
            () = shared.retired.cancelled(), if is_unhealthy => {
                return Err(not_woken(asked, vec!["this edge is about to end".to_owned()]));
            }
            () = sleep_until(deadline) => return Err(too_late(shared, asked)),
        }
    }
}

fn look(shared: &Shared, asked: Asked<'_>, tried: &mut Tried) -> Result<Look, Page> {
    loop {
        let app = shared.router.routes().app(asked.app).cloned();
        let app = app.ok_or_else(|| nothing_runs(asked, None))?;
        if let Some(look) = look_at(shared, &app, asked, tried)? {
            return Ok(look);
        }
    }
}

/// A look at the machines of an app as it is routed here; `None` when that has changed meanwhile,
/// or somebody else has taken the last place.
fn look_at(
    shared: &Shared,
    app: &AppRoute,
    asked: Asked<'_>,
    tried: &mut Tried,
) -> Result<Option<Look>, Page> {
    let port = asked.port(app).ok_or_else(|| nothing_runs(asked, None))?;
    match choose_wanted(port, asked, tried) {
        Choice::Machine(number) => {
            let target = port.passing[number].clone();
            let Some(in_flight) = InFlight::begin(&target).filter(|_| app.is_current()) else {
                return Ok(None);
            };
            if !port.asleep.is_empty() && target.is_beyond_soft_limit() {
                wake::wake_one(shared, port, |one| asked.wants.allows_at_all(one));
            }
            tried.note_look(shared, port, asked, Some(&target));
            Ok(Some(Look::Picked(Picked { target, in_flight })))
        }
        Choice::Full => {
            tried.note_look(shared, port, asked, None);
            wake::wake_one(shared, port, |one| asked.wants.allows_at_all(one));
            Ok(Some(Look::Full))
        }
        Choice::Nobody => {
            tried.note_look(shared, port, asked, None);
            why_nobody(shared, port, asked).map(Some)
        }
    }
}

/// The first group of machines that has one, without those that were ejected if others are left.
/// Of a split the request's own side comes first. In each of these the machine of its affinity is
/// the first.
fn choose_wanted(port: &PortRoute, asked: Asked<'_>, tried: &Tried) -> Choice {
    let wants = asked.wants;
    let turn = port.next_turn();
    let classes = &port.classes;
    let id = |number: usize| port.passing[number].endpoint.machine_id.as_str();
    let choose_in = |group: &Group, also_ejected: bool, side: Option<Side>, as_told: bool| {
        let look = |number: usize, as_told: bool| {
            let target = &port.passing[number];
            let is_out = !wants.allows(group, target)
                || side.is_some_and(|side| !side.has(target))
                || tried.has(&target.endpoint)
                || (!also_ejected && target.load.is_ejected());
            let load = if as_told {
                target.load.everywhere()
            } else {
                target.load.now()
            };
            target.candidate(is_out, load)
        };
        let kept = asked.affinity;
        // Of a certain machine its edge is asked, whatever was told of it a second ago.
        let kept = kept.and_then(|it| it.choose(classes, id, |number| look(number, false)));
        let as_told = as_told && !matches!(group, Group::Machine(_));
        let any = || choose(classes, turn, |number| look(number, as_told));
        kept.map_or_else(any, Choice::Machine)
    };
    if asked.side.is_some() && port.split.is_some() {
        // Nor is a side left for what was told.
        for as_told in [true, false] {
            for group in wants.groups() {
                let choice = choose_in(group, false, asked.side, as_told);
                if matches!(choice, Choice::Machine(_)) {
                    return choice;
                }
            }
        }
    }
    for also_ejected in [false, true] {
        let mut is_full = false;
        // A machine of another node that is full by what was told a second ago may have room by
        // now: when nobody else has, its edge is asked, which has the last word.
        for as_told in [true, false] {
            for group in wants.groups() {
                match choose_in(group, also_ejected, None, as_told) {
                    Choice::Nobody => {}
                    Choice::Full => is_full = true,
                    machine @ Choice::Machine(_) => return machine,
                }
            }
            if !is_full {
                break;
            }
        }
        if is_full {
            return Choice::Full;
        }
    }
    Choice::Nobody
}

fn why_nobody(shared: &Shared, port: &PortRoute, asked: Asked<'_>) -> Result<Look, Page> {
    let mut wanted = port
        .targets
        .iter()
        .filter(|target| asked.wants.allows_at_all(target));
    if port
        .passing
        .iter()
        .any(|target| asked.wants.allows_at_all(target))
    {
        return Ok(Look::Tried);
    }
    let prospect = wake::wake_one(shared, port, |one| asked.wants.allows_at_all(one));
    if prospect == Prospect::Coming || wanted.any(|target| may_become_healthy(target)) {
        return Ok(Look::NotHealthy);
    }
    Err(match prospect {
        Prospect::Refused(why) => not_woken(asked, why),
        Prospect::Coming | Prospect::None => nothing_runs(asked, Some(port)),
    })
}

fn may_become_healthy(target: &Target) -> bool {
    match &target.endpoint.health {
        EndpointHealth::Failing(_) => true,
        EndpointHealth::Down(state) => MachineState::parse(state) == Some(MachineState::Starting),
        EndpointHealth::Passing | EndpointHealth::Draining | EndpointHealth::Asleep(_) => false,
    }
}

/// Notes how an attempt ended. A machine that fails again and again is ejected,
/// as long as that leaves half of those that take traffic.
pub(crate) fn note(shared: &Shared, asked: Asked<'_>, target: &Target, outcome: Outcome) {
    if !target.load.note(outcome) {
        return;
    }
    let app = shared.router.routes().app(asked.app).cloned();
    let port = app.as_ref().and_then(|app| asked.port(app));
    let passing = port.map_or(&[][..], |port| &port.passing);
    let ejected = passing
        .iter()
        .filter(|other| other.load.is_ejected())
        .count();
    if (ejected + 1) * 2 <= passing.len() {
        tracing::info!(
            app = asked.app,
            machine = target.endpoint.machine_id.as_str(),
            "requests to a machine fail; it gets none for a while"
        );
        target.load.eject();
    }
}

/// Whether a machine that would do takes traffic.
fn has_passing(port: &PortRoute, asked: Asked<'_>) -> bool {
    let mut passing = port.passing.iter();
    passing.any(|target| asked.wants.allows_at_all(target))
}
