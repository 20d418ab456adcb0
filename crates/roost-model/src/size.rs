//! Sizes in bytes, with their text form.

use std::fmt;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `n` binary kilobytes.
    pub const fn kib(n: u64) -> Self {
        Self(n * 1024)
    }

    /// `n` binary megabytes.
    pub const fn mib(n: u64) -> Self {
        Self(n * 1024 * 1024)
    }

    /// `n` binary gigabytes.
    pub const fn gib(n: u64) -> Self {
        Self(n * 1024 * 1024 * 1024)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Whole binary megabytes, rounded down.
    pub const fn as_mib(self) -> u64 {
        self.0 / (1024 * 1024)
    }

    /// Reads `512mb`, `2GB`, `512MiB`, `1g`, `100` (bytes).
    ///
    /// All units are binary, as in the memory sizes of `fly.toml`.
    /// Returns `None` for anything else, including overflow.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits_end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, unit) = text.split_at(digits_end);
        let number: u64 = digits.parse().ok()?;
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" | "kib" => 1 << 10,
            "m" | "mb" | "mib" => 1 << 20,
            "g" | "gb" | "gib" => 1 << 30,
            "t" | "tb" | "tib" => 1 << 40,
            _ => return None,
        };
        number.checked_mul(factor).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut unit_idx = 0;
        let mut divisor: u64 = 1;
        while unit_idx + 1 < UNITS.len() && self.0 / divisor >= 1024 {
            divisor *= 1024;
            unit_idx += 1;
        }
        let whole = self.0 / divisor;
        let tenth = (self.0 % divisor) * 10 / divisor;
        if tenth == 0 || unit_idx == 0 {
            write!(f, "{whole} {}", UNITS[unit_idx])
        } else {
            write!(f, "{whole}.{tenth} {}", UNITS[unit_idx])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ByteSize;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        assert_eq!(ByteSize::parse("512mb"), Some(ByteSize::mib(512)));
        assert_eq!(ByteSize::parse("2 GiB"), Some(ByteSize::gib(2)));
        assert_eq!(ByteSize::parse("100"), Some(ByteSize(100)));
        assert_eq!(ByteSize::parse("-1"), None);
        assert_eq!(ByteSize::parse("1.5g"), None);
        assert_eq!(ByteSize::parse("99999999999999999999g"), None);
        assert_eq!(ByteSize::parse("17179869184g"), None);
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        assert_eq!(ByteSize(512).to_string(), "512 B");
        assert_eq!(ByteSize::mib(1536).to_string(), "1.5 GiB");
        assert_eq!(ByteSize(u64::MAX).to_string(), "16777215.9 TiB");
    }
}
