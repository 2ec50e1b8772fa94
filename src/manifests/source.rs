//! Where in which file something was written.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::api::{FieldPath, Key};

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The document that an object was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The file, as it is shown.
    pub file: Arc<str>,
    pub(super) positions: Arc<BTreeMap<FieldPath, Position>>,
}

impl Source {
    /// Where a member stands; if it is absent, where what should hold it stands.
    pub fn locate(&self, path: &FieldPath) -> Position {
        let mut at = Some(path.clone());
        while let Some(path) = at {
            if let Some(position) = self.positions.get(&path) {
                return *position;
            }
            at = path.parent();
        }
        Position { line: 1, column: 1 }
    }
}

/// A file, or a folder, that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// The file, as it is shown.
    pub file: Arc<str>,
    /// Where in it.
    pub position: Option<Position>,
    /// What is wrong and how to mend it.
    pub message: String,
    /// The objects last read from it, of which this is an invalid edit; filled in by [`super::merge`].
    pub objects: Vec<Key>,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(position) = self.position {
            write!(f, ":{position}")?;
        }
        write!(f, ": {}", self.message)
    }
}
