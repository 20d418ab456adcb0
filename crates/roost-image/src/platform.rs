//! For which operating system and CPU an image is.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An operating system and CPU, in the words of image indexes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7` and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform that this program was built for.
    pub fn native() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7".to_owned())),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant,
        }
    }

    /// How well an image for `other` runs here: `None` not at all, else higher is better.
    pub fn fit(&self, other: &Self) -> Option<u8> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        let level = |platform: &Self| platform.level();
        match (level(self), level(other)) {
            (mine, theirs) if mine == theirs => Some(u8::MAX),
            (mine, theirs) if theirs < mine => Some(theirs),
            _ => None,
        }
    }

    /// The number of the variant, with each architecture's default filled in.
    fn level(&self) -> u8 {
        let named = self
            .variant
            .as_deref()
            .and_then(|text| text.strip_prefix('v'));
        let default = match self.architecture.as_str() {
            "arm64" => 8,
            "arm" => 7,
            _ => 1,
        };
        named
            .and_then(|text| text.split('.').next()?.parse().ok())
            .unwrap_or(default)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Platform;

    fn platform(architecture: &str, variant: Option<&str>) -> Platform {
        let variant = variant.map(str::to_owned);
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant,
        }
    }

    #[test]
    fn older_variants_run_and_newer_ones_do_not() {
        let arm = platform("arm", Some("v7"));
        assert!(arm.fit(&platform("arm", Some("v7"))) > arm.fit(&platform("arm", Some("v6"))));
        assert_eq!(arm.fit(&platform("arm", Some("v8"))), None);
        assert_eq!(arm.fit(&platform("amd64", None)), None);
        let arm64 = platform("arm64", None);
        assert_eq!(arm64.fit(&platform("arm64", Some("v8"))), Some(u8::MAX));
        assert_eq!(
            platform("amd64", None).fit(&platform("amd64", Some("v3"))),
            None
        );
    }
}
