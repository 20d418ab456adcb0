//! What the results of checks lead to on the board.

use super::{begin, describe, plan_checks};
use crate::board::{Decides, Entry};
use crate::health::streak::{Outcome, Streak};
use crate::tests::samples;
use roost_model::machine::{Check, CheckKind, CheckPurpose, MachineSpec, MachineState};
use roost_model::time::Timestamp;
use roost_proto::worker::CheckResult;
use std::collections::BTreeMap;

const NOW: Timestamp = Timestamp::from_ms(1_000);

/// Two services, of which the second has two checks, and two checks of the machine.
fn checked() -> (MachineSpec, Entry) {
    let mut spec = samples::spec("web-1");
    let check = |port| Check::new(CheckKind::Tcp { port });
    spec.services = vec![samples::service(80), samples::service(81)];
    spec.services[1].checks = vec![check(81), check(82)];
    let informational = Check {
        purpose: CheckPurpose::Informational,
        ..check(1)
    };
    spec.checks = [("info".into(), informational), ("ready".into(), check(2))].into();
    let entry = Entry {
        app: spec.app.clone(),
        region: spec.region.clone(),
        release: spec.release(),
        split: None,
        ipv4: samples::addresses(0).ipv4,
        services: Entry::services_of(&spec),
        state: MachineState::Started,
        cordoned: false,
        is_standby: false,
        is_primary: true,
        rung: None,
        statics: [].into(),
        pid: None,
        ports: vec![],
        checks: BTreeMap::new(),
    };
    (spec, entry)
}

fn set(entry: &mut Entry, name: &str, result: CheckResult) {
    entry.checks.get_mut(name).unwrap().status.result = result;
}

#[test]
fn an_adopted_machine_is_trusted_until_a_check_fails() {
    let (spec, mut entry) = checked();
    begin(&mut entry, &spec, &[true, true], NOW);
    assert_eq!(entry.healthy(), [true, true]);
    set(&mut entry, "servicecheck-00-tcp-81", CheckResult::Critical);
    assert_eq!(entry.healthy(), [true, false]);
    begin(&mut entry, &spec, &[], NOW);
    assert_eq!(entry.healthy(), [false, false], "a new machine is not");
}

#[test]
fn a_service_needs_all_of_its_checks_and_those_of_readiness() {
    let (spec, mut entry) = checked();
    begin(&mut entry, &spec, &[], NOW);
    let names: Vec<_> = plan_checks(&spec)
        .into_iter()
        .map(|named| (named.name, named.decides))
        .collect();
    let expected = [
        ("servicecheck-00-tcp-81", Decides::Service(1)),
        ("servicecheck-01-tcp-82", Decides::Service(1)),
        ("info", Decides::Nothing),
        ("ready", Decides::Machine),
    ];
    assert_eq!(
        names,
        expected.map(|(name, decides)| (name.to_owned(), decides))
    );
    entry.ports[0] = None;
    for (name, healthy) in [
        ("servicecheck-00-tcp-81", [false, false]),
        ("ready", [true, false]),
        ("servicecheck-01-tcp-82", [true, true]),
    ] {
        set(&mut entry, name, CheckResult::Passing);
        assert_eq!(entry.healthy(), healthy, "{name} passes");
    }
    set(&mut entry, "info", CheckResult::Critical);
    assert_eq!(entry.healthy(), [true, true], "it informs only");
    set(&mut entry, "ready", CheckResult::Critical);
    assert_eq!(entry.healthy(), [false, false]);
}

#[test]
fn the_output_tells_how_far_a_check_is_from_turning() {
    let mut check = Check::new(CheckKind::Tcp { port: 1 });
    (check.success_threshold, check.failure_threshold) = (2, 3);
    let refused = || Err("refused".to_owned());
    let once = Streak::new(CheckResult::Passing).after(Outcome::Failed, &check);
    assert_eq!(
        describe(once, &check, refused()),
        "failed 1 of 3 times: refused"
    );
    let excused = Streak::new(CheckResult::Waiting).after(Outcome::Excused, &check);
    assert_eq!(describe(excused, &check, refused()), "refused");
    let again = Streak::new(CheckResult::Critical).after(Outcome::Passed, &check);
    assert_eq!(
        describe(again, &check, Ok("up".into())),
        "passed 1 of 2 times: up"
    );
}
