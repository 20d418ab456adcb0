//! Claims about the conversion.

use super::{BadMessage, Wire, failure_from_wire, failure_to_wire};
use crate::limits;
use crate::proto;
use proptest::prelude::*;
use roost_model::error::{Classify as _, ErrorCode, Retry};
use roost_model::id::{InstanceId, MachineId, NodeId, ReservationId};
use roost_model::machine::{ExitCause, Guest, MachineExit, MachineSpec, MachineState, Rung};
use roost_model::name::{AppName, MachineName, RegionCode, ZoneName};
use roost_model::placement::{Capacity, NodeView, Overcommit, Usage};
use roost_model::size::ByteSize;
use roost_model::time::Timestamp;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::worker::{
    CheckResult, CheckStatus, MachineEvent, MachineStatus, Reservation, WorkerError,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

/// Through bytes, as between nodes.
fn carried<T: Wire>(value: &T) -> Result<T, BadMessage> {
    let bytes = prost::Message::encode_to_vec(&value.to_wire());
    T::from_wire(prost::Message::decode(bytes.as_slice()).unwrap())
}

fn assert_carried<T: Wire + PartialEq + Debug>(value: &T) {
    assert_eq!(carried(value).as_ref(), Ok(value));
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

/// The conversion of configs is `roost-proto`'s, with its own tests.
fn spec() -> MachineSpec {
    let config = serde_json::json!({
        "image": "ghcr.io/a/b:1",
        "env": {"A": "1=2\n"},
        "init": {"cmd": ["a b", ""], "user": "app:app", "swap_size_mb": 64},
        "size": "performance-2x",
        "isolation": "vm-emulated",
        "metadata": {"fly_process_group": "api"},
        "services": [{"internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}],
        "checks": {"up": {"type": "tcp", "port": 8081}},
        "files": [{"guest_path": "/etc/x", "raw_value": "AP8K"}],
        "stop_config": {"signal": "SIGTERM", "timeout": "30s"},
        "schedule": "*/5 * * * *",
    });
    let config: MachineConfig = serde_json::from_value(config).unwrap();
    let identity = MachineIdentity {
        app: AppName::parse("web").unwrap(),
        name: MachineName::parse("quick-fox").unwrap(),
        region: RegionCode::parse("ams").unwrap(),
    };
    config.to_spec(identity).unwrap()
}

fn machine_id() -> MachineId {
    MachineId::from_bytes([1, 2, 3, 4, 5, 6, 255])
}

fn status(state: MachineState, last_exit: Option<MachineExit>) -> MachineStatus {
    MachineStatus {
        id: machine_id(),
        instance_id: InstanceId::from_ulid(ulid::Ulid::from_parts(9, 9)),
        spec: spec(),
        state,
        state_reason: Some("it said so".into()),
        image_digest: Some("sha256:00".into()),
        private_ipv4: [10, 0, 0, 7].into(),
        private_ipv6: "fd00::7".parse().unwrap(),
        rung: Rung::Vm,
        pid: Some(77),
        checks: [
            CheckResult::Waiting,
            CheckResult::Passing,
            CheckResult::Critical,
        ]
        .map(|result| CheckStatus {
            name: "up".into(),
            result,
            output: "ü".into(),
            updated_at: Timestamp::from_ms(5),
        })
        .to_vec(),
        cordoned: true,
        last_exit,
        due_at: last_exit.map(|_| Timestamp::from_ms(6)),
        created_at: Timestamp::from_ms(1),
        updated_at: Timestamp::from_ms(u64::MAX),
    }
}

#[test]
fn machines_arrive_as_they_were() {
    assert_carried(&spec());
    let mut standby = spec();
    (standby.schedule, standby.services) = (None, vec![]);
    standby.standbys = vec![machine_id()];
    assert_carried(&standby);
    for state in MachineState::ALL {
        assert_carried(&status(state, None));
    }
    for cause in ExitCause::ALL {
        let exit = MachineExit {
            exit_code: -1,
            signal: Some(9),
            oom_killed: true,
            cause,
        };
        assert_carried(&status(MachineState::Failed, Some(exit)));
    }
    let detail = serde_json::json!({"a": [1, null, "x"]});
    assert_carried(&MachineEvent {
        seq: 3,
        at: Timestamp::from_ms(4),
        kind: "start".into(),
        state: MachineState::Started,
        source: "user".into(),
        detail,
    });
}

#[test]
fn nodes_arrive_as_they_were() {
    let used = Usage {
        n_machines: 1,
        shared_cpus: 2,
        dedicated_cores: 3,
        shared_memory: ByteSize(4),
        dedicated_memory: ByteSize(5),
    };
    let app = AppName::parse("web").unwrap();
    assert_carried(&NodeView {
        id: NodeId::from_ulid(ulid::Ulid::from_parts(1, 2)),
        region: RegionCode::parse("ams").unwrap(),
        zone: Some(ZoneName::parse("rack-1").unwrap()),
        labels: map(&[("disk", "nvme")]),
        refused_rungs: BTreeMap::from([(Rung::Vm, "no KVM".into())]),
        cordoned: true,
        capacity: Capacity {
            n_cores: 8,
            memory: ByteSize::gib(16),
            n_machines: 100,
            overcommit: Overcommit::new(200, 300).unwrap(),
        },
        used,
        reserved: used.plus(used),
        disk_free: ByteSize::gib(7),
        images: BTreeSet::from(["sha256:aa".into()]),
        machines: BTreeMap::from([(app, BTreeMap::from([("api".into(), 2), ("app".into(), 1)]))]),
    });
    assert_carried(&Reservation {
        id: ReservationId::from_ulid(ulid::Ulid::from_parts(1, 3)),
        guest: Guest::DEFAULT,
        expires_at: Timestamp::from_ms(9),
    });
}

fn refusals() -> Vec<WorkerError> {
    let machine = machine_id();
    vec![
        WorkerError::NotFound(machine.clone()),
        WorkerError::Conflict("it runs: ä".into()),
        WorkerError::Leased {
            machine: machine.clone(),
            owner: "ann".into(),
            expires_at: Timestamp::from_ms(9),
            left: Duration::from_millis(1_500),
        },
        WorkerError::NoLease(machine.clone()),
        WorkerError::Invalid(String::new()),
        WorkerError::CannotSuspend {
            machine: machine.clone(),
            rung: Rung::Container,
        },
        WorkerError::Image {
            message: "gone".into(),
            code: ErrorCode("image-not-found"),
            retry: Retry::Never,
        },
        WorkerError::Image {
            message: "full".into(),
            code: ErrorCode("disk-full"),
            retry: Retry::Backoff,
        },
        WorkerError::Image {
            message: "here".into(),
            code: ErrorCode("wrong-port"),
            retry: Retry::ElsewhereNow,
        },
        WorkerError::Start {
            machine: machine.clone(),
            reason: "no".into(),
        },
        WorkerError::WaitTimeout {
            machine,
            state: "stopped",
            wanted: "started or failed".into(),
            seconds: 60,
        },
        WorkerError::NoCapacity("full".into()),
        WorkerError::DiskFull("full".into()),
        WorkerError::Unreachable {
            node: NodeId::from_ulid(ulid::Ulid::from_parts(1, 2)),
            reason: "gone".into(),
        },
        WorkerError::Internal("oh".into()),
    ]
}

#[test]
fn refusals_arrive_as_they_were_made_with_blame_code_and_retry() {
    for error in refusals() {
        let status = failure_to_wire(&error);
        assert_ne!(status.code(), tonic::Code::Ok);
        let arrived = failure_from_wire(&status).unwrap();
        assert_eq!(arrived, error);
        assert_eq!(arrived.blame(), error.blame());
        assert_eq!(arrived.retry(), error.retry());
        assert_eq!(arrived.code(), error.code());
        assert_eq!(arrived.hint(), error.hint());
    }
}

#[test]
fn a_refusal_that_is_too_long_is_cut_between_characters() {
    let error = WorkerError::Conflict("ü".repeat(limits::ERROR_TEXT_BYTES_MAX));
    let status = failure_to_wire(&error);
    assert!(status.details().len() <= limits::ERROR_BYTES_MAX);
    match failure_from_wire(&status) {
        Some(WorkerError::Conflict(text)) => {
            assert!(text.ends_with("ü…") && text.len() <= limits::ERROR_TEXT_BYTES_MAX);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_status_that_no_worker_made_is_no_refusal() {
    assert_eq!(failure_from_wire(&tonic::Status::unavailable("x")), None);
    let garbage = vec![0xff; 40].into();
    let status = tonic::Status::with_details(tonic::Code::NotFound, "x", garbage);
    assert_eq!(failure_from_wire(&status), None);
}

#[test]
fn what_another_version_says_is_refused_by_field() {
    let mut message = status(MachineState::Started, None).to_wire();
    message.state = "hibernating".into();
    let error = MachineStatus::from_wire(message.clone()).unwrap_err();
    assert_eq!(error.to_string(), "state: `hibernating` is not known here");
    message.spec = None;
    let error = MachineStatus::from_wire(message).unwrap_err();
    assert_eq!(error.to_string(), "spec: is missing");
    let mut spec = spec().to_wire();
    spec.config = r#"{"image": "a", "colour": "red"}"#.into();
    let error = MachineSpec::from_wire(spec).unwrap_err();
    assert!(error.to_string().contains("colour"), "{error}");
    assert!(NodeView::from_wire(proto::NodeView::default()).is_err());
}

proptest! {
    #[test]
    fn no_message_makes_the_conversion_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        crate::convert::fuzzing::run(&bytes);
    }
}
