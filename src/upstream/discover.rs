//! What tools a server has: enough of an MCP client to take an inventory.
//!
//! Invariant: pages, bytes and time are bounded whatever the server answers, and everything in an [`Inventory`] but its
//! revision is the server's word, to be judged by whoever reads it.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::rpc::{Conversation, Outcome, Reply, RpcError, SESSION};
use super::{Upstream, UpstreamError};

/// The revision without handshake.
pub(super) const NEW: &str = "2026-07-28";
/// Revisions with a handshake, newest first: the first is offered, each is accepted.
const OLD: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
const METHOD_NOT_FOUND: i64 = -32601;

/// What bounds an inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Pages of a list.
    pub pages: usize,
    /// Tools.
    pub tools: usize,
    /// Bytes of all answers together.
    pub bytes: usize,
    /// For everything.
    pub time: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { pages: 100, tools: 5000, bytes: 16 << 20, time: Duration::from_secs(60) }
    }
}

/// What a server says that it has.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// The server's own name, unverified.
    pub server_name: Option<String>,
    /// The server's own version, unverified.
    pub server_version: Option<String>,
    /// The revision that was spoken.
    pub revision: &'static str,
    /// Tool definitions as they came, in order: JSON values of any kind.
    pub tools: Vec<Box<RawValue>>,
}

/// Why no inventory could be taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DiscoverError {
    /// No usable HTTP answer.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Neither era's first request was understood.
    #[error("the URL does not answer as an MCP server (status {status}): is the path right?")]
    NotMcp {
        /// The status.
        status: u16,
    },
    /// The answer is not what MCP prescribes.
    #[error("the server's answer {what}")]
    Malformed {
        /// In which way.
        what: &'static str,
    },
    /// The server answered with a JSON-RPC error.
    #[error("the server refused {method} with error {code}: {message:?}")]
    Refused {
        /// The method.
        method: &'static str,
        /// The error's code.
        code: i64,
        /// The start of the error's message, unverified.
        message: String,
    },
    /// The server speaks none of the revisions that this build knows.
    #[error("the server speaks no revision of MCP that is known here")]
    Revision,
    /// More bytes of events than allowed.
    #[error("the server's answers are larger than allowed")]
    TooLarge,
    /// More pages or tools than allowed.
    #[error("the server's list of tools is longer than allowed")]
    TooMany,
    /// More time than allowed.
    #[error("the inventory took longer than {seconds} s")]
    Timeout {
        /// The limit.
        seconds: u64,
    },
}

impl DiscoverError {
    /// A stable word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            DiscoverError::Upstream(e) => e.reason(),
            DiscoverError::NotMcp { .. } => "NotMcp",
            DiscoverError::Malformed { .. } => "UpstreamMalformed",
            DiscoverError::Refused { .. } => "UpstreamRefused",
            DiscoverError::Revision => "UpstreamRevision",
            DiscoverError::TooLarge => "UpstreamTooLarge",
            DiscoverError::TooMany => "UpstreamTooManyTools",
            DiscoverError::Timeout { .. } => "UpstreamTimeout",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Discovered {
    supported_versions: Vec<String>,
    capabilities: Capabilities,
    #[serde(default, rename = "_meta")]
    meta: Meta,
}

#[derive(Default, Deserialize)]
struct Meta {
    #[serde(rename = "io.modelcontextprotocol/serverInfo")]
    server_info: Option<Info>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Initialized {
    protocol_version: String,
    capabilities: Capabilities,
    server_info: Option<Info>,
}

#[derive(Deserialize)]
struct Capabilities {
    tools: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
struct Info {
    name: Option<String>,
    version: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    tools: Vec<Box<RawValue>>,
    next_cursor: Option<String>,
    result_type: Option<String>,
}

/// Asks an upstream for its tools, in the newest revision that it speaks.
///
/// # Errors
/// If it cannot be reached, is no MCP server, or answers out of bounds.
pub async fn inventory(upstream: &Upstream, bounds: &Bounds) -> Result<Inventory, DiscoverError> {
    match tokio::time::timeout(bounds.time, take(upstream, bounds)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(DiscoverError::Timeout { seconds: bounds.time.as_secs() }),
    }
}

async fn take(upstream: &Upstream, bounds: &Bounds) -> Result<Inventory, DiscoverError> {
    let mut new = Conversation::new(upstream, bounds.bytes, bounds.time);
    new.revision = Some(NEW);
    if let Some(discovered) = discover(&mut new).await? {
        let info = discovered.meta.server_info.unwrap_or_default();
        let tools = tools(&mut new, NEW, &discovered.capabilities, bounds).await?;
        return Ok(Inventory { server_name: info.name, server_version: info.version, revision: NEW, tools });
    }
    let mut old = Conversation::new(upstream, bounds.bytes, bounds.time);
    let outcome = old_inventory(&mut old, bounds).await;
    old.close().await;
    outcome
}

/// The modern era's first question. `None`: the server does not understand it, so it is of the old era (2026-07-28,
/// Streamable HTTP, "Backward Compatibility"); what is wrong with connection or credentials is wrong in both.
async fn discover(conversation: &mut Conversation<'_>) -> Result<Option<Discovered>, DiscoverError> {
    let reply = match conversation.call("server/discover", params(NEW, None)).await {
        Ok(reply) => reply,
        Err(DiscoverError::Malformed { .. })
        | Err(DiscoverError::Upstream(UpstreamError::Failed { .. } | UpstreamError::ContentType)) => return Ok(None),
        Err(other) => return Err(other),
    };
    match reply.outcome {
        Outcome::Error(_) | Outcome::Bare(_) => Ok(None),
        Outcome::Result(result) => {
            let discovered: Option<Discovered> = serde_json::from_str(result.get()).ok();
            Ok(discovered.filter(|d| d.supported_versions.iter().any(|version| version == NEW)))
        }
    }
}

async fn old_inventory(conversation: &mut Conversation<'_>, bounds: &Bounds) -> Result<Inventory, DiscoverError> {
    let initialized = open_session(conversation).await?;
    let revision = conversation.revision.ok_or(DiscoverError::Revision)?;
    let info = initialized.server_info.unwrap_or_default();
    let tools = tools(conversation, revision, &initialized.capabilities, bounds).await?;
    Ok(Inventory { server_name: info.name, server_version: info.version, revision, tools })
}

/// Opens a session of the old era; the conversation then knows it and its revision.
pub(super) async fn open_session(conversation: &mut Conversation<'_>) -> Result<Initialized, DiscoverError> {
    let client = json!({"name": "portcullis", "version": env!("CARGO_PKG_VERSION")});
    let params = json!({"protocolVersion": OLD[0], "capabilities": {}, "clientInfo": client});
    let Reply { outcome, headers } = conversation.call("initialize", params).await?;
    // Kept before the answer is judged: the session exists and is to be ended in any case.
    conversation.session = headers.get(SESSION).cloned();
    let initialized: Initialized = read("initialize", outcome)?;
    let revision =
        OLD.into_iter().find(|known| *known == initialized.protocol_version).ok_or(DiscoverError::Revision)?;
    conversation.revision = Some(revision);
    conversation.notify("notifications/initialized").await?;
    Ok(initialized)
}

/// All pages of `tools/list`. A server that does not declare tools has none.
async fn tools(
    conversation: &mut Conversation<'_>,
    revision: &'static str,
    capabilities: &Capabilities,
    bounds: &Bounds,
) -> Result<Vec<Box<RawValue>>, DiscoverError> {
    let mut found = Vec::new();
    if capabilities.tools.is_none() {
        return Ok(found);
    }
    let mut cursor = None;
    for _ in 0..bounds.pages {
        let reply = conversation.call("tools/list", params(revision, cursor)).await?;
        let page: Page = read("tools/list", reply.outcome)?;
        if page.result_type.is_some_and(|kind| kind != "complete") {
            return Err(DiscoverError::Malformed { what: "to tools/list is not complete" });
        }
        found.extend(page.tools);
        if found.len() > bounds.tools {
            return Err(DiscoverError::TooMany);
        }
        // An empty cursor is a cursor (2026-07-28, pagination).
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(found);
        }
    }
    Err(DiscoverError::TooMany)
}

pub(super) fn params(revision: &str, cursor: Option<String>) -> serde_json::Value {
    let mut params = json!({});
    if revision == NEW {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": NEW,
            "io.modelcontextprotocol/clientInfo": {"name": "portcullis", "version": env!("CARGO_PKG_VERSION")},
            "io.modelcontextprotocol/clientCapabilities": {},
        });
    }
    if let Some(cursor) = cursor {
        params["cursor"] = cursor.into();
    }
    params
}

fn read<T: serde::de::DeserializeOwned>(method: &'static str, outcome: Outcome) -> Result<T, DiscoverError> {
    match outcome {
        Outcome::Result(result) => serde_json::from_str(result.get())
            .map_err(|_| DiscoverError::Malformed { what: "lacks what its method's result must have" }),
        Outcome::Bare(status) => Err(DiscoverError::NotMcp { status: status.as_u16() }),
        Outcome::Error(RpcError { code: METHOD_NOT_FOUND, .. }) if method == "initialize" => {
            Err(DiscoverError::NotMcp { status: StatusCode::OK.as_u16() })
        }
        Outcome::Error(RpcError { code, message }) => {
            Err(DiscoverError::Refused { method, code, message: message.chars().take(200).collect() })
        }
    }
}

#[cfg(test)]
mod tests;
