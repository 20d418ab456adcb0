//! Images: the platform gets one ready, and says how far it is.

use super::find_app;
use crate::ctx::{RequestCtx, work_permit};
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use futures_util::stream::{self, Stream, StreamExt as _};
use roost_auth::policy::Action;
use roost_model::image_ref::ImageRef;
use roost_model::name::AppName;
use roost_proto::rest::{ErrorBody, PullEvent, PullImageRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Begins to pull an image; the stream ends with `Done` or `Failed`.
///
/// What fails before anything is known of the image, such as a name that does
/// not exist, is an error of the request. The pull goes on when the caller leaves.
pub(crate) async fn pull(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    request: &PullImageRequest,
) -> Result<impl Stream<Item = PullEvent> + use<>, ApiError> {
    ctx.allow(Action::Deploy, Some(name))?;
    find_app(state, name).await?;
    let image =
        ImageRef::parse(&request.image).map_err(|error| ApiError::invalid(error.to_string()))?;
    let (sender, mut receiver) = mpsc::channel(limits::STREAM_QUEUE);
    let images = state.images.clone();
    let permit = work_permit(state)?;
    state.tasks.spawn("pull image", async move {
        let _permit = permit;
        // A reader that is slow or gone misses news, and does not hold up the pull.
        let report = |progress| drop(sender.try_send(Ok(PullEvent::Progress(progress))));
        let pulled = images.pull(&image, &report).await;
        let last = pulled
            .map_err(ApiError::from)
            .map(|pulled| PullEvent::Done {
                image: image.with_digest(pulled.digest).to_string(),
                size_bytes: pulled.size_bytes,
            });
        drop(sender.send(last).await);
    });
    let first = receiver
        .recv()
        .await
        .unwrap_or_else(|| Err(ApiError::internal("the pull ended early")))?;
    let request_id = ctx.request_id.clone();
    let later = ReceiverStream::new(receiver).map(move |event: Result<PullEvent, ApiError>| {
        event.unwrap_or_else(|error| PullEvent::Failed {
            error: ErrorBody {
                request_id: request_id.clone(),
                ..error.body()
            },
        })
    });
    Ok(stream::iter([first]).chain(later))
}
