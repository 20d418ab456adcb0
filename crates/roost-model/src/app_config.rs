//! The app configuration: `roost.toml`, or a `fly.toml`, which has the same grammar.
//!
//! [`parse`] reads a text and gives back either the configuration with
//! warnings about keys that have no effect yet, or every fault at once, each
//! with its line. No known key is dropped in silence: the table in
//! [`keys`] says for each whether it is honoured, warned about or refused.

mod extract;
pub mod keys;
mod tree;
mod walk;

#[cfg(test)]
mod tests;

use crate::limits;
use crate::machine::{Check, Isolation, Service, StaticFolder, StopSignal};
use crate::size::ByteSize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Most faults that are listed for one file.
const ERRORS_MAX: usize = 50;

/// What an app should be, as its author wrote it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AppConfig {
    /// The app's name.
    pub app: Option<String>,
    /// The region to create machines in.
    pub primary_region: Option<String>,
    /// The first signal of a stop.
    pub kill_signal: Option<StopSignal>,
    /// Time between that signal and SIGKILL.
    pub kill_timeout: Option<Duration>,
    /// The rung of the isolation ladder that its machines are to be on. An addition of roost.
    pub isolation: Option<Isolation>,
    /// Swap of each machine; zero for none.
    pub swap: ByteSize,
    /// How the image comes to be.
    pub build: BuildSection,
    /// How releases replace each other.
    pub deploy: DeploySection,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The command of the process group `app`.
    pub process: Option<Vec<String>>,
    /// Where the app takes traffic; `http_service` and `services` together.
    pub services: Vec<Service>,
    /// Health checks outside of services, by name.
    pub checks: BTreeMap<String, Check>,
    /// The size of machines.
    pub vm: Option<VmSection>,
    /// When to restart.
    pub restart: Option<RestartSection>,
    /// Files to write into the machine.
    pub files: Vec<FileSection>,
    /// Folders of the machine whose files the edge serves by itself.
    pub statics: Vec<StaticFolder>,
    /// Replaces the image's command.
    pub cmd: Option<Vec<String>>,
    /// Replaces the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces both.
    pub exec: Option<Vec<String>>,
}

/// `[build]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuildSection {
    /// Deploy this image and build nothing.
    pub image: Option<String>,
    /// The Dockerfile, below the folder.
    pub dockerfile: Option<String>,
    /// The ignore file; `.dockerignore` when absent.
    pub ignorefile: Option<String>,
    /// The stage to stop at.
    pub target: Option<String>,
    /// Arguments of a Dockerfile build.
    pub args: BTreeMap<String, String>,
    /// Serve this folder as a static site. An addition of roost.
    pub static_root: Option<String>,
    /// Make an image of this one executable. An addition of roost.
    pub binary: Option<String>,
    /// Arguments of that executable.
    pub binary_args: Vec<String>,
}

/// `[deploy]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeploySection {
    /// Number of machines. An addition of roost.
    pub count: Option<u32>,
    /// Most machines replaced at once: a number from 1, or a fraction below 1.
    pub max_unavailable: Option<f64>,
    /// Time for each machine to become healthy.
    pub wait_timeout: Option<Duration>,
    /// Whether `strategy` is `canary`.
    pub is_canary: bool,
    /// How a canary is tried out. An addition of roost.
    pub canary: CanarySection,
    /// The command to run before a release, split into words.
    pub release_command: Option<Vec<String>>,
}

/// `[deploy.canary]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CanarySection {
    /// Its share of the requests, in percent.
    pub percent: Option<u8>,
    /// Whether that is a share of clients.
    pub by_client: bool,
    /// A header, as `name: value`, whose requests it gets all.
    pub header: Option<String>,
    /// Regions of the edge whose requests it gets all.
    pub regions: Vec<String>,
    /// The longest time that it is watched.
    pub wait: Option<Duration>,
    /// It is judged as soon as it has had so many requests.
    pub requests: Option<u64>,
    /// How much larger its share of errors may be.
    pub more_errors: Option<f64>,
    /// How many times as slow it may be.
    pub times_slower: Option<f64>,
}

/// `[[vm]]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmSection {
    /// A preset; the other keys change single values of it.
    pub size: Option<String>,
    /// Memory.
    pub memory: Option<ByteSize>,
    /// Number of CPUs.
    pub cpus: Option<u32>,
    /// `shared` or `performance`.
    pub cpu_kind: Option<String>,
}

/// `[[restart]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartSection {
    /// `always`, `no` or `on-failure`.
    pub policy: String,
    /// Most restarts in five minutes.
    pub retries: Option<u32>,
}

/// One of `[[files]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSection {
    /// Absolute path in the machine.
    pub guest_path: String,
    /// Where the content comes from.
    pub source: FileSource,
}

/// Where the content of a file comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileSource {
    /// This text.
    Text(String),
    /// A file relative to the folder of the app configuration.
    LocalPath(String),
}

/// A key that has no effect, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigWarning {
    /// The line, from 1.
    pub line: usize,
    /// The key, with its table.
    pub path: String,
    /// Why it has no effect.
    pub message: String,
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}: `{}` is ignored: {}",
            self.line, self.path, self.message
        )
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The line, from 1, when there is one.
    pub line: Option<usize>,
    /// The key, with its table; empty for the file as a whole.
    pub path: String,
    /// What is wrong, without a full stop.
    pub problem: String,
}

/// Everything that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    /// The name of the file.
    pub file: String,
    /// The faults by line.
    pub errors: Vec<ConfigError>,
    /// How many more there are than `errors` lists.
    pub n_left_out: usize,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, error) in self.errors.iter().enumerate() {
            if idx > 0 {
                writeln!(f)?;
            }
            f.write_str(&self.file)?;
            if let Some(line) = error.line {
                write!(f, ":{line}")?;
            }
            match error.path.as_str() {
                "" => write!(f, ": {}", error.problem)?,
                path => write!(f, ": `{path}` {}", error.problem)?,
            }
        }
        if self.n_left_out > 0 {
            write!(f, "\nand {} more", self.n_left_out)?;
        }
        Ok(())
    }
}

/// What parsing has found so far beside values.
#[derive(Debug, Default)]
struct Findings {
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigWarning>,
}

impl Findings {
    fn error(&mut self, line: usize, path: impl Into<String>, problem: impl Into<String>) {
        self.errors.push(ConfigError {
            line: Some(line),
            path: path.into(),
            problem: problem.into(),
        });
    }

    fn warn(&mut self, line: usize, path: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(ConfigWarning {
            line,
            path: path.into(),
            message: message.into(),
        });
    }
}

/// Reads an app configuration; `file_name` is only for messages.
pub fn parse(text: &str, file_name: &str) -> Result<(AppConfig, Vec<ConfigWarning>), ConfigErrors> {
    let failed = |mut errors: Vec<ConfigError>| {
        errors.sort_by_key(|error| error.line);
        let n_left_out = errors.len().saturating_sub(ERRORS_MAX);
        errors.truncate(ERRORS_MAX);
        ConfigErrors {
            file: file_name.to_owned(),
            errors,
            n_left_out,
        }
    };
    if text.len() > limits::APP_CONFIG_BYTES_MAX {
        let problem = format!(
            "the file has {} bytes, and {} is the most",
            text.len(),
            limits::APP_CONFIG_BYTES_MAX
        );
        return Err(failed(vec![ConfigError {
            line: None,
            path: String::new(),
            problem,
        }]));
    }
    let mut root = tree::read(text).map_err(failed)?;
    let mut findings = Findings::default();
    walk::normalise(&mut root);
    walk::check(&root, &mut findings);
    let config = extract::app_config(&root, &mut findings);
    if findings.errors.is_empty() {
        findings.warnings.sort_by_key(|warning| warning.line);
        Ok((config, findings.warnings))
    } else {
        Err(failed(findings.errors))
    }
}
