//! Claims about who may ask whom.

use crate::cluster::{ANY, Cluster, ask};
use roost_auth::cluster::{IDENTITY_LIFE, Role};
use roost_model::error::{Classify as _, Retry};
use roost_model::time::Timestamp;
use roost_proto::worker::{WorkerApi as _, WorkerError};
use roost_rpc::RemoteWorker;
use roost_runtime::clock::{self, Clock};
use roost_runtime::tasks::Tasks;
use roost_testkit::sim_worker::SimWorker;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn refused(worker: &RemoteWorker) -> String {
    let error = worker.capacity().await.unwrap_err();
    assert!(
        matches!(error, WorkerError::Unreachable { .. }),
        "{error:?}"
    );
    assert_eq!(error.retry(), Retry::Backoff);
    error.to_string()
}

fn long_ago() -> Timestamp {
    let age = IDENTITY_LIFE * 2;
    Timestamp::from_ms(clock::now().as_ms() - u64::try_from(age.as_millis()).unwrap())
}

#[tokio::test]
async fn only_the_role_of_the_api_may_ask_a_worker() {
    let (cluster, tasks) = (Cluster::new(), Tasks::new());
    let server = cluster.identity(1, Role::Worker);
    let address = roost_rpc::serve(ANY, Arc::new(SimWorker::new()), &server, &tasks)
        .await
        .unwrap();
    let worker = ask(1, address, &cluster.identity(2, Role::Worker));
    let text = refused(&worker).await;
    assert!(text.contains("the caller's is `worker`"), "{text}");
    let api = ask(1, address, &cluster.identity(2, Role::Api));
    api.capacity().await.unwrap();
    assert!(tasks.shutdown(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn who_dials_a_node_reaches_that_node_or_nobody() {
    let (cluster, tasks) = (Cluster::new(), Tasks::new());
    let api = cluster.identity(2, Role::Api);
    for server in [
        cluster.identity(3, Role::Worker),
        cluster.identity(1, Role::Api),
    ] {
        let address = roost_rpc::serve(ANY, Arc::new(SimWorker::new()), &server, &tasks)
            .await
            .unwrap();
        let text = refused(&ask(1, address, &api)).await;
        assert!(text.contains("not valid for name"), "{text}");
    }
    assert!(tasks.shutdown(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn an_identity_of_another_cluster_is_refused_by_both_sides() {
    let (cluster, other, tasks) = (Cluster::new(), Cluster::new(), Tasks::new());
    let ours = cluster.identity(1, Role::Worker);
    let address = roost_rpc::serve(ANY, Arc::new(SimWorker::new()), &ours, &tasks)
        .await
        .unwrap();
    refused(&ask(1, address, &other.identity(2, Role::Api))).await;
    let theirs = other.identity(1, Role::Worker);
    let address = roost_rpc::serve(ANY, Arc::new(SimWorker::new()), &theirs, &tasks)
        .await
        .unwrap();
    let text = refused(&ask(1, address, &cluster.identity(2, Role::Api))).await;
    assert!(text.contains("UnknownIssuer"), "{text}");
    assert!(tasks.shutdown(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn an_identity_that_has_ended_is_refused_until_it_is_renewed_in_place() {
    let (cluster, tasks) = (Cluster::new(), Tasks::new());
    let server = cluster.identity_of(1, Role::Worker, long_ago());
    let client = cluster.identity_of(2, Role::Api, long_ago());
    let address = roost_rpc::serve(ANY, Arc::new(SimWorker::new()), &server, &tasks)
        .await
        .unwrap();
    let worker = ask(1, address, &client);
    let text = refused(&worker).await;
    assert!(text.contains("expired"), "{text}");
    server.renew(&cluster.authority, clock::now()).unwrap();
    // The server is good now, and the client is not.
    refused(&worker).await;
    client.renew(&cluster.authority, clock::now()).unwrap();
    worker.capacity().await.unwrap();
    assert!(tasks.shutdown(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn renewals_under_open_connections_fail_no_call() {
    let (cluster, tasks) = (Cluster::new(), Tasks::new());
    let server = cluster.identity(1, Role::Worker);
    let client = cluster.identity(2, Role::Api);
    let address = roost_rpc::serve(ANY, Arc::new(SimWorker::new()), &server, &tasks)
        .await
        .unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..4 {
        let kept = ask(1, address, &client);
        let client = Arc::clone(&client);
        callers.spawn(async move {
            for _ in 0..50 {
                kept.machines(None).await.unwrap();
                // New connections meanwhile, too.
                if n == 0 {
                    ask(1, address, &client).capacity().await.unwrap();
                }
            }
        });
    }
    let mut renewals = tokio::time::interval(Duration::from_millis(2));
    while !callers.is_empty() {
        tokio::select! {
            _ = renewals.tick() => {
                server.renew(&cluster.authority, clock::now()).unwrap();
                client.renew(&cluster.authority, clock::now()).unwrap();
            }
            ended = callers.join_next() => ended.unwrap().unwrap(),
        }
    }
    assert!(tasks.shutdown(Duration::from_secs(30)).await);
}

/// A clock that a test sets.
#[derive(Debug)]
struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test(start_paused = true)]
async fn an_identity_is_renewed_when_its_time_comes_and_not_before() {
    let (cluster, tasks) = (Cluster::new(), Tasks::new());
    let identity = cluster.identity(1, Role::Worker);
    let due = identity.renew_at();
    let clock = Arc::new(SetClock(AtomicU64::new(due.as_ms() - 1)));
    roost_rpc::keep_renewed(
        Arc::clone(&identity),
        Arc::clone(&cluster.authority),
        Arc::clone(&clock) as Arc<dyn Clock>,
        &tasks,
    );
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(identity.renew_at(), due);
    clock.0.store(due.as_ms(), Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(identity.renew_at() > due);
    assert!(tasks.shutdown(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn who_speaks_no_tls_or_none_of_ours_harms_nobody() {
    let (cluster, tasks) = (Cluster::new(), Tasks::new());
    let server = cluster.identity(1, Role::Worker);
    let address = roost_rpc::serve(ANY, Arc::new(SimWorker::new()), &server, &tasks)
        .await
        .unwrap();
    let mut stranger = tokio::net::TcpStream::connect(address).await.unwrap();
    stranger
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // The end of the stream, or a reset: both are the end.
    let _ = stranger.read_to_end(&mut answer).await;
    // At most a TLS alert; nothing of the API.
    assert!(answer.len() < 32, "{answer:?}");
    let api = ask(1, address, &cluster.identity(2, Role::Api));
    api.capacity().await.unwrap();
    assert!(tasks.shutdown(Duration::from_secs(30)).await);
}
