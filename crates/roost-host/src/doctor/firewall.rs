//! The firewall of machines, tried as a whole in a network namespace that goes
//! with the trial. When the kernel refuses it, its parts are tried one by one,
//! to name the one that is missing: each is a module of its own.

use super::{ATTEMPT_TIMEOUT, CheckResult};
use crate::instance::InstanceTag;
use crate::net::addresses::NodeNetwork;
use crate::net::firewall::{FLOWS_MAX, Sources, table_script};
use crate::process::{self, NFT, Program, RunProgramError};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// Longest time for all attempts together: the whole, when it hangs, and then
/// the part of it that does.
const CHECK_TIMEOUT: Duration = ATTEMPT_TIMEOUT.saturating_mul(2);
/// A connection table with less room than for so many machines at their limit soon fills up.
const BUSY_MACHINES_MIN: u32 = 4;
const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

const UNSHARE: Program = Program {
    name: "unshare",
    debian_package: "util-linux",
};

/// One thing that the firewall needs.
struct Part {
    name: &'static str,
    module: &'static str,
    /// A table that needs nothing else but what the parts before it need.
    table: &'static str,
}

const PARTS: &[Part] = &[
    Part {
        name: "filters",
        module: "nf_tables",
        table: "chain c { type filter hook input priority filter; meta l4proto tcp accept; }",
    },
    Part {
        name: "connection tracking",
        module: "nft_ct",
        table: "chain c { type filter hook input priority filter; ct state established accept; }",
    },
    Part {
        name: "limits of connections",
        module: "nft_connlimit",
        table: "set s { type ifname; flags dynamic; size 16; }
            chain c { type filter hook forward priority filter;
                ct state new add @s { iifname ct count over 16 } drop; }",
    },
    Part {
        name: "address translation",
        module: "nft_masq",
        table: "chain c { type nat hook postrouting priority srcnat; masquerade; }",
    },
    Part {
        name: "refusals",
        module: "nft_reject_inet",
        table: "chain c { type filter hook output priority filter;
                meta l4proto tcp reject with icmpx type host-unreachable; }",
    },
    Part {
        name: "look at sockets, for private addresses and datagrams",
        module: "nft_socket",
        table: "chain c { type filter hook prerouting priority mangle;
                socket wildcard 0 socket transparent 1 accept; }",
    },
];

/// Tries the rules, and looks at the room that connections have.
pub(super) async fn check() -> Vec<CheckResult> {
    let deadline = Instant::now() + CHECK_TIMEOUT;
    let limit = attempt_limit(deadline);
    match process::run(NFT, &["--version"], b"", limit).await {
        Err(error @ RunProgramError::Missing(_)) => {
            let fix = format!("apt install {}", NFT.debian_package);
            return vec![CheckResult::fail("nftables", error.to_string(), fix)];
        }
        Err(RunProgramError::TimedOut { .. }) => return vec![gave_no_answer("nft --version")],
        // What else is wrong with it shows when it has to do something.
        Ok(_) | Err(_) => {}
    }
    let rules = match own_table() {
        Some(table) => try_rules(&table, PARTS, deadline).await,
        None => CheckResult::warn("nftables", "no rules to try", "report this as a bug"),
    };
    let mut results = vec![rules];
    // There once connections are tracked; the trial has loaded the module.
    let max = std::fs::read_to_string(CONNTRACK_MAX).ok();
    results.extend(
        max.and_then(|text| text.trim().parse().ok())
            .map(check_room),
    );
    results
}

/// The table of an instance like any other.
fn own_table() -> Option<String> {
    let tag = InstanceTag::of_data_dir(Path::new("/"));
    let network = NodeNetwork::choose(tag, &[])?;
    let sources: Sources = network
        .address(0)
        .map(|addresses| ("roost-check0".to_owned(), addresses))
        .into_iter()
        .collect();
    Some(table_script(tag, &network, &sources))
}

fn attempt_limit(deadline: Instant) -> Duration {
    ATTEMPT_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()))
}

fn gave_no_answer(attempt: &str) -> CheckResult {
    let detail = format!("{attempt}: no answer in time");
    let fix = "see what the kernel waits for with: dmesg | tail; and try again when the host is less busy";
    CheckResult::fail("nftables", detail, fix)
}

async fn try_rules(whole: &str, parts: &[Part], deadline: Instant) -> CheckResult {
    let Err(error) = load(whole, deadline).await else {
        let detail = "the rules of machines were made, in a network namespace of their own";
        return CheckResult::pass("nftables", detail);
    };
    for part in parts {
        let table = format!("table inet roost_check {{\n{}\n}}\n", part.table);
        let Part { name, module, .. } = part;
        let error = match load(&table, deadline).await {
            Ok(()) => continue,
            Err(RunProgramError::TimedOut { .. }) => return gave_no_answer(name),
            Err(error) => error,
        };
        let detail = format!("no {name}: {}", first_line(&error));
        let fix = format!(
            "load it with: modprobe {module}; or run as root a kernel that has it: apt install linux-image-amd64"
        );
        return CheckResult::fail("nftables", detail, fix);
    }
    if matches!(error, RunProgramError::TimedOut { .. }) {
        return gave_no_answer("all rules together");
    }
    let fix = "use the kernel and the nftables of Debian 12 or later, as root";
    CheckResult::fail("nftables", first_line(&error), fix)
}

/// `nft` goes on to show the rule.
fn first_line(error: &RunProgramError) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Loads a script where nobody else has rules.
async fn load(script: &str, deadline: Instant) -> Result<(), RunProgramError> {
    let args = ["--net", NFT.name, "-f", "-"];
    let limit = attempt_limit(deadline);
    process::run(UNSHARE, &args, script.as_bytes(), limit)
        .await
        .map(drop)
}

fn check_room(connections_max: u32) -> CheckResult {
    let wanted = FLOWS_MAX.saturating_mul(BUSY_MACHINES_MIN);
    let detail = format!("the host tracks up to {connections_max} connections");
    if connections_max >= wanted {
        return CheckResult::pass("connections", detail);
    }
    CheckResult::warn(
        "connections",
        format!("{detail}, and one machine may have {FLOWS_MAX}"),
        format!("sysctl -w net.netfilter.nf_conntrack_max={}", wanted * 4),
    )
}

#[cfg(test)]
mod tests {
    use super::{CHECK_TIMEOUT, PARTS, Part, check, check_room, load, own_table, try_rules};
    use crate::doctor::CheckStatus;
    use tokio::time::Instant;

    fn can_run() -> bool {
        let is_root = rustix::process::geteuid().is_root();
        if !is_root {
            eprintln!("skipped: needs root");
        }
        is_root
    }

    #[tokio::test]
    async fn the_rules_of_machines_are_tried_and_leave_nothing_here() {
        if !can_run() {
            return;
        }
        let results = check().await;
        assert_eq!(results[0].status, CheckStatus::Pass, "{results:?}");
        let tables = std::process::Command::new("nft")
            .args(["list", "tables"])
            .output()
            .unwrap();
        let tables = String::from_utf8(tables.stdout).unwrap();
        let name = own_table().unwrap();
        let name = name.split(' ').nth(2).unwrap();
        assert!(
            !tables.contains(name) && !tables.contains("roost_check"),
            "{tables}"
        );
    }

    /// What a kernel lacks is found by the parts, so each is in the rules and works where they do.
    #[tokio::test]
    async fn each_part_is_one_of_the_rules_and_can_be_made_alone() {
        let whole = own_table().unwrap();
        let words = [
            "meta ",
            "ct state",
            "ct count",
            "masquerade",
            "reject",
            "socket wildcard",
        ];
        assert_eq!(words.len(), PARTS.len());
        for (part, word) in PARTS.iter().zip(words) {
            assert!(whole.contains(word) && part.table.contains(word), "{word}");
        }
        if !can_run() {
            return;
        }
        for part in PARTS {
            let table = format!("table inet roost_check {{\n{}\n}}\n", part.table);
            let made = load(&table, Instant::now() + CHECK_TIMEOUT).await;
            assert!(made.is_ok(), "{}: {made:?}", part.module);
        }
    }

    #[tokio::test]
    async fn a_part_that_the_kernel_lacks_is_named_with_its_module() {
        if !can_run() {
            return;
        }
        let lacking = Part {
            name: "magic",
            module: "nft_magic",
            table: "chain c { magic; }",
        };
        let known = PARTS.iter().map(|part| Part { ..*part });
        let parts: Vec<Part> = known.chain([lacking]).collect();
        let whole = "table inet roost_check {\nchain c { magic; }\n}\n";
        let result = try_rules(whole, &parts, Instant::now() + CHECK_TIMEOUT).await;
        assert_eq!(result.status, CheckStatus::Fail);
        assert!(result.detail.starts_with("no magic: "), "{result:?}");
        assert!(result.fix.unwrap().contains("modprobe nft_magic;"));
    }

    #[tokio::test]
    async fn what_hangs_is_given_up_and_named() {
        let table = own_table().unwrap();
        // Nothing is left of its time.
        let result = try_rules(&table, PARTS, Instant::now()).await;
        assert_eq!(result.status, CheckStatus::Fail);
        assert_eq!(result.detail, "filters: no answer in time");
    }

    #[test]
    fn little_room_for_connections_is_a_warning_with_a_number() {
        assert_eq!(check_room(262_144).status, CheckStatus::Pass);
        let small = check_room(8_192);
        assert_eq!(small.status, CheckStatus::Warn);
        assert_eq!(
            small.fix.as_deref(),
            Some("sysctl -w net.netfilter.nf_conntrack_max=262144")
        );
    }
}
