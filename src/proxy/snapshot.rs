//! What the proxy serves at one moment: immutable, shared by every call that began with it.
//!
//! Invariant: a [`Site`] is complete: nothing that a call needs is parsed, compiled or looked up by name while it runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::catalogue::Catalogue;
use super::clients::Clients;
use super::learn;
use crate::audit::ServerFields;
use crate::audit::redact::{Redaction, RedactionError};
use crate::fleet::{Fleet, ShardMap};
use crate::generated::codec::Generated;
use crate::generated::server::{AuditLevel, Credentials, Delivery, State};
use crate::generated::{Authority, Client, Kind, ObjectId, Server};
use crate::identity::anchor::{Anchor, AnchorError};
use crate::identity::challenge::{ChallengeError, Challenges};
use crate::identity::scope::{ScopeError, ScopeTable};
use crate::identity::token::Use;
use crate::oauth::protected_resource;
use crate::oauth::server_metadata::local_document;
use crate::policy::rule::CompileError;
use crate::upstream::{self, Means, Upstream, UpstreamError};

/// How many errors of one policy are told.
const SAID: usize = 5;

/// Everything that is served. Cloning is cheap, and a clone changes independently.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Servers joined with the policies that reach them.
    pub fleet: Fleet,
    /// By path.
    sites: ShardMap<Arc<Site>>,
    /// Of local authorities.
    documents: Arc<HashMap<String, Bytes>>,
    /// Of clients.
    clients: Clients,
    /// By name.
    anchors: Arc<BTreeMap<String, Trusted>>,
    /// What cannot be served or enforced as it is, by kind and UID.
    troubles: Arc<BTreeMap<(Kind, String), Trouble>>,
    touched: Touched,
}

/// What [`Snapshot::settle`] has to look at again.
#[derive(Clone, Default)]
struct Touched {
    paths: BTreeSet<String>,
    authorities: bool,
    clients: BTreeMap<String, Client>,
}

/// An object that is not served, or not as it is written, though its author did not switch it off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What it is.
    pub kind: Kind,
    /// Which one.
    pub id: ObjectId,
    /// A stable word.
    pub reason: String,
    /// What is wrong, for operators: names, and no values of Secrets.
    pub message: String,
    /// It could not be built here, although it had been accepted; else what it needs is missing or ambiguous.
    pub refused: bool,
}

impl Trouble {
    fn unserved(kind: Kind, id: &ObjectId, reason: &str, message: &str) -> Self {
        Self { kind, id: id.clone(), reason: reason.to_owned(), message: message.to_owned(), refused: false }
    }

    fn refused(kind: Kind, id: &ObjectId, reason: &str, error: &dyn std::error::Error) -> Self {
        Self { kind, id: id.clone(), reason: reason.to_owned(), message: error.to_string(), refused: true }
    }

    fn uncompiled(id: &ObjectId, errors: &[CompileError]) -> Self {
        let reason = errors.first().map_or("PolicyInvalid", CompileError::reason).to_owned();
        let said: Vec<String> = errors.iter().take(SAID).map(ToString::to_string).collect();
        let message = format!("what it governs is denied: {}", said.join("; "));
        Self { kind: Kind::Policy, id: id.clone(), reason, message, refused: true }
    }

    /// Nothing is known of the object but its kind and UID.
    fn unreadable(kind: Kind, uid: &str, reason: &str, message: &str) -> Self {
        let id = ObjectId { uid: uid.to_owned(), namespace: String::new(), name: kind.object_name(uid), generation: 0 };
        Self { kind, id, reason: reason.to_owned(), message: message.to_owned(), refused: true }
    }
}

/// An authority, and what was compiled from it.
#[derive(Clone)]
struct Trusted {
    source: Arc<Authority>,
    anchor: Arc<Anchor>,
}

impl Trusted {
    fn compile(source: &Arc<Authority>) -> Result<Self, AnchorError> {
        Ok(Self { source: source.clone(), anchor: Arc::new(Anchor::compile(source)?) })
    }
}

/// A governed server, ready to be served.
pub struct Site {
    /// The resolved server.
    pub server: Arc<Server>,
    /// What refused callers are told.
    pub challenges: Challenges,
    /// The scopes that calls need.
    pub scopes: ScopeTable,
    /// Where calls go; `None`: nowhere, see `closed`.
    pub upstream: Option<Upstream>,
    /// What is taken out of recorded arguments.
    pub redaction: Redaction,
    /// What is known of its tools.
    pub catalogue: Arc<Catalogue>,
    /// Why no call is served, for operators.
    pub closed: Option<String>,
    anchors: Box<[Arc<Anchor>]>,
    metadata: Bytes,
}

/// Why a server cannot be served as it was resolved.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// Its scopes.
    #[error("scopes: {0}")]
    Scopes(#[from] ScopeError),
    /// Its metadata URL.
    #[error(transparent)]
    Challenges(#[from] ChallengeError),
    /// Its redaction pointers.
    #[error(transparent)]
    Redaction(#[from] RedactionError),
    /// Its upstream.
    #[error("upstream: {0}")]
    Upstream(#[from] UpstreamError),
    /// Its resource identifier.
    #[error("the resource {0:?} is not an absolute URL with a path")]
    Resource(String),
}

impl SiteError {
    /// A stable word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            SiteError::Scopes(error) => error.reason(),
            SiteError::Challenges(_) => "MetadataUrlInvalid",
            SiteError::Redaction(_) => "RedactionInvalid",
            SiteError::Upstream(error) => error.reason(),
            SiteError::Resource(_) => "ResourceInvalid",
        }
    }
}

impl Site {
    /// The tokens that are accepted.
    pub fn trust(&self) -> Use<'_> {
        let server = &self.server;
        Use { anchors: &self.anchors, id: &server.id, resource: &server.resource, audiences: &server.audiences }
    }

    /// The authorities that are trusted, as they are in this snapshot.
    pub fn anchors(&self) -> &[Arc<Anchor>] {
        &self.anchors
    }

    /// How decisions about calls are recorded.
    pub fn delivery(&self) -> crate::audit::Delivery {
        match self.server.audit.delivery {
            Delivery::BestEffort => crate::audit::Delivery::BestEffort,
            Delivery::Durable => crate::audit::Delivery::Durable,
        }
    }

    /// How much of a call is recorded.
    pub fn level(&self) -> crate::audit::Level {
        match self.server.audit.level {
            AuditLevel::Metadata => crate::audit::Level::Metadata,
            AuditLevel::Arguments => crate::audit::Level::Arguments,
        }
    }

    /// The server in records.
    pub fn fields(&self) -> ServerFields<'_> {
        let id = &self.server.id;
        ServerFields { uid: &id.uid, namespace: &id.namespace, name: &id.name }
    }

    /// The kind of credential that goes upstream, for records.
    pub fn credential_mode(&self) -> &'static str {
        match self.server.upstream.credentials {
            Credentials::None => "none",
            Credentials::Headers(_) => "headers",
            Credentials::ServiceAccount { .. } => "serviceAccount",
            Credentials::Oauth(_) => "oauth",
        }
    }

    fn compile(
        server: Arc<Server>,
        anchors: &BTreeMap<String, Trusted>,
        previous: Option<&Site>,
        means: &Means<'_>,
    ) -> Result<Site, SiteError> {
        let metadata_url = protected_resource::metadata_url(&server.resource)
            .map_err(|_| SiteError::Resource(server.resource.clone()))?;
        let scopes = ScopeTable::compile(&server.scopes)?;
        let redaction = Redaction::new(server.audit.redact.iter().map(String::as_str))?;
        let closed = match &server.state {
            State::Enabled => None,
            State::Disabled => Some("Disabled".to_owned()),
            State::Unserved { reason, .. } => Some(reason.clone()),
        };
        // A pool with open connections, and what was learnt of the tools, outlive changes of anything else.
        let same_upstream = previous.filter(|previous| previous.server.upstream == server.upstream);
        let upstream = match (&closed, same_upstream.and_then(|previous| previous.upstream.clone())) {
            (Some(_), _) => None,
            (None, Some(pool)) => Some(pool),
            (None, None) => Some(Upstream::by(&server.upstream, means)?),
        };
        let catalogue = learn::catalogue(&server, previous);
        Ok(Site {
            challenges: Challenges::new(&metadata_url, &scopes)?,
            anchors: named(&server, anchors),
            metadata: Bytes::from(server.metadata.clone()),
            scopes,
            upstream,
            redaction,
            catalogue,
            closed,
            server,
        })
    }
}

fn named(server: &Server, anchors: &BTreeMap<String, Trusted>) -> Box<[Arc<Anchor>]> {
    server.authorities.iter().filter_map(|name| anchors.get(name)).map(|trusted| trusted.anchor.clone()).collect()
}

impl Snapshot {
    /// The server at an exact path.
    pub fn site(&self, path: &str) -> Option<&Arc<Site>> {
        self.sites.get(path)
    }

    /// What a server is by now, if it is still served at its path.
    pub fn same(&self, site: &Site) -> Option<&Arc<Site>> {
        self.site(&site.server.path).filter(|now| now.server.id.uid == site.server.id.uid)
    }

    /// A public document at an exact path: protected-resource metadata at path-inserted URLs (RFC 9728 section 3.1), the
    /// root document only if there is exactly one server (identity-audit 1.1); metadata and keys of local authorities
    /// (RFC 8414).
    pub fn document(&self, path: &str) -> Option<&Bytes> {
        match path.strip_prefix(protected_resource::WELL_KNOWN_PREFIX) {
            Some("") => self.sites.values().next().filter(|_| self.sites.len() == 1).map(|site| &site.metadata),
            Some(path) => self.site(path).map(|site| &site.metadata),
            None => self.documents.get(path),
        }
    }

    /// What authorization servers fetch of a client at an exact path: its document, or its keys.
    pub fn client_document(&self, path: &str) -> Option<&Bytes> {
        self.clients.get(path)
    }

    /// All servers, in no particular order.
    pub fn sites(&self) -> impl Iterator<Item = &Arc<Site>> {
        self.sites.values()
    }

    /// Whether two snapshots serve the same servers in the same way, policies apart. Costs nothing.
    pub fn serves_alike(&self, other: &Self) -> bool {
        self.sites.is_fork(&other.sites)
    }

    /// What is not served or enforced as it is written, and why. The rest goes on.
    pub fn troubles(&self) -> impl ExactSizeIterator<Item = &Trouble> {
        self.troubles.values()
    }

    /// What keeps upstreams from being called with tokens, by the UID of their server.
    pub fn upstream_troubles(&self) -> impl Iterator<Item = (&str, Arc<upstream::Trouble>)> {
        self.sites().filter_map(|site| Some((site.server.id.uid.as_str(), site.upstream.as_ref()?.trouble()?)))
    }

    /// What of it is news to whoever knows an earlier snapshot.
    pub fn new_troubles<'a>(&'a self, earlier: &'a Self) -> impl Iterator<Item = &'a Trouble> {
        let news = !Arc::ptr_eq(&self.troubles, &earlier.troubles);
        self.troubles
            .iter()
            .filter(move |(key, trouble)| news && earlier.troubles.get(*key) != Some(*trouble))
            .map(|(_, trouble)| trouble)
    }

    /// Puts an object, replacing the one with the same UID. A policy that cannot be compiled denies what it governs.
    /// [`Snapshot::settle`] makes it served.
    pub fn put(&mut self, object: Generated) {
        let (kind, id) = object.identity();
        self.clear(kind, &id.uid);
        match object {
            Generated::Server(server) => {
                self.touch(&server.id.uid);
                self.touched.paths.insert(server.path.clone());
                self.fleet.put_server(server);
            }
            Generated::Policy(policy) => {
                let id = policy.id.clone();
                if let Err(errors) = self.fleet.put_policy(policy) {
                    self.note(Trouble::uncompiled(&id, &errors));
                }
            }
            Generated::Authority(authority) => {
                self.touched.authorities = true;
                self.fleet.put_authority(authority);
            }
            Generated::Client(client) => drop(self.touched.clients.insert(client.id.uid.clone(), client)),
        }
    }

    /// Removes an object.
    pub fn remove(&mut self, kind: Kind, uid: &str) {
        self.clear(kind, uid);
        match kind {
            Kind::Server => {
                self.touch(uid);
                self.fleet.remove_server(uid);
            }
            Kind::Policy => self.fleet.remove_policy(uid),
            Kind::Authority => {
                self.touched.authorities = true;
                self.fleet.remove_authority(uid);
            }
            Kind::Client => {
                self.touched.clients.remove(uid);
                self.clients.remove(uid);
            }
        }
    }

    /// Denies what an object that cannot be read governs, until it is put or removed: its server is not served, no token
    /// of its authority is believed, and no authorization server finds its client; whom a policy narrows nobody knows, so
    /// every call is refused.
    pub fn refuse(&mut self, kind: Kind, uid: &str, reason: &str, message: &str) {
        match kind {
            Kind::Server | Kind::Authority | Kind::Client => self.remove(kind, uid),
            Kind::Policy => self.fleet.deny_all(&kind.object_name(uid), reason),
        }
        self.note(Trouble::unreadable(kind, uid, reason, message));
    }

    /// Makes everything that is served follow what was put, removed and refused, at a cost that does not grow with the
    /// fleet; a changed authority costs as much as the servers that trust it.
    pub fn settle(&mut self, means: &Means<'_>, public_url: &str) {
        let Touched { mut paths, authorities, clients } = std::mem::take(&mut self.touched);
        for client in clients.into_values() {
            if let Err((id, error)) = self.clients.put(client, public_url) {
                self.note(Trouble::refused(Kind::Client, &id, error.reason(), &error));
            }
        }
        if authorities {
            let changed = self.settle_anchors();
            let trusting = |server: &&Arc<Server>| server.authorities.iter().any(|name| changed.contains(name));
            paths.extend(
                self.fleet.servers().map(|served| served.server).filter(trusting).map(|server| server.path.clone()),
            );
            let documents = self.fleet.authorities().flat_map(|authority| local_documents(authority, public_url));
            self.documents = Arc::new(documents.collect());
        }
        for path in paths {
            self.settle_path(&path, means);
        }
    }

    fn settle_path(&mut self, path: &str, means: &Means<'_>) {
        let claimants: Vec<Arc<Server>> = self.fleet.claimants(path).cloned().collect();
        for server in &claimants {
            self.clear(Kind::Server, &server.id.uid);
            if let State::Unserved { reason, message } = &server.state {
                self.note(Trouble::unserved(Kind::Server, &server.id, reason, message));
            }
        }
        let [server] = claimants.as_slice() else {
            self.sites.remove(path);
            // Servers that claim one path are all unserved.
            for server in claimants.iter().filter(|server| server.state == State::Enabled) {
                let message = "another server claims its path";
                self.note(Trouble::unserved(Kind::Server, &server.id, "PathConflict", message));
            }
            return;
        };
        let previous = self.site(path).filter(|site| site.server.id.uid == server.id.uid).cloned();
        if previous.as_ref().is_some_and(|site| self.is_current(site, server)) {
            return;
        }
        match Site::compile(server.clone(), &self.anchors, previous.as_deref(), means) {
            Ok(site) => self.sites.insert(path, Arc::new(site)),
            Err(error) => {
                self.sites.remove(path);
                self.note(Trouble::refused(Kind::Server, &server.id, error.reason(), &error));
            }
        }
    }

    fn is_current(&self, site: &Site, server: &Arc<Server>) -> bool {
        let anchors = named(server, &self.anchors);
        Arc::ptr_eq(&site.server, server)
            && site.anchors.len() == anchors.len()
            && site.anchors.iter().zip(&anchors).all(|(old, new)| Arc::ptr_eq(old, new))
    }

    /// The names whose anchor is another now, new or gone.
    fn settle_anchors(&mut self) -> BTreeSet<String> {
        let mut anchors = BTreeMap::new();
        let authorities: Vec<Arc<Authority>> = self.fleet.authorities().cloned().collect();
        for authority in authorities {
            let (id, name) = (&authority.id, &authority.id.name);
            self.clear(Kind::Authority, &id.uid);
            if self.fleet.authority(name).is_none() {
                let message = "another authority has its name, so no token of either is believed";
                self.note(Trouble::unserved(Kind::Authority, id, "NameConflict", message));
                continue;
            }
            if authority.key_set.is_none() {
                let message = "its keys have not been fetched yet, so every token of it is refused";
                self.note(Trouble::unserved(Kind::Authority, id, "KeysUnavailable", message));
            }
            let kept = self.anchors.get(name).filter(|kept| Arc::ptr_eq(&kept.source, &authority)).cloned();
            let trusted = kept.map_or_else(|| Trusted::compile(&authority), Ok);
            match trusted {
                Ok(trusted) => drop(anchors.insert(name.clone(), trusted)),
                // Without its anchor every token of the authority is refused.
                Err(error) => self.note(Trouble::refused(Kind::Authority, id, error.reason(), &error)),
            }
        }
        let before = std::mem::replace(&mut self.anchors, Arc::new(anchors));
        let same = |name: &String| match (before.get(name), self.anchors.get(name)) {
            (Some(old), Some(new)) => Arc::ptr_eq(&old.anchor, &new.anchor),
            _ => false,
        };
        before.keys().chain(self.anchors.keys()).filter(|name| !same(name)).cloned().collect()
    }

    /// Has the place of a server looked at again, where it is before a change.
    fn touch(&mut self, uid: &str) {
        if let Some(server) = self.fleet.server(uid) {
            self.touched.paths.insert(server.path.clone());
        }
    }

    fn note(&mut self, trouble: Trouble) {
        let key = (trouble.kind, trouble.id.uid.clone());
        if self.troubles.get(&key) != Some(&trouble) {
            Arc::make_mut(&mut self.troubles).insert(key, trouble);
        }
    }

    /// Forgets what was wrong with an object.
    fn clear(&mut self, kind: Kind, uid: &str) {
        let key = (kind, uid.to_owned());
        if self.troubles.contains_key(&key) {
            Arc::make_mut(&mut self.troubles).remove(&key);
            if kind == Kind::Policy {
                self.fleet.clear_denial(&kind.object_name(uid));
            }
        }
    }
}

fn local_documents(authority: &Authority, public_url: &str) -> Vec<(String, Bytes)> {
    let local = authority.keys == crate::generated::authority::KeySource::Local;
    let Some(path) = authority.issuer.strip_prefix(public_url).filter(|_| local) else { return Vec::new() };
    let jwks = authority.key_set.as_ref().map_or("{\"keys\":[]}", |keys| &keys.jwks).to_owned();
    let jwks_uri = format!("{}/jwks.json", authority.issuer);
    let Ok(metadata) = local_document(&authority.issuer, &jwks_uri) else { return Vec::new() };
    vec![
        (format!("/.well-known/oauth-authorization-server{path}"), Bytes::from(metadata)),
        (format!("{path}/jwks.json"), Bytes::from(jwks)),
    ]
}

#[cfg(test)]
mod tests;
