//! `McpServer.spec.tools.lock` to the reviewed definitions.
//!
//! Invariant: what cannot be had, read or vouched for counts as a lock in which nothing was reviewed, so every tool is
//! drift (design 2). It never counts as no lock.

use std::collections::BTreeMap;

use super::{Finding, Findings, Lookup, Reason};
use crate::{
    api::{
        FieldPath,
        v1alpha1::{LockSpec, OnChange as OnChangeSpec},
    },
    generated::server::{Lock, OnChange},
    tools::{
        digest::sha256,
        lock::{self, Tools},
    },
};

/// Resolves a lock.
pub(super) fn resolve(spec: &LockSpec, namespace: &str, lookup: &Lookup<'_>, warnings: &mut Findings) -> Lock {
    let on_change = match spec.on_change {
        Some(OnChangeSpec::Warn) => OnChange::Warn,
        Some(OnChangeSpec::Hide) => OnChange::Hide,
        Some(OnChangeSpec::Deny) | None => OnChange::Deny,
    };
    let tools = reviewed(spec, namespace, lookup).unwrap_or_else(|finding| {
        warnings.push(*finding);
        BTreeMap::new()
    });
    Lock { on_change, tools }
}

/// Which arguments calls of the reviewed tools must have, as far as it can be told.
pub fn required(spec: &LockSpec, namespace: &str, lookup: &Lookup<'_>) -> lock::Required {
    text(spec, namespace, lookup).map(lock::required).unwrap_or_default()
}

fn reviewed(spec: &LockSpec, namespace: &str, lookup: &Lookup<'_>) -> Result<Tools, Box<Finding>> {
    lock::read(text(spec, namespace, lookup)?).map_err(|error| {
        let message = format!("key {} of ConfigMap {} cannot be used: {error}", spec.key, spec.config_map_name);
        finding(Reason::LockInvalid, "configMapName", message)
    })
}

/// The lock's text, which is the one whose digest was written down.
fn text<'a>(spec: &LockSpec, namespace: &str, lookup: &Lookup<'a>) -> Result<&'a str, Box<Finding>> {
    let LockSpec { config_map_name: name, key, .. } = spec;
    let map = lookup.config_maps.get(&(namespace, name.as_str()));
    let text = map.and_then(|map| map.data.get(key)).ok_or_else(|| {
        let message = format!("no ConfigMap {namespace}/{name} with key {key}");
        finding(Reason::LockNotFound, "configMapName", message)
    })?;
    let digest = sha256(text.as_bytes()).hex();
    if digest != spec.sha256 {
        let message = format!("key {key} of ConfigMap {name} has the digest {digest}");
        return Err(finding(Reason::LockMismatch, "sha256", message));
    }
    Ok(text)
}

fn finding(reason: Reason, field: &str, message: String) -> Box<Finding> {
    Box::new(Finding::new(reason, FieldPath::of("spec.tools.lock").field(field), message))
}
