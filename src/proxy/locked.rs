//! Whether a tool is what was reviewed, for lists and calls alike.
//!
//! Invariant: under `Hide` and `Deny` no call is let through of a tool whose definition was not seen, or is not the one
//! that was reviewed. What is hidden is answered like what does not exist (design 3.7).

use std::time::Duration;

use super::catalogue::Tool;
use super::snapshot::Site;
use crate::generated::server::{Lock, OnChange};
use crate::tools::lock::Drift;

/// How long a call waits for the first inventory of its server.
const PATIENCE: Duration = Duration::from_secs(5);

/// A tool that was reviewed, and of which no definition was seen yet.
const UNSEEN: &str = "ToolNotSeen";

/// What a tool lock says of one tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locked {
    /// There is no lock, or the tool is what was reviewed.
    Same,
    /// It is not, and passes: a stable word.
    Told(&'static str),
    /// It is answered like one that does not exist.
    Hidden(&'static str),
    /// It is seen, and refused.
    Refused(&'static str),
}

impl Locked {
    /// Judges a tool by what is known of it.
    pub fn of(site: &Site, name: &str, tool: Option<&Tool>) -> Self {
        let Some(lock) = &site.server.lock else { return Self::Same };
        let drift = match tool {
            Some(tool) => tool.drift,
            None if !lock.tools.contains_key(name) => Some(Drift::New),
            None if site.catalogue.is_whole() => Some(Drift::Gone),
            None if lock.on_change == OnChange::Warn => None,
            // Whoever may call it may know of it: it is there, and will be known in a moment.
            None => return Self::Refused(UNSEEN),
        };
        drift.map_or(Self::Same, |drift| Self::drifted(lock, drift))
    }

    fn drifted(lock: &Lock, drift: Drift) -> Self {
        match lock.on_change {
            OnChange::Warn => Self::Told(drift.as_str()),
            OnChange::Hide => Self::Hidden(drift.as_str()),
            OnChange::Deny => Self::Refused(drift.as_str()),
        }
    }

    /// The word for the record, if the tool is not what was reviewed.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Same => None,
            Self::Told(word) | Self::Hidden(word) | Self::Refused(word) => Some(word),
        }
    }

    /// What a caller is told whom policy would let through.
    pub fn message(self, name: &str) -> String {
        match self.word() {
            Some(UNSEEN) => format!("The tool {name} could not be held against its review yet: try again in a moment."),
            Some(word) if word == Drift::Gone.as_str() => {
                format!("The tool {name} is not listed by its server any more.")
            }
            Some(word) if word == Drift::New.as_str() => {
                format!("The tool {name} was not reviewed, so it is not called.")
            }
            _ => format!("The tool {name} was changed after its review, so it is not called."),
        }
    }
}

/// What is known of a tool. A lock that refuses waits for the server's first inventory, whatever the name: who waits must
/// not learn which tools were reviewed.
pub async fn known(site: &Site, name: &str) -> Option<Tool> {
    let catalogue = &site.catalogue;
    let known = catalogue.get(name);
    let refuses = site.server.lock.as_ref().is_some_and(|lock| lock.on_change != OnChange::Warn);
    if known.is_some() || !refuses || catalogue.is_whole() {
        return known;
    }
    catalogue.wait_whole(PATIENCE).await;
    catalogue.get(name)
}
