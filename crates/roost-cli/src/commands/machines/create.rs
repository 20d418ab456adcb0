//! Machines that are made, changed and copied one by one, outside any release.

use super::{locate, path, wait};
use crate::args::Global;
use crate::args::machines::{
    CloneMachineArgs, MachineConfigArgs, NewMachineArgs, UpdateMachineArgs,
};
use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::output::Output;
use crate::project::app_name;
use reqwest::Method;
use roost_proto::machine_config::MachineConfig;
use roost_proto::rest::{CreateMachineRequest, Machine, PatchMachineRequest};
use serde_json::{Value, json};

/// What only roost itself writes into the metadata of a machine that a deployment made.
const DEPLOYMENT_KEYS: &str = "roost_";

/// Runs `machines create`, and `machines run` with `start`.
pub(super) async fn create(
    client: &Client,
    global: &Global,
    args: NewMachineArgs,
    start: bool,
    output: Output,
) -> Result<(), CliError> {
    let app = app_name(global)?;
    let mut config = changes(&args.config);
    config["image"] = args.image.into();
    if args.rm {
        config["auto_destroy"] = true.into();
        config["restart"] = json!({"policy": "no"});
    }
    let request = CreateMachineRequest {
        config: read_config(config)?,
        name: args.name,
        region: args.region,
        skip_launch: !start,
        lease_ttl: None,
    };
    let verb = if start { "run" } else { "create" };
    make(client, global, (&app, verb), request, output).await
}

/// Runs `machines clone`.
pub(super) async fn clone(
    client: &Client,
    global: &Global,
    args: CloneMachineArgs,
    output: Output,
) -> Result<(), CliError> {
    let old = locate(client, global, &args.machine.machine).await?;
    let mut config = old.config;
    // The copy is not one of the release's machines, which deployments replace. Secrets are
    // the app's: the platform gives them to every machine, and no config holds them.
    config
        .metadata
        .retain(|key, _| !key.starts_with(DEPLOYMENT_KEYS));
    let request = CreateMachineRequest {
        config,
        name: args.name,
        region: Some(args.region.unwrap_or(old.region)),
        skip_launch: args.skip_start,
        lease_ttl: None,
    };
    make(client, global, (&old.app, "clone"), request, output).await
}

async fn make(
    client: &Client,
    global: &Global,
    (app, verb): (&str, &str),
    request: CreateMachineRequest,
    output: Output,
) -> Result<(), CliError> {
    if global.dry_run {
        let text = format!("{verb} a machine of {app} from {}", request.config.image);
        let details = json!({"app": app, "machine": request});
        output.plan(&format!("machines {verb}"), details, &text);
        return Ok(());
    }
    let url = format!("/v1/apps/{app}/machines");
    let mut machine: Machine = client.create(&url, Some(&request)).await?;
    // What stands by is not started, and what removes itself may be gone.
    let starts = !request.skip_launch && request.config.standbys.is_empty();
    if starts && !request.config.auto_destroy {
        let what = format!("{} to be started", machine.id);
        let waiting = wait(client, global, &machine, "started");
        output.wait(&what, waiting).await?;
        machine = client.get(&path(&machine)).await?;
    }
    output.result(&machine, || {
        format!(
            "{} ({}) of {app} is {}",
            machine.id, machine.name, machine.state
        )
    });
    Ok(())
}

/// Runs `machines update`.
pub(super) async fn update(
    client: &Client,
    global: &Global,
    args: UpdateMachineArgs,
    output: Output,
) -> Result<(), CliError> {
    let machine = locate(client, global, &args.machine.machine).await?;
    let mut config = changes(&args.config);
    if args.config.size.is_some() {
        // One of the two says the size.
        config["guest"] = Value::Null;
    }
    if let Some(image) = args.image {
        config["image"] = image.into();
    }
    if config == json!({}) {
        return Err(
            CliError::new(Exit::Usage, "usage", "nothing to change is given")
                .hint("`roost machines update --help` shows what can be changed"),
        );
    }
    if global.dry_run {
        let details = json!({"app": machine.app, "machine": machine.id, "config": config});
        let text = format!("change {config} of machine {}", machine.id);
        output.plan("machines update", details, &text);
        return Ok(());
    }
    let request = PatchMachineRequest {
        config,
        current_version: machine.instance_id.clone(),
        skip_launch: args.skip_start,
    };
    let url = path(&machine);
    let changed: Machine = client.call(Method::PATCH, &url, Some(&request)).await?;
    output.result(&changed, || {
        format!(
            "{} has version {} and is {}",
            changed.id, changed.instance_id, changed.state
        )
    });
    Ok(())
}

/// What flags say of a config, as a merge patch of one.
fn changes(args: &MachineConfigArgs) -> Value {
    let mut config = json!({});
    if let Some(size) = &args.size {
        config["size"] = size.as_str().into();
    }
    if let Some(cpus) = args.cpus {
        config["guest"]["cpus"] = cpus.into();
    }
    if let Some(memory) = args.memory {
        config["guest"]["memory_mb"] = memory.into();
    }
    for (name, value) in &args.env {
        config["env"][name] = value.as_str().into();
    }
    if let Some(port) = args.port {
        config["services"] = json!([{"internal_port": port}]);
    }
    if let Some(policy) = &args.restart {
        config["restart"] = json!({"policy": policy});
    }
    if let Some(schedule) = &args.schedule {
        config["schedule"] = match schedule.as_str() {
            "" => Value::Null,
            schedule => schedule.into(),
        };
    }
    if !args.standby_for.is_empty() {
        config["standbys"] = json!(args.standby_for);
    }
    if let Some(isolation) = args.isolation {
        config["isolation"] = isolation.as_str().into();
    }
    if !args.command.is_empty() {
        config["init"] = json!({"cmd": args.command});
    }
    config
}

fn read_config(config: Value) -> Result<MachineConfig, CliError> {
    serde_json::from_value(config)
        .map_err(|error| CliError::new(Exit::Usage, "usage", format!("machine config: {error}")))
}

#[cfg(test)]
mod tests {
    use super::{changes, read_config};
    use crate::args::machines::MachineConfigArgs;
    use serde_json::json;

    #[test]
    fn flags_change_what_they_name_and_nothing_else() {
        assert_eq!(changes(&MachineConfigArgs::default()), json!({}));
        let args = MachineConfigArgs {
            cpus: Some(2),
            env: vec![("A".into(), "1=2".into())],
            port: Some(8080),
            schedule: Some(String::new()),
            standby_for: vec!["148e".into()],
            command: vec!["serve".into(), "-v".into()],
            ..MachineConfigArgs::default()
        };
        let mut config = changes(&args);
        assert_eq!(
            config,
            json!({
                "guest": {"cpus": 2},
                "env": {"A": "1=2"},
                "services": [{"internal_port": 8080}],
                "schedule": null,
                "standbys": ["148e"],
                "init": {"cmd": ["serve", "-v"]},
            })
        );
        config["image"] = "nginx".into();
        let config = read_config(config).unwrap();
        assert_eq!(config.guest.unwrap().memory_mb, 256);
    }
}
