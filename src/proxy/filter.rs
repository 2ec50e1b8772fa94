//! What one caller may see of an upstream's answer.
//!
//! Invariant: what is filtered is strictly read and written anew; everything else passes byte for byte. A tool is
//! listed if, and only if, some arguments could be allowed: the evaluator is the one that decides calls. Cursors are
//! the caller's own (mcp-obligations 50, 55, 56).

use std::sync::Arc;

use bytes::Bytes;

use super::authenticate::{Caller, owner};
use super::call::Call;
use super::gateway::{self, Gateway};
use super::locked::Locked;
use super::snapshot::{Site, Snapshot};
use crate::mcp::envelope::Envelope;
use crate::mcp::list::{ToolView, filter_tools};
use crate::mcp::revision::Revision;
use crate::mcp::rewrite::{self, Hostile, Negotiated, ResultRules};
use crate::policy::list::{Visibility, list};
use crate::policy::request::{Facts, Target};
use crate::seal::Purpose;
use crate::tools::risk::KnownRisk;

/// How long a client may keep a filtered list without asking again, in milliseconds: the promised revocation delay.
pub const MAX_TTL_MS: u64 = 1_000;

/// How long a cursor is good for, in seconds.
const CURSOR_SECONDS: i64 = 3600;

/// How long a client may keep what a server declares of itself.
const RULES: ResultRules = ResultRules { max_ttl_ms: MAX_TTL_MS, keep_instructions: false };

/// What becomes of an answer.
pub enum Filter {
    /// It passes as it came.
    Pass,
    /// A list of tools, for one caller.
    Tools(Box<ListFilter>),
    /// The answer to `initialize`.
    Initialize,
    /// The answer to `server/discover`.
    Discover,
}

/// An answer as the caller may see it.
pub struct Passed {
    /// The message.
    pub body: Bytes,
    /// What `initialize` negotiated.
    pub negotiated: Option<Negotiated>,
}

impl Filter {
    /// Filters a response; an error passes as it came, but for versions that cannot be policed.
    pub fn apply(&self, response: &Envelope) -> Result<Passed, Hostile> {
        let written = match self {
            Filter::Pass => Err(Hostile::NoResult),
            Filter::Tools(filter) => filter.apply(response).map(|body| (body, None)),
            Filter::Initialize => {
                rewrite::initialize_result(response, RULES).map(|(body, negotiated)| (body, Some(negotiated)))
            }
            Filter::Discover => rewrite::discover_result(response, RULES).map(|body| (body, None)),
        };
        match written {
            Ok((body, negotiated)) => Ok(Passed { body, negotiated }),
            Err(Hostile::NoResult) => {
                let body = rewrite::error(response)?.unwrap_or_else(|| response.body().clone());
                Ok(Passed { body, negotiated: None })
            }
            Err(hostile) => Err(hostile),
        }
    }
}

/// Filters `tools/list` results for one caller.
pub struct ListFilter {
    /// Holds the keys that cursors are sealed with.
    pub gateway: Arc<Gateway>,
    /// The server that answers.
    pub site: Arc<Site>,
    /// Who sees the answer.
    pub caller: Arc<Caller>,
    /// The revision that it is written in.
    pub revision: Revision,
}

impl ListFilter {
    /// For the caller of this call.
    pub fn of(call: &Call) -> Self {
        Self {
            gateway: call.gateway.clone(),
            site: call.site.clone(),
            caller: call.caller.clone(),
            revision: call.revision,
        }
    }

    /// The response as the caller may see it, by the policies of now: the upstream may have taken long. An error
    /// response is [`Hostile::NoResult`].
    pub fn apply(&self, response: &Envelope) -> Result<Bytes, Hostile> {
        let snapshot = self.gateway.snapshot();
        // By the lock of now as well, unless the server has moved: then it says nothing of this answer.
        let now = snapshot.same(&self.site).filter(|now| now.server.upstream.url == self.site.server.upstream.url);
        let site = now.unwrap_or(&self.site);
        let mut seen = Vec::new();
        let keep = |tool: &ToolView<'_>| {
            let known = site.assess(tool);
            let hidden = matches!(Locked::of(site, &tool.name, Some(&known)), Locked::Hidden(_));
            let visible = !hidden && self.is_visible(&snapshot, &tool.name, known.risk);
            seen.push((tool.name.as_ref().into(), known));
            visible
        };
        let filtered = filter_tools(response, self.revision, MAX_TTL_MS, keep, |cursor| self.seal_cursor(cursor))?;
        site.learn(seen, &filtered.duplicates);
        if !filtered.duplicates.is_empty() || filtered.unreadable > 0 {
            let (duplicates, unreadable) = (filtered.duplicates.len(), filtered.unreadable);
            let server = self.site.server.id.display_name();
            tracing::warn!(
                server,
                duplicates,
                unreadable,
                "the upstream lists tools that cannot be told apart or read"
            );
        }
        Ok(filtered.body)
    }

    fn is_visible(&self, snapshot: &Snapshot, name: &str, risk: KnownRisk) -> bool {
        let Some(served) = snapshot.fleet.lookup(&self.site.server.path) else { return false };
        let facts = Facts { now: gateway::now() };
        let principal = self.caller.verified.principal();
        let target = Target::Tool { name, risk };
        list(served.layers, principal, &self.caller.keys, target, &facts) != Visibility::Hidden
    }

    fn seal_cursor(&self, cursor: &str) -> String {
        let expires = gateway::now().saturating_add(CURSOR_SECONDS);
        let owner = owner(Purpose::Cursor, &self.site, &self.caller);
        // A cursor too long to be sealed cannot be continued: the empty one does not open.
        self.gateway.sealer().seal(&owner, expires, cursor.as_bytes()).unwrap_or_default()
    }
}

/// A cursor that this gateway did not make for this caller and server, or too long ago.
pub struct UnknownCursor;

/// The upstream's own cursor.
pub fn open_cursor(call: &Call, cursor: &str) -> Result<String, UnknownCursor> {
    let owner = owner(Purpose::Cursor, &call.site, &call.caller);
    let opened = call.gateway.sealer().open(&owner, cursor, gateway::now());
    opened.ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(UnknownCursor)
}
