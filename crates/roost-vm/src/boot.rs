//! What the agent is told so that it can set up its guest.

use crate::limits::RANDOM_SEED_BYTES;
use rand::TryRngCore as _;
use roost_agent::proto::{
    Address, AfterRestoreRequest, BootRequest, EnvironmentVariable, GuestFile, HostEntry, Network,
    Process, RootDisks,
};
use roost_model::machine::own_names;
use roost_proto::vm::{VmLaunch, VmProgram};
use roost_runtime::clock::{Clock as _, SystemClock};
use std::net::IpAddr;

/// The link of a guest.
const LINK: &str = "eth0";
/// The disks, in the order in which the hypervisor is given them.
const ROOT_IMAGE_DEVICE: &str = "vda";
const SCRATCH_DEVICE: &str = "vdb";

/// The request that starts the app.
pub(crate) fn request(launch: &VmLaunch) -> anyhow::Result<BootRequest> {
    let files = launch.files.iter().map(|file| GuestFile {
        path: file.guest_path.clone(),
        content: file.content.clone().into(),
        mode: file.mode,
    });
    Ok(BootRequest {
        clock_unix_ns: clock_unix_ns(),
        random_seed: random_seed()?.into(),
        hostname: launch.machine_id.clone(),
        network: Some(network(launch)),
        root: Some(RootDisks {
            image_device: ROOT_IMAGE_DEVICE.to_owned(),
            scratch_device: SCRATCH_DEVICE.to_owned(),
        }),
        swap_bytes: launch.limits.swap_bytes,
        files: files.collect(),
        processes: processes(launch),
        open_files_max: launch.limits.open_files_max,
        manage_etc: true,
        ..BootRequest::default()
    })
}

/// All programs; several are named by number, from 1.
fn processes(launch: &VmLaunch) -> Vec<Process> {
    let first = VmProgram {
        args: launch.args.clone(),
        env: launch.env.clone(),
        workdir: launch.workdir.clone(),
        user: launch.user.clone(),
    };
    let mut processes: Vec<Process> = std::iter::once(&first)
        .chain(&launch.beside)
        .map(process)
        .collect();
    if processes.len() > 1 {
        for (idx, process) in processes.iter_mut().enumerate() {
            process.name = (idx + 1).to_string();
        }
    }
    processes
}

fn process(program: &VmProgram) -> Process {
    let env = program.env.iter().map(|(name, value)| EnvironmentVariable {
        name: name.clone(),
        value: value.clone(),
    });
    Process {
        name: String::new(),
        args: program.args.clone(),
        env: env.collect(),
        workdir: program.workdir.clone(),
        user: program.user.clone(),
    }
}

/// The request that lets a restored app run on.
pub(crate) fn after_restore() -> anyhow::Result<AfterRestoreRequest> {
    Ok(AfterRestoreRequest {
        clock_unix_ns: clock_unix_ns(),
        random_seed: random_seed()?.into(),
    })
}

fn network(launch: &VmLaunch) -> Network {
    let network = &launch.network;
    let addresses = vec![
        Address {
            address: network.ipv4.to_string(),
            prefix: 32,
            gateway: network.gateway_ipv4.to_string(),
        },
        Address {
            address: network.ipv6.to_string(),
            prefix: 128,
            gateway: network.gateway_ipv6.to_string(),
        },
    ];
    let own = [IpAddr::V4(network.ipv4), IpAddr::V6(network.ipv6)];
    let hosts = own.into_iter().map(|address| {
        let names = own_names(&launch.machine_id, address).into_iter();
        HostEntry {
            address: address.to_string(),
            names: names.map(str::to_owned).collect(),
        }
    });
    let hosts = hosts.collect();
    let nameservers = network.nameservers.iter();
    Network {
        link: LINK.to_owned(),
        mtu: network.mtu,
        addresses,
        hosts,
        nameservers: nameservers.map(ToString::to_string).collect(),
        ..Network::default()
    }
}

fn clock_unix_ns() -> i64 {
    let ms = SystemClock.now().as_ms();
    i64::try_from(ms)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000)
}

fn random_seed() -> anyhow::Result<Vec<u8>> {
    let mut seed = vec![0; RANDOM_SEED_BYTES];
    rand::rngs::OsRng.try_fill_bytes(&mut seed)?;
    Ok(seed)
}
