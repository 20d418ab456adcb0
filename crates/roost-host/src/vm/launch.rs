//! From a launch config to the message that `roost-vm` understands.

use super::VmDriver;
use crate::container::{host_nameservers, limits_of};
use crate::driver::{DriverError, LaunchConfig, LaunchProcess, RootFs};
use crate::shim::blocking;
use crate::vmm::kernel::GuestKernel;
use roost_proto::shim::ShimFile;
use roost_proto::vm::{VmDiskRate, VmKernel, VmLaunch, VmNetwork, VmProgram};
use std::num::NonZeroU64;

/// Builds the message.
pub(super) async fn message(
    driver: &VmDriver,
    config: &LaunchConfig,
    kernel: &GuestKernel,
) -> Result<VmLaunch, DriverError> {
    let id = &config.machine_id;
    let RootFs::Image(root_image) = &config.root_fs else {
        return Err(DriverError::Refused(
            "a VM is started from an image file, not from layers".into(),
        ));
    };
    let nameservers = blocking("read the host's name servers", || Ok(host_nameservers())).await?;
    let files = config.files.iter().map(|file| ShimFile {
        guest_path: file.guest_path.clone(),
        content: file.content.clone(),
        mode: file.mode,
    });
    let guest = driver.config.network.guest(config.addresses);
    let disk_rate = config.guest.disk_rate();
    let link_rate = NonZeroU64::new(config.guest.link_rate().bytes())
        .ok_or_else(|| DriverError::Refused("a link needs a rate".into()))?;
    Ok(VmLaunch {
        machine_id: id.as_str().to_owned(),
        instance_id: config.instance_id.to_string(),
        app: config.app.to_string(),
        region: config.region.to_string(),
        run_dir: driver.shims.run_dir(id),
        data_dir: driver.shims.data_dir(id),
        log_dir: config.log_dir.clone(),
        hypervisor: driver.config.hypervisor.clone(),
        kernel: VmKernel {
            store: driver.config.kernels.clone(),
            id: kernel.id.clone(),
        },
        root_image: root_image.clone(),
        // Its swap is there too, and is not to take room from what it writes.
        scratch_bytes: config.root_disk.bytes() + config.swap.bytes(),
        n_cpus: config.guest.n_cpus,
        limits: limits_of(config.guest, config.swap),
        owner: config.id_range.base,
        cgroup: driver.shims.cgroup_path(id),
        disk_rate: VmDiskRate {
            bytes: disk_rate.bytes.bytes(),
            operations: disk_rate.operations,
        },
        network: VmNetwork {
            hardware_address: guest.hardware_address,
            ipv4: guest.addresses.ipv4,
            ipv6: guest.addresses.ipv6,
            gateway_ipv4: guest.gateway_ipv4,
            gateway_ipv6: guest.gateway_ipv6,
            mtu: guest.mtu,
            bytes_per_second: link_rate,
            nameservers,
        },
        args: config.process.args.clone(),
        env: config.process.env.clone(),
        workdir: config.process.workdir.clone(),
        user: config.process.user.clone(),
        beside: config.beside.iter().map(program).collect(),
        files: files.collect(),
        resume: config.resume,
        boot_timeout_ms: u64::try_from(driver.config.boot_timeout.as_millis()).unwrap_or(u64::MAX),
    })
}

fn program(process: &LaunchProcess) -> VmProgram {
    VmProgram {
        args: process.args.clone(),
        env: process.env.clone(),
        workdir: process.workdir.clone(),
        user: process.user.clone(),
    }
}
