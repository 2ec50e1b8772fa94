//! Every principal that the policies speak of, times every tool, resource and prompt: who can call what, and by which
//! rules.
//!
//! A row stands for whoever is what the row says *and nothing more*: a member of these groups, through this client, for
//! whom this actor acts. Whoever is in further groups may be refused by further rules (`unless`), or be excepted from a
//! refusal: rows for such combinations are added where they can do more. What a condition says of them is left open.

use std::collections::BTreeSet;

use serde::Serialize;

use super::explain::refusal;
use super::{Answer, doubts, rule_name};
use crate::fleet::Served;
use crate::generated::policy::{ActorMatch, Effect, PrincipalMatch};
use crate::generated::server::{Lock, OnChange};
use crate::generated::{Risk, Server};
use crate::identity::principal::{Actor, Groups, Kind, Principal};
use crate::policy::evaluate::about_apart_from_condition;
use crate::policy::index::PrincipalKeys;
use crate::policy::list::{Foreseen, Visibility, foresee_anybody};
use crate::policy::request::{Facts, Target};
use crate::policy::rule::{Rule, subject};
use crate::policy::tri::Tri;
use crate::tools::risk::KnownRisk;

/// A tool that a server is known to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Its exact name.
    pub name: String,
    /// What is known of its risk; `None` if nobody here can say: it could be of every class, or of none.
    pub risk: Option<KnownRisk>,
}

/// The whole table of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// `namespace/name` of the server.
    pub server: String,
    /// Why every call is refused whatever the rules say, if so.
    pub refused: Option<String>,
    /// Who can and who cannot, by principal and target.
    pub rows: Vec<Row>,
    /// Rules that do not hold at this time.
    pub dormant: Vec<Dormant>,
    /// What cannot be said for sure, and what counts meanwhile.
    pub doubts: Vec<String>,
    /// Authorities that rules name and whose tokens the server does not accept: nobody of them gets as far as a rule.
    pub strangers: Vec<String>,
}

/// One principal and one target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Who: `user:alice@corp`, `group:dev@corp`, `client:ci@corp`, `serviceaccount:ns/name@cluster`, `any@corp`.
    pub principal: String,
    /// The client through which the principal presents itself.
    pub via: Option<String>,
    /// The actor of a delegated token.
    pub actor: Option<String>,
    /// `Tool`, `Resource` or `Prompt`.
    pub kind: &'static str,
    /// A name, or a pattern that stands for every name that nothing else in the rules speaks of.
    pub target: String,
    /// The risk class that the answer presumes; `None`: unclassified, or no rule asks for it.
    pub risk: Option<&'static str>,
    /// The answer.
    pub answer: Answer,
    /// Whether the target is listed for the principal: if not, no rule allows any call to it.
    pub listed: bool,
    /// The rules that decide, as `namespace/policy/rule`.
    pub rules: Vec<String>,
    /// The conditions of those rules.
    pub conditions: Vec<String>,
    /// Unix seconds from which and until which those rules hold, where they say.
    pub windows: Vec<Window>,
    /// Rules that would refuse, or ask for approval, if the principal is in further groups.
    pub unless: Vec<String>,
    /// The answer with Shadow policies enforced, where that differs.
    pub shadow: Option<Answer>,
}

/// When a rule holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// Unix seconds from which it holds.
    pub not_before: Option<i64>,
    /// Unix seconds until which, exclusively, it holds.
    pub not_after: Option<i64>,
}

/// A rule that does not hold now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dormant {
    /// `namespace/policy/rule`.
    pub rule: String,
    /// What it does.
    pub effect: Answer,
    /// When it holds.
    pub window: Window,
}

/// Asks for every principal that the rules name and every tool: the given ones; if none are known, those that were
/// reviewed, where a lock refuses all others; else those that the rules name.
pub fn who_can(served: Served<'_>, inventory: Option<&[Tool]>, facts: &Facts) -> Table {
    let rules: Vec<_> = served.layers.rules();
    let rules: Vec<&Rule> = rules.iter().map(|rule| &**rule).collect();
    let (current, later): (Vec<&Rule>, Vec<&Rule>) = rules.into_iter().partition(|rule| rule.holds_at(facts.now));
    let refused =
        refusal(&served.server.state).or_else(|| served.layers.denied.map(|word| format!("PolicyInvalid ({word})")));
    let people = Cast::of(&current, &served.server.authorities);
    let mut rows = BTreeSet::new();
    let reviewed = reviewed(served.server);
    let inventory = inventory.or(reviewed.as_deref());
    for asked in targets(&current, inventory) {
        let ask = |someone: &Someone| row(served, &current, someone, &asked, facts, refused.is_some());
        for someone in &people.named {
            let alone = ask(someone);
            for other in &people.excepted {
                let both = someone.and(other);
                rows.extend(both.map(|both| ask(&both)).filter(|both| both.answer < alone.answer));
            }
            rows.insert(alone);
        }
    }
    let dormant = later.into_iter().map(|rule| Dormant {
        rule: rule_name(&rule.reference),
        effect: rule.effect.into(),
        window: window(rule),
    });
    Table {
        server: served.server.id.display_name(),
        refused,
        rows: rows.into_iter().collect(),
        dormant: dormant.collect(),
        doubts: doubts(served),
        strangers: people.strangers.into_iter().collect(),
    }
}

/// Whether somebody can do something.
pub fn anybody_can(table: &Table) -> bool {
    table.rows.iter().any(|row| row.answer != Answer::Deny)
}

fn row(served: Served<'_>, rules: &[&Rule], someone: &Someone, asked: &Asked, facts: &Facts, refused: bool) -> Row {
    let (principal, keys) = (&someone.principal, PrincipalKeys::of(&someone.principal));
    let target = asked.target();
    let prospect = foresee_anybody(served.layers, principal, &keys, target, facts);
    let locked_out = asked.kind == TargetKind::Tool
        && refusing_lock(served.server).is_some_and(|lock| !lock.tools.contains_key(&asked.name));
    let hidden = refused || locked_out && refusing_lock(served.server).is_some_and(|l| l.on_change == OnChange::Hide);
    let refused = refused || locked_out;
    let answer = if refused { Answer::Deny } else { answer(prospect.enforced) };
    let shadow = Some(answer_with_shadow(prospect.with_shadow, refused)).filter(|shadow| *shadow != answer);
    let about = |rule: &Rule, principal: &Principal, keys: &PrincipalKeys| {
        about_apart_from_condition(rule, principal, keys, &target, facts)
    };
    let decides = |rule: &&&Rule| match rule.effect {
        _ if rule.shadow => false,
        Effect::Allow => about(rule, principal, &keys) == Tri::Yes && answer != Answer::Deny,
        Effect::Deny => about(rule, principal, &keys) != Tri::No,
        Effect::RequireApproval => about(rule, principal, &keys) != Tri::No && answer != Answer::Deny,
    };
    let deciding: Vec<&&Rule> = rules.iter().filter(decides).collect();
    let more = someone.perhaps_in_groups();
    let more_keys = PrincipalKeys::of(&more);
    let unless = rules.iter().filter(|rule| {
        let narrows = rule.effect != Effect::Allow && !rule.shadow && answer != Answer::Deny;
        // Whoever is excepted stays so in further groups.
        let further = !rule.excepts(principal, &keys) && about(rule, &more, &more_keys) != Tri::No;
        narrows && about(rule, principal, &keys) == Tri::No && further
    });
    Row {
        principal: someone.name.clone(),
        via: principal.client.as_deref().filter(|_| principal.kind != Kind::Client).map(str::to_owned),
        actor: principal.actor.as_ref().map(|actor| actor.subject.to_string()),
        kind: asked.kind.as_str(),
        target: asked.shown.clone(),
        risk: asked.risk.own.map(Risk::as_str),
        answer,
        listed: !hidden && prospect.enforced.visibility != Visibility::Hidden,
        rules: deciding.iter().map(|rule| rule_name(&rule.reference)).collect(),
        conditions: deciding.iter().filter_map(|rule| rule.condition()).map(str::to_owned).collect(),
        windows: deciding.iter().map(|rule| window(rule)).filter(Window::is_bounded).collect(),
        unless: unless.map(|rule| rule_name(&rule.reference)).collect(),
        shadow,
    }
}

/// The lock of a server, if it refuses what was not reviewed.
pub fn refusing_lock(server: &Server) -> Option<&Lock> {
    server.lock.as_ref().filter(|lock| lock.on_change != OnChange::Warn)
}

fn reviewed(server: &Server) -> Option<Vec<Tool>> {
    let tools = refusing_lock(server)?.tools.keys();
    Some(tools.map(|name| Tool { name: name.clone(), risk: None }).collect())
}

fn answer(foreseen: Foreseen) -> Answer {
    match foreseen.visibility {
        Visibility::Hidden => Answer::Deny,
        Visibility::Visible => foreseen.effect.into(),
        Visibility::DependsOnArguments => Answer::Depends,
    }
}

fn answer_with_shadow(foreseen: Foreseen, refused: bool) -> Answer {
    if refused { Answer::Deny } else { answer(foreseen) }
}

fn window(rule: &Rule) -> Window {
    Window { not_before: rule.source().not_before, not_after: rule.source().not_after }
}

impl Window {
    fn is_bounded(&self) -> bool {
        self.not_before.is_some() || self.not_after.is_some()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum TargetKind {
    Tool,
    Resource,
    Prompt,
}

impl TargetKind {
    fn as_str(self) -> &'static str {
        match self {
            TargetKind::Tool => "Tool",
            TargetKind::Resource => "Resource",
            TargetKind::Prompt => "Prompt",
        }
    }
}

/// A target to ask about.
struct Asked {
    kind: TargetKind,
    /// As shown: a name or a pattern.
    shown: String,
    /// A name that the pattern matches.
    name: String,
    risk: KnownRisk,
}

impl Asked {
    fn new(kind: TargetKind, shown: &str, risk: KnownRisk) -> Self {
        // What stars stand for: safe, and in no pattern that somebody writes.
        Self { kind, shown: shown.to_owned(), name: shown.replace("**", "*").replace('*', "_-_"), risk }
    }

    fn target(&self) -> Target<'_> {
        match self.kind {
            TargetKind::Tool => Target::Tool { name: &self.name, risk: self.risk },
            TargetKind::Resource => Target::Resource { uri: &self.name },
            TargetKind::Prompt => Target::Prompt { name: &self.name },
        }
    }
}

fn targets(rules: &[&Rule], inventory: Option<&[Tool]>) -> Vec<Asked> {
    let mut names: BTreeSet<(TargetKind, &str)> = BTreeSet::new();
    let mut by_risk = false;
    for rule in rules.iter().map(|rule| rule.source()) {
        for tools in &rule.tools {
            let every = tools.names.is_empty() && tools.patterns.is_empty();
            let named = tools.names.iter().chain(&tools.patterns).map(String::as_str);
            names.extend(named.chain(every.then_some("*")).map(|name| (TargetKind::Tool, name)));
            by_risk |= !tools.risk.is_empty();
        }
        names.extend(rule.resources.iter().map(|uri| (TargetKind::Resource, uri.as_str())));
        names.extend(rule.prompts.iter().map(|prompt| (TargetKind::Prompt, prompt.as_str())));
    }
    // A tool could be unclassified, or of any class; if no rule asks, it is one answer.
    let mut classes = vec![KnownRisk::default()];
    if by_risk {
        let every = [Risk::ReadOnly, Risk::Write, Risk::Destructive];
        classes.extend(every.map(|class| KnownRisk { own: Some(class), guardrail: Some(class) }));
    }
    let mut asked = Vec::new();
    for (kind, name) in names {
        match kind {
            TargetKind::Tool if inventory.is_some() => {}
            TargetKind::Tool => asked.extend(classes.iter().map(|risk| Asked::new(kind, name, *risk))),
            TargetKind::Resource | TargetKind::Prompt => asked.push(Asked::new(kind, name, KnownRisk::default())),
        }
    }
    for Tool { name, risk } in inventory.unwrap_or_default() {
        let known = |risk| Asked { kind: TargetKind::Tool, shown: name.clone(), name: name.clone(), risk };
        match risk {
            Some(risk) => asked.push(known(*risk)),
            None => asked.extend(classes.iter().map(|risk| known(*risk))),
        }
    }
    asked
}

/// Whoever is what a matcher asks for, and nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Someone {
    name: String,
    principal: Principal,
    /// Whether a particular subject is meant.
    particular: bool,
}

/// Everybody that the rules speak of.
struct Cast {
    named: Vec<Someone>,
    /// Whom rules that narrow except: they may be more than a row says.
    excepted: Vec<Someone>,
    /// Authorities whose tokens are not accepted.
    strangers: BTreeSet<String>,
}

impl Cast {
    fn of(rules: &[&Rule], authorities: &[String]) -> Self {
        let accepted: BTreeSet<&str> = authorities.iter().map(String::as_str).collect();
        let entries = |rule: &&'_ Rule| -> Vec<PrincipalMatch> {
            rule.source().principals.iter().chain(&rule.source().except).cloned().collect()
        };
        let all: Vec<PrincipalMatch> = rules.iter().flat_map(entries).collect();
        let named = all.iter().filter_map(|entry| entry.authority.as_deref());
        let strangers = named.filter(|authority| !accepted.contains(authority)).map(str::to_owned).collect();
        let mut cast = Self { named: Vec::new(), excepted: Vec::new(), strangers };
        for entry in &all {
            add_all(&mut cast.named, entry, &accepted);
        }
        for rule in rules.iter().filter(|rule| rule.effect != Effect::Allow) {
            rule.source().except.iter().for_each(|entry| add_all(&mut cast.excepted, entry, &accepted));
        }
        cast
    }
}

fn add_all(people: &mut Vec<Someone>, entry: &PrincipalMatch, accepted: &BTreeSet<&str>) {
    let of_entry = accepted.iter().filter(|name| entry.authority.as_deref().is_none_or(|only| only == **name));
    for authority in of_entry {
        for someone in Someone::all_of(entry, authority) {
            if !people.contains(&someone) {
                people.push(someone);
            }
        }
    }
}

impl Someone {
    /// One for every combination of the fields' entries.
    fn all_of(entry: &PrincipalMatch, authority: &str) -> Vec<Self> {
        let mut subjects: Vec<(Kind, Option<String>)> =
            entry.users.iter().map(|u| (Kind::User, Some(u.clone()))).collect();
        subjects.extend(entry.clients.iter().map(|c| (Kind::Client, Some(c.clone()))));
        subjects.extend(entry.service_account.iter().map(|account| (Kind::ServiceAccount, Some(subject(account)))));
        if subjects.is_empty() {
            subjects.push((Kind::User, None));
        }
        let actors: Vec<Option<&str>> = match &entry.actor {
            None => vec![None],
            Some(ActorMatch::Any) => vec![Some("*")],
            Some(ActorMatch::Subjects(subjects)) => subjects.iter().map(|s| Some(s.as_str())).collect(),
        };
        let mut people = Vec::new();
        for (kind, subject) in &subjects {
            for group in or_none(&entry.groups) {
                for via in or_none(&entry.via) {
                    for actor in &actors {
                        people.push(Self::new(authority, *kind, subject.as_deref(), group, via, *actor));
                    }
                }
            }
        }
        people
    }

    fn new(
        authority: &str,
        kind: Kind,
        subject: Option<&str>,
        group: Option<&str>,
        via: Option<&str>,
        actor: Option<&str>,
    ) -> Self {
        let mut groups: BTreeSet<Box<str>> = group.map(Box::from).into_iter().collect();
        groups.extend(subject.filter(|_| kind == Kind::ServiceAccount).map(own_groups).into_iter().flatten());
        let principal = Principal {
            authority: authority.into(),
            issuer: "".into(),
            tenant: None,
            // A subject that no rule names: rules name people, and this has a control character.
            subject: subject.unwrap_or("\0somebody").into(),
            kind,
            client: if kind == Kind::Client { subject } else { via }.map(Box::from),
            groups: Groups::Known(groups.into_iter().collect()),
            actor: actor.map(|actor| Actor { subject: actor.into(), issuer: None }),
        };
        Self { name: name(&principal, subject.is_some()), principal, particular: subject.is_some() }
    }

    /// Whoever is both, if anybody can be.
    fn and(&self, other: &Self) -> Option<Self> {
        let (a, b) = (&self.principal, &other.principal);
        let agree = |a: &Option<Box<str>>, b: &Option<Box<str>>| a.is_none() || b.is_none() || a == b;
        let one_subject = !(self.particular && other.particular) || a.subject == b.subject && a.kind == b.kind;
        if a.authority != b.authority || !one_subject || !agree(&a.client, &b.client) || a.actor != b.actor {
            return None;
        }
        let who = if self.particular { a } else { b };
        let (Groups::Known(of_a), Groups::Known(of_b)) = (&a.groups, &b.groups) else { return None };
        let groups: BTreeSet<Box<str>> = of_a.iter().chain(of_b).cloned().collect();
        let principal = Principal {
            client: a.client.clone().or_else(|| b.client.clone()),
            groups: Groups::Known(groups.into_iter().collect()),
            ..who.clone()
        };
        let particular = self.particular || other.particular;
        let both = Self { name: name(&principal, particular), principal, particular };
        (both != *self).then_some(both)
    }

    /// The same, perhaps in further groups. A ServiceAccount is in none.
    fn perhaps_in_groups(&self) -> Principal {
        match self.principal.kind {
            Kind::ServiceAccount => self.principal.clone(),
            Kind::User | Kind::Client => Principal { groups: Groups::Unknown, ..self.principal.clone() },
        }
    }
}

/// The groups that a ServiceAccount is in by itself.
fn own_groups(subject: &str) -> Vec<Box<str>> {
    let namespace = subject.split(':').nth(2).unwrap_or_default();
    match Groups::of_service_account(namespace) {
        Groups::Known(groups) => groups.into(),
        Groups::Unknown => Vec::new(),
    }
}

fn or_none(names: &[String]) -> Vec<Option<&str>> {
    if names.is_empty() { vec![None] } else { names.iter().map(|name| Some(name.as_str())).collect() }
}

/// `user:alice+group:dev@corp`, and so on.
fn name(principal: &Principal, particular: bool) -> String {
    let mut parts = Vec::new();
    if particular {
        parts.push(match principal.kind {
            Kind::User => format!("user:{}", principal.subject),
            Kind::Client => format!("client:{}", principal.subject),
            Kind::ServiceAccount => {
                let account = principal.subject.trim_start_matches("system:serviceaccount:").replace(':', "/");
                format!("serviceaccount:{account}")
            }
        });
    }
    if let Groups::Known(groups) = &principal.groups {
        let own = if particular && principal.kind == Kind::ServiceAccount {
            own_groups(&principal.subject)
        } else {
            Vec::new()
        };
        parts.extend(groups.iter().filter(|group| !own.contains(group)).map(|group| format!("group:{group}")));
    }
    if parts.is_empty() {
        parts.push("any".to_owned());
    }
    format!("{}@{}", parts.join("+"), principal.authority)
}
