//! The app configuration of a folder, and the machine config it asks for.

use crate::args::Global;
use crate::error::{CliError, Exit};
use crate::limits;
use crate::output::Output;
use base64::Engine as _;
use roost_model::app_config::{self, AppConfig, ConfigWarning, FileSource, VmSection};
use roost_model::machine::Guest;
use roost_model::name::AppName;
use roost_model::size::ByteSize;
use roost_proto::duration::WireDuration;
use roost_proto::machine_config::{
    FileConfig, GuestConfig, InitConfig, MachineConfig, RestartConfig, ServiceConfig, StaticConfig,
    StopConfigWire,
};
use std::path::{Path, PathBuf};

/// Names of app configurations, best first.
const FILE_NAMES: [&str; 2] = ["roost.toml", "fly.toml"];

/// An app configuration with where it was found.
#[derive(Debug)]
pub(crate) struct Project {
    /// The file.
    pub(crate) file: PathBuf,
    /// What it says.
    pub(crate) config: AppConfig,
    /// Keys without effect.
    pub(crate) warnings: Vec<ConfigWarning>,
}

/// The app configuration at `--config`, else in `folder`; `None` when there is none.
pub(crate) fn find(global: &Global, folder: &Path) -> Result<Option<Project>, CliError> {
    let candidates: Vec<PathBuf> = match &global.config {
        Some(path) if !path.is_dir() => vec![path.clone()],
        Some(path) => FILE_NAMES.iter().map(|name| path.join(name)).collect(),
        None => FILE_NAMES.iter().map(|name| folder.join(name)).collect(),
    };
    if let Some(file) = candidates.iter().find(|path| path.is_file()) {
        return read(file).map(Some);
    }
    match &global.config {
        Some(path) => Err(CliError::new(
            Exit::NotFound,
            "config-not-found",
            format!("there is no app configuration at {}", path.display()),
        )),
        None => Ok(None),
    }
}

fn read(file: &Path) -> Result<Project, CliError> {
    let size = std::fs::metadata(file)
        .map_err(|error| CliError::io(format!("read {}", file.display()), &error))?
        .len();
    let bytes_max = roost_model::limits::APP_CONFIG_BYTES_MAX;
    if size > bytes_max as u64 {
        return Err(CliError::usage(format!(
            "{} has {size} bytes, and {bytes_max} is the most",
            file.display()
        )));
    }
    let text = std::fs::read_to_string(file)
        .map_err(|error| CliError::io(format!("read {}", file.display()), &error))?;
    let (config, warnings) =
        app_config::parse(&text, &file.display().to_string()).map_err(|errors| {
            let n_faults = errors.errors.len() + errors.n_left_out;
            let mut error = CliError::new(
                Exit::Usage,
                "config-invalid",
                format!(
                    "the app configuration has {n_faults} fault{}",
                    if n_faults == 1 { "" } else { "s" }
                ),
            );
            error.details = errors.to_string().lines().map(str::to_owned).collect();
            error
        })?;
    Ok(Project {
        file: file.to_owned(),
        config,
        warnings,
    })
}

impl Project {
    /// Says which keys have no effect.
    pub(crate) fn print_warnings(&self, output: Output) {
        for warning in &self.warnings {
            output.warn(&format!("{}: {warning}", self.file.display()));
        }
    }
}

/// The app that a command is about: `--app`, else the app configuration of this folder.
pub(crate) fn app_name(global: &Global) -> Result<String, CliError> {
    if let Some(name) = &global.app {
        return checked_name(name);
    }
    match find(global, Path::new("."))?.and_then(|project| project.config.app) {
        Some(name) => Ok(name),
        None => Err(CliError::usage(
            "which app? there is no app configuration here that names one",
        )
        .hint("add --app NAME")),
    }
}

/// A name that may go into a URL path.
pub(crate) fn checked_name(name: &str) -> Result<String, CliError> {
    AppName::parse(name)
        .map(|name| name.to_string())
        .map_err(|error| CliError::usage(error.to_string()))
}

/// The machine config that an app configuration asks for, with `image` as its image.
///
/// Files are read relative to `base`, the folder of the app configuration.
pub(crate) fn machine_config(
    config: &AppConfig,
    image: &str,
    base: &Path,
) -> Result<MachineConfig, CliError> {
    let mut env = config.env.clone();
    if let Some(region) = &config.primary_region {
        env.insert("PRIMARY_REGION".into(), region.clone());
    }
    let files = config
        .files
        .iter()
        .map(|file| {
            let content = match &file.source {
                FileSource::Text(text) => text.clone().into_bytes(),
                FileSource::LocalPath(path) => read_local(&base.join(path))?,
            };
            let raw_value = base64::engine::general_purpose::STANDARD.encode(content);
            Ok(FileConfig {
                guest_path: file.guest_path.clone(),
                raw_value,
                mode: None,
            })
        })
        .collect::<Result<_, CliError>>()?;
    let stop_config =
        (config.kill_signal.is_some() || config.kill_timeout.is_some()).then(|| StopConfigWire {
            signal: config.kill_signal.map(|signal| signal.as_str().to_owned()),
            timeout: config.kill_timeout.map(WireDuration),
        });
    Ok(MachineConfig {
        image: image.to_owned(),
        env,
        init: InitConfig {
            exec: config.exec.clone(),
            entrypoint: config.entrypoint.clone(),
            cmd: config.process.clone().or_else(|| config.cmd.clone()),
            swap_size_mb: (config.swap > ByteSize(0)).then(|| config.swap.as_mib()),
            ..InitConfig::default()
        },
        isolation: config
            .isolation
            .map(|isolation| isolation.as_str().to_owned()),
        guest: config.vm.as_ref().map(guest),
        services: config.services.iter().map(ServiceConfig::from).collect(),
        checks: config
            .checks
            .iter()
            .map(|(name, check)| (name.clone(), check.into()))
            .collect(),
        files,
        statics: config.statics.iter().map(StaticConfig::from).collect(),
        restart: config.restart.as_ref().map(|restart| RestartConfig {
            policy: restart.policy.clone(),
            max_retries: restart.retries,
        }),
        stop_config,
        ..MachineConfig::default()
    })
}

fn read_local(path: &Path) -> Result<Vec<u8>, CliError> {
    let on = |error| CliError::io(format!("read {} for [[files]]", path.display()), &error);
    let size = std::fs::metadata(path).map_err(on)?.len();
    if size > limits::MACHINE_FILE_BYTES_MAX {
        let message = format!(
            "{} has {size} bytes, and {} is the most for [[files]]",
            path.display(),
            limits::MACHINE_FILE_BYTES_MAX
        );
        return Err(CliError::usage(message).hint("put large files into the image"));
    }
    std::fs::read(path).map_err(on)
}

fn guest(vm: &VmSection) -> GuestConfig {
    let preset = vm
        .size
        .as_deref()
        .and_then(|name| Guest::preset(name).ok())
        .unwrap_or(Guest::DEFAULT);
    GuestConfig {
        cpu_kind: vm
            .cpu_kind
            .clone()
            .unwrap_or_else(|| preset.cpu_kind.as_str().to_owned()),
        cpus: vm.cpus.unwrap_or(preset.n_cpus),
        memory_mb: vm.memory.unwrap_or(preset.memory).as_mib(),
    }
}

#[cfg(test)]
mod tests {
    use super::machine_config;
    use roost_model::app_config::parse;
    use roost_model::machine::{Isolation, Rung};
    use roost_model::name::{AppName, MachineName, RegionCode};
    use roost_model::size::ByteSize;
    use roost_proto::machine_config::MachineIdentity;

    #[test]
    fn an_app_configuration_becomes_a_machine_config_that_the_api_accepts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.txt"), "hi").unwrap();
        let text = "primary_region = 'local'\nkill_signal = 'SIGTERM'\nisolation = 'vm'\nswap_size_mb = 512\n[env]\nA = 1\n[processes]\napp = 'run x'\n\
            [http_service]\ninternal_port = 3000\nforce_https = true\n[[http_service.checks]]\npath = '/up'\n\
            [checks.c]\ntype = 'tcp'\nport = 1\n[[vm]]\nsize = 'shared-cpu-2x'\nmemory = 1024\n\
            [[restart]]\npolicy = 'never'\n[[files]]\nguest_path = '/a'\nlocal_path = 'a.txt'\n";
        let (config, warnings) = parse(text, "t").unwrap();
        assert!(warnings.is_empty());
        let wire = machine_config(&config, "nginx", dir.path()).unwrap();
        let identity = MachineIdentity {
            app: AppName::parse("web").unwrap(),
            name: MachineName::parse("web-1").unwrap(),
            region: RegionCode::parse("local").unwrap(),
        };
        let spec = wire.to_spec(identity).unwrap();
        assert_eq!(spec.isolation, Isolation::Rung(Rung::Vm));
        assert_eq!(spec.swap, ByteSize::mib(512));
        assert_eq!(spec.process.cmd.unwrap(), ["run", "x"]);
        assert_eq!(spec.process.env["PRIMARY_REGION"], "local");
        assert_eq!((spec.guest.n_cpus, spec.guest.memory.as_mib()), (2, 1024));
        assert_eq!(spec.files[0].content, b"hi");
        assert!(spec.services[0].ports[0].force_https);
        assert_eq!(spec.services[0].checks[0].kind.port(), Some(3000));
    }
}
