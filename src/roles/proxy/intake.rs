//! From what the API server tells of generated objects to what the gateway is told. Pure.
//!
//! Invariant: every object with a name of ours is put, refused or removed, never skipped: one that cannot be read denies
//! what it governs, which its name alone says; and a collection's version is claimed only when all up to it was told.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::DynamicObject;
use serde_json::Value;

use crate::cluster::Event;
use crate::generated::kind::{GENERATED, OBJECT_KEY, SEALING, SEALING_LABEL};
use crate::generated::report::resource_version;
use crate::generated::{Collection, Kind};
use crate::proxy::gateway::Change;
use crate::seal::{KeyRing, SealError, SealKey};

/// What one collection holds.
pub struct Intake {
    collection: Collection,
    /// UID and version of each object, by name.
    known: HashMap<String, (String, u64)>,
    /// Whether it is being listed: until that ends, objects come in no order.
    listing: bool,
    applied: Option<u64>,
}

/// What there is to do.
pub enum Step {
    /// Something that is served changed.
    Serve(Change),
    /// The sealing keys are these, or cannot be used: in words, without content.
    Seal(Result<KeyRing, String>),
}

impl Intake {
    /// Knows nothing yet.
    pub fn new(collection: Collection) -> Self {
        Self { collection, known: HashMap::new(), listing: false, applied: None }
    }

    /// Up to which version everything was told; `None` until the collection was read once.
    pub fn applied(&self) -> Option<u64> {
        self.applied
    }

    /// Whether it was read once.
    pub fn has_synced(&self) -> bool {
        self.applied.is_some()
    }

    /// Takes an event in, and hands out what follows from it.
    pub fn take(&mut self, event: Event) -> Option<Step> {
        match event {
            Event::Begun => {
                self.listing = true;
                None
            }
            Event::Put(object) => self.put(&object),
            // It is put anew: between the two, what it denies would be allowed.
            Event::Gone { replaced: true, .. } => None,
            Event::Gone { name, .. } => self.gone(&name),
            Event::Synced => {
                self.synced();
                None
            }
            Event::Failed(_) => None,
        }
    }

    fn put(&mut self, object: &DynamicObject) -> Option<Step> {
        let metadata = &object.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let version = metadata.resource_version.as_deref().and_then(resource_version).unwrap_or(0);
        let seen = (metadata.uid.clone().unwrap_or_default(), version);
        if !self.listing {
            self.applied = self.applied.max(Some(version));
        }
        let is_news = self.known.get(&name) != Some(&seen) || version == 0;
        self.known.insert(name.clone(), seen);
        is_news.then(|| self.read(&name, object)).flatten()
    }

    /// From its name alone.
    fn gone(&mut self, name: &str) -> Option<Step> {
        self.known.remove(name)?;
        if self.is_sealing(name) {
            return Some(Step::Seal(Err("the Secret is gone".to_owned())));
        }
        let (kind, uid) = self.governs(name)?;
        Some(Step::Serve(Change::Remove(kind, uid.to_owned())))
    }

    fn synced(&mut self) {
        self.listing = false;
        // Not the greatest ever seen: a cluster that was restored counts from an earlier number on.
        self.applied = Some(self.known.values().map(|(_, version)| *version).max().unwrap_or(0));
    }

    fn is_sealing(&self, name: &str) -> bool {
        self.collection == Collection::Secrets && name == SEALING
    }

    /// What an object of this name holds, if the name is one of ours in this collection.
    fn governs<'n>(&self, name: &'n str) -> Option<(Kind, &'n str)> {
        Kind::of_object(name).filter(|(kind, _)| kind.collection() == self.collection)
    }

    fn read(&self, name: &str, object: &DynamicObject) -> Option<Step> {
        let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(GENERATED)).map(String::as_str);
        if self.is_sealing(name) && label == Some(SEALING_LABEL) {
            return Some(Step::Seal(key_ring(&object.data)));
        }
        let Some((kind, uid)) = self.governs(name) else {
            tracing::warn!(name, "an object is labelled as generated and has no name of ours: ignored");
            return None;
        };
        let content = if label == Some(kind.label()) { self.content(object) } else { Err("GeneratedMislabelled") };
        let uid = uid.to_owned();
        Some(Step::Serve(match content {
            Ok(bytes) => Change::Put(kind, uid, bytes),
            Err(reason) => Change::Unreadable(kind, uid, reason),
        }))
    }

    fn content(&self, object: &DynamicObject) -> Result<Vec<u8>, &'static str> {
        let text = object.data.get("data").and_then(|data| data.get(OBJECT_KEY)).and_then(Value::as_str);
        let text = text.ok_or("GeneratedMissing")?;
        match self.collection {
            Collection::Secrets => STANDARD.decode(text).map_err(|_| "GeneratedMissing"),
            Collection::ConfigMaps => Ok(text.as_bytes().to_vec()),
        }
    }
}

/// The keys in the sealing Secret. `previous` may be missing: nothing was rotated out yet.
fn key_ring(secret: &Value) -> Result<KeyRing, String> {
    let key = |name: &str| {
        let text = secret.get("data").and_then(|data| data.get(name)).and_then(Value::as_str)?;
        let material = STANDARD.decode(text).map_err(|_| SealError::KeyLength);
        Some(material.and_then(|material| SealKey::new(&material)).map_err(|error| format!("`{name}`: {error}")))
    };
    let current = key("current").ok_or_else(|| "it has no `current`".to_owned())??;
    Ok(KeyRing::new(current, key("previous").transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(name: &str, label: &str, version: &str, data: Value) -> Box<DynamicObject> {
        let object = json!({"metadata": {"name": name, "uid": format!("uid-of-{name}"), "resourceVersion": version,
            "labels": {GENERATED: label}}, "data": data});
        Box::new(serde_json::from_value(object).unwrap())
    }

    fn policy(uid: &str, version: &str) -> Event {
        Event::Put(object(&format!("policy-{uid}"), "policy", version, json!({OBJECT_KEY: "{}"})))
    }

    fn said(steps: Option<Step>) -> Vec<String> {
        let word = |step| match step {
            Step::Serve(Change::Put(kind, uid, bytes)) => {
                format!("put {} {uid} {}", kind.label(), String::from_utf8(bytes).unwrap())
            }
            Step::Serve(Change::Unreadable(kind, uid, reason)) => format!("refuse {} {uid} {reason}", kind.label()),
            Step::Serve(Change::Remove(kind, uid)) => format!("remove {} {uid}", kind.label()),
            Step::Serve(Change::DenyAll { .. } | Change::Clear { .. }) => panic!("not of an object"),
            Step::Seal(keys) => format!("seal {:?}", keys.map(drop)),
        };
        steps.into_iter().map(word).collect()
    }

    #[test]
    fn a_version_is_claimed_only_when_all_up_to_it_was_told() {
        let mut intake = Intake::new(Collection::ConfigMaps);
        intake.take(Event::Begun);
        assert_eq!(said(intake.take(policy("a", "9"))), ["put policy a {}"]);
        assert_eq!(said(intake.take(policy("b", "7"))), ["put policy b {}"]);
        assert_eq!(intake.applied(), None, "an object of version 8 may still come");
        assert!(intake.take(Event::Synced).is_none());
        assert_eq!(intake.applied(), Some(9));
        assert_eq!(said(intake.take(policy("b", "12"))), ["put policy b {}"]);
        assert_eq!(intake.applied(), Some(12));
        // The watch broke; what is told again is told to nobody, and what is gone is found out.
        intake.take(Event::Failed("away".into()));
        intake.take(Event::Begun);
        assert!(intake.take(policy("b", "12")).is_none());
        assert_eq!(said(intake.take(policy("c", "20"))), ["put policy c {}"]);
        assert_eq!(intake.applied(), Some(12));
        let gone = |name: &str| Event::Gone {
            namespace: String::new(),
            name: name.into(),
            uid: "any".into(),
            replaced: false,
        };
        assert_eq!(said(intake.take(gone("policy-a"))), ["remove policy a"]);
        assert!(intake.take(Event::Synced).is_none());
        assert_eq!(intake.applied(), Some(20));
        assert_eq!(said(intake.take(gone("policy-c"))), ["remove policy c"]);
        // Restored from a backup.
        intake.take(Event::Begun);
        intake.take(policy("b", "5"));
        intake.take(Event::Synced);
        assert_eq!(intake.applied(), Some(5));
    }

    #[test]
    fn what_has_a_name_of_ours_is_never_skipped() {
        let taken = |collection, name: &str, label: &str, data| {
            said(Intake::new(collection).take(Event::Put(object(name, label, "1", data))))
        };
        use Collection::{ConfigMaps, Secrets};
        let data = |text: &str| json!({OBJECT_KEY: text});
        assert_eq!(taken(Secrets, "server-1", "server", data("e30=")), ["put server 1 {}"]);
        assert_eq!(taken(Secrets, "server-1", "server", data("e30")), ["refuse server 1 GeneratedMissing"]);
        assert_eq!(taken(Secrets, "server-1", "server", json!(null)), ["refuse server 1 GeneratedMissing"]);
        assert_eq!(taken(Secrets, "server-1", "policy", data("e30=")), ["refuse server 1 GeneratedMislabelled"]);
        assert_eq!(taken(ConfigMaps, "policy-1", "new", data("{}")), ["refuse policy 1 GeneratedMislabelled"]);
        assert_eq!(taken(ConfigMaps, "authority-1", "authority", json!({})), ["refuse authority 1 GeneratedMissing"]);
        // Not where ours are.
        assert!(taken(ConfigMaps, "server-1", "server", data("{}")).is_empty());
        assert!(taken(ConfigMaps, "new-1", "new", data("{}")).is_empty());
        assert!(taken(ConfigMaps, SEALING, SEALING_LABEL, json!({})).is_empty());
    }

    #[test]
    fn sealing_keys_are_read_or_their_fault_is_named() {
        let key = STANDARD.encode([7; crate::seal::KEY_BYTES]);
        let taken = |data: Value| {
            said(Intake::new(Collection::Secrets).take(Event::Put(object(SEALING, SEALING_LABEL, "1", data))))
        };
        assert_eq!(taken(json!({"current": key})), ["seal Ok(())"]);
        assert_eq!(taken(json!({"current": key, "previous": key})), ["seal Ok(())"]);
        assert!(taken(json!({})).concat().contains("no `current`"));
        for bad in [json!({"current": "AAAA"}), json!({"current": key, "previous": "%"})] {
            let said = taken(bad).concat();
            assert!(said.contains("32 bytes") && !said.contains("AAAA"), "{said}");
        }
    }
}
