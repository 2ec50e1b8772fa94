//! What people write, and what it comes to.

pub(crate) mod arbitrary;
mod clusters;
mod lints;
mod policies;
mod reaching;
mod registered;
mod servers;
mod trees;
mod upstream_oauth;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::{
    api::{Invalidity, Object, Rejected, object},
    generated::{Policy, Server, codec::Generated},
};

/// One that stands alone.
fn resolve_alone(documents: &[Value]) -> Resolution {
    let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
    let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: None };
    resolved(documents, &settings, &Accepted::default())
}

/// Documents to what they come to, as in a folder in which nothing was before.
fn resolve(documents: &[Value]) -> Resolution {
    resolve_after(documents, &Accepted::default())
}

fn resolve_after(documents: &[Value], previous: &Accepted) -> Resolution {
    let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
    let cluster = Cluster::presumed();
    let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: Some(&cluster) };
    resolved(documents, &settings, previous)
}

fn resolved(documents: &[Value], settings: &Settings<'_>, previous: &Accepted) -> Resolution {
    let mut objects: Vec<Object> = Vec::new();
    let mut invalid = BTreeMap::new();
    for document in documents {
        match object::read(document) {
            Ok(object) => objects.push(object),
            Err(Rejected::Invalid { key, problems }) => {
                invalid.insert(key, Invalidity::Problems(problems));
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    tree(settings, &objects, &invalid, false, previous, Observed::default())
}

fn authority_named(name: &str) -> Value {
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpAuthorizationServer", "metadata": {"name": name},
        "spec": {
            "issuer": format!("https://{name}.example.com"), "allowedAudiences": ["https://aud"],
            "validation": {"groups": {"claim": "groups"}}
        }
    })
}

fn server_with(spec: Value) -> Value {
    let mut whole = json!({
        "upstream": {"url": "https://vendor.example/mcp", "credentials": {"none": {}}},
        "authorization": {"servers": ["corp"]}
    });
    patch(&mut whole, spec);
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
        "metadata": {"name": "s", "namespace": "team", "labels": {"l": "v"}}, "spec": whole
    })
}

fn policy_in(namespace: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
        "metadata": {"name": "p", "namespace": namespace}, "spec": spec
    })
}

/// A policy with one rule.
fn policy_with(effect: &str, rule: Value) -> Value {
    let mut whole =
        json!({"name": "r", "effect": effect, "principals": [{"groups": ["g"]}], "tools": [{"names": ["t"]}]});
    patch(&mut whole, rule);
    policy_in("team", json!({"authority": "corp", "targets": {"servers": ["s"]}, "rules": [whole]}))
}

/// RFC 7396.
fn patch(target: &mut Value, patch_with: Value) {
    let (Value::Object(target), Value::Object(members)) = (&mut *target, &patch_with) else {
        *target = patch_with;
        return;
    };
    for (name, member) in members {
        if member.is_null() {
            target.remove(name);
        } else {
            patch(target.entry(name).or_insert(Value::Null), member.clone());
        }
    }
}

fn found(resolution: &Resolution) -> Vec<(&'static str, String)> {
    resolution.findings.iter().map(|f| (f.finding.reason.as_str(), f.finding.field.to_string())).collect()
}

fn servers_of(resolution: &Resolution) -> Vec<&Server> {
    let servers = resolution.generated.iter();
    servers.filter_map(|g| if let Generated::Server(server) = g { Some(server) } else { None }).collect()
}

fn policies_of(resolution: &Resolution) -> Vec<&Policy> {
    let policies = resolution.generated.iter();
    policies.filter_map(|g| if let Generated::Policy(policy) = g { Some(policy) } else { None }).collect()
}
