//! The first words with the agent in a guest.

use super::console::Console;
use super::limits::{AGENT_RETRY_PAUSE, GREETING_TIMEOUT, MESSAGE_CHARS_MAX};
use super::{AgentStream, Vm, VmEnd};
use roost_agent::host::{Channel, ConnectError, ConnectOptions, Driver, client, connect};
use roost_agent::proto::{HelloReply, HelloRequest};
use roost_model::error::chain;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

/// A session with an agent that has greeted.
#[expect(missing_debug_implementations, reason = "a future has none")]
pub struct OpenSession {
    /// For requests.
    pub channel: Channel,
    /// To be polled for the session to live.
    pub driver: Driver,
    /// What the agent says of itself.
    pub hello: HelloReply,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum OpenSessionError {
    /// The hypervisor has ended.
    #[error("its hypervisor ended: {0}")]
    Ended(VmEnd),
    /// Nobody in the guest answered in time.
    #[error("its agent did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// Somebody answered, and not as an agent does.
    #[error("{0}")]
    Wrong(String),
}

impl OpenSessionError {
    /// For people, with what the guest's console says.
    pub fn explain(&self, console: &Console) -> String {
        if console.has_panic() {
            return format!("the guest's kernel panicked; {}", console.quote());
        }
        format!("the guest did not boot: {self}; {}", console.quote())
    }
}

/// Opens one as soon as the guest answers; gives up after `limit`. The session
/// ends when the guest is silent for `silence_max`.
pub async fn open(
    vm: &mut dyn Vm,
    limit: Duration,
    silence_max: Duration,
) -> Result<OpenSession, OpenSessionError> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(OpenSessionError::Silent(limit));
        }
        if let Ok(Ok(stream)) = timeout(left, vm.open_agent()).await {
            let greeted = tokio::select! {
                end = vm.ended() => return Err(OpenSessionError::Ended(end)),
                greeted = greet(stream, left, silence_max) => greeted,
            };
            match greeted {
                Ok(session) => return Ok(session),
                Err(NoGreeting::NotYet) => {}
                Err(NoGreeting::Never(why)) => return Err(OpenSessionError::Wrong(why)),
            }
        }
        // Nobody listens yet, or is short of time, or never will.
        tokio::select! {
            end = vm.ended() => return Err(OpenSessionError::Ended(end)),
            () = sleep(AGENT_RETRY_PAUSE) => {}
        }
    }
}

/// Why an attempt failed.
enum NoGreeting {
    /// Another one may do better.
    NotYet,
    /// This is no agent of ours.
    Never(String),
}

async fn greet(
    stream: Box<dyn AgentStream>,
    limit: Duration,
    silence_max: Duration,
) -> Result<OpenSession, NoGreeting> {
    let options = ConnectOptions {
        answer_within: limit,
        ping_timeout: silence_max,
        ..ConnectOptions::default()
    };
    let mut connection = match connect(stream, &options).await {
        Ok(connection) => connection,
        Err(error @ (ConnectError::Garbage(_) | ConnectError::OtherVersion(_))) => {
            return Err(NoGreeting::Never(chain(&error)));
        }
        Err(_) => return Err(NoGreeting::NotYet),
    };
    let mut agent = client(connection.channel.clone());
    let greeted = tokio::select! {
        _ = &mut connection.driver => return Err(NoGreeting::NotYet),
        greeted = timeout(GREETING_TIMEOUT.min(limit), agent.hello(HelloRequest {})) => greeted,
    };
    match greeted {
        Ok(Ok(reply)) => Ok(OpenSession {
            channel: connection.channel,
            driver: connection.driver,
            hello: reply.into_inner(),
        }),
        Ok(Err(status)) if status.code() == Code::Unimplemented => {
            let why = message_of(&status);
            Err(NoGreeting::Never(format!(
                "its agent does not greet: {why}"
            )))
        }
        Ok(Err(_)) | Err(_) => Err(NoGreeting::NotYet),
    }
}

/// Why an agent refused, for people.
pub fn message_of(status: &Status) -> String {
    printable(status.message(), MESSAGE_CHARS_MAX)
}

/// A text of a guest, which may be of any length and of anything, for people.
pub(crate) fn printable(text: &str, chars_max: usize) -> String {
    let chars = text.chars().filter(|char| !char.is_control());
    chars.take(chars_max).collect()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_a_guest_says_is_cut_and_cannot_move_a_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\nc", 100), "a[2Jbc");
        assert_eq!(printable(&"x".repeat(1_000), 10), "x".repeat(10));
    }
}
