//! Everything that verification can say, each with the place that it speaks of.

use crate::journal::Position;

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// Flipped bytes, or a write that was cut and that no later start has accounted for.
    #[error("record {seq} at {position} is damaged")]
    Damaged {
        /// The number of the record that should be there.
        seq: u64,
        /// Where.
        position: Position,
    },
    /// Records were taken out or moved.
    #[error("record {found} stands at {position}, where record {expected} belongs")]
    Gap {
        /// The number that belongs there.
        expected: u64,
        /// The number that is there.
        found: u64,
        /// Where.
        position: Position,
    },
    /// Two records with one number: replayed, or the log was continued twice.
    #[error("record {seq} is there a second time, at {position}: the log forks")]
    Fork {
        /// The number.
        seq: u64,
        /// Where the second one is.
        position: Position,
    },
    /// A whole record that does not follow from the one before it.
    #[error("record {seq} at {position} was rewritten: it does not follow from the record before it")]
    Rewritten {
        /// Its number.
        seq: u64,
        /// Where.
        position: Position,
    },
    /// The header of a segment cannot be read.
    #[error("the header of segment {segment} is damaged")]
    HeaderDamaged {
        /// The segment.
        segment: u64,
    },
    /// A segment lies under another one's name: swapped or replayed.
    #[error("the file of segment {file} holds segment {claims}")]
    SegmentMisplaced {
        /// The number in the file's name.
        file: u64,
        /// The number in its header.
        claims: u64,
    },
    /// Segments were deleted, and no signed note says that retention did it.
    #[error("segments {from} to {through} are missing, and no retention note explains it")]
    SegmentsMissing {
        /// The first.
        from: u64,
        /// The last.
        through: u64,
    },
    /// A segment does not continue the one before it.
    #[error("segment {segment} does not continue the segment before it")]
    Unlinked {
        /// The segment.
        segment: u64,
    },
    /// A segment of another journal.
    #[error("segment {segment} belongs to journal {instance}")]
    Foreign {
        /// The segment.
        segment: u64,
        /// Whose it is.
        instance: String,
    },
    /// A checkpoint or retention note that is not signed by the journal's key, or that contradicts the journal.
    #[error("the statement in record {seq} is not signed by the journal's key, or contradicts the journal")]
    BadStatement {
        /// Its record.
        seq: u64,
    },
    /// A segment that has a successor ends without a checkpoint, and its successor does not begin with one: every writer
    /// that has the key signs in one of the two places.
    #[error(
        "record {seq} at {position} and what follows it in its segment are signed by no checkpoint: not by the gateway"
    )]
    Unsigned {
        /// The first such record.
        seq: u64,
        /// Where.
        position: Position,
    },
    /// A checkpoint vouches for records that a later start no longer found.
    #[error("records up to {through} were on disk once and are gone: segment {segment} was cut or damaged")]
    Lost {
        /// The last record that was vouched for.
        through: u64,
        /// The segment that held it.
        segment: u64,
    },
    /// The journal ends before the anchor.
    #[error("the journal ends at record {last}, and the anchor proves that it reached {anchor}: its end was cut off")]
    CutTail {
        /// The last record.
        last: u64,
        /// The anchor's.
        anchor: u64,
    },
    /// The journal has the anchor's record with another content.
    #[error("record {seq} is not the one that the anchor names: the journal was rolled back and written anew")]
    RolledBack {
        /// The anchor's record.
        seq: u64,
    },
    /// The anchor is another journal's.
    #[error(
        "the anchor belongs to journal {anchor}, and this is journal {instance}: it was replaced, or the anchor is not its"
    )]
    OtherJournal {
        /// The anchor's.
        anchor: String,
        /// This one.
        instance: String,
    },
    /// The anchor itself is not signed, or not by the expected key.
    #[error("the anchor's signature does not hold")]
    BadAnchor,
}

impl Finding {
    /// Stable CamelCase reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => "RecordDamaged",
            Self::Gap { .. } => "RecordsMissing",
            Self::Fork { .. } => "Fork",
            Self::Rewritten { .. } => "RecordRewritten",
            Self::HeaderDamaged { .. } => "SegmentHeaderDamaged",
            Self::SegmentMisplaced { .. } => "SegmentMisplaced",
            Self::SegmentsMissing { .. } => "SegmentsMissing",
            Self::Unlinked { .. } => "SegmentUnlinked",
            Self::Foreign { .. } => "SegmentForeign",
            Self::BadStatement { .. } => "StatementInvalid",
            Self::Unsigned { .. } => "RecordsUnsigned",
            Self::Lost { .. } => "RecordsLost",
            Self::CutTail { .. } => "TailCut",
            Self::RolledBack { .. } => "RolledBack",
            Self::OtherJournal { .. } => "OtherJournal",
            Self::BadAnchor => "AnchorInvalid",
        }
    }
}

/// Something worth knowing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// Retention removed the oldest segments, and said so under the journal's key.
    #[error("retention removed everything through segment {through_segment}, record {through_seq}")]
    Retained {
        /// The last removed segment.
        through_segment: u64,
        /// The last removed record.
        through_seq: u64,
    },
    /// A start found bytes that were never acknowledged and left them out of the chain.
    #[error("{bytes} bytes behind the end of segment {segment} were never acknowledged: a crash or a failing disk")]
    Unacknowledged {
        /// The segment.
        segment: u64,
        /// How many.
        bytes: u64,
    },
    /// The end of the journal is signed by no checkpoint: a writer that did not end as it should, or somebody else.
    #[error(
        "record {seq} and those behind it are signed by no checkpoint yet: the gateway was ended by force, or they are not its"
    )]
    Unsigned {
        /// The first such record.
        seq: u64,
    },
    /// A writer holds the journal; its last records may still be on their way.
    #[error("the journal is being written")]
    Live,
    /// The anchor is older than what retention kept.
    #[error("the anchor's record {seq} was removed by retention")]
    AnchorRetired {
        /// The anchor's record.
        seq: u64,
    },
    /// Neither key nor anchor was given.
    #[error("the signing key is taken from the journal itself; give the key or an anchor that was kept elsewhere")]
    KeyUnpinned,
}

/// How far it is proven that nothing is missing at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completeness {
    /// Without an anchor that fits, the end may have been cut off.
    #[default]
    NotProven,
    /// Everything up to the anchor's record is there.
    UpToAnchor {
        /// The anchor's record.
        seq: u64,
    },
}

impl std::fmt::Display for Completeness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotProven => f.write_str("completeness not proven"),
            Self::UpToAnchor { seq } => write!(f, "complete up to anchor {seq}"),
        }
    }
}
