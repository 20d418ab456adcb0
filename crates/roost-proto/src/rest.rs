//! JSON of the REST API under `/v1`.
//!
//! Names and shapes follow the Machines API of Fly.io where it has them;
//! releases, deployments, builds and logs are roost's own.

mod addresses;
mod canary;
mod certificates;
mod images;
mod requests;

pub use addresses::{AssignIpRequest, IpAssignment, IpAssignmentList};
pub use canary::{CanaryConfig, CanaryJudgement, DeploymentCanary, ReleaseSeen};
pub use certificates::{
    Certificate, CertificateAttempt, CertificateList, HostLookup, IssueCertificateRequest,
    UploadCertificateRequest,
};
pub use images::{BuildEvent, BuildPlan, PullEvent, PullImageRequest, PullProgress};
pub use requests::{RequestAttempt, RequestRecord, RequestSpan, SkippedMachine};

use crate::machine_config::{ConfigFault, MachineConfig};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Header by which a client makes a repeated `POST` harmless.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Header of a request that is made under a lease. `fly-machine-lease-nonce` is the same.
pub const LEASE_NONCE: &str = "roost-machine-lease-nonce";
/// See [`LEASE_NONCE`].
pub const LEASE_NONCE_FLY: &str = "fly-machine-lease-nonce";
/// Header of each answer that names the request.
pub const REQUEST_ID: &str = "roost-request-id";

/// Every error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What happened and why, in one sentence.
    pub error: String,
    /// A stable code with a page in `docs/errors/`.
    pub code: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Each thing that is wrong with the body, for code `invalid-request`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<ConfigFault>,
    /// What speaks against each node, for code `no-placement`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<PlacementRefusal>,
    /// The request, for `roostd`'s log.
    #[serde(default)]
    pub request_id: String,
}

/// Why a node does not take a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlacementRefusal {
    /// The node.
    pub node: String,
    /// A word for programs, such as `region` or `memory`.
    pub reason: String,
    /// The same for people.
    pub message: String,
    /// What to do about it.
    pub advice: String,
}

/// `POST /v1/apps`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAppRequest {
    /// The app's name; `name` is accepted too.
    #[serde(alias = "name")]
    pub app_name: String,
    /// The organisation; only `personal` exists.
    #[serde(default)]
    pub org_slug: Option<String>,
}

/// An app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct App {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `pending` (never deployed), `deployed` or `suspended` (no machine runs).
    pub status: String,
    /// Number of machines.
    pub machine_count: u64,
    /// Number of the current release, once there is one.
    #[serde(default)]
    pub current_release: Option<u64>,
    /// Where it answers, best first.
    pub urls: Vec<String>,
    /// What became of the external ports that it asks for: at its dedicated addresses all, at those
    /// that apps share all but 80 and 443.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<AppPort>,
    /// When it was created, milliseconds since the epoch.
    pub created_at: u64,
}

/// An external port that an app asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppPort {
    /// The dedicated address that it is at; none for those that apps share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What carries its traffic, `tcp` or `udp`.
    #[serde(default = "tcp")]
    pub protocol: String,
    /// The number.
    pub port: u16,
    /// Why the app is not served there, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

fn tcp() -> String {
    "tcp".into()
}

/// `GET /v1/apps`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppList {
    /// Number of apps.
    pub total_apps: u64,
    /// The apps by name.
    pub apps: Vec<App>,
}

/// `POST /v1/apps/{app}/machines`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateMachineRequest {
    /// What the machine should be.
    pub config: MachineConfig,
    /// Its name; generated when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Where; the node's own region when absent.
    #[serde(default)]
    pub region: Option<String>,
    /// Record it without starting it.
    #[serde(default)]
    pub skip_launch: bool,
    /// Take a lease with it for so many seconds; its nonce is in the answer.
    #[serde(default)]
    pub lease_ttl: Option<u64>,
}

/// `POST /v1/apps/{app}/machines/{id}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateMachineRequest {
    /// What the machine should be from now on: replaces the whole config.
    pub config: MachineConfig,
    /// The `instance_id` that the caller has seen; another one is a conflict.
    #[serde(default)]
    pub current_version: Option<String>,
    /// Write the new version without (re)starting.
    #[serde(default)]
    pub skip_launch: bool,
}

/// `PATCH /v1/apps/{app}/machines/{id}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchMachineRequest {
    /// What to change of the config: a merge patch (RFC 7396), in which `null` removes a member.
    #[schema(value_type = Object)]
    pub config: serde_json::Value,
    /// The `instance_id` that the caller has seen; another one is a conflict.
    pub current_version: String,
    /// Write the new version without (re)starting.
    #[serde(default)]
    pub skip_launch: bool,
}

/// `POST …/lease`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LeaseRequest {
    /// What it is for.
    pub description: Option<String>,
    /// Seconds from now; 30 by default, at most 3600. In the query it does as well.
    pub ttl: Option<u64>,
}

/// A lease, in the form that the Machines API gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaseResponse {
    /// Always `success`.
    pub status: String,
    /// The lease.
    pub data: Lease,
}

/// While a lease holds, nobody but its holder changes the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    /// What proves that it is one's own; given to none but its holder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Seconds since the epoch; from then on it holds no more.
    pub expires_at: u64,
    /// Who took it.
    pub owner: String,
    /// What it is for.
    pub description: String,
    /// The version that the machine had then.
    pub version: String,
}

/// `POST …/metadata/{key}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetMetadataRequest {
    /// The value.
    pub value: String,
}

/// A process that runs in a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Process {
    /// Its id as its own machine sees it.
    pub pid: u32,
    /// Processor time used, in milliseconds.
    pub stime: u64,
    /// Time since its start, in milliseconds.
    pub rtime: u64,
    /// Its name and arguments.
    pub command: String,
    /// Its working directory.
    #[serde(default)]
    pub directory: Option<String>,
    /// Its share of one processor since its start, in percent.
    pub cpu: u64,
    /// Its resident memory in bytes.
    pub rss: u64,
    /// What it listens on.
    pub listen_sockets: Vec<ProcessSocket>,
}

/// A socket that a process listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessSocket {
    /// `tcp` or `tcp6`.
    pub proto: String,
    /// Address and port.
    pub address: String,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Machine {
    /// Its id: 14 hex digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The app.
    pub app: String,
    /// `created`, `starting`, `started`, `stopping`, `stopped`, `suspending`, `suspended`, `failed`,
    /// `destroying`, `destroyed`.
    pub state: String,
    /// Why it is in that state, when there is something to say.
    #[serde(default)]
    pub state_reason: Option<String>,
    /// Its region.
    pub region: String,
    /// The id of this version of its config.
    pub instance_id: String,
    /// Its private IPv6 address.
    pub private_ip: String,
    /// Its private IPv4 address.
    pub private_ipv4: String,
    /// The image it runs.
    pub image_ref: MachineImage,
    /// What it should be.
    pub config: MachineConfig,
    /// The rung of the isolation ladder that it runs on: `container`, `vm-emulated` or `vm`.
    pub rung: String,
    /// Process id of its first process on the node, while it runs.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Health checks.
    pub checks: Vec<MachineCheck>,
    /// Whether new traffic is kept from it.
    pub cordoned: bool,
    /// The nonce of the lease that was taken with it, for who created it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// The newest events, newest first (in answers about one machine).
    #[serde(default)]
    pub events: Vec<MachineEvent>,
    /// When its schedule starts it next, if it rests then; RFC 3339. An addition of roost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
}

/// The image of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachineImage {
    /// The registry named in the reference, if any.
    #[serde(default)]
    pub registry: Option<String>,
    /// The repository.
    pub repository: String,
    /// The tag, if any.
    #[serde(default)]
    pub tag: Option<String>,
    /// Digest of the manifest, once resolved.
    #[serde(default)]
    pub digest: Option<String>,
}

/// A health check's last result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachineCheck {
    /// Its name.
    pub name: String,
    /// `passing`, `warning` (not decided yet) or `critical`.
    pub status: String,
    /// What it saw.
    pub output: String,
    /// RFC 3339.
    pub updated_at: String,
}

/// Something that happened to a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MachineEvent {
    /// Position in the machine's history.
    pub seq: u64,
    /// `launch`, `start`, `stop`, `suspend`, `suspended`, `exit`, `restart`, `update`, `destroy`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The state after it.
    pub status: String,
    /// Who asked: `user`, `deployment`, `app-deletion`, `schedule`, `restart-policy`, `proxy`,
    /// `host-restart`, `reconciler`, or `worker` for what it saw by itself.
    pub source: String,
    /// Milliseconds since the epoch.
    pub timestamp: u64,
    /// Details; `cause` with `kind` and the `name` or `id` of who asked, `exit_event` for type
    /// `exit`, `resumed` for type `start` of a suspended machine.
    #[schema(value_type = Object)]
    pub request: serde_json::Value,
}

/// `POST …/start`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StartResponse {
    /// The state before.
    pub previous_state: String,
    /// Always false: machines do not move yet.
    pub migrated: bool,
}

/// `POST …/stop`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopRequest {
    /// The first signal; the config's own when absent.
    pub signal: Option<String>,
    /// Seconds or Go-style text between the signal and SIGKILL.
    #[schema(value_type = Option<String>)]
    pub timeout: Option<serde_json::Value>,
}

/// `POST …/signal`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Name or number: `SIGHUP`, `1`.
    #[schema(value_type = String)]
    pub signal: serde_json::Value,
}

/// `POST …/secrets/{name}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSecretRequest {
    /// The value.
    pub value: String,
}

/// Answers that say nothing but yes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OkResponse {
    /// Always true.
    pub ok: bool,
}

/// `POST …/exec`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// The same as one line, split by shell-word rules; not together with `command`.
    #[serde(default)]
    pub cmd: Option<String>,
    /// Text for its standard input.
    #[serde(default)]
    pub stdin: Option<String>,
    /// Seconds it may run; 30 by default, at most 600.
    #[serde(default)]
    pub timeout: Option<u64>,
}

/// What a command did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExecResponse {
    /// Its exit code, or 128 + the signal.
    pub exit_code: i32,
    /// Its standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Its standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
    /// Whether output was cut.
    #[serde(default)]
    pub truncated: bool,
}

/// `POST /v1/apps/{app}/deployments`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDeploymentRequest {
    /// The machine config of the new release; `image` is required in it.
    pub config: MachineConfig,
    /// How many machines to run; the number that run now, or 1, when absent.
    #[serde(default)]
    pub count: Option<u32>,
    /// Most machines replaced at once: a number from 1, or a fraction below 1; 0.33 by default.
    #[serde(default)]
    pub max_unavailable: Option<f64>,
    /// Seconds that each machine may take to become healthy; 300 by default.
    #[serde(default)]
    pub wait_timeout: Option<u64>,
    /// Try the release out with one machine first; not at all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryConfig>,
    /// Text for the release list.
    #[serde(default)]
    pub description: Option<String>,
}

/// `POST /v1/apps/{app}/rollback`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RollbackRequest {
    /// The release to go back to; the one before the current when absent.
    pub version: Option<u64>,
}

/// A release: an immutable image and config.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    /// Its id.
    pub id: String,
    /// Its number within the app, from 1.
    pub version: u64,
    /// The image as the user named it; the digest is apart.
    pub image: String,
    /// The digest it was pinned to.
    #[serde(default)]
    pub image_digest: Option<String>,
    /// `pending`, `running`, `succeeded`, `failed` (undone).
    pub status: String,
    /// Whether it is the one that serves.
    pub current: bool,
    /// Text given with it.
    #[serde(default)]
    pub description: Option<String>,
    /// The config.
    pub config: MachineConfig,
    /// What became of its canary, if its deployment had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryJudgement>,
    /// Milliseconds since the epoch.
    pub created_at: u64,
}

/// The act of moving to a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    /// Its id.
    pub id: String,
    /// The app.
    pub app: String,
    /// The release it moves to.
    pub release: u64,
    /// `pending`, `running`, `undoing`, `succeeded`, `failed`.
    pub status: String,
    /// What went wrong, on one screen, when it failed.
    #[serde(default)]
    pub error: Option<DeploymentError>,
    /// The canary that it begins with, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<DeploymentCanary>,
    /// What happened so far, oldest first.
    pub steps: Vec<DeploymentStep>,
    /// Where the app answers.
    pub urls: Vec<String>,
    /// Milliseconds since the epoch.
    pub created_at: u64,
    /// Milliseconds since the epoch, when it ended.
    #[serde(default)]
    pub finished_at: Option<u64>,
}

/// Why a deployment failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentError {
    /// A stable code.
    pub code: String,
    /// What happened and why.
    pub message: String,
    /// What to do next.
    #[serde(default)]
    pub hint: Option<String>,
    /// The machine that failed, if one did.
    #[serde(default)]
    pub machine: Option<String>,
    /// Its last log lines.
    #[serde(default)]
    pub log_tail: Vec<String>,
    /// The sockets it listened on, when its port did not answer.
    #[serde(default)]
    pub listening: Vec<String>,
}

/// One step of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentStep {
    /// Position, from 1.
    pub seq: u64,
    /// `plan`, `create`, `start`, `healthy`, `canary`, `shift`, `drain`, `stop`, `undo`, `retire`, …
    pub name: String,
    /// The machine it is about, if one.
    #[serde(default)]
    pub machine: Option<String>,
    /// `started`, `done`, `failed`.
    pub status: String,
    /// A sentence for people.
    pub message: String,
    /// Milliseconds since the epoch.
    pub at: u64,
}

/// A secret as it can be seen: never its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// The start of a keyed hash of its value: equal values look equal.
    pub digest: String,
    /// Milliseconds since the epoch.
    pub created_at: u64,
    /// Milliseconds since the epoch.
    pub updated_at: u64,
}

/// `GET /v1/apps/{app}/secrets`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SecretList {
    /// The secrets by name.
    pub secrets: Vec<Secret>,
    /// Grows with each change.
    pub version: u64,
}

/// `POST /v1/apps/{app}/secrets`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSecretsRequest {
    /// Values by name; `null` removes.
    pub values: BTreeMap<String, Option<String>>,
}

/// `GET /v1/token`: who the caller is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    /// The token's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it may do: `admin`.
    pub scope: String,
    /// Milliseconds since the epoch.
    pub created_at: u64,
}

/// A rung of the node's isolation ladder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeRung {
    /// `container`, `vm-emulated` or `vm`.
    pub rung: String,
    /// Why no machines are started on it; absent when they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// `GET /v1/node`: what this platform is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// Version of `roostd`.
    pub version: String,
    /// The node's region.
    pub region: String,
    /// The rung of machines that ask for no isolation by name; none when every rung is refused.
    #[serde(default)]
    pub isolation: Option<String>,
    /// The rungs of the isolation ladder, weakest first.
    #[serde(default)]
    pub rungs: Vec<NodeRung>,
    /// The domains under which every app has a name.
    pub domains: Vec<String>,
    /// The edge's HTTP port.
    pub http_port: u16,
    /// The edge's HTTPS port.
    pub https_port: u16,
    /// Number of machines that run.
    pub machines_running: u64,
    /// Host and port of the built-in registry.
    pub registry: String,
}
