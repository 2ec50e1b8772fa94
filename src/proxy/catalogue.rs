//! What is known of a server's tools: learnt from every list that passes, and from the inventory taken at start.
//!
//! Invariant: a tool that was never seen, or whose definition can not be read, is unclassified, which grants nothing
//! and which every narrowing rule about risk takes as a match (design 3.3).

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::generated::Risk;
use crate::generated::policy::Effect;
use crate::generated::server::RiskRule;
use crate::mcp::list::{ToolView, look_alikes};
use crate::mcp::param_header::{ANNOTATION, ParamHeader, param_headers};
use crate::policy::pattern::NamePattern;
use crate::policy::request::KnownRisk;
use crate::tools::digest::tool_digest;
use crate::tools::risk;

/// How many tools of one server are remembered.
const MOST: usize = 10_000;

/// The tools of one server. Reading takes no lock.
pub struct Catalogue {
    asserted: Vec<Asserted>,
    tools: ArcSwap<HashMap<Box<str>, Tool>>,
}

/// A rule of `tools.risk`.
struct Asserted {
    name: String,
    patterns: Vec<NamePattern>,
    class: Risk,
}

/// What is known of one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Digest of its definition, `sha256:<hex>`.
    pub digest: Arc<str>,
    /// Its risk.
    pub risk: KnownRisk,
    /// The arguments that a call mirrors into headers.
    pub mirrored: Arc<[ParamHeader]>,
}

impl Catalogue {
    /// Knows nothing yet but what the owner asserts.
    pub fn new(asserted: &[RiskRule]) -> Self {
        let rules = asserted.iter().map(|rule| Asserted {
            name: rule.name.clone(),
            patterns: rule.patterns.iter().map(|pattern| NamePattern::new(pattern)).collect(),
            class: rule.class,
        });
        Self { asserted: rules.collect(), tools: ArcSwap::default() }
    }

    /// What is known of the tool with this exact name.
    pub fn get(&self, name: &str) -> Option<Tool> {
        self.tools.load().get(name).cloned()
    }

    /// The risk of the tool with this exact name.
    pub fn risk(&self, name: &str) -> KnownRisk {
        self.tools.load().get(name).map(|tool| tool.risk).unwrap_or_default()
    }

    /// Judges a definition, without remembering it.
    pub fn assess(&self, tool: &ToolView<'_>) -> Tool {
        let asserted =
            self.asserted.iter().filter(|rule| rule.patterns.iter().any(|p| p.matches(&tool.name, Effect::Deny)));
        let assessment = risk::assess(tool, None, asserted.map(|rule| (rule.name.as_str(), rule.class)));
        // A definition that has no digest cannot be pinned, so nothing is known about it.
        let (digest, risk) = match tool_digest(tool) {
            Some(digest) => (digest, KnownRisk { own: assessment.class, guardrail: assessment.class_for_guardrails }),
            None => (String::new(), KnownRisk::default()),
        };
        Tool { digest: digest.into(), risk, mirrored: mirrored(tool.input_schema) }
    }

    /// Remembers definitions; the newest one of a name counts. Writes only if something changed, and says whether.
    pub fn learn(&self, seen: Vec<(Box<str>, Tool)>) -> bool {
        let known = self.tools.load();
        if seen.iter().all(|(name, tool)| known.get(name) == Some(tool)) {
            return false;
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
        true
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
