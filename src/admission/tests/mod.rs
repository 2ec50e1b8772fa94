//! Reviews as the API server sends them, and what they are answered.

mod answers;
mod effects;
mod exact;
mod gains;
mod grants;
mod reviews;
mod sound;
mod statuses;

use serde_json::{Value, json};

use super::grant::Need;
use super::judge::{Judged, LookedUp, judge, wanted};
use super::response::Response;
use super::review::{Review, read};
use super::world::{Installation, World};
use crate::api::{Kind, Object};
use crate::resolve::PublicUrl;

/// The namespace of guardrails.
const SYSTEM: &str = "sys";

fn nothing_known() -> World {
    World::new(Installation {
        public_url: PublicUrl::parse("https://mcp.example.com").unwrap(),
        system_namespace: SYSTEM.into(),
        gateway_namespace: "gate".into(),
        cluster_domain: "cluster.local".into(),
    })
}

/// A trust anchor `corp`, and in namespace `team` the servers `a` (labelled `tier: gold`) and `b`.
fn world() -> World {
    let mut world = nothing_known();
    world.put(Kind::Namespace, json!({"metadata": {"name": "team", "labels": {"stage": "prod"}}}));
    put(&mut world, &authority("corp"));
    put(&mut world, &server("a", json!({"tier": "gold"}), json!({})));
    put(&mut world, &server("b", json!({}), json!({})));
    world
}

fn put(world: &mut World, object: &Value) {
    let kind = Kind::OURS.into_iter().find(|kind| object["kind"] == kind.as_str()).unwrap();
    world.put(kind, object.clone());
}

fn object(kind: &str, namespace: Option<&str>, name: &str, labels: Value, spec: Value) -> Value {
    let uid = format!("uid-{kind}-{}-{name}", namespace.unwrap_or_default());
    let mut metadata = json!({"name": name, "uid": uid, "generation": 1, "labels": labels});
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
}

fn authority(name: &str) -> Value {
    let issuer = format!("https://{name}.example.com");
    let spec =
        json!({"issuer": issuer, "validation": {"groups": {"claim": "groups"}}, "allowedAudiences": ["https://aud"]});
    object("McpAuthorizationServer", None, name, json!({}), spec)
}

fn server(name: &str, labels: Value, more: Value) -> Value {
    let mut spec = json!({
        "upstream": {"url": "https://vendor.example/mcp", "credentials": {"none": {}}},
        "authorization": {"servers": ["corp"]}
    });
    patch(&mut spec, &more);
    object("McpServer", Some("team"), name, labels, spec)
}

fn policy(namespace: &str, targets: Value, rules: Value) -> Value {
    object(
        "McpPolicy",
        Some(namespace),
        "p",
        json!({}),
        json!({"authority": "corp", "targets": targets, "rules": rules}),
    )
}

fn rule(name: &str, effect: &str, more: Value) -> Value {
    let mut rule = json!({"name": name, "effect": effect, "principals": [{"groups": ["dev"]}], "tools": [{"patterns": ["get_*"]}]});
    patch(&mut rule, &more);
    rule
}

/// RFC 7396.
fn patch(target: &mut Value, with: &Value) {
    let (Value::Object(members), Value::Object(changes)) = (&mut *target, with) else {
        *target = with.clone();
        return;
    };
    for (name, change) in changes {
        match change {
            Value::Null => drop(members.remove(name)),
            change => patch(members.entry(name).or_insert(Value::Null), change),
        }
    }
}

/// The review of a change from one object to another.
fn asked(old: Option<&Value>, new: Option<&Value>) -> Value {
    let object = new.or(old).unwrap();
    let operation = match (old, new) {
        (None, _) => "CREATE",
        (Some(_), Some(_)) => "UPDATE",
        (Some(_), None) => "DELETE",
    };
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "portcullis.dev", "version": "v1alpha1", "kind": object["kind"]},
            "resource": {"group": "portcullis.dev", "version": "v1alpha1", "resource": "whatever"},
            "name": object["metadata"]["name"],
            "namespace": object["metadata"]["namespace"],
            "operation": operation,
            "userInfo": {"username": "ana", "groups": ["tenants", "system:authenticated"]},
            "object": new,
            "oldObject": old,
            "dryRun": false,
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"}
        }
    })
}

fn review(old: Option<&Value>, new: Option<&Value>) -> Review {
    read(asked(old, new).to_string().as_bytes()).unwrap()
}

fn judged(world: &World, old: Option<&Value>, new: Option<&Value>) -> Judged {
    let review = review(old, new);
    judge(&review, world, &looked_up(&review, world, &[]))
}

/// The answer for somebody who does not have these of the rights that it takes.
fn answered(world: &World, old: Option<&Value>, new: Option<&Value>, lacks: impl Fn(&Need) -> bool) -> Response {
    let review = review(old, new);
    let nothing = looked_up(&review, world, &[]);
    let judged = judge(&review, world, &nothing);
    let refused: Vec<Need> = judged.needs().iter().filter(|need| lacks(need)).cloned().collect();
    judged.decide(&refused).tell(&review, world, &nothing, 0)
}

/// That these are there of what is wanted.
fn looked_up(review: &Review, world: &World, there: &[Object]) -> LookedUp {
    LookedUp { asked: wanted(review, world), found: there.to_vec() }
}

/// The answer for somebody who may do everything.
fn answer(world: &World, old: Option<&Value>, new: Option<&Value>) -> Response {
    answered(world, old, new, |_| false)
}
