//! Every custom host name of ACME has a certificate that is not about to expire, and certificates
//! of names that are gone are revoked.

use super::{Pass, ReconcileError, Reconciler};
use crate::host_names;
use crate::limits;
use crate::state::ApiState;
use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use roost_model::error::chain;

/// See the module.
pub(super) struct Certificates(pub(super) ApiState);

#[async_trait]
impl Reconciler for Certificates {
    fn name(&self) -> &'static str {
        "certificates"
    }

    async fn pass(&self) -> Result<Pass, ReconcileError> {
        let state = &self.0;
        let mut pass = Pass::default();
        if !state.host_names.can_issue() {
            return Ok(pass);
        }
        let most = limits::CERTIFICATES_PER_LOOK;
        let due = state.store.due_host_names(state.clock.now(), most).await?;
        let work = stream::iter(due).map(|record| {
            let state = state.clone();
            async move {
                let done = host_names::work_on(&state, &record).await;
                done.unwrap_or_else(|error| {
                    let error = chain(&error);
                    tracing::warn!(host = %record.host, error, "a certificate is worked on again");
                    None
                })
            }
        });
        let done: Vec<_> = work
            .buffer_unordered(limits::RECONCILE_AT_ONCE)
            .collect()
            .await;
        pass.done.extend(done.into_iter().flatten());
        for due in state.store.due_revocations(state.clock.now(), most).await? {
            if host_names::revoke(state, &due).await? {
                pass.done
                    .push(format!("the certificate of {} is revoked", due.host));
            }
        }
        // Orders under way are looked at again in a moment.
        pass.is_more = state.store.has_certificate_orders().await?;
        Ok(pass)
    }
}
