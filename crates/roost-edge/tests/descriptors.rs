//! An edge in a process that runs out of descriptors. Alone in its process,
//! since it takes all of them.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use roost_auth::authority::LocalAuthority;
use roost_edge::{Edge, EdgeConfig, LocalCertificates, TrafficCounter};
use roost_model::name::RegionCode;
use roost_runtime::tasks::Tasks;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_edge_without_descriptors_goes_on_when_there_are_some_again() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Arc::new(LocalAuthority::open(dir.path()).unwrap());
    let mut config = EdgeConfig::new(RegionCode::parse("local").unwrap());
    config.http = vec!["127.0.0.1:0".parse().unwrap()];
    let certificates = LocalCertificates::new(authority, &config.domains);
    let (_table, feed) = tokio::sync::watch::channel(Arc::default());
    let tasks = Tasks::new();
    let edge = Edge::bind(config, feed, TrafficCounter::new(), certificates, &tasks)
        .await
        .unwrap();
    let address = edge.http_addrs()[0];

    let mut stat = File::open("/proc/self/stat").unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    assert!(taken.pop().is_some(), "one is left for the client");
    let mut client = std::net::TcpStream::connect(address).unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: nobody.localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = [0; 12];
    let used_before = cpu_time(&mut stat);
    assert!(
        client.read_exact(&mut answer).is_err(),
        "there is no descriptor to take the connection with"
    );
    let used = cpu_time(&mut stat) - used_before;
    assert!(
        used < 20,
        "the edge waits instead of trying all the time: {used} of 30 ticks"
    );

    taken.clear();
    client
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
}

/// Processor time of this process in ticks of 10 ms.
fn cpu_time(stat: &mut File) -> u64 {
    let mut text = String::new();
    stat.rewind().unwrap();
    stat.read_to_string(&mut text).unwrap();
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    // Fields 14 and 15 of proc(5), counted from the third.
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
