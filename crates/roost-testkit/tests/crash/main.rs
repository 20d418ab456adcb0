//! `kill -9` of `roostd` at every point of its work.
//!
//! What `roostd` makes durable and what it changes on the host passes named
//! points (`roost_runtime::points`). Each scenario is one request about one
//! machine: it is made once to record the points that it passes, and then once
//! for each of them, with the real `roostd` killing itself there
//! (`roostd/src/crash.rs`). After each restart the host has to agree with the
//! database ([`host`]), and the same request, made again, has to lead to what
//! it asks for. A machine that nobody touches has to run on through all of it.
//!
//! `make test` tries some points of each scenario, `make test-crash` all of
//! them, and `make test-crash POINT=stop:exit-seen:1` one.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]
#![expect(
    clippy::print_stdout,
    reason = "how many points were tried is its result"
)]

mod host;
mod node;
mod scenario;

use roost_testkit::skip_unless_possible;
use scenario::{Before, Request, Scenario, Wish};

#[test]
fn a_kill_at_any_point_of_a_creation_is_resumed() {
    skip_unless_possible!();
    Scenario {
        name: "create",
        before: Before::Nothing,
        request: Request::Create,
        wish: Wish::Started,
        points_min: 30,
    }
    .run();
}

#[test]
fn a_kill_at_any_point_of_an_update_is_resumed() {
    skip_unless_possible!();
    Scenario {
        name: "update",
        before: Before::Started,
        request: Request::Update,
        wish: Wish::Started,
        points_min: 45,
    }
    .run();
}

#[test]
fn a_kill_at_any_point_of_a_stop_is_resumed() {
    skip_unless_possible!();
    Scenario {
        name: "stop",
        before: Before::Started,
        request: Request::Stop,
        wish: Wish::Stopped,
        points_min: 25,
    }
    .run();
}

#[test]
fn a_kill_at_any_point_of_a_start_is_resumed() {
    skip_unless_possible!();
    Scenario {
        name: "start",
        before: Before::Stopped,
        request: Request::Start,
        wish: Wish::Started,
        points_min: 25,
    }
    .run();
}

#[test]
fn a_kill_at_any_point_of_a_restart_is_resumed() {
    skip_unless_possible!();
    Scenario {
        name: "restart",
        before: Before::Started,
        request: Request::Restart,
        wish: Wish::Started,
        points_min: 45,
    }
    .run();
}

#[test]
fn a_kill_at_any_point_of_a_destruction_is_resumed() {
    skip_unless_possible!();
    Scenario {
        name: "destroy",
        before: Before::Started,
        request: Request::Destroy,
        wish: Wish::Gone,
        points_min: 35,
    }
    .run();
}

#[test]
fn a_kill_at_any_point_of_a_restart_by_policy_is_resumed() {
    skip_unless_possible!();
    Scenario {
        name: "exit",
        before: Before::New,
        request: Request::KillApp,
        wish: Wish::Started,
        points_min: 35,
    }
    .run();
}

#[test]
fn a_kill_at_any_point_of_the_start_after_a_kill_is_resumed() {
    skip_unless_possible!();
    for (name, first) in [
        ("adopt", "link-named:1"),
        ("adopt-half", "sweep-cgroup-removed:1"),
    ] {
        Scenario {
            name,
            before: Before::KilledAt(first),
            request: Request::Recover,
            wish: Wish::Started,
            points_min: 30,
        }
        .run();
    }
}
