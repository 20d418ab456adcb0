//! From a checked tree to an [`AppConfig`]: values, ranges and what belongs together.
//!
//! Values of the wrong kind were reported before; here they read as absent.

mod checks;
mod deploy;
mod services;

use super::tree::{Node, Value};
use super::walk::{fraction, share};
use super::{
    AppConfig, BuildSection, FileSection, FileSource, Findings, RestartSection, VmSection,
};
use crate::duration::parse_go_duration;
use crate::limits;
use crate::machine::{Guest, Isolation, StaticFolder, StopSignal, statics_conflict};
use crate::name::{AppName, check_env_name};
use crate::size::ByteSize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The one process group that roost runs.
const GROUP: &str = "app";
/// What an integer duration counts.
#[derive(Clone, Copy)]
enum Unit {
    Seconds,
    Milliseconds,
}

pub(super) fn app_config(root: &Node, findings: &mut Findings) -> AppConfig {
    let app = text(root, "app");
    if let (Some(name), Some(node)) = (&app, root.get("app"))
        && let Err(error) = AppName::parse(name)
    {
        findings.error(node.line, "app", error.problem);
    }
    let experimental = root.get("experimental");
    let in_experimental = |key| experimental.and_then(|table| command(table, key));
    let kill_timeout = duration(root, "kill_timeout", Unit::Seconds)
        .or_else(|| experimental.and_then(|table| duration(table, "kill_timeout", Unit::Seconds)));
    if let (Some(timeout), Some(node)) = (kill_timeout, root.get("kill_timeout"))
        && timeout > Duration::from_secs(limits::STOP_TIMEOUT_MAX_SECONDS)
    {
        findings.error(node.line, "kill_timeout", "is longer than 300 s");
    }
    AppConfig {
        app,
        primary_region: text(root, "primary_region"),
        kill_signal: kill_signal(root, findings),
        kill_timeout,
        isolation: isolation(root, findings),
        swap: swap(root, findings),
        build: build(root, findings),
        deploy: deploy::deploy(root, findings),
        env: env(root, findings),
        process: process(root, findings),
        services: services::of(root, findings),
        checks: checks::of_machine(root, findings),
        vm: vm(root, findings),
        restart: restart(root, findings),
        files: files(root, findings),
        statics: statics(root, findings),
        cmd: in_experimental("cmd"),
        entrypoint: in_experimental("entrypoint"),
        exec: in_experimental("exec"),
    }
}

fn text(table: &Node, key: &str) -> Option<String> {
    table.get(key)?.text().map(str::to_owned)
}

fn flag(table: &Node, key: &str) -> bool {
    table.get(key).and_then(Node::boolean).unwrap_or(false)
}

fn command(table: &Node, key: &str) -> Option<Vec<String>> {
    let node = table.get(key)?;
    node.texts()
        .or_else(|| shell_words::split(node.text()?).ok())
}

fn duration(table: &Node, key: &str, unit: Unit) -> Option<Duration> {
    match &table.get(key)?.value {
        Value::Text(text) => parse_go_duration(text),
        Value::Integer(number) => {
            let number = u64::try_from(*number).ok()?;
            Some(match unit {
                Unit::Seconds => Duration::from_secs(number),
                Unit::Milliseconds => Duration::from_millis(number),
            })
        }
        _ => None,
    }
}

/// The items of `[[key]]`, each with its path for people.
fn tables<'a>(table: &'a Node, key: &str) -> Vec<(String, &'a Node)> {
    let Some(node) = table.get(key) else {
        return Vec::new();
    };
    let is_list = matches!(node.value, Value::List(_));
    let name = |idx| {
        if is_list {
            format!("{key}[{idx}]")
        } else {
            key.to_owned()
        }
    };
    node.items()
        .iter()
        .enumerate()
        .map(|(idx, item)| (name(idx), item))
        .collect()
}

/// A number within a range, or a fault.
fn number<T: TryFrom<i64>>(
    table: &Node,
    key: &str,
    path: &str,
    range: (i64, i64),
    findings: &mut Findings,
) -> Option<T> {
    let node = table.get(key)?;
    let value = node.integer()?;
    if !(range.0..=range.1).contains(&value) {
        findings.error(
            node.line,
            format!("{path}{key}"),
            format!(
                "must be between {} and {}, but is {value}",
                range.0, range.1
            ),
        );
        return None;
    }
    T::try_from(value).ok()
}

fn kill_signal(root: &Node, findings: &mut Findings) -> Option<StopSignal> {
    let node = root.get("kill_signal")?;
    let signal = StopSignal::parse(node.text()?);
    if signal.is_none() {
        let known = StopSignal::NAMES.join(", ");
        findings.error(node.line, "kill_signal", format!("must be one of {known}"));
    }
    signal
}

fn isolation(root: &Node, findings: &mut Findings) -> Option<Isolation> {
    let node = root.get("isolation")?;
    match Isolation::parse(node.text()?) {
        Ok(isolation) => Some(isolation),
        Err(_) => {
            let known = Isolation::WORDS.join(", ");
            findings.error(node.line, "isolation", format!("must be one of {known}"));
            None
        }
    }
}

fn swap(root: &Node, findings: &mut Findings) -> ByteSize {
    let mib_max = i64::try_from(limits::SWAP_MIB_MAX).unwrap_or(i64::MAX);
    let mib = number(root, "swap_size_mb", "", (0, mib_max), findings);
    ByteSize::mib(mib.unwrap_or(0))
}

fn build(root: &Node, findings: &mut Findings) -> BuildSection {
    let Some(table) = root.get("build") else {
        return BuildSection::default();
    };
    let mut section = BuildSection {
        image: text(table, "image"),
        dockerfile: text(table, "dockerfile"),
        ignorefile: text(table, "ignorefile"),
        target: text(table, "build-target"),
        static_root: text(table, "static"),
        binary: text(table, "binary"),
        ..BuildSection::default()
    };
    for (key, path) in [
        ("dockerfile", &section.dockerfile),
        ("ignorefile", &section.ignorefile),
        ("static", &section.static_root),
        ("binary", &section.binary),
    ] {
        if path
            .as_ref()
            .is_some_and(|path| path.starts_with('/') || path.split('/').any(|part| part == ".."))
        {
            findings.error(
                line_of(table, key),
                format!("build.{key}"),
                "must be a path inside the app's folder",
            );
        }
    }
    let methods = [
        &section.image,
        &section.dockerfile,
        &section.static_root,
        &section.binary,
    ];
    if methods.iter().filter(|method| method.is_some()).count() > 1 {
        let problem = "names more than one way to get an image; keep one of image, dockerfile, static, binary";
        findings.error(table.line, "build", problem);
    }
    if let Some(args) = table.get("args") {
        match (&args.value, section.binary.is_some()) {
            (Value::Table(_), false) => section.args = scalars(table, "args"),
            (Value::List(_), true) => match args.texts() {
                Some(texts) => section.binary_args = texts,
                None => findings.error(args.line, "build.args", "must be a list of text"),
            },
            (_, true) => findings.error(
                args.line,
                "build.args",
                "must be a list of text: the arguments of `build.binary`",
            ),
            (_, false) => findings.error(
                args.line,
                "build.args",
                "must be a table of build arguments",
            ),
        }
    }
    section
}

fn line_of(table: &Node, key: &str) -> usize {
    table.get(key).map_or(table.line, |node| node.line)
}

fn scalars(table: &Node, key: &str) -> BTreeMap<String, String> {
    let Some(node) = table.get(key) else {
        return BTreeMap::new();
    };
    match &node.value {
        Value::List(items) => items
            .iter()
            .filter_map(|item| Some((text(item, "name")?, item.get("value")?.scalar_text()?)))
            .collect(),
        _ => node
            .entries()
            .iter()
            .filter_map(|entry| Some((entry.key.clone(), entry.node.scalar_text()?)))
            .collect(),
    }
}

fn env(root: &Node, findings: &mut Findings) -> BTreeMap<String, String> {
    for entry in root.get("env").map_or(&[][..], Node::entries) {
        if let Err(error) = check_env_name("variable name", &entry.key) {
            findings.error(entry.line, format!("env.{}", error.text), error.problem);
        }
    }
    scalars(root, "env")
}

fn process(root: &Node, findings: &mut Findings) -> Option<Vec<String>> {
    let table = root.get("processes")?;
    if let Some(other) = table.entries().iter().find(|entry| entry.key != GROUP) {
        let problem =
            "is refused: several process groups are not supported yet; only the group `app` runs";
        findings.error(other.line, "processes", problem);
    }
    let node = table.get(GROUP)?;
    match shell_words::split(node.text()?) {
        Ok(words) => (!words.is_empty()).then_some(words),
        Err(_) => {
            findings.error(node.line, "processes.app", "has a quote that is not closed");
            None
        }
    }
}

/// `processes = [...]` of a section may only name the one group.
fn check_groups(table: &Node, path: &str, findings: &mut Findings) {
    let Some(node) = table.get("processes") else {
        return;
    };
    if let Some(other) = node
        .texts()
        .unwrap_or_default()
        .iter()
        .find(|name| *name != GROUP)
    {
        let problem = format!("names the group `{other}`, but only the group `app` runs");
        findings.error(node.line, format!("{path}.processes"), problem);
    }
}

fn vm(root: &Node, findings: &mut Findings) -> Option<VmSection> {
    let items = tables(root, "vm");
    for (path, item) in items.iter().skip(1) {
        findings.error(
            item.line,
            path.clone(),
            "is one too many: there is only one process group",
        );
    }
    let (path, table) = items.into_iter().next()?;
    check_groups(table, &path, findings);
    if let Some(node) = table.get("size")
        && let Some(size) = node.text()
        && let Err(unknown) = Guest::preset(size)
    {
        findings.error(node.line, format!("{path}.size"), unknown.to_string());
    }
    if let Some(node) = table.get("persist_rootfs")
        && node.text().is_some_and(|text| text != "never")
    {
        let problem = "is refused: the root file system does not outlive a machine yet, so data would be lost; only \"never\"";
        findings.error(node.line, format!("{path}.persist_rootfs"), problem);
    }
    let cpu_kind = text(table, "cpu_kind");
    if cpu_kind
        .as_ref()
        .is_some_and(|kind| kind != "shared" && kind != "performance")
    {
        findings.error(
            line_of(table, "cpu_kind"),
            format!("{path}.cpu_kind"),
            "must be \"shared\" or \"performance\"",
        );
    }
    let prefix = format!("{path}.");
    let mib = number(table, "memory_mb", &prefix, (16, 131_072), findings).map(ByteSize::mib);
    let memory = mib.or_else(|| memory(table));
    if let Some(memory) = memory
        && !(limits::MEMORY_MIB_MIN..=131_072).contains(&memory.as_mib())
    {
        findings.error(
            line_of(table, "memory"),
            format!("{path}.memory"),
            "is not between 16 MiB and 128 GiB",
        );
    }
    let cpus = number(table, "cpus", &prefix, (1, 16), findings);
    Some(VmSection {
        size: text(table, "size"),
        memory,
        cpus,
        cpu_kind,
    })
}

/// An integer counts megabytes, and so does text without a unit.
fn memory(table: &Node) -> Option<ByteSize> {
    let node = table.get("memory")?;
    match node.integer() {
        Some(mib) => u64::try_from(mib)
            .ok()
            .filter(|mib| *mib <= 1 << 30)
            .map(ByteSize::mib)
            .or(Some(ByteSize(u64::MAX))),
        None => ByteSize::parse(node.text()?),
    }
}

fn restart(root: &Node, findings: &mut Findings) -> Option<RestartSection> {
    let items = tables(root, "restart");
    for (path, item) in &items {
        check_groups(item, path, findings);
    }
    // The last one that matches wins, as in flyctl; all match the one group.
    let (path, table) = items.into_iter().next_back()?;
    let policy = match table.get("policy").map(Node::text) {
        Some(Some("never" | "no")) => "no",
        Some(Some("always")) => "always",
        None | Some(Some("on-failure")) => "on-failure",
        _ => {
            let problem = "must be one of always, never, on-failure";
            findings.error(line_of(table, "policy"), format!("{path}.policy"), problem);
            "no"
        }
    };
    let retries = number(table, "retries", &format!("{path}."), (0, 10_000), findings);
    Some(RestartSection {
        policy: policy.to_owned(),
        retries,
    })
}

fn files(root: &Node, findings: &mut Findings) -> Vec<FileSection> {
    let mut files = Vec::new();
    for (path, table) in tables(root, "files") {
        check_groups(table, &path, findings);
        let guest_path = text(table, "guest_path").unwrap_or_default();
        if !guest_path.starts_with('/') || guest_path.split('/').any(|part| part == "..") {
            let line = line_of(table, "guest_path");
            findings.error(
                line,
                format!("{path}.guest_path"),
                "must be an absolute path without `..`",
            );
        }
        let source = match (text(table, "raw_value"), text(table, "local_path")) {
            (Some(text), None) => FileSource::Text(text),
            (None, Some(local)) => FileSource::LocalPath(local),
            // A secret was refused already; do not report the same item twice.
            _ if table.get("secret_name").is_some() => continue,
            _ => {
                findings.error(
                    table.line,
                    path,
                    "needs exactly one of raw_value and local_path",
                );
                continue;
            }
        };
        files.push(FileSection { guest_path, source });
    }
    files
}

fn statics(root: &Node, findings: &mut Findings) -> Vec<StaticFolder> {
    let mut folders = Vec::new();
    let tables = tables(root, "statics");
    for (path, table) in &tables {
        let of_table = |key| text(table, key).unwrap_or_default();
        let index = text(table, "index_document");
        let (guest_path, url_prefix) = (of_table("guest_path"), of_table("url_prefix"));
        match StaticFolder::new(&guest_path, &url_prefix, index.as_deref()) {
            Ok(folder) => folders.push(folder),
            // What is in a bucket was refused already.
            Err(_) if table.get("tigris_bucket").is_some() => {}
            Err(fault) => {
                let line = line_of(table, fault.key);
                findings.error(line, format!("{path}.{}", fault.key), fault.problem);
            }
        }
    }
    if folders.len() == tables.len()
        && let Some((idx, problem)) = statics_conflict(&folders)
    {
        let (path, table) = &tables[idx];
        findings.error(table.line, path.clone(), problem);
    }
    let is_container = text(root, "isolation").is_some_and(|rung| rung == "container");
    if let Some((_, first)) = tables.first().filter(|_| !is_container) {
        let why = "only machines in containers are looked into: in VMs these requests go to the \
                   app (`isolation = \"container\"` makes sure)";
        findings.warn(first.line, "statics", why);
    }
    folders
}
