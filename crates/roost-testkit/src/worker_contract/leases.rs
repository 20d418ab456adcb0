//! Leases: what they keep others from, and how they end.

use roost_model::error::Classify as _;
use roost_model::id::MachineId;
use roost_model::machine::MachineState;
use roost_proto::worker::{
    Asker, Cause, CreateMachine, Launch, Lease, LeaseNonce, ReleaseLease, TakeLease, WorkerApi,
    WorkerError,
};
use std::time::Duration;

fn take(n: u8) -> TakeLease {
    TakeLease {
        nonce: LeaseNonce::from_bytes([n; 16]),
        ttl: Duration::from_secs(60),
        description: "contract".to_owned(),
    }
}

fn user(nonce: Option<&TakeLease>) -> Asker {
    let (token, name) = ("tok_1".to_owned(), "ann".to_owned());
    Asker {
        lease_nonce: nonce.map(|take| take.nonce.clone()),
        ..Cause::User { token, name }.into()
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, WorkerError>) -> String {
    result.unwrap_err().code().to_string()
}

/// A lease keeps others out until it is given back or cleared, whoever asks for the
/// machine's own sake; `sample` is a request that the worker takes.
pub async fn leases(worker: &dyn WorkerApi, sample: &CreateMachine) {
    let mut request = sample.clone();
    request.launch = Launch::Skip;
    request.lease = Some(take(1));
    let (nobody, holder, other) = (user(None), user(Some(&take(1))), user(Some(&take(2))));
    let id = worker.create_machine(request, &nobody).await.unwrap().id;

    let seen = worker.lease(&id, &nobody).await.unwrap().unwrap();
    assert_eq!((seen.owner.as_str(), seen.is_own), ("ann", false));
    assert!(worker.lease(&id, &holder).await.unwrap().unwrap().is_own);
    let machine = worker.machine(&id).await.unwrap();
    assert_eq!(seen.version, machine.instance_id);

    for asker in [&nobody, &other] {
        assert_eq!(
            code(worker.start_machine(&id, asker).await),
            "machine-leased"
        );
        let cordon = worker.set_cordoned(&id, true, asker).await;
        assert_eq!(code(cordon), "machine-leased");
        let set = worker.set_metadata(&id, "a", Some("b".into()), asker).await;
        assert_eq!(code(set), "machine-leased");
        let destroy = worker.destroy_machine(&id, true, asker).await;
        assert_eq!(code(destroy), "machine-leased");
        let release = worker.release_lease(&id, ReleaseLease::Own, asker).await;
        assert_eq!(code(release), "machine-leased");
    }
    assert_eq!(
        code(worker.take_lease(&id, take(2), &nobody).await),
        "machine-leased"
    );
    assert_eq!(
        worker.machine(&id).await.unwrap(),
        machine,
        "nothing changed"
    );

    worker
        .set_metadata(&id, "a", Some("b".into()), &holder)
        .await
        .unwrap();
    let longer = worker.take_lease(&id, take(1), &holder).await.unwrap();
    assert!(longer.is_own && longer.expires_at >= seen.expires_at);
    let cause = Cause::Deployment { id: "dep".into() };
    worker.set_cordoned(&id, true, &cause.into()).await.unwrap();

    worker
        .release_lease(&id, ReleaseLease::Own, &holder)
        .await
        .unwrap();
    assert_eq!(worker.lease(&id, &nobody).await.unwrap(), None);
    let late = worker.set_cordoned(&id, false, &holder).await;
    assert_eq!(
        code(late),
        "lease-not-found",
        "it may have been another's meanwhile"
    );
    assert_eq!(
        code(worker.take_lease(&id, take(1), &holder).await),
        "lease-not-found"
    );
    worker.set_cordoned(&id, false, &nobody).await.unwrap();

    let machine = worker.machine(&id).await.unwrap();
    assert_eq!(machine.state, MachineState::Created);
    assert_eq!(
        machine.spec.metadata.get("a").map(String::as_str),
        Some("b")
    );
    assert_eq!(
        machine.instance_id, seen.version,
        "metadata makes no version"
    );
    cleared(worker, &id, &nobody).await;
}

/// A lease is cleared by who does not hold it, and one without an end is not given.
async fn cleared(worker: &dyn WorkerApi, id: &MachineId, nobody: &Asker) {
    worker.take_lease(id, take(2), nobody).await.unwrap();
    worker
        .release_lease(id, ReleaseLease::Any, nobody)
        .await
        .unwrap();
    let newest = &worker.machine_events(id, 1).await.unwrap()[0];
    assert_eq!(
        (newest.kind.as_str(), newest.source.as_str()),
        ("lease-clear", "user")
    );

    let mut endless = take(3);
    for ttl in [Duration::ZERO, Lease::TTL_MAX + Duration::from_secs(1)] {
        endless.ttl = ttl;
        let refused = worker.take_lease(id, endless.clone(), nobody).await;
        assert_eq!(code(refused), "machine-invalid");
    }
}
