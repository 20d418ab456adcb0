//! Services that are not HTTP, in front of a Redis from Debian's package.

use roost_testkit::images::redis;
use roost_testkit::platform::{Platform, free_port};
use roost_testkit::skip_unless_possible;
use roost_testkit::wait::wait_until;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// Longer than anything here takes on a busy machine.
const MOMENT: Duration = Duration::from_secs(90);

fn deploy_cache(platform: &Platform, ports: [u16; 3]) {
    let [raw, tls, pg_tls] = ports;
    let folder = platform.scratch();
    let config = format!(
        r#"
app = "cache"
[build]
image = "cache:1"
[[services]]
internal_port = 6379
[[services.ports]]
port = {raw}
[[services.ports]]
port = {tls}
handlers = ["tls"]
[[services.ports]]
port = {pg_tls}
handlers = ["pg_tls"]
[[services.tcp_checks]]
interval = "1s"
"#
    );
    std::fs::write(folder.join("roost.toml"), config).unwrap();
    platform.roost(&["deploy", folder.to_str().unwrap(), "--yes"]);
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(MOMENT)).unwrap();
    stream
}

fn ask(mut stream: impl Read + Write, command: &str, answer: &str) {
    stream
        .write_all(format!("{command}\r\n").as_bytes())
        .unwrap();
    let mut bytes = vec![0; answer.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), answer);
}

/// TLS with the platform's local authority.
fn tls(platform: &Platform, stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
    let authority = platform.data_dir().join("ca/ca.pem");
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(authority).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("cache.localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(connection, stream)
}

#[test]
fn a_redis_is_reached_by_tcp_by_tls_and_in_the_way_of_postgres() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(&redis(), "cache:1");
    let ports = [free_port(), free_port(), free_port()];
    let [raw, with_tls, pg_tls] = ports;
    deploy_cache(&platform, ports);
    wait_until("its ports are open", MOMENT, || {
        let status = platform.roost_json(&["status", "-a", "cache"]);
        let ports = status["app"]["ports"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let is_open = |port: &serde_json::Value| port.get("problem").is_none();
        if ports.len() == 3 && ports.iter().all(is_open) {
            Ok(())
        } else {
            Err(status["app"].clone())
        }
    });
    ask(connect(raw), "SET greeting hello", "+OK\r\n");
    ask(
        tls(&platform, connect(with_tls)),
        "GET greeting",
        "$5\r\nhello\r\n",
    );
    let mut stream = connect(pg_tls);
    stream.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"S");
    ask(tls(&platform, stream), "GET greeting", "$5\r\nhello\r\n");
    let mut plain = connect(pg_tls);
    plain.write_all(b"\0\0\0\x08\0\x03\0\0").unwrap();
    let mut error = String::new();
    plain.read_to_string(&mut error).unwrap();
    assert!(error.contains("takes connections with TLS only"), "{error}");

    // A raw port is one app's; the deploy of another says whose, and changes nothing.
    let folder = platform.scratch();
    let config = format!(
        "app = \"other\"\n[build]\nimage = \"cache:1\"\n[[services]]\ninternal_port = 6379\n[[services.ports]]\nport = {raw}\n"
    );
    std::fs::write(folder.join("roost.toml"), config).unwrap();
    let refused = platform
        .cli(&["deploy", folder.to_str().unwrap(), "--yes"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(
        told.contains(&format!("port {raw} is the app `cache`'s")),
        "{told}"
    );
    ask(connect(raw), "GET greeting", "$5\r\nhello\r\n");

    platform.roost(&["apps", "destroy", "cache", "--yes"]);
    wait_until("its port is closed", MOMENT, || {
        match TcpStream::connect(("127.0.0.1", raw)) {
            Ok(_) => Err("open"),
            Err(_) => Ok(()),
        }
    });
}
