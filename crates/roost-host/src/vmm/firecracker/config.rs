//! What Firecracker is told of a VM before it starts: requests, without sending them.

use super::api::ApiRequest;
use super::limits::{CPUS_MAX, DRIVES_MAX};
use super::version::Version;
use crate::vmm::kernel::KernelFlavor;
use crate::vmm::{DriveAccess, DriveLimit, VmConfig, VmmError};
use serde_json::{Value, json};

/// The guest's address on the virtual socket; one jail, one guest, so always the same.
const GUEST_CID: u32 = 3;
/// The guest's network interface, as Firecracker calls it.
const NIC_ID: &str = "eth0";
/// Where a guest looks for metadata: what every cloud has taken.
const METADATA_ADDRESS: &str = "169.254.169.254";
/// From this version on the balloon is asked to give back by itself what the
/// guest frees; a version that does not know the word refuses the whole balloon.
const FREE_PAGE_REPORTING: Version = Version::new(1, 15);

/// Paths inside the jail, the same for every VM: a snapshot has them too.
pub(super) mod inside {
    pub(in super::super) const KERNEL: &str = "/vmlinux";
    pub(in super::super) const INITRAMFS: &str = "/initramfs";
    pub(in super::super) const API: &str = "/api.sock";
    pub(in super::super) const AGENT: &str = "/agent.sock";
    pub(in super::super) const LOG: &str = "/log";
    pub(in super::super) const METRICS: &str = "/metrics";
    pub(in super::super) const LOAD_STATE: &str = "/load-state";
    pub(in super::super) const LOAD_MEMORY: &str = "/load-memory";
    pub(in super::super) const SAVE_STATE: &str = "/save/state";
    pub(in super::super) const SAVE_MEMORY: &str = "/save/memory";

    /// The n-th drive.
    pub(in super::super) fn drive(idx: usize) -> String {
        format!("/drive-{idx}")
    }
}

/// Refuses what Firecracker cannot give.
pub(super) fn check(config: &VmConfig) -> Result<(), VmmError> {
    let refuse = |reason: String| {
        Err(VmmError::Refused {
            operation: format!("start {} with firecracker", config.name),
            reason,
        })
    };
    let n_cpus = config.n_cpus;
    if n_cpus == 0 || n_cpus > CPUS_MAX || (n_cpus > 1 && n_cpus % 2 == 1) {
        return refuse(format!(
            "{n_cpus} processors; it knows 1 and even numbers up to {CPUS_MAX}"
        ));
    }
    if config.memory.as_mib() == 0 {
        return refuse("less than 1 MiB of memory".to_owned());
    }
    if config.drives.len() > DRIVES_MAX {
        return refuse(format!(
            "{} drives; {DRIVES_MAX} are the most",
            config.drives.len()
        ));
    }
    if config.owner.uid == 0 || config.owner.gid == 0 {
        return refuse("a hypervisor does not run as root".to_owned());
    }
    Ok(())
}

/// All requests up to the start, in their order.
pub(super) fn cold_start(config: &VmConfig, version: Version, region: &str) -> Vec<ApiRequest> {
    let mut requests = vec![
        ApiRequest::put(
            "/machine-config",
            json!({
                "vcpu_count": config.n_cpus,
                "mem_size_mib": config.memory.as_mib(),
                "smt": false,
                "track_dirty_pages": false,
            }),
        ),
        ApiRequest::put(
            "/boot-source",
            json!({
                "kernel_image_path": inside::KERNEL,
                "initrd_path": inside::INITRAMFS,
                "boot_args": kernel_args(config.kernel.flavor),
            }),
        ),
    ];
    requests.extend(drives(config));
    if let Some(nic) = &config.nic {
        requests.push(ApiRequest::put(
            format!("/network-interfaces/{NIC_ID}"),
            json!({
                "iface_id": NIC_ID,
                "guest_mac": hardware_address(nic.hardware_address),
                "host_dev_name": nic.tap,
            }),
        ));
        // Version 2 answers only with a token: a request that a guest was made
        // to send on behalf of others has none.
        requests.push(ApiRequest::put(
            "/mmds/config",
            json!({
                "version": "V2",
                "network_interfaces": [NIC_ID],
                "ipv4_address": METADATA_ADDRESS,
            }),
        ));
        requests.extend(metadata(config, region));
    }
    requests.push(ApiRequest::put(
        "/vsock",
        json!({ "guest_cid": GUEST_CID, "uds_path": inside::AGENT }),
    ));
    requests.push(ApiRequest::put("/entropy", json!({})));
    requests.push(ApiRequest::put("/balloon", balloon(version)));
    requests.push(ApiRequest::put(
        "/actions",
        json!({ "action_type": "InstanceStart" }),
    ));
    requests
}

/// What the guest can ask for; a snapshot does not have it.
pub(super) fn metadata(config: &VmConfig, region: &str) -> Option<ApiRequest> {
    config.nic.as_ref()?;
    Some(ApiRequest::put(
        "/mmds",
        json!({ "machine": { "id": config.name, "region": region } }),
    ))
}

/// The request that loads a snapshot, paused.
pub(super) fn load_snapshot() -> ApiRequest {
    ApiRequest::put(
        "/snapshot/load",
        json!({
            "snapshot_path": inside::LOAD_STATE,
            "mem_backend": { "backend_type": "File", "backend_path": inside::LOAD_MEMORY },
            "resume_vm": false,
        }),
    )
}

/// The request that writes one.
pub(super) fn create_snapshot() -> ApiRequest {
    ApiRequest::put(
        "/snapshot/create",
        json!({
            "snapshot_type": "Full",
            "snapshot_path": inside::SAVE_STATE,
            "mem_file_path": inside::SAVE_MEMORY,
        }),
    )
}

/// The request that stops or continues the processors.
pub(super) fn set_state(state: &'static str) -> ApiRequest {
    ApiRequest::patch("/vm", json!({ "state": state }))
}

fn drives(config: &VmConfig) -> impl Iterator<Item = ApiRequest> {
    config.drives.iter().enumerate().map(|(idx, drive)| {
        let id = format!("drive{idx}");
        let mut body = json!({
            "drive_id": id,
            "path_on_host": inside::drive(idx),
            // The initial file system finds its root by itself.
            "is_root_device": false,
            "is_read_only": drive.access == DriveAccess::ReadOnly,
            // What the guest has flushed is on disk.
            "cache_type": "Writeback",
        });
        if let Some(limit) = drive.limit {
            body["rate_limiter"] = rate_limiter(limit);
        }
        ApiRequest::put(format!("/drives/{id}"), body)
    })
}

/// Buckets that hold what the seconds of a burst give, full at the start.
fn rate_limiter(limit: DriveLimit) -> Value {
    let seconds = u64::from(limit.burst_seconds.max(1));
    let bucket = |per_second: u64| {
        json!({
            "size": per_second.saturating_mul(seconds),
            "refill_time": seconds.saturating_mul(1_000),
        })
    };
    json!({
        "bandwidth": bucket(limit.bytes_per_second),
        "ops": bucket(limit.operations_per_second),
    })
}

/// An empty balloon: the guest keeps its memory, but for what it does not use.
fn balloon(version: Version) -> Value {
    let mut body = json!({
        "amount_mib": 0,
        "deflate_on_oom": true,
        "stats_polling_interval_s": 0,
    });
    if version >= FREE_PAGE_REPORTING {
        body["free_page_reporting"] = json!(true);
    }
    body
}

/// The guest's way to end the VM is the keyboard controller (`reboot=k`), which
/// is also why it need not be looked for.
fn kernel_args(flavor: KernelFlavor) -> String {
    let common = "console=ttyS0 reboot=k panic=1 8250.nr_uarts=1 \
        i8042.noaux i8042.nomux i8042.dumbkbd";
    match flavor {
        KernelFlavor::Debian => common.to_owned(),
        // It takes its devices from the command line; told of them twice, by
        // ACPI as well, it reports the second as busy.
        KernelFlavor::Slim => format!("{common} acpi=off pci=off"),
    }
}

fn hardware_address(bytes: [u8; 6]) -> String {
    let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}
