//! The record of each event: one flat JSON object of OpenTelemetry names, with `portcullis.` for identity and decision.
//!
//! Pure: an event, an id and a time become bytes in a buffer that the caller reuses.

use std::fmt::Write as _;

use super::event::{
    AuditId, AuthFailureEvent, CompletionEvent, ConfigChangeEvent, DecisionEvent, Level, Outcome, PolicyFields,
    PrincipalFields, RefusalEvent, ServerFields, Target, Verdict,
};
use super::json::{self, Digits, Object, URI_CAP};
use super::redact::{self, DigestKey, Part};

/// The event before a call is forwarded or refused.
pub const DECISION: &str = "mcp.gateway.decision";
/// The event after it ended.
pub const COMPLETION: &str = "mcp.gateway.completion";
/// Failed authentications, summed.
pub const AUTH_FAILURE: &str = "mcp.gateway.authentication_failure";
/// Requests of a known caller that were refused before any decision, summed.
pub const REFUSAL: &str = "mcp.gateway.refusal";
/// A change of what is enforced.
pub const CONFIG_CHANGE: &str = "mcp.gateway.config_change";
/// The recorder opened, and every call that an earlier run left open has its completion.
pub const STARTUP: &str = "mcp.gateway.startup";
/// The recorder is about to close.
pub const SHUTDOWN: &str = "mcp.gateway.shutdown";

/// What all records of one proxy share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) key: DigestKey,
    /// Members rendered once: `service.instance.id` and whatever the administrator adds.
    pub(super) shared: Vec<u8>,
}

impl Context {
    /// `resource` are OpenTelemetry resource attributes such as `k8s.pod.uid`.
    pub(super) fn new(key: DigestKey, instance: &str, resource: &[(String, String)]) -> Self {
        // The version of these names and their meaning.
        let mut shared = br#""portcullis.schema":1"#.to_vec();
        let own = ("service.instance.id".to_owned(), instance.to_owned());
        for (name, value) in std::iter::once(&own).chain(resource) {
            shared.push(b',');
            json::string(&mut shared, name, json::CAP);
            shared.push(b':');
            json::string(&mut shared, value, json::CAP);
        }
        Self { key, shared }
    }

    fn begin<'a>(&self, out: &'a mut Vec<u8>, event: &str, unix_ms: u64) -> Object<'a> {
        let mut object = Object::begin(out);
        object.word("event.name", event);
        object.word("time", json::time(unix_ms).as_str());
        object.members(&self.shared);
        object
    }

    fn begin_call<'a>(&self, out: &'a mut Vec<u8>, event: &str, id: AuditId, unix_ms: u64) -> Object<'a> {
        let mut object = self.begin(out, event, unix_ms);
        object.word("audit.id", id.0.as_hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
        object
    }

    pub(super) fn decision(&self, out: &mut Vec<u8>, id: AuditId, unix_ms: u64, event: &DecisionEvent<'_>) {
        let mut object = self.begin_call(out, DECISION, id, unix_ms);
        object.word("portcullis.decision", event.verdict.unwrap_or(Verdict::Deny).as_str());
        object.text("portcullis.decision.reason", event.reason);
        if let Some(policy) = &event.policy {
            policy_fields(&mut object, policy);
        }
        if let Some(shadow) = &event.shadow {
            object.word("portcullis.shadow.decision", shadow.verdict.as_str());
            if let Some(policy) = &shadow.policy {
                shadow_policy(&mut object, policy);
            }
        }
        server_fields(&mut object, &event.server);
        if let Some(principal) = &event.principal {
            principal_fields(&mut object, principal);
        }
        self.request(&mut object, event);
        object.end();
    }

    fn request(&self, object: &mut Object<'_>, event: &DecisionEvent<'_>) {
        object.text("mcp.method.name", event.method);
        object.some("mcp.protocol.version", event.protocol_version);
        object.some("jsonrpc.request.id", event.request_id.map(|id| id.trim_matches('"')));
        match event.target {
            Target::None => {}
            Target::Tool(name) => {
                object.word("gen_ai.operation.name", "execute_tool");
                object.text("gen_ai.tool.name", name);
            }
            Target::Resource(uri) => json::string(object.key("mcp.resource.uri"), uri, URI_CAP),
            Target::Prompt(name) => object.text("gen_ai.prompt.name", name),
        }
        if let Some(session) = event.session {
            object.word("mcp.session.id", &self.key.digest(&[b"session", session.as_bytes()]));
        }
        if let Some(arguments) = event.arguments {
            object.word("portcullis.args.digest", &self.key.digest(&[b"arguments", arguments]));
            if event.level >= Level::Arguments {
                let out = object.key("gen_ai.tool.call.arguments");
                redact::write(out, &self.key, arguments, event.redact, Part::Arguments);
            }
        }
        object.some("portcullis.tool.definition_digest", event.tool_digest);
        object.some("portcullis.tool.drift", event.tool_drift);
        if let Some(link) = event.traceparent.filter(|text| is_traceparent(text)) {
            object.word("portcullis.link.traceparent", link);
        }
        if let Some(address) = event.client_address {
            let mut text = Digits::default();
            if write!(text, "{address}").is_ok() {
                object.word("client.address", text.as_str());
            }
        }
        object.some("portcullis.config.digest", event.config_digest);
        object.some("portcullis.upstream.credential_mode", event.credential_mode);
    }

    pub(super) fn completion(&self, out: &mut Vec<u8>, id: AuditId, unix_ms: u64, event: &CompletionEvent<'_>) {
        let mut object = self.begin_call(out, COMPLETION, id, unix_ms);
        object.word("portcullis.outcome", event.outcome.as_str());
        match (event.outcome, event.reason) {
            // The OpenTelemetry word for a result with `isError`.
            (Outcome::ToolError, None) => object.word("error.type", "tool_error"),
            (_, reason) => object.some("error.type", reason),
        }
        if let Some(status) = event.rpc_status {
            object.number("rpc.response.status_code", status);
        }
        if let Some(status) = event.upstream_status {
            object.number("portcullis.upstream.status_code", status.into());
        }
        object.count("portcullis.duration_us", event.duration_us);
        object.count("portcullis.response.bytes", event.response_bytes);
        if let Some(result) = event.result {
            redact::write(object.key("gen_ai.tool.call.result"), &self.key, result, event.redact, Part::Result);
        }
        object.end();
    }

    /// The end of a call of which there is nothing to measure: never made, or left open by an earlier run.
    pub(super) fn ended(&self, out: &mut Vec<u8>, id: AuditId, unix_ms: u64, outcome: Outcome, reason: &'static str) {
        let mut object = self.begin_call(out, COMPLETION, id, unix_ms);
        object.word("portcullis.outcome", outcome.as_str());
        object.word("error.type", reason);
        object.end();
    }

    pub(super) fn auth_failure(&self, out: &mut Vec<u8>, unix_ms: u64, event: &AuthFailureEvent) {
        let mut object = self.begin(out, AUTH_FAILURE, unix_ms);
        object.text("portcullis.server", &event.server);
        object.text("error.type", &event.reason);
        object.text("client.address.prefix", &event.client_prefix);
        object.count("portcullis.count", event.count);
        object.word("portcullis.first", json::time(event.first_unix_ms).as_str());
        object.word("portcullis.last", json::time(event.last_unix_ms).as_str());
        object.end();
    }

    pub(super) fn refusal(&self, out: &mut Vec<u8>, unix_ms: u64, event: &RefusalEvent<'_>) {
        let mut object = self.begin(out, REFUSAL, unix_ms);
        object.word("portcullis.decision", Verdict::Deny.as_str());
        object.text("portcullis.decision.reason", event.reason);
        if let Some(server) = &event.server {
            server_fields(&mut object, server);
        }
        if let Some(principal) = &event.principal {
            principal_fields(&mut object, principal);
        }
        object.count("portcullis.count", event.sum.count);
        object.word("portcullis.first", json::time(event.sum.first_unix_ms).as_str());
        object.word("portcullis.last", json::time(event.sum.last_unix_ms).as_str());
        object.end();
    }

    pub(super) fn config_change(&self, out: &mut Vec<u8>, unix_ms: u64, event: &ConfigChangeEvent<'_>) {
        let mut object = self.begin(out, CONFIG_CHANGE, unix_ms);
        object.text("portcullis.object.kind", event.kind);
        object.text("portcullis.object.namespace", event.namespace);
        object.text("portcullis.object.name", event.name);
        object.text("portcullis.object.uid", event.uid);
        object.number("portcullis.object.generation", event.generation);
        object.text("portcullis.change", event.change);
        object.some("error.type", event.reason);
        object.end();
    }

    /// `facts` are numbers worth keeping of a start or an end.
    pub(super) fn lifecycle(&self, out: &mut Vec<u8>, event: &str, unix_ms: u64, facts: &[(&'static str, u64)]) {
        let mut object = self.begin(out, event, unix_ms);
        object.word("service.version", env!("CARGO_PKG_VERSION"));
        for (name, fact) in facts {
            object.count(name, *fact);
        }
        object.end();
    }
}

fn server_fields(object: &mut Object<'_>, server: &ServerFields<'_>) {
    object.text("portcullis.server.uid", server.uid);
    object.text("portcullis.server.namespace", server.namespace);
    object.text("portcullis.server.name", server.name);
}

fn policy_fields(object: &mut Object<'_>, policy: &PolicyFields<'_>) {
    object.text("portcullis.policy.namespace", policy.namespace);
    object.text("portcullis.policy.name", policy.name);
    object.number("portcullis.policy.generation", policy.generation);
    object.text("portcullis.policy.rule", policy.rule);
    if let Some((reason, ticket)) = policy.break_glass {
        object.text("portcullis.break_glass.reason", reason);
        object.some("portcullis.break_glass.ticket", ticket);
    }
}

fn shadow_policy(object: &mut Object<'_>, policy: &PolicyFields<'_>) {
    object.text("portcullis.shadow.policy.namespace", policy.namespace);
    object.text("portcullis.shadow.policy.name", policy.name);
    object.number("portcullis.shadow.policy.generation", policy.generation);
    object.text("portcullis.shadow.policy.rule", policy.rule);
}

fn principal_fields(object: &mut Object<'_>, principal: &PrincipalFields<'_>) {
    object.text("portcullis.principal.authority", principal.authority);
    object.text("portcullis.principal.issuer", principal.issuer);
    object.some("portcullis.principal.tenant", principal.tenant);
    object.text("portcullis.principal.subject", principal.subject);
    object.text("portcullis.principal.kind", principal.kind);
    object.some("portcullis.client.id", principal.client);
    object.some("portcullis.actor.subject", principal.actor);
    object.some("portcullis.token.jti", principal.token_jti);
}

/// W3C Trace Context 3.2, version 00: lower-case hexadecimal, no all-zero ids. Anything else is a stranger's text.
fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |len: usize, may_be_zero: bool| {
        parts.next().is_some_and(|part| {
            part.len() == len
                && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                && (may_be_zero || part.bytes().any(|b| b != b'0'))
        })
    };
    text.starts_with("00-")
        && hex(2, true)
        && hex(32, false)
        && hex(16, false)
        && hex(2, true)
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::event::{Delivery, ShadowFields};
    use super::super::redact::Redaction;
    use super::*;

    fn context() -> Context {
        let dir = tempfile::tempdir().unwrap();
        let key = DigestKey::load_or_create(&dir.path().join("key")).unwrap();
        Context::new(key, "i-1", &[("k8s.pod.uid".to_owned(), "p\"1".to_owned())])
    }

    fn id() -> AuditId {
        AuditId::parse("01890a5d-ac96-774b-bcce-b302099a8057").unwrap()
    }

    fn event() -> DecisionEvent<'static> {
        DecisionEvent {
            method: "tools/call",
            request_id: Some("\"7\""),
            session: Some("s-secret"),
            target: Target::Tool("create\u{202e}_issue\n"),
            principal: Some(PrincipalFields {
                authority: "corp",
                issuer: "https://idp.example",
                subject: "ann",
                kind: "User",
                actor: Some("agent-x"),
                ..PrincipalFields::default()
            }),
            server: ServerFields { uid: "u-1", namespace: "team-a", name: "github" },
            verdict: Some(Verdict::Allow),
            reason: "Allowed",
            policy: Some(PolicyFields {
                namespace: "team-a",
                name: "p",
                generation: 4,
                rule: "triage",
                break_glass: Some(("on fire", Some("INC-1"))),
            }),
            shadow: Some(ShadowFields { verdict: Verdict::Deny, policy: None }),
            arguments: Some(br#"{"repo":"acme/x","password":"hunter2"}"#),
            ..DecisionEvent::default()
        }
    }

    fn decision(event: &DecisionEvent<'_>) -> Value {
        let mut out = Vec::new();
        context().decision(&mut out, id(), 1_700_000_000_123, event);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_decision_says_who_what_and_why_and_no_content() {
        let mut record = decision(&event());
        for digest in ["portcullis.args.digest", "mcp.session.id"] {
            let value = record.as_object_mut().unwrap().remove(digest).unwrap();
            assert!(value.as_str().unwrap().starts_with("hmac-sha256:"), "{value}");
        }
        let text = record.to_string();
        assert!(!text.contains("hunter2") && !text.contains("acme/x") && !text.contains("s-secret"), "{text}");
        let expected = serde_json::json!({
            "event.name": "mcp.gateway.decision",
            "time": "2023-11-14T22:13:20.123Z",
            "portcullis.schema": 1,
            "service.instance.id": "i-1",
            "k8s.pod.uid": "p\"1",
            "audit.id": "01890a5d-ac96-774b-bcce-b302099a8057",
            "portcullis.decision": "allow",
            "portcullis.decision.reason": "Allowed",
            "portcullis.policy.namespace": "team-a",
            "portcullis.policy.name": "p",
            "portcullis.policy.generation": 4,
            "portcullis.policy.rule": "triage",
            "portcullis.break_glass.reason": "on fire",
            "portcullis.break_glass.ticket": "INC-1",
            "portcullis.shadow.decision": "deny",
            "portcullis.server.uid": "u-1",
            "portcullis.server.namespace": "team-a",
            "portcullis.server.name": "github",
            "portcullis.principal.authority": "corp",
            "portcullis.principal.issuer": "https://idp.example",
            "portcullis.principal.subject": "ann",
            "portcullis.principal.kind": "User",
            "portcullis.actor.subject": "agent-x",
            "mcp.method.name": "tools/call",
            "jsonrpc.request.id": "7",
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "create\u{202e}_issue\n",
        });
        assert_eq!(record, expected);
    }

    #[test]
    fn the_levels_add_redacted_content() {
        let redaction = Redaction::new(["/args/password", "/result/token"]).unwrap();
        let record = decision(&DecisionEvent { level: Level::Arguments, redact: Some(&redaction), ..event() });
        assert_eq!(record["gen_ai.tool.call.arguments"]["repo"], "acme/x");
        assert!(!record.to_string().contains("hunter2"));
        let completion = CompletionEvent {
            outcome: Outcome::ToolError,
            delivery: Delivery::Durable,
            reason: None,
            rpc_status: None,
            upstream_status: Some(200),
            duration_us: 5,
            response_bytes: 6,
            result: Some(br#"{"token":"hunter3","ok":1}"#),
            redact: Some(&redaction),
        };
        let mut out = Vec::new();
        context().completion(&mut out, id(), 0, &completion);
        let record: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(record["gen_ai.tool.call.result"]["ok"], 1);
        assert_eq!(record["error.type"], "tool_error");
        assert!(!record.to_string().contains("hunter3"));
    }

    #[test]
    fn only_a_well_formed_trace_context_is_linked() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        let zero_trace = good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let upper = good.to_uppercase();
        let extra = format!("{good}-00");
        for bad in ["", "00", &zero_trace, &upper, &extra, "\"},{", &good.replace("00-4", "ff-4")] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }

    #[test]
    fn without_a_verdict_it_is_a_denial() {
        assert_eq!(decision(&DecisionEvent::default())["portcullis.decision"], "deny");
    }

    #[test]
    fn the_rest_of_the_events_are_json() {
        let context = context();
        let failure = AuthFailureEvent {
            server: "a/b".to_owned(),
            reason: "Expired".to_owned(),
            client_prefix: "10.0.0.0/24".to_owned(),
            count: 3,
            first_unix_ms: 0,
            last_unix_ms: 1,
        };
        let change = ConfigChangeEvent {
            kind: "McpPolicy",
            namespace: "a",
            name: "b",
            uid: "",
            generation: 2,
            change: "refused",
            reason: Some("Bad"),
        };
        let refusal = RefusalEvent {
            server: None,
            principal: None,
            reason: "Various",
            sum: super::super::quota::Sum { count: 2, first_unix_ms: 0, last_unix_ms: 1 },
        };
        let mut records = vec![Vec::new(); 5];
        context.auth_failure(&mut records[0], 1, &failure);
        context.config_change(&mut records[1], 1, &change);
        context.lifecycle(&mut records[2], STARTUP, 1, &[("portcullis.epoch", 2)]);
        context.ended(&mut records[3], id(), 1, Outcome::Unknown, "ProxyEnded");
        context.refusal(&mut records[4], 1, &refusal);
        let names: Vec<_> = records
            .iter()
            .map(|record| serde_json::from_slice::<Value>(record).unwrap()["event.name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, [AUTH_FAILURE, CONFIG_CHANGE, STARTUP, COMPLETION, REFUSAL]);
    }
}
