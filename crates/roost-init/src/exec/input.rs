//! What a caller sends to a command: input, sizes of the terminal, signals.

use super::terminal;
use crate::children::Children;
use crate::descriptor::Descriptor;
use crate::limits::EXEC_STDIN_BYTES_MAX;
use crate::process;
use bytes::{Buf as _, BytesMut};
use roost_agent::proto::{ExecInput, exec_input};
use rustix::process::{Pid, Signal};
use std::sync::Arc;
use tonic::Streaming;

/// End of input, typed on a terminal (Ctrl-D).
const END_OF_TRANSMISSION: u8 = 4;

/// Where a command's input goes.
#[derive(Debug)]
pub(super) enum Input {
    /// A pipe.
    Pipe(Descriptor),
    /// The caller's end of a terminal.
    Terminal(Arc<Descriptor>),
    /// Nowhere any more.
    Closed,
}

impl Input {
    async fn write(&self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Pipe(descriptor) => descriptor.write(bytes).await,
            Self::Terminal(descriptor) => descriptor.write(bytes).await,
            Self::Closed => Ok(bytes.len()),
        }
    }
}

/// Whether the caller may still say something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Speaks,
    Done,
}

/// The way of input from the caller to a command.
pub(super) struct Feed<'a> {
    messages: Streaming<ExecInput>,
    caller: Caller,
    input: Input,
    pending: BytesMut,
    is_closing: bool,
    children: &'a Children,
    leader: Pid,
}

impl<'a> Feed<'a> {
    pub(super) fn new(
        messages: Streaming<ExecInput>,
        input: Input,
        children: &'a Children,
        leader: Pid,
    ) -> Self {
        Self {
            messages,
            caller: Caller::Speaks,
            input,
            pending: BytesMut::new(),
            is_closing: false,
            children,
            leader,
        }
    }

    /// Feeds until neither messages nor bytes are left.
    pub(super) async fn run(mut self) {
        while self.caller == Caller::Speaks || !self.pending.is_empty() {
            let may_read =
                self.caller == Caller::Speaks && self.pending.len() < EXEC_STDIN_BYTES_MAX;
            tokio::select! {
                // Cancel-safe: a message is either returned or still to come.
                message = self.messages.message(), if may_read => match message {
                    Ok(Some(ExecInput { input: Some(input) })) => self.take(input),
                    Ok(Some(ExecInput { input: None })) => {}
                    Ok(None) => self.end(),
                    // The caller has gone, and does not wait for the outcome.
                    Err(_) => {
                        self.children.signal_group(self.leader, Signal::KILL);
                        return;
                    }
                },
                // Cancel-safe: see `Descriptor::write`.
                written = self.input.write(&self.pending), if !self.pending.is_empty() => {
                    match written {
                        Ok(n_written) => self.pending.advance(n_written),
                        // The command has closed its input.
                        Err(_) => self.close(),
                    }
                }
            }
            if self.is_closing && self.pending.is_empty() {
                self.close();
            }
        }
    }

    fn take(&mut self, input: exec_input::Input) {
        match input {
            exec_input::Input::Stdin(bytes) if !self.is_closing => {
                if !matches!(self.input, Input::Closed) {
                    self.pending.extend_from_slice(&bytes);
                }
            }
            exec_input::Input::StdinClosed(true) => self.close_input(),
            exec_input::Input::Resize(size) => {
                if let Input::Terminal(terminal) = &self.input {
                    terminal::resize(terminal.as_fd(), &size);
                }
            }
            exec_input::Input::Signal(number) => {
                if let Ok(signal) = process::signal(number) {
                    self.signal(signal);
                }
            }
            // A second start, or input after its end: of no effect.
            exec_input::Input::Start(_)
            | exec_input::Input::Stdin(_)
            | exec_input::Input::StdinClosed(false) => {}
        }
    }

    /// On a terminal a signal is for whatever runs in its foreground.
    fn signal(&self, signal: Signal) {
        let foreground = match &self.input {
            Input::Terminal(terminal) => rustix::termios::tcgetpgrp(terminal.as_fd()).ok(),
            Input::Pipe(_) | Input::Closed => None,
        };
        match foreground {
            Some(group) if group != self.leader => {
                let _ = rustix::process::kill_process_group(group, signal);
            }
            _ => self.children.signal_group(self.leader, signal),
        }
    }

    fn end(&mut self) {
        self.caller = Caller::Done;
        self.close_input();
    }

    fn close_input(&mut self) {
        if self.is_closing {
            return;
        }
        self.is_closing = true;
        if let Input::Terminal(_) = self.input {
            self.pending.extend_from_slice(&[END_OF_TRANSMISSION]);
        }
    }

    fn close(&mut self) {
        self.pending.clear();
        if let Input::Pipe(_) = self.input {
            self.input = Input::Closed;
        }
    }
}
