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
