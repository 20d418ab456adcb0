//! Content digests of the OCI image specification.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A SHA-256 digest: `sha256:` and 64 lower-case hexadecimal digits.
///
/// Other algorithms are refused: no registry of note serves them, and each one
/// more is another way to be wrong about what was verified.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text is not a digest that roost accepts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a digest (sha256: and 64 hex digits)")]
pub struct ParseDigestError {
    /// What was given, cut to a printable length.
    pub text: String,
}

impl Digest {
    /// Reads a digest.
    pub fn parse(text: &str) -> Result<Self, ParseDigestError> {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        match text.strip_prefix("sha256:") {
            Some(hex) if hex.len() == 64 && hex.bytes().all(is_hex) => Ok(Self(text.to_owned())),
            _ => Err(ParseDigestError {
                text: text.chars().take(80).collect(),
            }),
        }
    }

    /// The digest whose SHA-256 value is `hash`.
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
        Self(format!("sha256:{hex}"))
    }

    /// The whole text, with the algorithm.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hexadecimal digits: safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The first twelve hexadecimal digits, for people.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseDigestError;
    fn try_from(text: String) -> Result<Self, ParseDigestError> {
        Self::parse(&text)
    }
}
