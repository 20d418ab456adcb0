//! The options of a platform, kept beside its data.
//!
//! `roost up` after a reboot or a crash means the platform as it was: what is
//! not said on the command line is as it was the last time. What is given an
//! empty value has its default again.

use crate::args::UpArgs;
use crate::error::CliError;
use crate::settings::write_private;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// What `roostd` is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Port of the API.
    pub(crate) api_port: u16,
    /// Port of the edge for HTTP.
    pub(crate) http_port: u16,
    /// Port of the edge for HTTPS.
    pub(crate) https_port: u16,
    /// Address the edge listens on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<String>,
    /// Domains under which every app gets a name.
    #[serde(default)]
    pub(crate) domains: Vec<String>,
    /// The public address of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) public_ip: Option<String>,
    /// Proxies in front of the edge that say who its clients are.
    #[serde(default)]
    pub(crate) proxies: Vec<String>,
    /// Addresses of this machine that apps may have for themselves.
    #[serde(default)]
    pub(crate) edge_addresses: Vec<String>,
    /// Where the edge takes requests from edges of other nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) edge_peers_listen: Option<String>,
    /// Edges of other nodes.
    #[serde(default)]
    pub(crate) edge_peers: Vec<String>,
    /// The region of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) region: Option<String>,
    /// What runs the machines of apps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) runtime: Option<String>,
    /// Registries that are spoken to in plain HTTP.
    #[serde(default)]
    pub(crate) insecure_registries: Vec<String>,
    /// Most bytes of images kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) images_max: Option<String>,
    /// Memory for machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<String>,
    /// Shared CPUs promised for each there is, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) overcommit_cpu: Option<String>,
    /// Memory promised to machines with shared CPUs, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) overcommit_memory: Option<String>,
    /// Which requests the access log has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) access_log: Option<String>,
    /// How long connections may go on in a `roostd` that was replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) drain_timeout: Option<String>,
    /// How long machines are without traffic before they sleep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) autostop_after: Option<String>,
    /// The directory of the authority that issues certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) acme_directory: Option<String>,
    /// Whom it may write to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) acme_email: Option<String>,
    /// More roots for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) acme_root: Option<PathBuf>,
    /// The roost-shim program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shim: Option<PathBuf>,
    /// The roost-vm program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vm: Option<PathBuf>,
    /// The folder of what VMs boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) guest: Option<PathBuf>,
    /// QEMU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) qemu: Option<PathBuf>,
    /// Firecracker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) firecracker: Option<PathBuf>,
    /// Firecracker's jailer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) jailer: Option<PathBuf>,
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("up.json")
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn without_empty(values: &[String]) -> Vec<String> {
    let values = values.iter().filter(|value| !value.is_empty());
    values.cloned().collect()
}

impl Options {
    /// What the command line says, else what was the last time, else the defaults; an empty value
    /// is the default.
    pub(crate) fn choose(args: &UpArgs, last: Option<&Self>) -> Self {
        let port = |asked: Option<u16>, of: fn(&Self) -> u16, default| {
            asked.or_else(|| last.map(of)).unwrap_or(default)
        };
        let text = |asked: &Option<String>, of: fn(&Self) -> &Option<String>| {
            let chosen = asked.clone().or_else(|| of(last?).clone());
            chosen.filter(|value| !value.is_empty())
        };
        let list = |asked: &Vec<String>, of: fn(&Self) -> &Vec<String>| match last {
            Some(last) if asked.is_empty() => of(last).clone(),
            _ => without_empty(asked),
        };
        let file = |asked: &Option<PathBuf>, of: fn(&Self) -> &Option<PathBuf>| {
            let chosen = asked.clone().or_else(|| of(last?).clone());
            let chosen = chosen.filter(|path| !path.as_os_str().is_empty());
            chosen.as_deref().map(absolute)
        };
        // A name without a slash is looked up in PATH by `roostd`, or is `library`.
        let runtime = args.runtime.clone().map(|runtime| {
            if runtime.contains('/') {
                absolute(Path::new(&runtime)).display().to_string()
            } else {
                runtime
            }
        });
        Self {
            api_port: port(args.api_port, |last| last.api_port, 4280),
            http_port: port(args.http_port, |last| last.http_port, 8080),
            https_port: port(args.https_port, |last| last.https_port, 8443),
            listen: text(&args.listen, |last| &last.listen),
            domains: list(&args.domains, |last| &last.domains),
            public_ip: text(&args.public_ip, |last| &last.public_ip),
            proxies: list(&args.proxies, |last| &last.proxies),
            edge_addresses: list(&args.edge_addresses, |last| &last.edge_addresses),
            edge_peers_listen: text(&args.edge_peers_listen, |last| &last.edge_peers_listen),
            edge_peers: list(&args.edge_peers, |last| &last.edge_peers),
            region: text(&args.region, |last| &last.region),
            runtime: text(&runtime, |last| &last.runtime),
            insecure_registries: list(&args.insecure_registries, |last| &last.insecure_registries),
            images_max: text(&args.images_max, |last| &last.images_max),
            memory: text(&args.memory, |last| &last.memory),
            overcommit_cpu: text(&args.overcommit_cpu, |last| &last.overcommit_cpu),
            overcommit_memory: text(&args.overcommit_memory, |last| &last.overcommit_memory),
            access_log: text(&args.access_log, |last| &last.access_log),
            drain_timeout: text(&args.drain_timeout, |last| &last.drain_timeout),
            autostop_after: text(&args.autostop_after, |last| &last.autostop_after),
            acme_directory: text(&args.acme_directory, |last| &last.acme_directory),
            acme_email: text(&args.acme_email, |last| &last.acme_email),
            acme_root: file(&args.acme_root, |last| &last.acme_root),
            shim: file(&args.shim, |last| &last.shim),
            vm: file(&args.vm, |last| &last.vm),
            guest: file(&args.guest, |last| &last.guest),
            qemu: file(&args.qemu, |last| &last.qemu),
            firecracker: file(&args.firecracker, |last| &last.firecracker),
            jailer: file(&args.jailer, |last| &last.jailer),
        }
    }

    /// Where the API answers: at the address that `roostd` listens on, if it is a certain one.
    pub(crate) fn api_url(&self) -> String {
        let listen = self.listen.as_deref().and_then(|text| text.parse().ok());
        let listen = listen.filter(|ip: &IpAddr| !ip.is_unspecified());
        let ip = listen.unwrap_or(Ipv4Addr::LOCALHOST.into());
        format!("http://{}", SocketAddr::new(ip, self.api_port))
    }

    /// What `roostd` would refuse of how they go together.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        if self.edge_peers.is_empty() || self.edge_peers_listen.is_some() {
            return Ok(());
        }
        let peers = self.edge_peers.join(" ");
        let problem = format!("--edge-peer {peers} needs --edge-peers-listen");
        Err(CliError::usage(problem).hint(
            "say with --edge-peers-listen ADDRESS:PORT where this edge takes requests of others, \
             or take the peers back with --edge-peer ''",
        ))
    }

    /// The flags of `roostd`, with `--flag value` as two texts.
    fn flags(&self) -> Vec<[String; 2]> {
        let mut flags = vec![
            ["--api-port".to_owned(), self.api_port.to_string()],
            ["--http-port".to_owned(), self.http_port.to_string()],
            ["--https-port".to_owned(), self.https_port.to_string()],
        ];
        let mut add = |flag: &str, value: &String| flags.push([flag.to_owned(), value.clone()]);
        for (flag, value) in [
            ("--listen", &self.listen),
            ("--public-ip", &self.public_ip),
            ("--edge-peers-listen", &self.edge_peers_listen),
            ("--region", &self.region),
            ("--runtime", &self.runtime),
            ("--images-max", &self.images_max),
            ("--memory", &self.memory),
            ("--overcommit-cpu", &self.overcommit_cpu),
            ("--overcommit-memory", &self.overcommit_memory),
            ("--access-log", &self.access_log),
            ("--drain-timeout", &self.drain_timeout),
            ("--autostop-after", &self.autostop_after),
            ("--acme-directory", &self.acme_directory),
            ("--acme-email", &self.acme_email),
        ] {
            value.iter().for_each(|value| add(flag, value));
        }
        for (flag, values) in [
            ("--domain", &self.domains),
            ("--proxy", &self.proxies),
            ("--edge-address", &self.edge_addresses),
            ("--edge-peer", &self.edge_peers),
            ("--insecure-registry", &self.insecure_registries),
        ] {
            values.iter().for_each(|value| add(flag, value));
        }
        for (flag, path) in [
            ("--acme-root", &self.acme_root),
            ("--shim", &self.shim),
            ("--vm", &self.vm),
            ("--guest", &self.guest),
            ("--qemu", &self.qemu),
            ("--firecracker", &self.firecracker),
            ("--jailer", &self.jailer),
        ] {
            path.iter()
                .for_each(|path| add(flag, &path.display().to_string()));
        }
        flags
    }

    /// The flags of `roostd doctor`: what VMs are run with.
    pub(crate) fn of_doctor(&self) -> Vec<String> {
        let known = ["--guest", "--qemu", "--firecracker", "--jailer"];
        let flags = self.flags().into_iter();
        let flags = flags.filter(|[flag, _]| known.contains(&&**flag));
        flags.flatten().collect()
    }

    /// The command line of `roostd`.
    pub(crate) fn of_roostd(&self, data_dir: &Path) -> Vec<String> {
        let mut list = vec![
            "run".to_owned(),
            "--data-dir".into(),
            data_dir.display().to_string(),
        ];
        list.extend(self.flags().into_iter().flatten());
        list
    }

    /// What is other than `has`, each as `--flag value (now value)`.
    pub(crate) fn changes(&self, has: &Self) -> Vec<String> {
        let (wanted, has) = (self.flags(), has.flags());
        let values = |flags: &[[String; 2]], name: &str| {
            let values: Vec<&str> = flags
                .iter()
                .filter(|[flag, _]| flag == name)
                .map(|[_, value]| value.as_str())
                .collect();
            if values.is_empty() {
                "the default".to_owned()
            } else {
                values.join(" ")
            }
        };
        let mut names: Vec<&str> = wanted.iter().chain(&has).map(|[flag, _]| &**flag).collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .map(|name| (name, values(&wanted, name), values(&has, name)))
            .filter(|(_, wanted, has)| wanted != has)
            .map(|(name, wanted, has)| format!("{name} {wanted} (now {has})"))
            .collect()
    }

    /// What a platform was started with the last time, if it was.
    pub(crate) fn read(data_dir: &Path) -> Result<Option<Self>, CliError> {
        let path = path(data_dir);
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| {
                CliError::usage(format!("{}: {error}", path.display()))
                    .hint("remove that file to start with defaults")
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CliError::io(format!("read {}", path.display()), &error)),
        }
    }

    /// Keeps them for the next time.
    pub(crate) fn write(&self, data_dir: &Path) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| CliError::failed("internal", error.to_string()))?;
        write_private(&path(data_dir), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::Options;
    use crate::args::{Cli, Command, UpArgs};
    use clap::Parser as _;

    fn args(text: &str) -> UpArgs {
        let words = ["roost", "up"].into_iter().chain(text.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Up(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_later_up_means_the_platform_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Options::read(dir.path()).unwrap(), None);
        let first = Options::choose(&args("--http-port 80 --domain apps.example.com"), None);
        assert_eq!((first.api_port, first.http_port), (4280, 80));
        first.write(dir.path()).unwrap();
        let last = Options::read(dir.path()).unwrap();
        assert_eq!(Options::choose(&args(""), last.as_ref()), first);
        let text = "--http-port 81 --runtime /usr/sbin/runc --insecure-registry r:5000";
        let changed = Options::choose(&args(text), last.as_ref());
        assert_eq!(
            changed.changes(&first),
            [
                "--http-port 81 (now 80)",
                "--insecure-registry r:5000 (now the default)",
                "--runtime /usr/sbin/runc (now the default)"
            ]
        );
        assert_eq!(
            Options::choose(&args("--runtime library"), Some(&changed)).changes(&changed),
            ["--runtime library (now /usr/sbin/runc)"]
        );
        assert_eq!(changed.domains, first.domains);
        let line = changed.of_roostd(dir.path()).join(" ");
        let flags =
            "--http-port 81 --https-port 8443 --runtime /usr/sbin/runc --domain apps.example.com";
        assert!(line.contains(flags), "{line}");
    }

    #[test]
    fn the_api_is_asked_where_it_listens() {
        for (flags, url) in [
            ("", "http://127.0.0.1:4280"),
            ("--listen 0.0.0.0 --api-port 1", "http://127.0.0.1:1"),
            ("--listen ::", "http://127.0.0.1:4280"),
            ("--listen 192.0.2.1", "http://192.0.2.1:4280"),
            ("--listen 2001:db8::1", "http://[2001:db8::1]:4280"),
        ] {
            let options = Options::choose(&args(flags), None);
            assert_eq!(options.api_url(), url, "{flags}");
        }
    }

    #[test]
    fn edges_of_other_nodes_need_a_port_for_them() {
        let alone = Options::choose(&args("--edge-peer n=192.0.2.1:1"), None);
        let error = alone.check().unwrap_err().to_string();
        assert!(error.contains("needs --edge-peers-listen"), "{error}");
        let both = "--edge-peer n=192.0.2.1:1 --edge-peers-listen 192.0.2.2:1";
        let both = Options::choose(&args(both), None);
        both.check().unwrap();
        let half = Options::choose(&args("--edge-peers-listen="), Some(&both));
        half.check().unwrap_err();
        let neither = args("--edge-peers-listen= --edge-peer=");
        Options::choose(&neither, Some(&both)).check().unwrap();
    }

    #[test]
    fn programs_are_kept_with_absolute_paths() {
        let first = Options::choose(&args("--firecracker fc/firecracker --guest /g"), None);
        let here = std::env::current_dir().unwrap();
        let program = here.join("fc/firecracker");
        assert_eq!(first.firecracker.as_deref(), Some(program.as_path()));
        let later = Options::choose(&args("--qemu /opt/qemu"), Some(&first));
        let line = later.of_roostd(&here).join(" ");
        let flags = format!(
            "--guest /g --qemu /opt/qemu --firecracker {}",
            program.display()
        );
        assert!(line.ends_with(&flags), "{line}");
        assert_eq!(later.of_doctor().join(" "), flags);
        assert_eq!(
            later.changes(&first),
            ["--qemu /opt/qemu (now the default)"]
        );
    }

    #[test]
    fn an_empty_value_takes_an_option_back() {
        let set = "--domain a.example --domain b.example --edge-address 192.0.2.3 --insecure-registry r:5000 \
            --public-ip 192.0.2.1 --images-max 20GiB --runtime library --region fra --listen 0.0.0.0 \
            --memory 8GiB --access-log full --drain-timeout 5m --autostop-after 1m --edge-peers-listen 192.0.2.2:1 --edge-peer n=192.0.2.1:1 --overcommit-cpu 100 --overcommit-memory 100 \
            --acme-directory https://a/d --acme-email a@b.example --acme-root /a \
            --shim /s --vm /v --guest /g --qemu /q --firecracker /f --jailer /j";
        let set = Options::choose(&args(set), None);
        assert_eq!(set.domains, ["a.example", "b.example"]);
        let taken_back = "--domain= --edge-address= --insecure-registry= --public-ip= --images-max= --runtime= \
            --memory= --access-log= --drain-timeout= --autostop-after= --overcommit-cpu= --overcommit-memory= --region= --listen= --edge-peers-listen= --edge-peer= --acme-directory= --acme-email= --acme-root= --shim= --vm= --guest= --qemu= --firecracker= --jailer=";
        assert_eq!(
            Options::choose(&args(taken_back), Some(&set)),
            Options::choose(&args(""), None)
        );
        let one = Options::choose(&args("--domain= --domain c.example"), Some(&set));
        assert_eq!(one.domains, ["c.example"]);
    }
}
