//! What has to be known of others to say what a policy comes to where it reaches.
//!
//! Invariant: all of it is as it was last told and read. Where a lock was not read since its server changed, nothing is
//! taken for known; and what is looked at for one policy is bounded by what reaches the same servers.

use std::borrow::Cow;
use std::sync::Arc;

use super::source::{Outline, Source};
use super::{Depth, Settled, Store, Subject, Touched};
use crate::api;
use crate::api::Key;
use crate::controller::server::Reviewed;
use crate::generated::{Labels, ObjectId, Policy};
use crate::resolve::reach::{self, Place};
use crate::resolve::{self, Findings, Lookup};

/// Whether it can be said what a policy comes to where it reaches.
pub enum Reaching {
    /// Of such a policy nothing is said.
    Unsaid,
    /// Not yet: a server is about to be looked at.
    NotYet,
    /// By these.
    Around(Around),
}

/// A policy and what there is where it reaches, as of one moment.
pub struct Around {
    policy: Arc<Policy>,
    others: Vec<Arc<Policy>>,
    servers: Vec<Site>,
}

struct Site {
    source: Arc<Source>,
    reviewed: Option<Arc<Reviewed>>,
    namespace_labels: Option<Labels>,
}

impl Around {
    /// What is to be said of it.
    pub fn findings(&self) -> Findings {
        let (nothing, unlabelled) = (Default::default(), Labels::new());
        let places: Vec<Place<'_>> = self.servers.iter().map(|site| site.place(&nothing, &unlabelled)).collect();
        let places: Vec<&Place<'_>> = places.iter().collect();
        reach::of_policy(&self.policy, self.others.iter().map(Arc::as_ref), &places)
    }
}

impl Site {
    fn place<'a>(&'a self, nothing: &'a crate::tools::lock::Required, unlabelled: &'a Labels) -> Place<'a> {
        let labels = self.source.server().and_then(|server| server.metadata.labels.as_ref());
        Place {
            id: &self.source.id,
            labels: labels.unwrap_or(unlabelled),
            namespace_labels: self.namespace_labels.as_ref(),
            lock: self.reviewed.as_ref().map(|reviewed| &reviewed.lock),
            required: Cow::Borrowed(self.reviewed.as_ref().map_or(nothing, |reviewed| &reviewed.required)),
        }
    }
}

impl Store {
    /// What a policy that was looked at comes to where it reaches. `id` says which state of it.
    pub fn reaching(&self, key: &Key, id: &ObjectId) -> Reaching {
        if self.sources.get(key).is_none_or(|source| source.id != *id) {
            return Reaching::NotYet;
        }
        let Some(policy) = self.near.policy(key).filter(|policy| reach::is_judged(policy)) else {
            return Reaching::Unsaid;
        };
        let Some(reached) = self.near.reached(policy) else { return Reaching::Unsaid };
        let mut servers = Vec::with_capacity(reached.len());
        for name in &reached {
            let (namespace, name) = (key.namespace.clone(), (*name).to_owned());
            match self.site(&Key { kind: api::Kind::McpServer, namespace, name }) {
                Some(Ok(site)) => servers.push(site),
                Some(Err(NotRead)) => return Reaching::NotYet,
                None => {}
            }
        }
        if servers.is_empty() {
            return Reaching::Unsaid;
        }
        let asks = reach::asks_others(policy);
        let others = if asks { self.near.reaching(&key.namespace, &reached) } else { Vec::new() };
        Reaching::Around(Around { policy: policy.clone(), others, servers })
    }

    /// A server that is valid in itself, with its lock.
    fn site(&self, key: &Key) -> Option<Result<Site, NotRead>> {
        let source = self.sources.get(key).filter(|source| matches!(source.outline, Outline::Path(_)))?.clone();
        let has_lock = has_lock(&source);
        let reviewed = match self.settled.get(key) {
            _ if !has_lock => None,
            Some(Settled::Server(applied)) if applied.id == source.id => applied.verdict.reviewed.clone(),
            _ => return Some(Err(NotRead)),
        };
        Some(Ok(Site { source, reviewed, namespace_labels: self.labels_of(&key.namespace) }))
    }

    /// Policies of a namespace that may come to something else since this was asked last.
    pub fn take_near(&mut self, namespace: &str) -> Touched {
        let names = self.near.take_changed(namespace).into_iter();
        let key = |name| Key { kind: api::Kind::McpPolicy, namespace: namespace.to_owned(), name };
        names.map(|name| (Subject::Source(key(name)), Depth::Status)).collect()
    }

    /// A server came, went or changed.
    pub(super) fn server_near(&mut self, key: &Key, was: Option<&Source>, touched: &mut Touched) {
        let is = self.sources.get(key);
        let facts = |source: &Source| (labels(source), matches!(source.outline, Outline::Path(_)));
        if was.map(facts) != is.map(|source| facts(source)) {
            let labels = is.map(|source| labels(source).unwrap_or_default());
            self.near.put_server(&key.namespace, &key.name, labels);
            touched.push(near(&key.namespace));
        }
    }

    /// A policy came, went or changed, or what is in force of it did.
    pub(super) fn policy_near(&mut self, key: &Key, touched: &mut Touched) {
        let policy = self.sources.get(key).cloned().map(|source| Arc::new(reach::outline(self.standing(&source))));
        touched.extend(self.near.put_policy(key, policy).iter().map(|namespace| near(namespace)));
    }

    /// What is in force of a policy. Whom it is about is left open: that is looked up by those who ask for it.
    fn standing(&self, source: &Source) -> Policy {
        let cluster = self.issuer.cluster(&self.installation);
        let settings = self.installation.settings(&cluster);
        let refused = match self.settled.get(&source.key) {
            Some(Settled::Policy(applied)) if applied.id == source.id => applied.verdict.errors.first(),
            _ => None,
        };
        let new = match (&source.read, source.policy(), refused) {
            (_, _, Some(finding)) => Err(finding.reason),
            (Err(findings), ..) => Err(resolve::reason_of(findings)),
            (Ok(_), Some(policy), None) => {
                let resolved = resolve::policy(policy, &settings, &Lookup::default());
                resolved.map(|resolved| resolved.object).map_err(|findings| resolve::reason_of(&findings))
            }
            (Ok(_), None, None) => Err(resolve::Reason::TypeMismatch),
        };
        // What changes nothing for others is no change.
        let id = ObjectId { generation: 0, ..source.id.clone() };
        let guardrail = source.key.namespace == settings.system_namespace;
        let stands = resolve::edit(self.last_policy(&id.uid).as_ref(), id.clone(), guardrail, new);
        Policy { id, ..stands }
    }

    /// What was found of an object's references: what others come to by it.
    pub(super) fn settled_near(&mut self, key: &Key, was: Option<&Settled>, touched: &mut Touched) {
        match (was, self.settled.get(key)) {
            (was, Some(Settled::Server(is))) => {
                let was = match was {
                    Some(Settled::Server(was)) => Some(was),
                    _ => None,
                };
                let same_state = was.is_some_and(|was| was.id == is.id);
                let before = was.and_then(|was| was.verdict.reviewed.as_ref());
                let now = is.verdict.reviewed.as_ref();
                if before != now || now.is_some() && !same_state {
                    self.near.server_changed(&key.namespace, &key.name);
                    touched.push(near(&key.namespace));
                }
            }
            (was, Some(Settled::Policy(is))) => {
                let refused =
                    |settled: &Settled| matches!(settled, Settled::Policy(one) if !one.verdict.errors.is_empty());
                if !is.verdict.errors.is_empty() || was.is_some_and(refused) {
                    self.policy_near(key, touched);
                }
            }
            _ => {}
        }
    }

    /// Guardrails may reach other servers of a namespace than before.
    pub(super) fn namespace_near(&mut self, namespace: &str, touched: &mut Touched) {
        self.near.namespace_changed(namespace);
        touched.push(near(namespace));
    }
}

/// A lock was not read since its server changed.
struct NotRead;

fn has_lock(source: &Source) -> bool {
    source.server().is_some_and(|server| server.spec.tools.as_ref().is_some_and(|tools| tools.lock.is_some()))
}

fn labels(source: &Source) -> Option<Labels> {
    source.read.as_ref().ok().and_then(|object| object.metadata().labels.clone())
}

fn near(namespace: &str) -> (Subject, Depth) {
    (Subject::Near(namespace.to_owned()), Depth::Status)
}
