//! Which headers of clients the edge does not hand on: those that end at it, and those that only
//! the platform may set.
//!
//! What a config looks for in requests must not be one of them: it would never be found.

/// Whether a header ends at this hop (RFC 9110 7.6.1, and what `Connection` was before it).
pub fn ends_here(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Neutral names with which a client asks for something.
fn is_request_of_client(name: &str) -> bool {
    name.starts_with("roost-prefer-")
        || name.starts_with("roost-force-")
        || name == "roost-replay-cache-control"
}

/// Names that only the platform may set. A client that sends one is not believed.
///
/// `-` and `_` are the same here: many app servers fold both into one variable.
pub fn is_reserved(name: &str) -> bool {
    const REQUEST: &[&str] = &[
        "fly-client-ip",
        "fly-forwarded-port",
        "fly-region",
        "fly-request-id",
        "fly-preferred-instance-unavailable",
        "fly-replay-src",
        "fly-replay-failed",
        "fly-replay-cache-status",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-forwarded-ssl",
        "x-request-start",
    ];
    let same = |a: &str| {
        a.len() == name.len()
            && a.bytes()
                .zip(name.bytes())
                .all(|(a, b)| a == b || (a == b'-' && b == b'_'))
    };
    match name.as_bytes().first() {
        Some(b'f' | b'x') => {
            REQUEST.iter().any(|reserved| same(reserved))
                // Another spelling of the list that roost appends to.
                || (name != "x-forwarded-for" && same("x-forwarded-for"))
        }
        Some(b'r') => {
            (name.starts_with("roost-") || name.starts_with("roost_"))
                && !is_request_of_client(name)
        }
        _ => false,
    }
}

/// Whether a config may look for a header of this name, in lower case, in requests: it comes from
/// the client, and is told apart from what proxies and the protocol say.
pub fn says_something(name: &str) -> bool {
    let is_of_protocol = matches!(
        name,
        "content-length" | "expect" | "host" | "te" | "trailer" | "x-forwarded-for"
    );
    !is_of_protocol && !ends_here(name) && !is_reserved(name)
}

#[cfg(test)]
mod tests {
    use super::{is_reserved, says_something};

    #[test]
    fn reserved_names_are_not_believed_in_any_spelling() {
        for name in [
            "fly-client-ip",
            "fly_client_ip",
            "x_forwarded_proto",
            "x_forwarded_for",
            "roost-anything",
            "roost_x",
        ] {
            assert!(is_reserved(name), "{name}");
            assert!(!says_something(name), "{name}");
        }
        for name in [
            "x-forwarded-for",
            "fly-prefer-region",
            "x-custom",
            "roosters",
        ] {
            assert!(!is_reserved(name), "{name}");
        }
    }

    #[test]
    fn what_the_edge_takes_off_is_not_looked_for() {
        for name in ["te", "expect", "connection", "x-forwarded-for", "upgrade"] {
            assert!(!says_something(name), "{name}");
        }
        for name in [
            "x-session",
            "cookie",
            "roost-prefer-region",
            "authorization",
        ] {
            assert!(says_something(name), "{name}");
        }
    }
}
