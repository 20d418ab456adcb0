//! `why request`: the way of one request through the edge.

use crate::output::{date, printable};
use roost_proto::rest::{RequestAttempt, RequestRecord, RequestSpan, SkippedMachine};

/// The record as people read it.
pub(super) fn explain(record: &RequestRecord) -> String {
    let what = format!("{} {}{}", record.method, record.host, record.path);
    let mut lines = vec![format!(
        "request {} got {} in {}: {}",
        record.request_id,
        record.status,
        time(record.total_us),
        printable(&what)
    )];
    let tls = if record.tls { ", TLS" } else { "" };
    lines.push(format!(
        "it came at {} from {} by {}{tls}",
        date(record.at),
        record.client,
        record.protocol
    ));
    lines.push(format!(
        "the edge of node {} in region {} took it, by table {} of machines",
        record.edge, record.region, record.table_version
    ));
    lines.push(match (&record.app, &record.machine, &record.error) {
        (Some(app), Some(machine), _) => format!("machine {machine} of {app} answered"),
        (app, _, Some(code)) => format!(
            "the edge answered for {}: {code} (`roost help errors {code}`)",
            app.as_ref().map_or("no app", String::as_str)
        ),
        (_, _, None) => "the edge answered".to_owned(),
    });
    if !record.complete {
        lines.push("the response did not go to its end".to_owned());
    }
    let of = |number: Option<u64>| {
        record
            .spans
            .iter()
            .filter(move |span| span.attempt == number)
    };
    for (idx, attempt) in record.attempts.iter().enumerate() {
        let number = u64::try_from(idx + 1).ok();
        lines.extend(attempt_lines(idx + 1, attempt, of(number)));
    }
    lines.push(format!("times: {}", times(of(None))));
    lines.push(format!(
        "first byte after {}, {} bytes of body, trace {}",
        time(record.first_byte_us),
        record.response_bytes,
        record.trace_id
    ));
    lines.join("\n")
}

fn attempt_lines<'a>(
    number: usize,
    attempt: &RequestAttempt,
    spans: impl Iterator<Item = &'a RequestSpan>,
) -> Vec<String> {
    let whom = match (&attempt.machine, &attempt.region) {
        (Some(machine), Some(region)) => match &attempt.node {
            Some(node) => {
                let way = attempt.round_trip_us.map(way).unwrap_or_default();
                format!("machine {machine} in {region}, by the edge of {node}{way}")
            }
            None => format!("machine {machine} in {region}"),
        },
        _ => "no machine".to_owned(),
    };
    let outcome = match (attempt.status, &attempt.error) {
        (Some(status), _) => format!("answered {status}"),
        (None, Some(error)) => printable(error),
        (None, None) => "no answer".to_owned(),
    };
    let times = times(spans);
    let mut lines = vec![format!("attempt {number}: {whom}, {outcome} ({times})")];
    lines.extend(attempt.skipped.iter().map(skipped_line));
    if attempt.skipped_more > 0 {
        lines.push(format!("  nor {} more", attempt.skipped_more));
    }
    if !attempt.followed {
        lines.push("  why not the others was not noted".to_owned());
    }
    lines
}

fn skipped_line(skipped: &SkippedMachine) -> String {
    let place = match (&skipped.node, skipped.round_trip_us) {
        (None, _) => String::new(),
        (Some(node), Some(us)) => format!(", at {node}{}", way(us)),
        (Some(node), None) => format!(", at {node}, no round trip measured"),
    };
    format!(
        "  not {} in {}{place}: {} (serving {})",
        skipped.machine,
        skipped.region,
        printable(&skipped.message),
        skipped.load
    )
}

/// How far a node is.
fn way(round_trip_us: u64) -> String {
    format!(", a round trip of {}", time(round_trip_us))
}

fn times<'a>(spans: impl Iterator<Item = &'a RequestSpan>) -> String {
    let named = spans.map(|span| {
        let name = span.name.replace('_', " ");
        format!("{name} {}", time(span.duration_us))
    });
    named.collect::<Vec<_>>().join(", ")
}

fn time(us: u64) -> String {
    if us < 1000 {
        return format!("{us} µs");
    }
    // Three digits say enough.
    let (ms, tenths) = (us / 1000, us % 1000 / 100);
    match ms {
        0..100 => format!("{ms}.{tenths} ms"),
        100..10_000 => format!("{ms} ms"),
        _ => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
    }
}

#[cfg(test)]
mod tests {
    use super::{attempt_lines, explain, time};
    use serde_json::json;

    #[test]
    fn a_request_is_explained_with_who_was_asked_and_who_was_not() {
        let record = serde_json::from_value(json!({
            "request_id": "01JD", "trace_id": "0af7", "at": 0, "edge": "n1", "region": "local",
            "table_version": 7, "client": "192.0.2.7", "protocol": "HTTP/1.1", "tls": false,
            "method": "GET", "host": "web.localhost", "path": "/a", "app": "web",
            "status": 503, "error": "hard-limit", "response_bytes": 12, "complete": true,
            "first_byte_us": 10_000_400, "total_us": 10_000_500,
            "attempts": [{
                "error": "no machine took the request", "followed": true,
                "skipped": [{"machine": "m1", "region": "local", "reason": "hard-limit",
                    "message": "it was at its hard limit of 2", "load": 2}]
            }],
            "spans": [
                {"name": "route", "start_us": 0, "duration_us": 20},
                {"name": "queue", "attempt": 1, "start_us": 20, "duration_us": 10_000_300}
            ]
        }));
        let text = explain(&record.unwrap());
        for line in [
            "request 01JD got 503 in 10.0 s: GET web.localhost/a",
            "the edge of node n1 in region local took it, by table 7 of machines",
            "the edge answered for web: hard-limit (`roost help errors hard-limit`)",
            "attempt 1: no machine, no machine took the request (queue 10.0 s)",
            "  not m1 in local: it was at its hard limit of 2 (serving 2)",
            "times: route 20 µs",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn machines_of_other_nodes_are_shown_with_the_way_to_them() {
        let skipped = |machine: &str, node: Option<&str>, round_trip_us: Option<u64>| {
            let mut skipped = json!({"machine": machine, "region": "ams", "reason": "farther",
                "message": "a nearer machine could take it", "load": 0});
            skipped["node"] = json!(node);
            skipped["round_trip_us"] = json!(round_trip_us);
            skipped
        };
        let attempt = serde_json::from_value(json!({
            "machine": "m1", "region": "ams", "node": "n2", "round_trip_us": 12_100, "status": 200,
            "followed": true, "skipped": [
                skipped("m2", Some("n3"), Some(80_000)),
                skipped("m3", Some("n4"), None),
                skipped("m4", None, None),
            ]
        }));
        let lines = attempt_lines(1, &attempt.unwrap(), [].iter());
        assert_eq!(
            lines,
            [
                "attempt 1: machine m1 in ams, by the edge of n2, a round trip of 12.1 ms, \
                 answered 200 ()",
                "  not m2 in ams, at n3, a round trip of 80.0 ms: a nearer machine could take it \
                 (serving 0)",
                "  not m3 in ams, at n4, no round trip measured: a nearer machine could take it \
                 (serving 0)",
                "  not m4 in ams: a nearer machine could take it (serving 0)",
            ]
        );
    }

    #[test]
    fn times_have_three_digits() {
        let shown = [7, 1_500, 250_000, 12_340_000].map(time);
        assert_eq!(shown, ["7 µs", "1.5 ms", "250 ms", "12.3 s"]);
    }
}
