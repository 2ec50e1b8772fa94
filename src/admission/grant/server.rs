//! What a server's change opens.
//!
//! Invariant: rules that are there already may come to reach it, or no more; and whatever it asks of its callers less than
//! before counts, wherever anybody may call it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::need::{Needs, Place};
use crate::admission::review::Review;
use crate::admission::world::World;
use crate::api::v1alpha1::{LockSpec, McpServerSpec, ServerState};
use crate::api::{Key, Kind, McpServer};
use crate::fleet::Fleet;
use crate::generated::Server;
use crate::generated::policy::Effect;
use crate::generated::server::{Lock, OnChange, State};
use crate::policy::decision::RuleRef;

/// A server as it was before it was valid: with the labels that it had, if it was there.
pub(super) fn bare(review: &Review, server: &Server) -> Bare {
    let labels = |old: &Value| old.pointer("/metadata/labels").cloned().map(serde_json::from_value);
    let labels = review.old.as_ref().and_then(labels).and_then(Result::ok).unwrap_or_default();
    Bare { server: Server { labels, ..server.clone() }, was_there: review.old.is_some() }
}

/// What of a server its rules could be told by before it was valid.
pub(super) struct Bare {
    server: Server,
    was_there: bool,
}

/// A server's change: rules that are there already may reach it now, or no more; and what it asks of callers may be less.
pub(super) fn server(
    objects: (Option<&McpServer>, Option<&McpServer>),
    old: Result<&Server, &Bare>,
    new: &Server,
    world: &World,
    needs: &mut Needs,
) {
    let key = Key { kind: Kind::McpServer, namespace: new.id.namespace.clone(), name: new.id.name.clone() };
    let with = |server: &Server| reaching(&world.fleet_with(&key, Some(server.clone())), server);
    let after = with(new);
    // A new server could have been made without its labels: what they keep away of guardrails is told like a label that goes.
    // One that was invalid took no calls, whatever allowed them.
    let before = match old {
        Ok(old) => with(old),
        Err(bare) => {
            let stays = |rule: &Reaching| rule.effect != Effect::Allow && (rule.guardrail || bare.was_there);
            with(&bare.server).into_iter().filter(|(_, rule)| stays(rule)).collect()
        }
    };
    let is_open = after.values().any(|rule| rule.effect == Effect::Allow);
    for (name, rule) in &after {
        if rule.effect == Effect::Allow && !before.contains_key(name) {
            needs.server(new, format!("{} would allow calls to this server from now on", rule.shown()));
        }
    }
    let left = before.iter().filter(|(name, rule)| rule.effect != Effect::Allow && !after.contains_key(*name));
    for (_, rule) in left {
        let why = format!("{} would not reach this server any more", rule.shown());
        // Whoever may open the server later need not be who may take it from under a guardrail.
        if rule.guardrail {
            needs.add(Place::Namespace(world.settings().system_namespace.to_owned()), why);
        } else if is_open {
            needs.server(new, why);
        }
    }
    let Some(old) = old.ok().filter(|_| is_open) else { return };
    if is_unserved(old) && !is_unserved(new) {
        needs.server(new, "the server would take calls from now on".to_owned());
    }
    // A class that changes may be one that a rule allows, or leave one that a rule refuses.
    let by_risk = before.values().chain(after.values()).any(|rule| rule.by_risk);
    let mut why = loosened(old, new, by_risk);
    why.extend(loosened_as_written(objects, by_risk));
    for why in why {
        needs.server(new, why);
    }
}

fn is_unserved(server: &Server) -> bool {
    matches!(server.state, State::Unserved { .. })
}

/// A path that several servers claim is served by none of them; if one of two leaves it, the other takes calls.
pub(super) fn path_left(server: &Server, world: &World, needs: &mut Needs) {
    let mut others = world.fleet().claimants(&server.path).filter(|other| other.id.uid != server.id.uid);
    let (Some(other), None) = (others.next(), others.next()) else { return };
    let is_open = reaching(world.fleet(), other).values().any(|rule| rule.effect == Effect::Allow);
    if is_open && other.state == State::Enabled {
        needs.server(other, format!("the path {} would be its own from now on", server.path));
    }
}

/// A rule that reaches a server.
struct Reaching {
    effect: Effect,
    guardrail: bool,
    by_risk: bool,
}

impl Reaching {
    /// Whoever may write servers need not be who may see policies.
    fn shown(&self) -> &'static str {
        if self.guardrail { "a rule of a guardrail" } else { "a rule of this namespace" }
    }
}

/// The rules that reach a server, by name.
fn reaching(fleet: &Fleet, server: &Server) -> BTreeMap<String, Reaching> {
    let name = |rule: &RuleRef| format!("{}/{}/{}", rule.namespace, rule.policy, rule.rule);
    let Some(served) = fleet.by_name(&server.id.namespace, &server.id.name) else { return BTreeMap::new() };
    let decides = served.layers.rules().into_iter().filter(|rule| !rule.shadow);
    let reach = decides.map(|rule| {
        let by_risk = rule.source().tools.iter().any(|tools| !tools.risk.is_empty());
        (name(&rule.reference), Reaching { effect: rule.effect, guardrail: rule.guardrail, by_risk })
    });
    reach.collect()
}

/// What a server asks of its callers, and would not any more.
fn loosened(old: &Server, new: &Server, by_risk: bool) -> Vec<String> {
    let mut why = Vec::new();
    if new.resource != old.resource {
        why.push(format!("tokens for {} would be accepted from now on", new.resource));
    }
    let baseline = old.scopes.baseline.iter().find(|scope| !new.scopes.baseline.contains(scope));
    if let Some(scope) = baseline {
        why.push(format!("the scope {scope} would not be needed any more"));
    }
    if let Some(entry) = old.scopes.tools.iter().find(|entry| !new.scopes.tools.contains(entry)) {
        why.push(format!("spec.authorization.scopes.tools entry {:?} would not hold any more", entry.name));
    }
    let changed = if by_risk { old.risk != new.risk } else { !old.risk.iter().all(|entry| new.risk.contains(entry)) };
    if changed {
        why.push("the risk classes of tools (spec.tools.risk) would be others".to_owned());
    }
    if old.lock.as_ref().is_some_and(|old| new.lock.as_ref().is_none_or(|new| strictness(new) < strictness(old))) {
        why.push("the tool lock (spec.tools.lock) would hold less".to_owned());
    }
    why
}

/// The same, of what depends on objects that may come later, or that are not seen here: as it is written.
fn loosened_as_written((old, new): (Option<&McpServer>, Option<&McpServer>), by_risk: bool) -> Vec<String> {
    let mut why = Vec::new();
    let (Some(old), Some(new)) = (old.map(|old| &old.spec), new.map(|new| &new.spec)) else { return why };
    if (old.state, new.state) == (ServerState::Disabled, ServerState::Enabled) {
        why.push("the server would take calls from now on".to_owned());
    }
    let (accepted, accepts) = (&old.authorization, &new.authorization);
    if let Some(name) = accepts.servers.iter().find(|name| !accepted.servers.contains(name)) {
        why.push(format!("tokens of the McpAuthorizationServer {name} would be accepted from now on"));
    }
    if let Some(audience) = accepts.audiences.iter().find(|audience| !accepted.audiences.contains(audience)) {
        why.push(format!("tokens for the audience {audience} would be accepted from now on"));
    }
    let (lock, locks) = (lock_of(old), lock_of(new));
    let content = |lock: &LockSpec| (lock.config_map_name.clone(), lock.key.clone(), lock.sha256.clone());
    // Somebody has to have reviewed the definitions of another lock; and a lock says which class a tool has.
    if lock.map(content) != locks.map(content) && (lock.is_some() || by_risk) {
        why.push("the tool lock (spec.tools.lock) would be another, or none".to_owned());
    }
    // A lock does not help: it says which tools there are, not whose data they are about, nor as whom they are called.
    if old.upstream != new.upstream {
        why.push("callers would reach another upstream, or the same as somebody else".to_owned());
    }
    why
}

fn lock_of(spec: &McpServerSpec) -> Option<&LockSpec> {
    spec.tools.as_ref()?.lock.as_ref()
}

fn strictness(lock: &Lock) -> u8 {
    match lock.on_change {
        OnChange::Warn => 0,
        OnChange::Deny => 1,
        OnChange::Hide => 2,
    }
}
