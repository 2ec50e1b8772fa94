//! Questions about a fleet: who can, and why.
