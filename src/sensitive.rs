//! A value that must never be printed.
//!
//! Invariant: neither `Debug` nor any error shows the content; only [`Sensitive::expose`] hands it out, and only the
//! codec serializes it (generated objects that hold one live in a Secret). It belongs to no folder, so that a secret is
//! of one type wherever it is: a credential of an upstream, of an authorization server, of a person.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Secret text, for example an upstream API key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sensitive(String);

impl Sensitive {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself: only for putting it on the wire to the host that it belongs to.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_content() {
        assert_eq!(format!("{:?}", Sensitive::new("hunter2")), "[redacted]");
    }
}
