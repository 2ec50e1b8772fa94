//! Principals of rules, qualified by their authority.
//!
//! Invariant: what narrows is never narrowed by a mistake: where an authority cannot be resolved, entries that grant match
//! nobody (a name that no authority has), and entries that refuse match callers of every authority (`any`, narrowed by
//! whatever else the entry says).

use super::{Finding, Findings, Lookup, Reason, server::not_enforced};
use crate::{
    api::{
        FieldPath,
        v1alpha1::{ActorSpec, PrincipalSpec},
    },
    generated::policy::{ActorMatch, PrincipalMatch, ServiceAccount},
};

/// Which way a match of an entry pulls: an Allow's principals and a Deny's exceptions widen access, an Allow's
/// exceptions and a Deny's principals narrow it (design 3.3, "`except` reads inversely").
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pull {
    Widens,
    Narrows,
}

/// Resolves a list of entries.
pub(super) fn principals(
    list: &[PrincipalSpec],
    pull: Pull,
    default: Option<&str>,
    field: &FieldPath,
    lookup: &Lookup<'_>,
    errors: &mut Findings,
    warnings: &mut Findings,
) -> Vec<PrincipalMatch> {
    let mut resolved = Vec::with_capacity(list.len());
    for (i, spec) in list.iter().enumerate() {
        let at = field.index(i);
        check(spec, &at, errors);
        let any = spec.any == Some(true);
        // In what narrows, `any: true` means everyone, not everyone of the policy's default authority.
        let default = default.filter(|_| !(any && pull == Pull::Narrows));
        let authority = match spec.authority.as_deref().or(default) {
            Some(name) if let Some(authority) = lookup.authorities.get(name) => {
                if spec.groups.is_some() && authority.rules.groups_claim.is_none() {
                    let message = format!("tokens of McpAuthorizationServer {name} carry no groups: nobody is in one");
                    warnings.push(Finding::new(Reason::GroupsNotMapped, at.field("groups"), message));
                }
                Some(name.to_owned())
            }
            Some(name) => {
                let meaning = match pull {
                    Pull::Widens => "the entry matches nobody",
                    Pull::Narrows => "the entry matches callers of every authority",
                };
                let at = if spec.authority.is_some() { at.field("authority") } else { FieldPath::of("spec.authority") };
                let message = format!("no valid McpAuthorizationServer {name}: {meaning}");
                let finding = Finding::new(Reason::AuthorityNotFound, at, message);
                if !warnings.contains(&finding) {
                    warnings.push(finding);
                }
                (pull == Pull::Widens).then(|| name.to_owned())
            }
            None if any && pull == Pull::Narrows => None,
            None => {
                let message = "no authority is named for this entry";
                errors.push(Finding::new(Reason::AuthorityMissing, at.clone(), message));
                None
            }
        };
        resolved.push(PrincipalMatch {
            any: any || (authority.is_none() && pull == Pull::Narrows),
            authority,
            users: spec.users.clone().unwrap_or_default(),
            groups: spec.groups.clone().unwrap_or_default(),
            clients: spec.clients.clone().unwrap_or_default(),
            via: spec.via.clone().unwrap_or_default(),
            service_account: spec
                .service_account
                .as_ref()
                .map(|account| ServiceAccount { namespace: account.namespace.clone(), name: account.name.clone() }),
            actor: spec.actor.as_ref().and_then(|actor| actor_match(actor, &at.field("actor"), errors)),
        });
    }
    resolved
}

fn check(spec: &PrincipalSpec, at: &FieldPath, errors: &mut Findings) {
    let mut refuse = |field: &str, message: &str| {
        let at = if field.is_empty() { at.clone() } else { at.field(field) };
        errors.push(Finding::new(Reason::PrincipalInvalid, at, message));
    };
    let kinds = [spec.users.is_some(), spec.clients.is_some(), spec.service_account.is_some()];
    let kinds = kinds.iter().filter(|k| **k).count();
    let named = kinds > 0 || spec.groups.is_some() || spec.via.is_some() || spec.mcp_clients.is_some();
    match spec.any {
        Some(false) => refuse("any", "any is true or absent"),
        Some(true) if named => refuse("any", "any: true stands beside nothing but authority and actor"),
        None if !named => refuse("", "says nobody: give users, groups, clients, via, or any: true"),
        _ => {}
    }
    if kinds > 1 {
        refuse("", "nobody is a person, a client and a ServiceAccount at once; write one entry for each");
    }
    for (field, list) in
        [("users", &spec.users), ("groups", &spec.groups), ("clients", &spec.clients), ("via", &spec.via)]
    {
        if list.as_ref().is_some_and(|list| list.is_empty() || list.iter().any(String::is_empty)) {
            refuse(field, "the list, or an entry of it, is empty");
        }
    }
    if spec.service_account.is_some() {
        errors.push(Finding {
            field: at.field("serviceAccount"),
            ..not_enforced("", "this build authenticates no ServiceAccounts, so nobody would be meant")
        });
    }
    if spec.mcp_clients.is_some() {
        errors.push(Finding {
            field: at.field("mcpClients"),
            ..not_enforced("", "this build has no McpClients").remedy("use clients, with exact client ids")
        });
    }
}

fn actor_match(spec: &ActorSpec, at: &FieldPath, errors: &mut Findings) -> Option<ActorMatch> {
    match (spec.any, &spec.subjects) {
        (Some(true), None) => Some(ActorMatch::Any),
        (None, Some(subjects)) if !subjects.is_empty() => Some(ActorMatch::Subjects(subjects.clone())),
        _ => {
            let message = "give exactly one of subjects and any: true";
            errors.push(Finding::new(Reason::ChoiceInvalid, at.clone(), message));
            None
        }
    }
}
