//! Services from what configs say, and what is refused.

use super::{
    Autostop, ConcurrencyDraft, HttpOptions, PortDraft, PortHandler, PortRange, Protocol,
    ProxyVersion, Service, ServiceDraft, TlsVersion, service_conflicts,
};
use std::time::Duration;

fn draft(ports: Vec<PortDraft>) -> ServiceDraft {
    ServiceDraft {
        internal_port: 5_000,
        ports,
        ..ServiceDraft::default()
    }
}

fn range(first: u16, last: u16, handlers: &[&str]) -> PortDraft {
    PortDraft {
        port: None,
        start_port: Some(first),
        end_port: Some(last),
        ..PortDraft::single(0, handlers)
    }
}

fn faults(draft: ServiceDraft) -> Vec<String> {
    let faults = draft.build().err().unwrap_or_default();
    let line = |fault: super::ServiceFault| format!("{}: {}", fault.key, fault.problem);
    faults.into_iter().map(line).collect()
}

/// The faults of one port alone.
fn refused(port: PortDraft) -> String {
    faults(draft(vec![port])).join("\n")
}

#[test]
fn a_service_without_ports_is_http_on_the_shared_ports() {
    let service = draft(vec![]).build().unwrap();
    assert_eq!(service, Service::http(5_000));
    assert_eq!(service.port(80).unwrap().handler, PortHandler::Http);
    assert_eq!(service.port(443).unwrap().handler, PortHandler::Https);
    assert_eq!(service.port(8_080), None);
    assert_eq!(service.autostop, Autostop::Off);
}

#[test]
fn handlers_are_read_in_any_order_and_read_back() {
    for (handlers, handler, proxy_proto) in [
        (&[][..], PortHandler::Raw, None),
        (&["tcp"], PortHandler::Raw, None),
        (&["tls"], PortHandler::Tls, None),
        (&["http", "tls"], PortHandler::Https, None),
        (&["pg_tls"], PortHandler::PgTls, None),
        (&["proxy_proto"], PortHandler::Raw, Some(ProxyVersion::V1)),
        (
            &["proxy_proto", "tls"],
            PortHandler::Tls,
            Some(ProxyVersion::V1),
        ),
    ] {
        let service = draft(vec![PortDraft::single(9_000, handlers)]);
        let service = service.build().unwrap();
        let port = service.port(9_000).unwrap();
        assert_eq!((port.handler, port.proxy_proto), (handler, proxy_proto));
    }
    for handler in PortHandler::ALL {
        let service = draft(vec![PortDraft::single(9_000, handler.words())]);
        assert_eq!(service.build().unwrap().ports[0].handler, handler);
    }
}

fn each_is_refused<const N: usize>(ports: [(PortDraft, &str); N]) {
    for (port, problem) in ports {
        let found = refused(port.clone());
        assert!(found.starts_with(problem), "{port:?}: {found}");
        assert_eq!(found.lines().count(), 1, "{port:?}: {found}");
    }
}

#[test]
fn what_contradicts_itself_is_refused_and_says_why() {
    let single = PortDraft::single;
    each_is_refused([
        (single(0, &[]), "ports[0]: begins at port 0"),
        (
            PortDraft::default(),
            "ports[0]: needs either port, or start_port and end_port",
        ),
        (
            range(20, 10, &[]),
            "ports[0].end_port: is 10, below the start_port 20",
        ),
        (
            single(22, &["ssh"]),
            "ports[0].handlers: `ssh` is not one of http, tls, pg_tls",
        ),
        (
            single(5_432, &["pg_tls", "http"]),
            "ports[0].handlers: pg_tls is TLS for PostgreSQL",
        ),
        (
            single(5_432, &["pg_tls", "tls"]),
            "ports[0].handlers: pg_tls is TLS for PostgreSQL",
        ),
        (single(80, &[]), "ports[0].handlers: port 80 is plain HTTP"),
        (
            single(80, &["tls", "http"]),
            "ports[0].handlers: port 80 is plain HTTP",
        ),
        (
            single(443, &["http"]),
            "ports[0].handlers: port 80 is plain HTTP",
        ),
        (
            range(400, 500, &[]),
            "ports[0].handlers: port 80 is plain HTTP",
        ),
        (
            single(8_080, &["http", "proxy_proto"]),
            "ports[0].handlers: the http handler tells the app who its client is",
        ),
    ]);
    let sctp = ServiceDraft {
        protocol: Some("sctp".into()),
        ..draft(vec![])
    };
    assert_eq!(faults(sctp), ["protocol: must be tcp or udp"]);
}

fn udp(ports: Vec<PortDraft>) -> ServiceDraft {
    ServiceDraft {
        protocol: Some("udp".into()),
        ..draft(ports)
    }
}

#[test]
fn a_udp_service_has_ports_of_its_own_and_nothing_that_is_done_to_streams() {
    let service = udp(vec![range(79, 81, &[])]).build().unwrap();
    assert_eq!(service.protocol, Protocol::Udp);
    assert!(service.port(80).is_some() && !service.has_url());
    let tcp = draft(vec![PortDraft::single(80, &["http"])])
        .build()
        .unwrap();
    assert!(service_conflicts(&[tcp, service.clone()]).is_empty());
    assert_eq!(
        service_conflicts(&[service.clone(), service]).len(),
        1,
        "two at one port"
    );
    let all = PortDraft {
        force_https: true,
        http: Some(HttpOptions::default()),
        alpn: Some(vec![]),
        proxy_proto_version: Some("v2".into()),
        ..PortDraft::single(53, &["tls"])
    };
    let refused = faults(udp(vec![all]));
    for (fault, key) in refused.iter().zip([
        "handlers",
        "force_https",
        "http_options",
        "tls_options",
        "proxy_proto_options",
    ]) {
        assert!(
            fault.starts_with(&format!("ports[0].{key}: is for tcp services")),
            "{fault}"
        );
    }
    assert_eq!(refused.len(), 5);
    assert_eq!(
        faults(udp(vec![])),
        ["ports: are to be named: a udp service has no usual ones"]
    );
}

#[test]
fn options_of_other_handlers_are_refused_and_say_so() {
    let single = PortDraft::single;
    each_is_refused([
        (
            PortDraft {
                force_https: true,
                ..single(9_000, &[])
            },
            "ports[0].force_https: is for ports with the http handler",
        ),
        (
            PortDraft {
                http: Some(HttpOptions::default()),
                ..single(9_000, &["tls"])
            },
            "ports[0].http_options: is for ports with the http handler",
        ),
        (
            PortDraft {
                alpn: Some(vec!["mqtt".into()]),
                ..single(9_000, &[])
            },
            "ports[0].tls_options: is for ports with the tls or pg_tls handler",
        ),
        (
            PortDraft {
                alpn: Some(vec!["mqtt".into()]),
                ..single(443, &["tls", "http"])
            },
            "ports[0].tls_options.alpn: the http handler speaks h2 and http/1.1 only",
        ),
        (
            PortDraft {
                versions: Some(vec!["SSLv3".into()]),
                ..single(9_000, &["tls"])
            },
            "ports[0].tls_options.versions: must be a list of TLSv1.2 and TLSv1.3",
        ),
        (
            PortDraft {
                proxy_proto_version: Some("v2".into()),
                ..single(9_000, &[])
            },
            "ports[0].proxy_proto_options: is for ports with the proxy_proto handler",
        ),
        (
            PortDraft {
                proxy_proto_version: Some("v3".into()),
                ..single(9_000, &["proxy_proto"])
            },
            "ports[0].proxy_proto_options.version: must be \"v1\" or \"v2\"",
        ),
    ]);
}

#[test]
fn concurrency_has_its_defaults_and_its_soft_limit_is_not_above_the_hard_one() {
    let with = |kind: &str, soft_limit, hard_limit| ServiceDraft {
        concurrency: ConcurrencyDraft {
            kind: Some(kind.into()),
            soft_limit,
            hard_limit,
        },
        ..draft(vec![])
    };
    let limits = |soft, hard| {
        let service = with("requests", soft, hard).build().unwrap();
        (
            service.concurrency.soft_limit,
            service.concurrency.hard_limit,
        )
    };
    assert_eq!(limits(None, None), (20, None));
    assert_eq!(limits(None, Some(5)), (5, Some(5)));
    assert_eq!(limits(Some(30), Some(40)), (30, Some(40)));
    let found = faults(with("requests", Some(30), Some(20)));
    assert_eq!(
        found,
        ["concurrency.soft_limit: is 30, above the hard limit of 20"]
    );
    let found = faults(with("threads", Some(0), Some(0)));
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn response_headers_are_lower_case_and_never_frame_the_response() {
    let with = |name: &str, values: &[&str]| PortDraft {
        http: Some(HttpOptions {
            response_headers: [(name.into(), values.iter().map(|&v| v.into()).collect())].into(),
            ..HttpOptions::default()
        }),
        ..PortDraft::single(8_080, &["http"])
    };
    let service = draft(vec![with("X-Frame-Options", &["DENY"])])
        .build()
        .unwrap();
    assert_eq!(
        service.ports[0].http.response_headers["x-frame-options"],
        ["DENY"]
    );
    for (name, values, problem) in [
        ("a b", &["x"][..], "is not the name of a header"),
        ("Content-Length", &["0"], "is the edge's to say"),
        (
            "x",
            &["a\r\nb: c"],
            "has a value with other than printable ASCII",
        ),
        ("x", &["a"; 33], "more than 32 headers"),
    ] {
        let found = refused(with(name, values));
        assert!(found.contains(problem), "{found}");
    }
    let mut late = with("x", &[]);
    late.http.as_mut().unwrap().idle_timeout = Some(Duration::from_secs(3_601));
    let found = refused(late);
    assert_eq!(
        found,
        "ports[0].http_options.idle_timeout: must be 1 to 3600 s"
    );
}

#[test]
fn versions_of_tls_are_one_or_both() {
    let only = |versions: &[&str]| {
        let versions = versions.iter().map(|&v| v.to_owned()).collect();
        let port = PortDraft {
            versions: Some(versions),
            ..PortDraft::single(9_000, &["tls"])
        };
        draft(vec![port]).build().unwrap().ports[0].tls.only
    };
    assert_eq!(only(&[]), None);
    assert_eq!(only(&["TLSv1.3"]), Some(TlsVersion::V13));
    assert_eq!(only(&["TLSv1.3", "TLSv1.2"]), None);
}

#[test]
fn services_of_one_machine_share_no_external_port() {
    let service = |ports| draft(ports).build().unwrap();
    let apart = [
        service(vec![range(10, 20, &[]), PortDraft::single(21, &["tls"])]),
        service(vec![]),
    ];
    assert_eq!(service_conflicts(&apart), []);
    let [first, second] = apart;
    let third = service(vec![range(15, 30, &[])]);
    let found = service_conflicts(&[first.clone(), second, third]);
    assert_eq!(found[0].0, 2);
    assert_eq!(found[0].1.key, "ports[0]");
    assert_eq!(
        found[0].1.problem,
        "port 15-30: another service has it already"
    );
    let many = service(vec![range(1_000, 1_256, &[])]);
    let problem = &service_conflicts(&[many])[0].1.problem;
    assert_eq!(
        problem,
        "257 ports with those of all services, and 256 is the most"
    );
    let twice = service(vec![PortDraft::single(21, &[]), PortDraft::single(21, &[])]);
    let problem = &service_conflicts(&[twice])[0].1.problem;
    assert_eq!(problem, "port 21: this service has it already");
    assert!(
        first.ports[0].ports
            == PortRange {
                first: 10,
                last: 20
            }
    );
}
