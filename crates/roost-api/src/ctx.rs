//! Who asks, under which request id, with which idempotency key.

use crate::error::ApiError;
use crate::state::ApiState;
use roost_auth::policy::{Action, Caller, allow};
use roost_auth::token::fingerprint;
use roost_model::error::{Blame, chain};
use roost_model::name::AppName;
use roost_proto::worker::{Asker, Cause, LeaseNonce};
use roost_runtime::points;
use roost_store::Claim;
use roost_store::records::Idempotency;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// The first parameter of everything in `app/`.
#[derive(Debug, Clone)]
pub(crate) struct RequestCtx {
    pub(crate) caller: Caller,
    pub(crate) request_id: String,
    pub(crate) idempotency_key: Option<String>,
    /// The lease under which the request is made.
    pub(crate) lease_nonce: Option<LeaseNonce>,
}

impl RequestCtx {
    /// Fails unless the caller may do this.
    pub(crate) fn allow(&self, action: Action, app: Option<&AppName>) -> Result<(), ApiError> {
        allow(&self.caller, action, app).map_err(ApiError::from)
    }

    /// The id under which repetitions of one request are the same request.
    pub(crate) fn repeat_id(&self, what: &str) -> String {
        match &self.idempotency_key {
            Some(key) => format!(
                "api-{}",
                fingerprint(format!("{}\n{what}\n{key}", self.owner()).as_bytes())
            ),
            None => format!("api-{}", self.request_id),
        }
    }

    /// Who asks, as the worker is told.
    pub(crate) fn asker(&self) -> Asker {
        let (token, name) = match &self.caller {
            Caller::Token { id, name, .. } => (id.clone(), name.clone()),
            Caller::Platform | Caller::Anonymous => {
                (self.owner().to_owned(), self.owner().to_owned())
            }
        };
        Asker {
            cause: Cause::User { token, name },
            lease_nonce: self.lease_nonce.clone(),
            seen_version: None,
        }
    }

    fn owner(&self) -> &str {
        match &self.caller {
            Caller::Token { id, .. } => id,
            Caller::Platform => "platform",
            Caller::Anonymous => "anonymous",
        }
    }

    /// Does `work` as a task that a dropped connection does not end. There are so many at once.
    pub(crate) async fn supervised<T, F>(&self, state: &ApiState, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        let permit = work_permit(state)?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        state.tasks.spawn("api request", async move {
            let _permit = permit;
            // Nobody listens any more: the work is done all the same.
            drop(sender.send(work.await));
        });
        receiver
            .await
            .unwrap_or_else(|_| Err(ApiError::internal("the request's task ended early")))
    }

    /// Does `work` once per idempotency key: a repetition gets the first answer.
    ///
    /// Work that records something in the control database keeps its answer there with the
    /// [`Claim`], in the same transaction. Other work must be of a kind that its repetition
    /// after a crash makes nothing twice. Without a key `work` is simply done. A failure is
    /// not kept, so that the same key may be tried again.
    pub(crate) async fn once<T, F>(
        &self,
        state: &ApiState,
        what: &'static str,
        request: &impl Serialize,
        work: impl FnOnce(Option<Arc<Claim>>) -> F,
    ) -> Result<T, ApiError>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        if self.idempotency_key.is_none() {
            return self.supervised(state, work(None)).await;
        }
        let key = self.repeat_id(what);
        let request =
            serde_json::to_vec(request).map_err(|error| ApiError::internal(error.to_string()))?;
        match state
            .store
            .claim_request(&key, &fingerprint(&request), state.clock.now())
            .await?
        {
            Idempotency::Done(outcome) => serde_json::from_str(&outcome)
                .map_err(|error| ApiError::internal(format!("read a kept answer: {error}"))),
            Idempotency::UnderWay => Err(ApiError::conflict(
                "request-in-progress",
                "a request with this idempotency key is under way",
            )),
            Idempotency::Different => Err(ApiError::conflict(
                "idempotency-mismatch",
                "this idempotency key was used for another request",
            )),
            Idempotency::TooMany => Err(overloaded()),
            Idempotency::New(claim) => {
                let claim = Arc::new(claim);
                let work = work(Some(Arc::clone(&claim)));
                let state_of_task = state.clone();
                self.supervised(state, async move {
                    let result = work.await;
                    if let Ok(value) = &result {
                        keep(&state_of_task, &claim, serde_json::to_string(value)).await;
                    }
                    result
                })
                .await
            }
        }
    }
}

/// To be held by work that its caller may leave. There are so many at once.
pub(crate) fn work_permit(state: &ApiState) -> Result<OwnedSemaphorePermit, ApiError> {
    let permits = Arc::clone(&state.work_permits);
    permits.try_acquire_owned().map_err(|_| overloaded())
}

fn overloaded() -> ApiError {
    ApiError::new(
        Blame::Environment,
        "overloaded",
        "too many requests are under way",
    )
    .with_hint("try again in a moment")
}

/// Keeps the answer unless it is kept already.
async fn keep(state: &ApiState, claim: &Claim, answer: serde_json::Result<String>) {
    points::pass("control.db-before-answer");
    let kept = match answer {
        Ok(text) => state
            .store
            .keep_answer(claim, &text, state.clock.now())
            .await
            .map_err(|error| chain(&error)),
        Err(error) => Err(error.to_string()),
    };
    // What was asked for is done all the same.
    if let Err(error) = kept {
        tracing::warn!(error, "a repeated request will not get the kept answer");
    }
    points::pass("control.db-answer-kept");
}
