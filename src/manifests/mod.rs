//! A folder of manifests, read and watched, with source positions.
//!
//! Invariant: what cannot be read is never taken for absent. A file that cannot be parsed is an invalid edit of every
//! object last read from it, remembered across restarts; one that was never read leaves it unknown what it denies, and
//! [`Merged::unreadable`] says so. No message holds the content of a Secret.

mod folder;
mod merge;
mod parse;
mod source;
mod watch;
mod yaml;

pub use folder::{Limits, Scan, scan};
pub use merge::{Merged, Remembered, RememberedObject, merge};
pub use parse::{Note, ParsedFile, ParsedObject, parse};
pub use source::{FileProblem, Position, Source};
pub use watch::Watcher;

#[cfg(test)]
mod tests;
