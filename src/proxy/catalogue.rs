//! What is known of a server's tools: learnt from every list that passes, and from inventories.
//!
//! Invariant: a tool that was never seen, or whose definition can not be read, is unclassified, which grants nothing
//! and which every narrowing rule about risk takes as a match (design 3.3), and is not what was reviewed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use crate::generated::policy::Effect;
use crate::generated::server::{Lock, RiskRule};
use crate::generated::{Digest, Risk};
use crate::mcp::list::{ToolView, look_alikes};
use crate::mcp::param_header::{ANNOTATION, ParamHeader, param_headers};
use crate::policy::pattern::NamePattern;
use crate::tools::digest::tool_digest;
use crate::tools::lock::{self, Drift};
use crate::tools::risk::{KnownRisk, Said, Source};

/// How many tools of one server are remembered.
const MOST: usize = lock::MOST_TOOLS;

/// The tools of one server. Reading takes no lock.
pub struct Catalogue {
    asserted: Vec<Asserted>,
    tools: ArcSwap<HashMap<Box<str>, Tool>>,
    /// All that the server lists was seen at least once.
    whole: watch::Sender<bool>,
    stale: Notify,
    /// Drift that operators were told of, by name and digest.
    told: Mutex<HashSet<(Box<str>, Arc<str>)>>,
}

/// A rule of `tools.risk`.
struct Asserted {
    patterns: Vec<NamePattern>,
    class: Risk,
}

/// What is known of one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Digest of its definition, `sha256:<hex>`; empty if it has none.
    pub digest: Arc<str>,
    /// Its risk.
    pub risk: KnownRisk,
    /// Whether it is not what was reviewed, if the server has a lock.
    pub drift: Option<Drift>,
    /// The arguments that a call mirrors into headers.
    pub mirrored: Arc<[ParamHeader]>,
    said: Said,
}

/// What was learnt.
pub struct Learnt {
    /// Something is known that was not.
    pub changed: bool,
    /// Tools that are not what was reviewed, and of which nobody was told yet.
    pub drifted: Vec<(Box<str>, Drift)>,
}

impl Catalogue {
    /// Knows nothing yet but what the owner asserts.
    pub fn new(asserted: &[RiskRule]) -> Self {
        let rules = asserted.iter().map(|rule| Asserted {
            patterns: rule.patterns.iter().map(|pattern| NamePattern::new(pattern)).collect(),
            class: rule.class,
        });
        Self {
            asserted: rules.collect(),
            tools: ArcSwap::default(),
            whole: watch::Sender::new(false),
            stale: Notify::new(),
            told: Mutex::default(),
        }
    }

    /// Knows what `previous` knows of the same server, as this lock and these rules have it.
    pub fn after(previous: &Self, asserted: &[RiskRule], lock: Option<&Lock>) -> Self {
        let mut catalogue = Self::new(asserted);
        let judged = |name: &str, tool: &Tool| {
            let said = (Digest::parse(&tool.digest), tool.said);
            let (risk, drift) = catalogue.judge(name, said, lock);
            Tool { risk, drift, ..tool.clone() }
        };
        let known = previous.tools.load();
        let tools = known.iter().map(|(name, tool)| (name.clone(), judged(name, tool))).collect();
        catalogue.tools = ArcSwap::from_pointee(tools);
        catalogue.whole = watch::Sender::new(previous.is_whole());
        catalogue
    }

    /// What is known of the tool with this exact name.
    pub fn get(&self, name: &str) -> Option<Tool> {
        self.tools.load().get(name).cloned()
    }

    /// Judges a definition, without remembering it.
    pub fn assess(&self, tool: &ToolView<'_>, lock: Option<&Lock>) -> Tool {
        // A definition that has no digest cannot be pinned, so nothing is known about it.
        let digest = tool_digest(tool);
        let said = digest.map_or_else(Said::default, |_| Said::of(tool));
        let (risk, drift) = self.judge(&tool.name, (digest, said), lock);
        let text = digest.map_or_else(String::new, |digest| digest.to_string());
        Tool { digest: text.into(), risk, drift, mirrored: mirrored(tool.input_schema), said }
    }

    /// What is known of a name that several definitions have.
    pub fn ambiguous(&self, name: &str, lock: Option<&Lock>) -> Tool {
        let (risk, drift) = self.judge(name, (None, Said::default()), lock);
        Tool { digest: "".into(), risk, drift, mirrored: Arc::default(), said: Said::default() }
    }

    fn judge(
        &self,
        name: &str,
        (digest, said): (Option<Digest>, Said),
        lock: Option<&Lock>,
    ) -> (KnownRisk, Option<Drift>) {
        let drift = lock.and_then(|lock| lock::drift(&lock.tools, name, digest));
        if digest.is_none() {
            return (KnownRisk::default(), drift);
        }
        let matches = |rule: &&Asserted| rule.patterns.iter().any(|pattern| pattern.matches(name, Effect::Deny));
        let asserted = self.asserted.iter().filter(matches).map(|rule| (Source::Configured, rule.class));
        let source = if drift.is_some() { Source::FormerLock } else { Source::Lock };
        let locked = lock.and_then(|lock| lock.class(name)).map(|class| (source, class));
        (KnownRisk::of(said.statements().chain(asserted).chain(locked)), drift)
    }

    /// Remembers definitions; the newest one of a name counts. Writes only if something changed.
    pub fn learn(&self, seen: Vec<(Box<str>, Tool)>) -> Learnt {
        let drifted = self.untold(seen.iter().filter_map(|(name, tool)| Some((name, &tool.digest, tool.drift?))));
        let known = self.tools.load();
        if seen.iter().all(|(name, tool)| known.get(name) == Some(tool)) {
            return Learnt { changed: false, drifted };
        }
        self.tools.rcu(|known| {
            let mut tools = HashMap::clone(known);
            for (name, tool) in &seen {
                if tools.len() < MOST || tools.contains_key(name) {
                    tools.insert(name.clone(), tool.clone());
                }
            }
            tools
        });
        Learnt { changed: true, drifted }
    }

    /// Of this drift, what nobody was told yet.
    fn untold<'a>(&self, drifted: impl Iterator<Item = (&'a Box<str>, &'a Arc<str>, Drift)>) -> Vec<(Box<str>, Drift)> {
        let mut drifted = drifted.peekable();
        if drifted.peek().is_none() {
            return Vec::new();
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh =
            drifted.filter(|(name, digest, _)| told.len() < MOST && told.insert(((*name).clone(), (*digest).clone())));
        fresh.map(|(name, _, drift)| (name.clone(), drift)).collect()
    }

    /// All that the server lists was learnt.
    pub fn complete(&self) {
        self.whole.send_if_modified(|whole| !std::mem::replace(whole, true));
    }

    /// Whether all that the server lists was seen at least once.
    pub fn is_whole(&self) -> bool {
        *self.whole.borrow()
    }

    /// Waits until all that the server lists was seen once, and no longer than this.
    pub async fn wait_whole(&self, patience: Duration) {
        let mut whole = self.whole.subscribe();
        // Whichever way it ends, what is known by then is what counts.
        drop(tokio::time::timeout(patience, whole.wait_for(|whole| *whole)).await);
    }

    /// Says that the server's list has changed since it was seen.
    pub fn outdated(&self) {
        self.stale.notify_one();
    }

    /// Waits until [`Catalogue::outdated`] was called.
    pub async fn wait_outdated(&self) {
        self.stale.notified().await;
    }

    /// Groups of names that a reader could take for one another.
    pub fn look_alikes(&self) -> Vec<Vec<String>> {
        let tools = self.tools.load();
        let groups = look_alikes(tools.keys().map(|name| &**name));
        groups.into_iter().map(|names| names.into_iter().map(str::to_owned).collect()).collect()
    }
}

/// What a schema mirrors into headers: nothing, where clients must drop the tool for what it asks (mcp-obligations 37).
fn mirrored(schema: Option<&str>) -> Arc<[ParamHeader]> {
    // Few schemas mirror anything; one that does names it in clear, or with an escape.
    let schema = schema.filter(|schema| schema.contains(ANNOTATION) || schema.contains('\\'));
    schema.and_then(|schema| param_headers(schema).ok()).unwrap_or_default().into()
}

#[cfg(test)]
mod tests;
