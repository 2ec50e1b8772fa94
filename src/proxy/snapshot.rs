//! What the proxy serves at one moment: immutable, shared by every call that began with it.
//!
//! Invariant: a [`Site`] is complete: nothing that a call needs is parsed, compiled or looked up by name while it runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::catalogue::{Catalogue, Tool};
use crate::audit::ServerFields;
use crate::audit::redact::{Redaction, RedactionError};
use crate::egress::Egress;
use crate::fleet::Fleet;
use crate::generated::server::{AuditLevel, Credentials, Delivery, State};
use crate::generated::{Authority, Kind, ObjectId, Server};
use crate::identity::anchor::Anchor;
use crate::identity::challenge::{ChallengeError, Challenges};
use crate::identity::scope::{ScopeError, ScopeTable};
use crate::identity::token::Use;
use crate::mcp::list::ToolView;
use crate::oauth::protected_resource;
use crate::oauth::server_metadata::local_document;
use crate::policy::rule::CompileError;
use crate::upstream::{Timeouts, Upstream, UpstreamError};

/// How many tools a warning names.
const SHOWN: usize = 20;

/// Everything that is served.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Servers joined with the policies that reach them.
    pub fleet: Fleet,
    sites: HashMap<String, Arc<Site>>,
    documents: HashMap<String, Bytes>,
    anchors: BTreeMap<String, Trusted>,
    /// What servers and authorities cannot be served.
    troubles: Vec<Trouble>,
    /// Policies that cannot be enforced as they are, by UID.
    policies: BTreeMap<String, Trouble>,
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
}

/// An authority, and what was compiled from it.
#[derive(Clone)]
struct Trusted {
    source: Arc<Authority>,
    anchor: Arc<Anchor>,
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
        Use { anchors: &self.anchors, resource: &self.server.resource, audiences: &self.server.audiences }
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
        }
    }

    /// Judges a definition of one of its tools, without remembering it.
    pub fn assess(&self, tool: &ToolView<'_>) -> Tool {
        self.catalogue.assess(tool, self.server.lock.as_ref())
    }

    /// Remembers definitions of its tools, and names that several definitions have. Warns of names that could be taken for
    /// one another (mcp-obligations 30), and once of each definition that is not the reviewed one (59).
    pub fn learn(&self, mut seen: Vec<(Box<str>, Tool)>, ambiguous: &[String]) {
        let lock = self.server.lock.as_ref();
        seen.extend(ambiguous.iter().map(|name| (name.as_str().into(), self.catalogue.ambiguous(name, lock))));
        let learnt = self.catalogue.learn(seen);
        if !learnt.drifted.is_empty() {
            let server = self.server.id.display_name();
            let count = learnt.drifted.len();
            let tools: Vec<String> =
                learnt.drifted.iter().take(SHOWN).map(|(name, drift)| format!("{name}: {}", drift.as_str())).collect();
            let on_change = lock.map(|lock| lock.on_change);
            tracing::warn!(server, count, ?tools, ?on_change, "tools that are not as they were reviewed");
        }
        for names in learnt.changed.then(|| self.catalogue.look_alikes()).unwrap_or_default() {
            let server = self.server.id.display_name();
            tracing::warn!(server, ?names, "tools whose names look alike: grant them by exact name only");
        }
    }

    /// Learns what an inventory found: all that the server lists.
    pub fn take_stock<'t>(&self, listed: impl Iterator<Item = &'t str>) {
        let mut found: HashMap<Box<str>, Option<Tool>> = HashMap::new();
        for tool in listed.filter_map(ToolView::read) {
            let known = self.assess(&tool);
            found.entry(tool.name.as_ref().into()).and_modify(|twice| *twice = None).or_insert(Some(known));
        }
        let (mut seen, mut ambiguous) = (Vec::new(), Vec::new());
        for (name, tool) in found {
            match tool {
                Some(tool) => seen.push((name, tool)),
                None => ambiguous.push(name.into_string()),
            }
        }
        self.learn(seen, &ambiguous);
        self.catalogue.complete();
    }

    fn compile(
        server: Arc<Server>,
        anchors: &BTreeMap<String, Trusted>,
        previous: Option<&Site>,
        egress: &Egress,
        timeouts: Timeouts,
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
            (None, None) => Some(Upstream::with_timeouts(&server.upstream, egress, timeouts)?),
        };
        let catalogue = catalogue(&server, previous);
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

/// What is known of a server's tools. It outlives changes of everything but the place where they are: another credential,
/// lock or class only has them looked at anew.
fn catalogue(server: &Server, previous: Option<&Site>) -> Arc<Catalogue> {
    let place = |server: &Server| (server.upstream.url.clone(), server.upstream.tls.clone());
    let owners = |server: &Server| (server.upstream.credentials.clone(), server.risk.clone(), server.lock.clone());
    match previous.filter(|previous| place(&previous.server) == place(server)) {
        Some(previous) if owners(&previous.server) == owners(server) => previous.catalogue.clone(),
        Some(previous) => Arc::new(Catalogue::after(&previous.catalogue, &server.risk, server.lock.as_ref())),
        None => Arc::new(Catalogue::new(&server.risk)),
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

    /// A public document at an exact path.
    pub fn document(&self, path: &str) -> Option<&Bytes> {
        self.documents.get(path)
    }

    /// All servers, in no particular order.
    pub fn sites(&self) -> impl Iterator<Item = &Arc<Site>> {
        self.sites.values()
    }

    /// What is not served as it is written, and why. The rest goes on.
    pub fn troubles(&self) -> impl Iterator<Item = &Trouble> {
        self.troubles.iter().chain(self.policies.values())
    }

    /// Notes how compiling a policy went: one that cannot be enforced denies what it governs.
    pub fn policy_put(&mut self, id: &ObjectId, errors: &[CompileError]) {
        self.policy_gone(&id.uid);
        if let Some(error) = errors.first() {
            self.policies.insert(id.uid.clone(), Trouble::refused(Kind::Policy, id, error.reason(), error));
        }
    }

    /// Forgets a policy.
    pub fn policy_gone(&mut self, uid: &str) {
        self.policies.remove(uid);
    }

    /// Makes everything that is served follow the fleet again, reusing what did not change.
    pub fn refresh(&mut self, egress: &Egress, timeouts: Timeouts, public_url: &str) {
        let mut troubles = self.refresh_anchors();
        let mut sites = HashMap::with_capacity(self.sites.len());
        for served in self.fleet.servers() {
            // Servers that claim one path are all unserved: `lookup` finds neither.
            let (path, id) = (&served.server.path, &served.server.id);
            if let State::Unserved { reason, message } = &served.server.state {
                troubles.push(Trouble::unserved(Kind::Server, id, reason, message));
            }
            if self.fleet.lookup(path).is_none() {
                if served.server.state == State::Enabled {
                    let message = "another server claims its path";
                    troubles.push(Trouble::unserved(Kind::Server, id, "PathConflict", message));
                }
                continue;
            }
            let previous = self.sites.get(path).filter(|site| site.server.id.uid == served.server.id.uid);
            if let Some(site) = previous.filter(|site| self.is_current(site, served.server)) {
                sites.insert(path.clone(), site.clone());
                continue;
            }
            let previous = previous.map(Arc::as_ref);
            match Site::compile(served.server.clone(), &self.anchors, previous, egress, timeouts) {
                Ok(site) => drop(sites.insert(path.clone(), Arc::new(site))),
                Err(error) => {
                    troubles.push(Trouble::refused(Kind::Server, id, error.reason(), &error));
                }
            }
        }
        self.sites = sites;
        self.documents = self.documents(public_url);
        troubles.sort_by_key(|trouble| (trouble.kind, trouble.id.display_name()));
        self.troubles = troubles;
    }

    fn is_current(&self, site: &Site, server: &Arc<Server>) -> bool {
        let anchors = named(server, &self.anchors);
        Arc::ptr_eq(&site.server, server)
            && site.anchors.len() == anchors.len()
            && site.anchors.iter().zip(&anchors).all(|(old, new)| Arc::ptr_eq(old, new))
    }

    fn refresh_anchors(&mut self) -> Vec<Trouble> {
        let mut anchors = BTreeMap::new();
        let mut troubles = Vec::new();
        for authority in self.fleet.authorities() {
            let name = &authority.id.name;
            if authority.key_set.is_none() {
                let message = "its keys have not been fetched yet, so every token of it is refused";
                troubles.push(Trouble::unserved(Kind::Authority, &authority.id, "KeysUnavailable", message));
            }
            if let Some(kept) = self.anchors.get(name).filter(|kept| Arc::ptr_eq(&kept.source, authority)) {
                anchors.insert(name.clone(), kept.clone());
                continue;
            }
            match Anchor::compile(authority) {
                Ok(anchor) => {
                    anchors.insert(name.clone(), Trusted { source: authority.clone(), anchor: Arc::new(anchor) });
                }
                // Without its anchor every token of the authority is refused.
                Err(error) => {
                    troubles.push(Trouble::refused(Kind::Authority, &authority.id, error.reason(), &error));
                }
            }
        }
        self.anchors = anchors;
        troubles
    }

    /// Protected-resource metadata at path-inserted URLs (RFC 9728 section 3.1), the root document only if there is
    /// exactly one server (identity-audit 1.1); metadata and keys of local authorities (RFC 8414).
    fn documents(&self, public_url: &str) -> HashMap<String, Bytes> {
        let mut documents = HashMap::new();
        for (path, site) in &self.sites {
            documents.insert(format!("{}{path}", protected_resource::WELL_KNOWN_PREFIX), site.metadata.clone());
        }
        if let (1, Some(site)) = (self.sites.len(), self.sites.values().next()) {
            documents.insert(protected_resource::WELL_KNOWN_PREFIX.to_owned(), site.metadata.clone());
        }
        for authority in self.fleet.authorities() {
            documents.extend(local_documents(authority, public_url));
        }
        documents
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
mod tests {
    use super::*;
    use crate::fleet::tests::server;
    use crate::generated::Labels;

    fn refreshed(change: impl FnOnce(&mut Fleet)) -> Snapshot {
        let mut snapshot = Snapshot::default();
        change(&mut snapshot.fleet);
        let egress = Egress::new(crate::egress::Policy::default()).unwrap();
        snapshot.refresh(&egress, Timeouts::default(), "https://mcp.example");
        snapshot
    }

    #[test]
    fn a_server_that_cannot_be_built_is_named_and_the_others_are_served() {
        let good = server("team", "good", Labels::new(), Some(Labels::new()));
        let broken = |name: &str, edit: fn(&mut Server)| {
            let mut server = server("team", name, Labels::new(), Some(Labels::new()));
            edit(&mut server);
            server
        };
        let snapshot = refreshed(|fleet| {
            fleet.put_server(good.clone());
            fleet.put_server(broken("resource", |server| server.resource = "not a URL".into()));
            fleet.put_server(broken("upstream", |server| server.upstream.url = "ftp://a:b@c.example".into()));
            fleet.put_server(broken("disabled", |server| server.state = State::Disabled));
            fleet.put_server(broken("keyless", |server| {
                server.state = State::Unserved { reason: "SecretNotFound".into(), message: "no Secret a/b".into() };
            }));
        });
        let troubles: Vec<_> =
            snapshot.troubles().map(|found| (&*found.id.name, &*found.reason, found.refused)).collect();
        assert_eq!(
            troubles,
            [
                ("keyless", "SecretNotFound", false),
                ("resource", "ResourceInvalid", true),
                ("upstream", "UpstreamUrlInvalid", true)
            ]
        );
        assert!(snapshot.troubles().all(|found| !found.message.contains("a:b@c")), "no credentials of URLs");
        assert!(snapshot.site("/team/good").is_some_and(|site| site.closed.is_none()));
        assert!(snapshot.site("/team/resource").is_none());
    }

    #[test]
    fn servers_that_claim_one_path_are_named() {
        let one = server("team", "one", Labels::new(), Some(Labels::new()));
        let mut two = server("team", "two", Labels::new(), Some(Labels::new()));
        two.path.clone_from(&one.path);
        let snapshot = refreshed(|fleet| [one, two].into_iter().for_each(|server| fleet.put_server(server)));
        let troubles: Vec<_> = snapshot.troubles().map(|found| (&*found.id.name, &*found.reason)).collect();
        assert_eq!(troubles, [("one", "PathConflict"), ("two", "PathConflict")]);
    }
}
