//! Yes, no, unknown.

use std::ops::Not;

/// The answer to a question whose facts may be missing. Ordered by how much it speaks for a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tri {
    /// Surely not.
    No,
    /// A needed fact is missing or could not be computed.
    Unknown,
    /// Surely.
    Yes,
}

impl Tri {
    /// Both.
    pub fn and(self, other: Self) -> Self {
        self.min(other)
    }

    /// At least one.
    pub fn any(answers: impl IntoIterator<Item = Self>) -> Self {
        let mut best = Tri::No;
        for answer in answers {
            best = best.max(answer);
            if best == Tri::Yes {
                break;
            }
        }
        best
    }
}

impl Not for Tri {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Tri::No => Tri::Yes,
            Tri::Unknown => Tri::Unknown,
            Tri::Yes => Tri::No,
        }
    }
}

impl From<bool> for Tri {
    fn from(known: bool) -> Self {
        if known { Tri::Yes } else { Tri::No }
    }
}
