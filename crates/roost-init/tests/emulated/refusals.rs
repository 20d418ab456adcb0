//! What the machine's config or image cannot be: refused with the reason.

use crate::guest::{Guest, boot_request, within};
use roost_agent::proto::{BootRequest, ShutdownRequest, WatchRequest};
use tonic::Code;

/// Boots a guest that cannot; returns how it refuses.
async fn refusal(change: impl FnOnce(&mut BootRequest)) -> Option<(Code, String)> {
    let mut guest = Guest::start().await?;
    let mut request = boot_request(&["sh"]);
    change(&mut request);
    let status = within(guest.agent.boot(request)).await.unwrap_err();
    // It still answers, and goes off when it is told to.
    within(guest.agent.watch(WatchRequest { from_sequence: 1 }))
        .await
        .unwrap();
    let request = ShutdownRequest {
        signal: 15,
        timeout_ms: 1000,
    };
    within(guest.agent.shutdown(request)).await.unwrap();
    guest.ended().await;
    Some((status.code(), status.message().to_owned()))
}

#[tokio::test]
async fn a_program_that_the_image_lacks_is_named() {
    let change = |request: &mut BootRequest| request.processes[0].args = vec!["nope".to_owned()];
    let Some(refusal) = refusal(change).await else {
        return;
    };
    let message = "the image has no program `nope`".to_owned();
    assert_eq!(refusal, (Code::FailedPrecondition, message));
}

#[tokio::test]
async fn a_disk_that_is_not_an_image_is_the_nodes_fault() {
    let change = |request: &mut BootRequest| {
        request.root.as_mut().unwrap().image_device = "vdb".to_owned();
    };
    let Some((code, message)) = refusal(change).await else {
        return;
    };
    assert_eq!(code, Code::Internal);
    assert!(message.contains("mount /dev/vdb (erofs)"), "{message}");
}
