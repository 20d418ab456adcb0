//! Names that people choose, checked when they are made. Those of apps, of which the most copies are
//! made, share their text.

use crate::limits;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A name did not have the form of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{text}` {problem}")]
pub struct ParseNameError {
    /// What kind of name it was to be: `app name`.
    pub kind: &'static str,
    /// What was given, cut to a printable length.
    pub text: String,
    /// What is wrong, as the end of a sentence.
    pub problem: String,
}

impl ParseNameError {
    fn new(kind: &'static str, text: &str, problem: impl Into<String>) -> Self {
        let text = text.chars().take(80).collect();
        Self {
            kind,
            text,
            problem: problem.into(),
        }
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident($text:ty), $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name($text);

        impl $name {
            /// Reads and checks a name.
            pub fn parse(text: &str) -> Result<Self, ParseNameError> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// The text form.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseNameError;
            fn try_from(text: String) -> Result<Self, ParseNameError> {
                Self::parse(&text)
            }
        }
    };
}

name_type!(
    /// The name of an app: one DNS label, since it becomes the first label of the app's URL.
    AppName(Arc<str>), check_app_name
);
name_type!(
    /// The name of a machine, unique within its app.
    MachineName(String), check_machine_name
);
name_type!(
    /// The code of a region, such as `local` or `fra`.
    RegionCode(String), check_region_code
);
name_type!(
    /// The name of a zone: nodes of a region that fail together, such as `a` or `rack-3`.
    ZoneName(String), check_zone_name
);
name_type!(
    /// The name of a secret, which becomes an environment variable.
    SecretName(String), check_secret_name
);

fn check_label(kind: &'static str, text: &str, bytes_max: usize) -> Result<(), ParseNameError> {
    let error = |problem: String| Err(ParseNameError::new(kind, text, problem));
    if text.is_empty() {
        return error("is empty".into());
    }
    if text.len() > bytes_max {
        return error(format!(
            "has {} characters, and {bytes_max} is the most",
            text.len()
        ));
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if let Some(bad) = text.chars().find(|c| !allowed(*c)) {
        return error(format!(
            "has {bad:?} in it; use lower-case letters, digits and dashes"
        ));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return error("starts or ends with a dash".into());
    }
    Ok(())
}

fn check_app_name(text: &str) -> Result<(), ParseNameError> {
    check_label("app name", text, limits::APP_NAME_BYTES_MAX)
}

fn check_machine_name(text: &str) -> Result<(), ParseNameError> {
    check_label("machine name", text, limits::MACHINE_NAME_BYTES_MAX)
}

fn check_region_code(text: &str) -> Result<(), ParseNameError> {
    check_label("region code", text, 16)
}

fn check_zone_name(text: &str) -> Result<(), ParseNameError> {
    check_label("zone name", text, 32)
}

fn check_secret_name(text: &str) -> Result<(), ParseNameError> {
    check_env_name("secret name", text)
}

/// Checks the name of an environment variable that a user sets.
///
/// `FLY_` and `ROOST_` names belong to the platform.
pub fn check_env_name(kind: &'static str, text: &str) -> Result<(), ParseNameError> {
    let error = |problem: &str| Err(ParseNameError::new(kind, text, problem));
    if text.is_empty() {
        return error("is empty");
    }
    if text.len() > limits::ENV_NAME_BYTES_MAX {
        return error("is longer than 255 characters");
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !text.chars().all(is_word) || text.starts_with(|c: char| c.is_ascii_digit()) {
        return error("must be letters, digits and underscores, and not start with a digit");
    }
    if text.starts_with("FLY_") || text.starts_with("ROOST_") {
        return error("starts with FLY_ or ROOST_, which are the platform's own");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{AppName, SecretName};

    #[test]
    fn an_app_name_is_one_dns_label() {
        assert!(AppName::parse("hello-2").is_ok());
        for bad in [
            "",
            "a/b",
            "a.b",
            "Hello",
            "-a",
            "a-",
            "..",
            "a b",
            "ä",
            &"x".repeat(300),
        ] {
            let error = AppName::parse(bad).unwrap_err();
            assert!(error.to_string().starts_with("app name `"), "{error}");
            assert!(error.to_string().len() < 200, "{error}");
        }
    }

    #[test]
    fn a_secret_name_is_a_variable_that_the_platform_does_not_own() {
        assert!(SecretName::parse("DATABASE_URL").is_ok());
        for bad in ["", "1A", "A-B", "A=B", "FLY_X", "ROOST_X", "A\0"] {
            assert!(SecretName::parse(bad).is_err(), "{bad}");
        }
    }
}
