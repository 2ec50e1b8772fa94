//! A revision is one of the five published ones, or it is refused: nothing here guesses at a version string.

use std::fmt;

/// A published revision of the Model Context Protocol, oldest first in the ordering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// `2024-11-05`. Its own HTTP+SSE transport is never proxied (its `endpoint` event can lead a client around the
    /// gateway); its messages over Streamable HTTP are, since many servers still answer `initialize` with it.
    V2024_11_05,
    /// `2025-03-26`, also what an absent `MCP-Protocol-Version` header means outside a session.
    V2025_03_26,
    /// `2025-06-18`.
    V2025_06_18,
    /// `2025-11-25`, the last one with `initialize` and sessions.
    V2025_11_25,
    /// `2026-07-28`, the first one with per-request metadata.
    V2026_07_28,
}

/// How requests declare themselves: once per session, or each for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Era {
    /// `2025-11-25` and older: an `initialize` handshake, sessions, requests from the server.
    Old,
    /// `2026-07-28`: version, client and capabilities in each request's `_meta`; no sessions.
    New,
}

/// Every revision that this build can police, newest first: what discovery and version errors offer (duty 47).
pub const SUPPORTED: [Revision; 5] =
    [Revision::V2026_07_28, Revision::V2025_11_25, Revision::V2025_06_18, Revision::V2025_03_26, Revision::V2024_11_05];

impl Revision {
    /// The newest revision that `initialize` can negotiate.
    pub const NEWEST_OLD: Revision = Revision::V2025_11_25;

    /// What a request without version header means outside a session (Streamable HTTP, "Protocol Version Header").
    pub const ASSUMED: Revision = Revision::V2025_03_26;

    /// The revision of exactly this date string, if it is a published one.
    pub fn parse(text: &str) -> Option<Revision> {
        SUPPORTED.into_iter().find(|revision| revision.as_str() == text)
    }

    /// The date string of the specification.
    pub fn as_str(self) -> &'static str {
        match self {
            Revision::V2024_11_05 => "2024-11-05",
            Revision::V2025_03_26 => "2025-03-26",
            Revision::V2025_06_18 => "2025-06-18",
            Revision::V2025_11_25 => "2025-11-25",
            Revision::V2026_07_28 => "2026-07-28",
        }
    }

    /// Whether this revision has sessions or per-request metadata.
    pub fn era(self) -> Era {
        if self >= Revision::V2026_07_28 { Era::New } else { Era::Old }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duty_47_every_supported_revision_reads_back_and_nothing_else_does() {
        for revision in SUPPORTED {
            assert_eq!(Revision::parse(revision.as_str()), Some(revision));
        }
        assert!(SUPPORTED.is_sorted_by(|newer, older| newer > older));
        for text in ["", "2025-11-26", "2026-07-28 ", "DRAFT-2026-v1", "draft", "2025-6-18"] {
            assert_eq!(Revision::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn duty_45_only_the_newest_revision_is_of_the_new_era() {
        assert_eq!(SUPPORTED.into_iter().filter(|r| r.era() == Era::New).count(), 1);
        assert_eq!(Revision::NEWEST_OLD.era(), Era::Old);
        assert_eq!(SUPPORTED.into_iter().filter(|r| r.era() == Era::Old).max(), Some(Revision::NEWEST_OLD));
    }
}
