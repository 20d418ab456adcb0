//! Whether what is on the host is what the database says, no more and no less.

use crate::node::{APP, Node};
use roost_host::cgroup::Cgroup;
use roost_model::id::MachineId;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the worker's database says of a machine that is not destroyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) state: String,
    wanted: String,
    is_live: bool,
    slot: Option<u32>,
}

/// The machines of the worker's database by id.
pub(crate) fn rows(node: &Node) -> BTreeMap<String, Row> {
    let connection = worker_db(node);
    let mut statement = connection
        .prepare("SELECT id, state, wanted, vm_live, slot FROM machines WHERE state <> 'destroyed'")
        .unwrap();
    let rows = statement.query_map([], |row| {
        let state = Row {
            state: row.get(1)?,
            wanted: row.get(2)?,
            is_live: row.get(3)?,
            slot: row.get(4)?,
        };
        Ok((row.get(0)?, state))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// The worker's database.
fn worker_db(node: &Node) -> Connection {
    open(&node.platform.data_dir().join("worker.db"))
}

fn control_db(node: &Node) -> Connection {
    open(&node.platform.data_dir().join("control.db"))
}

/// Creations that have a node and no machine yet: who asked for one has to ask again.
pub(crate) fn unanswered_creations(node: &Node) -> u32 {
    let sql = "SELECT COUNT(*) FROM placements WHERE machine IS NULL";
    let count = control_db(node).query_row(sql, [], |row| row.get(0));
    count.unwrap()
}

fn open(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

/// Each way in which host, database and machine list differ. What is under way
/// makes differences too, which go by themselves.
pub(crate) fn differences(node: &Node) -> Vec<String> {
    let rows = rows(node);
    let mut found = Found(vec![]);
    found.check_database(node, &rows);
    found.check_control_database(node, &rows);
    if !found.0.is_empty() {
        // The rest will change; it is looked at when nothing is under way.
        return found.0;
    }
    let listed = found.check_list(node, &rows);
    let up: BTreeMap<&String, &Value> = listed
        .iter()
        .filter(|(id, _)| rows.get(*id).is_some_and(|row| row.state == "started"))
        .collect();
    let ids: BTreeSet<String> = up.keys().map(|id| (*id).clone()).collect();
    found.check_processes(node, &up);
    found.same(
        "cgroups",
        &ids,
        &Cgroup::at(&cgroup(node))
            .unwrap()
            .children()
            .into_iter()
            .collect(),
    );
    let run_dir = PathBuf::from(format!("/run/roost-{}/machines", node.tag));
    found.same("run directories", &ids, &names(&run_dir));
    found.same(
        "data directories",
        &ids,
        &names(&node.platform.data_dir().join("machines")),
    );
    found.check_network(node, &up);
    found.check_mounts(node);
    found.check_images(node, &rows);
    found.0
}

fn cgroup(node: &Node) -> String {
    format!("/{}", node.tag.cgroup_name())
}

struct Found(Vec<String>);

impl Found {
    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, wanted: &T, is: &T) {
        if wanted != is {
            self.0
                .push(format!("{what}: should be {wanted:?}, found {is:?}"));
        }
    }

    /// Nothing is under way, and the rows make sense in themselves.
    fn check_database(&mut self, node: &Node, rows: &BTreeMap<String, Row>) {
        let connection = worker_db(node);
        let count = |sql: &str| {
            connection
                .query_row(sql, [], |row| row.get::<_, u32>(0))
                .unwrap()
        };
        let unfinished = "SELECT COUNT(*) FROM runs WHERE ended_ms IS NULL";
        self.same("unfinished operations", &0, &count(unfinished));
        let open_steps = "SELECT COUNT(*) FROM run_steps WHERE ended_ms IS NULL";
        self.same("unfinished steps", &0, &count(open_steps));
        let held = "SELECT COUNT(*) FROM machines WHERE state = 'destroyed' AND (slot IS NOT NULL OR vm_live)";
        self.same("destroyed machines that hold something", &0, &count(held));
        self.same(
            "reservations",
            &0,
            &count("SELECT COUNT(*) FROM reservations"),
        );
        for (id, row) in rows {
            let (state, is_live) = (row.state.as_str(), row.is_live);
            let is_at_rest = match row.wanted.as_str() {
                "run" => state == "started" && is_live,
                "rest" => matches!(state, "created" | "stopped" | "failed") && !is_live,
                _ => false,
            };
            if !is_at_rest || row.slot.is_none() {
                self.0.push(format!("machine {id} is half-way: {row:?}"));
            }
        }
    }

    /// The control plane knows of the same machines.
    fn check_control_database(&mut self, node: &Node, rows: &BTreeMap<String, Row>) {
        let connection = control_db(node);
        let mut statement = connection
            .prepare("SELECT machine, leaving_since IS NOT NULL FROM placements WHERE machine IS NOT NULL ORDER BY machine")
            .unwrap();
        let placed = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        let placed: Vec<(String, bool)> = placed.map(Result::unwrap).collect();
        let wanted = rows.keys().map(|id| (id.clone(), false)).collect();
        self.same("placements", &wanted, &placed);
        let fences = connection.query_row("SELECT COUNT(*) FROM fences", [], |row| row.get(0));
        self.same("fences", &0_u32, &fences.unwrap());
    }

    /// The API lists what the database has.
    fn check_list(&mut self, node: &Node, rows: &BTreeMap<String, Row>) -> BTreeMap<String, Value> {
        let answer = node.call(
            "GET",
            &format!("/v1/apps/{APP}/machines"),
            None,
            &Value::Null,
        );
        let Some((200, Value::Array(machines))) = answer else {
            self.0.push(format!("the machine list: {answer:?}"));
            return BTreeMap::new();
        };
        let text =
            |machine: &Value, key: &str| machine[key].as_str().unwrap_or_default().to_owned();
        let listed: Vec<(String, String)> = machines
            .iter()
            .map(|machine| (text(machine, "id"), text(machine, "state")))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let wanted: Vec<(String, String)> = rows
            .iter()
            .map(|(id, row)| (id.clone(), row.state.clone()))
            .collect();
        self.same("machine list", &wanted, &listed);
        self.same("machines in the list", &machines.len(), &listed.len());
        machines
            .into_iter()
            .map(|machine| (text(&machine, "id"), machine))
            .collect()
    }

    /// One shim and one process per machine that runs, and no other.
    fn check_processes(&mut self, node: &Node, up: &BTreeMap<&String, &Value>) {
        let mut shims: BTreeMap<String, u32> = up.keys().map(|id| ((*id).clone(), 0)).collect();
        for shim in shims_of(node) {
            *shims.entry(shim).or_default() += 1;
        }
        let wanted = shims
            .keys()
            .map(|id| (id.clone(), u32::from(up.contains_key(id))));
        self.same("shims by machine", &wanted.collect(), &shims);
        for (id, machine) in up {
            let pids = Cgroup::at(&format!("{}/{id}", cgroup(node)))
                .unwrap()
                .pids();
            let pid = machine["pid"]
                .as_u64()
                .and_then(|pid| u32::try_from(pid).ok());
            self.same(
                &format!("processes of {id}"),
                &pid.into_iter().collect::<Vec<_>>(),
                &pids,
            );
            let Some(pid) = pid else { continue };
            let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            let roots = mounts.lines().filter(|line| {
                let is_root = line.split(' ').nth(4) == Some("/");
                is_root && line.contains(" - overlay ")
            });
            self.same(&format!("roots of {id}"), &1, &roots.count());
        }
        let cgroup = Cgroup::at(&cgroup(node)).unwrap();
        self.same("processes in all cgroups", &up.len(), &cgroup.pids().len());
    }

    /// One link, one route of each family and one firewall entry per machine.
    fn check_network(&mut self, node: &Node, up: &BTreeMap<&String, &Value>) {
        let name = |id: &str| node.tag.interface_name(&MachineId::parse(id).unwrap());
        let prefix = node.tag.interface_prefix();
        let links = ip(&["link", "show"]);
        let own = links.iter().filter_map(|link| {
            let name = link["ifname"].as_str()?;
            let alias = link["ifalias"].as_str().unwrap_or_default();
            name.starts_with(&prefix)
                .then(|| (name.to_owned(), alias.to_owned()))
        });
        let wanted = up.keys().map(|id| (name(id), (*id).clone()));
        self.same("links", &wanted.collect::<BTreeSet<_>>(), &own.collect());
        for (family, set, key) in [
            ("-4", "sources4", "private_ipv4"),
            ("-6", "sources6", "private_ip"),
        ] {
            let wanted: BTreeSet<(String, String)> = up
                .iter()
                .map(|(id, machine)| {
                    (
                        name(id),
                        machine[key].as_str().unwrap_or_default().to_owned(),
                    )
                })
                .collect();
            let addresses: BTreeSet<&String> = wanted.iter().map(|(_, address)| address).collect();
            self.same("distinct addresses", &up.len(), &addresses.len());
            let routes = ip(&[family, "route", "show"]);
            let routes = routes.iter().filter_map(|route| {
                let (link, to) = (route["dev"].as_str()?, route["dst"].as_str()?);
                // The kernel's own route of each link.
                (link.starts_with(&prefix) && !to.starts_with("fe80:"))
                    .then(|| (link.to_owned(), to.to_owned()))
            });
            // The host's own address is on every link.
            let routes = routes.filter(|(link, to)| {
                let own = wanted.iter().find(|(name, _)| name == link);
                own.is_none_or(|(_, address)| address == to) || !to.ends_with("::1")
            });
            self.same(&format!("routes {family}"), &wanted, &routes.collect());
            let allowed = firewall_set(node, set);
            let allowed = allowed.filter(|(_, address)| !address.starts_with("fe80:"));
            self.same(&format!("firewall {set}"), &wanted, &allowed.collect());
        }
        let link_locals =
            firewall_set(node, "sources6").filter(|(_, address)| address.starts_with("fe80:"));
        let of_links = link_locals.map(|(link, _)| link).collect::<Vec<_>>();
        self.same("link-local addresses", &up.len(), &of_links.len());
        for (id, machine) in up {
            let pid = machine["pid"].as_u64().unwrap_or_default().to_string();
            let own = json_of(
                "nsenter",
                &["-t", &pid, "-n", "ip", "-j", "-4", "addr", "show", "eth0"],
            );
            let own = own[0]["addr_info"][0]["local"].clone();
            self.same(&format!("address in {id}"), &machine["private_ipv4"], &own);
        }
        self.same("rules", &1, &rules(node));
    }

    /// Nothing is mounted on the host itself.
    fn check_mounts(&mut self, node: &Node) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = [
            node.platform.data_dir().display().to_string(),
            format!("/run/roost-{}", node.tag),
        ];
        let left: Vec<&str> = mounts
            .lines()
            .filter(|line| own.iter().any(|path| line.contains(path.as_str())))
            .collect();
        self.same("mounts of the host", &vec![], &left);
    }

    /// Images are held by machines that exist, and by no other.
    fn check_images(&mut self, node: &Node, rows: &BTreeMap<String, Row>) {
        let connection = open(&node.platform.data_dir().join("images/metadata.sqlite"));
        let mut statement = connection
            .prepare("SELECT owner FROM owners WHERE owner LIKE 'machine:%'")
            .unwrap();
        let owners = statement
            .query_map([], |row| row.get::<_, String>(0))
            .unwrap();
        let gone: Vec<String> = owners
            .map(Result::unwrap)
            .filter(|owner| !rows.contains_key(owner.trim_start_matches("machine:")))
            .collect();
        self.same("images held by machines that are gone", &vec![], &gone);
    }
}

/// The machine of each process that has a file of a machine's run directory open.
fn shims_of(node: &Node) -> Vec<String> {
    let run_dir = PathBuf::from(format!("/run/roost-{}/machines", node.tag));
    let own = fs::read_dir("/proc").unwrap().flatten();
    let own = own.filter(|entry| {
        entry
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|b| b.is_ascii_digit())
    });
    own.filter_map(|entry| {
        let program = fs::read_link(entry.path().join("exe")).ok()?;
        if !program
            .file_name()?
            .to_string_lossy()
            .starts_with("roost-shim")
        {
            return None;
        }
        fs::read_dir(entry.path().join("fd"))
            .ok()?
            .flatten()
            .find_map(|file| {
                let path = fs::read_link(file.path()).ok()?;
                let inside = path.strip_prefix(&run_dir).ok()?;
                Some(inside.iter().next()?.to_string_lossy().into_owned())
            })
    })
    .collect()
}

/// What is in a folder; nothing when it is not there.
fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn json_of(program: &str, args: &[&str]) -> Value {
    let output = Command::new(program).args(args).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

fn ip(args: &[&str]) -> Vec<Value> {
    let all = [&["-j"], args].concat();
    json_of("ip", &all).as_array().cloned().unwrap_or_default()
}

/// The links and addresses of a set of the node's table.
fn firewall_set(node: &Node, set: &str) -> impl Iterator<Item = (String, String)> {
    let json = json_of(
        "nft",
        &["-j", "list", "set", "inet", &node.tag.nft_table(), set],
    );
    let elements = json["nftables"][1]["set"]["elem"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    elements.into_iter().map(|element| {
        let part = |n: usize| element["concat"][n].as_str().unwrap_or_default().to_owned();
        (part(0), part(1))
    })
}

/// How many tables the node has.
fn rules(node: &Node) -> usize {
    let output = Command::new("nft")
        .args(["list", "tables"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter(|line| line.ends_with(&node.tag.nft_table()))
        .count()
}
