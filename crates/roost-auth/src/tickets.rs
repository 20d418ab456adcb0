//! Keys of TLS session tickets, the same at all edges of a cluster.
//!
//! Nobody hands keys round: a cluster has one random secret, which is copied with its authority,
//! and time is cut into epochs. The secret of the next epoch is made from the one before, and the
//! key of an epoch from its secret. So all edges have the same keys at the same time, whether
//! anything else of the cluster can be reached or not, and there is nobody who has to make them.
//!
//! ```text
//! secret 7 ──▶ secret 8 ──▶ secret 9 ──▶ …      only forward (HKDF)
//!    │            │            │
//!  key 7        key 8        key 9
//! ```
//!
//! A node keeps the oldest secret that it still needs, and forgets those before it: what was
//! said under tickets of two days ago is beyond the reach of who takes the file and its seal.
//!
//! A ticket is `name of the key (16 bytes) | nonce (12) | ciphertext and tag (16)`.

use crate::seal::{SealError, SealingKey};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hkdf, rand};
use parking_lot::{Mutex, RwLock};
use roost_model::time::Timestamp;
use roost_runtime::fs::{FileError, IoContext as _, ensure_dir, read_bounded, write_atomic};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a key makes tickets.
pub const EPOCH: Duration = Duration::from_secs(12 * 3600);
/// For so many epochs its tickets are taken after that: 24 hours.
const EPOCHS_AFTER: u64 = 2;
/// So many epochs ahead keys are known, for tickets of an edge whose clock is.
const EPOCHS_AHEAD: u64 = 1;
/// Most epochs that one rotation makes up for, a century and more: a clock that is set to the end
/// of time does not stop the process.
const EPOCHS_BEHIND_MAX: u64 = 100_000;

const SECRET_BYTES: usize = 32;
const NAME_BYTES: usize = 16;
/// Most bytes of the sealed file.
const FILE_BYTES_MAX: u64 = 4096;
/// What the secret is sealed for.
const CONTEXT: &[u8] = b"session-tickets";

type Secret = Zeroizing<[u8; SECRET_BYTES]>;

/// The keys could not be had, or not be kept.
#[derive(Debug, thiserror::Error)]
pub enum TicketKeysError {
    /// The file could not be read or written.
    #[error("secret of session tickets")]
    File(#[from] FileError),
    /// The file does not open.
    #[error(
        "secret of session tickets {path}; copy the file of another node of the cluster, or remove it to begin with a new one"
    )]
    Sealed {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: SealError,
    },
    /// The cryptographic library refused.
    #[error("secret of session tickets: the cryptographic library refused")]
    Crypto,
}

impl From<Unspecified> for TicketKeysError {
    fn from(_: Unspecified) -> Self {
        Self::Crypto
    }
}

/// The secret of an epoch. All that follow can be made from it, and none before.
#[derive(Clone)]
struct Link {
    epoch: u64,
    secret: Secret,
}

impl Link {
    fn random(epoch: u64) -> Result<Self, Unspecified> {
        let mut secret = Secret::default();
        rand::fill(&mut *secret)?;
        Ok(Self { epoch, secret })
    }

    fn derive(&self, purpose: &[u8]) -> Result<Secret, Unspecified> {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"roost session tickets");
        let mut out = Secret::default();
        let extracted = salt.extract(&*self.secret);
        extracted
            .expand(&[purpose], hkdf::HKDF_SHA256)?
            .fill(&mut *out)?;
        Ok(out)
    }

    fn next(&self) -> Result<Self, Unspecified> {
        Ok(Self {
            epoch: self.epoch + 1,
            secret: self.derive(b"next v1")?,
        })
    }

    fn key(&self) -> Result<Key, Unspecified> {
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&self.derive(b"name v1")?[..NAME_BYTES]);
        let cipher = UnboundKey::new(&AES_256_GCM, &*self.derive(b"key v1")?)?;
        Ok(Key {
            epoch: self.epoch,
            name,
            cipher: LessSafeKey::new(cipher),
        })
    }

    fn seal(&self, sealer: &SealingKey) -> Result<Vec<u8>, SealError> {
        let mut text = Zeroizing::new(self.epoch.to_be_bytes().to_vec());
        text.extend_from_slice(&*self.secret);
        sealer.seal(&text, CONTEXT)
    }

    fn open(sealed: &[u8], sealer: &SealingKey) -> Result<Self, SealError> {
        let text = sealer.open(sealed, CONTEXT)?;
        let (epoch, secret) = text.split_first_chunk().ok_or(SealError::Short)?;
        let secret: &[u8; SECRET_BYTES] = secret.try_into().map_err(|_| SealError::Short)?;
        Ok(Self {
            epoch: u64::from_be_bytes(*epoch),
            secret: Zeroizing::new(*secret),
        })
    }
}

/// The key of an epoch.
struct Key {
    epoch: u64,
    name: [u8; NAME_BYTES],
    cipher: LessSafeKey,
}

impl Key {
    fn seal(&self, text: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce)?;
        let tag_bytes = AES_256_GCM.tag_len();
        let mut ticket = Vec::with_capacity(NAME_BYTES + NONCE_LEN + text.len() + tag_bytes);
        ticket.extend_from_slice(&self.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(text);
        let (head, body) = ticket.split_at_mut(NAME_BYTES + NONCE_LEN);
        // By chance, and with other edges: a nonce comes twice in some 2^48 tickets of an epoch.
        let nonce = Nonce::assume_unique_for_key(nonce);
        let aad = Aad::from(&head[..NAME_BYTES]);
        let tag = self.cipher.seal_in_place_separate_tag(nonce, aad, body)?;
        ticket.extend_from_slice(tag.as_ref());
        Ok(ticket)
    }

    fn open(&self, rest: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut body = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self
            .cipher
            .open_in_place(nonce, Aad::from(&self.name), &mut body);
        let length = opened.ok()?.len();
        body.truncate(length);
        Some(body)
    }
}

/// The keys of a moment.
struct Window {
    /// The oldest epoch of them.
    link: Link,
    keys: Vec<Key>,
    /// Which one makes tickets.
    current: usize,
}

impl Window {
    /// Those of this moment, by a secret that is kept.
    fn of(kept: &Link, now: Timestamp) -> Result<Self, Unspecified> {
        let epoch = epoch_of(now);
        let mut link = kept.clone();
        let behind = epoch.saturating_sub(EPOCHS_AFTER + link.epoch);
        for _ in 0..behind.min(EPOCHS_BEHIND_MAX) {
            link = link.next()?;
        }
        let mut keys = vec![link.key()?];
        let mut newest = link.clone();
        while keys.len() <= usize::try_from(EPOCHS_AFTER + EPOCHS_AHEAD).unwrap_or(0)
            && newest.epoch < epoch + EPOCHS_AHEAD
        {
            newest = newest.next()?;
            keys.push(newest.key()?);
        }
        // A clock that was set back has its own epoch no more: the next one is as good.
        let current = keys.iter().position(|key| key.epoch >= epoch);
        let current = current.unwrap_or(keys.len() - 1);
        Ok(Self {
            link,
            keys,
            current,
        })
    }

    fn is_of(&self, now: Timestamp) -> bool {
        let epoch = epoch_of(now);
        self.keys[self.current].epoch == epoch.max(self.link.epoch)
    }
}

fn epoch_of(now: Timestamp) -> u64 {
    now.as_ms() / (EPOCH.as_secs() * 1000)
}

/// Where the oldest secret is kept.
struct Kept {
    path: PathBuf,
    sealer: Arc<SealingKey>,
    /// The epoch of what the file has.
    epoch: Option<u64>,
}

impl Kept {
    fn save(&mut self, link: &Link) -> Result<(), TicketKeysError> {
        if self.epoch == Some(link.epoch) {
            return Ok(());
        }
        let sealed = link.seal(&self.sealer);
        let sealed = sealed.map_err(|_| TicketKeysError::Crypto)?;
        write_atomic(&self.path, &sealed, 0o600)?;
        self.epoch = Some(link.epoch);
        Ok(())
    }
}

/// The keys of session tickets. `Debug` hides them.
pub struct TicketKeys {
    window: RwLock<Window>,
    /// None for keys of this process alone.
    kept: Mutex<Option<Kept>>,
}

impl std::fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketKeys(hidden)")
    }
}

impl TicketKeys {
    /// Those of the secret in this file, which is made if it is missing.
    pub fn open(
        path: &Path,
        sealer: Arc<SealingKey>,
        now: Timestamp,
    ) -> Result<Self, TicketKeysError> {
        if let Some(dir) = path.parent() {
            ensure_dir(dir)?;
        }
        let mut epoch = None;
        // One that cannot be looked at is not replaced.
        let is_there = path.try_exists().on("look at", path)?;
        let link = if is_there {
            let sealed = read_bounded(path, FILE_BYTES_MAX)?;
            let link = Link::open(&sealed, &sealer);
            let link = link.map_err(|source| TicketKeysError::Sealed {
                path: path.to_owned(),
                source,
            })?;
            epoch = Some(link.epoch);
            link
        } else {
            first_link(now)?
        };
        let kept = Kept {
            path: path.to_owned(),
            sealer,
            epoch,
        };
        let keys = Self {
            window: RwLock::new(Window::of(&link, now)?),
            kept: Mutex::new(Some(kept)),
        };
        keys.rotate(now)?;
        Ok(keys)
    }

    /// Those of a secret that nobody else has, and that ends with this process.
    pub fn of_this_process(now: Timestamp) -> Result<Self, TicketKeysError> {
        Ok(Self {
            window: RwLock::new(Window::of(&first_link(now)?, now)?),
            kept: Mutex::default(),
        })
    }

    /// Has the keys be those of this moment, and forgets what is too old; to be called a few times
    /// in an epoch. When the file could not be written the keys are new nevertheless, and the next
    /// call tries it again.
    pub fn rotate(&self, now: Timestamp) -> Result<(), TicketKeysError> {
        let mut kept = self.kept.lock();
        let is_old = !self.window.read().is_of(now);
        if is_old {
            let new = Window::of(&self.window.read().link, now)?;
            *self.window.write() = new;
        }
        match kept.as_mut() {
            Some(kept) => kept.save(&self.window.read().link),
            None => Ok(()),
        }
    }

    /// Whether other nodes do not know the newest key, since the clock was far ahead once.
    pub fn is_ahead(&self, now: Timestamp) -> bool {
        self.window.read().link.epoch > epoch_of(now) + EPOCHS_AHEAD
    }

    /// The ticket of a session.
    pub fn seal(&self, session: &[u8]) -> Option<Vec<u8>> {
        let window = self.window.read();
        window.keys[window.current].seal(session).ok()
    }

    /// The session of a ticket; none if it is not of one of these keys, or was changed.
    pub fn open_ticket(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let window = self.window.read();
        let key = window.keys.iter().find(|key| key.name == *name)?;
        key.open(rest)
    }
}

/// A new secret; of an edge whose clock is late it is known as well.
fn first_link(now: Timestamp) -> Result<Link, Unspecified> {
    Link::random(epoch_of(now).saturating_sub(EPOCHS_AFTER))
}

#[cfg(test)]
mod tests;
