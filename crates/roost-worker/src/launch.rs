//! What a machine runs, from its image and its spec.
//!
//! Command: `exec` alone, if given. Else entrypoint and command, each of the
//! spec or else of the image; an entrypoint of the spec drops the image's
//! command, which was written as arguments for another program (Docker does
//! the same).
//!
//! Environment, weakest first: image, spec, secrets, platform.

use crate::images::ResolvedImage;
use crate::store::row::Row;
use roost_host::driver::{LaunchProcess, MachineAddresses};
use roost_model::machine::{ProcessSpec, StopSignal};
use roost_model::program::PATH_DEFAULT;
use roost_proto::worker::SecretEnv;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is around every program of a machine: secrets, addresses, variables of the platform.
pub(crate) type Surroundings<'a> = (&'a SecretEnv, MachineAddresses, &'a [(String, String)]);

/// A program of a machine as it is launched, or what is missing.
pub(crate) fn resolve_process(
    row: &Row,
    program: &ProcessSpec,
    image: &ResolvedImage,
    around: Surroundings<'_>,
) -> Result<LaunchProcess, String> {
    let args = resolve_command(program, image);
    if args.first().is_none_or(String::is_empty) {
        return Err(format!(
            "image {} says no command to run: set `cmd`, `entrypoint` or `exec`",
            row.spec.image
        ));
    }
    let non_empty = |text: &Option<String>, other: &str| match text {
        Some(text) if !text.is_empty() => text.clone(),
        _ => other.to_owned(),
    };
    let workdir = non_empty(&program.workdir, &image.workdir);
    Ok(LaunchProcess {
        args,
        env: resolve_env(row, program, image, around),
        workdir: if workdir.is_empty() {
            "/".into()
        } else {
            workdir
        },
        user: non_empty(&program.user, &image.user),
    })
}

fn resolve_command(process: &ProcessSpec, image: &ResolvedImage) -> Vec<String> {
    if let Some(exec) = &process.exec {
        return exec.clone();
    }
    let entrypoint = process.entrypoint.as_ref().unwrap_or(&image.entrypoint);
    let cmd = match (&process.cmd, &process.entrypoint) {
        (Some(cmd), _) => cmd.as_slice(),
        (None, Some(_)) => &[],
        (None, None) => image.cmd.as_slice(),
    };
    entrypoint.iter().chain(cmd).cloned().collect()
}

fn resolve_env(
    row: &Row,
    program: &ProcessSpec,
    image: &ResolvedImage,
    (secrets, addresses, platform_env): Surroundings<'_>,
) -> Vec<(String, String)> {
    let mut env = BTreeMap::from([("PATH".to_owned(), PATH_DEFAULT.to_owned())]);
    env.extend(image.env.iter().cloned());
    env.extend(program.env.clone());
    env.extend(secrets.0.clone());
    let spec = &row.spec;
    let facts = [
        ("APP_NAME", spec.app.to_string()),
        ("MACHINE_ID", row.id.to_string()),
        ("ALLOC_ID", row.id.to_string()),
        ("MACHINE_VERSION", row.instance_id.to_string()),
        ("REGION", spec.region.to_string()),
        ("PRIVATE_IP", addresses.ipv6.to_string()),
        ("IMAGE_REF", spec.image.to_string()),
        ("PROCESS_GROUP", spec.process_group().to_owned()),
        ("VM_MEMORY_MB", spec.guest.memory.as_mib().to_string()),
    ];
    for (name, value) in facts {
        env.insert(format!("FLY_{name}"), value.clone());
        env.insert(format!("ROOST_{name}"), value);
    }
    env.extend(platform_env.iter().cloned());
    env.into_iter().collect()
}

/// The signals and time of one stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopPlan {
    /// The first signal.
    pub(crate) signal: StopSignal,
    /// Time until SIGKILL.
    pub(crate) timeout: Duration,
}

/// How to stop a machine: as the request says, else its spec, else its image, else SIGINT.
pub(crate) fn plan_stop(row: &Row) -> StopPlan {
    let of_image = || row.image_stop_signal.as_deref().and_then(StopSignal::parse);
    let signal = row
        .stop_asked
        .signal
        .or(row.spec.stop.signal)
        .or_else(of_image)
        .unwrap_or(StopSignal::Int);
    StopPlan {
        signal,
        timeout: row.stop_asked.timeout.unwrap_or(row.spec.stop.timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::{plan_stop, resolve_command, resolve_process};
    use crate::tests::samples;
    use roost_model::machine::{ProcessSpec, StopSignal};
    use roost_proto::worker::SecretEnv;
    use std::collections::BTreeMap;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_command_follows_the_image_unless_the_spec_says_otherwise() {
        let image = samples::image("/entry", "image-cmd");
        let command = |process: ProcessSpec| resolve_command(&process, &image).join(" ");
        assert_eq!(command(ProcessSpec::default()), "/entry image-cmd");
        let cmd = ProcessSpec {
            cmd: Some(words("b c")),
            ..ProcessSpec::default()
        };
        assert_eq!(command(cmd), "/entry b c");
        let entrypoint = ProcessSpec {
            entrypoint: Some(words("/a")),
            ..ProcessSpec::default()
        };
        assert_eq!(
            command(entrypoint.clone()),
            "/a",
            "the image's command goes with its entrypoint"
        );
        assert_eq!(
            command(ProcessSpec {
                cmd: Some(words("x")),
                ..entrypoint.clone()
            }),
            "/a x"
        );
        let exec = ProcessSpec {
            exec: Some(words("/only this")),
            cmd: Some(words("x")),
            ..entrypoint
        };
        assert_eq!(command(exec), "/only this");
    }

    #[test]
    fn an_image_without_a_command_is_refused_by_name() {
        let row = samples::row();
        let secrets = SecretEnv::default();
        let around = (&secrets, samples::addresses(1), &[][..]);
        let image = samples::image("", "");
        let error = resolve_process(&row, &row.spec.process, &image, around).unwrap_err();
        assert!(
            error.contains(&row.spec.image.to_string()) && error.contains("cmd"),
            "{error}"
        );
    }

    #[test]
    fn the_environment_is_layered() {
        let mut row = samples::row();
        row.spec.process.env = [("A", "spec"), ("B", "spec"), ("C", "spec")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let mut image = samples::image("/a", "");
        image.env = vec![("A".into(), "image".into()), ("D".into(), "image".into())];
        let secrets = SecretEnv(BTreeMap::from([("B".into(), "secret".into())]));
        let platform = [("C".to_owned(), "platform".to_owned())];
        let around = (&secrets, samples::addresses(7), &platform[..]);
        let process = resolve_process(&row, &row.spec.process, &image, around).unwrap();
        let env: BTreeMap<String, String> = process.env.into_iter().collect();
        for (name, value) in [
            ("A", "spec"),
            ("B", "secret"),
            ("C", "platform"),
            ("D", "image"),
            ("FLY_APP_NAME", "web"),
            ("ROOST_APP_NAME", "web"),
            ("FLY_MACHINE_ID", row.id.as_str()),
            ("FLY_MACHINE_VERSION", row.instance_id.as_str()),
            ("FLY_PROCESS_GROUP", "app"),
            ("FLY_VM_MEMORY_MB", "256"),
            ("FLY_PRIVATE_IP", "fd00::7"),
        ] {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(env["PATH"].contains("/usr/bin"));
    }

    #[test]
    fn the_stop_signal_is_of_the_request_the_spec_the_image_or_int() {
        let mut row = samples::row();
        assert_eq!(plan_stop(&row).signal, StopSignal::Int);
        row.image_stop_signal = Some("SIGQUIT".into());
        assert_eq!(plan_stop(&row).signal, StopSignal::Quit);
        row.spec.stop.signal = Some(StopSignal::Usr1);
        assert_eq!(plan_stop(&row).signal, StopSignal::Usr1);
        row.stop_asked.signal = Some(StopSignal::Term);
        assert_eq!(plan_stop(&row).signal, StopSignal::Term);
    }
}
