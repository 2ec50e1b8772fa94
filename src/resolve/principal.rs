//! Principals of rules, qualified by their authority.
//!
//! Invariant: what narrows is never narrowed by a mistake: where an authority cannot be resolved, entries that grant match
//! nobody (a name that no authority has), and entries that refuse match callers of every authority (`any`, narrowed by
//! whatever else the entry says).

use super::{ClientKind, Finding, Findings, Lookup, Reason};
use crate::{
    api::{
        FieldPath,
        object::{is_dns_label, is_dns_subdomain},
        v1alpha1::{ActorSpec, PrincipalSpec},
    },
    generated::{
        authority::{KeySource, TokenRules, TypRule},
        policy::{ActorMatch, Named, PrincipalMatch, ServiceAccount, unknown_client},
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
                Some(name.to_owned())
            }
            None if any && pull == Pull::Narrows => None,
            None => {
                let message = "no authority is named for this entry";
                errors.push(Finding::new(Reason::AuthorityMissing, at.clone(), message));
                None
            }
        };
        let mcp_clients = spec.mcp_clients.clone().unwrap_or_default();
        let mut entry = PrincipalMatch {
            any,
            authority: None,
            users: spec.users.clone().unwrap_or_default(),
            groups: spec.groups.clone().unwrap_or_default(),
            clients: spec.clients.clone().unwrap_or_default(),
            via: spec.via.clone().unwrap_or_default(),
            service_account: spec
                .service_account
                .as_ref()
                .map(|account| ServiceAccount { namespace: account.namespace.clone(), name: account.name.clone() }),
            actor: spec.actor.as_ref().and_then(|actor| actor_match(actor, &at.field("actor"), errors)),
            named: Some(Named { authority, any, mcp_clients }),
        };
        judge(&mut entry, pull, scope.namespace, scope.lookup);
        missing_clients(spec, pull, entry.authority.as_deref(), scope, &at, warnings);
        resolved.push(entry);
    }
    resolved
}

/// Makes of an entry what it comes to, by what is there of what its author named. It can be judged again at any time, and
/// comes to the same as if it were read for the first time.
pub(super) fn judge(entry: &mut PrincipalMatch, pull: Pull, namespace: &str, lookup: &Lookup<'_>) {
    let named = entry.named.take().unwrap_or_else(|| Named {
        authority: entry.authority.take(),
        any: entry.any,
        mcp_clients: Vec::new(),
    });
    let is_known = |name: &String| lookup.authorities.contains_key(name.as_str());
    let lost = pull == Pull::Narrows && named.authority.as_ref().is_some_and(|name| !is_known(name));
    entry.authority = named.authority.clone().filter(|_| !lost);
    let mut open = pull == Pull::Narrows && entry.authority.is_none();
    if !named.mcp_clients.is_empty() {
        entry.via = client_ids(&named.mcp_clients, pull, entry.authority.as_deref(), namespace, lookup);
        open |= pull == Pull::Narrows && entry.via.is_empty();
    }
    entry.any = named.any || open;
    entry.named = (lost || !named.mcp_clients.is_empty()).then_some(named);
}

fn carries_groups(rules: &TokenRules) -> bool {
    rules.groups_claim.is_some() || matches!(rules.typ, TypRule::ServiceAccount { .. })
}

/// The id of an McpClient that an entry names. Of another authority than the entry is about, it does not count; nor while
/// nobody knows as what it is registered.
fn client_of<'a>(name: &str, authority: Option<&str>, namespace: &str, lookup: &Lookup<'a>) -> Option<&'a str> {
    let client: &'a ClientKind = lookup.clients.get(&(namespace, name)).copied()?;
    client.client_id().filter(|_| authority.is_none_or(|authority| client.authority() == authority))
}

/// The client ids of the McpClients that an entry names. In an entry that narrows, one that cannot be resolved leaves it
/// open through whom the caller calls (no id at all); in one that widens, an id stands for it that no token has.
fn client_ids(
    names: &[String],
    pull: Pull,
    authority: Option<&str>,
    namespace: &str,
    lookup: &Lookup<'_>,
) -> Vec<String> {
    let ids = names.iter().map(|name| (name, client_of(name, authority, namespace, lookup).map(str::to_owned)));
    match pull {
        Pull::Narrows => ids.map(|(_, id)| id).collect::<Option<_>>().unwrap_or_default(),
        Pull::Widens => ids.map(|(name, id)| id.unwrap_or_else(|| unknown_client(namespace, name))).collect(),
    }
}

/// Says which McpClients that an entry names are missing.
fn missing_clients(
    spec: &PrincipalSpec,
    pull: Pull,
    authority: Option<&str>,
    scope: Scope<'_>,
    at: &FieldPath,
    warnings: &mut Findings,
) {
    for (i, name) in spec.mcp_clients.iter().flatten().enumerate() {
        if client_of(name, authority, scope.namespace, scope.lookup).is_some() {
            continue;
        }
        let of = authority.map_or_else(String::new, |authority| format!(" of {authority}"));
        let meaning = match pull {
            Pull::Widens => "nobody who calls through it is meant",
            Pull::Narrows => "the entry matches whoever calls, through whatever",
        };
        let place = scope.namespace;
        let finding = |message: String| Finding::new(Reason::ClientNotFound, at.field("mcpClients").index(i), message);
        warnings.push(match scope.lookup.clients.get(&(place, name.as_str())) {
            Some(client) if client.client_id().is_none() => {
                let message = format!("McpClient {place}/{name} has no id yet: {meaning}");
                finding(message).remedy("wait until it is registered, or see why it is not")
            }
            _ => finding(format!("no valid McpClient {place}/{name}{of}: {meaning}")),
        });
    }
}

/// What an entry names and is not there, as people call it.
pub(super) fn missing(entry: &PrincipalMatch, namespace: &str, lookup: &Lookup<'_>) -> Vec<String> {
    let authority = entry.named.as_ref().and_then(|named| named.authority.as_ref()).or(entry.authority.as_ref());
    let lost = authority.filter(|name| !lookup.authorities.contains_key(name.as_str()));
    let names = entry.named.iter().flat_map(|named| &named.mcp_clients);
    let gone = names.filter(|name| client_of(name, entry.authority.as_deref(), namespace, lookup).is_none());
    let lost = lost.map(|name| format!("McpAuthorizationServer {name}"));
    lost.into_iter().chain(gone.map(|name| format!("McpClient {namespace}/{name}"))).collect()
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
