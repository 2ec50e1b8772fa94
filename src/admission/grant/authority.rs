//! What a trust anchor's change opens.
//!
//! Invariant: whoever decides whom a cluster believes can open every server that trusts the anchor.

use super::need::{Needs, Place};
use crate::admission::world::World;
use crate::generated::Authority;

/// Servers that trust two anchors of one issuer take no calls; when one of them goes, they do.
pub(super) fn issuer_left(authority: &Authority, world: &World, needs: &mut Needs) {
    let id = &authority.id;
    let twin = world.fleet().authorities().any(|other| other.issuer == authority.issuer && other.id.uid != id.uid);
    if twin && world.names_authority(&id.name) {
        let why = format!("another McpAuthorizationServer has the issuer of {}, and would be believed alone", id.name);
        needs.add(Place::Everywhere, why);
    }
}

/// A trust anchor's change: whoever it vouches for can be a caller of each server that trusts it; and while it is not there, what
/// a Deny says of its callers counts for everybody's.
pub(super) fn authority(old: Option<&Authority>, new: &Authority, world: &World, needs: &mut Needs) {
    let plain = |authority: &Authority| Authority { revoked: Vec::new(), id: new.id.clone(), ..authority.clone() };
    let narrows = old
        .is_some_and(|old| plain(old) == plain(new) && old.revoked.iter().all(|revoked| new.revoked.contains(revoked)));
    if !narrows && world.names_authority(&new.id.name) {
        let why = format!("McpServers or McpPolicies name the McpAuthorizationServer {}", new.id.name);
        needs.add(Place::Everywhere, why);
    }
}
