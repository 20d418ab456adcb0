//! The ACME test server of Debian, on loopback, with a DNS server that says that every name is
//! there as well.

use crate::platform::free_port;
use crate::program::{Running, find_in_path, run};
use crate::wait::wait_until;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Longer than a start takes on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A certificate authority that is asked by ACME.
#[derive(Debug)]
pub struct Pebble {
    _dns: Running,
    _server: Running,
    /// The URL of its directory.
    pub directory: String,
    /// The file with the root of its own HTTPS.
    pub root: PathBuf,
    management: u16,
}

/// Why it cannot run here; `None` when it can.
pub fn why_not() -> Option<String> {
    ["pebble", "pebble-challtestsrv", "curl"]
        .into_iter()
        .find(|name| find_in_path(name).is_none())
        .map(|name| format!("`{name}` is not installed: run `scripts/setup --tests`"))
}

impl Pebble {
    /// Starts one that validates names at these ports of loopback. Its files are in `dir`.
    pub fn start(dir: &Path, http_port: u16, https_port: u16) -> Self {
        let [port, management, dns, dns_management] = [(); 4].map(|()| free_port());
        let (root, config) = (dir.join("pebble-root.pem"), dir.join("pebble.json"));
        let (certificate, key) = (dir.join("pebble.pem"), dir.join("pebble-key.pem"));
        write_identity(&root, &certificate, &key);
        let text = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": certificate,
            "privateKey": key,
            "httpPort": http_port,
            "tlsPort": https_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        write(&config, &text.to_string());
        let names = Running::start(
            Command::new("pebble-challtestsrv")
                .args(["-dns01", &format!("127.0.0.1:{dns}")])
                .args(["-management", &format!("127.0.0.1:{dns_management}")])
                .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
                .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""])
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        let server = Running::start(
            Command::new("pebble")
                .args(["-strict", "-dnsserver", &format!("127.0.0.1:{dns}")])
                .arg("-config")
                .arg(&config)
                .env("PEBBLE_VA_NOSLEEP", "1")
                .env("PEBBLE_AUTHZREUSE", "0")
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        for port in [port, management, dns] {
            wait_until("the ACME test server", START, || {
                TcpStream::connect(("127.0.0.1", port))
            });
        }
        Self {
            _dns: names,
            _server: server,
            directory: format!("https://127.0.0.1:{port}/dir"),
            root,
            management,
        }
    }

    /// The root that its certificates are of, as PEM.
    pub fn issuing_root(&self) -> String {
        self.ask("roots/0")
    }

    /// What it says of a certificate with this serial number, such as `Valid` or `Revoked`.
    pub fn status(&self, serial: &str) -> String {
        let answer = self.ask(&format!("cert-status-by-serial/{serial}"));
        let answer: serde_json::Value =
            serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        answer["Status"].as_str().unwrap_or_default().to_owned()
    }

    fn ask(&self, path: &str) -> String {
        let url = format!("https://127.0.0.1:{}/{path}", self.management);
        let output = run(Command::new("curl").args(["-sSk", "--max-time", "60", &url]));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

/// What the server shows itself with, and the root to know it by.
fn write_identity(root: &Path, certificate: &Path, key: &Path) {
    let made = || -> Result<[String; 3], rcgen::Error> {
        let root_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&root_key)?.pem();
        let issuer = Issuer::new(params, root_key);
        let key = KeyPair::generate()?;
        let own = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        let own = own.signed_by(&key, &issuer)?.pem();
        Ok([root, own, key.serialize_pem()])
    };
    let made = made().expect("keys can be made");
    for (path, text) in [root, certificate, key].into_iter().zip(&made) {
        write(path, text);
    }
}
