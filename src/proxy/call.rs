//! One understood message of an authenticated caller, and the record of what is decided about it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Response};

use super::authenticate::Caller;
use super::body::Body;
use super::catalogue::Tool;
use super::gateway::Gateway;
use super::respond::Refused;
use super::session::{SESSION_ID, Session};
use super::snapshot::{Site, Snapshot};
use crate::audit::{DecisionEvent, Level, PolicyFields, ShadowFields, Target, Verdict};
use crate::generated::policy::Effect;
use crate::mcp::envelope::Envelope;
use crate::mcp::method::{Method, Subject};
use crate::mcp::revision::Revision;
use crate::policy::decision::{Decision, RuleRef};

/// One understood message: what may be asked of policy. Large, and handed from step to step of one future, which would
/// keep a copy for each: so it travels in a box.
pub struct Call {
    /// The gateway.
    pub gateway: Arc<Gateway>,
    /// What is served, as it was when the request came.
    pub snapshot: Arc<Snapshot>,
    /// The server that it is for.
    pub site: Arc<Site>,
    /// Who sent it.
    pub caller: Arc<Caller>,
    /// The request's headers.
    pub headers: HeaderMap,
    /// The message.
    pub envelope: Envelope,
    /// The revision that it is judged by.
    pub revision: Revision,
    /// Its row of the method table.
    pub method: &'static Method,
    /// The session that it belongs to (old era).
    pub session: Option<Session>,
    /// The peer's address.
    pub peer: IpAddr,
    /// When the request came.
    pub started: Instant,
}

/// A ruling, as it is recorded.
pub struct Ruling<'a> {
    /// What was decided.
    pub verdict: Verdict,
    /// A stable word.
    pub reason: &'static str,
    /// The decision that it follows, if policy was asked.
    pub decision: Option<&'a Decision>,
    /// The tool's definition, if it is known.
    pub tool: Option<&'a Tool>,
    /// A stable word, if the definition is not the reviewed one.
    pub drift: Option<&'static str>,
}

impl Call {
    /// The JSON-RPC id, byte for byte.
    pub fn id(&self) -> Option<&[u8]> {
        self.envelope.id_raw()
    }

    /// Refuses the message before any decision about it.
    pub(super) fn refuse(&self, reason: &'static str, response: Response<Body>) -> Response<Body> {
        self.gateway.refuse(&self.site, &self.caller, Refused::with(reason, response))
    }

    /// The first record of this message.
    pub fn event<'a>(&'a self, ruling: &Ruling<'a>) -> DecisionEvent<'a> {
        DecisionEvent {
            method: self.method.name,
            protocol_version: Some(self.revision.as_str()),
            session: self.session.as_ref().and_then(|_| self.headers.get(SESSION_ID)?.to_str().ok()),
            request_id: self.id().and_then(|id| std::str::from_utf8(id).ok()),
            target: self.target(),
            principal: Some(self.caller.fields(self.caller.verified.token_id())),
            server: self.site.fields(),
            verdict: Some(ruling.verdict),
            reason: ruling.reason,
            policy: ruling.decision.and_then(|decision| decision.rule.as_deref()).map(policy),
            shadow: ruling.decision.and_then(|decision| decision.shadow.as_deref()).map(|shadow| ShadowFields {
                verdict: verdict(shadow.effect),
                policy: shadow.rule.as_deref().map(policy),
            }),
            arguments: self.envelope.arguments_raw(),
            level: self.level(),
            redact: Some(&self.site.redaction),
            tool_digest: ruling.tool.map(|tool| &*tool.digest).filter(|digest| !digest.is_empty()),
            tool_drift: ruling.drift,
            traceparent: self.envelope.meta().traceparent(),
            client_address: Some(self.peer),
            config_digest: None,
            credential_mode: Some(self.site.credential_mode()),
        }
    }

    fn level(&self) -> Level {
        self.site.level()
    }

    fn target(&self) -> Target<'_> {
        match self.method.subject {
            Subject::Tool => self.envelope.name().map_or(Target::None, Target::Tool),
            Subject::Prompt => self.envelope.name().map_or(Target::None, Target::Prompt),
            Subject::Resource => self.envelope.uri().map_or(Target::None, Target::Resource),
            Subject::None | Subject::Completion | Subject::Task | Subject::Subscription => Target::None,
        }
    }
}

fn policy(rule: &RuleRef) -> PolicyFields<'_> {
    let break_glass = rule.break_glass.as_deref();
    PolicyFields {
        namespace: &rule.namespace,
        name: &rule.policy,
        generation: rule.generation,
        rule: &rule.rule,
        break_glass: break_glass.map(|why| (why.reason.as_str(), why.ticket.as_deref())),
    }
}

/// The word of a decision's effect in records.
pub fn verdict(effect: Effect) -> Verdict {
    match effect {
        Effect::Allow => Verdict::Allow,
        Effect::Deny => Verdict::Deny,
        Effect::RequireApproval => Verdict::RequireApproval,
    }
}
