//! Machines that are asleep, and how one is woken for requests.
//!
//! One wish to wake a machine is under way at a time, whoever waits for it; what
//! became of it is kept beside the machine's load until the next one. The machine
//! is awake once the table says so, and not when the worker has taken the wish.

use crate::limits;
use crate::relay;
use crate::shared::Shared;
use crate::table::{PortRoute, Target};
use parking_lot::Mutex;
use roost_model::machine::MachineState;
use roost_proto::traffic::{EndpointHealth, SleepControl, WakeError};
use std::sync::Arc;
use tokio::time::{Duration, Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Who wakes machines: the worker that is there now.
pub(crate) type Control = Mutex<Option<Arc<dyn SleepControl>>>;

/// How long each stage of a wake took, as far as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stages {
    /// Until the wish was recorded.
    pub(crate) asked: Option<Duration>,
    /// From then until the machine ran.
    pub(crate) started: Option<Duration>,
    /// From then until its checks passed.
    pub(crate) ready: Option<Duration>,
}

/// A wish to wake a machine.
#[derive(Debug)]
struct Wake {
    begun: Instant,
    /// When the worker took it.
    taken: Option<Instant>,
    /// When the machine was first seen to run.
    runs: Option<Instant>,
    /// When it took requests.
    passes: Option<Instant>,
    /// Whether the machine has left its sleep since.
    has_left: bool,
    /// When and why nothing came of it, for people.
    failed: Option<(Instant, String)>,
}

/// The last wish to wake a machine for one of its services, if there was one.
#[derive(Debug, Default)]
pub(crate) struct LastWake(Mutex<Option<Wake>>);

impl LastWake {
    /// Begins a wish, unless one is under way or has just failed. One that was taken
    /// a while ago and has changed nothing may be asked again.
    fn begin(&self) -> bool {
        let mut last = self.0.lock();
        let now = Instant::now();
        match &mut *last {
            Some(wake) if wake.is_under_way() => match wake.taken {
                Some(taken) if !wake.has_left && now - taken >= limits::WAKE_REPEAT => {
                    wake.taken = None;
                    true
                }
                Some(_) | None => false,
            },
            Some(wake) if wake.failed_lately() => false,
            Some(_) | None => {
                *last = Some(Wake {
                    begun: now,
                    taken: None,
                    runs: None,
                    passes: None,
                    has_left: false,
                    failed: None,
                });
                true
            }
        }
    }

    /// Notes what the worker said to it.
    fn answered(&self, answer: Result<(), WakeError>) {
        let mut last = self.0.lock();
        let Some(wake) = last.as_mut() else {
            return;
        };
        match answer {
            Ok(()) => wake.taken = Some(Instant::now()),
            Err(WakeError::Refused(why)) => wake.fail(why),
            // Whoever looks next asks again.
            Err(WakeError::Away) => *last = None,
        }
    }

    /// Notes how the machine is shown in a new table.
    pub(crate) fn seen(&self, health: &EndpointHealth) {
        let mut last = self.0.lock();
        let Some(wake) = last.as_mut().filter(|wake| !wake.has_ended()) else {
            return;
        };
        let now = Instant::now();
        match health {
            EndpointHealth::Passing => {
                wake.has_left = true;
                wake.runs.get_or_insert(now);
                wake.passes = Some(now);
            }
            EndpointHealth::Failing(_) => {
                wake.has_left = true;
                wake.runs.get_or_insert(now);
            }
            EndpointHealth::Asleep(state) if wake.has_left => {
                wake.fail(format!("it was started and is {state} again"));
            }
            EndpointHealth::Draining => wake.fail("it takes nothing new".to_owned()),
            EndpointHealth::Asleep(_) => {}
            EndpointHealth::Down(state) if is_starting(state) => wake.has_left = true,
            EndpointHealth::Down(state) => wake.fail(format!("it is {state}")),
        }
    }

    /// Whether a machine is being woken.
    pub(crate) fn is_under_way(&self) -> bool {
        self.0.lock().as_ref().is_some_and(Wake::is_under_way)
    }

    /// Why nothing came of a wish a moment ago.
    fn failure(&self) -> Option<String> {
        let last = self.0.lock();
        let wake = last.as_ref().filter(|wake| wake.failed_lately())?;
        wake.failed.as_ref().map(|(_, why)| why.clone())
    }

    /// The stages of a wake that ended well after `since`.
    pub(crate) fn stages_after(&self, since: Instant) -> Option<Stages> {
        let last = self.0.lock();
        let wake = last.as_ref()?;
        let passes = wake.passes.filter(|at| *at >= since)?;
        Some(Stages {
            asked: wake.taken.map(|taken| taken - wake.begun),
            started: wake.runs.map(|at| at - wake.taken.unwrap_or(at).min(at)),
            ready: wake.runs.map(|at| passes - at),
        })
    }
}

impl Wake {
    fn has_ended(&self) -> bool {
        self.passes.is_some() || self.failed.is_some()
    }

    fn is_under_way(&self) -> bool {
        !self.has_ended() && self.begun.elapsed() < limits::WAKE_LONGEST
    }

    fn failed_lately(&self) -> bool {
        let failed = self.failed.as_ref();
        failed.is_some_and(|(at, _)| at.elapsed() < limits::WAKE_PAUSE)
    }

    fn fail(&mut self, why: String) {
        self.failed = Some((Instant::now(), why));
    }
}

/// What is to be expected of the machines that are asleep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Prospect {
    /// One of them is on its way.
    Coming,
    /// None is asleep that would do.
    None,
    /// Those that would do cannot be woken; each with why, for people.
    Refused(Vec<String>),
}

/// Wakes the nearest machine that would do, unless one is on its way already.
pub(crate) fn wake_one(
    shared: &Shared,
    port: &PortRoute,
    would_do: impl Fn(&Target) -> bool,
) -> Prospect {
    if port.asleep.is_empty() && !is_one_waking(port, &would_do) {
        return Prospect::None;
    }
    let asleep = || port.asleep.iter().filter(|target| would_do(target));
    // Also one that was to be woken and still sleeps may be asked again.
    if let Some(target) = asleep().find(|target| target.load.wake.is_under_way()) {
        ask(shared, target);
        return Prospect::Coming;
    }
    if is_one_waking(port, &would_do) {
        return Prospect::Coming;
    }
    let mut refusals = Vec::new();
    for target in asleep() {
        match target.load.wake.failure() {
            Some(why) => refusals.push(format!("machine {}: {why}", target.endpoint.machine_id)),
            None => {
                ask(shared, target);
                return Prospect::Coming;
            }
        }
    }
    if refusals.is_empty() {
        return Prospect::None;
    }
    Prospect::Refused(refusals)
}

/// Whether a machine that would do is being woken. One that starts by itself may take long, or fail again and
/// again: it keeps no other asleep.
pub(crate) fn is_one_waking(port: &PortRoute, would_do: impl Fn(&Target) -> bool) -> bool {
    let mut targets = port.targets.iter();
    targets.any(|target| would_do(target) && target.load.wake.is_under_way())
}

fn is_starting(state: &str) -> bool {
    MachineState::parse(state) == Some(MachineState::Starting)
}

fn ask(shared: &Shared, target: &Target) {
    if !target.load.wake.begin() {
        return;
    }
    let waking = match &target.endpoint.node {
        Some(node) => Some(relay::client::wake(shared, target, node)),
        None => {
            let control = shared.sleep.lock().clone();
            control.map(|control| control.wake(target.endpoint.machine_id.clone()))
        }
    };
    let (load, id) = (target.load.clone(), target.endpoint.machine_id.clone());
    let router = shared.router.clone();
    let ends = [shared.retired.clone(), shared.graceful.clone()];
    tracing::debug!(machine = id.as_str(), "a request wakes a machine");
    shared.backends.spawn(async move {
        let answer = match waking {
            Some(waking) => timeout(limits::WAKE_ASK_TIMEOUT, waking).await,
            None => Ok(Err(WakeError::Away)),
        };
        let answer = answer.unwrap_or_else(|_| {
            let limit = limits::WAKE_ASK_TIMEOUT.as_secs();
            Err(WakeError::Refused(format!(
                "nobody took the wish in {limit} s"
            )))
        });
        let answer = match answer {
            // Here it is not to be waited for: a new connection leads to the edge that has a worker.
            Err(WakeError::Away) if ends.iter().any(CancellationToken::is_cancelled) => {
                Err(WakeError::Refused("this edge is about to end".into()))
            }
            answer => answer,
        };
        match &answer {
            Ok(()) => {}
            Err(WakeError::Refused(why)) => {
                tracing::info!(machine = id.as_str(), why, "a machine is not woken");
            }
            // Those that wait ask again; not all the time.
            Err(WakeError::Away) => tokio::time::sleep(limits::RETRY_PAUSE).await,
        }
        load.wake.answered(answer);
        router.nudge();
    });
}

#[cfg(test)]
mod tests {
    use super::LastWake;
    use crate::limits;
    use roost_proto::traffic::{EndpointHealth, WakeError};
    use tokio::time::{Duration, Instant, advance};

    fn down(state: &str) -> EndpointHealth {
        EndpointHealth::Down(state.into())
    }

    fn asleep() -> EndpointHealth {
        EndpointHealth::Asleep("stopped".into())
    }

    #[tokio::test(start_paused = true)]
    async fn each_stage_of_a_wake_is_timed() {
        let (wake, since) = (LastWake::default(), Instant::now());
        assert!(wake.begin() && !wake.begin(), "one at a time");
        let step = Duration::from_millis(10);
        advance(step).await;
        wake.answered(Ok(()));
        advance(step * 2).await;
        wake.seen(&down("starting"));
        wake.seen(&EndpointHealth::Failing("not checked yet".into()));
        assert_eq!(wake.stages_after(since), None);
        advance(step * 3).await;
        wake.seen(&EndpointHealth::Passing);
        let stages = wake.stages_after(since).unwrap();
        assert_eq!(
            (stages.asked, stages.started, stages.ready),
            (Some(step), Some(step * 2), Some(step * 3))
        );
        assert!(!wake.is_under_way());
        advance(step).await;
        assert_eq!(
            wake.stages_after(Instant::now()),
            None,
            "it was long before"
        );
        assert!(wake.begin(), "the next sleep has a wake of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_rests_again_at_once_is_left_alone_for_a_moment() {
        for (last, expected) in [
            (down("failed"), "it is failed"),
            (asleep(), "it was started and is stopped again"),
        ] {
            let wake = LastWake::default();
            assert!(wake.begin());
            wake.answered(Ok(()));
            // Shown as it was before: not yet started.
            wake.seen(&asleep());
            assert_eq!(wake.failure(), None);
            wake.seen(&down("starting"));
            wake.seen(&last);
            assert_eq!(wake.failure().as_deref(), Some(expected));
            assert!(!wake.is_under_way() && !wake.begin());
            advance(limits::WAKE_PAUSE).await;
            assert!(wake.failure().is_none() && wake.begin());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_that_changed_nothing_is_repeated_and_one_to_nobody_is_forgotten() {
        let wake = LastWake::default();
        assert!(wake.begin());
        wake.answered(Err(WakeError::Away));
        assert!(wake.begin(), "asked again at once");
        wake.answered(Ok(()));
        assert!(!wake.begin());
        advance(limits::WAKE_REPEAT).await;
        assert!(wake.begin() && !wake.begin());
        wake.answered(Err(WakeError::Refused("no".into())));
        assert_eq!(wake.failure().as_deref(), Some("no"));
    }
}
