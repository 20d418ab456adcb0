//! What every worker does, real or simulated, as the trait promises it.
//!
//! A test makes a worker whose node has 1 GiB of memory, promises nothing
//! twice and runs nothing yet, and hands it to a suite.

mod leases;
mod life;

pub use leases::leases;
pub use life::{late_requests, life, unknown_machines};

use roost_model::error::{Classify as _, Retry};
use roost_model::id::ReservationId;
use roost_model::machine::Guest;
use roost_model::name::MachineName;
use roost_model::placement::Usage;
use roost_model::size::ByteSize;
use roost_proto::worker::{Asker, Cause, CreateMachine, Launch, Reserve, WorkerApi, WorkerError};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

/// A worker to be tried, with what keeps it alive.
#[expect(missing_debug_implementations, reason = "a worker has none")]
pub struct Subject {
    /// The worker; its node is as the module says.
    pub worker: Arc<dyn WorkerApi>,
    /// A request that it takes.
    pub sample: CreateMachine,
    /// Dropped after the test.
    pub held: Box<dyn Any + Send>,
}

/// One test for each suite, each with a worker of its own from `$make`, an
/// `async fn() -> Subject`.
#[macro_export]
macro_rules! worker_contract {
    ($make:path) => {
        $crate::worker_contract!(@ $make: room, life, unknown_machines, late_requests);

        #[tokio::test]
        async fn leases() {
            let subject = $make().await;
            $crate::worker_contract::leases(&*subject.worker, &subject.sample).await;
        }
    };
    (@ $make:path: $($suite:ident),*) => {$(
        #[tokio::test]
        async fn $suite() {
            let subject = $make().await;
            let asker = $crate::worker_contract::asker();
            $crate::worker_contract::$suite(&*subject.worker, &subject.sample, &asker).await;
        }
    )*};
}

/// A user, who heeds leases.
pub fn asker() -> Asker {
    let (token, name) = ("tok_1".to_owned(), "ann".to_owned());
    Cause::User { token, name }.into()
}

fn of_memory(mib: u64) -> Guest {
    Guest {
        memory: ByteSize::mib(mib),
        ..Guest::DEFAULT
    }
}

fn reserve(n: u128, mib: u64) -> Reserve {
    Reserve {
        id: ReservationId::from_ulid(ulid::Ulid::from_parts(7, n)),
        guest: of_memory(mib),
        hold: Duration::from_secs(60),
    }
}

/// Room is counted, held, used up and given back; `sample` is a request that the worker takes.
pub async fn room(worker: &dyn WorkerApi, sample: &CreateMachine, asker: &Asker) {
    let create = async |name: &str, mib, reservation: Option<&Reserve>| {
        let mut request = sample.clone();
        request.request_id = name.to_owned();
        request.spec.name = MachineName::parse(name).unwrap();
        request.spec.guest = of_memory(mib);
        request.launch = Launch::Skip;
        request.reservation = reservation.map(|held| held.id.clone());
        worker.create_machine(request, asker).await
    };
    let assert_full = |error: WorkerError| {
        assert_eq!(error.code().to_string(), "no-capacity", "{error}");
        assert_eq!(error.retry(), Retry::ElsewhereNow);
    };
    let first = create("first", 256, None).await.unwrap();
    let (held, other) = (reserve(1, 512), reserve(2, 512));
    let reservation = worker.reserve(held.clone()).await.unwrap();
    assert_eq!(worker.reserve(held.clone()).await.unwrap(), reservation);
    let view = worker.capacity().await.unwrap();
    assert_eq!(view.used, Usage::of(of_memory(256)));
    assert_eq!(view.reserved, Usage::of(of_memory(512)));
    let (app, group) = (&first.spec.app, first.spec.process_group());
    assert_eq!(view.n_of_group(app, group), 1);

    assert_full(worker.reserve(other.clone()).await.unwrap_err());
    assert_full(create("second", 512, None).await.unwrap_err());
    let error = create("second", 513, Some(&held)).await.unwrap_err();
    assert_eq!(error.code().to_string(), "machine-conflict", "{error}");
    let second = create("second", 512, Some(&held)).await.unwrap();
    let again = create("second", 512, Some(&held)).await.unwrap();
    assert_eq!(
        again.id, second.id,
        "a repeated request needs no reservation"
    );
    let error = create("third", 256, Some(&held)).await.unwrap_err();
    assert_eq!(error.code().to_string(), "machine-conflict", "{error}");
    assert_eq!(worker.capacity().await.unwrap().reserved, Usage::default());

    worker.reserve(reserve(3, 256)).await.unwrap();
    assert_full(create("third", 256, None).await.unwrap_err());
    for _ in 0..2 {
        worker.release(&reserve(3, 256).id).await.unwrap();
    }
    create("third", 256, None).await.unwrap();
}
