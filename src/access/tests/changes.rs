//! Changes against the reference evaluator and brute force, and the changes that reviewers overlook.

mod patterns;

use super::*;
use crate::access::diff::{Change, Compared, Diff, Direction, Limits, compare, compare_fleets};
use crate::access::except::Except;
use crate::access::search::grade;
use crate::access::targets::Inventories;
use crate::access::what_can::{Whom, what_can};
use crate::generated::Risk;
use crate::generated::policy::Rule;
use crate::generated::server::{RiskRule, State};
use crate::identity::principal::Actor;
use crate::policy::pattern::NamePattern;
use crate::policy::reference;

/// Policies, and the same after a change.
fn versions() -> impl Strategy<Value = (Vec<Policy>, Vec<Policy>)> {
    prop_oneof![reworked(), mingled()]
}

/// Few rules about few people and tools, so that they meet in many ways; of which some go, come, or lose and get exceptions.
fn mingled() -> impl Strategy<Value = (Vec<Policy>, Vec<Policy>)> {
    let effect = prop_oneof![4 => Just("Allow"), 3 => Just("Deny"), 1 => Just("RequireApproval")];
    let who =
        || prop::sample::select(vec![everyone(), group("g1"), group("g2"), whom("users", ["u1"].as_slice().into())]);
    let except = prop::option::of(who());
    let names = prop::sample::select(&["get_*", "*_x", "*", "get_some_x", "x*", "*some*"][..]);
    let one = (effect, who(), except.clone(), names);
    let change = (prop::sample::select(&["keep", "keep", "drop", "except", "new"][..]), except);
    prop::collection::vec((one, change), 1..7).prop_map(|rules| {
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for (index, ((effect, who, except, name), (change, other))) in rules.into_iter().enumerate() {
            let patterned = rule(&format!("r{index}"), effect, who, tools(&[], &[name]));
            let excepting = |except: &Option<serde_json::Value>| {
                with(patterned.clone(), "except", except.iter().cloned().collect::<Vec<_>>().into())
            };
            let (before, after) =
                (excepting(&except), if change == "except" { excepting(&other) } else { excepting(&except) });
            old.extend((change != "new").then_some(before));
            new.extend((change != "drop").then_some(after));
        }
        (vec![policy(old.into())], vec![policy(new.into())])
    })
}

/// Policies of every sort: rules go, come, and take the place of others.
fn reworked() -> impl Strategy<Value = (Vec<Policy>, Vec<Policy>)> {
    let change = prop::collection::vec(prop::sample::select(&["keep", "keep", "drop", "take"][..]), 12);
    (arbitrary::policies(3), arbitrary::policies(3), change).prop_map(|(old, others, changes)| {
        let mut changes = changes.into_iter();
        let mut new = old.clone();
        for (policy, other) in new.iter_mut().zip(&others) {
            let mut taken = other.rules.iter();
            let mut rules: Vec<Rule> = Vec::new();
            for rule in &policy.rules {
                match changes.next() {
                    Some("drop") => {}
                    Some("take") => rules.extend(taken.next().cloned()),
                    _ => rules.push(rule.clone()),
                }
            }
            rules.extend(changes.next().filter(|what| *what == "take").and_then(|_| taken.next()).cloned());
            for (index, rule) in rules.iter_mut().enumerate() {
                rule.name = format!("r{index}");
            }
            policy.rules = rules;
            if changes.next() == Some("take") {
                (policy.mode, policy.standing) = (other.mode, other.standing.clone());
            }
        }
        (old, new)
    })
}

fn unconditional(mut policies: Vec<Policy>) -> Vec<Policy> {
    policies.iter_mut().flat_map(|policy| &mut policy.rules).for_each(|rule| rule.when = None);
    policies
}

const SOME_TOOLS: [&str; 13] = [
    "get_some_x",
    "get_some",
    "some_x",
    "odder",
    "some",
    "get_",
    "_x",
    "get_x_x",
    "x",
    "xq0x",
    "x_x",
    "get_xsome_x",
    "Q",
];

/// Whether a line is about a tool of this name.
fn stands_for(change: &Change, tool: &str) -> bool {
    let matches = |pattern: &String, effect| pattern == tool || NamePattern::new(pattern).matches(tool, effect);
    let Except { names, of_guardrails, more } = &change.except;
    assert_eq!(*more, 0);
    matches(&change.target, Effect::Allow) && !names.iter().chain(of_guardrails).any(|name| matches(name, Effect::Deny))
}

/// A server that accepts these, and the policies that reach it.
#[derive(Clone, Debug)]
struct Version {
    policies: Vec<Policy>,
    authorities: Vec<&'static str>,
}

impl Version {
    fn fleet(&self) -> Fleet {
        let mut fleet = fleet(&self.policies);
        let mut server = crate::generated::Server::clone(fleet.by_name("team", "a").unwrap().server);
        server.authorities = self.authorities.iter().map(|name| (*name).to_owned()).collect();
        fleet.put_server(server);
        fleet
    }

    /// What the reference makes of a call.
    fn decide(&self, principal: &Principal, target: &Target<'_>, arguments: Option<&str>, now: i64) -> Answer {
        if !self.authorities.contains(&&*principal.authority) {
            return Answer::Deny;
        }
        let policies: Vec<&Policy> = self.policies.iter().collect();
        reference::decide(&policies, principal, target, arguments, &Facts { now }).effect.into()
    }
}

fn authorities() -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![3 => Just(vec!["corp", "other"]), 1 => Just(vec!["corp"])]
}

const GROUPS: [&str; 4] = ["g1", "g2", "g3", "system:serviceaccounts:ci"];
const BOTS: [&str; 2] = ["system:serviceaccount:ci:bot", "system:serviceaccount:ci:bot2"];

/// Everybody whom the generated rules can tell apart, but for actors of other issuers.
fn universe() -> Vec<Principal> {
    let mut everybody = Vec::new();
    let known = (0..1u32 << GROUPS.len()).map(|members| {
        let is_in = |index: &usize| members >> index & 1 == 1;
        Groups::Known((0..GROUPS.len()).filter(is_in).map(|index| GROUPS[index].into()).collect())
    });
    let groups: Vec<Groups> = known.chain([Groups::Unknown]).collect();
    for authority in ["corp", "other"] {
        for actor in [None, Some("a1"), Some("a2"), Some("a3")] {
            let mut add = |kind, subject: &str, client: Option<&str>, groups: &Groups| {
                everybody.push(Principal {
                    authority: authority.into(),
                    issuer: format!("https://{authority}").into(),
                    tenant: None,
                    subject: subject.into(),
                    kind,
                    client: client.map(Box::from),
                    groups: groups.clone(),
                    actor: actor.map(|subject| Actor { subject: subject.into(), issuer: None }),
                });
            };
            for groups in &groups {
                for client in [None, Some("c1"), Some("c2")] {
                    ["u1", "u2", "u3"].into_iter().for_each(|user| add(Kind::User, user, client, groups));
                }
                ["c1", "c2", "c3"].into_iter().for_each(|id| add(Kind::Client, id, Some(id), groups));
            }
            BOTS.into_iter().for_each(|bot| add(Kind::ServiceAccount, bot, None, &Groups::of_service_account("ci")));
        }
    }
    everybody
}

/// The one whom a change names, and nothing more.
fn named(change: &Change) -> Principal {
    let (parts, authority) = change.principal.rsplit_once('@').unwrap();
    let (mut kind, mut subject, mut groups) = (Kind::User, "somebody".to_owned(), Groups::Known(Box::default()));
    let mut client = change.via.clone();
    for part in parts.split('+') {
        match part.split_once(':') {
            Some(("user", name)) => subject = name.to_owned(),
            Some(("client", id)) => (kind, subject, client) = (Kind::Client, id.to_owned(), Some(id.to_owned())),
            Some(("serviceaccount", account)) => {
                (kind, subject) =
                    (Kind::ServiceAccount, format!("system:serviceaccount:{}", account.replace('/', ":")));
                groups = Groups::of_service_account("ci");
            }
            Some(("group", "?")) => groups = Groups::Unknown,
            Some((_, group)) => {
                let Groups::Known(known) = groups else { panic!("{}", change.principal) };
                groups = Groups::Known(known.iter().cloned().chain([group.into()]).collect());
            }
            None => {}
        }
    }
    let actor = change.actor.as_deref().map(|actor| if actor == "*" { "somebody" } else { actor });
    Principal {
        authority: authority.into(),
        issuer: format!("https://{authority}").into(),
        tenant: None,
        subject: subject.into(),
        kind,
        client: client.as_deref().map(Box::from),
        groups,
        actor: actor.map(|subject| Actor { subject: subject.into(), issuer: None }),
    }
}

/// Whether a principal is whom a change names, and perhaps more; unknown groups could be all groups.
fn is_meant(change: &Change, principal: &Principal) -> bool {
    let named = named(change);
    let in_groups = match (&named.groups, &principal.groups) {
        (_, Groups::Unknown) => true,
        (Groups::Unknown, Groups::Known(_)) => false,
        (Groups::Known(few), Groups::Known(many)) => few.iter().all(|group| many.contains(group)),
    };
    // A client is told by its id, whatever its tokens have as their subject.
    let one = named.kind == principal.kind && (named.kind == Kind::Client || named.subject == principal.subject);
    named.authority == principal.authority
        && (*named.subject == *"somebody" || one)
        && (named.client.is_none() || named.client == principal.client)
        && match (&named.actor, &principal.actor) {
            (None, None) => true,
            (Some(named), Some(actor)) => *named.subject == *"somebody" || named.subject == actor.subject,
            _ => false,
        }
        && in_groups
}

fn compared(old: &Version, new: &Version, tool: &str, risk: KnownRisk, now: i64) -> Compared {
    let (old, new) = (old.fleet(), new.fleet());
    let inventory = [Tool { name: tool.to_owned(), risk: Some(risk) }];
    let of = |fleet: &'_ Fleet| -> bool { fleet.by_name("team", "a").is_some() };
    assert!(of(&old) && of(&new));
    compare(old.by_name("team", "a"), new.by_name("team", "a"), Some(&inventory), &Facts { now }, &Limits::default())
}

proptest! {
    /// Every change is exactly so by the reference evaluator, at the time from which it is said to be.
    #[test]
    fn what_is_gained_or_lost_is_so_by_the_reference(
        (old, new) in versions(),
        accepted in (authorities(), authorities()),
        tool in prop::sample::select(&arbitrary::TOOLS[..]),
        risk in arbitrary::risk(),
        conditions in any::<bool>(),
    ) {
        let kept = |policies| if conditions { policies } else { unconditional(policies) };
        let old = Version { policies: kept(old), authorities: accepted.0 };
        let new = Version { policies: kept(new), authorities: accepted.1 };
        for change in compared(&old, &new, tool, risk, 1).changes.iter().filter(|change| change.kind == "Tool") {
            let (principal, target) = (named(change), Target::Tool { name: tool, risk });
            let now = change.from.unwrap_or(1);
            for (version, answer) in [(&old, change.before), (&new, change.after)] {
                for arguments in ["{}", r#"{"n":2,"repo":"acme/x","tags":["x"]}"#, r#"{"n":0,"repo":"x","tags":[]}"#] {
                    let decided = version.decide(&principal, &target, Some(arguments), now);
                    prop_assert!(answer == Answer::Depends && conditions || answer == decided, "{change:#?}: {decided:?}");
                }
            }
            let more = grade(change.after) as i8 - grade(change.before) as i8;
            match change.direction {
                Direction::Gained => prop_assert!(more > 0 || more == 0 && conditions),
                Direction::Lost => prop_assert!(more < 0 || more == 0 && conditions),
                Direction::Changed => prop_assert!(more == 0 && conditions),
            }
        }
    }

    /// Whoever gains or loses by brute force is, or is more than, somebody of whom a change says so: who had as little, and
    /// has as much.
    #[test]
    fn whoever_gains_or_loses_by_brute_force_is_told(
        (old, new) in versions(),
        accepted in (authorities(), authorities()),
        tool in prop::sample::select(&arbitrary::TOOLS[..]),
        risk in arbitrary::risk(),
        now in 0..3i64,
    ) {
        let old = Version { policies: unconditional(old), authorities: accepted.0 };
        let new = Version { policies: unconditional(new), authorities: accepted.1 };
        let compared = compared(&old, &new, tool, risk, 0);
        prop_assert!(compared.whole);
        let target = Target::Tool { name: tool, risk };
        // What is so now, or from a later time on: a change is told once.
        let told: Vec<&Change> = compared.changes.iter().filter(|change| change.from.is_none_or(|from| from <= now)).collect();
        for principal in universe() {
            let before = grade(old.decide(&principal, &target, None, now));
            let after = grade(new.decide(&principal, &target, None, now));
            let explained = |change: &&Change| {
                let (had, has) = (grade(change.before), grade(change.after));
                let fits = match change.direction {
                    Direction::Gained => after > before && had <= before && has >= after,
                    Direction::Lost => after < before && had >= before && has <= after,
                    Direction::Changed => false,
                };
                fits && is_meant(change, &principal)
            };
            prop_assert!(
                before == after || told.iter().any(explained),
                "{principal:#?} had {before} and has {after}, and there is only {:#?}", compared.changes
            );
        }
    }

    /// The same where nobody knows the tools: then a pattern of which the tool is one tells it, for the tool's class.
    #[test]
    fn whoever_gains_at_a_tool_that_nobody_listed_is_told(
        (old, new) in versions(),
        principals in prop::collection::vec(arbitrary::principal(), 12),
        now in 0..3i64,
    ) {
        let version = |policies| Version { policies: unconditional(policies), authorities: vec!["corp", "other"] };
        let (old, new) = (version(old), version(new));
        let (one, other) = (old.fleet(), new.fleet());
        let of = |fleet| Fleet::by_name(fleet, "team", "a");
        let compared = compare(of(&one), of(&other), None, &Facts { now }, &Limits::default());
        prop_assert!(compared.whole);
        let tools = arbitrary::TOOLS.into_iter().chain(SOME_TOOLS);
        for (tool, class) in tools.flat_map(|tool| [None, Some(Risk::ReadOnly), Some(Risk::Destructive)].map(|c| (tool, c))) {
            let target = Target::Tool { name: tool, risk: KnownRisk { own: class, guardrail: class } };
            for mut principal in principals.clone() {
                principal.actor = principal.actor.map(|actor| Actor { issuer: None, ..actor });
                let before = grade(old.decide(&principal, &target, None, now));
                let after = grade(new.decide(&principal, &target, None, now));
                let told = compared.changes.iter().any(|change| {
                    (change.direction == Direction::Gained || after <= before)
                        && (change.direction == Direction::Lost || after >= before)
                        && stands_for(change, tool)
                        && (change.risk.is_none() || change.risk == class.map(Risk::as_str))
                        && is_meant(change, &principal)
                });
                prop_assert!(before == after || told, "{principal:#?} {tool} {class:?}: {:#?}", compared.changes);
            }
        }
    }

    /// What is not changed is no change, and backwards gains are losses.
    #[test]
    fn the_way_back_is_the_other_way_round((old, new) in versions(), risk in arbitrary::risk()) {
        let version = |policies| Version { policies, authorities: vec!["corp", "other"] };
        let (old, new) = (version(old), version(new));
        prop_assert_eq!(compared(&old, &old, "get_x", risk, 1).changes, vec![]);
        let count = |compared: Compared, direction| compared.changes.iter().filter(|c| c.direction == direction).count();
        let (there, back) = (compared(&old, &new, "get_x", risk, 1), compared(&new, &old, "get_x", risk, 1));
        for (one, other) in [(Direction::Gained, Direction::Lost), (Direction::Changed, Direction::Changed)] {
            prop_assert_eq!(count(there.clone(), one), count(back.clone(), other));
        }
    }
}

fn rule(name: &str, effect: &str, who: serde_json::Value, what: serde_json::Value) -> serde_json::Value {
    serde_json::json!({"name": name, "effect": effect, "principals": [who], "tools": what})
}

fn group(name: &str) -> serde_json::Value {
    whom("groups", [name].as_slice().into())
}

fn everyone() -> serde_json::Value {
    whom("any", true.into())
}

fn with(mut rule: serde_json::Value, field: &str, value: serde_json::Value) -> serde_json::Value {
    rule[field] = value;
    rule
}

/// The changes between two sets of rules, in short; nobody knows the server's tools.
fn told(old: &[&serde_json::Value], new: &[&serde_json::Value]) -> Vec<String> {
    in_short(&diff(&fleet(&[policy(serde_json::json!(old))]), &fleet(&[policy(serde_json::json!(new))])))
}

fn diff(old: &Fleet, new: &Fleet) -> Diff {
    compare_fleets(old, new, &Inventories::new(), &Facts { now: 100 }, &Limits::default())
}

fn in_short(diff: &Diff) -> Vec<String> {
    assert!(diff.whole);
    let short = |change: &Change| {
        let risk = change.risk.map(|risk| format!(" [{risk}]")).unwrap_or_default();
        let from = change.from.map(|from| format!(" from {from}")).unwrap_or_default();
        let (before, after) = (change.before.as_str(), change.after.as_str());
        format!("{:?} {} {}{risk}: {before} -> {after}{from}", change.direction, change.principal, change.target)
    };
    diff.changes.iter().map(short).collect()
}

#[test]
fn a_rule_that_comes_is_gained_and_one_that_goes_is_lost() {
    let read = rule("read", "Allow", group("dev"), tools(&["get_x"], &[]));
    let destroy = rule("destroy", "Allow", group("dev"), tools(&["delete_x"], &[]));
    assert_eq!(told(&[&read], &[&read, &destroy]), ["Gained group:dev@corp delete_x [Destructive]: Deny -> Allow"]);
    assert_eq!(
        told(&[&read], &[&destroy]),
        ["Gained group:dev@corp delete_x [Destructive]: Deny -> Allow", "Lost group:dev@corp get_x: Allow -> Deny",]
    );
    // What a rule is called and says is no change.
    let renamed = with(with(read.clone(), "name", "other".into()), "message", "new words".into());
    assert!(told(&[&read], &[&renamed]).is_empty());
}

#[test]
fn a_denial_that_goes_is_a_gain_of_whoever_is_both() {
    let read = rule("read", "Allow", group("dev"), tools(&[], &["get_*"]));
    let interns = rule("interns", "Deny", group("interns"), tools(&[], &["*_secret"]));
    // Only where both patterns meet, which neither names.
    assert_eq!(
        told(&[&read, &interns], &[&read]),
        [
            "Gained group:dev+group:interns@corp get_*_secret: Deny -> Allow",
            "Gained group:dev+group:interns@corp get_secret: Deny -> Allow",
        ]
    );
    let freeze = rule("freeze", "Deny", everyone(), tools(&[], &["*"]));
    let thawed = with(freeze.clone(), "except", serde_json::json!([group("sre")]));
    let twice =
        with(rule("audit", "Deny", group("dev"), tools(&[], &["*"])), "except", serde_json::json!([group("aud")]));
    assert_eq!(
        told(&[&read, &twice, &freeze], &[&read, &twice, &thawed]),
        ["Gained group:aud+group:dev+group:sre@corp get_*: Deny -> Allow"]
    );
}

#[test]
fn conditions_are_told_as_such() {
    let allow = rule("some", "Allow", group("dev"), tools(&["run"], &[]));
    let when = |text: &str| with(allow.clone(), "when", text.into());
    let (one, other) = (when("args.n == 1"), when("args.n < 5"));
    assert_eq!(
        told(&[&one], &[&other]),
        ["Changed group:dev@corp run [Destructive]: under a condition -> under a condition"]
    );
    assert_eq!(told(&[&one], &[&allow]), ["Gained group:dev@corp run [Destructive]: under a condition -> Allow"]);
    let deny = with(rule("no", "Deny", everyone(), tools(&["run"], &[])), "when", "args.n > 9".into());
    assert_eq!(
        told(&[&one, &deny], &[&one]),
        ["Gained group:dev@corp run [Destructive]: under a condition -> under a condition"]
    );
    let changes = diff(&fleet(&[policy(serde_json::json!([]))]), &fleet(&[policy(serde_json::json!([one]))])).changes;
    assert_eq!((changes[0].after, &*changes[0].conditions), (Answer::Depends, &["args.n == 1".to_owned()][..]));
}

#[test]
fn what_begins_or_ends_later_is_told_with_its_time() {
    let allow = rule("some", "Allow", group("dev"), tools(&["get_x"], &[]));
    let (soon, over) = (with(allow.clone(), "not_before", 200.into()), with(allow.clone(), "not_after", 300.into()));
    assert_eq!(told(&[], &[&soon]), ["Gained group:dev@corp get_x: Deny -> Allow from 200"]);
    assert_eq!(told(&[&allow], &[&over]), ["Lost group:dev@corp get_x: Allow -> Deny from 300"]);
    assert!(told(&[], &[&with(allow, "not_after", 50.into())]).is_empty(), "it never holds again");
}

#[test]
fn the_riskiest_comes_first_and_shadow_counts_for_nothing() {
    let allow = rule("some", "Allow", group("dev"), tools(&["get_x", "delete_x"], &[]));
    let deny = rule("no", "Deny", group("dev"), tools(&["get_x"], &[]));
    let shadow = |rules: serde_json::Value| fleet(&[Policy { mode: Mode::Shadow, ..policy(rules) }]);
    let (none, enforced) = (serde_json::json!([]), serde_json::json!([allow]));
    let gained =
        ["Gained group:dev@corp delete_x [Destructive]: Deny -> Allow", "Gained group:dev@corp get_x: Deny -> Allow"];
    assert!(in_short(&diff(&fleet(&[policy(none)]), &shadow(enforced.clone()))).is_empty());
    assert_eq!(in_short(&diff(&shadow(enforced.clone()), &fleet(&[policy(enforced)]))), gained);
    assert_eq!(told(&[&deny], &[&allow, &deny]), &gained[..1]);
}

#[test]
fn a_server_that_is_new_gone_switched_off_or_open_to_others_counts() {
    let example = example();
    let nothing = Fleet::default();
    let came = diff(&nothing, &example);
    assert!(came.gains() && came.changes.iter().all(|change| change.direction == Direction::Gained), "{came:#?}");
    assert_eq!(came.notes[0].text, "is new");
    let gone = diff(&example, &nothing);
    assert!(!gone.gains() && gone.changes.len() == came.changes.len(), "{gone:#?}");
    let changed = |change: &dyn Fn(&mut crate::generated::Server)| {
        let mut server = crate::generated::Server::clone(example.by_name("team", "a").unwrap().server);
        change(&mut server);
        example.with(|fleet| fleet.put_server(server))
    };
    let off = diff(&example, &changed(&|server| server.state = State::Disabled));
    assert!(!off.gains() && off.notes[0].text.contains("ServerDisabled"), "{off:#?}");
    assert_eq!(off.changes.len(), gone.changes.len());
    let foreign = diff(&changed(&|server| server.authorities = vec!["other".into()]), &example);
    assert!(
        foreign.gains() && foreign.changes.iter().all(|change| change.principal.ends_with("@corp")),
        "{foreign:#?}"
    );
    assert_eq!(diff(&example, &example.clone()), Diff { whole: true, ..Diff::default() });
}

#[test]
fn a_weaker_lock_and_a_lower_class_are_gains() {
    let classed = serde_json::json!([{"names": [], "patterns": ["*"], "risk": ["ReadOnly"]}]);
    let fleet = fleet(&[policy(serde_json::json!([rule("read", "Allow", group("dev"), classed)]))]);
    let changed = |change: &dyn Fn(&mut crate::generated::Server)| {
        let mut server = crate::generated::Server::clone(fleet.by_name("team", "a").unwrap().server);
        change(&mut server);
        fleet.with(|fleet| fleet.put_server(server))
    };
    let asserted = changed(&|server| {
        server.risk = vec![RiskRule { name: "mine".into(), patterns: vec!["get_*".into()], class: Risk::Write }];
    });
    let tool = Tool { name: "get_x".into(), risk: Some(KnownRisk { own: Some(Risk::Write), guardrail: None }) };
    let inventories = Inventories::from([("team/a".to_owned(), vec![tool])]);
    let lowered = compare_fleets(&asserted, &fleet, &inventories, &Facts { now: 0 }, &Limits::default());
    assert!(
        in_short(&lowered).contains(&"Gained group:dev@corp get_x [Write]: Deny -> Allow".to_owned()),
        "{lowered:#?}"
    );
    let locked = changed(&|server| {
        let tools = [("get_x".to_owned(), LockedTool(Digest([7; 32]), Some(Risk::ReadOnly)))].into();
        server.lock = Some(Lock { on_change: OnChange::Deny, tools });
    });
    let opened = diff(&locked, &fleet);
    assert!(in_short(&opened).contains(&"Gained group:dev@corp * [ReadOnly]: Deny -> Allow".to_owned()), "{opened:#?}");
    assert!(opened.notes[0].text.contains("tool lock"), "{opened:#?}");
}

#[test]
fn what_somebody_can_only_through_a_client_or_for_an_actor_is_told_with_it() {
    let mut by_ide = group("dev");
    by_ide["via"] = ["ide"].as_slice().into();
    let mut by_agent = group("dev");
    by_agent["actor"] = serde_json::json!({"Subjects": ["agent"]});
    let mut others = group("ops");
    others["via"] = ["cron"].as_slice().into();
    let fleet = fleet(&[policy(serde_json::json!([
        rule("all", "Allow", group("dev"), tools(&["get_x"], &[])),
        rule("ide", "Allow", by_ide, tools(&["get_x", "set_x"], &[])),
        rule("agent", "Allow", by_agent, tools(&["get_x"], &[])),
        rule("ops", "Allow", others, tools(&["get_x"], &[])),
    ]))]);
    let whom = Whom { authority: "corp".into(), subject: None, groups: vec!["dev".into()] };
    let answers = what_can(&fleet, &whom, &Inventories::new(), &Facts { now: 0 });
    let told: Vec<_> =
        answers.grants.iter().map(|grant| (grant.row.target.as_str(), grant.row.via.as_deref())).collect();
    assert_eq!(told, [("get_x", None), ("set_x", Some("ide"))], "{answers:#?}");
    assert_eq!(answers.unknown, BTreeSet::from(["team/a".to_owned()]));
}

/// What a stranger may write costs bounded time and no stack.
#[test]
fn exceptions_of_very_many_rules_end() {
    let mut rules = vec![rule("all", "Allow", everyone(), tools(&["get_x"], &[]))];
    for n in 0..3000 {
        let deny = rule(&format!("r{n}"), "Deny", everyone(), tools(&["get_x"], &[]));
        rules.push(with(deny, "except", serde_json::json!([group(&format!("a{n}")), group(&format!("b{n}"))])));
    }
    let (old, new) = (fleet(&[]), fleet(&[policy(rules.into())]));
    let limits = Limits { questions: 300_000, ..Limits::default() };
    let compared = compare(old.by_name("team", "a"), new.by_name("team", "a"), None, &Facts { now: 0 }, &limits);
    assert_eq!(compared, Compared { changes: vec![], whole: false });
    // One entry of more combinations than anybody could look at.
    let many = |word: &str| -> serde_json::Value { (0..200).map(|n| format!("{word}{n}")).collect() };
    let mut entry = group("g");
    (entry["users"], entry["groups"], entry["via"]) = (many("u"), many("g"), many("c"));
    let new = fleet(&[policy(serde_json::json!([rule("all", "Allow", entry, tools(&["get_x"], &[]))]))]);
    assert!(!diff(&old, &new).whole);
    assert_eq!(who_can(new.by_name("team", "a").unwrap(), None, &Facts { now: 0 }).doubts.len(), 1);
}

#[test]
fn what_is_cut_off_is_told_and_counts_as_a_gain() {
    let many: Vec<String> = (0..50).map(|n| format!("tool_{n}")).collect();
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    let (none, rules) = (
        policy(serde_json::json!([])),
        policy(serde_json::json!([rule("all", "Allow", group("dev"), tools(&names, &[]))])),
    );
    let (old, new) = (fleet(&[none]), fleet(&[rules]));
    let within = |limits| compare(old.by_name("team", "a"), new.by_name("team", "a"), None, &Facts { now: 0 }, &limits);
    assert!(within(Limits::default()).whole && within(Limits::default()).changes.len() == 50);
    let few = within(Limits { changes: 7, ..Limits::default() });
    assert_eq!((few.changes.len(), few.whole), (7, false));
    assert!(!within(Limits { questions: 20, ..Limits::default() }).whole);
    let cut = compare_fleets(
        &new,
        &old,
        &Inventories::new(),
        &Facts { now: 0 },
        &Limits { questions: 20, ..Limits::default() },
    );
    assert!(cut.gains(), "nobody can say that nobody gains");
}
