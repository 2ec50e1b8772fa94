//! One server at one time: what it answers to whom.
//!
//! Invariant: every answer is the evaluator's, unless the server answers nobody, or its lock refuses the tool.

use std::sync::Arc;

use super::cast::{Accepted, Someone, Voice};
use super::explain::refusal;
use super::targets::{Asked, TargetKind, refusing_lock};
use super::who_can::{Row, Window};
use super::{Answer, except, rule_name};
use crate::fleet::Served;
use crate::generated::policy::Effect;
use crate::generated::server::OnChange;
use crate::generated::{Risk, Server};
use crate::identity::principal::Principal;
use crate::policy::evaluate::about_apart_from_condition;
use crate::policy::index::PrincipalKeys;
use crate::policy::list::{Foreseen, Visibility, foresee_anybody};
use crate::policy::pattern::asserted;
use crate::policy::request::{Facts, Target};
use crate::policy::rule::Rule;
use crate::policy::tri::Tri;
use crate::tools::risk::KnownRisk;

/// A server with the rules that reach it; or none, which refuses everything.
pub(super) struct Side<'a> {
    served: Option<Served<'a>>,
    /// Why every call is refused whatever the rules say, if so.
    pub(super) refused: Option<String>,
    /// The rules that reach it, whether they hold at this time or not, with everybody of whom they speak.
    pub(super) voices: Vec<Voice>,
}

impl<'a> Side<'a> {
    /// `accepted`: the authorities of whose principals the voices speak.
    pub(super) fn of(served: Option<Served<'a>>, accepted: &Accepted) -> Self {
        let rules = served.map(|served| served.layers.rules()).unwrap_or_default();
        let refused = served.and_then(refused);
        Self { served, refused, voices: rules.into_iter().map(|rule| Voice::of(rule, accepted)).collect() }
    }

    pub(super) fn server(&self) -> Option<&'a Arc<Server>> {
        self.served.map(|served| served.server)
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.voices.iter().map(|voice| &*voice.rule)
    }

    /// Whether nobody gets an answer about a target from a rule.
    fn refuses(&self, authority: &str, asked: &Asked) -> bool {
        let accepts = |server: &Arc<Server>| server.authorities.iter().any(|accepted| accepted == authority);
        self.refused.is_some() || !self.server().is_some_and(accepts) || self.locks_out(asked)
    }

    /// Whether a lock refuses the target, since nobody reviewed it.
    pub(super) fn locks_out(&self, asked: &Asked) -> bool {
        let lock = self.server().and_then(|server| refusing_lock(server));
        asked.kind == TargetKind::Tool && lock.is_some_and(|lock| !lock.tools.contains_key(&asked.name))
    }

    /// The least class that the server's owner asserts for a tool.
    pub(super) fn floor(&self, asked: &Asked) -> Option<Risk> {
        let server = self.server().filter(|_| asked.kind == TargetKind::Tool)?;
        let locked = server.lock.as_ref().and_then(|lock| lock.class(&asked.name));
        asserted(&server.risk, &asked.name).chain(locked).max()
    }

    /// What somebody gets, whatever a condition says of them.
    pub(super) fn answer(&self, someone: &Someone, asked: &Asked, facts: &Facts) -> Answer {
        let Some(served) = self.served.filter(|_| !self.refuses(&someone.principal.authority, asked)) else {
            return Answer::Deny;
        };
        let target = asked.target();
        answer(foresee_anybody(served.layers, &someone.principal, &someone.keys, target, facts).enforced)
    }

    /// The whole answer, with its reasons.
    pub(super) fn row(&self, someone: &Someone, asked: &Asked, facts: &Facts) -> Row {
        let (principal, keys, target) = (&someone.principal, &someone.keys, asked.target());
        let refuses = self.refuses(&principal.authority, asked);
        let lock = self.server().and_then(|server| refusing_lock(server));
        let hides = lock.is_some_and(|lock| lock.on_change == OnChange::Hide) && self.locks_out(asked);
        let prospect = self.served.map(|served| foresee_anybody(served.layers, principal, keys, target, facts));
        let unless_refused = |foreseen: Option<Foreseen>| foreseen.filter(|_| !refuses).map_or(Answer::Deny, answer);
        let enforced = unless_refused(prospect.map(|prospect| prospect.enforced));
        let shadow = unless_refused(prospect.map(|prospect| prospect.with_shadow));
        let hidden = self.refused.is_some() || hides;
        let listed = prospect.is_some_and(|prospect| prospect.enforced.visibility != Visibility::Hidden) && !hidden;
        let about = |rule: &Rule, principal: &Principal, keys: &PrincipalKeys| {
            about_apart_from_condition(rule, principal, keys, &target, facts)
        };
        let deciding: Vec<&Rule> =
            self.rules().filter(|rule| decides(rule, about(rule, principal, keys), enforced)).collect();
        let more = someone.perhaps_in_groups();
        let more_keys = PrincipalKeys::of(&more);
        let unless = self.rules().filter(|rule| {
            let narrows = rule.effect != Effect::Allow && !rule.shadow && enforced != Answer::Deny;
            // Whoever is excepted stays so in further groups.
            let further = narrows && !rule.excepts(principal, keys) && about(rule, &more, &more_keys) != Tri::No;
            further && about(rule, principal, keys) == Tri::No
        });
        Row {
            principal: someone.name.clone(),
            via: someone.via().map(str::to_owned),
            actor: principal.actor.as_ref().map(|actor| actor.subject.to_string()),
            kind: asked.kind.as_str(),
            target: asked.shown.clone(),
            except: except::of(self, someone, asked, enforced, facts),
            risk: asked.risk.own.map(Risk::as_str),
            answer: enforced,
            listed,
            rules: deciding.iter().map(|rule| rule_name(&rule.reference)).collect(),
            conditions: deciding.iter().filter_map(|rule| rule.condition()).map(str::to_owned).collect(),
            windows: deciding.iter().map(|rule| Window::of(rule)).filter(Window::is_bounded).collect(),
            unless: unless.map(|rule| rule_name(&rule.reference)).collect(),
            shadow: Some(shadow).filter(|shadow| *shadow != enforced),
        }
    }
}

impl Asked {
    /// The same tool with a class that is at least this.
    pub(super) fn at_least(&self, floor: Option<Risk>) -> Self {
        Self { risk: KnownRisk { own: self.risk.own.max(floor), ..self.risk }, ..self.clone() }
    }
}

/// Why a server refuses every call, whatever the rules say, if so.
pub(super) fn refused(served: Served<'_>) -> Option<String> {
    let invalid = served.layers.denied.map(|word| format!("PolicyInvalid ({word})"));
    refusal(&served.server.state).or(invalid)
}

fn decides(rule: &Rule, about: Tri, answer: Answer) -> bool {
    match rule.effect {
        _ if rule.shadow => false,
        Effect::Allow => about == Tri::Yes && answer != Answer::Deny,
        Effect::Deny => about != Tri::No,
        Effect::RequireApproval => about != Tri::No && answer != Answer::Deny,
    }
}

/// Whether a rule counts as being about somebody and a target, its condition left aside: a grant only if it surely is.
pub(super) fn counts(rule: &Rule, someone: &Someone, target: &Target<'_>, facts: &Facts) -> bool {
    match about_apart_from_condition(rule, &someone.principal, &someone.keys, target, facts) {
        Tri::Yes => true,
        Tri::Unknown => rule.effect != Effect::Allow,
        Tri::No => false,
    }
}

fn answer(foreseen: Foreseen) -> Answer {
    match foreseen.visibility {
        Visibility::Hidden => Answer::Deny,
        Visibility::Visible => foreseen.effect.into(),
        Visibility::DependsOnArguments => Answer::Depends,
    }
}
