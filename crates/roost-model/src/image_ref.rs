//! Image references: `[registry/]repository[:tag][@digest]`.

use crate::digest::Digest;
use std::fmt;

/// The registry of a reference that names none.
pub const REGISTRY_DEFAULT: &str = "docker.io";
/// Longest repository path (OCI distribution specification).
const REPOSITORY_BYTES_MAX: usize = 255;
/// Longest tag (OCI distribution specification).
const TAG_BYTES_MAX: usize = 128;

/// A reference to an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    /// The registry as written (`ghcr.io`, `localhost:5000`); `None` when the reference names none.
    pub registry: Option<String>,
    /// The repository: path components joined by slashes.
    pub repository: String,
    /// The tag as written.
    pub tag: Option<String>,
    /// The digest of the manifest, which beats the tag.
    pub digest: Option<Digest>,
}

/// A text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image reference `{text}` {problem}")]
pub struct ParseImageRefError {
    /// What was given, cut to a printable length.
    pub text: String,
    /// What is wrong, as the end of a sentence.
    pub problem: &'static str,
}

impl ImageRef {
    /// Reads a reference.
    pub fn parse(text: &str) -> Result<Self, ParseImageRefError> {
        let error = |problem| ParseImageRefError {
            text: text.chars().take(120).collect(),
            problem,
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = Digest::parse(digest)
                    .map_err(|_| error("has a digest that is not sha256: and 64 hex digits"))?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        // A colon after the last slash starts the tag; one before it is a port.
        let last_slash = name.rfind('/').map_or(0, |idx| idx + 1);
        let (name, tag) = match name[last_slash..].find(':') {
            Some(idx) => {
                let at = last_slash + idx;
                (&name[..at], Some(&name[at + 1..]))
            }
            None => (name, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(error(
                "has a tag that is not up to 128 letters, digits, `_`, `.` or `-`",
            ));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (Some(first.to_owned()), rest),
            _ => (None, name),
        };
        if !is_repository(repository) {
            return Err(error(
                "has a repository that is not lower-case letters, digits and single `.`, `_`, `-` between slashes",
            ));
        }
        let tag = tag.map(str::to_owned);
        Ok(Self {
            registry,
            repository: repository.to_owned(),
            tag,
            digest,
        })
    }

    /// The tag to ask for when there is no digest.
    pub fn tag_or_latest(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }

    /// What to put at the end of `/v2/<repository>/manifests/`.
    pub fn manifest_reference(&self) -> &str {
        self.digest
            .as_ref()
            .map_or_else(|| self.tag_or_latest(), Digest::as_str)
    }

    /// The same reference, pinned to a manifest.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether the first path component names a registry, by the rule all clients share.
fn is_registry(text: &str) -> bool {
    let looks_like_host = text.contains('.') || text.contains(':') || text == "localhost";
    let is_host_char =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    let begins_like_host = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
    looks_like_host && begins_like_host && text.chars().all(is_host_char)
}

/// Whether `text` is a tag.
pub fn is_tag(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= TAG_BYTES_MAX
        && text.chars().all(|c| is_word(c) || c == '.' || c == '-')
        && text.starts_with(is_word)
}

/// Whether `text` is a repository path of the OCI distribution specification.
pub fn is_repository(text: &str) -> bool {
    text.len() <= REPOSITORY_BYTES_MAX && text.split('/').all(is_path_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let is_alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(is_alnum) || !text.ends_with(is_alnum) {
        return false;
    }
    text.split(is_alnum)
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.chars().all(|c| c == '-'))
}

#[cfg(test)]
mod tests {
    use super::ImageRef;
    use proptest::prelude::*;

    #[test]
    fn references_are_taken_apart() {
        let nginx = ImageRef::parse("nginx").unwrap();
        assert_eq!(
            (nginx.registry.as_deref(), nginx.repository.as_str()),
            (None, "nginx")
        );
        assert_eq!(nginx.manifest_reference(), "latest");
        let local = ImageRef::parse("localhost:5000/team/app:v1").unwrap();
        assert_eq!(local.registry.as_deref(), Some("localhost:5000"));
        assert_eq!(local.repository, "team/app");
        assert_eq!(local.tag.as_deref(), Some("v1"));
        let pinned = format!("ghcr.io/a/b@sha256:{}", "0".repeat(64));
        assert_eq!(ImageRef::parse(&pinned).unwrap().to_string(), pinned);
        assert_eq!(ImageRef::parse("team/app").unwrap().registry, None);
    }

    #[test]
    fn bad_references_are_refused_with_the_reason() {
        for bad in [
            "",
            "UPPER",
            "a//b",
            "a/",
            "/a",
            "a:b c",
            "a@sha256:1",
            "a b",
            "../x",
            "a:",
            "a..b",
        ] {
            let error = ImageRef::parse(bad).unwrap_err();
            assert!(error.to_string().contains("image reference"), "{error}");
        }
        assert!(ImageRef::parse(&"x".repeat(300)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_prints_back(text in "\\PC{0,80}") {
            if let Ok(reference) = ImageRef::parse(&text) {
                prop_assert_eq!(reference.to_string(), text);
            }
        }
    }
}
