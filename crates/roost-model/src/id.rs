//! Typed ids.
//!
//! Each id is text with a form that is checked when it is read, so that an id
//! of one kind cannot be passed for another. Ids are made from random bytes or
//! a ULID that the caller supplies: this crate draws none itself.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An id did not have the form of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseIdError {
    /// What was given, cut to a printable length.
    pub text: String,
    /// The form that was expected, for example `a machine id (14 hex digits)`.
    pub expected: &'static str,
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Digits of the id of a machine.
const MACHINE_ID_DIGITS: usize = 14;

/// The id of a machine: 14 lower-case hexadecimal digits, as in the Machines API.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineId([u8; MACHINE_ID_DIGITS]);

impl MachineId {
    /// The id with these seven bytes.
    pub fn from_bytes(bytes: [u8; 7]) -> Self {
        let digit = |value: u8| b"0123456789abcdef"[usize::from(value & 15)];
        let mut digits = [0; MACHINE_ID_DIGITS];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte)]);
        }
        Self(digits)
    }

    /// Reads an id.
    pub fn parse(text: &str) -> Result<Self, ParseIdError> {
        let is_hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
        let digits = <[u8; MACHINE_ID_DIGITS]>::try_from(text.as_bytes()).ok();
        let digits = digits.filter(|digits| digits.iter().all(is_hex));
        digits.map(Self).ok_or_else(|| ParseIdError {
            text: shorten(text),
            expected: "a machine id (14 hex digits)",
        })
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("digits are text")
    }
}

impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MachineId").field(&self.as_str()).finish()
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<MachineId> for String {
    fn from(id: MachineId) -> Self {
        id.as_str().to_owned()
    }
}

impl TryFrom<String> for MachineId {
    type Error = ParseIdError;
    fn try_from(text: String) -> Result<Self, ParseIdError> {
        Self::parse(&text)
    }
}

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text in front of the ULID.
            pub const PREFIX: &'static str = $prefix;

            /// The id made of this ULID.
            pub fn from_ulid(ulid: ulid::Ulid) -> Self {
                Self(format!("{}{}", $prefix, ulid))
            }

            /// Reads an id.
            pub fn parse(text: &str) -> Result<Self, ParseIdError> {
                let is_ulid = text
                    .strip_prefix($prefix)
                    .is_some_and(|rest| rest.len() == 26 && ulid::Ulid::from_string(rest).is_ok());
                if is_ulid {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(ParseIdError { text: shorten(text), expected: $expected })
                }
            }

            /// The text form.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;
            fn try_from(text: String) -> Result<Self, ParseIdError> {
                Self::parse(&text)
            }
        }
    };
}

ulid_id!(
    /// The id of one version of a machine's config: a bare ULID, as in the Machines API.
    InstanceId, "", "an instance id (a ULID)"
);
ulid_id!(
    /// The id of an app.
    AppId, "app_", "an app id (app_ and a ULID)"
);
ulid_id!(
    /// The id of a release.
    ReleaseId, "rel_", "a release id (rel_ and a ULID)"
);
ulid_id!(
    /// The id of a deployment.
    DeploymentId, "dep_", "a deployment id (dep_ and a ULID)"
);
ulid_id!(
    /// The id of one execution of a workflow.
    RunId, "run_", "a run id (run_ and a ULID)"
);
ulid_id!(
    /// The id of an access token (not its secret).
    TokenId, "tok_", "a token id (tok_ and a ULID)"
);
ulid_id!(
    /// The id of a node.
    NodeId, "node_", "a node id (node_ and a ULID)"
);
ulid_id!(
    /// The id of room that a node holds for a machine to come.
    ReservationId, "rsv_", "a reservation id (rsv_ and a ULID)"
);
ulid_id!(
    /// The id of one API request or proxied request.
    RequestId, "req_", "a request id (req_ and a ULID)"
);
ulid_id!(
    /// The id of one build.
    BuildId, "bld_", "a build id (bld_ and a ULID)"
);

#[cfg(test)]
mod tests {
    use super::{AppId, MachineId, ReleaseId};

    #[test]
    fn ids_read_back_and_kinds_do_not_mix() {
        let machine = MachineId::from_bytes([0, 1, 2, 0xfd, 0xfe, 0xff, 16]);
        assert_eq!(machine.as_str(), "000102fdfeff10");
        assert_eq!(MachineId::parse(machine.as_str()), Ok(machine));
        let app = AppId::from_ulid(ulid::Ulid::from_parts(1, 2));
        assert_eq!(AppId::parse(app.as_str()).as_ref(), Ok(&app));
        assert!(ReleaseId::parse(app.as_str()).is_err());
    }

    #[test]
    fn bad_ids_name_themselves_and_the_expected_form() {
        let error = MachineId::parse("../../etc/passwd").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`../../etc/passwd` is not a machine id (14 hex digits)"
        );
        assert!(
            MachineId::parse("000102FDFEFF10").is_err(),
            "upper case is another spelling"
        );
        let long = "x".repeat(10_000);
        assert!(MachineId::parse(&long).unwrap_err().text.len() <= 80);
    }
}
