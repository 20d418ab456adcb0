//! Values that tests need and do not care about.

use crate::images::ResolvedImage;
use crate::store::row::Row;
use crate::testing;
pub(crate) use crate::testing::{addresses, region};
use roost_model::id::MachineId;
use roost_model::image_ref::ImageRef;
use roost_model::machine::{
    Guest, Isolation, MachineSpec, ProcessSpec, RestartPolicy, Service, StopConfig,
};
use roost_model::name::{AppName, MachineName};
use roost_model::placement::{Capacity, Overcommit};
use roost_model::size::ByteSize;
use roost_model::time::Timestamp;
use roost_proto::worker::{Asker, Cause, CreateMachine, Launch, SecretEnv};
use std::collections::BTreeMap;

/// Room for so many machines, and for as much as they like.
pub(crate) fn capacity(n_machines: u32) -> Capacity {
    Capacity {
        n_cores: 64,
        memory: ByteSize::gib(256),
        n_machines,
        overcommit: Overcommit::DEFAULT,
    }
}

pub(crate) fn spec(name: &str) -> MachineSpec {
    MachineSpec {
        app: AppName::parse("web").unwrap(),
        name: MachineName::parse(name).unwrap(),
        region: region(),
        image: ImageRef::parse("nginx:1.25").unwrap(),
        process: ProcessSpec::default(),
        processes: vec![],
        isolation: Isolation::Default,
        guest: Guest::DEFAULT,
        root_disk: ByteSize::gib(8),
        swap: ByteSize(0),
        services: vec![],
        checks: BTreeMap::new(),
        files: vec![],
        statics: vec![],
        restart: RestartPolicy::DEFAULT,
        stop: StopConfig::DEFAULT,
        auto_destroy: false,
        schedule: None,
        standbys: vec![],
        metadata: BTreeMap::new(),
    }
}

pub(crate) fn service(port: u16) -> Service {
    Service::http(port)
}

/// Somebody with a token.
pub(crate) fn asker() -> Asker {
    let (token, name) = ("tok_1".into(), "ann".into());
    Asker::from(Cause::User { token, name })
}

/// A request for a machine that is started; its name is the request id.
pub(crate) fn create(request_id: &str) -> CreateMachine {
    CreateMachine {
        request_id: request_id.into(),
        spec: spec(request_id),
        secrets: SecretEnv(BTreeMap::from([("TOKEN".into(), "hunter2".into())])),
        launch: Launch::Start,
        cordoned: false,
        reservation: None,
        lease: None,
        placement: None,
    }
}

pub(crate) fn row() -> Row {
    let id = MachineId::from_bytes([1, 2, 3, 4, 5, 6, 7]);
    crate::api::new_row_for_tests(id, create("sample"), Timestamp::from_ms(1_000))
}

pub(crate) fn image(entrypoint: &str, cmd: &str) -> ResolvedImage {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    ResolvedImage {
        entrypoint: words(entrypoint),
        cmd: words(cmd),
        ..testing::image()
    }
}
