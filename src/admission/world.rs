//! What the webhook knows of the cluster: the objects of our own kinds, joined as a proxy would join them.
//!
//! Invariant: no Secret and no ConfigMap is in it. What they hold is presumed to be there and right, since only the controller
//! can tell, and says so in a condition; so a server counts here as one that takes calls, if nothing else keeps it from that.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::inventory::inventory;
use super::judge::LookedUp;
use super::named::{named, upstream_client};
use crate::access::targets::Tool;
use crate::api::core::ConfigMap;
use crate::api::object::{self, Rejected};
use crate::api::v1alpha1::ServerState;
use crate::api::{GROUP, Key, Kind, McpAuthorizationServer, McpClient, McpServer, Object, VERSION};
use crate::fleet::Fleet;
use crate::generated::server::State;
use crate::generated::{Authority, Labels, ObjectId, Policy, Server};
use crate::resolve::{
    self, ClientKind, Cluster, Findings, Lookup, PublicUrl, Reason, RegisteredAs, Registration, Resolved, Settings,
};

/// What an administrator has set for the whole installation.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Where callers reach the gateway.
    pub public_url: PublicUrl,
    /// The namespace whose policies are guardrails.
    pub system_namespace: String,
    /// The namespace of the proxies.
    pub gateway_namespace: String,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
}

/// What depends on what only the controller sees.
const UNSEEN: [Reason; 5] = [
    Reason::UpstreamClientUnfit,
    Reason::UpstreamTokenMissing,
    Reason::ConfigMapNotFound,
    Reason::LockNotFound,
    Reason::CaInvalid,
];

/// Everything that is known.
#[derive(Debug)]
pub struct World {
    installation: Installation,
    cluster: Cluster,
    namespaces: BTreeMap<String, Labels>,
    known: BTreeMap<Key, Known>,
    /// Those that are valid, by name.
    authorities: BTreeMap<String, Authority>,
    /// How clients are registered at those of them that are issuers.
    registrations: BTreeMap<String, Registration>,
    /// Those that are valid, by namespace and name.
    clients: BTreeMap<String, BTreeMap<String, ClientKind>>,
    /// As they stand, by UID.
    policies: BTreeMap<String, Policy>,
    fleet: Fleet,
}

/// An object that is there.
#[derive(Debug)]
struct Known {
    id: ObjectId,
    /// The object, or what is wrong with it.
    read: Result<Object, Findings>,
    /// The tools that a server's status lists.
    tools: Option<Vec<Tool>>,
    /// As whom a client is registered, as its status has it.
    registered: Option<RegisteredAs>,
}

impl Known {
    fn server(&self) -> Option<&McpServer> {
        match &self.read {
            Ok(Object::Server(server)) => Some(server),
            _ => None,
        }
    }

    fn client(&self) -> Option<&McpClient> {
        match &self.read {
            Ok(Object::Client(client)) => Some(client),
            _ => None,
        }
    }
}

impl World {
    /// Nothing is known yet.
    pub fn new(installation: Installation) -> Self {
        let Installation { gateway_namespace, cluster_domain, .. } = installation.clone();
        Self {
            installation,
            cluster: Cluster { gateway_namespace, dns_domain: cluster_domain, ..Cluster::presumed() },
            namespaces: BTreeMap::new(),
            known: BTreeMap::new(),
            authorities: BTreeMap::new(),
            registrations: BTreeMap::new(),
            clients: BTreeMap::new(),
            policies: BTreeMap::new(),
            fleet: Fleet::default(),
        }
    }

    /// An object of one of our kinds, or a Namespace, is new or changed. One that cannot be read counts as invalid.
    pub fn put(&mut self, kind: Kind, mut object: Value) {
        let metadata = object.get("metadata").cloned().unwrap_or_default();
        let text = |name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = Key { kind, namespace: text("namespace"), name: text("name") };
        if kind == Kind::Namespace {
            let labels = metadata.get("labels").cloned().map(serde_json::from_value).and_then(Result::ok);
            let labels: Labels = labels.unwrap_or_default();
            let before = self.namespaces.insert(key.name.clone(), labels.clone());
            if before.as_ref() != Some(&labels) {
                self.join_servers(Some(&key.name));
            }
            return;
        }
        let tools = inventory(&object);
        let registered = object.get("status").filter(|_| kind == Kind::McpClient).and_then(RegisteredAs::of);
        if let Some(members) = object.as_object_mut() {
            members.insert("apiVersion".to_owned(), format!("{GROUP}/{VERSION}").into());
            members.insert("kind".to_owned(), kind.as_str().into());
        }
        let read = read(&object);
        let generation = metadata.get("generation").and_then(Value::as_i64).unwrap_or(1);
        let id = ObjectId { uid: text("uid"), namespace: key.namespace.clone(), name: key.name.clone(), generation };
        let replaced = self.known.insert(key.clone(), Known { id, read, tools, registered });
        if let Some(replaced) = replaced
            && self.known.get(&key).is_some_and(|known| known.id.uid != replaced.id.uid)
        {
            self.leave(kind, &replaced.id);
        }
        self.join(&key);
    }

    /// An object is gone.
    pub fn remove(&mut self, key: &Key) {
        if key.kind == Kind::Namespace {
            self.namespaces.remove(&key.name);
            return self.join_servers(Some(&key.name));
        }
        if let Some(gone) = self.known.remove(key) {
            self.leave(key.kind, &gone.id);
        }
    }

    /// As resolving needs it.
    pub fn settings(&self) -> Settings<'_> {
        Settings {
            public_url: &self.installation.public_url,
            system_namespace: &self.installation.system_namespace,
            cluster: Some(&self.cluster),
        }
    }

    /// Servers and rules, joined.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The fleet with another version of a server, or a new one; or without it (`None`). One that was there under its name and
    /// another UID is gone by then, though the watch may not have told yet.
    pub fn fleet_with(&self, key: &Key, server: Option<Server>) -> Fleet {
        let mut fork = self.fleet.clone();
        if let Some(known) = self.known.get(key) {
            fork.remove_server(&known.id.uid);
        }
        if let Some(server) = server {
            fork.put_server(server);
        }
        fork
    }

    /// A policy as it stands.
    pub fn policy(&self, uid: &str) -> Option<&Policy> {
        self.policies.get(uid)
    }

    /// Whether there is such an object, valid or not.
    pub fn has(&self, key: &Key) -> bool {
        self.known.contains_key(key)
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        if kind == Kind::Namespace {
            return self.namespaces.len();
        }
        self.known.keys().filter(|key| key.kind == kind).count()
    }

    /// Whether a server or a policy names this McpAuthorizationServer, which may not be there yet.
    pub fn names_authority(&self, authority: &str) -> bool {
        let key = Key { kind: Kind::McpAuthorizationServer, namespace: String::new(), name: authority.to_owned() };
        let objects = self.known.values().filter_map(|known| known.read.as_ref().ok());
        let mut able = objects.filter(|object| matches!(object.kind(), Kind::McpServer | Kind::McpPolicy));
        able.any(|object| named(object).contains(&key))
    }

    /// The tools that a server's status lists.
    pub fn tools(&self, namespace: &str, name: &str) -> Option<&[Tool]> {
        let key = Key { kind: Kind::McpServer, namespace: namespace.to_owned(), name: name.to_owned() };
        self.known.get(&key)?.tools.as_deref()
    }

    /// What is known of these names, and what was found of those that are not known.
    pub fn lookup<'a>(&'a self, names: &'a BTreeSet<Key>, found: &'a Found) -> Lookup<'a> {
        let mut lookup = Lookup { secrets_presumed: true, ..Lookup::default() };
        lookup.authorities.extend(self.authorities.iter().map(|(name, authority)| (name.as_str(), authority)));
        lookup.registrations.extend(self.registrations.iter().map(|(name, one)| (name.as_str(), one)));
        for key in names {
            let place = (key.namespace.as_str(), key.name.as_str());
            match key.kind {
                Kind::McpServer if self.has(key) => {
                    lookup.servers.insert(place);
                    let served = self.fleet.by_name(&key.namespace, &key.name);
                    lookup.resolved.extend(served.map(|served| (place, served.server.as_ref())));
                }
                Kind::McpClient => {
                    let client = self.clients.get(&key.namespace).and_then(|clients| clients.get(&key.name));
                    lookup.clients.extend(client.map(|client| (place, client)));
                    let written = self.known.get(key).and_then(Known::client);
                    lookup.client_objects.extend(written.map(|client| (place, client)));
                }
                _ => {}
            }
        }
        found.extend(&mut lookup);
        lookup
    }

    /// The servers of a namespace that can be read.
    pub fn servers_of(&self, namespace: &str) -> impl Iterator<Item = &McpServer> {
        self.of_namespace(Kind::McpServer, namespace).filter_map(|(_, known)| known.server())
    }

    /// One of them.
    pub fn server_of(&self, namespace: &str, name: &str) -> Option<&McpServer> {
        let key = Key { kind: Kind::McpServer, namespace: namespace.to_owned(), name: name.to_owned() };
        self.known.get(&key)?.server()
    }

    /// The policies of a namespace, as they stand.
    pub fn policies_of(&self, namespace: &str) -> impl Iterator<Item = &Policy> {
        let known = self.of_namespace(Kind::McpPolicy, namespace);
        known.filter_map(|(_, known)| self.policies.get(&known.id.uid))
    }

    /// Namespace and name of every server, perhaps of one namespace only.
    pub fn server_names(&self, namespace: Option<&str>) -> BTreeSet<(String, String)> {
        self.keys(Kind::McpServer, namespace).into_iter().map(|key| (key.namespace, key.name)).collect()
    }

    /// What is known of a kind in a namespace.
    fn of_namespace(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = (&Key, &Known)> {
        let first = Key { kind, namespace: namespace.to_owned(), name: String::new() };
        let namespace = namespace.to_owned();
        self.known.range(first..).take_while(move |(key, _)| key.kind == kind && key.namespace == namespace)
    }

    /// Takes out what was made of an object.
    fn leave(&mut self, kind: Kind, id: &ObjectId) {
        match kind {
            Kind::McpServer => self.fleet.remove_server(&id.uid),
            Kind::McpPolicy => {
                self.fleet.remove_policy(&id.uid);
                self.policies.remove(&id.uid);
            }
            Kind::McpAuthorizationServer => {
                self.fleet.remove_authority(&id.uid);
                self.authorities.remove(&id.name);
                self.registrations.remove(&id.name);
                self.join_all();
            }
            Kind::McpClient => {
                if let Some(clients) = self.clients.get_mut(&id.namespace) {
                    clients.remove(&id.name);
                }
                self.join_policies(Some(&id.namespace));
            }
            Kind::Secret | Kind::ConfigMap | Kind::Namespace => {}
        }
    }

    /// Puts in what an object comes to now.
    fn join(&mut self, key: &Key) {
        match key.kind {
            Kind::McpServer => self.join_server(key),
            Kind::McpPolicy => self.join_policy(key),
            Kind::McpAuthorizationServer => self.join_authority(key),
            Kind::McpClient => {
                if self.join_client(key) {
                    self.join_policies(Some(&key.namespace));
                }
            }
            Kind::Secret | Kind::ConfigMap | Kind::Namespace => {}
        }
    }

    fn join_authority(&mut self, key: &Key) {
        let Some(known) = self.known.get(key) else { return };
        let resolved = match &known.read {
            Ok(Object::AuthorizationServer(object)) => anchor(object, self),
            _ => None,
        };
        let uid = known.id.uid.clone();
        let (new, registration) = resolved.unzip();
        let registration = registration.flatten();
        let plain = |authority: &Authority| Authority {
            id: ObjectId { generation: 0, ..authority.id.clone() },
            revoked: Vec::new(),
            ..authority.clone()
        };
        let as_before = self.authorities.get(&key.name).map(plain) == new.as_ref().map(plain)
            && self.registrations.get(&key.name) == registration.as_ref();
        match registration {
            Some(registration) => self.registrations.insert(key.name.clone(), registration),
            None => self.registrations.remove(&key.name),
        };
        match new {
            Some(authority) => {
                self.fleet.put_authority(authority.clone());
                self.authorities.insert(key.name.clone(), authority);
            }
            None => {
                self.fleet.remove_authority(&uid);
                self.authorities.remove(&key.name);
            }
        }
        if !as_before {
            self.join_all();
        }
    }

    /// Whether it is another one than before: its status changes more often than what it says.
    fn join_client(&mut self, key: &Key) -> bool {
        let Some(Known { read, registered, .. }) = self.known.get(key) else { return false };
        let resolved = match read {
            Ok(Object::Client(client)) => {
                let (names, found) = (names_in(read), Found::default());
                let lookup = self.lookup(&names, &found);
                resolve::client(client, &self.settings(), &lookup).ok().map(|client| {
                    let issuer = lookup.issuer_of(client.object.authority());
                    client.object.known_as(registered.as_ref(), issuer).unwrap_or(client.object)
                })
            }
            _ => None,
        };
        let clients = self.clients.entry(key.namespace.clone()).or_default();
        let before = match &resolved {
            Some(client) => clients.insert(key.name.clone(), client.clone()),
            None => clients.remove(&key.name),
        };
        before != resolved
    }

    fn join_server(&mut self, key: &Key) {
        let Some(Known { read, id, .. }) = self.known.get(key) else { return };
        let found = Found::default();
        let resolved = match read {
            Ok(Object::Server(object)) => self.server(object, &found).ok(),
            _ => None,
        };
        match resolved {
            Some(server) => self.fleet.put_server(server.object),
            None => self.fleet.remove_server(&id.uid.clone()),
        }
    }

    fn join_policy(&mut self, key: &Key) {
        let Some(Known { read, id, .. }) = self.known.get(key) else { return };
        let found = Found::default();
        let mut names = names_in(read);
        // What stands of an invalid edit names its own.
        let clients = self.clients.get(&key.namespace).into_iter().flat_map(BTreeMap::keys);
        names.extend(clients.map(|name| Key { kind: Kind::McpClient, name: name.clone(), ..key.clone() }));
        let lookup = self.lookup(&names, &found);
        let new = match read {
            Ok(Object::Policy(object)) => match resolve::policy(object, &self.settings(), &lookup) {
                Ok(policy) => Ok(policy.object),
                Err(findings) => Err(resolve::reason_of(&findings)),
            },
            Ok(_) => Err(Reason::TypeMismatch),
            Err(findings) => Err(resolve::reason_of(findings)),
        };
        let guardrail = key.namespace == self.installation.system_namespace;
        let stands = resolve::edit(self.policies.get(&id.uid), id.clone(), guardrail, new);
        let stands = resolve::judged_again(stands, &lookup);
        // What cannot be compiled denies, here as at a proxy.
        drop(self.fleet.put_policy(stands.clone()));
        self.policies.insert(stands.id.uid.clone(), stands);
    }

    fn join_all(&mut self) {
        self.join_servers(None);
        let clients: Vec<Key> = self.known.keys().filter(|key| key.kind == Kind::McpClient).cloned().collect();
        for key in &clients {
            self.join_client(key);
        }
        self.join_policies(None);
    }

    fn join_servers(&mut self, namespace: Option<&str>) {
        self.keys(Kind::McpServer, namespace).iter().for_each(|key| self.join_server(key));
    }

    fn join_policies(&mut self, namespace: Option<&str>) {
        self.keys(Kind::McpPolicy, namespace).iter().for_each(|key| self.join_policy(key));
    }

    fn keys(&self, kind: Kind, namespace: Option<&str>) -> Vec<Key> {
        match namespace {
            Some(namespace) => self.of_namespace(kind, namespace).map(|(key, _)| key.clone()).collect(),
            None => self.known.keys().filter(|key| key.kind == kind).cloned().collect(),
        }
    }

    /// A server as it is judged here.
    ///
    /// # Errors
    /// What is wrong in itself.
    pub fn server(&self, object: &McpServer, found: &Found) -> Result<Resolved<Server>, Findings> {
        let client = upstream_client(object);
        let names: BTreeSet<Key> = client.iter().cloned().collect();
        let mut lookup = self.lookup(&names, found);
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        lookup.namespaces.extend(self.namespaces.get(namespace).map(|labels| (namespace, labels.clone())));
        let mut resolved = resolve::server(object, &self.settings(), &lookup)?;
        let server = &mut resolved.object;
        let unseen = |reason: Reason| UNSEEN.contains(&reason) && !found.judges(reason, object);
        let is_unseen = |word: &str| UNSEEN.iter().any(|reason| reason.as_str() == word && unseen(*reason));
        if matches!(&server.state, State::Unserved { reason, .. } if is_unseen(reason)) {
            server.state = match object.spec.state {
                ServerState::Enabled => State::Enabled,
                ServerState::Disabled => State::Disabled,
            };
        }
        if unseen(Reason::LockNotFound) {
            server.lock = None;
        }
        // What is wrong with a client is told; but it may be mended by who has no right to open a server, so that counts as open.
        let is_known = client.is_some_and(|client| self.has(&client) || found.was_asked(&client));
        let is_told = |reason: Reason| reason == Reason::UpstreamClientUnfit && is_known;
        resolved.warnings.retain(|finding| is_told(finding.reason) || !unseen(finding.reason));
        Ok(resolved)
    }
}

/// What was asked for by name, since the world does not know it, or never does.
#[derive(Debug, Default)]
pub struct Found {
    authorities: Vec<(Authority, Option<Registration>)>,
    servers: BTreeMap<Key, Option<Server>>,
    clients: BTreeMap<Key, ClientKind>,
    client_objects: BTreeMap<Key, McpClient>,
    config_maps: BTreeMap<Key, ConfigMap>,
    /// What was asked for: a ConfigMap that is among it, and not here, is not there.
    asked: BTreeSet<Key>,
}

impl Found {
    /// What these objects come to, of those that were asked for.
    pub fn of(looked_up: &LookedUp, world: &World) -> Self {
        let objects = &looked_up.found;
        let mut found = Self { asked: looked_up.asked.iter().cloned().collect(), ..Self::default() };
        for object in objects {
            match object {
                Object::AuthorizationServer(object) => found.authorities.extend(anchor(object, world)),
                Object::ConfigMap(map) => {
                    found.config_maps.insert(object.key(), map.clone());
                }
                Object::Client(client) => {
                    found.client_objects.insert(object.key(), McpClient::clone(client));
                }
                _ => {}
            }
        }
        for object in objects {
            let (key, names) = (object.key(), named(object));
            match object {
                Object::Server(object) => {
                    let server = world.server(object, &found).ok().map(|resolved| resolved.object);
                    found.servers.insert(key, server);
                }
                Object::Client(object) => {
                    let client = resolve::client(object, &world.settings(), &world.lookup(&names, &found));
                    found.clients.extend(client.ok().map(|resolved| (key, resolved.object)));
                }
                _ => {}
            }
        }
        found
    }

    /// Whether there is such a server, valid or not.
    pub fn has(&self, key: &Key) -> bool {
        self.servers.contains_key(key)
    }

    fn extend<'a>(&'a self, lookup: &mut Lookup<'a>) {
        let place = |key: &'a Key| (key.namespace.as_str(), key.name.as_str());
        for (authority, registration) in &self.authorities {
            let name = authority.id.name.as_str();
            lookup.authorities.insert(name, authority);
            lookup.registrations.extend(registration.as_ref().map(|registration| (name, registration)));
        }
        lookup.servers.extend(self.servers.keys().map(place));
        let resolved = self.servers.iter().filter_map(|(key, server)| Some((place(key), server.as_ref()?)));
        lookup.resolved.extend(resolved);
        lookup.clients.extend(self.clients.iter().map(|(key, client)| (place(key), client)));
        lookup.client_objects.extend(self.client_objects.iter().map(|(key, client)| (place(key), client)));
        lookup.config_maps.extend(self.config_maps.iter().map(|(key, map)| (place(key), map)));
    }

    /// Whether it was asked for this.
    pub(super) fn was_asked(&self, key: &Key) -> bool {
        self.asked.contains(key)
    }

    /// Whether it was asked for what this is about at a server.
    fn judges(&self, reason: Reason, server: &McpServer) -> bool {
        let name = match reason {
            Reason::LockNotFound => {
                server.spec.tools.as_ref().and_then(|tools| tools.lock.as_ref()).map(|lock| &lock.config_map_name)
            }
            Reason::ConfigMapNotFound | Reason::CaInvalid => {
                let tls = server.spec.upstream.tls.as_ref();
                tls.and_then(|tls| tls.ca_ref.as_ref()).map(|ca| &ca.config_map_name)
            }
            _ => return false,
        };
        let namespace = server.metadata.namespace.clone().unwrap_or_default();
        name.is_some_and(|name| self.was_asked(&Key { kind: Kind::ConfigMap, namespace, name: name.clone() }))
    }
}

/// A trust anchor that is valid, and how clients are registered there.
fn anchor(object: &McpAuthorizationServer, world: &World) -> Option<(Authority, Option<Registration>)> {
    let authority = resolve::authority(object, &world.settings(), &Lookup::default()).ok()?;
    Some((authority.object, resolve::registration(object).ok()?))
}

fn names_in(read: &Result<Object, Findings>) -> BTreeSet<Key> {
    read.as_ref().map(named).unwrap_or_default()
}

/// Reads an object; what is wrong with it otherwise.
pub(super) fn read(object: &Value) -> Result<Object, Findings> {
    object::read(object).map_err(|rejected| match rejected {
        Rejected::Invalid { problems, .. } => problems.iter().map(From::from).collect(),
        Rejected::Unidentified(problem) => vec![(&problem).into()],
        Rejected::Foreign { .. } => Vec::new(),
    })
}
