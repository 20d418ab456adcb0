//! What the API needs from images, logs and builds, in its own words.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use roost_model::digest::Digest;
use roost_model::error::{Blame, CallerFault};
use roost_model::id::MachineId;
use roost_model::image_ref::ImageRef;
use roost_model::name::{AppName, RegionCode};
use roost_model::time::Timestamp;
use roost_proto::logs::LogRecord;
use roost_proto::rest::{BuildEvent, BuildPlan, PullProgress};
use tokio::sync::mpsc;

/// Something beyond the API failed; ready to be shown.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct PortError {
    /// Whose fault it is.
    pub blame: Blame,
    /// The page that explains it.
    pub code: &'static str,
    /// What happened and why.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl PortError {
    /// A failure that the caller can mend.
    pub fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            blame: Blame::Caller(CallerFault::Invalid),
            code,
            message: message.into(),
            hint: None,
        }
    }
}

/// An image that the node has whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledImage {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Compressed size of its layers.
    pub size_bytes: u64,
}

/// Has images ready and knows their digests.
#[async_trait]
pub trait ImageSource: Send + Sync + 'static {
    /// Fetches and checks an image; `report` hears from time to time how far it is.
    async fn pull(
        &self,
        image: &ImageRef,
        report: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> Result<PulledImage, PortError>;

    /// Fetches and checks an image, and returns the digest of its manifest.
    async fn pin(&self, image: &ImageRef) -> Result<Digest, PortError> {
        let pulled = self.pull(image, &|_progress| {}).await?;
        Ok(pulled.digest)
    }
}

/// Which log records are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSelection {
    /// Of this app.
    pub app: AppName,
    /// Of this machine only.
    pub machine: Option<MachineId>,
    /// Of machines in this region only.
    pub region: Option<RegionCode>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// The newest this many.
    pub limit: usize,
    /// Whose message contains this text.
    pub contains: Option<String>,
}

/// Reads the logs of machines.
#[async_trait]
pub trait LogSource: Send + Sync + 'static {
    /// The newest records that match, oldest first.
    async fn query(&self, selection: LogSelection) -> Result<Vec<LogRecord>, PortError>;
    /// Records that match: those of now, then new ones as they come.
    fn follow(&self, selection: LogSelection) -> BoxStream<'static, LogRecord>;
    /// Removes the logs of an app that is deleted.
    async fn remove_app(&self, app: &AppName) -> Result<(), PortError>;
}

/// Builds images from uploaded folders.
#[async_trait]
pub trait ImageBuilder: Send + Sync + 'static {
    /// Builds the uploaded tar into the built-in registry.
    ///
    /// Says on `events` how it goes; the last event is `Done` or `Failed`.
    async fn build(
        &self,
        app: AppName,
        plan: BuildPlan,
        upload: BoxStream<'static, std::io::Result<Bytes>>,
        events: mpsc::Sender<BuildEvent>,
    );
}
