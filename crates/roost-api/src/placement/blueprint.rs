//! What is recorded of a machine, should it have to be made anew. Pure.

use crate::workflows::deploy;
use roost_model::machine::{MachineSpec, MachineState, RestartWhen};
use roost_proto::machine_config::MachineConfig;
use roost_proto::worker::MachineStatus;
use roost_store::placements::{Blueprint, Change};

/// Whether a machine is made anew when its node is lost or it vanishes otherwise: one of a
/// deployment that is to be restarted when it ends.
///
/// It may run twice for a moment, while its node is cut off and another one has begun: what
/// must not, such as a job that somebody runs by hand, is not kept.
pub(crate) fn is_kept(spec: &MachineSpec) -> bool {
    is_deployed(spec)
        && spec.restart.when != RestartWhen::No
        && !spec.auto_destroy
        && !spec.is_standby()
}

fn is_deployed(spec: &MachineSpec) -> bool {
    spec.metadata.contains_key(deploy::DEPLOYMENT_KEY)
}

fn release_of(spec: &MachineSpec) -> Option<u64> {
    let release = spec.metadata.get(deploy::RELEASE_KEY)?;
    release.parse().ok().filter(|_| is_deployed(spec))
}

/// What a machine is to be, should it have to be made anew.
pub(crate) fn blueprint(spec: &MachineSpec) -> Blueprint {
    Blueprint {
        region: spec.region.clone(),
        config: MachineConfig::from(spec),
        release_version: release_of(spec),
        is_kept: is_kept(spec),
    }
}

/// Whether a machine runs only when somebody starts it. None while that is changing: then it is
/// what was asked for last.
pub(crate) fn rests(state: MachineState) -> Option<bool> {
    match state {
        MachineState::Created | MachineState::Starting | MachineState::Started => Some(false),
        MachineState::Stopping | MachineState::Suspending => None,
        MachineState::Stopped
        | MachineState::Suspended
        | MachineState::Failed
        | MachineState::Destroying
        | MachineState::Destroyed => Some(true),
    }
}

/// What is recorded of a machine that its worker tells of.
pub(crate) fn told(status: &MachineStatus) -> Change {
    Change {
        version: Some(status.instance_id.clone()),
        blueprint: Some(blueprint(&status.spec)),
        rests: rests(status.state),
        is_cordoned: Some(status.cordoned),
    }
}
