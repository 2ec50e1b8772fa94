//! What an upstream lists, as status and as ConfigMaps that people read. This file is pure: [`rounds`] asks upstreams and
//! hands in what they said, [`told`] has the words of the status, [`keep`] writes the ConfigMaps.
//!
//! Invariant: whatever an upstream declares, what is written of it is bounded: the status by the number of tools, each
//! ConfigMap and their number by what an API server takes. No proxy reads either.

pub mod keep;
pub mod rounds;
pub mod told;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::v1alpha1::{LOCK_KEY, RiskClass, ToolDrift, ToolStatus, ToolsStatus};
use crate::generated::kind::{SOURCE, SOURCE_UID};
use crate::generated::{Digest, Risk, Server};
use crate::mcp::list::ToolView;
use crate::policy::pattern::asserted;
use crate::tools::lock::{self, Drift, Reviewed};
use crate::tools::risk::{KnownRisk, Said, Source};

/// The label of ConfigMaps that hold an inventory: the UID of the McpServer. They do not carry the label of generated
/// objects, so that proxies never read them.
pub const INVENTORY: &str = "portcullis.dev/inventory";
/// The annotation that says how many definitions found no room.
pub const LEFT_OUT: &str = "portcullis.dev/left-out";
/// How many tools a status names.
const SHOWN: usize = 256;
/// How many ConfigMaps hold one inventory, at most.
const MOST_OBJECTS: usize = 4;
/// How many tools a message names.
const NAMED: usize = 5;

/// What an upstream lists.
#[derive(Clone, Debug, PartialEq)]
pub struct Inventory {
    /// For the status: the same for the same list, whatever its order.
    pub status: ToolsStatus,
    /// What is not as it was reviewed, in words; `None`: nothing, or there is no lock.
    pub drift: Option<String>,
    /// The definitions, in the form of a tool lock, without namespace and owner. Fewer than before: the others are to be
    /// pruned.
    pub objects: Vec<ConfigMap>,
}

/// Sums up what an upstream lists to the gateway: definitions as they came.
pub fn sum_up(server: &Server, listed: &[&str]) -> Inventory {
    let tools = lock::lockable(listed.iter().copied());
    let drifts = drifts(server, listed, &tools);
    let risk = |name: &str, tool: &ToolView<'_>| {
        let drifted = drifts.as_ref().is_some_and(|drifts| drifts.contains_key(name));
        risk(server, name, tool, drifted)
    };
    let mut items: Vec<ToolStatus> = tools
        .iter()
        .map(|(name, (tool, digest))| ToolStatus {
            name: name.clone(),
            digest: Some(digest.to_string()),
            risk: risk(name, tool).map(class),
            drift: drifts.as_ref().and_then(|drifts| drifts.get(name)).copied().map(in_status),
        })
        .collect();
    let others = drifts.iter().flatten().filter(|(name, _)| !tools.contains_key(*name));
    items.extend(others.map(|(name, drift)| ToolStatus {
        name: name.clone(),
        digest: None,
        risk: None,
        drift: Some(in_status(*drift)),
    }));
    items.sort_by(|a, b| (a.drift.is_none(), &a.name).cmp(&(b.drift.is_none(), &b.name)));
    items.truncate(SHOWN);
    let reviewed = tools.iter().map(|(name, (tool, digest))| Reviewed {
        tool: tool.clone(),
        digest: *digest,
        risk: risk(name, tool),
    });
    let (parts, left_out) = lock::write_parts(reviewed, MOST_OBJECTS);
    let status = ToolsStatus {
        count: number(tools.len()),
        unusable: number(listed.len() - tools.len()),
        drifted: drifts.as_ref().map(|drifts| number(drifts.len())),
        items,
    };
    Inventory { status, drift: drifts.and_then(|drifts| in_words(&drifts)), objects: objects(server, parts, left_out) }
}

/// What differs from the lock, by name; `None`: there is none.
fn drifts(
    server: &Server,
    listed: &[&str],
    tools: &BTreeMap<String, (ToolView<'_>, Digest)>,
) -> Option<BTreeMap<String, Drift>> {
    let lock = server.lock.as_ref()?;
    let names: Vec<String> =
        listed.iter().filter_map(|raw| ToolView::read(raw)).map(|tool| tool.name.into_owned()).collect();
    // What is listed and cannot be told apart, or has no digest, is not gone: it is changed.
    let all = names.iter().map(|name| (name.as_str(), tools.get(name).map(|(_, digest)| *digest))).collect();
    Some(lock::drifts(&lock.tools, &all).into_iter().map(|(name, drift)| (name.to_owned(), drift)).collect())
}

/// The class that policies of the server's namespace see: joined as in the proxy.
fn risk(server: &Server, name: &str, tool: &ToolView<'_>, drifted: bool) -> Option<Risk> {
    let source = if drifted { Source::FormerLock } else { Source::Lock };
    let locked = server.lock.as_ref().and_then(|lock| lock.class(name)).map(|class| (source, class));
    let asserted = asserted(&server.risk, name).map(|class| (Source::Configured, class));
    KnownRisk::of(Said::of(tool).statements().chain(asserted).chain(locked)).own
}

fn objects(server: &Server, parts: Vec<String>, left_out: usize) -> Vec<ConfigMap> {
    let id = &server.id;
    let object = |(n, text): (usize, String)| {
        let text_of = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut annotations = BTreeMap::from([text_of(SOURCE, &id.display_name())]);
        if left_out > 0 {
            annotations.insert(LEFT_OUT.to_owned(), left_out.to_string());
        }
        let metadata = ObjectMeta {
            name: Some(keep::name(&id.uid, n)),
            labels: Some(BTreeMap::from([text_of(INVENTORY, &id.uid), text_of(SOURCE_UID, &id.uid)])),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, data: Some(BTreeMap::from([(LOCK_KEY.to_owned(), text)])), ..ConfigMap::default() }
    };
    parts.into_iter().enumerate().map(object).collect()
}

fn in_words(drifts: &BTreeMap<String, Drift>) -> Option<String> {
    let named: Vec<String> =
        drifts.iter().take(NAMED).map(|(name, drift)| format!("{name:?} ({:?})", in_status(*drift))).collect();
    let more = if drifts.len() > NAMED { ", ..." } else { "" };
    let count = drifts.len();
    (count > 0).then(|| format!("{count} not as they were reviewed: {}{more}", named.join(", ")))
}

fn in_status(drift: Drift) -> ToolDrift {
    match drift {
        Drift::Changed => ToolDrift::Changed,
        Drift::New => ToolDrift::New,
        Drift::Gone => ToolDrift::Gone,
    }
}

fn class(risk: Risk) -> RiskClass {
    match risk {
        Risk::ReadOnly => RiskClass::ReadOnly,
        Risk::Write => RiskClass::Write,
        Risk::Destructive => RiskClass::Destructive,
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
