//! Bearer tokens: `roost_` and 32 random bytes in base64url.
//!
//! Only the SHA-256 hash of a token is stored. The token has 256 bits of
//! randomness, so a plain hash cannot be searched; a slow one would only make
//! each request slow.

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// The text in front of each token, so that scanners find leaked ones.
pub const TOKEN_PREFIX: &str = "roost_";
/// Random bytes in a token.
const TOKEN_BYTES: usize = 32;
/// Longest `Authorization` header that is looked at.
const HEADER_BYTES_MAX: usize = 4096;

/// A token's secret text. `Debug` hides it; it is wiped from memory at the end.
#[derive(Clone)]
pub struct TokenSecret(Zeroizing<String>);

/// What is stored of a token.
#[derive(Debug, Clone, Copy)]
pub struct TokenHash([u8; 32]);

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes")]
pub struct NoRandomness;

impl TokenSecret {
    /// A new random token.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0_u8; TOKEN_BYTES]);
        rand::fill(&mut *bytes).map_err(|_| NoRandomness)?;
        Ok(Self(Zeroizing::new(format!(
            "{TOKEN_PREFIX}{}",
            URL_SAFE_NO_PAD.encode(*bytes)
        ))))
    }

    /// The token in this text; `None` when it does not have the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let encoded = text.trim().strip_prefix(TOKEN_PREFIX)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).ok()?);
        (bytes.len() == TOKEN_BYTES).then(|| Self(Zeroizing::new(text.trim().to_owned())))
    }

    /// The token in an `Authorization` header: schemes `Bearer`, `FlyV1` and,
    /// for registry clients, `Basic` with the token as password.
    pub fn from_authorization(header: &str) -> Option<Self> {
        if header.len() > HEADER_BYTES_MAX {
            return None;
        }
        let (scheme, value) = header.trim().split_once(' ')?;
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" | "flyv1" => Self::parse(value),
            "basic" => {
                let decoded = Zeroizing::new(STANDARD.decode(value.trim()).ok()?);
                let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
                Self::parse(password)
            }
            _ => None,
        }
    }

    /// What to store and to look up by.
    pub fn hash(&self) -> TokenHash {
        let hash = digest::digest(&digest::SHA256, self.0.as_bytes());
        let mut bytes = [0_u8; 32];
        bytes.copy_from_slice(hash.as_ref());
        TokenHash(bytes)
    }

    /// The text, to be shown once or sent.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenSecret(hidden)")
    }
}

impl TokenHash {
    /// The hash with this hexadecimal text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0_u8; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The hexadecimal text.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// Whether two hashes are the same, in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// A SHA-256 fingerprint in hexadecimal, to tell whether a repeated request is the same.
pub fn fingerprint(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

#[cfg(test)]
mod tests {
    use super::{TokenHash, TokenSecret};
    use base64::Engine as _;

    #[test]
    fn a_token_is_read_from_every_scheme_and_hashes_the_same() {
        let token = TokenSecret::generate().unwrap();
        let basic =
            base64::engine::general_purpose::STANDARD.encode(format!("roost:{}", token.expose()));
        for header in [
            format!("Bearer {}", token.expose()),
            format!("bearer  {}", token.expose()),
            format!("FlyV1 {}", token.expose()),
            format!("Basic {basic}"),
        ] {
            let read = TokenSecret::from_authorization(&header).expect("a token");
            assert!(read.hash().matches(&token.hash()));
        }
        assert!(
            TokenHash::parse(&token.hash().to_hex())
                .unwrap()
                .matches(&token.hash())
        );
        assert!(
            !TokenSecret::generate()
                .unwrap()
                .hash()
                .matches(&token.hash())
        );
    }

    #[test]
    fn what_is_not_a_token_is_refused() {
        for header in [
            "",
            "Bearer",
            "Bearer x",
            "Bearer roost_",
            "Bearer roost_AAAA",
            "Digest a",
            "Basic !!",
        ] {
            assert!(
                TokenSecret::from_authorization(header).is_none(),
                "{header}"
            );
        }
        assert!(
            TokenSecret::from_authorization(&format!("Bearer {}", "x".repeat(10_000))).is_none()
        );
    }

    #[test]
    fn debug_output_hides_the_token() {
        assert_eq!(
            format!("{:?}", TokenSecret::generate().unwrap()),
            "TokenSecret(hidden)"
        );
    }
}
