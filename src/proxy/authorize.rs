//! From a decision to a permit, or to a refusal.
//!
//! Invariant: a [`Permit`] exists only for a message that was allowed and whose decision is recorded as surely as the
//! server asks; nothing is forwarded without one. Both outcomes are recorded before they take effect.

use std::time::Instant;

use http::Response;

use super::body::{Body, Completion};
use super::call::{Call, Ruling, verdict};
use super::catalogue::Tool;
use super::locked::{self, Locked};
use super::respond::Refused;
use super::snapshot::Snapshot;
use super::{authenticate, gateway, respond};
use crate::audit::{AuditError, DecisionEvent, Delivery, Verdict};
use crate::generated::policy::Effect;
use crate::mcp::answer::{self, Own};
use crate::mcp::mirror::Mismatch;
use crate::mcp::param_header::check_params;
use crate::mcp::revision::Era;
use crate::policy::decision::Decision;
use crate::policy::evaluate::evaluate;
use crate::policy::request::{Facts, Request, Target};
use crate::tools::risk::KnownRisk;

/// Proof that a message may be forwarded. Made here only.
#[must_use = "a permit that is not used is a call that was recorded and not made"]
pub struct Permit(Completion);

impl Permit {
    /// The call's second record, for whoever forwards it.
    pub fn into_completion(self) -> Completion {
        self.0
    }
}

/// Permits a message that needs no grant but a valid token: lifecycle, lists, their notifications (design 3.6).
pub async fn permit(call: &Call) -> Result<Permit, Response<Body>> {
    let ruling = Ruling { verdict: Verdict::Allow, reason: "Authenticated", decision: None, tool: None, drift: None };
    allow(call, &ruling, Delivery::BestEffort, None).await
}

/// Permits what a session's owner asks of it without a message. Recorded in best effort, so nobody waits.
pub(super) fn permit_session(gateway: &gateway::Gateway, event: &DecisionEvent<'_>, started: Instant) -> Permit {
    let (recorder, delivery) = (gateway.recorder(), Delivery::BestEffort);
    let id = recorder.decision(delivery, event).id();
    Permit(Completion::new(recorder.clone(), id, delivery, started))
}

/// Decides a tool call.
pub async fn permit_tool(call: &Call, name: &str) -> Result<Permit, Response<Body>> {
    let tool = locked::known(&call.site, name).await;
    let decision = decide(call, &call.snapshot, name, risk(tool.as_ref()));
    let locked = Locked::of(&call.site, name, tool.as_ref());
    let mut ruling = Ruling {
        verdict: verdict(decision.effect),
        reason: decision.reason.as_str(),
        decision: Some(&decision),
        tool: tool.as_ref(),
        drift: locked.word(),
    };
    let delivery = call.site.delivery();
    let metrics = call.gateway.metrics();
    if let Some(stopped) = stopped(call, name, locked, &decision) {
        metrics.denied.inc();
        metrics.locked.inc();
        (ruling.verdict, ruling.reason, ruling.decision) = (Verdict::Deny, stopped.reason, None);
        return Err(refuse(call, &ruling, delivery, *stopped.response).await);
    }
    if decision.effect == Effect::Allow {
        let Err(lacking) = call.site.scopes.check(call.caller.verified.scopes(), Some(name)) else {
            if let Err(mismatch) = mirrored(call, tool.as_ref()) {
                metrics.denied.inc();
                (ruling.verdict, ruling.reason) = (Verdict::Deny, mismatch.reason());
                return Err(refuse(call, &ruling, delivery, respond::answer(mismatch.answer(call.id()))).await);
            }
            metrics.allowed.inc();
            if locked.word().is_some() {
                metrics.drifted.inc();
            }
            return allow(call, &ruling, delivery, Some(name)).await;
        };
        // Another scope would help, and the tool is visible: the one case for this challenge (design 5).
        metrics.denied.inc();
        ruling.verdict = Verdict::Deny;
        ruling.reason = "InsufficientScope";
        let refusal = call.site.challenges.insufficient_scope(&lacking);
        let response = respond::challenge(refusal, call.id(), &lacking.to_string());
        return Err(refuse(call, &ruling, delivery, response).await);
    }
    match decision.effect {
        Effect::RequireApproval => metrics.approval_required.inc(),
        _ => metrics.denied.inc(),
    };
    Err(refuse(call, &ruling, delivery, denial(call, name, &decision)).await)
}

fn risk(tool: Option<&Tool>) -> KnownRisk {
    tool.map(|tool| tool.risk).unwrap_or_default()
}

/// Holds the headers that mirror a known tool's parameters to its arguments (mcp-obligations 36). Asked of allowed calls
/// only, so that nothing is learnt of a tool that the caller may not see.
fn mirrored(call: &Call, tool: Option<&Tool>) -> Result<(), Mismatch> {
    match (tool, call.revision.era()) {
        (Some(tool), Era::New) => check_params(&call.headers, call.envelope.arguments_raw(), &tool.mirrored),
        _ => Ok(()),
    }
}

/// Asks policy about a tool call.
fn decide(call: &Call, snapshot: &Snapshot, name: &str, risk: KnownRisk) -> Decision {
    let Some(served) = snapshot.fleet.lookup(&call.site.server.path) else {
        // A site without its server cannot be: deny.
        return Decision {
            effect: Effect::Deny,
            reason: crate::policy::decision::Reason::NoMatchingAllow,
            visible: false,
            rule: None,
            shadow: None,
        };
    };
    let request = Request {
        principal: call.caller.verified.principal(),
        keys: &call.caller.keys,
        target: Target::Tool { name, risk },
        arguments: call.envelope.arguments_raw().and_then(|raw| std::str::from_utf8(raw).ok()),
    };
    evaluate(served.layers, &request, &Facts { now: gateway::now() })
}

/// What the tool lock refuses: what it hides before anybody is told anything, and what it denies only to those whom
/// policy would let through; others are told what policy says.
fn stopped(call: &Call, name: &str, locked: Locked, decision: &Decision) -> Option<Refused> {
    match locked {
        Locked::Same | Locked::Told(_) => None,
        Locked::Hidden(word) => Some(Refused::new(word, answer::unknown_tool(call.id(), name))),
        Locked::Refused(_) if decision.effect == Effect::Deny => None,
        Locked::Refused(word) => {
            Some(Refused::new(word, answer::tool_denied(call.id(), call.revision.era(), &locked.message(name))))
        }
    }
}

/// What a refused caller is told: that the tool does not exist, if it may not see it; else the rule's own message.
fn denial(call: &Call, name: &str, decision: &Decision) -> Response<Body> {
    if !decision.visible {
        return respond::answer(answer::unknown_tool(call.id(), name));
    }
    let rule = decision.rule.as_deref().and_then(|rule| rule.message.as_deref());
    let message = match (rule, decision.effect) {
        (Some(message), _) => message.to_owned(),
        (None, Effect::RequireApproval) => {
            format!("The tool {name} needs a person's approval, which this gateway cannot ask for yet.")
        }
        (None, _) => format!("The tool {name} is not allowed for you with these arguments."),
    };
    respond::answer(answer::tool_denied(call.id(), call.revision.era(), &message))
}

/// Records a refusal, then lets it be said. Nothing follows it, so it has no second record.
async fn refuse(call: &Call, ruling: &Ruling<'_>, delivery: Delivery, response: Response<Body>) -> Response<Body> {
    match call.gateway.recorder().decision(delivery, &call.event(ruling)).durable().await {
        Ok(()) => response,
        Err(error) => unrecorded(call, &error),
    }
}

/// Records an allowed message as surely as is asked for; the second record follows when the permit's completion ends.
async fn allow(
    call: &Call,
    ruling: &Ruling<'_>,
    delivery: Delivery,
    tool: Option<&str>,
) -> Result<Permit, Response<Body>> {
    let recorder = call.gateway.recorder();
    let receipt = recorder.decision(delivery, &call.event(ruling));
    let id = receipt.id();
    receipt.durable().await.map_err(|error| unrecorded(call, &error))?;
    let completion = Completion::new(recorder.clone(), id, delivery, call.started);
    if !call.gateway.is_current(&call.snapshot)
        && let Err(refused) = still_allowed(call, tool)
    {
        completion.denied(refused.reason);
        return Err(*refused.response);
    }
    Ok(Permit(completion))
}

/// Asks again what was decided before the record was kept, by what holds now: the disk may have taken long.
fn still_allowed(call: &Call, tool: Option<&str>) -> Result<(), Refused> {
    let (snapshot, site) = authenticate::again(&call.gateway, &call.site, &call.caller)?;
    if site.closed.is_some() {
        let answer = Own::NotServed.answer(call.id(), "this server was closed before the call could be made");
        return Err(Refused::new("ServerClosed", answer));
    }
    if site.server.upstream != call.site.server.upstream {
        let answer = Own::NotServed.answer(call.id(), "this server was moved before the call could be made: try again");
        return Err(Refused::with("ServerMoved", respond::retry(respond::answer(answer), 1)));
    }
    if let Some(name) = tool {
        let tool = site.catalogue.get(name);
        let decision = decide(call, &snapshot, name, risk(tool.as_ref()));
        if let Some(stopped) = stopped(call, name, Locked::of(&site, name, tool.as_ref()), &decision) {
            return Err(stopped);
        }
        if decision.effect != Effect::Allow {
            return Err(Refused::with(decision.reason.as_str(), denial(call, name, &decision)));
        }
    }
    site.scopes.check(call.caller.verified.scopes(), tool).map_err(|lacking| {
        let refusal = site.challenges.insufficient_scope(&lacking);
        Refused::with("InsufficientScope", respond::challenge(refusal, call.id(), &lacking.to_string()))
    })
}

fn unrecorded(call: &Call, error: &AuditError) -> Response<Body> {
    call.gateway.metrics().unrecorded.inc();
    tracing::warn!(server = call.site.server.id.display_name(), reason = error.reason(), %error, "call not recorded");
    let answer = Own::NotRecorded.answer(call.id(), "the call could not be recorded, so it was not made");
    respond::retry(respond::answer(answer), 1)
}

#[cfg(test)]
pub(super) mod tests;
