//! Reads segments, also while they are written. Nothing here trusts a byte: lengths are bounded, and a record counts
//! only with its checksum, its number and its place in the chain.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::chain::Head;
use super::segment::{Frame, HEADER, Header, Kind, MAX_PAYLOAD, PREFIX, SUFFIX, file_name, parse_file_name};

/// A segment file in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// The number in its name.
    pub number: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Its size on disk.
    pub bytes: u64,
}

/// The folder's segments, by number.
pub fn list(dir: &Path) -> io::Result<Vec<SegmentFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(parse_file_name) else { continue };
        match entry.metadata() {
            Ok(metadata) => files.push(SegmentFile { number, path: entry.path(), bytes: metadata.len() }),
            // Retention may delete while we list.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    files.sort_by_key(|file| file.number);
    Ok(files)
}

/// Whether a writer holds the folder.
pub fn is_live(dir: &Path) -> bool {
    let held = |file: File| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock));
    File::open(dir.join("lock")).is_ok_and(held)
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the segment.
    pub segment: u64,
    /// Byte in its file.
    pub offset: u64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "segment {} byte {}", self.segment, self.offset)
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number: counts over all segments, from 1.
    pub seq: u64,
    /// What it is.
    pub kind: Kind,
    /// Its content.
    pub payload: Vec<u8>,
    /// Where it lies.
    pub position: Position,
    /// The writer's start count.
    pub epoch: u64,
    /// Chain hash after it.
    pub head: Head,
}

/// What comes next in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A record in its place.
    Record(Record),
    /// Nothing more, or not yet.
    End,
    /// A frame whose length, kind or checksum is wrong: flipped bytes, or a write that was cut.
    Damaged,
    /// A whole record with another number than its place has: moved, repeated, or others taken out.
    Misplaced {
        /// The number that belongs here.
        expected: u64,
        /// The number that it carries.
        found: u64,
    },
    /// A whole record whose hash does not follow from the one before it: rewritten.
    Unchained {
        /// Its number.
        seq: u64,
    },
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The header is damaged, of another format, or of another segment.
    #[error("{path}: not a journal segment of this format, or its header is damaged")]
    Header {
        /// The file.
        path: PathBuf,
    },
    /// A record is damaged; the rest of its segment is passed over.
    #[error("the record at {0} is damaged: `portcullis audit verify` says how")]
    Record(Position),
}

impl ReadError {
    /// Stable CamelCase reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "JournalUnreadable",
            Self::Header { .. } => "SegmentHeaderDamaged",
            Self::Record(_) => "RecordDamaged",
        }
    }
}

const WINDOW: usize = 256 << 10;
/// How often a frame that is no record is looked at before it counts as damaged and not as being written.
const LOOKS: usize = 100;
/// How much of what no segment owns is looked at.
const MAX_REMAINS: u64 = 256 << 20;

/// One segment, read from its start.
#[derive(Debug)]
pub struct SegmentReader {
    file: File,
    path: PathBuf,
    header: Header,
    offset: u64,
    seq: u64,
    head: Head,
    end: Option<u64>,
    window: Vec<u8>,
    window_at: u64,
}

impl SegmentReader {
    /// Opens a segment and reads its header.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let io = |error| ReadError::Io { path: path.to_owned(), error };
        let file = File::open(path).map_err(io)?;
        let mut bytes = [0; HEADER];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(io(error)),
            _ => {}
        }
        let header = Header::decode(&bytes).ok_or_else(|| ReadError::Header { path: path.to_owned() })?;
        Ok(Self {
            file,
            path: path.to_owned(),
            offset: HEADER as u64,
            seq: header.first_seq,
            head: Head::of_header(&bytes),
            end: None,
            window: Vec::new(),
            window_at: 0,
            header,
        })
    }

    /// The segment's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the next record begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The number that the next record has.
    pub fn next_seq(&self) -> u64 {
        self.seq
    }

    /// Chain hash after the last record read.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Bytes from `end` on are not the segment's: the next segment's header says so.
    pub fn end_at(&mut self, end: u64) {
        self.end = Some(end);
    }

    /// Reads the next record. After anything but a record it stands still, and may be asked again.
    pub fn step(&mut self) -> Result<Step, ReadError> {
        let step = self.frame().map_err(|error| ReadError::Io { path: self.path.clone(), error })?;
        if !matches!(step, Step::Record(_)) {
            self.window.clear();
        }
        Ok(step)
    }

    fn frame(&mut self) -> io::Result<Step> {
        if self.end.is_some_and(|end| self.offset >= end) {
            return Ok(Step::End);
        }
        let closed = self.end.is_some();
        let start = self.bytes(4)?;
        let Some(length) = start.first_chunk().map(|length| u32::from_le_bytes(*length)) else {
            let zeros = start.iter().all(|byte| *byte == 0);
            return Ok(if zeros && !closed { Step::End } else { Step::Damaged });
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length == 0 {
            // Zeros end a segment; a length that was overwritten with zeros leaves something behind it.
            let behind = self.bytes(PREFIX)?.iter().any(|byte| *byte != 0);
            return Ok(if behind || closed { Step::Damaged } else { Step::End });
        }
        if length > MAX_PAYLOAD {
            return Ok(Step::Damaged);
        }
        let len = PREFIX + length + SUFFIX;
        if self.end.is_some_and(|end| self.offset + len as u64 > end) {
            return Ok(Step::Damaged);
        }
        let (offset, seq, head) = (self.offset, self.seq, self.head);
        let (segment, epoch) = (self.header.segment, self.header.epoch);
        let bytes = self.bytes(len)?;
        let Some(frame) = (bytes.len() == len).then(|| Frame::decode(bytes)).flatten() else {
            return Ok(Step::Damaged);
        };
        if frame.seq != seq {
            return Ok(Step::Misplaced { expected: seq, found: frame.seq });
        }
        if !frame.follows(head) {
            return Ok(Step::Unchained { seq });
        }
        let record = Record {
            seq,
            kind: frame.kind,
            payload: frame.payload.to_vec(),
            position: Position { segment, offset },
            epoch,
            head: frame.head,
        };
        self.offset += len as u64;
        self.seq += 1;
        self.head = record.head;
        Ok(Step::Record(record))
    }

    /// At most `want` bytes from the current offset on; fewer only at the end of the file.
    fn bytes(&mut self, want: usize) -> io::Result<&[u8]> {
        let held = self.offset.checked_sub(self.window_at).and_then(|skip| usize::try_from(skip).ok());
        if let Some(skip) = held
            && self.window.len() >= skip.saturating_add(want)
        {
            return Ok(self.window.get(skip..skip + want).unwrap_or_default());
        }
        self.window.resize(want.max(WINDOW), 0);
        self.window_at = self.offset;
        let mut filled = 0;
        while let Some(space) = self.window.get_mut(filled..).filter(|space| !space.is_empty()) {
            match self.file.read_at(space, self.offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.window.truncate(filled);
        Ok(self.window.get(..want.min(filled)).unwrap_or_default())
    }

    /// What lies behind the current offset and is not zero: the remains of a write that was cut, or worse. Of a file
    /// that somebody made enormous, the first [`MAX_REMAINS`] bytes.
    pub fn remains(&self) -> Result<Vec<u8>, ReadError> {
        let io = |error| ReadError::Io { path: self.path.clone(), error };
        let len = self.file.metadata().map_err(io)?.len().saturating_sub(self.offset).min(MAX_REMAINS);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        match self.file.read_exact_at(&mut bytes, self.offset) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(io(error)),
            _ => {}
        }
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(used);
        Ok(bytes)
    }
}

/// Where segment `number` ends, if `next` follows it.
fn stated_end(number: u64, next: &SegmentFile) -> Option<u64> {
    let next = SegmentReader::open(&next.path).ok()?;
    (next.header.previous == number).then_some(next.header.previous_len)
}

/// All segments in order, also while they are written: at the end it answers `None`, and more on a later call. What it
/// reads of the segment that is being written may not be synced yet.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    at: u64,
    open: Option<SegmentReader>,
}

impl Reader {
    /// Reads the journal in `dir`, from segment `first` on (0: from the oldest).
    pub fn open(dir: &Path, first: u64) -> Self {
        Self { dir: dir.to_owned(), at: first, open: None }
    }

    /// The next record. An error is told once; the next call goes on behind it.
    #[expect(clippy::should_implement_trait, reason = "an end that is not final is no iterator's")]
    pub fn next(&mut self) -> Result<Option<Record>, ReadError> {
        loop {
            let Some(segment) = &mut self.open else {
                match self.following(self.at)? {
                    Some(next) => self.enter(&next)?,
                    None => return Ok(None),
                }
                continue;
            };
            let step = segment.step()?;
            if let Step::Record(record) = step {
                return Ok(Some(record));
            }
            let current = segment.header.segment;
            let Some(next) = self.following(current + 1)? else { return Ok(None) };
            if let Some(error) = self.leave(current, &next)? {
                return Err(error);
            }
        }
    }

    /// Where reading stands before what is neither a record nor an end: damage, or a write that was cut off. To be asked
    /// when [`Reader::next`] has answered `None`: whoever follows waits there, whoever asks once must know.
    ///
    /// # Errors
    /// If the segment cannot be read.
    pub fn obstacle(&mut self) -> Result<Option<Position>, ReadError> {
        let Some(segment) = &mut self.open else { return Ok(None) };
        for _ in 0..LOOKS {
            if matches!(segment.step()?, Step::End | Step::Record(_)) {
                return Ok(None);
            }
            // A frame that is being written is whole a moment later.
            std::thread::yield_now();
        }
        Ok(Some(Position { segment: segment.header.segment, offset: segment.offset }))
    }

    /// The open segment has a successor: read up to where that says it ends, then go over.
    fn leave(&mut self, current: u64, next: &SegmentFile) -> Result<Option<ReadError>, ReadError> {
        let Some(segment) = &mut self.open else { return Ok(None) };
        if segment.end.is_none() {
            segment.end = stated_end(current, next);
            if segment.end.is_some() {
                return Ok(None);
            }
        }
        let position = Position { segment: current, offset: segment.offset };
        let damaged = match segment.end {
            Some(end) => segment.offset < end,
            None => !matches!(segment.step()?, Step::End),
        };
        self.open = None;
        self.at = next.number;
        Ok(damaged.then_some(ReadError::Record(position)))
    }

    fn following(&self, number: u64) -> Result<Option<SegmentFile>, ReadError> {
        let direct = self.dir.join(file_name(number));
        if let Ok(metadata) = fs::metadata(&direct) {
            return Ok(Some(SegmentFile { number, path: direct, bytes: metadata.len() }));
        }
        let files = list(&self.dir).map_err(|error| ReadError::Io { path: self.dir.clone(), error })?;
        Ok(files.into_iter().find(|file| file.number >= number))
    }

    fn enter(&mut self, file: &SegmentFile) -> Result<(), ReadError> {
        self.at = file.number + 1;
        match SegmentReader::open(&file.path) {
            Ok(mut segment) if segment.header.segment == file.number => {
                segment.end = self.following(self.at)?.and_then(|next| stated_end(file.number, &next));
                self.open = Some(segment);
            }
            Ok(_) => return Err(ReadError::Header { path: file.path.clone() }),
            Err(ReadError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
