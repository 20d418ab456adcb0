//! Session tickets: what was agreed with a client is given to it, sealed, so that
//! the edge it comes to next, this one or another, need not agree on all anew.

use roost_auth::tickets::{EPOCH, TicketKeys};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes and reads tickets; none without keys.
#[derive(Debug, Clone)]
pub(crate) struct Tickets(pub(crate) Option<Arc<TicketKeys>>);

impl Tickets {
    /// Has TLS work with them, and keep nothing of clients itself.
    pub(crate) fn use_in(&self, config: &mut ServerConfig) {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::new(self.clone());
        // One is enough to come again with, and is replaced by then.
        config.send_tls13_tickets = usize::from(self.enabled());
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.0.is_some()
    }

    fn lifetime(&self) -> u32 {
        // As long as one is taken that was made when its key was about to be replaced.
        u32::try_from(2 * EPOCH.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.as_ref()?.seal(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.as_ref()?.open_ticket(cipher)
    }
}

/// How many handshakes there were.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    full: AtomicU64,
    resumed: AtomicU64,
}

impl Handshakes {
    pub(crate) fn count(&self, connection: &ServerConnection) {
        let kind = match connection.handshake_kind() {
            Some(HandshakeKind::Resumed) => &self.resumed,
            _ => &self.full,
        };
        kind.fetch_add(1, Ordering::Relaxed);
    }

    /// Each kind with its count.
    pub(crate) fn read(&self) -> [(&'static str, u64); 2] {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [("full", read(&self.full)), ("resumed", read(&self.resumed))]
    }
}
