//! Principals of rules, qualified by their authority.
//!
//! Invariant: what narrows is never narrowed by a mistake: where an authority cannot be resolved, entries that grant match
//! nobody (a name that no authority has), and entries that refuse match callers of every authority (`any`, narrowed by
//! whatever else the entry says).

use super::{Finding, Findings, Lookup, Reason};
use crate::{
    api::{
        FieldPath,
        object::{is_dns_label, is_dns_subdomain},
        v1alpha1::{ActorSpec, PrincipalSpec},
    },
    generated::{
        authority::{KeySource, TokenRules, TypRule},
        policy::{ActorMatch, PrincipalMatch, ServiceAccount},
    },
};

/// Which way a match of an entry pulls: an Allow's principals and a Deny's exceptions widen access, an Allow's
/// exceptions and a Deny's principals narrow it (design 3.3, "`except` reads inversely").
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pull {
    Widens,
    Narrows,
}

/// Where entries are read.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The policy's default authority.
    pub(super) authority: Option<&'a str>,
    /// The policy's namespace.
    pub(super) namespace: &'a str,
    /// What there is besides.
    pub(super) lookup: &'a Lookup<'a>,
}

/// Resolves a list of entries.
pub(super) fn principals(
    list: &[PrincipalSpec],
    pull: Pull,
    scope: Scope<'_>,
    field: &FieldPath,
    errors: &mut Findings,
    warnings: &mut Findings,
) -> Vec<PrincipalMatch> {
    let mut resolved = Vec::with_capacity(list.len());
    for (i, spec) in list.iter().enumerate() {
        let at = field.index(i);
        check(spec, &at, errors);
        let any = spec.any == Some(true);
        // In what narrows, `any: true` means everyone, not everyone of the policy's default authority.
        let default = scope.authority.filter(|_| !(any && pull == Pull::Narrows));
        let authority = match spec.authority.as_deref().or(default) {
            Some(name) if let Some(authority) = scope.lookup.authorities.get(name) => {
                if spec.groups.is_some() && !carries_groups(&authority.rules) {
                    let message = format!("tokens of McpAuthorizationServer {name} carry no groups: nobody is in one");
                    warnings.push(Finding::new(Reason::GroupsNotMapped, at.field("groups"), message));
                }
                if spec.service_account.is_some() && authority.keys != KeySource::Kubernetes {
                    let message = format!("McpAuthorizationServer {name} is not the cluster: nobody is meant");
                    warnings.push(Finding::new(Reason::ServiceAccountUnknown, at.field("serviceAccount"), message));
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
        let called_through = mcp_clients(spec, pull, authority.as_deref(), scope, &at, warnings);
        let open = pull == Pull::Narrows && (authority.is_none() || called_through == Some(Vec::new()));
        resolved.push(PrincipalMatch {
            any: any || open,
            authority,
            users: spec.users.clone().unwrap_or_default(),
            groups: spec.groups.clone().unwrap_or_default(),
            clients: spec.clients.clone().unwrap_or_default(),
            via: called_through.or_else(|| spec.via.clone()).unwrap_or_default(),
            service_account: spec
                .service_account
                .as_ref()
                .map(|account| ServiceAccount { namespace: account.namespace.clone(), name: account.name.clone() }),
            actor: spec.actor.as_ref().and_then(|actor| actor_match(actor, &at.field("actor"), errors)),
        });
    }
    resolved
}

fn carries_groups(rules: &TokenRules) -> bool {
    rules.groups_claim.is_some() || matches!(rules.typ, TypRule::ServiceAccount { .. })
}

/// The client ids of the McpClients that an entry names; `None` if it names none. In an entry that narrows, one that
/// cannot be resolved leaves it open through whom the caller calls (no id at all); in one that widens, it is left out,
/// and where that leaves none, an id stands that no token has.
fn mcp_clients(
    spec: &PrincipalSpec,
    pull: Pull,
    authority: Option<&str>,
    scope: Scope<'_>,
    at: &FieldPath,
    warnings: &mut Findings,
) -> Option<Vec<String>> {
    let names = spec.mcp_clients.as_ref()?;
    let mut ids = Vec::with_capacity(names.len());
    let mut missing = false;
    for (i, name) in names.iter().enumerate() {
        let namespace = scope.namespace;
        let client = scope.lookup.clients.get(&(namespace, name.as_str()));
        match client.filter(|client| authority.is_none_or(|authority| client.grant.authority == authority)) {
            Some(client) => ids.push(client.client_id.clone()),
            None => {
                missing = true;
                let of = authority.map_or_else(String::new, |authority| format!(" of {authority}"));
                let meaning = match pull {
                    Pull::Widens => "nobody who calls through it is meant",
                    Pull::Narrows => "the entry matches whoever calls, through whatever",
                };
                let message = format!("no valid McpClient {namespace}/{name}{of}: {meaning}");
                warnings.push(Finding::new(Reason::ClientNotFound, at.field("mcpClients").index(i), message));
            }
        }
    }
    match pull {
        Pull::Narrows if missing => ids.clear(),
        Pull::Widens if ids.is_empty() => ids.push(NO_CLIENT.to_owned()),
        Pull::Narrows | Pull::Widens => {}
    }
    Some(ids)
}

/// A client id that no token carries: `identity` refuses those with control characters.
const NO_CLIENT: &str = "\u{7f}no such McpClient";

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
    if spec.via.is_some() && spec.mcp_clients.is_some() {
        refuse("mcpClients", "via says through which client already; write one entry for each");
    }
    if let Some(account) = &spec.service_account {
        if !is_dns_label(&account.namespace) || !is_dns_subdomain(&account.name) {
            refuse("serviceAccount", "not the namespace and name of a ServiceAccount");
        }
        if spec.via.is_some() || spec.mcp_clients.is_some() {
            refuse("serviceAccount", "a ServiceAccount calls through no client");
        }
    }
    let lists = [
        ("users", &spec.users),
        ("groups", &spec.groups),
        ("clients", &spec.clients),
        ("via", &spec.via),
        ("mcpClients", &spec.mcp_clients),
    ];
    for (field, list) in lists {
        if list.as_ref().is_some_and(|list| list.is_empty() || list.iter().any(String::is_empty)) {
            refuse(field, "the list, or an entry of it, is empty");
        }
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
