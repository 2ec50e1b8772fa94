//! The policies and servers of each namespace, and which policies may come to something else than when they were looked at.
//!
//! Invariant: noting a change costs the same however much depends on it, so that a fleet that is told of at once costs what
//! it holds. Whom the changes since touch is found in one go, when nothing more urgent is left to do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::api::Key;
use crate::generated::policy::Targets;
use crate::generated::{Labels, Policy};
use crate::policy::selector::matches;
use crate::resolve::reach::{MOST_SERVERS, asks_others};

/// How many changed servers of a namespace are told apart: who does not lead notes changes, too, and nobody asks for them.
const MOST_NAMES: usize = 1024;

/// What there is in all namespaces.
#[derive(Default)]
pub(super) struct Near {
    namespaces: HashMap<String, Namespace>,
    /// Policies that choose namespaces.
    guardrails: BTreeMap<Key, Arc<Policy>>,
}

/// What there is in one namespace, by name.
#[derive(Default)]
struct Namespace {
    servers: BTreeMap<String, Labels>,
    policies: BTreeMap<String, Arc<Policy>>,
    /// By the server: the policies that name it, whether it is there or not.
    naming: BTreeMap<String, BTreeSet<String>>,
    /// Policies that choose servers by label.
    choosing: BTreeSet<String>,
    /// Policies that come to something else if others do.
    asking: BTreeSet<String>,
    /// Servers that are others than before.
    servers_changed: Servers,
    /// Servers at which policies are others than before.
    policies_changed: Servers,
}

/// Some servers, or all.
#[derive(Default)]
struct Servers {
    all: bool,
    names: BTreeSet<String>,
}

impl Servers {
    fn add(&mut self, name: &str) {
        if !self.all {
            self.names.insert(name.to_owned());
        }
        if self.names.len() > MOST_NAMES {
            self.add_all();
        }
    }

    fn add_all(&mut self) {
        *self = Self { all: true, names: BTreeSet::new() };
    }

    fn add_reached(&mut self, targets: &Targets) {
        match targets.selector {
            Some(_) => self.add_all(),
            None => targets.servers.iter().for_each(|name| self.add(name)),
        }
    }
}

impl Near {
    /// A server is there, with these labels, or gone.
    pub(super) fn put_server(&mut self, namespace: &str, name: &str, labels: Option<Labels>) {
        let near = self.of(namespace);
        match labels {
            Some(labels) => drop(near.servers.insert(name.to_owned(), labels)),
            None => drop(near.servers.remove(name)),
        }
        near.servers_changed.add(name);
    }

    /// What is known of a server is something else.
    pub(super) fn server_changed(&mut self, namespace: &str, name: &str) {
        self.of(namespace).servers_changed.add(name);
    }

    /// Guardrails may reach other servers of a namespace than before.
    pub(super) fn namespace_changed(&mut self, namespace: &str) {
        if let Some(near) = self.namespaces.get_mut(namespace) {
            near.policies_changed.add_all();
        }
    }

    /// A policy is there, or gone. Answers with the namespaces in which that may mean something.
    pub(super) fn put_policy(&mut self, key: &Key, policy: Option<Arc<Policy>>) -> Vec<String> {
        let chooses = |policy: &Arc<Policy>| policy.targets.namespaces.is_some();
        let guardrail = policy.clone().filter(chooses);
        let was = match &guardrail {
            Some(guardrail) => self.guardrails.insert(key.clone(), guardrail.clone()),
            None => self.guardrails.remove(key),
        };
        let mut touched = Vec::new();
        if was != guardrail {
            for (namespace, near) in self.namespaces.iter_mut().filter(|(_, near)| !near.asking.is_empty()) {
                near.policies_changed.add_all();
                touched.push(namespace.clone());
            }
        }
        if self.of(&key.namespace).put_policy(&key.name, policy.filter(|policy| !chooses(policy))) {
            touched.push(key.namespace.clone());
        }
        touched
    }

    /// A policy that chooses no namespaces.
    pub(super) fn policy(&self, key: &Key) -> Option<&Arc<Policy>> {
        self.namespaces.get(&key.namespace)?.policies.get(&key.name)
    }

    /// The servers that a policy reaches, by name; `None`: too many to be looked at.
    pub(super) fn reached(&self, policy: &Policy) -> Option<Vec<&str>> {
        let Some(near) = self.namespaces.get(&policy.id.namespace) else { return Some(Vec::new()) };
        let Targets { servers, selector, .. } = &policy.targets;
        let Some(selector) = selector else {
            let there = servers.iter().filter_map(|name| near.servers.get_key_value(name));
            return Some(there.map(|(name, _)| name.as_str()).collect());
        };
        let reached = near.servers.iter().filter(|(name, labels)| matches(selector, labels) || servers.contains(name));
        let reached: Vec<&str> = reached.map(|(name, _)| name.as_str()).take(MOST_SERVERS + 1).collect();
        (reached.len() <= MOST_SERVERS).then_some(reached)
    }

    /// The policies that could reach one of these servers of a namespace.
    pub(super) fn reaching(&self, namespace: &str, servers: &[&str]) -> Vec<Arc<Policy>> {
        let mut found: Vec<Arc<Policy>> = self.guardrails.values().cloned().collect();
        if let Some(near) = self.namespaces.get(namespace) {
            let naming = servers.iter().filter_map(|name| near.naming.get(*name)).flatten();
            let names: BTreeSet<&String> = naming.chain(&near.choosing).collect();
            found.extend(names.into_iter().filter_map(|name| near.policies.get(name)).cloned());
        }
        found
    }

    /// The policies of a namespace that may come to something else since this was asked last.
    pub(super) fn take_changed(&mut self, namespace: &str) -> BTreeSet<String> {
        let Some(near) = self.namespaces.get_mut(namespace) else { return BTreeSet::new() };
        let (servers, policies) =
            (std::mem::take(&mut near.servers_changed), std::mem::take(&mut near.policies_changed));
        let mut found: BTreeSet<String> = near.concerned(&servers).cloned().collect();
        found.extend(near.concerned(&policies).filter(|name| near.asking.contains(*name)).cloned());
        if near.servers.is_empty() && near.policies.is_empty() {
            self.namespaces.remove(namespace);
        }
        found
    }

    /// All policies are looked at in any case.
    pub(super) fn forget_changes(&mut self) {
        for near in self.namespaces.values_mut() {
            (near.servers_changed, near.policies_changed) = (Servers::default(), Servers::default());
        }
        self.namespaces.retain(|_, near| !near.servers.is_empty() || !near.policies.is_empty());
    }

    fn of(&mut self, namespace: &str) -> &mut Namespace {
        self.namespaces.entry(namespace.to_owned()).or_default()
    }
}

impl Namespace {
    /// Answers whether that may mean something to others.
    fn put_policy(&mut self, name: &str, policy: Option<Arc<Policy>>) -> bool {
        let was = self.policies.remove(name);
        if was == policy {
            self.policies.extend(policy.map(|policy| (name.to_owned(), policy)));
            return false;
        }
        let targets: Vec<Targets> = was.iter().chain(&policy).map(|policy| policy.targets.clone()).collect();
        if let Some(was) = was {
            for server in &was.targets.servers {
                if let Some(names) = self.naming.get_mut(server) {
                    names.remove(name);
                    if names.is_empty() {
                        self.naming.remove(server);
                    }
                }
            }
            self.choosing.remove(name);
            self.asking.remove(name);
        }
        if let Some(policy) = policy {
            for server in &policy.targets.servers {
                self.naming.entry(server.clone()).or_default().insert(name.to_owned());
            }
            if policy.targets.selector.is_some() {
                self.choosing.insert(name.to_owned());
            }
            if asks_others(&policy) {
                self.asking.insert(name.to_owned());
            }
            self.policies.insert(name.to_owned(), policy);
        }
        let means_something = !self.asking.is_empty();
        targets.iter().filter(|_| means_something).for_each(|targets| self.policies_changed.add_reached(targets));
        means_something
    }

    /// The policies that reach, or reached, one of these servers.
    fn concerned<'a>(&'a self, servers: &'a Servers) -> Box<dyn Iterator<Item = &'a String> + 'a> {
        if servers.all {
            return Box::new(self.policies.keys());
        }
        let naming = servers.names.iter().filter_map(|server| self.naming.get(server)).flatten();
        let choosing = self.choosing.iter().filter(|_| !servers.names.is_empty());
        Box::new(naming.chain(choosing))
    }
}
