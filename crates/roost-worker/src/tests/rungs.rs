//! Machines on several rungs of one node.

use super::{Node, samples};
use crate::{Drivers, Standing};
use roost_host::driver::RootFs;
use roost_host::fake::FakeHost;
use roost_model::machine::{Isolation, MachineState, ProcessSpec, Rung};
use roost_proto::worker::{CreateMachine, ExecCommand, Launch, UpdateMachine, WorkerApi as _};
use std::time::Duration;

/// A node whose own host runs containers, beside another that emulates VMs.
fn ladder(node: &Node, vms: &FakeHost) -> Drivers {
    let drivers = Drivers::new();
    drivers.set(node.host.driver(), Standing::Proven);
    drivers.set(vms.driver(), Standing::Proven);
    drivers.set_standing(Rung::Vm, Standing::Refused("there is no /dev/kvm".into()));
    drivers
}

fn create(isolation: Isolation) -> CreateMachine {
    let mut request = samples::create("r1");
    request.spec.isolation = isolation;
    request
}

#[tokio::test(start_paused = true)]
async fn a_machine_stays_with_the_driver_of_the_rung_it_was_launched_on() {
    let node = Node::new();
    let vms = FakeHost::of_rung(Rung::VmEmulated);
    let first = node.start_on(ladder(&node, &vms)).await;
    let request = create(Isolation::Rung(Rung::VmEmulated));
    let created = first
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap();
    assert_eq!(created.rung, Rung::VmEmulated, "before it is launched, too");
    first.wait(&created.id, MachineState::Started).await;
    assert_eq!(vms.running(), std::slice::from_ref(&created.id));
    assert!(node.host.launches().is_empty());
    let image = RootFs::Image("/image".into());
    assert_eq!(vms.launches()[0].root_fs, image);
    first.shut_down().await;

    // Its rung is not proven any more, and still it is looked after.
    let drivers = ladder(&node, &vms);
    let refused = Standing::Refused("qemu was removed".into());
    drivers.set_standing(Rung::VmEmulated, refused);
    let second = node.start_on(drivers).await;
    let adopted = second.worker.machine(&created.id).await.unwrap();
    assert_eq!(
        (adopted.state, adopted.rung, adopted.pid),
        (
            MachineState::Started,
            Rung::VmEmulated,
            vms.pid(&created.id)
        )
    );
    let command = ExecCommand {
        command: vec!["true".into()],
        stdin: vec![],
        timeout: Duration::from_secs(1),
    };
    second.worker.exec(&created.id, command).await.unwrap();
    let stop = second
        .worker
        .stop_machine(&created.id, None, None, &samples::asker())
        .await;
    stop.unwrap();
    second.wait(&created.id, MachineState::Stopped).await;
    second
        .worker
        .start_machine(&created.id, &samples::asker())
        .await
        .unwrap();
    let failed = second.wait(&created.id, MachineState::Failed).await;
    let reason = failed.state_reason.unwrap();
    assert!(reason.contains("qemu was removed"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_rung_that_is_not_proven_fails_the_start_until_it_is() {
    let node = Node::new();
    let vms = FakeHost::of_rung(Rung::VmEmulated);
    let drivers = ladder(&node, &vms);
    let run = node.start_on(drivers.clone()).await;
    let request = create(Isolation::Rung(Rung::Vm));
    let created = run
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap();
    let failed = run.wait(&created.id, MachineState::Failed).await;
    assert_eq!(
        failed.state_reason.as_deref(),
        Some(
            "isolation `vm` is refused on this node: there is no /dev/kvm; ask for `container` \
             or `vm-emulated` instead, or see `roost doctor` for what to change"
        )
    );
    assert!(
        node.images.asked.lock().is_empty(),
        "nothing is pulled for it"
    );
    let proven = FakeHost::of_rung(Rung::Vm);
    drivers.set(proven.driver(), Standing::Proven);
    run.worker
        .start_machine(&created.id, &samples::asker())
        .await
        .unwrap();
    run.wait(&created.id, MachineState::Started).await;
    assert_eq!(proven.running(), [created.id]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_waits_for_the_proof_of_its_rung_and_can_be_stopped_meanwhile() {
    let node = Node::new();
    let vms = FakeHost::of_rung(Rung::VmEmulated);
    let drivers = ladder(&node, &vms);
    drivers.set_standing(Rung::VmEmulated, Standing::Proving);
    let run = node.start_on(drivers.clone()).await;
    let request = create(Isolation::Rung(Rung::VmEmulated));
    let created = run
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap();
    // As long as an emulated guest may take that boots in vain.
    tokio::time::sleep(Duration::from_secs(180)).await;
    let waiting = run.worker.machine(&created.id).await.unwrap();
    let reason = waiting.state_reason.unwrap();
    assert!(reason.contains("trying its isolation"), "{reason}");
    assert!(node.images.asked.lock().is_empty());

    let stop = run
        .worker
        .stop_machine(&created.id, None, None, &samples::asker())
        .await;
    stop.unwrap();
    run.wait(&created.id, MachineState::Stopped).await;
    run.worker
        .start_machine(&created.id, &samples::asker())
        .await
        .unwrap();
    drivers.set_standing(Rung::VmEmulated, Standing::Proven);
    run.wait(&created.id, MachineState::Started).await;
    assert_eq!(vms.launches().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_update_to_another_rung_leaves_nothing_on_the_old_one() {
    let node = Node::new();
    let vms = FakeHost::of_rung(Rung::VmEmulated);
    let run = node.start_on(ladder(&node, &vms)).await;
    let request = create(Isolation::Rung(Rung::VmEmulated));
    let created = run
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap();
    run.wait(&created.id, MachineState::Started).await;
    run.worker
        .suspend_machine(&created.id, &samples::asker())
        .await
        .unwrap();
    let suspended = run.wait(&created.id, MachineState::Suspended).await;
    assert_eq!(vms.snapshots(), std::slice::from_ref(&created.id));
    let mut spec = suspended.spec;
    spec.isolation = Isolation::Default;
    let update = UpdateMachine {
        current_version: None,
        spec,
        secrets: roost_proto::worker::SecretEnv::default(),
        launch: Launch::Start,
    };
    run.worker
        .update_machine(&created.id, update, &samples::asker())
        .await
        .unwrap();
    let started = run.wait(&created.id, MachineState::Started).await;
    assert_eq!(started.rung, Rung::Container);
    assert_eq!(node.host.running(), [created.id]);
    assert!(vms.present().is_empty(), "its snapshot is gone");
}

#[tokio::test(start_paused = true)]
async fn every_program_of_a_machine_is_launched_with_image_and_secrets() {
    let node = Node::on(Rung::VmEmulated);
    let run = node.start().await;
    let mut request = create(Isolation::Rung(Rung::VmEmulated));
    request.spec.process.env = [("A".to_owned(), "1".to_owned())].into();
    let program = |word: &str| ProcessSpec {
        cmd: Some(vec![word.to_owned()]),
        ..ProcessSpec::default()
    };
    request.spec.processes = vec![program("one"), program("two")];
    request.spec.processes[1].env = [("A".to_owned(), "2".to_owned())].into();
    let asker = samples::asker();
    let created = run.worker.create_machine(request, &asker).await.unwrap();
    run.wait(&created.id, MachineState::Started).await;
    let [launch] = &node.host.launches()[..] else {
        panic!("one launch");
    };
    let programs = std::iter::once(&launch.process).chain(&launch.beside);
    let told: Vec<_> = programs
        .map(|program| {
            let variable = |name: &str| {
                let found = program.env.iter().find(|(key, _)| key == name);
                found.map(|(_, value)| value.as_str())
            };
            let args = program.args.join(" ");
            (args, variable("A"), variable("TOKEN"))
        })
        .collect();
    assert_eq!(
        told,
        [
            ("/app one".to_owned(), Some("1"), Some("hunter2")),
            ("/app two".to_owned(), Some("2"), Some("hunter2")),
        ]
    );
    run.shut_down().await;
}
