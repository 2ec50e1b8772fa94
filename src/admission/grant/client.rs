//! What a client's change opens.
//!
//! Invariant: while a client that a rule names is not there, what narrows counts for everybody; so whoever brings it narrows
//! that to one.

use super::need::{Needs, Place};
use crate::admission::world::World;
use crate::api::Key;
use crate::generated::policy::{Effect, Mode, PrincipalMatch, Rule};

/// A client that comes to be one of this authority.
pub(super) fn client(key: &Key, authority: &str, world: &World, needs: &mut Needs) {
    for policy in world.policies_of(&key.namespace).filter(|policy| policy.mode == Mode::Enforce) {
        let waits = |entry: &PrincipalMatch| {
            let of_it = entry.named.as_ref().filter(|named| named.mcp_clients.contains(&key.name));
            of_it.is_some_and(|named| named.authority.as_deref().is_none_or(|named| named == authority))
        };
        let narrows = |rule: &&Rule| match rule.effect {
            Effect::Allow => rule.except.iter().any(waits),
            Effect::Deny | Effect::RequireApproval => rule.principals.iter().any(waits),
        };
        if policy.rules.iter().any(|rule| narrows(&rule)) {
            let why = "a rule that names this McpClient would mean it alone, and not everybody".to_owned();
            let everywhere = policy.targets.namespaces.is_some();
            needs.add(if everywhere { Place::Everywhere } else { Place::Namespace(key.namespace.clone()) }, why);
        }
    }
}
