//! Who asks, under which request id, with which idempotency key.

use crate::error::ApiError;
use crate::state::ApiState;
use roost_auth::policy::{Action, Caller, allow};
use roost_auth::token::fingerprint;
use roost_model::name::AppName;
use roost_runtime::clock;
use roost_store::records::Idempotency;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;

/// The first parameter of everything in `app/`.
#[derive(Debug, Clone)]
pub(crate) struct RequestCtx {
    pub(crate) caller: Caller,
    pub(crate) request_id: String,
    pub(crate) idempotency_key: Option<String>,
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

    fn owner(&self) -> &str {
        match &self.caller {
            Caller::Token { id, .. } => id,
            Caller::Platform => "platform",
            Caller::Anonymous => "anonymous",
        }
    }

    /// Does `work` as a task that a dropped connection does not end.
    pub(crate) async fn supervised<T, F>(&self, state: &ApiState, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        state.tasks.spawn("api request", async move {
            // Nobody listens any more: the work is done all the same.
            drop(sender.send(work.await));
        });
        receiver
            .await
            .unwrap_or_else(|_| Err(ApiError::internal("the request's task ended early")))
    }

    /// Does `work` once per idempotency key: a repetition gets the first answer.
    ///
    /// Without a key it is simply done. A failure is not kept, so that the
    /// same key may be tried again.
    pub(crate) async fn once<T, F>(
        &self,
        state: &ApiState,
        what: &'static str,
        request: &impl Serialize,
        work: F,
    ) -> Result<T, ApiError>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        if self.idempotency_key.is_none() {
            return self.supervised(state, work).await;
        }
        let key = self.repeat_id(what);
        let request =
            serde_json::to_vec(request).map_err(|error| ApiError::internal(error.to_string()))?;
        match state
            .store
            .claim_request(&key, &fingerprint(&request), clock::now())
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
            Idempotency::New => {
                let store = state.store.clone();
                self.supervised(state, async move {
                    let result = work.await;
                    let outcome = result
                        .as_ref()
                        .ok()
                        .and_then(|value| serde_json::to_string(value).ok());
                    store.finish_request(&key, outcome.as_deref()).await?;
                    result
                })
                .await
            }
        }
    }
}
