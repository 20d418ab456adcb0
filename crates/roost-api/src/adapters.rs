//! The parts of a node as the API's ports: images, logs, builds, registry access.

mod pull;

use crate::ports::{ImageBuilder, ImageSource, LogSelection, LogSource, PortError, PulledImage};
use crate::state::ApiState;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use pull::pull_with_reports;
use roost_auth::policy::{Action, Caller, Scope, allow};
use roost_image::build::{BuildError, Builder, ReceiveContextError, receive_context};
use roost_image::registry::{RegistryAccess, RegistryAuth};
use roost_image::{Images, PullError, RemoteError, is_no_space};
use roost_model::error::{Blame, CallerFault, Classify, ErrorCode, chain};
use roost_model::id::BuildId;
use roost_model::image_ref::ImageRef;
use roost_model::name::AppName;
use roost_observe::store::{LogQuery, LogStore};
use roost_proto::logs::LogRecord;
use roost_proto::rest::{BuildEvent, BuildPlan, ErrorBody, PullProgress};
use roost_runtime::fs::ensure_no_dir;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

#[async_trait]
impl ImageSource for Images {
    async fn pull(
        &self,
        image: &ImageRef,
        report: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> Result<PulledImage, PortError> {
        match pull_with_reports(self, image, report).await {
            Ok(image) => Ok(PulledImage {
                digest: image.digest,
                size_bytes: image.size_bytes,
            }),
            Err(error) => Err(of_pull(&error)),
        }
    }
}

/// What helps against a full disk.
const FREE_SPACE: &str = "free space on the disk of the node's data folder, then try again";

fn of_pull(error: &PullError) -> PortError {
    let not_found = Some("check the name and the tag; `roost deploy` builds and pushes a folder");
    let (blame, code, hint) = match error {
        _ if is_no_space(error) => (Blame::Environment, "disk-full", Some(FREE_SPACE)),
        PullError::NotFound { .. }
        | PullError::Remote {
            source: RemoteError::NotFound { .. },
            ..
        } => (
            Blame::Caller(CallerFault::Invalid),
            "image-not-found",
            not_found,
        ),
        PullError::Remote {
            source: RemoteError::Denied { .. },
            ..
        } => (
            Blame::Caller(CallerFault::Invalid),
            "image-denied",
            Some("the registry wants credentials, or the image does not exist"),
        ),
        PullError::Remote { .. } => (
            Blame::Environment,
            "registry-unavailable",
            Some(
                "it is not in the platform's own registry; check its name and the network of the node",
            ),
        ),
        PullError::Unusable { .. } => (
            Blame::Caller(CallerFault::Invalid),
            "image-unusable",
            Some("push or build the image again, for this node's processor"),
        ),
        PullError::Store { .. } => (
            Blame::Environment,
            "image-store-failed",
            Some("check the node's disk"),
        ),
    };
    PortError {
        blame,
        code,
        message: chain(error),
        hint: hint.map(str::to_owned),
    }
}

fn to_query(selection: LogSelection) -> LogQuery {
    LogQuery {
        app: selection.app,
        machine: selection.machine,
        region: selection.region,
        since: selection.since,
        until: selection.until,
        limit: selection.limit,
        contains: selection.contains,
    }
}

fn of_logs(error: &(dyn std::error::Error + 'static)) -> PortError {
    PortError {
        blame: Blame::Environment,
        code: "logs-unreadable",
        message: chain(error),
        hint: None,
    }
}

#[async_trait]
impl LogSource for LogStore {
    async fn query(&self, selection: LogSelection) -> Result<Vec<LogRecord>, PortError> {
        Self::query(self, to_query(selection))
            .await
            .map_err(|error| of_logs(&error))
    }

    fn follow(&self, selection: LogSelection) -> BoxStream<'static, LogRecord> {
        Self::follow(self, to_query(selection)).boxed()
    }

    async fn remove_app(&self, app: &AppName) -> Result<(), PortError> {
        Self::remove_app(self, app)
            .await
            .map_err(|error| of_logs(&error))
    }
}

/// Builds uploads in folders below `scratch_dir`, which it leaves empty.
#[derive(Debug)]
pub struct FolderBuilder {
    /// What makes images of folders.
    pub builder: Builder,
    /// Where uploads are unpacked.
    pub scratch_dir: PathBuf,
}

/// An upload did not become an image.
enum BuildFailure {
    Receive(ReceiveContextError),
    Build(BuildError),
}

impl FolderBuilder {
    async fn receive_and_build(
        &self,
        app: &AppName,
        plan: &BuildPlan,
        upload: BoxStream<'static, std::io::Result<Bytes>>,
        (build_id, folder): (&BuildId, &Path),
        events: &mpsc::Sender<BuildEvent>,
    ) -> Result<BuildEvent, BuildFailure> {
        receive_context(upload, folder)
            .await
            .map_err(BuildFailure::Receive)?;
        let (lines, mut received) = mpsc::channel::<String>(crate::limits::STREAM_QUEUE);
        let build = async move {
            self.builder
                .build(folder, plan, app, build_id, &lines)
                .await
        };
        let forward = async {
            while let Some(message) = received.recv().await {
                // A reader that left does not end the build, and one that stopped
                // reading does not hold it up: it misses lines.
                drop(events.try_send(BuildEvent::Progress { message }));
            }
        };
        let (built, ()) = tokio::join!(build, forward);
        let built = built.map_err(BuildFailure::Build)?;
        Ok(BuildEvent::Done {
            image: built.reference.to_string(),
            size_bytes: built.size_bytes,
        })
    }
}

#[async_trait]
impl ImageBuilder for FolderBuilder {
    async fn build(
        &self,
        app: AppName,
        plan: BuildPlan,
        upload: BoxStream<'static, std::io::Result<Bytes>>,
        events: mpsc::Sender<BuildEvent>,
    ) {
        let id = BuildId::from_ulid(ulid::Ulid::generate());
        let folder = self.scratch_dir.join(format!("upload-{id}"));
        let result = self
            .receive_and_build(&app, &plan, upload, (&id, &folder), &events)
            .await;
        let removed = tokio::task::spawn_blocking(move || ensure_no_dir(&folder));
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(build = %id, error = chain(&error), "upload not removed");
        }
        let last = result.unwrap_or_else(|failure| BuildEvent::Failed {
            error: failure.body(),
        });
        drop(events.send(last).await);
    }
}

impl BuildFailure {
    fn body(&self) -> ErrorBody {
        let (error, code, hint) = match self {
            Self::Receive(error) if is_no_space(error) => {
                (chain(error), "disk-full", Some(FREE_SPACE.to_owned()))
            }
            Self::Receive(error) => (chain(error), "upload-failed", None),
            Self::Build(error) => {
                let ErrorCode(code) = error.code();
                (chain(error), code, error.hint())
            }
        };
        ErrorBody {
            error,
            code: code.to_owned(),
            hint,
            faults: vec![],
            refusals: vec![],
            request_id: String::new(),
        }
    }
}

#[async_trait]
impl RegistryAuth for ApiState {
    async fn check(&self, secret: &str) -> Option<RegistryAccess> {
        let secret = roost_auth::token::TokenSecret::parse(secret)?;
        let caller = crate::http::find_bearer(self, &secret).await.ok()?;
        // A deploy token is good for the repository of its app only, which the
        // registry does not tell here: so it gets nothing.
        let app: Option<&AppName> = match &caller {
            Caller::Token {
                scope: Scope::Admin,
                ..
            }
            | Caller::Platform => None,
            Caller::Token {
                scope: Scope::Deploy(_),
                ..
            }
            | Caller::Anonymous => return None,
        };
        if allow(&caller, Action::PushImages, app).is_ok() {
            return Some(RegistryAccess::Write);
        }
        allow(&caller, Action::PullImages, app)
            .ok()
            .map(|()| RegistryAccess::Read)
    }
}

#[cfg(test)]
mod tests {
    use super::FolderBuilder;
    use crate::limits::STREAM_QUEUE;
    use crate::ports::ImageBuilder as _;
    use async_trait::async_trait;
    use bytes::Bytes;
    use futures_util::StreamExt as _;
    use roost_image::build::{Builder, BuilderSettings};
    use roost_image::{Images, ImagesConfig};
    use roost_model::name::AppName;
    use roost_proto::dockerfile::{BuildDockerfileError, DockerfileBuild, DockerfileBuilder};
    use roost_proto::rest::{BuildEvent, BuildPlan};
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::sync::{Notify, mpsc};

    /// Says much more than fits into the queues, and tells when all is said.
    struct Talkative(Arc<Notify>);

    #[async_trait]
    impl DockerfileBuilder for Talkative {
        async fn build(
            &self,
            _build: &DockerfileBuild,
            progress: &mpsc::Sender<String>,
        ) -> Result<(), BuildDockerfileError> {
            for step in 0..STREAM_QUEUE * 10 {
                progress.send(format!("STEP {step}")).await.unwrap();
            }
            self.0.notify_one();
            let last_line = "exit status 1".into();
            Err(BuildDockerfileError::Failed { last_line })
        }
    }

    /// A tar archive with one empty file.
    fn archive_with(name: &str) -> Bytes {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(b"00000000000");
        header[148..156].fill(b' ');
        header[156] = b'0';
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        [&header[..], &[0; 1024]].concat().into()
    }

    #[tokio::test]
    async fn a_client_that_stops_reading_holds_up_no_build_and_still_gets_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(ImagesConfig::new(dir.path().join("images")));
        let all_is_said = Arc::new(Notify::new());
        let settings = BuilderSettings {
            serve_program: dir.path().join("none"),
            scratch_dir: dir.path().join("scratch"),
            dockerfile_builder: Some(Arc::new(Talkative(Arc::clone(&all_is_said)))),
        };
        let builder = FolderBuilder {
            builder: Builder::new(images.await.unwrap(), settings),
            scratch_dir: dir.path().join("uploads"),
        };
        let plan = BuildPlan::Dockerfile {
            dockerfile: "Dockerfile".into(),
            args: BTreeMap::new(),
            target: None,
        };
        let upload = futures_util::stream::iter([Ok(archive_with("Dockerfile"))]).boxed();
        let (events, mut received) = mpsc::channel(STREAM_QUEUE);
        let app = AppName::parse("shop").unwrap();
        let build = builder.build(app, plan, upload, events);
        let read = async {
            let said = tokio::time::timeout(Duration::from_secs(60), all_is_said.notified());
            said.await
                .expect("the build waits for a client that does not read");
            let mut last = None;
            while let Some(event) = received.recv().await {
                last = Some(event);
            }
            last
        };
        let ((), last) = tokio::join!(build, read);
        let Some(BuildEvent::Failed { error }) = last else {
            panic!("{last:?}")
        };
        assert!(error.error.ends_with("exit status 1"), "{error:?}");
        let left = std::fs::read_dir(dir.path().join("uploads")).unwrap();
        assert_eq!(left.count(), 0);
    }
}
