//! From a principal to the rules that could be about it, without looking at the others.
//!
//! Invariant: a layer finds every rule that could match a principal (and perhaps a few that turn out not to): keys only
//! select candidates, every candidate is then compared in full, so a hash collision can never decide anything.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::request::Target;
use super::rule::{CompiledPolicy, Rule};
use crate::identity::principal::{Groups, Kind, Principal};

/// A place in the index: a hash of what a principal matcher asks for.
pub(crate) type Key = u64;

/// What a principal matcher asks for, as far as the index cares.
#[derive(Hash)]
pub(crate) enum Facet<'a> {
    /// Every authenticated principal, of any authority.
    Anyone,
    /// Every principal of an authority.
    OfAuthority(&'a str),
    /// A person.
    User(&'a str, &'a str),
    /// A client acting for itself.
    Client(&'a str, &'a str),
    /// A ServiceAccount, by its subject.
    ServiceAccount(&'a str, &'a str),
    /// A member of a group.
    Group(&'a str, &'a str),
    /// A principal whose groups are unknown: it may be in every group.
    UnknownGroups(&'a str),
    /// A principal that presents itself through a client.
    Via(&'a str, &'a str),
}

impl Facet<'_> {
    pub(crate) fn key(&self) -> Key {
        hash(self)
    }
}

/// Without a secret: equal in every snapshot, so that the keys of a cached principal stay valid. A caller who finds
/// collisions finds candidates that the full comparison throws out again.
fn hash(value: &impl Hash) -> Key {
    let mut hasher = std::hash::DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Everything under which the index could know a principal. Computed once per verified token; valid for every snapshot,
/// before and after any change of policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalKeys(Box<[Key]>);

impl PrincipalKeys {
    /// The keys of a principal.
    pub fn of(principal: &Principal) -> Self {
        let authority = &*principal.authority;
        let mut keys = vec![Facet::Anyone.key(), Facet::OfAuthority(authority).key()];
        match principal.kind {
            Kind::User => keys.push(Facet::User(authority, &principal.subject).key()),
            Kind::ServiceAccount => keys.push(Facet::ServiceAccount(authority, &principal.subject).key()),
            Kind::Client => keys.extend(principal.client.as_deref().map(|c| Facet::Client(authority, c).key())),
        }
        keys.extend(principal.client.as_deref().map(|c| Facet::Via(authority, c).key()));
        match &principal.groups {
            Groups::Known(groups) => keys.extend(groups.iter().map(|g| Facet::Group(authority, g).key())),
            Groups::Unknown => keys.push(Facet::UnknownGroups(authority).key()),
        }
        keys.sort_unstable();
        keys.dedup();
        Self(keys.into_boxed_slice())
    }

    pub(crate) fn holds(&self, key: Key) -> bool {
        self.0.binary_search(&key).is_ok()
    }
}

/// What a rule about exact names is indexed by, besides its principals. Resources have patterns only.
fn target_key(target: &Target<'_>) -> Option<Key> {
    let (kind, name) = match target {
        Target::Tool { name, .. } => (0u8, name),
        Target::Prompt { name } => (1u8, name),
        Target::Resource { .. } => return None,
    };
    Some(hash(&(kind, name)))
}

/// A principal's key narrowed to one target.
fn narrowed(principal: Key, target: Key) -> Key {
    principal.rotate_left(32) ^ target
}

/// Beyond this many (principal, name) pairs a rule is indexed by its principals alone.
const MAX_PAIRS: usize = 1024;

/// A rule under a key.
#[derive(Clone, Debug)]
struct Edge {
    key: Key,
    rule: Arc<Rule>,
}

/// The edges of one policy, sorted by key.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    sorted: Box<[Edge]>,
    /// How many of them are narrowed to a target.
    narrowed: usize,
}

impl Edges {
    pub(crate) fn of(rules: &[Arc<Rule>]) -> Self {
        let mut edges = Vec::new();
        let mut narrowed_edges = 0;
        for rule in rules {
            let mut push = |key| edges.push(Edge { key, rule: Arc::clone(rule) });
            let principals = rule.principal_keys();
            match rule.exact_targets() {
                Some(targets) if targets.len() * principals.len() <= MAX_PAIRS => {
                    let mut targets: Vec<Key> = targets.iter().filter_map(target_key).collect();
                    targets.sort_unstable();
                    targets.dedup();
                    narrowed_edges += targets.len() * principals.len();
                    for principal in principals {
                        targets.iter().for_each(|target| push(narrowed(principal, *target)));
                    }
                }
                _ => principals.into_iter().for_each(push),
            }
        }
        edges.sort_by_key(|edge| edge.key);
        Self { sorted: edges.into(), narrowed: narrowed_edges }
    }
}

/// Rules that reach a server together, found by principal and target. Shared by all servers that they reach.
///
/// Keys are hashes and so spread evenly: a large layer is cut into [`SHARDS`] by their first byte, and a change copies
/// only the shards that it touches.
#[derive(Clone, Debug)]
pub struct Layer {
    /// One shard, or [`SHARDS`]; each sorted by key.
    shards: Arc<[Arc<[Edge]>]>,
    filter: Filter,
    edges: usize,
    /// How many edges are narrowed to a target; if there are none, none are looked for.
    narrowed: usize,
}

const SHARDS: usize = 256;
/// A layer is cut when it grows beyond this many edges, and joined again below a quarter of it.
const CUT_ABOVE: usize = 1024;

/// Which keys are surely in no edge: a caller has more keys than rules know, and most of them need not be looked for.
#[derive(Clone, Debug, Default)]
struct Filter([u64; 16]);

impl Filter {
    fn of<'e>(edges: impl IntoIterator<Item = &'e Edge>) -> Self {
        let mut filter = Self::default();
        filter.add(edges);
        filter
    }

    fn add<'e>(&mut self, edges: impl IntoIterator<Item = &'e Edge>) {
        for edge in edges {
            let (word, bit) = Self::place(edge.key);
            if let Some(word) = self.0.get_mut(word) {
                *word |= bit;
            }
        }
    }

    fn may_hold(&self, key: Key) -> bool {
        let (word, bit) = Self::place(key);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// By the last bits of a key, since shards are told apart by the first.
    fn place(key: Key) -> (usize, u64) {
        (usize::from((key >> 6) as u8 & 15), 1 << (key & 63))
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self::cut(Vec::new(), 0)
    }
}

impl Layer {
    /// The rules of these policies together.
    pub fn of<'a>(policies: impl IntoIterator<Item = &'a CompiledPolicy>) -> Self {
        let (mut edges, mut narrowed) = (Vec::new(), 0);
        for policy in policies {
            edges.extend_from_slice(&policy.edges.sorted);
            narrowed += policy.edges.narrowed;
        }
        Self::cut(edges, narrowed)
    }

    fn cut(mut edges: Vec<Edge>, narrowed: usize) -> Self {
        edges.sort_by_key(|edge| edge.key);
        let (count, filter) = (edges.len(), Filter::of(&edges));
        let shards = if count > CUT_ABOVE {
            let mut shards = vec![Vec::new(); SHARDS];
            for edge in edges {
                if let Some(shard) = shards.get_mut(shard_of(edge.key)) {
                    shard.push(edge);
                }
            }
            shards.into_iter().map(Arc::from).collect()
        } else {
            Arc::from([Arc::from(edges)])
        };
        Self { shards, filter, edges: count, narrowed }
    }

    /// The same layer with one policy's rules exchanged.
    #[must_use]
    pub fn with(&self, old: Option<&CompiledPolicy>, new: Option<&CompiledPolicy>) -> Self {
        let narrowed_edges = |policy: Option<&CompiledPolicy>| policy.map_or(0, |policy| policy.edges.narrowed);
        let narrowed = (self.narrowed + narrowed_edges(new)).saturating_sub(narrowed_edges(old));
        let old = old.map(|policy| &*policy.edges.sorted).unwrap_or_default();
        let new = new.map(|policy| &*policy.edges.sorted).unwrap_or_default();
        let edges = (self.edges + new.len()).saturating_sub(old.len());
        let fits = if self.shards.len() == 1 { edges <= CUT_ABOVE } else { edges >= CUT_ABOVE / 4 };
        let is_old = |edge: &Edge| old.iter().any(|o| o.key == edge.key && Arc::ptr_eq(&o.rule, &edge.rule));
        if !fits {
            let kept = self.shards.iter().flat_map(|shard| shard.iter()).filter(|edge| !is_old(edge));
            return Self::cut(kept.chain(new).cloned().collect(), narrowed);
        }
        let mut shards = Arc::clone(&self.shards);
        let mut touched: Vec<usize> = old.iter().chain(new).map(|edge| self.place(edge.key)).collect();
        touched.sort_unstable();
        touched.dedup();
        for (index, shard) in Arc::make_mut(&mut shards).iter_mut().enumerate() {
            if touched.binary_search(&index).is_ok() {
                let added = new.iter().filter(|edge| self.place(edge.key) == index);
                let mut edges: Vec<Edge> = shard.iter().filter(|e| !is_old(e)).chain(added).cloned().collect();
                edges.sort_by_key(|edge| edge.key);
                *shard = edges.into();
            }
        }
        // A few bits too many are harmless; in a small layer they are cheap to avoid.
        let mut filter = self.filter.clone();
        match &*shards {
            [only] => filter = Filter::of(only.iter()),
            _ => filter.add(new),
        }
        Self { shards, filter, edges, narrowed }
    }

    fn place(&self, key: Key) -> usize {
        if self.shards.len() == 1 { 0 } else { shard_of(key) }
    }

    /// How many (key, rule) pairs the layer holds.
    pub fn len(&self) -> usize {
        self.edges
    }

    /// Whether no rule is in the layer.
    pub fn is_empty(&self) -> bool {
        self.edges == 0
    }

    fn find(&self, key: Key) -> impl Iterator<Item = &Rule> {
        let shard = self.shards.get(self.place(key)).filter(|_| self.filter.may_hold(key));
        let shard = shard.map(|shard| &**shard).unwrap_or_default();
        let start = shard.partition_point(|edge| edge.key < key);
        shard.iter().skip(start).take_while(move |edge| edge.key == key).map(|edge| &*edge.rule)
    }

    /// Every rule, some of them more than once.
    fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|edge| &edge.rule)
    }
}

fn shard_of(key: Key) -> usize {
    usize::from(key.to_be_bytes()[0])
}

/// The layers of one server, in no particular order: fleet, namespace, own. Borrowed from a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'a> {
    /// The layers; each may be empty.
    pub layers: [&'a Layer; 3],
    /// Why every call is denied, whatever the rules say: an invalid, never accepted policy reaches this server.
    pub denied: Option<&'a str>,
}

impl<'a> Layers<'a> {
    /// Every rule that could be about this principal and target, perhaps more than once, and some that are not.
    pub(crate) fn candidates(&self, keys: &PrincipalKeys, target: &Target<'_>, mut each: impl FnMut(&'a Rule)) {
        let any_narrowed = self.layers.iter().any(|layer| layer.narrowed > 0);
        let target = any_narrowed.then(|| target_key(target)).flatten();
        for layer in self.layers.iter().filter(|layer| !layer.is_empty()) {
            let target = target.filter(|_| layer.narrowed > 0);
            for key in &keys.0 {
                layer.find(*key).for_each(&mut each);
                if let Some(target) = target {
                    layer.find(narrowed(*key, target)).for_each(&mut each);
                }
            }
        }
    }

    /// Every rule that reaches the server, once, in the order of their names.
    pub fn rules(&self) -> Vec<Arc<Rule>> {
        let mut rules: Vec<Arc<Rule>> = self.layers.iter().flat_map(|layer| layer.rules()).map(Arc::clone).collect();
        rules.sort_by(|a, b| (&a.reference, Arc::as_ptr(a)).cmp(&(&b.reference, Arc::as_ptr(b))));
        rules.dedup_by(|a, b| Arc::ptr_eq(a, b));
        rules
    }
}
