//! Custom host names: where an app answers besides `APP.DOMAIN`.

use crate::name::ParseNameError;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest host name in text form (RFC 1035 2.3.4).
pub const HOST_NAME_BYTES_MAX: usize = 253;
/// Longest label of one.
const LABEL_BYTES_MAX: usize = 63;

/// A host name in lower case without the final dot, such as `www.example.com`, or a wildcard for
/// one label, such as `*.example.com`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    /// Reads a name as people write it.
    pub fn parse(text: &str) -> Result<Self, ParseNameError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        match problem_of(&name) {
            None => Ok(Self(name)),
            Some(problem) => Err(ParseNameError {
                kind: "host name",
                text: text.chars().take(80).collect(),
                problem: problem.into(),
            }),
        }
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for every name with one more label.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// Whether it is below this domain, or the domain itself.
    pub fn is_in(&self, domain: &str) -> bool {
        let rest = self.0.strip_suffix(domain);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

/// The wildcard that covers this name, in text form.
pub fn wildcard_of(name: &str) -> Option<String> {
    after_first_label(name).map(|rest| format!("*{rest}"))
}

/// The wildcard that covers this name, without its asterisk: `.example.com`.
pub fn after_first_label(name: &str) -> Option<&str> {
    let (label, rest) = name.split_at(name.find('.')?);
    (!label.is_empty() && rest.len() > 1).then_some(rest)
}

fn problem_of(name: &str) -> Option<&'static str> {
    if name.len() > HOST_NAME_BYTES_MAX {
        return Some("is longer than 253 characters");
    }
    let labels = name.strip_prefix("*.").unwrap_or(name);
    let Some((_, top)) = labels.rsplit_once('.') else {
        return Some("is not a full name such as www.example.com");
    };
    if top.bytes().all(|b| b.is_ascii_digit()) {
        return Some("is an address; give the name that leads to it");
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    for label in labels.split('.') {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX {
            return Some("has a part that is empty or longer than 63 characters");
        }
        if label == "*" {
            return Some("may have a `*` as its whole first part only");
        }
        if !label.bytes().all(allowed) || label.starts_with('-') || label.ends_with('-') {
            return Some(
                "has a part that is not of letters, digits and inner dashes (write other letters as `xn--…`)",
            );
        }
    }
    None
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

impl TryFrom<String> for HostName {
    type Error = ParseNameError;
    fn try_from(text: String) -> Result<Self, ParseNameError> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::{HostName, wildcard_of};

    #[test]
    fn a_host_name_is_a_full_dns_name_or_a_wildcard_of_one_label() {
        let name = HostName::parse("WWW.Example.com.").unwrap();
        assert_eq!(name.as_str(), "www.example.com");
        assert!(!name.is_wildcard());
        assert!(HostName::parse("*.example.com").unwrap().is_wildcard());
        for bad in [
            "",
            ".",
            "*",
            "com",
            "a..com",
            "a.*.com",
            "*.*.com",
            "w*.example.com",
            "a b.com",
            "-a.com",
            "a_b.com",
            "ä.com",
            "192.0.2.1",
            "http://a.com",
            "a.com:80",
            &format!("{}.com", "x".repeat(64)),
            &"x.".repeat(200),
        ] {
            let error = HostName::parse(bad).unwrap_err();
            assert!(error.to_string().starts_with("host name `"), "{error}");
        }
    }

    #[test]
    fn a_name_is_in_its_domain_and_under_its_wildcard() {
        let name = HostName::parse("a.b.example.com").unwrap();
        assert!(name.is_in("example.com") && name.is_in("a.b.example.com"));
        assert!(!name.is_in("ple.com") && !name.is_in("x.example.com"));
        let wildcard = wildcard_of("a.b.example.com");
        assert_eq!(wildcard.as_deref(), Some("*.b.example.com"));
        assert_eq!(wildcard_of("com"), None);
    }
}
