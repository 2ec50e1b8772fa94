//! What is told of a change, held to the reference evaluator on two worlds: one that was never changed, and one that was built
//! anew with the change in it.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::*;
use crate::access::Answer;
use crate::access::diff::{Change, Direction};
use crate::access::except::Except;
use crate::admission::effect::changed;
use crate::admission::fork::Forks;
use crate::admission::world::Found;
use crate::generated::Policy;
use crate::generated::policy::{Effect, Standing};
use crate::generated::server::State;
use crate::identity::principal::{Groups, Kind as Sort, Principal};
use crate::policy::pattern::NamePattern;
use crate::policy::reference;
use crate::policy::request::{Facts, Target};
use crate::policy::selector::reach;
use crate::policy::tri::Tri;
use crate::tools::risk::KnownRisk;

const TOOLS: [&str; 3] = ["get_x", "get_y", "set_x"];
const SERVERS: [&str; 3] = ["a", "b", "c"];

/// A server, or that there is none.
fn servers() -> impl Strategy<Value = Option<Value>> {
    let path = prop_oneof![3 => Just(Value::Null), 1 => Just(json!("/team/a")), 1 => Just(json!("/team/b"))];
    let one = (select(&SERVERS[..]), any::<bool>(), path, prop::bool::weighted(0.1));
    prop::option::weighted(0.8, one).prop_map(|one| {
        let (name, gold, path, off) = one?;
        let state = if off { json!("Disabled") } else { Value::Null };
        let labels = if gold { json!({"tier": "gold"}) } else { json!({}) };
        let mut object = server(name, labels, json!({"path": path, "state": state}));
        let items: Vec<Value> = TOOLS.iter().map(|name| json!({"name": name})).collect();
        object["status"] = json!({"tools": {"count": TOOLS.len(), "items": items}});
        Some(object)
    })
}

fn rules() -> impl Strategy<Value = Value> {
    let who = || {
        select(vec![
            json!({"any": true}),
            json!({"groups": ["g1"]}),
            json!({"groups": ["g2"]}),
            json!({"users": ["u1"]}),
        ])
    };
    let tools =
        select(vec![json!([{"names": ["get_x"]}]), json!([{"patterns": ["get_*"]}]), json!([{"patterns": ["*"]}])]);
    let one = (prop_oneof![3 => Just("Allow"), 2 => Just("Deny")], who(), prop::option::weighted(0.3, who()), tools);
    prop::collection::vec(one, 1..4).prop_map(|rules| {
        let of = |(index, (effect, who, except, tools)): (usize, (&str, Value, Option<Value>, Value))| {
            let more = json!({"principals": [who], "except": except.map(|who| vec![who]), "tools": tools});
            rule(&format!("r{index}"), effect, more)
        };
        rules.into_iter().enumerate().map(of).collect()
    })
}

/// A policy of a tenant or a guardrail, one of two names each.
fn policies() -> impl Strategy<Value = Value> {
    let selectors = [
        json!({"servers": ["a"]}),
        json!({"servers": ["a", "b"]}),
        json!({"selector": {}}),
        json!({"selector": {"matchLabels": {"tier": "gold"}}}),
    ];
    let shadow = prop::bool::weighted(0.2);
    (prop::bool::weighted(0.3), select(&["p", "q"][..]), select(selectors.to_vec()), shadow, rules())
        .prop_map(|(guardrail, name, mut targets, shadow, rules)| {
            let namespace = if guardrail { SYSTEM } else { "team" };
            if guardrail {
                targets = json!({"selector": targets.get("selector").unwrap_or(&json!({})), "namespaceSelector": {}});
            }
            let mut object = policy(namespace, targets, rules);
            object["metadata"]["name"] = name.into();
            object["metadata"]["uid"] = format!("{namespace}-{name}").into();
            if shadow {
                object["spec"]["mode"] = "Shadow".into();
            }
            object
        })
        .prop_filter("what contradicts itself is invalid", |object| {
            answer(&built(&[]), None, Some(object)).refusal().is_none()
        })
}

/// A tool that its line stands for: of a server that nobody knows yet, lines have patterns.
fn stands_for(change: &Change, tool: &str) -> bool {
    let matches = |pattern: &String| NamePattern::new(pattern).matches(tool, Effect::Allow);
    let Except { names, of_guardrails, more } = &change.except;
    assert_eq!(*more, 0);
    matches(&change.target) && !names.iter().chain(of_guardrails).any(matches)
}

fn is_same(one: &Value, other: &Value) -> bool {
    one["kind"] == other["kind"] && one["metadata"]["uid"] == other["metadata"]["uid"]
}

/// One object of each name; the last counts.
fn built(objects: &[Value]) -> World {
    let mut world = nothing_known();
    world.put(Kind::Namespace, json!({"metadata": {"name": "team", "labels": {"stage": "prod"}}}));
    put(&mut world, &authority("corp"));
    objects.iter().for_each(|object| put(&mut world, object));
    world
}

/// What the reference makes of a call.
fn decide(world: &World, server: &str, principal: &Principal, tool: &str) -> Answer {
    let Some(served) = world.fleet().by_name("team", server) else { return Answer::Deny };
    let server = served.server;
    if server.state != State::Enabled
        || world.fleet().servers().filter(|other| other.server.path == server.path).count() > 1
    {
        return Answer::Deny;
    }
    let policies: Vec<&Policy> =
        ["team", SYSTEM].into_iter().flat_map(|namespace| world.policies_of(namespace)).collect();
    assert!(policies.iter().all(|policy| policy.standing == Standing::InForce), "{policies:?}");
    let policies: Vec<&Policy> = policies.into_iter().filter(|policy| reach(policy, server) == Tri::Yes).collect();
    let target = Target::Tool { name: tool, risk: KnownRisk::default() };
    reference::decide(&policies, principal, &target, None, &Facts { now: 0 }).effect.into()
}

fn principal(subject: &str, groups: impl IntoIterator<Item = &'static str>) -> Principal {
    Principal {
        authority: "corp".into(),
        issuer: "https://corp.example.com".into(),
        tenant: None,
        subject: subject.into(),
        kind: Sort::User,
        client: None,
        groups: Groups::Known(groups.into_iter().map(Box::from).collect()),
        actor: None,
    }
}

/// Whom a change names: a subject, if it names one, and groups.
fn named(change: &Change) -> (Option<&str>, Vec<&'static str>) {
    let parts: Vec<&str> = change.principal.strip_suffix("@corp").unwrap().split('+').collect();
    let subject = parts.iter().find_map(|part| part.strip_prefix("user:"));
    let groups = ["g1", "g2"].into_iter().filter(|group| parts.contains(&format!("group:{group}").as_str()));
    (subject, groups.collect())
}

fn grade(answer: Answer) -> usize {
    [Answer::Deny, Answer::Allow].iter().position(|other| *other == answer).unwrap()
}

proptest! {
    #[test]
    fn what_is_told_is_so_and_what_is_so_is_told(
        objects in (prop::collection::vec(servers(), 1..4), prop::collection::vec(policies(), 1..5)),
        change in prop_oneof![policies().prop_map(Some), servers()],
        goes in prop::bool::weighted(0.3),
    ) {
        let Some(change) = change else { return Ok(()) };
        let mut there: Vec<Value> = Vec::new();
        for object in objects.0.into_iter().flatten().chain(objects.1) {
            there.retain(|other| !is_same(other, &object));
            there.push(object);
        }
        let old = there.iter().find(|other| is_same(other, &change)).cloned();
        let new = Some(change.clone()).filter(|_| !goes);
        if old.is_none() && new.is_none() {
            return Ok(());
        }
        let world = built(&there);
        there.retain(|other| !is_same(other, &change));
        there.extend(new.clone());
        let then = built(&there);
        let review = review(old.as_ref(), new.as_ref());
        let answer = answer(&world, old.as_ref(), new.as_ref());
        prop_assert_eq!(answer.refusal(), None);
        let object = new.as_ref().map(|new| crate::api::object::read(new).unwrap());
        let found = Found::of(&LookedUp::default(), &world);
        let changed = changed(&Forks::of(&review, object.as_ref(), &world, &found).unwrap(), &world, 0);
        prop_assert!(changed.whole);
        for change in changed.told.iter().filter(|change| !change.principal.contains('?')) {
            let (subject, groups) = named(change);
            let one = principal(subject.unwrap_or("somebody"), groups);
            let server = change.server.strip_prefix("team/").unwrap();
            for tool in TOOLS.into_iter().filter(|tool| stands_for(change, tool)) {
                let answers = [&world, &then].map(|world| decide(world, server, &one, tool));
                prop_assert_eq!(answers, [change.before, change.after], "{} of {:#?}", tool, change);
            }
        }
        let groups = [vec![], vec!["g1"], vec!["g2"], vec!["g1", "g2"]];
        for (subject, groups) in ["u1", "u2"].into_iter().flat_map(|subject| groups.iter().map(move |groups| (subject, groups))) {
            let one = principal(subject, groups.iter().copied());
            for (server, tool) in SERVERS.into_iter().flat_map(|server| TOOLS.map(|tool| (server, tool))) {
                let [before, after] = [&world, &then].map(|world| grade(decide(world, server, &one, tool)));
                let direction = if after > before { Direction::Gained } else { Direction::Lost };
                let told = changed.told.iter().any(|change| {
                    let (named, of) = named(change);
                    let is_meant = named.is_none_or(|named| named == subject) && of.iter().all(|group| groups.contains(group));
                    change.direction == direction
                        && stands_for(change, tool)
                        && change.server == format!("team/{server}")
                        && is_meant
                });
                prop_assert!(before == after || told, "{one:#?} {server} {tool}: {:#?}", changed.told);
            }
        }
    }
}
