//! A whole set of objects at once, as a folder of manifests holds it.
//!
//! Invariant: the result does not depend on the order of the objects, and every object that was given, valid or not, is
//! accounted for: in what is generated, or in a finding.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use super::{
    ClientKind, Finding, Findings, Lookup, Reason, RegisteredAs, Registration, Settings, authority, client, lock,
    object_id,
    policy::{edit, judged_again, policy},
    presumed,
    reach::{self, Place},
    registration,
    server::{asked_of, server},
};
use crate::{
    api::{FieldPath, Invalidity, Key, Kind, Object},
    generated::{Authority, NAMESPACE_NAME, ObjectId, Policy, Server, codec::Generated, server::State},
    oauth::upstream_trust::{Known, Question},
};

/// What was last accepted, by UID: what an invalid edit leaves in force. Policies outlive a restart; servers, which
/// hold credentials, do not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// Policies as they stand.
    pub policies: BTreeMap<String, Policy>,
    /// Servers as they stand.
    #[serde(skip)]
    pub servers: BTreeMap<String, Server>,
}

/// What no manifest says, as somebody has seen it. Who sees nothing gives none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observed<'a> {
    /// What upstreams said whom they trust; `None`: nobody asks them, since the result is not served, and then they are presumed
    /// to trust whom they should.
    pub discovered: Option<&'a BTreeMap<Key, Known>>,
    /// As whom McpClients are registered.
    pub registered: Option<&'a BTreeMap<Key, RegisteredAs>>,
}

/// A finding and the object that it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectFinding {
    /// Which object.
    pub key: Key,
    /// What its author should know.
    pub finding: Finding,
}

/// What a set of objects comes to.
#[derive(Clone, Debug, Default)]
pub struct Resolution {
    /// Everything that the proxy serves.
    pub generated: Vec<Generated>,
    /// Findings, by object.
    pub findings: Vec<ObjectFinding>,
    /// What is to be given as `previous` next time.
    pub accepted: Accepted,
    /// What is to be asked of upstreams whom they trust, by server.
    pub questions: BTreeMap<Key, Question>,
}

/// Resolves a set of objects, of which no two have the same key. `invalid` are objects that exist but could not be
/// read. With `unreadable`, something could not be read that was never read before, so nobody knows what it denies:
/// every server denies.
pub fn tree(
    settings: &Settings<'_>,
    objects: &[Object],
    invalid: &BTreeMap<Key, Invalidity>,
    unreadable: bool,
    previous: &Accepted,
    observed: Observed<'_>,
) -> Resolution {
    let mut objects: Vec<&Object> = objects.iter().collect();
    objects.sort_by_cached_key(|object| object.key());
    let mut out = Resolution::default();
    for (key, why) in invalid {
        out.add(key, invalidity_findings(why));
    }
    let mut lookup = plain_lookup(&objects, invalid);
    let (authorities, registrations) = authorities(settings, &objects, &lookup, &mut out);
    lookup.authorities = authorities.iter().map(|a| (a.id.name.as_str(), a)).collect();
    lookup.registrations = registrations.iter().map(|(name, one)| (name.as_str(), one)).collect();
    lookup.discovered = observed
        .discovered
        .map(|all| all.iter().map(|(key, known)| ((key.namespace.as_str(), key.name.as_str()), known)).collect());
    let servers = servers(settings, &objects, &lookup, invalid, previous, &mut out);
    lookup.resolved = servers.iter().map(|s| ((s.id.namespace.as_str(), s.id.name.as_str()), s)).collect();
    let clients = clients(settings, &objects, &lookup, observed, &mut out);
    lookup.clients = clients.iter().map(|c| ((c.id().namespace.as_str(), c.id().name.as_str()), c)).collect();
    let policies = policies(settings, &objects, &lookup, invalid, previous, &mut out);

    unlabelled(&servers, &policies, &lookup, &mut out);
    if !unreadable {
        reaching(&policies, &places(&servers, &objects, &lookup), &mut out);
    }
    out.accepted.policies = policies.iter().map(|p| (p.id.uid.clone(), p.clone())).collect();
    out.accepted.servers = servers.iter().map(|s| (s.id.uid.clone(), s.clone())).collect();
    let unread = unreadable.then(|| deny_everything(settings));
    out.generated.extend(policies.into_iter().chain(unread).map(Generated::Policy));
    out.generated.extend(servers.into_iter().map(Generated::Server));
    out.generated.extend(authorities.into_iter().map(Generated::Authority));
    out
}

/// A guardrail chooses namespaces by their labels: of one without a Namespace manifest only the name is known, so the
/// guardrail may reach it or not, which whoever owns the server should know.
fn unlabelled(servers: &[Server], policies: &[Policy], lookup: &Lookup<'_>, out: &mut Resolution) {
    let by_label = |policy: &&Policy| {
        policy.targets.namespaces.as_ref().is_some_and(|selector| {
            let expressions = selector.match_expressions.iter().map(|requirement| &requirement.key);
            selector.match_labels.keys().chain(expressions).any(|key| key != NAMESPACE_NAME)
        })
    };
    let Some(guardrail) = policies.iter().find(by_label) else { return };
    for server in servers.iter().filter(|server| !lookup.namespaces.contains_key(server.id.namespace.as_str())) {
        let namespace = &server.id.namespace;
        let message = format!(
            "there is no valid Namespace {namespace}: of guardrails such as {}, which choose namespaces by label, what denies \
             or asks for approval counts here, and what allows does not",
            guardrail.id.display_name()
        );
        let finding = Finding::new(Reason::NamespaceNotFound, FieldPath::of("metadata.namespace"), message);
        let key = Key { kind: Kind::McpServer, namespace: namespace.clone(), name: server.id.name.clone() };
        out.add(&key, vec![finding]);
    }
}

/// The servers, with what their locks say of arguments.
fn places<'a>(servers: &'a [Server], objects: &[&Object], lookup: &Lookup<'_>) -> Vec<Place<'a>> {
    let specs = objects.iter().filter_map(|object| if let Object::Server(spec) = object { Some(spec) } else { None });
    let locks: BTreeMap<_, _> = specs
        .filter_map(|spec| {
            let lock = spec.spec.tools.as_ref()?.lock.as_ref()?;
            Some(((spec.metadata.namespace.as_deref()?, spec.metadata.name.as_deref()?), lock))
        })
        .collect();
    let place = |server: &'a Server| {
        let (namespace, name) = (server.id.namespace.as_str(), server.id.name.as_str());
        // A lock that cannot be used has no tools.
        let is_read = server.lock.as_ref().is_some_and(|lock| !lock.tools.is_empty());
        let spec = locks.get(&(namespace, name)).filter(|_| is_read);
        let required = spec.map(|spec| lock::required(spec, namespace, lookup)).unwrap_or_default();
        Place::of(server, Cow::Owned(required))
    };
    servers.iter().map(place).collect()
}

/// What only shows where all policies and servers are known.
fn reaching(policies: &[Policy], places: &[Place<'_>], out: &mut Resolution) {
    for (i, findings) in reach::findings(policies, places) {
        let Some(policy) = policies.get(i) else { continue };
        let (namespace, name) = (policy.id.namespace.clone(), policy.id.name.clone());
        out.add(&Key { kind: Kind::McpPolicy, namespace, name }, findings);
    }
}

impl Resolution {
    fn add(&mut self, key: &Key, findings: Findings) {
        self.findings.extend(findings.into_iter().map(|finding| ObjectFinding { key: key.clone(), finding }));
    }
}

/// What is wrong with an object that could not be read.
pub fn invalidity_findings(why: &Invalidity) -> Findings {
    match why {
        Invalidity::Problems(problems) => problems.iter().map(Finding::from).collect(),
        Invalidity::Unreadable => {
            vec![Finding::new(Reason::FileUnreadable, FieldPath::root(), "its file cannot be read any more")]
        }
        Invalidity::Duplicate => {
            vec![Finding::new(Reason::DuplicateObject, FieldPath::root(), "two documents claim to be this object")]
        }
    }
}

/// The word for an invalid edit: that of its first finding.
pub fn reason_of(findings: &[Finding]) -> Reason {
    findings.first().map_or(Reason::FileUnreadable, |finding| finding.reason)
}

fn plain_lookup<'a>(objects: &[&'a Object], invalid: &'a BTreeMap<Key, Invalidity>) -> Lookup<'a> {
    let mut lookup = Lookup::default();
    for object in objects {
        let metadata = object.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        match object {
            Object::Namespace(_) => {
                lookup.namespaces.insert(name, metadata.labels.clone().unwrap_or_default());
            }
            Object::Secret(secret) => {
                lookup.secrets.insert((namespace, name), secret);
            }
            Object::ConfigMap(map) => {
                lookup.config_maps.insert((namespace, name), map);
            }
            Object::Server(server) => {
                lookup.servers.insert((namespace, name));
                // A folder is resolved to answer questions, or for a gateway that stands alone, which has no use for
                // one: a controller asks the API server for what it puts here.
                if server.spec.upstream.credentials.service_account.is_some() {
                    lookup.upstream_tokens.insert((namespace, name), presumed());
                }
            }
            Object::Client(client) => {
                lookup.client_objects.insert((namespace, name), client);
            }
            Object::Policy(_) | Object::AuthorizationServer(_) => {}
        }
    }
    let broken = invalid.keys().filter(|key| key.kind == Kind::McpServer);
    lookup.servers.extend(broken.map(|key| (key.namespace.as_str(), key.name.as_str())));
    lookup
}

fn authorities(
    settings: &Settings<'_>,
    objects: &[&Object],
    lookup: &Lookup<'_>,
    out: &mut Resolution,
) -> (Vec<Authority>, BTreeMap<String, Registration>) {
    let (mut resolved, mut registrations) = (Vec::new(), BTreeMap::new());
    for object in objects {
        let Object::AuthorizationServer(spec) = object else { continue };
        match authority(spec, settings, lookup) {
            Ok(authority) => {
                out.add(&object.key(), authority.warnings);
                let of_issuer = registration(spec).ok().flatten();
                registrations.extend(of_issuer.map(|one| (authority.object.id.name.clone(), one)));
                resolved.push(authority.object);
            }
            // Not generated: none of its tokens is believed.
            Err(findings) => out.add(&object.key(), findings),
        }
    }
    (resolved, registrations)
}

fn servers(
    settings: &Settings<'_>,
    objects: &[&Object],
    lookup: &Lookup<'_>,
    invalid: &BTreeMap<Key, Invalidity>,
    previous: &Accepted,
    out: &mut Resolution,
) -> Vec<Server> {
    let mut resolved: Vec<(Key, Server)> = Vec::new();
    for object in objects {
        let Object::Server(spec) = object else { continue };
        let key = object.key();
        out.questions.extend(asked_of(spec, settings, lookup).map(|question| (key.clone(), question)));
        match server(spec, settings, lookup) {
            Ok(server) => {
                out.add(&key, server.warnings);
                resolved.push((key, server.object));
            }
            Err(findings) => {
                let last = previous.servers.get(&object_id(&key, object.metadata()).uid);
                resolved.extend(last.map(|last| (key.clone(), unserved(last, &findings))));
                out.add(&key, findings);
            }
        }
    }
    for (key, why) in invalid.iter().filter(|(key, _)| key.kind == Kind::McpServer) {
        let last = previous.servers.get(&key.stable_uid());
        resolved.extend(last.map(|last| (key.clone(), unserved(last, &invalidity_findings(why)))));
    }
    path_conflicts(&mut resolved, out);
    resolved.into_iter().map(|(_, server)| server).collect()
}

fn clients(
    settings: &Settings<'_>,
    objects: &[&Object],
    lookup: &Lookup<'_>,
    observed: Observed<'_>,
    out: &mut Resolution,
) -> Vec<ClientKind> {
    let mut resolved = Vec::new();
    for object in objects {
        let Object::Client(spec) = object else { continue };
        match client(spec, settings, lookup) {
            Ok(client) => {
                let key = object.key();
                let registered = observed.registered.and_then(|all| all.get(&key));
                let known = client.object.known_as(registered, lookup.issuer_of(client.object.authority()));
                out.add(&key, client.warnings);
                resolved.push(known.unwrap_or(client.object));
            }
            // Its tokens are not believed.
            Err(findings) => out.add(&object.key(), findings),
        }
    }
    resolved
}

/// A server whose last edit is invalid keeps its place and takes no calls.
pub fn unserved(last: &Server, findings: &[Finding]) -> Server {
    let message = findings.first().map(Finding::to_string).unwrap_or_default();
    Server { state: State::Unserved { reason: reason_of(findings).as_str().to_owned(), message }, ..last.clone() }
}

/// Servers that claim one path are all unserved: none of them may win by its name or age.
fn path_conflicts(servers: &mut [(Key, Server)], out: &mut Resolution) {
    let mut claims: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, (_, server)) in servers.iter().enumerate() {
        claims.entry(server.path.clone()).or_default().push(i);
    }
    for (path, claimants) in claims.into_iter().filter(|(_, claimants)| claimants.len() > 1) {
        let keys: Vec<Key> = claimants.iter().filter_map(|i| servers.get(*i)).map(|(key, _)| key.clone()).collect();
        for i in claimants {
            let Some((key, server)) = servers.get_mut(i) else { continue };
            out.add(key, vec![conflicted(server, &path, &keys)]);
        }
    }
}

/// Takes a server out of service, for it is one of several that claim a path.
pub fn conflicted(server: &mut Server, path: &str, claimants: &[Key]) -> Finding {
    let names: Vec<String> = claimants.iter().map(Key::to_string).collect();
    let message = format!("{path} is claimed by {}", names.join(" and "));
    let finding = Finding::new(Reason::PathConflict, FieldPath::of("spec.path"), message);
    server.state = State::Unserved { reason: Reason::PathConflict.as_str().to_owned(), message: finding.to_string() };
    finding
}

fn policies(
    settings: &Settings<'_>,
    objects: &[&Object],
    lookup: &Lookup<'_>,
    invalid: &BTreeMap<Key, Invalidity>,
    previous: &Accepted,
    out: &mut Resolution,
) -> Vec<Policy> {
    let mut resolved = Vec::new();
    let mut stand = |id: ObjectId, namespace: &str, new: Result<Policy, Reason>| {
        let last = previous.policies.get(&id.uid);
        resolved.push(judged_again(edit(last, id, namespace == settings.system_namespace, new), lookup));
    };
    for object in objects {
        let Object::Policy(spec) = object else { continue };
        let key = object.key();
        let id = object_id(&key, object.metadata());
        let new = match policy(spec, settings, lookup) {
            Ok(policy) => {
                out.add(&key, policy.warnings);
                Ok(policy.object)
            }
            Err(findings) => {
                let reason = reason_of(&findings);
                out.add(&key, findings);
                Err(reason)
            }
        };
        stand(id, &key.namespace, new);
    }
    for (key, why) in invalid.iter().filter(|(key, _)| key.kind == Kind::McpPolicy) {
        let reason = reason_of(&invalidity_findings(why));
        stand(object_id(key, &Default::default()), &key.namespace, Err(reason));
    }
    resolved
}

/// Stands for what nobody has read.
fn deny_everything(settings: &Settings<'_>) -> Policy {
    let key = Key {
        kind: Kind::McpPolicy,
        namespace: settings.system_namespace.to_owned(),
        name: "unreadable.manifests".to_owned(),
    };
    edit(None, object_id(&key, &Default::default()), true, Err(Reason::FileUnreadable))
}
