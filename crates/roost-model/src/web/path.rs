//! The path of a request, taken apart for a look-up among files.

/// Longest path that is looked up.
pub const PATH_BYTES_MAX: usize = 4_096;

/// The parts of a path that is still percent-encoded, decoded once; empty ones and `.` are left out.
///
/// None when one of them is `..`, hidden (`.well-known` is not), or holds a NUL or a slash.
pub fn parts(path: &str) -> Option<Vec<String>> {
    if path.len() > PATH_BYTES_MAX || !path.starts_with('/') {
        return None;
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        let part = decode(part)?;
        let is_hidden = part.starts_with('.') && part != "." && part != ".well-known";
        if is_hidden || part.contains('/') || part.contains('\0') {
            return None;
        }
        if !part.is_empty() && part != "." {
            parts.push(part);
        }
    }
    Some(parts)
}

/// The text with its `%XX` decoded, once; none when it is not valid, or not UTF-8 then.
pub fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn parts_are_decoded_once_and_parents_are_refused_in_every_spelling() {
        assert_eq!(parts("/a%20b//./c").unwrap(), ["a b", "c"]);
        assert_eq!(parts("/%252e%252e").unwrap(), ["%2e%2e"]);
        for bad in [
            "/..",
            "/a/../b",
            "/%2e%2e/x",
            "/.%2E/x",
            "/a%2fb",
            "/a%00",
            "/%f",
            "/%ff",
            "/.git/config",
            "x",
        ] {
            assert_eq!(parts(bad), None, "{bad}");
        }
        assert!(parts("/.well-known/acme").is_some());
        assert!(parts(&format!("/{}", "a".repeat(5_000))).is_none());
    }
}
