//! Every deployment that has not ended has a run that goes on.
//!
//! A deployment is recorded with its run. They part when a version of roost without runs left
//! one unfinished, and when a run ends without its deployment: cancelled before its first step,
//! stuck, or ended while the disk was full.

use super::{Pass, ReconcileError, Reconciler};
use crate::state::ApiState;
use crate::workflows::deploy;
use async_trait::async_trait;

/// See the module.
pub(super) struct Deployments(pub(super) ApiState);

#[async_trait]
impl Reconciler for Deployments {
    fn name(&self) -> &'static str {
        "deployments"
    }

    /// An app has one unfinished deployment at most: all of them are looked at.
    async fn pass(&self) -> Result<Pass, ReconcileError> {
        let mut pass = Pass::default();
        for record in self.0.store.unfinished_deployments(None).await? {
            pass.done.extend(deploy::take_up(&self.0, &record).await?);
        }
        Ok(pass)
    }
}
