//! What a server's lists and inventories teach.
//!
//! Invariant: what was learnt of the tools at one place is never taken for what is at another, and names that several
//! definitions have are learnt as no definition.

use std::collections::HashMap;
use std::sync::Arc;

use super::catalogue::{Catalogue, Tool};
use super::snapshot::Site;
use crate::generated::Server;
use crate::mcp::list::ToolView;

/// How many tools a warning names.
const SHOWN: usize = 20;

impl Site {
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
        if learnt.changed {
            for names in self.catalogue.look_alikes() {
                let server = self.server.id.display_name();
                tracing::warn!(server, ?names, "tools whose names look alike: grant them by exact name only");
            }
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
}

/// What is known of a server's tools. It outlives changes of everything but the place where they are: with other
/// credentials, classes or another lock they are looked at anew, and what was known counts meanwhile.
pub(super) fn catalogue(server: &Server, previous: Option<&Site>) -> Arc<Catalogue> {
    let (now, risk, lock) = (&server.upstream, &server.risk, server.lock.as_ref());
    let place = |site: &&Site| site.server.upstream.url == now.url && site.server.upstream.tls == now.tls;
    let Some(previous) = previous.filter(place) else { return Arc::new(Catalogue::new(risk)) };
    let before = &previous.server;
    // A token is renewed many times a day, and the tools stay what they are.
    if before.upstream.is_same_place(now) && before.risk == *risk && before.lock.as_ref() == lock {
        return previous.catalogue.clone();
    }
    Arc::new(Catalogue::after(&previous.catalogue, risk, lock))
}
