//! Values sealed at rest with AES-256-GCM.
//!
//! A sealed value is `version (1 byte) | nonce (12) | ciphertext and tag (16)`.
//! The caller binds each value to its place with `aad` (for instance
//! `secret:app_01…:DATABASE_URL`), so that a value copied to another row does
//! not open there.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, hmac, rand};
use roost_runtime::fs::{FileError, IoContext as _};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use zeroize::Zeroizing;

/// The first byte of a value sealed by this version.
const FORMAT_VERSION: u8 = 1;
/// Length of the master key.
const KEY_BYTES: usize = 32;
/// How much of a digest is shown: enough to tell values apart, too little to search for one.
const SHOWN_DIGEST_BYTES: usize = 8;

/// The key that seals the secrets of one node or cluster. `Debug` hides it.
pub struct SealingKey {
    cipher: LessSafeKey,
    digest: hmac::Key,
}

/// A sealing key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenKeyError {
    /// The key file could not be read or written.
    #[error("sealing key")]
    File(#[from] FileError),
    /// The key file does not have a key in it.
    #[error(
        "sealing key {path} holds {length} bytes, and a key has {KEY_BYTES}; restore it from a backup"
    )]
    Length {
        /// The file.
        path: String,
        /// What it holds.
        length: usize,
    },
    /// The key file can be read by others.
    #[error("sealing key {path} has mode {mode:o}, so others may read it; run `chmod 600 {path}`")]
    Exposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The cryptographic library refused.
    #[error("sealing key: the cryptographic library refused")]
    Crypto,
}

/// A value could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The value was sealed by a format that this version does not know.
    #[error("sealed value has format {0}, which this version does not know")]
    Format(u8),
    /// It is too short to be a sealed value.
    #[error("sealed value is cut short")]
    Short,
    /// It was sealed with another key or for another place, or was changed.
    #[error("sealed value does not open: another key, another place, or damaged")]
    Wrong,
    /// The cryptographic library refused.
    #[error("the cryptographic library refused to seal")]
    Crypto,
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey(hidden)")
    }
}

impl SealingKey {
    /// Reads the key in this file, or makes the file with a new random key and mode 0600.
    ///
    /// Two processes that open a missing file at once end up with the same key.
    pub fn open_or_create(path: &Path) -> Result<Self, OpenKeyError> {
        match Self::create(path) {
            Ok(key) => Ok(key),
            Err(OpenKeyError::File(error))
                if error.source.kind() == io::ErrorKind::AlreadyExists =>
            {
                Self::read(path)
            }
            Err(error) => Err(error),
        }
    }

    fn create(path: &Path) -> Result<Self, OpenKeyError> {
        let mut bytes = Zeroizing::new([0_u8; KEY_BYTES]);
        rand::fill(&mut *bytes).map_err(|_| OpenKeyError::Crypto)?;
        // Written beside and linked into place: a crash leaves no empty key,
        // and a link never replaces a key that is there.
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".new{}", std::process::id()));
        let temporary = Path::new(&temporary);
        roost_runtime::fs::ensure_no_file(temporary)?;
        if path.exists() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists))
                .on("create", path)
                .map_err(Into::into);
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(temporary)
            .on("create", temporary)?;
        file.write_all(&*bytes).on("write", temporary)?;
        file.sync_all().on("sync", temporary)?;
        let linked = std::fs::hard_link(temporary, path).on("create", path);
        roost_runtime::fs::ensure_no_file(temporary)?;
        linked?;
        Self::from_bytes(&bytes)
    }

    fn read(path: &Path) -> Result<Self, OpenKeyError> {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path)
            .on("look at", path)?
            .permissions()
            .mode()
            & 0o777;
        if mode & 0o077 != 0 {
            return Err(OpenKeyError::Exposed {
                path: path.display().to_string(),
                mode,
            });
        }
        let bytes = Zeroizing::new(roost_runtime::fs::read_bounded(path, 4096)?);
        let key: &[u8; KEY_BYTES] =
            bytes
                .as_slice()
                .try_into()
                .map_err(|_| OpenKeyError::Length {
                    path: path.display().to_string(),
                    length: bytes.len(),
                })?;
        Self::from_bytes(key)
    }

    /// The key made of these random bytes.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<Self, OpenKeyError> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"roost").extract(bytes);
        let derive = |purpose: &'static [u8]| -> Result<Zeroizing<[u8; KEY_BYTES]>, OpenKeyError> {
            let mut out = Zeroizing::new([0_u8; KEY_BYTES]);
            prk.expand(&[purpose], hkdf::HKDF_SHA256)
                .and_then(|okm| okm.fill(&mut *out))
                .map_err(|_| OpenKeyError::Crypto)?;
            Ok(out)
        };
        let cipher = UnboundKey::new(&AES_256_GCM, &*derive(b"seal v1")?)
            .map_err(|_| OpenKeyError::Crypto)?;
        let digest = hmac::Key::new(hmac::HMAC_SHA256, &*derive(b"digest v1")?);
        Ok(Self {
            cipher: LessSafeKey::new(cipher),
            digest,
        })
    }

    /// Seals a value for the place that `aad` names.
    pub fn seal(&self, plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0_u8; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| SealError::Crypto)?;
        let mut body = plaintext.to_vec();
        self.cipher
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                &mut body,
            )
            .map_err(|_| SealError::Crypto)?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + body.len());
        sealed.push(FORMAT_VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.append(&mut body);
        Ok(sealed)
    }

    /// Opens a value that was sealed for the same place.
    pub fn open(&self, sealed: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (version, rest) = sealed.split_first().ok_or(SealError::Short)?;
        if *version != FORMAT_VERSION {
            return Err(SealError::Format(*version));
        }
        let (nonce, body) = rest.split_at_checked(NONCE_LEN).ok_or(SealError::Short)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Short)?;
        let mut body = Zeroizing::new(body.to_vec());
        let length = self
            .cipher
            .open_in_place(nonce, Aad::from(aad), &mut body)
            .map_err(|_| SealError::Wrong)?
            .len();
        body.truncate(length);
        Ok(body)
    }

    /// A short keyed digest: equal values of one scope look equal, and the
    /// value cannot be searched for without the key.
    pub fn shown_digest(&self, scope: &[u8], value: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.digest);
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        context.update(&u64::try_from(scope.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(scope);
        context.update(value);
        hex::encode(&context.sign().as_ref()[..SHOWN_DIGEST_BYTES])
    }
}

#[cfg(test)]
mod tests {
    use super::{OpenKeyError, SealError, SealingKey};
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn key(byte: u8) -> SealingKey {
        SealingKey::from_bytes(&[byte; 32]).unwrap()
    }

    #[test]
    fn a_key_file_is_private_and_opens_what_it_sealed_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seal.key");
        let sealed = SealingKey::open_or_create(&path)
            .unwrap()
            .seal(b"v", b"a")
            .unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            *SealingKey::open_or_create(&path)
                .unwrap()
                .open(&sealed, b"a")
                .unwrap(),
            b"v"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_or_readable_key_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seal.key");
        roost_runtime::fs::write_atomic(&path, b"short", 0o600).unwrap();
        let error = SealingKey::open_or_create(&path).unwrap_err();
        assert!(
            matches!(error, OpenKeyError::Length { length: 5, .. }),
            "{error}"
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = SealingKey::open_or_create(&path).unwrap_err();
        assert!(
            matches!(error, OpenKeyError::Exposed { mode: 0o644, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_value_opens_only_with_its_key_at_its_place_and_unchanged() {
        let sealed = key(1).seal(b"hunter2", b"app/NAME").unwrap();
        assert_eq!(
            key(2).open(&sealed, b"app/NAME").unwrap_err(),
            SealError::Wrong
        );
        assert_eq!(
            key(1).open(&sealed, b"app/OTHER").unwrap_err(),
            SealError::Wrong
        );
        assert_eq!(key(1).open(&[], b"").unwrap_err(), SealError::Short);
        assert_eq!(
            key(1).open(&[9; 40], b"").unwrap_err(),
            SealError::Format(9)
        );
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
    }

    #[test]
    fn equal_values_look_equal_and_no_debug_output_has_the_key() {
        assert_eq!(
            key(1).shown_digest(b"app", b"v"),
            key(1).shown_digest(b"app", b"v")
        );
        assert_ne!(
            key(1).shown_digest(b"app", b"v"),
            key(2).shown_digest(b"app", b"v")
        );
        assert_ne!(
            key(1).shown_digest(b"ap", b"pv"),
            key(1).shown_digest(b"app", b"v")
        );
        assert_eq!(format!("{:?}", key(1)), "SealingKey(hidden)");
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_any_flipped_bit_is_noticed(
            value in proptest::collection::vec(any::<u8>(), 0..200),
            flip in any::<proptest::sample::Index>(),
        ) {
            let mut sealed = key(7).seal(&value, b"x").unwrap();
            prop_assert_eq!(&*key(7).open(&sealed, b"x").unwrap(), &value);
            let at = flip.index(sealed.len());
            sealed[at] ^= 1;
            prop_assert!(key(7).open(&sealed, b"x").is_err());
        }
    }
}
