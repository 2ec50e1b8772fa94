//! Any bytes as a review: malformed, or an answer that is JSON, repeats the UID and holds nothing of other namespaces;
//! never a panic. What is admitted joins the world and can be deleted again.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis::admission::judge::{LookedUp, judge, wanted};
use portcullis::admission::review::read;
use portcullis::admission::world::{Installation, World};
use portcullis::api::Kind;
use portcullis::resolve::PublicUrl;
use serde_json::{Value, json};

/// A time of which only the guardrail speaks.
const CANARY_TIME: &str = "2041-05-06T07:08:09Z";

static WORLD: LazyLock<World> = LazyLock::new(world);

fn world() -> World {
    let mut world = World::new(Installation {
        public_url: PublicUrl::parse("https://mcp.example.com").unwrap(),
        system_namespace: "sys".into(),
        gateway_namespace: "gate".into(),
        cluster_domain: "cluster.local".into(),
    });
    let object = |kind: &str, namespace: Option<&str>, name: &str, spec: Value| {
        let uid = format!("{kind}/{namespace:?}/{name}");
        json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": kind, "spec": spec,
            "metadata": {"name": name, "namespace": namespace, "uid": uid, "labels": {"tier": "gold"}}})
    };
    world.put(Kind::Namespace, json!({"metadata": {"name": "team", "labels": {"stage": "prod"}}}));
    let issuer = json!({"issuer": "https://corp.example.com", "validation": {"groups": {"claim": "groups"}}});
    world.put(Kind::McpAuthorizationServer, object("McpAuthorizationServer", None, "corp", issuer));
    let upstream = json!({"upstream": {"url": "https://canary.example/mcp", "credentials": {"none": {}}},
        "authorization": {"servers": ["corp"]}});
    for (namespace, name) in [("team", "a"), ("team", "b"), ("canary", "canary")] {
        world.put(Kind::McpServer, object("McpServer", Some(namespace), name, upstream.clone()));
    }
    let rules = json!([
        {"name": "canary", "effect": "Deny", "principals": [{"any": true}], "tools": [{"patterns": ["del_*"]}],
            "when": "args.canary == 1"},
        {"name": "canary-too", "effect": "Allow", "principals": [{"groups": ["dev"]}], "tools": [{"names": ["get_x"]}]},
        {"name": "canary-three", "effect": "Deny", "principals": [{"any": true}],
            "except": [{"groups": ["canary"]}, {"users": ["canary"]}, {"groups": ["dev"], "via": ["canary"]},
                {"groups": ["dev"], "actor": {"subjects": ["canary"]}}],
            "tools": [{"names": ["canary"], "patterns": ["*_canary_*"]}], "notBefore": CANARY_TIME}
    ]);
    let everywhere = json!({"selector": {}, "namespaceSelector": {}});
    let guardrail = json!({"authority": "corp", "targets": everywhere, "rules": rules});
    world.put(Kind::McpPolicy, object("McpPolicy", Some("sys"), "canary", guardrail));
    world
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(review) = read(bytes) else { return };
    let keys = wanted(&review, &WORLD);
    assert!(keys.iter().all(|key| key.namespace.is_empty() || key.namespace == review.key.namespace));
    let nothing = LookedUp { asked: keys, found: Vec::new() };
    let judged = judge(&review, &WORLD, &nothing);
    let needs = judged.needs().to_vec();
    for refused in [&needs[..], &[]] {
        let answer = judged.clone().decide(refused).tell(&review, &WORLD, &nothing, 1_700_000_000);
        let sent: Value = serde_json::from_slice(&answer.encode()).unwrap();
        assert_eq!(sent["response"]["uid"], review.uid.as_str());
        let own = String::from_utf8_lossy(bytes);
        if review.key.namespace == "team" && !own.contains("canary") && !own.contains("2041") {
            // The audit log is the administrators'.
            let said = format!("{}{}", sent["response"]["status"], sent["response"]["warnings"]);
            assert!(!said.contains("canary") && !said.contains(CANARY_TIME), "{said}");
        }
    }
});
