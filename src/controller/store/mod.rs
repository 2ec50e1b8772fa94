//! What the controller knows of the cluster.
//!
//! Invariant: everything in here was told by the API server; nothing is remembered that it does not hold as well, apart
//! from what is about to be written. What is listed replaces what was known, however old it is, for a cluster may have been
//! restored; but nothing that was told or written since the listing began. Every change says whom it touches, so the cost of a change is that of what depends
//! on it, and never that of the fleet.

mod clients;
pub mod interest;
mod near;
mod reaching;
pub mod source;
mod told;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kube::api::DynamicObject;

pub use self::interest::{Interest, Reference};
pub use self::reaching::Reaching;
pub use self::source::{Outline, Source};
use super::cluster_issuer::ClusterIssuer;
use super::object::{Present, Seen, Wanted};
use super::proxies::{Change, Programming, Proxies};
use super::queue::{Depth, Subject};
use super::{Installation, Settled};
use crate::api;
use crate::api::Key;
use crate::generated::codec::Generated;
use crate::generated::{Authority, Collection, Kind, Labels, Policy, Server};
use crate::resolve::Registration;

/// Whom a change touches, and how deeply.
pub type Touched = Vec<(Subject, Depth)>;

/// What is known.
pub struct Store {
    installation: Arc<Installation>,
    issuer: ClusterIssuer,
    /// How many listings of sources, and of generated objects, have begun.
    listings: (HashMap<api::Kind, u64>, HashMap<Collection, u64>),
    sources: HashMap<Key, Arc<Source>>,
    by_uid: HashMap<(Kind, String), Key>,
    namespaces: HashMap<String, Labels>,
    interest: Interest,
    /// Who claims which path; paths lie inside namespaces.
    claims: HashMap<(String, String), BTreeSet<Key>>,
    claimed: HashMap<Key, (String, String)>,
    present: HashMap<(Kind, String), Present>,
    versions: BTreeMap<(Collection, u64), (Kind, String)>,
    told: told::Told,
    wanted: HashMap<(Kind, String), Wanted>,
    settled: HashMap<Key, Settled>,
    near: near::Near,
    /// The proxies.
    pub proxies: Proxies,
}

/// What is generated from a kind.
pub fn generated_kind(kind: api::Kind) -> Option<Kind> {
    match kind {
        api::Kind::McpServer => Some(Kind::Server),
        api::Kind::McpPolicy => Some(Kind::Policy),
        api::Kind::McpAuthorizationServer => Some(Kind::Authority),
        api::Kind::McpClient => Some(Kind::Client),
        api::Kind::Secret | api::Kind::ConfigMap | api::Kind::Namespace => None,
    }
}

fn is_policy((subject, _): &(Subject, Depth)) -> bool {
    matches!(subject, Subject::Source(key) if key.kind == api::Kind::McpPolicy)
}

fn whole(key: &Key) -> (Subject, Depth) {
    (Subject::Source(key.clone()), Depth::Whole)
}

impl Store {
    /// Nothing is known.
    pub fn new(installation: Arc<Installation>, issuer: ClusterIssuer) -> Self {
        let proxies = Proxies::new(installation.max_staleness);
        Self {
            installation,
            issuer,
            listings: (HashMap::new(), HashMap::new()),
            sources: HashMap::new(),
            by_uid: HashMap::new(),
            namespaces: HashMap::new(),
            interest: Interest::default(),
            claims: HashMap::new(),
            claimed: HashMap::new(),
            present: HashMap::new(),
            versions: BTreeMap::new(),
            told: told::Told::default(),
            wanted: HashMap::new(),
            settled: HashMap::new(),
            near: near::Near::default(),
            proxies,
        }
    }

    // What the API server tells.

    /// Sources of this kind are about to be listed from their beginning.
    pub fn begin_sources(&mut self, kind: api::Kind) {
        *self.listings.0.entry(kind).or_default() += 1;
    }

    /// Generated objects are about to be listed from their beginning.
    pub fn begin_generated(&mut self, collection: Collection) {
        *self.listings.1.entry(collection).or_default() += 1;
    }

    fn listing(&self, kind: api::Kind) -> u64 {
        self.listings.0.get(&kind).copied().unwrap_or_default()
    }

    /// An object that people write is there.
    pub fn put_source(&mut self, kind: api::Kind, object: DynamicObject) -> Touched {
        let cluster = self.issuer.cluster(&self.installation);
        let settings = self.installation.settings(&cluster);
        let Some(mut source) = Source::read(kind, object, self.listing(kind), &settings) else {
            return Touched::new();
        };
        let key = source.key.clone();
        let earlier = self.sources.get(&key).cloned();
        if let Some(earlier) = earlier.as_ref().filter(|earlier| earlier.id.uid == source.id.uid) {
            if earlier.seen >= source.seen {
                return Touched::new();
            }
            if earlier.spoken > source.seen {
                (source.spoken, source.status) = (earlier.spoken, earlier.status.clone());
            }
        }
        let outline = source.outline.clone();
        let (changed, spoken) = match &earlier {
            Some(earlier) => (source.is_another_than(earlier), source.status != earlier.status),
            None => (true, false),
        };
        if let Some(kind) = generated_kind(kind) {
            self.by_uid.insert((kind, source.id.uid.clone()), key.clone());
        }
        self.sources.insert(key.clone(), Arc::new(source));
        let mut touched = Touched::new();
        match (changed, spoken) {
            (true, _) => touched.push(whole(&key)),
            (false, true) => touched.push((Subject::Source(key.clone()), Depth::Status)),
            (false, false) => {}
        }
        let is_new = earlier.is_none();
        let was = earlier.as_ref().map_or(Outline::None, |earlier| earlier.outline.clone());
        self.outline_changed(&key, &was, &outline, &mut touched);
        match kind {
            api::Kind::McpServer => {
                self.reclaim(&key, &mut touched);
                if is_new {
                    self.server_came_or_went(&key, &mut touched);
                }
                if changed {
                    let reference = Reference::ServerItself(key.namespace.clone(), key.name.clone());
                    touched.extend(self.interest.followers(&reference).map(whole));
                    self.server_near(&key, earlier.as_deref(), &mut touched);
                }
            }
            api::Kind::McpPolicy if changed => self.policy_near(&key, &mut touched),
            api::Kind::McpClient => self.relist(&key, earlier.as_deref().and_then(clients::listed), &mut touched),
            _ => {}
        }
        touched
    }

    /// An object that people write is gone.
    pub fn source_gone(&mut self, key: &Key, uid: &str) -> Touched {
        let mut touched = Touched::new();
        if let Some(kind) = generated_kind(key.kind) {
            self.by_uid.remove(&(kind, uid.to_owned()));
            self.wanted.remove(&(kind, uid.to_owned()));
            touched.push((Subject::Stray(kind, uid.to_owned()), Depth::Whole));
        }
        if key.kind == api::Kind::McpClient {
            touched.push((Subject::Unowned(uid.to_owned()), Depth::Whole));
        }
        let Some(source) = self.sources.remove(key) else { return touched };
        self.settled.remove(key);
        self.interest.set(key, BTreeSet::new());
        self.outline_changed(key, &source.outline, &Outline::None, &mut touched);
        match key.kind {
            api::Kind::McpServer => {
                self.reclaim(key, &mut touched);
                self.server_came_or_went(key, &mut touched);
                let reference = Reference::ServerItself(key.namespace.clone(), key.name.clone());
                touched.extend(self.interest.followers(&reference).map(whole));
                self.server_near(key, Some(&source), &mut touched);
            }
            api::Kind::McpPolicy => self.policy_near(key, &mut touched),
            api::Kind::McpClient => self.relist(key, clients::listed(&source), &mut touched),
            _ => {}
        }
        touched
    }

    /// A namespace is there, or (`None`) gone.
    pub fn put_namespace(&mut self, name: &str, labels: Option<Labels>) -> Touched {
        let before = match labels.clone() {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
        if before == labels {
            return Touched::new();
        }
        let reference = Reference::Namespace(name.to_owned());
        let mut touched: Touched = self.interest.followers(&reference).map(whole).collect();
        self.namespace_near(name, &mut touched);
        touched
    }

    /// A generated object is there.
    pub fn put_generated(&mut self, collection: Collection, object: &DynamicObject) -> Touched {
        let mut touched = Touched::new();
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let Some((kind, uid)) = Kind::of_object(name).filter(|(kind, _)| kind.collection() == collection) else {
            return touched;
        };
        let Some(present) = Present::read(object, collection) else { return touched };
        let at = (kind, uid.to_owned());
        if !self.set_present(&at, present) {
            return touched;
        }
        let as_wanted = self.wanted.get(&at).zip(self.present.get(&at)).is_some_and(|(wanted, is)| is.is(wanted));
        match self.by_uid.get(&at).cloned() {
            Some(key) => {
                let depth = if as_wanted { Depth::Status } else { Depth::Whole };
                touched.push((Subject::Source(key.clone()), depth));
                self.reclaim(&key, &mut touched);
            }
            None => touched.push((Subject::Stray(kind, uid.to_owned()), Depth::Whole)),
        }
        self.newly_listed(&at, &mut touched);
        touched
    }

    /// A generated object is gone.
    pub fn generated_gone(&mut self, name: &str, own_uid: &str) -> Touched {
        let Some((kind, uid)) = Kind::of_object(name) else { return Touched::new() };
        let at = (kind, uid.to_owned());
        // One of the same name may have been written since.
        if self.present.get(&at).is_some_and(|present| present.own_uid != own_uid) {
            return Touched::new();
        }
        if let Some(present) = self.present.remove(&at) {
            self.forget_version(&at, present.seen.version);
        }
        if kind == Kind::Authority {
            self.told.gone(uid);
        }
        self.by_uid.get(&at).map(whole).into_iter().collect()
    }

    /// Whom a change of the proxies touches.
    pub fn proxies_changed(&self, change: Change) -> Touched {
        let status = |key: &Key| (Subject::Source(key.clone()), Depth::Status);
        match change {
            Change::Nothing => Touched::new(),
            Change::Everything => self.sources.keys().map(status).collect(),
            Change::Troubled(uids) => {
                let servers = uids.into_iter().filter_map(|uid| self.by_uid.get(&(Kind::Server, uid)));
                servers.map(status).collect()
            }
            Change::CaughtUp(moved) => {
                let objects = moved.iter().flat_map(|(collection, after, upto)| {
                    self.versions.range((*collection, after + 1)..=(*collection, *upto)).map(|(_, at)| at)
                });
                let mut touched: Touched = objects.filter_map(|at| self.by_uid.get(at)).map(status).collect();
                let lists = moved.iter().filter(|(collection, ..)| *collection == Kind::Authority.collection());
                lists.for_each(|(_, after, upto)| self.listed_between(*after, *upto, &mut touched));
                touched
            }
        }
    }

    /// Everything there is to look at: for who begins to lead, once all was told.
    pub fn everything(&mut self) -> Touched {
        self.near.forget_changes();
        let strays = self.present.keys().filter(|at| !self.by_uid.contains_key(*at));
        let strays = strays.map(|(kind, uid)| (Subject::Stray(*kind, uid.clone()), Depth::Sweep));
        // What was changed while nobody led is no less urgent.
        let sweep = |(key, source): (&Key, &Arc<Source>)| {
            (Subject::Source(key.clone()), if source.is_told() { Depth::Sweep } else { Depth::Whole })
        };
        // What policies come to is said once if the servers that they reach were looked at before them.
        let (policies, others): (Touched, Touched) = self.sources.iter().map(sweep).partition(is_policy);
        others.into_iter().chain(policies).chain(strays).collect()
    }

    /// What a generated object is looked at with.
    pub fn again(&self, kind: Kind, uid: &str) -> Touched {
        let at = (kind, uid.to_owned());
        let source = self.by_uid.get(&at).map(whole);
        vec![source.unwrap_or((Subject::Stray(kind, at.1), Depth::Whole))]
    }

    fn outline_changed(&self, key: &Key, was: &Outline, is: &Outline, touched: &mut Touched) {
        let reference = match key.kind {
            api::Kind::McpAuthorizationServer => Reference::Authority(key.name.clone()),
            api::Kind::McpClient => Reference::Client(key.namespace.clone(), key.name.clone()),
            _ => return,
        };
        if was != is {
            touched.extend(self.interest.followers(&reference).map(whole));
        }
    }

    fn server_came_or_went(&self, key: &Key, touched: &mut Touched) {
        let reference = Reference::Server(key.namespace.clone(), key.name.clone());
        touched.extend(self.interest.followers(&reference).map(whole));
    }

    /// Finds out anew which path a server claims: its own, or, if it is invalid, the last that it was accepted with.
    fn reclaim(&mut self, key: &Key, touched: &mut Touched) {
        let path = self.sources.get(key).and_then(|source| match &source.outline {
            Outline::Path(path) => Some(path.clone()),
            Outline::Authority(..) | Outline::Client(..) => None,
            Outline::None => self.last_server(&source.id.uid).map(|server| server.path),
        });
        let claim = path.map(|path| (key.namespace.clone(), path));
        let before = self.claimed.remove(key);
        if before == claim {
            self.claimed.extend(claim.map(|claim| (key.clone(), claim)));
            return;
        }
        if let Some(claim) = before
            && let Some(claimants) = self.claims.get_mut(&claim)
        {
            claimants.remove(key);
            touched.extend(claimants.iter().map(whole));
            if claimants.is_empty() {
                self.claims.remove(&claim);
            }
        }
        if let Some(claim) = claim {
            let claimants = self.claims.entry(claim.clone()).or_default();
            touched.extend(claimants.iter().map(whole));
            claimants.insert(key.clone());
            self.claimed.insert(key.clone(), claim);
        }
    }

    /// Takes over what is there, unless something newer is known already. `false`: it was known.
    fn set_present(&mut self, at: &(Kind, String), mut present: Present) -> bool {
        let collection = at.0.collection();
        present.seen.listing = self.listings.1.get(&collection).copied().unwrap_or_default();
        if let Some(known) = self.present.get(at) {
            if known.own_uid == present.own_uid && known.seen >= present.seen {
                return false;
            }
            let (was, mut same) = (known.seen.version, known.clone());
            same.seen.listing = present.seen.listing;
            if same == present {
                self.present.insert(at.clone(), present);
                return false;
            }
            self.forget_version(at, was);
        }
        self.versions.insert((collection, present.seen.version), at.clone());
        if at.0 == Kind::Authority {
            self.told.put(&at.1, &present);
        }
        self.present.insert(at.clone(), present);
        true
    }

    /// Two histories of a cluster may have used a version for two objects.
    fn forget_version(&mut self, at: &(Kind, String), version: u64) {
        let version = (at.0.collection(), version);
        if self.versions.get(&version) == Some(at) {
            self.versions.remove(&version);
        }
    }

    // What is looked up.

    /// An object that people write.
    pub fn source(&self, key: &Key) -> Option<Arc<Source>> {
        self.sources.get(key).cloned()
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: api::Kind) -> usize {
        self.sources.keys().filter(|key| key.kind == kind).count()
    }

    /// Says what `key` looks at, so that it is asked again when that changes.
    pub fn follow(&mut self, key: &Key, references: BTreeSet<Reference>) {
        self.interest.set(key, references);
    }

    /// A trust anchor that is valid in itself.
    pub fn authority(&self, name: &str) -> Option<Arc<Authority>> {
        self.anchor(name).map(|(authority, _)| authority)
    }

    /// How clients are registered at a trust anchor that is valid in itself, if it is an issuer.
    pub fn registration(&self, name: &str) -> Option<Arc<Registration>> {
        self.anchor(name)?.1
    }

    /// The same of every trust anchor that is one, by its name.
    pub fn registrations(&self) -> Vec<(String, Arc<Registration>)> {
        let registration = |source: &Arc<Source>| match &source.outline {
            Outline::Authority(authority, registration) => Some((authority.id.name.clone(), registration.clone()?)),
            Outline::None | Outline::Path(_) | Outline::Client(..) => None,
        };
        self.sources.values().filter_map(registration).collect()
    }

    fn anchor(&self, name: &str) -> Option<(Arc<Authority>, Option<Arc<Registration>>)> {
        let key = Key { kind: api::Kind::McpAuthorizationServer, namespace: String::new(), name: name.to_owned() };
        match &self.sources.get(&key)?.outline {
            Outline::Authority(authority, registration) => Some((authority.clone(), registration.clone())),
            Outline::None | Outline::Path(_) | Outline::Client(..) => None,
        }
    }

    /// The labels of a namespace, if it is known.
    pub fn labels_of(&self, namespace: &str) -> Option<Labels> {
        self.namespaces.get(namespace).cloned()
    }

    /// Whether there is a server of this name, valid or not.
    pub fn has_server(&self, namespace: &str, name: &str) -> bool {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.sources.contains_key(&Key { kind: api::Kind::McpServer, namespace, name })
    }

    /// All servers that claim the path of this one, in order, if they are several.
    pub fn claimants(&self, key: &Key) -> Vec<Key> {
        let claimants = self.claimed.get(key).and_then(|claim| self.claims.get(claim));
        claimants.filter(|claimants| claimants.len() > 1).into_iter().flatten().cloned().collect()
    }

    /// What was last written, or is there, for this source.
    fn last(&self, kind: Kind, uid: &str) -> Option<Generated> {
        let at = (kind, uid.to_owned());
        // What we wrote counts over what somebody made of it.
        match self.wanted.get(&at) {
            Some(wanted) => crate::generated::codec::decode(&wanted.bytes).ok(),
            None => self.present.get(&at)?.decoded(),
        }
    }

    /// The server as it was last accepted.
    pub fn last_server(&self, uid: &str) -> Option<Server> {
        match self.last(Kind::Server, uid)? {
            Generated::Server(server) => Some(server),
            Generated::Policy(_) | Generated::Authority(_) | Generated::Client(_) => None,
        }
    }

    /// The policy as it was last accepted, or what stands of that.
    pub fn last_policy(&self, uid: &str) -> Option<Policy> {
        match self.last(Kind::Policy, uid)? {
            Generated::Policy(policy) => Some(policy),
            Generated::Server(_) | Generated::Authority(_) | Generated::Client(_) => None,
        }
    }

    /// The trust anchor as it was last written, with its keys.
    pub fn last_authority(&self, uid: &str) -> Option<Authority> {
        match self.last(Kind::Authority, uid)? {
            Generated::Authority(authority) => Some(authority),
            Generated::Server(_) | Generated::Policy(_) | Generated::Client(_) => None,
        }
    }

    /// What proxies make of a generated object; `None` while it is not there as it should be.
    pub fn programming(&self, kind: Kind, uid: &str) -> Option<Programming> {
        let at = (kind, uid.to_owned());
        let present = self.present.get(&at).filter(|present| self.wanted.get(&at).is_some_and(|w| present.is(w)))?;
        let since = self.told.itself(uid).filter(|_| kind == Kind::Authority);
        Some(self.proxies.programming(uid, kind, since.unwrap_or(present.seen.version)))
    }

    /// What came of the last look at an object.
    pub fn settled(&self, key: &Key) -> Option<Settled> {
        self.settled.get(key).cloned()
    }

    // What is about to be written, or was.

    /// Says what there should be for a source, and answers whether it is there already.
    pub fn want(&mut self, wanted: &Wanted) -> bool {
        let at = (wanted.kind, wanted.uid.clone());
        let is = self.present.get(&at).is_some_and(|present| present.is(wanted));
        self.wanted.insert(at, wanted.clone());
        is
    }

    /// Says that there should be nothing for a source, and answers what is there: its own UID.
    pub fn want_nothing(&mut self, kind: Kind, uid: &str) -> Option<String> {
        let at = (kind, uid.to_owned());
        self.wanted.remove(&at);
        self.present.get(&at).map(|present| present.own_uid.clone())
    }

    /// Whether a generated object of this source has one.
    pub fn owner(&self, kind: Kind, uid: &str) -> Option<&Key> {
        self.by_uid.get(&(kind, uid.to_owned()))
    }

    /// The version of what is there for a source.
    pub fn version(&self, kind: Kind, uid: &str) -> Option<u64> {
        self.present.get(&(kind, uid.to_owned())).map(|present| present.seen.version)
    }

    /// Something was written. Its source may have gone meanwhile.
    pub fn wrote(&mut self, kind: Kind, uid: &str, present: Present) -> Touched {
        let at = (kind, uid.to_owned());
        self.set_present(&at, present);
        let mut touched = Touched::new();
        self.newly_listed(&at, &mut touched);
        if !self.by_uid.contains_key(&at) {
            touched.push((Subject::Stray(kind, at.1), Depth::Whole));
        }
        touched
    }

    /// A status was written. What else there is in this version is told: it may be more than was known when it was written.
    pub fn spoke(&mut self, key: &Key, uid: &str, version: u64, status: serde_json::Value) {
        let spoken = Seen { listing: self.listing(key.kind), version };
        if let Some(source) = self.sources.get_mut(key)
            && source.id.uid == uid
            && source.spoken < spoken
        {
            let source = Arc::make_mut(source);
            (source.spoken, source.status) = (spoken, status);
        }
    }

    /// Keeps what came of a look at an object, unless it is gone.
    pub fn settle(&mut self, key: &Key, settled: Settled) -> Touched {
        let mut touched = Touched::new();
        if self.sources.contains_key(key) {
            let was = self.settled.insert(key.clone(), settled);
            self.settled_near(key, was.as_ref(), &mut touched);
        }
        touched
    }

    /// Time has passed for the proxies.
    pub fn tick(&mut self, now: Duration) -> Touched {
        let change = self.proxies.tick(now);
        self.proxies_changed(change)
    }
}

#[cfg(test)]
mod tests;
