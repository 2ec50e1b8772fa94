//! Each record's hash covers the one before it: a record cannot be changed, moved, removed or put in without every
//! later hash changing too.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

/// A chain hash: SHA-256 over the hash before it and the record's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Head(pub [u8; 32]);

impl Head {
    /// The first hash of a segment: covers its header, which names the last hash of the segment before it.
    pub(super) fn of_header(header: &[u8]) -> Self {
        Self::over(b"portcullis journal segment v1\n", header)
    }

    /// The hash after a record whose framed bytes (without its own hash) are `framed`.
    pub(super) fn after(&self, framed: &[u8]) -> Self {
        Self::over(&self.0, framed)
    }

    fn over(first: &[u8], second: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(first);
        context.update(second);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Some(Self(bytes))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back() {
        let head = Head::of_header(b"x");
        assert_eq!(Head::parse(&head.to_string()), Some(head));
        assert_eq!(Head::parse("00"), None);
        assert_eq!(Head::parse(&"G".repeat(64)), None);
    }
}
