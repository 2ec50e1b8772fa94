//! The bytes of a segment file: a header, then frames, then zeros. Every byte before the zeros is covered by the chain.
//!
//! ```text
//! header  magic 8 | instance 16 | segment 8 | epoch 8 | first seq 8 | created 8 | previous segment 8 | its length 8
//!         | its last hash 32 | crc32c 4 | zeros to 128
//! frame   length 4 | seq 8 | kind 1 | payload | crc32c 4 | hash 32
//! ```
//!
//! Integers are little-endian. The checksum (RFC 3720 B.4) tells a damaged record from one that was rewritten with care,
//! and costs a reader that trusts its disk far less than the chain does. A frame's length counts its payload and is never 0, so the zeros of a file that was
//! prepared ahead of its use read as the end. The header says where the segment before it ends: bytes beyond that,
//! torn by a crash or left by a failed sync, were never acknowledged and are nobody's.

use crc32c::crc32c;

use super::chain::Head;

/// Bytes of a segment's header.
pub(super) const HEADER: usize = 128;
/// Bytes of a frame before its payload.
pub(super) const PREFIX: usize = 13;
/// Bytes of a frame after its payload.
pub(super) const SUFFIX: usize = 36;
/// No frame is longer, whatever its length field says.
pub(super) const MAX_PAYLOAD: usize = 8 << 20;

/// The last byte is the version of the format.
const MAGIC: [u8; 8] = *b"PCjrnl\0\x01";

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A record of the journal's user.
    Data,
    /// A signed [`super::Checkpoint`].
    Checkpoint,
    /// A signed [`super::RetentionNote`].
    Retention,
}

impl Kind {
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Checkpoint => 2,
            Self::Retention => 3,
        }
    }

    fn parse(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Data),
            2 => Some(Self::Checkpoint),
            3 => Some(Self::Retention),
            _ => None,
        }
    }
}

/// A segment's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose journal this is.
    pub instance: uuid::Uuid,
    /// Number of the segment, from 1.
    pub segment: u64,
    /// Counts the starts of the writer, from 1.
    pub epoch: u64,
    /// Sequence number of the first record, from 1.
    pub first_seq: u64,
    /// When it was opened, by the writer's clock, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Number of the segment before it, 0 for the first.
    pub previous: u64,
    /// Where the segment before it ends.
    pub previous_len: u64,
    /// Last chain hash of the segment before it; zeros for the first.
    pub previous_head: Head,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(self.instance.as_bytes());
        for number in [self.segment, self.epoch, self.first_seq, self.created_unix_ms, self.previous, self.previous_len]
        {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.previous_head.0);
        bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
        let mut header = [0; HEADER];
        for (to, from) in header.iter_mut().zip(bytes) {
            *to = from;
        }
        header
    }

    pub(super) fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let mut input = Bytes(bytes);
        if input.take::<8>()? != MAGIC {
            return None;
        }
        let header = Self {
            instance: uuid::Uuid::from_bytes(input.take()?),
            segment: input.u64()?,
            epoch: input.u64()?,
            first_seq: input.u64()?,
            created_unix_ms: input.u64()?,
            previous: input.u64()?,
            previous_len: input.u64()?,
            previous_head: Head(input.take()?),
        };
        // One encoding only: the checksum and the zeros at the end are compared with it.
        (header.encode() == *bytes).then_some(header)
    }
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// Appends an unsealed frame: seq, checksum and hash are filled in by [`seal`].
pub(super) fn push_frame(into: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(&[0; 8]);
    into.push(kind.byte());
    into.extend_from_slice(payload);
    into.extend_from_slice(&[0; SUFFIX]);
}

/// Length of the frame that begins `bytes`, or nothing if it does not fit.
pub(super) fn frame_len(bytes: &[u8]) -> Option<usize> {
    let payload = u32::from_le_bytes(*bytes.first_chunk()?);
    let len = PREFIX + usize::try_from(payload).ok()? + SUFFIX;
    (len <= bytes.len()).then_some(len)
}

/// Gives a whole frame its place in the chain, and answers with the hash after it.
pub(super) fn seal(frame: &mut [u8], seq: u64, head: Head) -> Head {
    if let Some(at) = frame.get_mut(4..12) {
        at.copy_from_slice(&seq.to_le_bytes());
    }
    let framed = frame.len().saturating_sub(SUFFIX);
    let (framed, suffix) = frame.split_at_mut(framed);
    let next = head.after(framed);
    if let Some((crc, hash)) = suffix.split_first_chunk_mut::<4>() {
        *crc = crc32c(framed).to_le_bytes();
        hash.copy_from_slice(&next.0);
    }
    next
}

/// A frame as read: its checksum holds, its place in the chain is not yet judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) seq: u64,
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
    /// The hash that it carries.
    pub(super) head: Head,
    framed: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads one whole frame; nothing if checksum or kind are wrong.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (framed, suffix) = bytes.split_at_checked(bytes.len().checked_sub(SUFFIX)?)?;
        let (crc, head) = suffix.split_first_chunk::<4>()?;
        if crc32c(framed) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (prefix, payload) = framed.split_first_chunk::<PREFIX>()?;
        let (seq, kind) = prefix.get(4..)?.split_first_chunk::<8>()?;
        Some(Self {
            seq: u64::from_le_bytes(*seq),
            kind: Kind::parse(*kind.first()?)?,
            payload,
            head: Head(head.try_into().ok()?),
            framed,
        })
    }

    /// Whether it follows the hash `previous`.
    pub(super) fn follows(&self, previous: Head) -> bool {
        previous.after(self.framed) == self.head
    }
}

/// File name of a segment: sorts as its number does.
pub(super) fn file_name(segment: u64) -> String {
    format!("{segment:016}.seg")
}

/// Number in a segment's file name.
pub(super) fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            instance: uuid::Uuid::from_bytes([7; 16]),
            segment: 3,
            epoch: 2,
            first_seq: 40,
            created_unix_ms: 1_700_000_000_000,
            previous: 2,
            previous_len: 999,
            previous_head: Head([9; 32]),
        }
    }

    #[test]
    fn a_header_reads_back_and_any_flipped_byte_is_noticed() {
        let bytes = header().encode();
        assert_eq!(Header::decode(&bytes), Some(header()));
        for at in 0..HEADER {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(Header::decode(&changed), None, "byte {at}");
        }
    }

    #[test]
    fn a_frame_reads_back_and_any_flipped_byte_is_noticed() {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, Kind::Data, b"payload");
        let before = Head([1; 32]);
        let after = seal(&mut bytes, 5, before);
        let frame = Frame::decode(&bytes).unwrap();
        assert_eq!((frame.seq, frame.kind, frame.payload, frame.head), (5, Kind::Data, &b"payload"[..], after));
        assert!(frame.follows(before));
        assert!(!frame.follows(after));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(!Frame::decode(&changed).is_some_and(|frame| frame.follows(before)), "byte {at}");
        }
    }

    #[test]
    fn names_sort_as_numbers() {
        assert!(file_name(9) < file_name(10));
        assert_eq!(parse_file_name(&file_name(12)), Some(12));
        assert_eq!(parse_file_name("12.seg"), None);
        assert_eq!(parse_file_name("spare"), None);
    }
}
