//! One decision, and why it fell: every rule that reaches the server, and what speaks for and against its match.

use serde::Serialize;

use super::{Answer, doubts, rule_name};
use crate::fleet::Served;
use crate::generated::policy::Effect;
use crate::generated::server::{Lock, LockedTool, OnChange, State};
use crate::policy::evaluate::evaluate;
use crate::policy::request::{Facts, Request, Target};
use crate::policy::rule::Rule;
use crate::policy::tri::Tri;
use crate::tools::lock::Drift;

/// A decision with its reasons.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What happens to the call.
    pub answer: Answer,
    /// The stable word of the reason.
    pub reason: String,
    /// Whether the caller may know that the target exists.
    pub visible: bool,
    /// The rule that decided, as `namespace/policy/rule`.
    pub rule: Option<String>,
    /// What the caller is told, if a rule says.
    pub message: Option<String>,
    /// What Shadow policies would have made of it, where that differs.
    pub shadow: Option<Answer>,
    /// What cannot be said for sure, and what counts meanwhile.
    pub doubts: Vec<String>,
    /// Every rule that reaches the server, those that match first.
    pub rules: Vec<Considered>,
}

/// One rule and this call.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Considered {
    /// `namespace/policy/rule`.
    pub rule: String,
    /// What the rule does.
    pub effect: Answer,
    /// Whether it only records.
    pub shadow: bool,
    /// Whether it counts as matching: for an Allow only if it surely does, for the others unless it surely does not.
    pub counts: bool,
    /// Whether it matches.
    pub matches: Verdict,
    /// Why, in words.
    pub why: String,
}

/// Whether a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Verdict {
    /// It does.
    Yes,
    /// A fact is missing.
    Unknown,
    /// It does not.
    No,
}

impl From<Tri> for Verdict {
    fn from(answer: Tri) -> Self {
        match answer {
            Tri::Yes => Verdict::Yes,
            Tri::Unknown => Verdict::Unknown,
            Tri::No => Verdict::No,
        }
    }
}

/// Explains the decision about one call.
pub fn explain(served: Served<'_>, request: &Request<'_>, facts: &Facts) -> Explanation {
    let mut rules: Vec<Considered> = served.layers.rules().iter().map(|rule| consider(rule, request, facts)).collect();
    rules.sort_by_key(|considered| (!considered.counts, considered.matches));
    if let Some(refused) = refusal(&served.server.state) {
        let (answer, reason) = (Answer::Deny, refused);
        let doubts = doubts(served);
        return Explanation { answer, reason, visible: false, rule: None, message: None, shadow: None, doubts, rules };
    }
    let decision = evaluate(served.layers, request, facts);
    let mut doubts = doubts(served);
    if let (Some(lock), Target::Tool { name, .. }) = (&served.server.lock, request.target) {
        let hides = lock.on_change == OnChange::Hide;
        let refuses = hides || lock.on_change == OnChange::Deny && decision.effect != Effect::Deny;
        doubts.push(on_change(lock, name));
        if refuses && !lock.tools.contains_key(name) {
            let (answer, reason) = (Answer::Deny, Drift::New.as_str().to_owned());
            let visible = decision.visible && !hides;
            return Explanation { answer, reason, visible, rule: None, message: None, shadow: None, doubts, rules };
        }
    }
    let reason = match served.layers.denied {
        Some(word) => format!("{} ({word})", decision.reason.as_str()),
        None => decision.reason.as_str().to_owned(),
    };
    Explanation {
        answer: decision.effect.into(),
        reason,
        visible: decision.visible,
        rule: decision.rule.as_deref().map(rule_name),
        message: decision.rule.as_ref().and_then(|rule| rule.message.as_deref()).map(str::to_owned),
        shadow: decision.shadow.map(|shadow| shadow.effect.into()),
        doubts,
        rules,
    }
}

/// What the tool lock makes of a tool that is not what was reviewed, which only the gateway sees.
fn on_change(lock: &Lock, name: &str) -> String {
    let consequence = match lock.on_change {
        OnChange::Warn => "passes, and is reported",
        OnChange::Hide => "is answered as if it did not exist",
        OnChange::Deny => "is refused",
    };
    match lock.tools.get(name) {
        Some(LockedTool(digest, _)) => {
            format!("A definition of {name} with another digest than {digest}, which was reviewed, {consequence}.")
        }
        None => format!("The tool lock has no {name}: it {consequence}."),
    }
}

/// Why a server takes no calls, whatever the rules say.
pub(super) fn refusal(state: &State) -> Option<String> {
    match state {
        State::Enabled => None,
        State::Disabled => Some("ServerDisabled".to_owned()),
        State::Unserved { reason, .. } => Some(format!("ServerUnserved ({reason})")),
    }
}

fn consider(rule: &Rule, request: &Request<'_>, facts: &Facts) -> Considered {
    let (answer, why) = judge(rule, request, facts);
    Considered {
        rule: rule_name(&rule.reference),
        effect: rule.effect.into(),
        shadow: rule.shadow,
        counts: answer == Tri::Yes || answer == Tri::Unknown && rule.effect != Effect::Allow,
        matches: answer.into(),
        why,
    }
}

/// The parts of a rule, in the order in which the evaluator asks; the first that is not a plain yes is the reason.
fn judge(rule: &Rule, request: &Request<'_>, facts: &Facts) -> (Tri, String) {
    if !rule.holds_at(facts.now) {
        return (Tri::No, "it does not hold at this time (notBefore, notAfter)".to_owned());
    }
    let mut reasons = Vec::new();
    match rule.about_target(&request.target) {
        Tri::No => return (Tri::No, "it is about other targets".to_owned()),
        Tri::Unknown => reasons.push("the tool's risk is not classified".to_owned()),
        Tri::Yes => {}
    }
    match rule.about_principal(request.principal, request.keys) {
        Tri::No if rule.excepts(request.principal, request.keys) => {
            return (Tri::No, "the caller is excepted".to_owned());
        }
        Tri::No => return (Tri::No, "it is about other principals".to_owned()),
        Tri::Unknown => reasons.push("the caller's groups are not known".to_owned()),
        Tri::Yes => {}
    }
    match rule.when.as_ref().map(|when| when.answer(request.principal, request.arguments)) {
        Some(Ok(false)) => return (Tri::No, "its condition does not hold".to_owned()),
        Some(Err(e)) => reasons.push(format!("its condition cannot be evaluated: {e}")),
        Some(Ok(true)) | None => {}
    }
    if reasons.is_empty() {
        let condition = if rule.when.is_some() { ", its condition holds" } else { "" };
        return (Tri::Yes, format!("principal and target match{condition}"));
    }
    let consequence = match rule.effect {
        Effect::Allow => "an Allow then does not match",
        Effect::Deny | Effect::RequireApproval => "a rule that narrows then counts as matching",
    };
    (Tri::Unknown, format!("{}; {consequence}", reasons.join("; ")))
}
