//! A machine on a real private network, within a network namespace of the test's own.

use crate::host::{Host, PATIENCE};
use roost_host::driver::MachineDriver as _;
use roost_host::instance::InstanceTag;
use roost_host::net::PacketPlumber as _;
use roost_host::net::addresses::NodeNetwork;
use roost_host::net::linux::{LinuxPlumber, NetConfig};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Set for the run of this program that is within the namespace.
const INSIDE: &str = "ROOST_TEST_NETWORK_NAMESPACE";

#[test]
fn a_machine_answers_on_its_private_addresses() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(answers_within_the_namespace());
    }
    if Host::library().is_none() {
        return;
    }
    let status = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "network::a_machine_answers_on_its_private_addresses",
        ])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

async fn answers_within_the_namespace() {
    // A host has it up; routes of answers to the edge lead there.
    let lo = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(lo.unwrap().success());
    let host = Host::library().unwrap();
    let tag = InstanceTag::of_data_dir(host.dir.path());
    let network = NodeNetwork::choose(tag, &[]).unwrap();
    let sysctl_record = host.dir.path().join("sysctl.json");
    let plumber = Arc::new(LinuxPlumber::new(NetConfig {
        tag,
        network,
        sysctl_record,
    }));
    plumber.ensure_node().await.unwrap();
    let driver = host.driver_with(plumber.clone());

    let mut config = host.machine("exec busybox httpd -f -p 80 -h /data");
    config.process.user = "app".to_owned();
    config.addresses = network.address(9).unwrap();
    let (id, addresses) = (config.machine_id.clone(), config.addresses);
    driver.launch(config).await.unwrap();
    for address in [IpAddr::from(addresses.ipv4), IpAddr::from(addresses.ipv6)] {
        assert!(
            get(SocketAddr::new(address, 80)).await.ends_with("app's\n"),
            "{address}"
        );
    }
    driver.remove(&id).await.unwrap();
    assert!(driver.list().await.unwrap().is_empty());
    plumber.remove_node().await.unwrap();
}

async fn get(address: SocketAddr) -> String {
    let deadline = Instant::now() + PATIENCE;
    let mut stream = loop {
        match TcpStream::connect(address).await {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    stream
        .write_all(b"GET /mine HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}
