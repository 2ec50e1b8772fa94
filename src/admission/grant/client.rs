//! What a client's change opens.
//!
//! Invariant: while a client that a rule names is not there, what narrows counts for everybody; so whoever brings it narrows
//! that to one. And whoever says which id it has lets in, where a rule that grants names it, everybody who comes through the
//! client of that id.

use super::need::{Needs, Place};
use crate::admission::world::World;
use crate::api::Key;
use crate::generated::Policy;
use crate::generated::policy::{Effect, Mode, PrincipalMatch, Rule};
use crate::resolve::ClientKind;

/// A client that comes to be this one.
pub(super) fn client(key: &Key, client: &ClientKind, world: &World, needs: &mut Needs) {
    for policy in world.policies_of(&key.namespace).filter(|policy| policy.mode == Mode::Enforce) {
        if let Some(why) = opened(policy, key, client) {
            let everywhere = policy.targets.namespaces.is_some();
            needs.add(
                if everywhere { Place::Everywhere } else { Place::Namespace(key.namespace.clone()) },
                why.to_owned(),
            );
        }
    }
}

/// What the client, under its name, opens of what a policy keeps closed.
fn opened(policy: &Policy, key: &Key, client: &ClientKind) -> Option<&'static str> {
    let waits = |entry: &PrincipalMatch| {
        let of_it = entry.named.as_ref().filter(|named| named.mcp_clients.contains(&key.name));
        of_it.is_some_and(|named| named.authority.as_deref().is_none_or(|named| named == client.authority()))
    };
    let (is_principal, is_excepted) =
        (|rule: &Rule| rule.principals.iter().any(waits), |rule: &Rule| rule.except.iter().any(waits));
    let narrows = |rule: &Rule| if rule.effect == Effect::Allow { is_excepted(rule) } else { is_principal(rule) };
    let widens = |rule: &Rule| if rule.effect == Effect::Allow { is_principal(rule) } else { is_excepted(rule) };
    if policy.rules.iter().any(narrows) {
        Some("a rule that names this McpClient would mean it alone, and not everybody, or not who it was before")
    } else if client.given_id().is_some() && policy.rules.iter().any(widens) {
        Some("a rule that lets this McpClient in would let in whoever comes through the client of this id")
    } else {
        None
    }
}
