//! What a config may say about checks.

use super::{Check, CheckDraft, CheckKind, CheckPlace, CheckPurpose, StatusRanges};
use proptest::prelude::*;
use std::time::Duration;

fn draft(kind: &str) -> CheckDraft {
    CheckDraft {
        kind: kind.into(),
        port: Some(80),
        ..CheckDraft::default()
    }
}

fn keys(draft: &CheckDraft, place: CheckPlace) -> Vec<&'static str> {
    let faults = draft.build(place).expect_err("the draft has faults");
    faults.iter().map(|fault| fault.key).collect()
}

#[test]
fn the_place_decides_what_a_check_is_for_and_whose_port_it_asks() {
    let service = CheckPlace::Service { port: 8080 };
    let plain = CheckDraft {
        port: None,
        ..draft("tcp")
    };
    let check = plain.build(service).unwrap();
    assert_eq!(check.kind, CheckKind::Tcp { port: 8080 });
    assert_eq!(check.purpose, CheckPurpose::Readiness);
    assert_eq!(keys(&plain, CheckPlace::Machine), ["port"]);
    let of_machine = draft("tcp").build(CheckPlace::Machine).unwrap();
    assert_eq!(of_machine.purpose, CheckPurpose::Informational);
    for (purpose, place) in [
        ("informational", service),
        ("liveness", CheckPlace::Machine),
    ] {
        let draft = CheckDraft {
            purpose: Some(purpose.into()),
            ..draft("tcp")
        };
        assert_eq!(keys(&draft, place), ["kind"], "{purpose}");
    }
}

#[test]
fn a_check_that_stops_its_machine_is_patient_unless_told_otherwise() {
    let stops = CheckDraft {
        unhealthy: Some("stop".into()),
        ..draft("tcp")
    };
    let check = stops.build(CheckPlace::Machine).unwrap();
    assert!(check.stops_unhealthy && check.failure_threshold == Check::STOP_THRESHOLD_DEFAULT);
    let impatient = CheckDraft {
        failure_threshold: Some(1),
        ..stops
    };
    assert_eq!(
        impatient
            .build(CheckPlace::Machine)
            .unwrap()
            .failure_threshold,
        1
    );
}

#[test]
fn keys_of_other_types_are_refused_by_name() {
    let all = CheckDraft {
        method: Some("GET".into()),
        path: Some("/".into()),
        protocol: Some("https".into()),
        headers: [("a".into(), "b".into())].into(),
        tls_server_name: Some("a.example".into()),
        tls_skip_verify: true,
        expected_statuses: Some(vec!["200".into()]),
        grpc_service: Some("a.B".into()),
        command: Some(vec!["true".into()]),
        ..draft("tcp")
    };
    let of_http = ["method", "path", "headers", "expected_statuses"];
    let of_tls = ["protocol", "tls_server_name", "tls_skip_verify"];
    let others = ["grpc_service", "command"];
    assert_eq!(
        keys(&all, CheckPlace::Machine),
        [&of_http[..], &of_tls, &others].concat()
    );
    let of_exec = CheckDraft {
        kind: "exec".into(),
        ..all.clone()
    };
    assert_eq!(keys(&of_exec, CheckPlace::Machine)[0], "port");
    let of_nothing = CheckDraft {
        kind: "icmp".into(),
        ..all
    };
    assert_eq!(keys(&of_nothing, CheckPlace::Machine), ["type"]);
}

#[test]
fn values_that_no_check_can_use_are_refused() {
    type Change = fn(&mut CheckDraft);
    let of_http: [(&str, Change); 17] = [
        ("path", |draft| draft.path = Some("up".into())),
        ("path", |draft| draft.path = Some("/a b".into())),
        ("method", |draft| draft.method = Some("GE T".into())),
        ("method", |draft| draft.method = Some("connect".into())),
        ("protocol", |draft| draft.protocol = Some("ftp".into())),
        ("tls_skip_verify", |draft| draft.tls_skip_verify = true),
        ("tls_server_name", |draft| {
            draft.protocol = Some("https".into());
            draft.tls_server_name = Some("-a..b".into());
        }),
        ("expected_statuses", |draft| {
            draft.expected_statuses = Some(vec![])
        }),
        ("interval", |draft| draft.interval = Some(Duration::ZERO)),
        ("interval", |draft| draft.interval = Some(Duration::MAX)),
        ("timeout", |draft| {
            draft.timeout = Some(Duration::from_secs(61))
        }),
        ("grace_period", |draft| {
            draft.grace_period = Some(Duration::MAX)
        }),
        ("failure_threshold", |draft| {
            draft.failure_threshold = Some(0)
        }),
        ("success_threshold", |draft| {
            draft.success_threshold = Some(101)
        }),
        ("unhealthy", |draft| {
            draft.unhealthy = Some("restart".into())
        }),
        ("port", |draft| draft.port = Some(0)),
        ("command", |draft| {
            (draft.kind, draft.port) = ("exec".into(), None)
        }),
    ];
    for (key, change) in of_http {
        let mut bad = draft("http");
        change(&mut bad);
        assert_eq!(keys(&bad, CheckPlace::Machine), [key], "{bad:?}");
    }
    for (name, value) in [("a b", "c"), ("a", "b\r\nc: d"), ("Content-Length", "10")] {
        let mut bad = draft("http");
        bad.headers.insert(name.into(), value.into());
        assert_eq!(keys(&bad, CheckPlace::Machine), ["headers"], "{bad:?}");
    }
}

#[test]
fn statuses_are_single_ones_and_ranges() {
    let ranges = StatusRanges::parse(&["200-299", "404"]).unwrap();
    assert!(ranges.contains(200) && ranges.contains(299) && ranges.contains(404));
    assert!(!ranges.contains(300) && !ranges.contains(403));
    assert_eq!(ranges.to_texts(), ["200-299", "404"]);
    for bad in [
        "",
        "2xx",
        "200-",
        "-200",
        "299-200",
        "99",
        "600",
        "+200",
        "200-299-300",
    ] {
        assert!(StatusRanges::parse(&[bad]).is_err(), "{bad}");
    }
}

#[test]
fn a_check_of_a_machine_is_not_mistaken_for_one_of_a_service() {
    assert_eq!(Check::name_problem("alive"), None);
    for bad in ["", "servicecheck-00-tcp-80", "a\nb", &"a".repeat(65)] {
        assert!(Check::name_problem(bad).is_some(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn what_statuses_are_written_as_reads_back(texts in prop::collection::vec("[1-5][0-9]{2}(-5[0-9]{2})?", 1..16)) {
        if let Ok(ranges) = StatusRanges::parse(&texts) {
            prop_assert_eq!(StatusRanges::parse(&ranges.to_texts()).unwrap(), ranges);
        }
    }
}
