//! Building a Dockerfile: between the one who plans builds and the one who may start programs.

use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerfileBuild {
    /// The folder with the sources.
    pub context_dir: PathBuf,
    /// The Dockerfile, within the folder.
    pub dockerfile: PathBuf,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// The stage to stop at; the last one when absent.
    pub target: Option<String>,
    /// Where the result goes as an OCI layout with one image: a folder that does not exist yet.
    pub layout_dir: PathBuf,
}

/// A Dockerfile could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildDockerfileError {
    /// The program that builds is not installed.
    #[error("building a Dockerfile needs `{program}`, which is not installed on the node")]
    Missing {
        /// Its name.
        program: &'static str,
        /// The Debian package that has it.
        debian_package: &'static str,
    },
    /// The build itself failed: what the Dockerfile says cannot be done.
    #[error("the Dockerfile could not be built: {last_line}")]
    Failed {
        /// The last line of the output.
        last_line: String,
    },
    /// It took too long and was ended.
    #[error("the build did not end within {seconds} s")]
    TimedOut {
        /// How long it had.
        seconds: u64,
    },
    /// The builder could not be run.
    #[error("{operation}")]
    Io {
        /// What was attempted.
        operation: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl BuildDockerfileError {
    /// Whether the disk of the node is full; of the program that builds, only its words say so.
    pub fn is_no_space(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            // As the C library puts it, whatever the language of the user.
            Self::Failed { last_line } => last_line
                .to_ascii_lowercase()
                .contains("no space left on device"),
            Self::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            Self::Missing { .. } | Self::TimedOut { .. } => false,
        }
    }
}

/// Builds Dockerfiles.
#[async_trait]
pub trait DockerfileBuilder: Send + Sync + 'static {
    /// Builds and writes the result to `layout_dir`; output goes to `progress` line by line.
    ///
    /// A closed `progress` does not end the build. Dropping the future does,
    /// with every process that the build started.
    async fn build(
        &self,
        build: &DockerfileBuild,
        progress: &mpsc::Sender<String>,
    ) -> Result<(), BuildDockerfileError>;
}
