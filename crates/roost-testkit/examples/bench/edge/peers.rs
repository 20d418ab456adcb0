//! The proxies under test and what they share: the back end and a certificate.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use roost_testkit::program::{Running, find_in_path};
use roost_testkit::wait::wait_until;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The names by which the proxies tell the two apps: one speaks HTTP/1.1, the other h2c.
const NAMES: [&str; 2] = ["plain.localhost", "grpc.localhost"];
/// How long a proxy may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A proxy that runs.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) http: u16,
    pub(crate) https: u16,
    pub(crate) pid: i32,
    _running: Running,
}

/// All of them.
pub(crate) struct Bench {
    /// The edge, then nginx, then HAProxy.
    pub(crate) proxies: Vec<Proxy>,
    /// The certificate of all, which clients trust.
    pub(crate) certificate: rustls::pki_types::CertificateDer<'static>,
    /// What a gRPC request carries.
    pub(crate) message: PathBuf,
    _back_end: Running,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// Starts the back end on this process's core and each proxy on core 0.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let names = NAMES.map(str::to_owned);
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
        let key = signing_key.serialize_pem();
        fs::write(path.join("cert.pem"), cert.pem()).unwrap();
        fs::write(path.join("key.pem"), &key).unwrap();
        fs::write(path.join("both.pem"), cert.pem() + &key).unwrap();
        let message = path.join("message");
        fs::write(&message, [0; 100]).unwrap();
        let program = std::env::current_exe().unwrap();
        let back = free_port();
        let mut command = Command::new(&program);
        command.args(["edge-back-end", &back.to_string()]);
        let back_end = start(command.stdin(Stdio::null()), &[back]);
        let proxies = vec![
            proxy("roost", |http, https| {
                let mut command = on_core_0(&program);
                command
                    .args(["edge-proxy", &http.to_string(), &https.to_string()])
                    .args([&back.to_string(), path.to_str().unwrap()]);
                command
            }),
            proxy("nginx", |http, https| {
                let config = nginx_config(path, back, http, https);
                fs::write(path.join("nginx.conf"), config).unwrap();
                let mut command = on_core_0(&find_in_path("nginx").expect("nginx"));
                command.arg("-p").arg(path).args(["-c", "nginx.conf"]);
                command
            }),
            proxy("haproxy", |http, https| {
                let config = path.join("haproxy.cfg");
                fs::write(&config, haproxy_config(path, back, http, https)).unwrap();
                let mut command = on_core_0(&find_in_path("haproxy").expect("haproxy"));
                command.args(["-q", "-db", "-f"]).arg(config);
                command
            }),
        ];
        Self {
            proxies,
            certificate: cert.into(),
            message,
            _back_end: back_end,
            _folder: folder,
        }
    }
}

fn proxy(name: &'static str, command: impl FnOnce(u16, u16) -> Command) -> Proxy {
    let (http, https) = (free_port(), free_port());
    let running = start(command(http, https).stdin(Stdio::null()), &[http, https]);
    Proxy {
        name,
        http,
        https,
        pid: running.pid(),
        _running: running,
    }
}

/// `taskset` becomes the program, so that the process is the proxy's own.
pub(super) fn on_core_0(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program);
    command
}

/// Starts a server and waits until it listens.
pub(super) fn start(command: &mut Command, ports: &[u16]) -> Running {
    let running = Running::start(command);
    for port in ports {
        wait_until("a server listens", START_LIMIT, || {
            TcpStream::connect(("127.0.0.1", *port)).map(drop)
        });
    }
    running
}

pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn nginx_config(folder: &Path, back: u16, http: u16, https: u16) -> String {
    let folder = folder.display();
    format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
    fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
    keepalive_requests 1000000000; keepalive_timeout 75s;
    upstream back {{ server 127.0.0.1:{back}; keepalive 512; keepalive_requests 1000000000; }}
    upstream h2c {{ server 127.0.0.1:{back}; keepalive 512; keepalive_requests 1000000000; }}
    map $http_upgrade $forward {{ default upgrade; '' ''; }}
    ssl_certificate cert.pem; ssl_certificate_key key.pem; ssl_protocols TLSv1.3;
    proxy_http_version 1.1;
    proxy_set_header Host $host; proxy_set_header Connection $forward;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    server {{
        listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl http2; server_name {plain};
        location / {{ proxy_pass http://back; }}
    }}
    server {{
        listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl http2; server_name {grpc};
        location / {{ grpc_pass grpc://h2c; }}
    }}
}}
",
        plain = NAMES[0],
        grpc = NAMES[1],
    )
}

fn haproxy_config(folder: &Path, back: u16, http: u16, https: u16) -> String {
    format!(
        "global
    nbthread 1
    maxconn 4096
    ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
    mode http
    option forwardfor
    timeout connect 5s
    timeout client 75s
    timeout server 75s
    timeout tunnel 1h
    http-reuse always
frontend all
    bind 127.0.0.1:{http}
    bind 127.0.0.1:{https} ssl crt {folder}/both.pem alpn h2,http/1.1
    use_backend grpc if {{ hdr(host) -m beg {grpc} }}
    default_backend plain
backend plain
    server one 127.0.0.1:{back} pool-max-conn 512
backend grpc
    server one 127.0.0.1:{back} proto h2
",
        folder = folder.display(),
        grpc = NAMES[1],
    )
}
