//! What was read, held against what was read before.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{FileProblem, Note, ParsedObject, Scan, Source};
use crate::api::{Invalidity, Key, Object};

/// Which objects were last read from which file. Kept in the state folder, so that a file that breaks while the gateway
/// is down is not taken for one that was never read. Holds no content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// By file, as it is shown.
    pub files: BTreeMap<String, Vec<RememberedObject>>,
}

/// An object of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RememberedObject {
    /// Which object.
    pub key: Key,
    /// SHA-256 of its document, in hex; absent for Secrets, whose content it could give away.
    pub digest: Option<String>,
    /// How often it has changed, from 1.
    pub generation: i64,
}

/// What is to be resolved.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// The objects, no two with the same key, each with its UID and generation.
    pub objects: Vec<Object>,
    /// Objects that exist, but were not read: each is an invalid edit.
    pub invalid: BTreeMap<Key, Invalidity>,
    /// Whether there is something that was never read, so that every server must deny.
    pub unreadable: bool,
    /// What could not be read.
    pub problems: Vec<FileProblem>,
    /// Where every object, valid or not, was read. Several: all of them claim to be it.
    pub sources: BTreeMap<Key, Vec<Source>>,
    /// What was passed over.
    pub notes: Vec<Note>,
    /// What is to be given as `previous` next time.
    pub remembered: Remembered,
}

/// Holds a scan against what was read before.
pub fn merge(previous: &Remembered, scan: &Scan) -> Merged {
    let mut out = Merged::default();
    let known: BTreeMap<&Key, &RememberedObject> =
        previous.files.values().flatten().map(|object| (&object.key, object)).collect();
    let mut found: BTreeMap<Key, Vec<&ParsedObject>> = BTreeMap::new();
    for (path, file) in scan.files() {
        out.notes.extend(file.notes.iter().cloned());
        let objects = file.objects.iter().map(|object| remember(object, known.get(&object.key).copied()));
        out.remembered.files.insert(path.to_string_lossy().into_owned(), objects.collect());
        for object in &file.objects {
            found.entry(object.key.clone()).or_default().push(object);
        }
    }
    let broken = broken(previous, scan, &mut out);
    for (key, claimants) in found {
        out.sources.insert(key.clone(), claimants.iter().map(|object| object.source.clone()).collect());
        let object = match claimants.as_slice() {
            [only] if !broken.contains(&key) => only.object.clone(),
            [_] => Err(Invalidity::Unreadable),
            _ => Err(Invalidity::Duplicate),
        };
        match object {
            Ok(mut object) => {
                let generation = claimants.first().map(|o| remember(o, known.get(&key).copied()).generation);
                object.metadata_mut().uid = Some(key.stable_uid());
                object.metadata_mut().generation = generation;
                out.objects.push(object);
            }
            Err(why) => {
                out.invalid.insert(key, why);
            }
        }
    }
    for key in broken {
        out.invalid.entry(key).or_insert(Invalidity::Unreadable);
    }
    out
}

fn remember(object: &ParsedObject, known: Option<&RememberedObject>) -> RememberedObject {
    let generation = match known {
        Some(known) if known.digest == object.digest => known.generation,
        Some(known) => known.generation.saturating_add(1),
        None => 1,
    };
    RememberedObject { key: object.key.clone(), digest: object.digest.clone(), generation }
}

/// The objects last read from what cannot be read now.
fn broken(previous: &Remembered, scan: &Scan, out: &mut Merged) -> BTreeSet<Key> {
    let mut broken = BTreeSet::new();
    for problem in scan.problems() {
        let mut problem = problem.clone();
        let mut was_read = false;
        for (file, objects) in previous.files.iter().filter(|(file, _)| is_within(file, &problem.file)) {
            was_read = true;
            // What could be read of a folder is remembered anew.
            if let std::collections::btree_map::Entry::Vacant(entry) = out.remembered.files.entry(file.clone()) {
                problem.objects.extend(objects.iter().map(|object| object.key.clone()));
                entry.insert(objects.clone());
            }
        }
        // Two problems may be about the same file.
        broken.extend(problem.objects.iter().cloned());
        out.unreadable |= !was_read;
        out.problems.push(problem);
    }
    broken
}

/// Whether `file` is `place`, or lies in the folder `place`.
fn is_within(file: &str, place: &str) -> bool {
    std::path::Path::new(file).starts_with(place)
}
