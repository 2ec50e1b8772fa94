//! What a start finds: the last record in the chain, and everything that is not as it should be. Nothing is repaired in
//! place: the new segment's header says where the old one ends. Records that a failed sync left behind whole are kept:
//! their calls were refused, and saying more than was acknowledged is the safe side.

use std::fs;
use std::io;
use std::path::Path;

use super::chain::Head;
use super::checkpoint::{Checkpoint, write_private};
use super::reader::{ReadError, SegmentReader, Step, list};
use super::writer::Closed;

/// What a start found. All but `instance` and `epoch` is worth a line in the log, and a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Whose journal.
    pub instance: String,
    /// The new writer's start count.
    pub epoch: u64,
    /// Bytes behind the last whole record: a write that a crash cut, never acknowledged.
    pub torn_bytes: u64,
    /// The last record that a checkpoint vouches for and that is not there any more: the journal was cut, damaged or
    /// rolled back.
    pub lost_through: Option<u64>,
    /// Segments whose headers cannot be read.
    pub damaged_segments: Vec<u64>,
}

/// Where the writer goes on.
pub(super) struct Found {
    pub(super) recovery: Recovery,
    pub(super) instance: uuid::Uuid,
    pub(super) next_segment: u64,
    pub(super) previous: u64,
    pub(super) previous_len: u64,
    pub(super) seq: u64,
    pub(super) head: Head,
    pub(super) closed: Vec<Closed>,
}

pub(super) fn recover(dir: &Path) -> Result<Found, ReadError> {
    let files = list(dir).map_err(|error| ReadError::Io { path: dir.to_owned(), error })?;
    let mut segments = Vec::new();
    let mut damaged_segments = Vec::new();
    for file in &files {
        match SegmentReader::open(&file.path) {
            Ok(segment) if segment.header().segment == file.number => segments.push((file, segment)),
            Ok(_) | Err(ReadError::Header { .. }) => damaged_segments.push(file.number),
            Err(error) => return Err(error),
        }
    }
    let known = segments.last().map(|(_, segment)| segment.header().instance);
    let instance = instance(dir, known).map_err(|error| ReadError::Io { path: dir.join("instance"), error })?;
    let closed = closed(&segments);
    let mut found = Found {
        recovery: Recovery {
            instance: instance.to_string(),
            epoch: 1,
            torn_bytes: 0,
            lost_through: None,
            damaged_segments,
        },
        instance,
        next_segment: files.last().map_or(1, |file| file.number + 1),
        previous: 0,
        previous_len: 0,
        seq: 1,
        head: Head::default(),
        closed,
    };
    let mut vouched = anchor(dir).filter(|anchor| anchor.instance == found.recovery.instance).map(|anchor| anchor.seq);
    if let Some((file, mut last)) = segments.pop() {
        while let Step::Record(_) = last.step()? {}
        let remains = last.remains()?;
        vouched = vouched.max(highest_checkpoint(&remains));
        found.recovery.epoch = last.header().epoch + 1;
        found.recovery.torn_bytes = remains.len() as u64;
        found.previous = file.number;
        found.previous_len = last.offset();
        found.seq = last.next_seq();
        found.head = last.head();
    }
    found.recovery.lost_through = vouched.filter(|seq| *seq >= found.seq);
    Ok(found)
}

/// A successor's header says where a segment ended and when.
fn closed(segments: &[(&super::SegmentFile, SegmentReader)]) -> Vec<Closed> {
    let pairs = segments.iter().zip(segments.iter().skip(1));
    pairs
        .map(|((file, _), (_, next))| Closed {
            number: file.number,
            bytes: file.bytes,
            last_seq: next.header().first_seq - 1,
            head: next.header().previous_head,
            closed_unix_ms: next.header().created_unix_ms,
        })
        .collect()
}

/// The latest signed checkpoint in bytes that no segment owns: what it vouches for was acknowledged and is gone.
pub fn highest_checkpoint(bytes: &[u8]) -> Option<u64> {
    const START: &[u8] = b"{\"instance\":";
    let starts = bytes.windows(START.len()).enumerate().filter(|(_, window)| *window == START);
    starts
        .filter_map(|(at, _)| {
            let rest = bytes.get(at..)?;
            let end = rest.iter().position(|byte| *byte == b'}')?;
            Checkpoint::parse(rest.get(..=end)?).ok()
        })
        .filter(Checkpoint::is_signed)
        .map(|checkpoint| checkpoint.seq)
        .max()
}

fn anchor(dir: &Path) -> Option<Checkpoint> {
    Checkpoint::parse(&fs::read(dir.join("anchor.json")).ok()?).ok().filter(Checkpoint::is_signed)
}

/// Whose journal this is: what the file says; without one, what the segments say; without those, a new one's.
fn instance(dir: &Path, known: Option<uuid::Uuid>) -> io::Result<uuid::Uuid> {
    let path = dir.join("instance");
    match fs::read_to_string(&path) {
        Ok(text) => uuid::Uuid::try_parse(text.trim()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidData, "not a UUID; restore the file or move the journal away")
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = known.unwrap_or_else(uuid::Uuid::now_v7);
            write_private(&path, format!("{made}\n").as_bytes())?;
            Ok(made)
        }
        Err(error) => Err(error),
    }
}
