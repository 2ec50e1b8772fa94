//! Whoever could call after a change and not before: somebody needed a right to make it.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::*;
use crate::admission::grant::Right;
use crate::generated::policy::Effect;
use crate::generated::server::State;
use crate::identity::principal::{Groups, Kind as CallerKind, Principal};
use crate::policy::evaluate::evaluate;
use crate::policy::index::PrincipalKeys;
use crate::policy::request::{Facts, Request, Target};
use crate::tools::risk::KnownRisk;

/// What there is besides the world, or in the place of it: each kind that somebody may write.
#[derive(Clone, Debug)]
struct Cast {
    server: Option<Value>,
    twin: Option<Value>,
    policy: Option<Value>,
    besides: Option<Value>,
    guardrail: Option<Value>,
    anchor: Option<Value>,
    client: Option<Value>,
}

/// The last of the members.
const CLIENT: usize = 6;

impl Cast {
    fn members(&self) -> [&Option<Value>; 7] {
        let Self { server, twin, policy, besides, guardrail, anchor, client } = self;
        [server, twin, policy, besides, guardrail, anchor, client]
    }

    fn world(&self) -> World {
        let mut world = nothing_known();
        world.put(Kind::Namespace, json!({"metadata": {"name": "team"}}));
        put(&mut world, &authority("corp"));
        put(&mut world, &object("McpAuthorizationServer", None, "local", json!({}), json!({"local": {}})));
        self.members().into_iter().flatten().for_each(|object| put(&mut world, object));
        world
    }

    /// With one member as another has it.
    fn with(&self, member: usize, other: &Self) -> Self {
        let mut changed = self.clone();
        let (from, Self { server, twin, policy, besides, guardrail, anchor, client }) = (other.clone(), &mut changed);
        match member {
            0 => *server = from.server,
            1 => *twin = from.twin,
            2 => *policy = from.policy,
            3 => *besides = from.besides,
            4 => *guardrail = from.guardrail,
            5 => *anchor = from.anchor,
            _ => *client = from.client,
        }
        changed
    }
}

fn some_server(name: &'static str) -> impl Strategy<Value = Value> {
    let labels = select(vec![json!({}), json!({"tier": "gold"}), json!({"guard": "on"})]);
    let trusted = select(vec![json!(["corp"]), json!(["corp", "again"]), json!(["again"]), json!(["local", "corp"])]);
    let path = prop_oneof![3 => Just(None), 1 => Just(Some("/team/a"))];
    (labels, trusted, select(&["Enabled", "Enabled", "Disabled"][..]), path).prop_map(
        move |(labels, trusted, state, path)| {
            let mut more = json!({"authorization": {"servers": trusted}, "state": state});
            if let Some(path) = path {
                more["path"] = path.into();
            }
            server(name, labels, more)
        },
    )
}

fn some_rules() -> impl Strategy<Value = Value> {
    let who = || {
        select(vec![
            json!([{"any": true}]),
            json!([{"groups": ["dev"]}]),
            json!([{"any": true, "authority": "again"}]),
            json!([{"any": true, "authority": "local"}]),
            json!([{"mcpClients": ["agent"], "authority": "local"}]),
            json!([{"mcpClients": ["agent"]}]),
        ])
    };
    let effect = select(&["Allow", "Allow", "Deny"][..]);
    let tools = select(vec![json!([{"names": ["get_a"]}]), json!([{"patterns": ["*"]}])]);
    vec((effect, who(), option::weighted(0.2, who()), tools), 1..3).prop_map(|rules| {
        let one = |(number, (effect, who, except, tools)): (usize, (&str, Value, Option<Value>, Value))| {
            let mut rule = rule(&format!("r{number}"), effect, json!({"principals": who, "tools": tools}));
            if let Some(except) = except {
                rule["except"] = except;
            }
            if effect == "Deny" {
                // Not contradicting what it is meant for.
                rule["message"] = "no".into();
            }
            rule
        };
        rules.into_iter().enumerate().map(one).collect::<Vec<_>>().into()
    })
}

/// The same object by another name.
fn called(name: &str, mut object: Value) -> Value {
    object["metadata"]["name"] = name.into();
    object["metadata"]["uid"] = format!("uid-{name}").into();
    object
}

fn some_policy(name: &'static str) -> impl Strategy<Value = Value> {
    let targets = select(vec![
        json!({"servers": ["a"]}),
        json!({"servers": ["a", "twin"]}),
        json!({"selector": {"matchLabels": {"tier": "gold"}}}),
        json!({"selector": {}}),
    ]);
    (targets, some_rules(), prop_oneof![4 => Just("Enforce"), 1 => Just("Shadow")]).prop_map(
        move |(targets, rules, mode)| {
            let mut policy = called(name, policy("team", targets, rules));
            policy["spec"]["mode"] = mode.into();
            policy
        },
    )
}

fn some_guardrail() -> impl Strategy<Value = Value> {
    let labels = select(vec![json!({}), json!({"matchLabels": {"guard": "on"}})]);
    (labels, some_rules())
        .prop_map(|(labels, rules)| policy(SYSTEM, json!({"selector": labels, "namespaceSelector": {}}), rules))
}

/// A trust anchor that has the issuer of another one, or its own.
fn some_anchor() -> impl Strategy<Value = Value> {
    select(&["https://corp.example.com", "https://again.example.com"][..]).prop_map(|issuer| {
        let mut anchor = authority("again");
        anchor["spec"]["issuer"] = issuer.into();
        anchor
    })
}

/// A client that is given a token, or one that is registered, whose author may say as what.
fn some_client() -> impl Strategy<Value = Value> {
    let token = |authority: &str| {
        let token = json!({"subject": "agent", "servers": ["a"]});
        json!({"method": "Token", "authorizationServer": authority, "token": token})
    };
    let known =
        |id: &str| json!({"method": "Preregistered", "authorizationServer": "corp", "registration": {"clientId": id}});
    let registered = json!({"method": "DCR", "authorizationServer": "corp", "registration": {}});
    select(vec![token("local"), token("again"), known("ide"), known("cli"), registered])
        .prop_map(|spec| object("McpClient", Some("team"), "agent", json!({}), spec))
}

fn cast() -> impl Strategy<Value = Cast> {
    let mostly = 0.8;
    let servers = (option::weighted(0.9, some_server("a")), option::weighted(0.3, some_server("twin")));
    let policies = (
        option::weighted(mostly, some_policy("p")),
        option::weighted(mostly, some_policy("q")),
        option::weighted(0.3, some_guardrail()),
    );
    let others = (option::weighted(0.5, some_anchor()), option::weighted(0.5, some_client()));
    (servers, policies, others).prop_map(|((server, twin), (policy, besides, guardrail), (anchor, client))| Cast {
        server,
        twin,
        policy,
        besides,
        guardrail,
        anchor,
        client,
    })
}

fn caller(authority: &str, group: Option<&str>, client: Option<&str>) -> Principal {
    Principal {
        authority: authority.into(),
        issuer: "x".into(),
        tenant: None,
        subject: "somebody".into(),
        kind: CallerKind::User,
        client: client.map(Box::from),
        groups: Groups::Known(group.into_iter().map(Box::from).collect()),
        actor: None,
    }
}

/// Whether a call is forwarded.
fn may_call(world: &World, name: &str, who: &Principal, tool: &str) -> bool {
    let fleet = world.fleet();
    let Some(served) = fleet.by_name("team", name) else { return false };
    let server = served.server;
    let issuer = |name: &str| fleet.authority(name).map(|authority| authority.issuer.clone());
    let believed = server.authorities.iter().any(|name| **name == *who.authority && issuer(name).is_some());
    if server.state != State::Enabled || fleet.claimants(&server.path).count() != 1 || !believed {
        return false;
    }
    let keys = PrincipalKeys::of(who);
    let target = Target::Tool { name: tool, risk: KnownRisk::default() };
    let request = Request { principal: who, keys: &keys, target, arguments: None };
    evaluate(served.layers, &request, &Facts { now: 0 }).effect == Effect::Allow
}

/// Whether a change of one member that needs no right, and is not refused for what it is, lets somebody call who could not.
fn gained(one: &Cast, changed: &Cast, member: usize) -> Option<String> {
    let (old, new) = (one.members()[member], changed.members()[member]);
    if old.is_none() && new.is_none() {
        return None;
    }
    let (before, after) = (one.world(), changed.world());
    let judged = judged(&before, old.as_ref(), new.as_ref());
    let needed = judged.needs().iter().any(|need| need.right == Right::Grant);
    if needed || answer(&before, old.as_ref(), new.as_ref()).refusal().is_some() {
        return None;
    }
    for who in [
        caller("corp", None, None),
        caller("corp", Some("dev"), None),
        caller("again", None, None),
        caller("local", Some("dev"), None),
        caller("corp", None, Some("ide")),
        caller("corp", Some("dev"), Some("ide")),
        caller("local", None, Some("team/agent/uid-McpC")),
    ] {
        // Who may have a client's token is told by the verb `issue`.
        if member == CLIENT && who.client.is_some() && &*who.authority == "local" {
            continue;
        }
        for (name, tool) in [("a", "get_a"), ("a", "put_a"), ("twin", "get_a"), ("twin", "put_a")] {
            if !may_call(&before, name, &who, tool) && may_call(&after, name, &who, tool) {
                return Some(format!("{who:?} may call {tool} of {name}"));
            }
        }
    }
    None
}

proptest! {
    #[test]
    fn whoever_gains_gains_by_a_right(one in cast(), other in cast(), member in 0..=CLIENT) {
        prop_assert_eq!(gained(&one, &one.with(member, &other), member), None);
    }

    /// Few of all casts have somebody whom a client's coming could open anything to.
    #[test]
    fn whoever_gains_by_a_clients_coming_gains_by_a_right(one in cast(), other in cast()) {
        let mut one = Cast { client: None, guardrail: None, ..one };
        one.server = Some(server("a", json!({}), json!({"authorization": {"servers": ["local"]}})));
        let everybody = json!([rule("all", "Allow", json!({"principals": [{"any": true, "authority": "local"}]}))]);
        one.besides = Some(called("q", policy("team", json!({"servers": ["a"]}), everybody)));
        prop_assert_eq!(gained(&one, &one.with(CLIENT, &other), CLIENT), None);
    }

    /// Nor do many have a client whose author says which id it has.
    #[test]
    fn whoever_gains_by_the_id_that_a_client_is_given_gains_by_a_right(
        one in cast(), policy in some_policy("p"), clients in (option::weighted(0.5, some_client()), some_client())
    ) {
        let one = Cast { policy: Some(policy), guardrail: None, client: clients.0, ..one };
        let one = Cast { server: Some(server("a", json!({"tier": "gold"}), json!({}))), ..one };
        let other = Cast { client: Some(clients.1), ..one.clone() };
        prop_assert_eq!(gained(&one, &one.with(CLIENT, &other), CLIENT), None);
    }
}
