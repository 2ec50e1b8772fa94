//! The join.
//!
//! A server has three layers of rules. *Fleet*: guardrails that reach every server there is. *Group*: whatever reaches
//! every server of its namespace, shared by the servers of a namespace with equal namespace labels. *Own*: whatever
//! reaches it by name or by label. A change therefore copies a layer once, however many servers share it, and a server
//! holds no rule that it shares with others.
//!
//! Where the labels of a namespace are not known, a guardrail that asks for them reaches with the rules that narrow and
//! not with those that grant (design 4: an Allow matches nothing, the others everything that they could).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::shard_map::ShardMap;
use crate::generated::policy::{Standing, Targets};
use crate::generated::{Authority, Labels, Policy, Server};
use crate::policy::index::{Layer, Layers};
use crate::policy::rule::{CompileError, CompiledPolicy, compile};
use crate::policy::selector::{matches_namespace, reach, selects_all};
use crate::policy::tri::Tri;

/// All servers, policies and authorities, joined. Cloning is cheap, and a clone changes independently: publish one
/// behind an `ArcSwap`, fork it to ask what a change would do.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    /// By UID.
    servers: ShardMap<Arc<Entry>>,
    /// UIDs of the servers that claim a path.
    paths: ShardMap<Arc<[Arc<str>]>>,
    namespaces: ShardMap<Arc<Namespace>>,
    /// By [`group_key`].
    groups: ShardMap<Arc<Group>>,
    /// By UID.
    policies: ShardMap<Arc<Member>>,
    /// The policies with a namespace selector, by UID.
    guardrails: ShardMap<Arc<Member>>,
    fleet: Arc<Layer>,
    /// Why every server denies, by source: a guardrail's UID, or what [`Fleet::deny_all`] was told.
    denials: Arc<BTreeMap<String, Arc<str>>>,
    /// By UID.
    authorities: Arc<BTreeMap<String, Arc<Authority>>>,
}

/// One server and the rules that reach it, borrowed from a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Served<'a> {
    /// The server; clone the `Arc` to keep it across an `await`.
    pub server: &'a Arc<Server>,
    /// The rules that reach it, for [`crate::policy::evaluate::evaluate`].
    pub layers: Layers<'a>,
    fleet: &'a Fleet,
}

impl<'a> Served<'a> {
    /// Whether nothing that could change a decision lies between the two, as is seen at once of forks of one snapshot.
    pub fn decides_as(&self, other: &Served<'_>) -> bool {
        // A layer or a server that changed is another object.
        Arc::ptr_eq(self.server, other.server)
            && self.layers.layers.iter().zip(other.layers.layers).all(|(a, b)| std::ptr::eq(*a, b))
            && self.layers.denied == other.layers.denied
    }

    /// The guardrails of which it is not known whether they reach the server, by name: the labels of its namespace are
    /// not known. What narrows of them counts, what grants does not.
    pub fn in_doubt(&self) -> Vec<&'a Policy> {
        let doubtful = |member: &&Arc<Member>| match (member.part_at(self.server), &member.narrowing) {
            (Some(part), Some(narrowing)) => std::ptr::eq(part, narrowing),
            _ => false,
        };
        let mut policies: Vec<&Policy> =
            self.fleet.guardrails.values().filter(doubtful).map(|member| member.policy()).collect();
        policies.sort_by_key(|policy| (&policy.id.namespace, &policy.id.name));
        policies
    }
}

/// What decisions about one server rest on: two of them are equal if nothing that could change a grant lies between.
#[derive(Clone, Debug)]
pub struct Basis {
    server: Arc<Server>,
    layers: [Arc<Layer>; 3],
    denied: Option<Arc<str>>,
}

impl PartialEq for Basis {
    fn eq(&self, other: &Self) -> bool {
        // A layer or a server that changed is another object.
        Arc::ptr_eq(&self.server, &other.server)
            && self.layers.iter().zip(&other.layers).all(|(a, b)| Arc::ptr_eq(a, b))
            && self.denied == other.denied
    }
}

#[derive(Debug)]
struct Entry {
    server: Arc<Server>,
    group: Arc<str>,
    own: Arc<Layer>,
}

#[derive(Clone, Debug, Default)]
struct Namespace {
    /// UIDs of the servers with a name.
    names: ShardMap<Arc<[Arc<str>]>>,
    /// Keys of its groups, and how many servers each has.
    groups: Arc<BTreeMap<Arc<str>, usize>>,
    /// Policies that reach only this namespace, whole: by UID.
    whole: ShardMap<Arc<Member>>,
    /// Those that select servers by label.
    selecting: ShardMap<Arc<Member>>,
    /// Those that name servers, by server name.
    naming: ShardMap<ShardMap<Arc<Member>>>,
    /// Why it denies, by the UID of the policy that could never be read.
    denials: Arc<BTreeMap<Arc<str>, Arc<str>>>,
}

#[derive(Clone, Debug)]
struct Group {
    namespace: Arc<str>,
    labels: Option<Labels>,
    layer: Arc<Layer>,
    denied: Option<Arc<str>>,
}

/// A policy and where it reaches.
#[derive(Debug)]
struct Member {
    compiled: CompiledPolicy,
    /// What counts of a guardrail where it is not known whether it reaches.
    narrowing: Option<CompiledPolicy>,
    reach: Reach,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Every server.
    Fleet,
    /// Every server of some namespaces.
    Groups,
    /// Some servers of some namespaces.
    Servers,
    /// Could never be read: its namespace, or for a guardrail every server, denies.
    Denial,
}

impl Member {
    fn new(compiled: CompiledPolicy) -> Self {
        let policy = &compiled.source;
        let everywhere = policy.targets.namespaces.as_ref().is_some_and(selects_all);
        let whole = policy.targets.selector.as_ref().is_some_and(selects_all);
        let reach = match (&policy.standing, everywhere, whole) {
            (Standing::DenyAll { .. }, ..) => Reach::Denial,
            (_, true, true) => Reach::Fleet,
            (_, false, true) => Reach::Groups,
            (_, _, false) => Reach::Servers,
        };
        let narrowing = policy.targets.namespaces.as_ref().map(|_| compiled.narrowing());
        Self { compiled, narrowing, reach }
    }

    fn policy(&self) -> &Policy {
        &self.compiled.source
    }

    fn targets(&self) -> &Targets {
        &self.policy().targets
    }

    /// What counts of the policy in a namespace, if anything does.
    fn part_in(&self, namespace: &str, labels: Option<&Labels>) -> Option<&CompiledPolicy> {
        let Some(selector) = &self.targets().namespaces else {
            return (self.policy().id.namespace == namespace).then_some(&self.compiled);
        };
        match matches_namespace(selector, namespace, labels) {
            Tri::Yes => Some(&self.compiled),
            Tri::Unknown => self.narrowing.as_ref(),
            Tri::No => None,
        }
    }

    /// What counts of the policy at a server, if anything does.
    fn part_at(&self, server: &Server) -> Option<&CompiledPolicy> {
        match reach(self.policy(), server) {
            Tri::Yes => Some(&self.compiled),
            Tri::Unknown => self.narrowing.as_ref(),
            Tri::No => None,
        }
    }
}

impl Fleet {
    /// Puts a server, replacing the one with the same UID.
    pub fn put_server(&mut self, server: Server) {
        let known = self.servers.get(&server.id.uid).map(Arc::clone);
        if let Some(known) = &known {
            // Nothing that the join depends on has changed: its rules stay.
            if joins_alike(&known.server, &server) {
                let entry =
                    Entry { server: Arc::new(server), group: Arc::clone(&known.group), own: Arc::clone(&known.own) };
                return self.servers.insert(&entry.server.id.uid.clone(), Arc::new(entry));
            }
            self.remove_server(&known.server.id.uid);
        }
        let uid: Arc<str> = server.id.uid.as_str().into();
        claim(&mut self.paths, &server.path, &uid);
        let group = group_key(&server);
        self.change_namespace(&server.id.namespace, |namespace| {
            claim(&mut namespace.names, &server.id.name, &uid);
            *Arc::make_mut(&mut namespace.groups).entry(Arc::clone(&group)).or_default() += 1;
        });
        if self.groups.get(&group).is_none() {
            let built = self.build_group(&server.id.namespace, server.namespace_labels.as_ref());
            self.groups.insert(&group, Arc::new(built));
        }
        let own = self.build_own(&server);
        self.servers.insert(&uid, Arc::new(Entry { server: Arc::new(server), group, own }));
    }

    /// Removes a server.
    pub fn remove_server(&mut self, uid: &str) {
        let Some(entry) = self.servers.remove(uid) else { return };
        let server = &entry.server;
        release(&mut self.paths, &server.path, uid);
        let mut group_is_empty = false;
        self.change_namespace(&server.id.namespace, |namespace| {
            release(&mut namespace.names, &server.id.name, uid);
            let groups = Arc::make_mut(&mut namespace.groups);
            if let Some(count) = groups.get_mut(&entry.group) {
                *count = count.saturating_sub(1);
                group_is_empty = *count == 0;
            }
            if group_is_empty {
                groups.remove(&entry.group);
            }
        });
        if group_is_empty {
            self.groups.remove(&entry.group);
        }
    }

    /// Puts a policy, replacing the one with the same UID. One that cannot be compiled denies its namespace, or for a
    /// guardrail every server, until it is replaced or removed; the errors say why.
    pub fn put_policy(&mut self, policy: Policy) -> Result<(), Vec<CompileError>> {
        let policy = Arc::new(policy);
        let (compiled, outcome) = match compile(Arc::clone(&policy)) {
            Ok(compiled) => (Ok(compiled), Ok(())),
            Err(errors) => {
                let reason = errors.first().map_or("PolicyInvalid", CompileError::reason).to_owned();
                let denying = Policy { standing: Standing::DenyAll { reason }, ..Policy::clone(&policy) };
                (compile(Arc::new(denying)), Err(errors))
            }
        };
        let new = compiled.map(|compiled| Arc::new(Member::new(compiled)))?;
        let old = self.policies.get(&policy.id.uid).map(Arc::clone);
        self.policies.insert(&policy.id.uid, Arc::clone(&new));
        self.exchange(old.as_ref(), Some(&new));
        outcome
    }

    /// Removes a policy.
    pub fn remove_policy(&mut self, uid: &str) {
        let old = self.policies.remove(uid);
        self.exchange(old.as_ref(), None);
    }

    /// Puts an authority, replacing the one with the same UID.
    pub fn put_authority(&mut self, authority: Authority) {
        Arc::make_mut(&mut self.authorities).insert(authority.id.uid.clone(), Arc::new(authority));
    }

    /// Removes an authority.
    pub fn remove_authority(&mut self, uid: &str) {
        Arc::make_mut(&mut self.authorities).remove(uid);
    }

    /// Denies every call to every server until [`Fleet::clear_denial`] of the same source, for example a file that was
    /// never read. `reason` is a stable word.
    pub fn deny_all(&mut self, source: &str, reason: &str) {
        Arc::make_mut(&mut self.denials).insert(format!("told:{source}"), reason.into());
    }

    /// Takes back [`Fleet::deny_all`] of this source.
    pub fn clear_denial(&mut self, source: &str) {
        Arc::make_mut(&mut self.denials).remove(&format!("told:{source}"));
    }

    /// The same fleet after a change, which this one does not see.
    #[must_use]
    pub fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut fork = self.clone();
        change(&mut fork);
        fork
    }

    /// The server at an exact path such as `/team-a/github`; `None` if there is none, or if several claim the path.
    pub fn lookup(&self, path: &str) -> Option<Served<'_>> {
        self.the_one(self.paths.get(path)?)
    }

    /// The servers that claim an exact path: one, or none of them is served.
    pub fn claimants(&self, path: &str) -> impl Iterator<Item = &Arc<Server>> {
        let claims = self.paths.get(path).into_iter().flat_map(|uids| uids.iter());
        claims.filter_map(|uid| self.server(uid))
    }

    /// The server with this UID.
    pub fn server(&self, uid: &str) -> Option<&Arc<Server>> {
        self.servers.get(uid).map(|entry| &entry.server)
    }

    /// What decisions about the server at an exact path rest on, to keep and compare with a later one.
    pub fn basis(&self, path: &str) -> Option<Basis> {
        let [uid] = &**self.paths.get(path)? else { return None };
        let entry = self.servers.get(uid)?;
        let group = self.groups.get(&entry.group)?;
        Some(Basis {
            server: Arc::clone(&entry.server),
            layers: [&self.fleet, &group.layer, &entry.own].map(Arc::clone),
            denied: self.denied(group).map(Arc::clone),
        })
    }

    /// The server with this name.
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<Served<'_>> {
        self.the_one(self.namespaces.get(namespace)?.names.get(name)?)
    }

    /// All servers, in no particular order, those included that share a path and so are not served.
    pub fn servers(&self) -> impl Iterator<Item = Served<'_>> {
        self.servers.values().filter_map(|entry| self.served(entry))
    }

    /// How many servers there are.
    pub fn server_count(&self) -> usize {
        self.servers.len()
    }

    /// All policies, as they were put, in no particular order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values().map(|member| &member.compiled.source)
    }

    /// The authority with this name; `None` also if several have it.
    pub fn authority(&self, name: &str) -> Option<&Arc<Authority>> {
        let mut named = self.authorities.values().filter(|authority| authority.id.name == name);
        named.next().filter(|_| named.next().is_none())
    }

    /// All authorities, in the order of their UIDs.
    pub fn authorities(&self) -> impl Iterator<Item = &Arc<Authority>> {
        self.authorities.values()
    }

    fn the_one(&self, uids: &[Arc<str>]) -> Option<Served<'_>> {
        match uids {
            [uid] => self.served(self.servers.get(uid)?),
            _ => None,
        }
    }

    fn served<'a>(&'a self, entry: &'a Entry) -> Option<Served<'a>> {
        let group = self.groups.get(&entry.group)?;
        let denied = self.denied(group).map(|reason| &**reason);
        let layers = Layers { layers: [&self.fleet, &group.layer, &entry.own], denied };
        Some(Served { server: &entry.server, layers, fleet: self })
    }

    fn denied<'a>(&'a self, group: &'a Group) -> Option<&'a Arc<str>> {
        self.denials.values().next().or(group.denied.as_ref())
    }

    fn change_namespace(&mut self, name: &str, change: impl FnOnce(&mut Namespace)) {
        let mut namespace = self.namespaces.get(name).map(|known| Namespace::clone(known)).unwrap_or_default();
        change(&mut namespace);
        if namespace.is_empty() {
            self.namespaces.remove(name);
        } else {
            self.namespaces.insert(name, Arc::new(namespace));
        }
    }

    fn build_group(&self, namespace: &str, labels: Option<&Labels>) -> Group {
        let known = self.namespaces.get(namespace);
        let own = known.into_iter().flat_map(|known| known.whole.values());
        let guardrails = self.guardrails.values().filter(|member| member.reach == Reach::Groups);
        Group {
            namespace: namespace.into(),
            labels: labels.cloned(),
            layer: Arc::new(Layer::of(own.chain(guardrails).filter_map(|member| member.part_in(namespace, labels)))),
            denied: known.and_then(|known| known.denials.values().next().map(Arc::clone)),
        }
    }

    fn build_own(&self, server: &Server) -> Arc<Layer> {
        let mut reaching: BTreeMap<&str, &CompiledPolicy> = BTreeMap::new();
        let namespace = self.namespaces.get(&server.id.namespace);
        let selecting = namespace.into_iter().flat_map(|namespace| namespace.selecting.values());
        let naming = namespace.and_then(|namespace| namespace.naming.get(&server.id.name));
        let naming = naming.into_iter().flat_map(|members| members.values());
        for member in selecting.chain(naming).chain(self.guardrails.values()) {
            if let Some(part) = member.part_at(server).filter(|_| member.reach == Reach::Servers) {
                reaching.insert(&member.policy().id.uid, part);
            }
        }
        Arc::new(Layer::of(reaching.into_values()))
    }

    /// Exchanges one policy for another of the same UID wherever either reaches.
    fn exchange(&mut self, old: Option<&Arc<Member>>, new: Option<&Arc<Member>>) {
        for (member, is_new) in [(old, false), (new, true)] {
            if let Some(member) = member {
                self.register(member, is_new);
            }
        }
        let within = |reach: Reach| move |member: &&Arc<Member>| member.reach == reach;
        let (old_fleet, new_fleet) = (old.filter(within(Reach::Fleet)), new.filter(within(Reach::Fleet)));
        if old_fleet.is_some() || new_fleet.is_some() {
            self.fleet = Arc::new(self.fleet.with(old_fleet.map(|m| &m.compiled), new_fleet.map(|m| &m.compiled)));
        }
        self.exchange_in_groups(old.filter(within(Reach::Groups)), new.filter(within(Reach::Groups)));
        self.exchange_in_servers(old.filter(within(Reach::Servers)), new.filter(within(Reach::Servers)));
    }

    /// Enters a policy into the tables from which layers of later servers are built, or takes it out.
    fn register(&mut self, member: &Arc<Member>, enter: bool) {
        let policy = member.policy();
        let uid: Arc<str> = policy.id.uid.as_str().into();
        match (&policy.standing, &policy.targets.namespaces) {
            (Standing::DenyAll { reason }, _) if policy.guardrail => {
                let denials = Arc::make_mut(&mut self.denials);
                let source = format!("policy:{uid}");
                if enter {
                    denials.insert(source, reason.as_str().into())
                } else {
                    denials.remove(&source)
                };
            }
            (Standing::DenyAll { reason }, _) => {
                let reason: Arc<str> = reason.as_str().into();
                self.change_namespace(&policy.id.namespace, |namespace| {
                    let denials = Arc::make_mut(&mut namespace.denials);
                    if enter {
                        denials.insert(uid, reason)
                    } else {
                        denials.remove(&uid)
                    };
                });
                self.refresh_denials(&policy.id.namespace);
            }
            (_, Some(_)) => enter_or_take(&mut self.guardrails, member, enter),
            (_, None) => self.change_namespace(&policy.id.namespace, |namespace| namespace.register(member, enter)),
        }
    }

    fn refresh_denials(&mut self, namespace: &str) {
        let Some(known) = self.namespaces.get(namespace).map(Arc::clone) else { return };
        for key in known.groups.keys() {
            if let Some(group) = self.groups.get(key) {
                let denied = known.denials.values().next().map(Arc::clone);
                let group = Group { denied, ..Group::clone(group) };
                self.groups.insert(key, Arc::new(group));
            }
        }
    }

    fn exchange_in_groups<'m>(&mut self, old: Option<&'m Arc<Member>>, new: Option<&'m Arc<Member>>) {
        for key in self.groups_in_reach(old, new) {
            let Some(group) = self.groups.get(&key) else { continue };
            let part = |member: &'m Arc<Member>| member.part_in(&group.namespace, group.labels.as_ref());
            let (old, new) = (old.and_then(part), new.and_then(part));
            if old.is_some() || new.is_some() {
                let group = Group { layer: Arc::new(group.layer.with(old, new)), ..Group::clone(group) };
                self.groups.insert(&key, Arc::new(group));
            }
        }
    }

    fn groups_in_reach(&self, old: Option<&Arc<Member>>, new: Option<&Arc<Member>>) -> Vec<Arc<str>> {
        let mut keys: Vec<Arc<str>> = Vec::new();
        for member in old.into_iter().chain(new) {
            self.namespaces_in_reach(member, |namespace| keys.extend(namespace.groups.keys().map(Arc::clone)));
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// The namespaces in which a policy could reach something.
    fn namespaces_in_reach(&self, member: &Member, each: impl FnMut(&Arc<Namespace>)) {
        match &member.targets().namespaces {
            Some(_) => self.namespaces.values().for_each(each),
            None => self.namespaces.get(&member.policy().id.namespace).into_iter().for_each(each),
        }
    }

    fn exchange_in_servers(&mut self, old: Option<&Arc<Member>>, new: Option<&Arc<Member>>) {
        let mut uids: Vec<Arc<str>> = Vec::new();
        for member in old.into_iter().chain(new) {
            self.namespaces_in_reach(member, |namespace| namespace.servers_of(member, &mut uids));
        }
        uids.sort_unstable();
        uids.dedup();
        for uid in uids {
            let Some(entry) = self.servers.get(&uid) else { continue };
            let (old, new) = (old.and_then(|m| m.part_at(&entry.server)), new.and_then(|m| m.part_at(&entry.server)));
            if old.is_some() || new.is_some() {
                let own = Arc::new(entry.own.with(old, new));
                let entry = Entry { server: Arc::clone(&entry.server), group: Arc::clone(&entry.group), own };
                self.servers.insert(&uid, Arc::new(entry));
            }
        }
    }
}

impl Namespace {
    fn is_empty(&self) -> bool {
        self.groups.is_empty()
            && self.whole.is_empty()
            && self.selecting.is_empty()
            && self.naming.is_empty()
            && self.denials.is_empty()
    }

    fn register(&mut self, member: &Arc<Member>, enter: bool) {
        if member.reach == Reach::Groups {
            return enter_or_take(&mut self.whole, member, enter);
        }
        if member.targets().selector.is_some() {
            enter_or_take(&mut self.selecting, member, enter);
        }
        for server in &member.targets().servers {
            let mut naming = self.naming.get(server).cloned().unwrap_or_default();
            enter_or_take(&mut naming, member, enter);
            if naming.is_empty() {
                self.naming.remove(server);
            } else {
                self.naming.insert(server, naming);
            }
        }
    }

    /// The servers that a policy could reach, some that it does not.
    fn servers_of(&self, member: &Member, uids: &mut Vec<Arc<str>>) {
        if member.targets().selector.is_some() {
            uids.extend(self.names.values().flat_map(|uids| uids.iter()).map(Arc::clone));
        } else {
            let named = member.targets().servers.iter().filter_map(|name| self.names.get(name));
            uids.extend(named.flat_map(|uids| uids.iter()).map(Arc::clone));
        }
    }
}

fn enter_or_take(table: &mut ShardMap<Arc<Member>>, member: &Arc<Member>, enter: bool) {
    let uid = &member.policy().id.uid;
    if enter {
        table.insert(uid, Arc::clone(member));
    } else {
        table.remove(uid);
    }
}

fn claim(claims: &mut ShardMap<Arc<[Arc<str>]>>, key: &str, uid: &Arc<str>) {
    let others = claims.get(key).map(|claims| &**claims).unwrap_or_default();
    let claimed = others.iter().chain([uid]).map(Arc::clone).collect();
    claims.insert(key, claimed);
}

fn release(claims: &mut ShardMap<Arc<[Arc<str>]>>, key: &str, uid: &str) {
    let left: Arc<[Arc<str>]> =
        claims.get(key).into_iter().flat_map(|claims| claims.iter()).filter(|c| &***c != uid).map(Arc::clone).collect();
    if left.is_empty() {
        claims.remove(key);
    } else {
        claims.insert(key, left);
    }
}

/// Whether two versions of a server have the same place, names and labels.
fn joins_alike(a: &Server, b: &Server) -> bool {
    a.path == b.path
        && (&a.id.namespace, &a.id.name) == (&b.id.namespace, &b.id.name)
        && (&a.labels, &a.namespace_labels) == (&b.labels, &b.namespace_labels)
}

/// Servers of one namespace whose namespace had equal labels when they were resolved. No label, and no name of a
/// namespace, holds a control character.
fn group_key(server: &Server) -> Arc<str> {
    let unknown = server.namespace_labels.is_none().then(|| "\0?".to_owned());
    let labels = server.namespace_labels.iter().flatten().map(|(key, value)| format!("\0{key}\0{value}"));
    std::iter::once(server.id.namespace.clone()).chain(unknown).chain(labels).collect::<String>().into()
}
