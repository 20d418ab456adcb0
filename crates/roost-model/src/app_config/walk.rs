//! Checks a tree against the table of keys, after old spellings were replaced.

use super::Findings;
use super::keys::{ALIASES, Kind, Status, names_under, rule};
use super::tree::{Entry, Node, Value};
use crate::duration::parse_go_duration;
use crate::nearest::nearest;
use crate::size::ByteSize;

/// Replaces old spellings by those of today.
pub(super) fn normalise(root: &mut Node) {
    let Value::Table(entries) = &mut root.value else {
        return;
    };
    rename(entries, "");
    for entry in entries.iter_mut() {
        match entry.key.as_str() {
            "build" => {
                if let Value::Table(build) = &mut entry.node.value {
                    rename(build, "build");
                }
            }
            "processes" => merge_list(&mut entry.node, |item| {
                let name = item.get("name")?.text()?.to_owned();
                Some((name, item.get("command")?.clone()))
            }),
            "checks" => merge_list(&mut entry.node, |item| {
                let name = item.get("name")?.text()?.to_owned();
                let rest = item
                    .entries()
                    .iter()
                    .filter(|entry| entry.key != "name")
                    .cloned()
                    .collect();
                Some((
                    name,
                    Node {
                        line: item.line,
                        value: Value::Table(rest),
                    },
                ))
            }),
            "env" => flatten_list(&mut entry.node),
            "http_service" => split_concurrency(&mut entry.node),
            "services" => match &mut entry.node.value {
                Value::List(services) => services.iter_mut().for_each(split_concurrency),
                _ => split_concurrency(&mut entry.node),
            },
            _ => {}
        }
    }
}

/// Turns `concurrency = "SOFT,HARD"` of a service into its table.
fn split_concurrency(service: &mut Node) {
    let Value::Table(entries) = &mut service.value else {
        return;
    };
    for entry in entries.iter_mut().filter(|e| e.key == "concurrency") {
        let Some((soft, hard)) = entry.node.text().and_then(|text| text.split_once(',')) else {
            continue;
        };
        let line = entry.node.line;
        let limits = [
            ("type", "requests"),
            ("soft_limit", soft),
            ("hard_limit", hard),
        ];
        let limits = limits.map(|(key, text)| Entry {
            key: key.to_owned(),
            line,
            node: Node {
                line,
                value: Value::Text(text.trim().to_owned()),
            },
        });
        entry.node.value = Value::Table(limits.into());
    }
}

fn rename(entries: &mut [Entry], table: &str) {
    for idx in 0..entries.len() {
        let path = join(table, &entries[idx].key);
        let new = ALIASES
            .iter()
            .find(|(old, _)| *old == path)
            .map(|(_, new)| *new);
        // When both spellings are there, the old one stays and is reported as unknown.
        if let Some(new) = new
            && !entries.iter().any(|entry| entry.key == new)
        {
            entries[idx].key = new.to_owned();
        }
    }
}

/// Turns `[[x]]` items into one table, when every item gives a name and a value.
fn merge_list(node: &mut Node, pair: impl Fn(&Node) -> Option<(String, Node)>) {
    let Value::List(items) = &node.value else {
        return;
    };
    let pairs: Option<Vec<Entry>> = items
        .iter()
        .map(|item| {
            pair(item).map(|(key, value)| Entry {
                key,
                line: item.line,
                node: value,
            })
        })
        .collect();
    if let Some(entries) = pairs {
        node.value = Value::Table(entries);
    }
}

/// Turns `[[env]]` items, each a table of variables, into one table.
fn flatten_list(node: &mut Node) {
    let Value::List(items) = &node.value else {
        return;
    };
    if items
        .iter()
        .all(|item| matches!(item.value, Value::Table(_)))
    {
        node.value = Value::Table(
            items
                .iter()
                .flat_map(|item| item.entries().iter().cloned())
                .collect(),
        );
    }
}

/// Reports unknown keys, values of the wrong kind, and keys without effect.
pub(super) fn check(root: &Node, findings: &mut Findings) {
    check_table(root, "", "", findings);
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    }
}

/// `rule_path` is the path in the table of keys, `shown` the one for people.
fn check_table(table: &Node, rule_path: &str, shown: &str, findings: &mut Findings) {
    for entry in table.entries() {
        let shown = join(shown, &printable(&entry.key));
        let Some(rule) = rule(&join(rule_path, &entry.key)) else {
            let hint = match nearest(&entry.key, names_under(rule_path)) {
                Some(name) => format!("is not a known key; did you mean `{name}`?"),
                None => "is not a known key".to_owned(),
            };
            findings.error(entry.line, shown, hint);
            continue;
        };
        match rule.status {
            Status::Refused(why) => findings.error(entry.line, shown, format!("is refused: {why}")),
            Status::Warned(why) => findings.warn(entry.line, shown, why),
            Status::Honoured => check_value(&entry.node, rule.kind, rule.path, &shown, findings),
        }
    }
}

/// The key as one may print it: bounded and without control characters.
fn printable(key: &str) -> String {
    key.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn check_value(node: &Node, kind: Kind, rule_path: &str, shown: &str, findings: &mut Findings) {
    match kind {
        Kind::Table if matches!(node.value, Value::Table(_)) => {
            check_table(node, rule_path, shown, findings)
        }
        Kind::Tables
            if node
                .items()
                .iter()
                .all(|item| matches!(item.value, Value::Table(_))) =>
        {
            let is_list = matches!(node.value, Value::List(_));
            for (idx, item) in node.items().iter().enumerate() {
                let shown = if is_list {
                    format!("{shown}[{idx}]")
                } else {
                    shown.to_owned()
                };
                check_table(item, rule_path, &shown, findings);
            }
        }
        Kind::Map if matches!(node.value, Value::Table(_)) => {
            for entry in node.entries() {
                let shown = join(shown, &printable(&entry.key));
                check_value(
                    &entry.node,
                    Kind::Table,
                    &format!("{rule_path}.*"),
                    &shown,
                    findings,
                );
            }
        }
        Kind::Scalars if is_scalars(node) => {
            for entry in node.entries() {
                if entry.node.scalar_text().is_none() {
                    let found = entry.node.kind_name();
                    let shown = join(shown, &printable(&entry.key));
                    findings.error(
                        entry.node.line,
                        shown,
                        format!("must be text, but is {found}"),
                    );
                }
            }
        }
        _ if fits(node, kind) => {}
        _ => {
            let problem = format!("must be {}, but is {}", expected(kind), found(node));
            findings.error(node.line, shown, problem);
        }
    }
}

/// A table, or the old list of `{name, value}` for headers.
fn is_scalars(node: &Node) -> bool {
    match &node.value {
        Value::Table(_) => true,
        Value::List(items) => items
            .iter()
            .all(|item| item.get("name").is_some() && item.get("value").is_some()),
        _ => false,
    }
}

fn fits(node: &Node, kind: Kind) -> bool {
    match kind {
        Kind::Any => true,
        Kind::Text => node.text().is_some(),
        Kind::Integer => node.integer().is_some(),
        Kind::Boolean => node.boolean().is_some(),
        Kind::Fraction => fraction(node).is_some(),
        Kind::Share => share(node).is_some(),
        Kind::Duration => match &node.value {
            Value::Integer(number) => *number >= 0,
            Value::Text(text) => parse_go_duration(text).is_some(),
            _ => false,
        },
        Kind::Size => match &node.value {
            Value::Integer(number) => *number >= 0,
            Value::Text(text) => ByteSize::parse(text).is_some(),
            _ => false,
        },
        Kind::Texts => node.texts().is_some(),
        Kind::CommandLine => node
            .text()
            .is_some_and(|text| shell_words::split(text).is_ok()),
        Kind::Command => node.texts().is_some() || fits(node, Kind::CommandLine),
        Kind::Scalars | Kind::Map | Kind::Table | Kind::Tables => false,
    }
}

/// A count or fraction: `2`, `0.33`, `"25%"`.
pub(super) fn fraction(node: &Node) -> Option<f64> {
    decimal(node).filter(|number| *number > 0.0)
}

/// A part of a whole, which may be none or all: `0`, `0.05`, `"5%"`.
pub(super) fn share(node: &Node) -> Option<f64> {
    decimal(node).filter(|number| (0.0..=1.0).contains(number))
}

fn decimal(node: &Node) -> Option<f64> {
    let number = match &node.value {
        Value::Integer(number) => i32::try_from(*number).ok().map(f64::from)?,
        Value::Float(number) => *number,
        Value::Text(text) => match text.trim().strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().ok()? / 100.0,
            None => text.trim().parse().ok()?,
        },
        _ => return None,
    };
    number.is_finite().then_some(number)
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Integer => "a whole number",
        Kind::Fraction => "a number above 0 or a percentage such as \"25%\"",
        Kind::Share => "a number from 0 to 1 or a percentage such as \"5%\"",
        Kind::Boolean => "true or false",
        Kind::Duration => "a duration such as \"10s\", \"1m30s\" or \"500ms\"",
        Kind::Size => "a size such as \"512mb\" or \"2gb\"",
        Kind::Texts => "a list of text",
        Kind::CommandLine => "a command with balanced quotes",
        Kind::Command => "a command or a list of text",
        Kind::Scalars | Kind::Map | Kind::Table => "a table",
        Kind::Tables => "a table or a list of tables",
        Kind::Any => "a value",
    }
}

fn found(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => format!("text \"{}\"", printable(text)),
        Value::Integer(number) => format!("the number {number}"),
        Value::Boolean(yes) => format!("{yes}"),
        _ => node.kind_name().to_owned(),
    }
}
