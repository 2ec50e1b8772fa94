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

/// CRC32C (RFC 3720 B.4). It tells a damaged record from one that was rewritten with care, and costs a reader that
/// trusts its disk far less than the chain does.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let &[a, b, c, d, e, f, g, h] = word else { break };
        let low = crc ^ u32::from_le_bytes([a, b, c, d]);
        let [a, b, c, d] = low.to_le_bytes();
        crc = [a, b, c, d, e, f, g, h]
            .iter()
            .zip(TABLES.iter().rev())
            .fold(0, |sum, (byte, table)| sum ^ entry(table, *byte));
    }
    for byte in words.remainder() {
        let [low, ..] = crc.to_le_bytes();
        crc = entry(&TABLES[0], low ^ byte) ^ (crc >> 8);
    }
    !crc
}

fn entry(table: &[u32; 256], byte: u8) -> u32 {
    table[usize::from(byte)]
}

/// `TABLES[n][b]` is the checksum of byte `b` followed by `n` zero bytes: eight bytes a step.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut level = 1;
    while level < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before: u32 = tables[level - 1][byte];
            tables[level][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        level += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slow(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0_u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
        })
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa, "RFC 3720 B.4");
    }

    #[test]
    fn a_head_reads_back() {
        let head = Head::of_header(b"x");
        assert_eq!(Head::parse(&head.to_string()), Some(head));
        assert_eq!(Head::parse("00"), None);
        assert_eq!(Head::parse(&"G".repeat(64)), None);
    }

    proptest! {
        #[test]
        fn eight_bytes_a_step_is_one_bit_a_step(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(crc32c(&bytes), slow(&bytes));
        }
    }
}
