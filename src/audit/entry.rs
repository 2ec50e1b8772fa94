//! A record as read back: the few members that questions are asked about, and the whole text.

use serde::{Deserialize, Serialize};

/// One record of the audit log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What questions are asked about.
    pub fields: Fields,
    /// The whole record, as written.
    pub json: String,
}

impl Entry {
    /// Reads a record, as written; nothing if it is not one of the audit's.
    pub fn read(json: Vec<u8>) -> Option<Self> {
        let fields = serde_json::from_slice(&json).ok()?;
        Some(Self { fields, json: String::from_utf8(json).ok()? })
    }
}

/// The members that questions are asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fields {
    /// `event.name`.
    #[serde(rename = "event.name")]
    pub event: String,
    /// RFC 3339.
    pub time: String,
    /// Joins a decision and its completion.
    #[serde(rename = "audit.id", default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The JSON-RPC method.
    #[serde(rename = "mcp.method.name", default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The tool.
    #[serde(rename = "gen_ai.tool.name", default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The resource.
    #[serde(rename = "mcp.resource.uri", default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The prompt.
    #[serde(rename = "gen_ai.prompt.name", default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The server's namespace.
    #[serde(rename = "portcullis.server.namespace", default, skip_serializing_if = "Option::is_none")]
    pub server_namespace: Option<String>,
    /// The server's name.
    #[serde(rename = "portcullis.server.name", default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The authority that verified the caller.
    #[serde(rename = "portcullis.principal.authority", default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// The caller.
    #[serde(rename = "portcullis.principal.subject", default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The client that the caller used.
    #[serde(rename = "portcullis.client.id", default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The actor.
    #[serde(rename = "portcullis.actor.subject", default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// `allow`, `deny` or `require_approval`.
    #[serde(rename = "portcullis.decision", default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Why.
    #[serde(rename = "portcullis.decision.reason", default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The policy that decided.
    #[serde(rename = "portcullis.policy.name", default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Its rule.
    #[serde(rename = "portcullis.policy.rule", default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// How the call ended.
    #[serde(rename = "portcullis.outcome", default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Why it did not end well.
    #[serde(rename = "error.type", default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// From decision to end.
    #[serde(rename = "portcullis.duration_us", default, skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
}

impl Fields {
    /// The time in milliseconds since 1970, if it can be read.
    pub fn unix_ms(&self) -> Option<u64> {
        let time: jiff::Timestamp = self.time.parse().ok()?;
        u64::try_from(time.as_millisecond()).ok()
    }
}
