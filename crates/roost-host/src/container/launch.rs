//! From a launch config to the message that a shim understands.

use super::limits::{CPU_SHARES_PER_CORE, NAMESERVERS_MAX, OPEN_FILES_MAX, PIDS_MAX};
use super::{ContainerDriver, ContainerRuntime};
use crate::driver::{DriverError, LaunchConfig, RootFs};
use crate::shim::blocking;
use roost_model::machine::Guest;
use roost_model::size::ByteSize;
use roost_proto::shim::{ShimFile, ShimLaunch, ShimLimits};
use std::net::IpAddr;

/// Where name servers of the host are written; the second is the one behind a local stub.
const RESOLV_FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Builds the message.
pub(super) async fn message(
    driver: &ContainerDriver,
    config: &LaunchConfig,
) -> Result<ShimLaunch, DriverError> {
    let id = &config.machine_id;
    let RootFs::Layers(layers) = &config.root_fs else {
        return Err(DriverError::Refused(
            "a container is started from layers, not from an image file".into(),
        ));
    };
    if !config.beside.is_empty() {
        return Err(DriverError::Refused(
            "several programs in one machine run in VMs only: use the isolation vm or vm-emulated"
                .into(),
        ));
    }
    let nameservers = blocking("read the host's name servers", || Ok(host_nameservers())).await?;
    let files = config.files.iter().map(|file| ShimFile {
        guest_path: file.guest_path.clone(),
        content: file.content.clone(),
        mode: file.mode,
    });
    Ok(ShimLaunch {
        machine_id: id.as_str().to_owned(),
        app: config.app.to_string(),
        region: config.region.to_string(),
        run_dir: driver.shims.run_dir(id),
        data_dir: driver.shims.data_dir(id),
        log_dir: config.log_dir.clone(),
        layers: layers.clone(),
        args: config.process.args.clone(),
        env: config.process.env.clone(),
        workdir: config.process.workdir.clone(),
        user: config.process.user.clone(),
        id_base: config.id_range.base,
        id_size: config.id_range.size,
        addresses: vec![config.addresses.ipv4.into(), config.addresses.ipv6.into()],
        nameservers,
        files: files.collect(),
        limits: limits_of(config.guest, config.swap),
        cgroup: driver.shims.cgroup_path(id),
        runtime: match &driver.runtime {
            ContainerRuntime::Library => None,
            ContainerRuntime::External(path) => Some(path.clone()),
        },
    })
}

/// What a machine may use.
pub(crate) fn limits_of(guest: Guest, swap: ByteSize) -> ShimLimits {
    let time = guest.cpu_time();
    ShimLimits {
        memory_bytes: guest.memory.bytes(),
        swap_bytes: swap.bytes(),
        // The weight gives what is guaranteed, whatever others want.
        cpu_shares: CPU_SHARES_PER_CORE * time.guaranteed_us / time.period_us,
        cpu_quota_us: time.quota_us,
        cpu_period_us: time.period_us,
        cpu_burst_us: time.burst_us,
        pids_max: PIDS_MAX,
        open_files_max: OPEN_FILES_MAX,
    }
}

/// The name servers of the host that a machine can reach: not those on loopback.
pub(crate) fn host_nameservers() -> Vec<IpAddr> {
    RESOLV_FILES
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .map(|text| parse_nameservers(&text))
        .find(|servers| !servers.is_empty())
        .unwrap_or_default()
}

fn parse_nameservers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("nameserver")?
                .trim()
                .parse::<IpAddr>()
                .ok()
        })
        .filter(|server| !server.is_loopback() && !server.is_unspecified())
        .take(NAMESERVERS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{limits_of, parse_nameservers};
    use roost_model::machine::Guest;
    use roost_model::size::ByteSize;

    #[test]
    fn a_shared_cpu_weighs_a_sixteenth_of_a_performance_cpu() {
        let shared = limits_of(Guest::preset("shared-cpu-4x").unwrap(), ByteSize(0));
        let performance = limits_of(Guest::preset("performance-4x").unwrap(), ByteSize(0));
        assert_eq!(shared.cpu_shares * 16, performance.cpu_shares);
        assert_eq!(shared.cpu_quota_us, 4 * shared.cpu_period_us);
        assert_eq!(shared.cpu_shares, 256);
    }

    #[test]
    fn local_stubs_are_of_no_use_to_a_machine() {
        let text = "# comment\nnameserver 127.0.0.53\nnameserver 10.0.0.2\noptions edns0\nnameserver fe80::1%eth0\n";
        assert_eq!(
            parse_nameservers(text),
            ["10.0.0.2".parse::<std::net::IpAddr>().unwrap()]
        );
    }
}
