//! A pull that says from time to time how far it is.

use crate::limits::PULL_REPORT_INTERVAL;
use roost_image::{Image, Images, PullError};
use roost_model::digest::Digest;
use roost_model::image_ref::ImageRef;
use roost_proto::rest::PullProgress;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was counted so far.
#[derive(Debug, Default)]
struct Meter {
    layers_done: AtomicU64,
    layers_total: AtomicU64,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
}

impl roost_image::PullProgress for Meter {
    fn started(&self, n_layers: usize, bytes_total: u64) {
        let n_layers = u64::try_from(n_layers).unwrap_or(u64::MAX);
        self.layers_total.store(n_layers, Ordering::Relaxed);
        self.bytes_total.store(bytes_total, Ordering::Relaxed);
    }

    fn advanced(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn layer_done(&self, _digest: &Digest) {
        self.layers_done.fetch_add(1, Ordering::Relaxed);
    }
}

impl Meter {
    /// How far the pull is, once it is known how far it has to go.
    fn read(&self) -> Option<PullProgress> {
        let progress = PullProgress {
            layers_done: self.layers_done.load(Ordering::Relaxed),
            layers_total: self.layers_total.load(Ordering::Relaxed),
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
        };
        (progress.layers_total > 0).then_some(progress)
    }
}

/// Pulls; `report` hears of each change, at most every [`PULL_REPORT_INTERVAL`].
pub(super) async fn pull_with_reports(
    images: &Images,
    image: &ImageRef,
    report: &(dyn Fn(PullProgress) + Send + Sync),
) -> Result<Image, PullError> {
    let meter = Meter::default();
    let mut pull = pin!(images.pull(image, &meter));
    let mut tick = tokio::time::interval(PULL_REPORT_INTERVAL);
    let mut reported = None;
    loop {
        tokio::select! {
            // Polled on, never dropped half-way.
            result = &mut pull => return result,
            // Cancel-safe: a tick not taken comes again.
            _ = tick.tick() => {
                let progress = meter.read();
                if let Some(progress) = progress.filter(|now| reported != Some(*now)) {
                    report(progress);
                    reported = Some(progress);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::pull_with_reports;
    use axum::Router;
    use axum::body::Body;
    use axum::extract::Path;
    use axum::routing::get;
    use bytes::Bytes;
    use futures_util::{StreamExt as _, stream};
    use parking_lot::Mutex;
    use roost_image::{Images, ImagesConfig, Platform};
    use roost_model::image_ref::ImageRef;
    use roost_proto::rest::PullProgress;
    use serde_json::json;
    use std::sync::Arc;
    use tokio::sync::Notify;
    use tokio::task::JoinSet;

    const LAYER_BYTES: usize = 200_000;

    /// A registry with one image, whose layer stops half-way until it is told to go on.
    async fn slow_registry(scratch: &Images, go_on: Arc<Notify>) -> (ImageRef, JoinSet<()>) {
        let layer = Bytes::from(vec![7; LAYER_BYTES]);
        let put = async |content: Bytes| scratch.store().put_bytes(content).await.unwrap();
        let layer_digest = put(layer.clone()).await;
        let config = json!({"os": "linux", "architecture": Platform::native().architecture,
            "rootfs": {"type": "layers", "diff_ids": [&layer_digest]}});
        let config = Bytes::from(config.to_string());
        let manifest = json!({"schemaVersion": 2,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": put(config.clone()).await, "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": &layer_digest, "size": LAYER_BYTES}]});
        let blob = async move |Path(digest): Path<String>| {
            if digest != layer_digest.as_str() {
                return Body::from(config.clone());
            }
            let (first, rest) = (
                layer.slice(..LAYER_BYTES / 2),
                layer.slice(LAYER_BYTES / 2..),
            );
            let go_on = Arc::clone(&go_on);
            let rest = stream::once(async move {
                go_on.notified().await;
                rest
            });
            let parts = stream::iter([first]).chain(rest);
            Body::from_stream(parts.map(Ok::<_, std::io::Error>))
        };
        let router = Router::new()
            .route(
                "/v2/team/app/manifests/1",
                get(move || async move { manifest.to_string() }),
            )
            .route("/v2/team/app/blobs/{digest}", get(blob));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let image = format!("{}/team/app:1", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        (ImageRef::parse(&image).unwrap(), tasks)
    }

    #[tokio::test]
    async fn what_has_come_is_told_while_the_rest_is_still_on_its_way() {
        let dir = tempfile::tempdir().unwrap();
        let open = async |name| {
            let config = ImagesConfig::new(dir.path().join(name));
            Images::open(config).await.unwrap()
        };
        let go_on = Arc::new(Notify::new());
        let (image, _tasks) = slow_registry(&open("scratch").await, Arc::clone(&go_on)).await;
        let reports = Mutex::new(Vec::new());
        let images = open("node").await;
        let half = u64::try_from(LAYER_BYTES / 2).unwrap();
        let report = |progress: PullProgress| {
            reports.lock().push(progress);
            if progress.bytes_done == half {
                go_on.notify_one();
            }
        };
        let pulled = pull_with_reports(&images, &image, &report).await.unwrap();
        assert_eq!(pulled.size_bytes, 2 * half);
        let reports = reports.into_inner();
        let at_half = reports.iter().find(|progress| progress.bytes_done == half);
        let at_half = at_half.expect("the layer went on only after this report");
        assert_eq!((at_half.layers_done, at_half.layers_total), (0, 1));
        assert_eq!(at_half.bytes_total, 2 * half);
    }
}
