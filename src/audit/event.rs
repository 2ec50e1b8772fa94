//! What is recorded, as plain borrowed fields: nothing here owns, parses or allocates.
//!
//! Every `&str` may come from a stranger; [`super::record`] caps and escapes all of them, so callers pass text as it is.
//! Names follow the OpenTelemetry conventions for MCP and GenAI where they exist; identity, decision and effect live in
//! the `portcullis.` namespace.

use std::fmt;
use std::net::IpAddr;

/// The id that joins a decision to its completion: a UUIDv7 (RFC 9562 5.7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AuditId(pub(super) uuid::Uuid);

impl AuditId {
    /// Reads the hyphenated form that records carry.
    pub fn parse(text: &str) -> Option<Self> {
        uuid::Uuid::try_parse(text).ok().map(Self)
    }
}

impl fmt::Display for AuditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for AuditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a decision reaches the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Batched; dropped and counted when the journal cannot keep up or is down.
    BestEffort,
    /// On disk before [`super::Receipt::durable`] answers `Ok`; otherwise the call must be refused.
    Durable,
}

/// How much of a call's content is recorded. Floors and ceilings are the administrator's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Names, identities and keyed digests only.
    #[default]
    Metadata,
    /// Also the redacted arguments.
    Arguments,
    /// Also the redacted result.
    Full,
}

/// The answer that the policy gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The call goes on.
    Allow,
    /// The call is refused.
    Deny,
    /// The call is refused until a person decides.
    RequireApproval,
}

impl Verdict {
    /// The word in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::RequireApproval => "require_approval",
        }
    }
}

/// What the method was aimed at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target<'a> {
    /// A method without a target, such as `tools/list`.
    #[default]
    None,
    /// A tool, by name.
    Tool(&'a str),
    /// A resource, by URI.
    Resource(&'a str),
    /// A prompt, by name.
    Prompt(&'a str),
}

/// The caller, as verified.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrincipalFields<'a> {
    /// Name of the McpAuthorizationServer that verified the token.
    pub authority: &'a str,
    /// The exact issuer.
    pub issuer: &'a str,
    /// The issuer's tenant, if it has tenants.
    pub tenant: Option<&'a str>,
    /// The subject at that issuer.
    pub subject: &'a str,
    /// `User`, `Client` or `ServiceAccount`.
    pub kind: &'a str,
    /// The client that presented the token.
    pub client: Option<&'a str>,
    /// The current actor's subject (RFC 8693 4.1).
    pub actor: Option<&'a str>,
    /// The token's id: names the token without being it.
    pub token_jti: Option<&'a str>,
}

/// The governed server.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerFields<'a> {
    /// UID of the McpServer.
    pub uid: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
}

/// The rule that decided, or would have.
#[derive(Clone, Copy, Debug, Default)]
pub struct PolicyFields<'a> {
    /// Namespace of the McpPolicy.
    pub namespace: &'a str,
    /// Name of the McpPolicy.
    pub name: &'a str,
    /// `metadata.generation` of what was enforced.
    pub generation: i64,
    /// Name of the rule.
    pub rule: &'a str,
    /// Reason and ticket of a rule that is an exception for an emergency.
    pub break_glass: Option<(&'a str, Option<&'a str>)>,
}

/// What a policy in mode `Shadow` would have answered.
#[derive(Clone, Copy, Debug)]
pub struct ShadowFields<'a> {
    /// The answer with the shadow rules in force.
    pub verdict: Verdict,
    /// The rule that gave it; none is the default deny.
    pub policy: Option<PolicyFields<'a>>,
}

/// One call, decided. Recorded as `mcp.gateway.decision` before the call is forwarded or refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct DecisionEvent<'a> {
    /// The JSON-RPC method.
    pub method: &'a str,
    /// The negotiated protocol revision.
    pub protocol_version: Option<&'a str>,
    /// The session id as the client sent it; recorded only as a keyed digest.
    pub session: Option<&'a str>,
    /// The JSON-RPC id, as raw JSON (`7`, `"a"`); recorded as text.
    pub request_id: Option<&'a str>,
    /// What the method is aimed at.
    pub target: Target<'a>,
    /// Who called; none where authentication is not reached.
    pub principal: Option<PrincipalFields<'a>>,
    /// Which server.
    pub server: ServerFields<'a>,
    /// The answer; `None` counts as deny.
    pub verdict: Option<Verdict>,
    /// Stable CamelCase reason of the answer.
    pub reason: &'a str,
    /// The rule that decided; none is the default deny.
    pub policy: Option<PolicyFields<'a>>,
    /// What the shadow rules would have said, if they differ.
    pub shadow: Option<ShadowFields<'a>>,
    /// The arguments exactly as forwarded (raw JSON). Always digested with the key; recorded only at `level`.
    pub arguments: Option<&'a [u8]>,
    /// How much of the arguments is recorded.
    pub level: Level,
    /// What is taken out of recorded arguments: pointers into the arguments object.
    pub redact: Option<&'a super::redact::Redaction>,
    /// Digest of the tool's definition, as it was last seen.
    pub tool_digest: Option<&'a str>,
    /// A stable word, if that is not the reviewed definition.
    pub tool_drift: Option<&'a str>,
    /// `traceparent` as the caller sent it: recorded as a link only if well-formed.
    pub traceparent: Option<&'a str>,
    /// Address of the caller's end of the connection.
    pub client_address: Option<IpAddr>,
    /// Digest of the configuration that the proxy ran.
    pub config_digest: Option<&'a str>,
    /// The kind of credential that goes upstream: `none`, `headers`, `oauth`, `serviceAccount`.
    pub credential_mode: Option<&'a str>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream answered with a result.
    Result,
    /// The upstream answered with a result whose `isError` is true.
    ToolError,
    /// A JSON-RPC error, an HTTP error, or no usable answer.
    Error,
    /// The gateway refused after the decision: an obligation failed, or the decision was a denial.
    Denied,
    /// The caller went away before the answer was complete.
    Disconnected,
    /// The proxy ended before the call did; written at the next start.
    Unknown,
}

impl Outcome {
    /// The word in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::ToolError => "tool_error",
            Self::Error => "error",
            Self::Denied => "denied",
            Self::Disconnected => "disconnected",
            Self::Unknown => "unknown",
        }
    }
}

/// One call, ended. Recorded as `mcp.gateway.completion`; never waits.
#[derive(Clone, Copy, Debug)]
pub struct CompletionEvent<'a> {
    /// How it ended.
    pub outcome: Outcome,
    /// Whether its decision was durable: then its completion may use the room reserved for such records.
    pub delivery: Delivery,
    /// Stable reason, for everything but a result.
    pub reason: Option<&'a str>,
    /// The JSON-RPC error code that the caller got.
    pub rpc_status: Option<i64>,
    /// The upstream's HTTP status.
    pub upstream_status: Option<u16>,
    /// From the decision to the end, in microseconds.
    pub duration_us: u64,
    /// Bytes of the response body that reached the caller.
    pub response_bytes: u64,
    /// The result (raw JSON), recorded redacted at level `Full` only; pass none otherwise.
    pub result: Option<&'a [u8]>,
    /// What is taken out of a recorded result.
    pub redact: Option<&'a super::redact::Redaction>,
}

/// Failed authentications of one kind, summed by [`super::quota::AuthFailureAggregator`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthFailureEvent {
    /// `namespace/name` of the server, or empty when no server was found.
    pub server: String,
    /// Stable CamelCase reason.
    pub reason: String,
    /// Address block of the callers (IPv4 /24, IPv6 /48), or empty for the sum of all that exceeded the key bound.
    pub client_prefix: String,
    /// How many.
    pub count: u64,
    /// First of them, in milliseconds since 1970.
    pub first_unix_ms: u64,
    /// Last of them.
    pub last_unix_ms: u64,
}

/// Requests of a known caller that were refused before any decision, summed. Recorded as `mcp.gateway.refusal`.
#[derive(Clone, Copy, Debug)]
pub struct RefusalEvent<'a> {
    /// Which server; none for the sum of all that exceeded the bound.
    pub server: Option<ServerFields<'a>>,
    /// Who was refused; likewise.
    pub principal: Option<PrincipalFields<'a>>,
    /// Stable CamelCase reason.
    pub reason: &'a str,
    /// How often, and when.
    pub sum: super::quota::Sum,
}

/// The configuration that the proxy enforces changed.
#[derive(Clone, Copy, Debug)]
pub struct ConfigChangeEvent<'a> {
    /// `McpServer`, `McpPolicy`, `McpAuthorizationServer` or `Revocations`.
    pub kind: &'a str,
    /// Namespace, or empty.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// UID, or empty.
    pub uid: &'a str,
    /// Its generation, 0 if gone.
    pub generation: i64,
    /// `applied`, `removed` or `refused`.
    pub change: &'a str,
    /// Why, if refused.
    pub reason: Option<&'a str>,
}
