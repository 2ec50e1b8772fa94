//! A folder of manifests as the gateway would serve it, for questions that are answered offline.
//!
//! Invariant: the same functions read, resolve, encode and join as in the gateway, so an answer here is the gateway's.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::fleet::Fleet;
use crate::generated::codec::{self, Generated};
use crate::manifests::{self, Limits, Remembered};
use crate::resolve::{self, Accepted, PublicUrl, Settings, Severity};

/// What a folder comes to.
pub struct Loaded {
    /// Everything that would be served.
    pub fleet: Fleet,
    /// How many findings refuse something: the answers are then about what stays in force.
    pub errors: usize,
}

/// Loads manifests as if nothing had been there before.
///
/// # Errors
/// If a path does not exist.
pub fn load(paths: &[PathBuf], public_url: &PublicUrl, system_namespace: &str) -> anyhow::Result<Loaded> {
    for path in paths {
        path.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    }
    let scan = manifests::scan(paths, &Limits::default(), None);
    let merged = manifests::merge(&Remembered::default(), &scan);
    let settings = Settings { public_url, system_namespace };
    let resolution =
        resolve::tree(&settings, &merged.objects, &merged.invalid, merged.unreadable, &Accepted::default());
    let errors = resolution.findings.iter().filter(|found| found.finding.severity == Severity::Error).count();
    let mut fleet = Fleet::default();
    for object in resolution.generated {
        match codec::decode(&codec::encode(&object)?)? {
            Generated::Server(server) => fleet.put_server(server),
            Generated::Authority(authority) => fleet.put_authority(authority),
            // What cannot be compiled denies, in the fleet as in the gateway.
            Generated::Policy(policy) => drop(fleet.put_policy(policy)),
        }
    }
    Ok(Loaded { fleet, errors: errors + merged.problems.len() })
}

/// Loads manifests and says on standard error if some of them are refused.
///
/// # Errors
/// As [`load`].
pub fn for_questions(paths: &[PathBuf], system_namespace: &str) -> anyhow::Result<Fleet> {
    // Who can do what does not depend on the host under which it is done.
    let public_url = PublicUrl::parse("https://mcp.invalid")?;
    let loaded = load(paths, &public_url, system_namespace)?;
    if loaded.errors > 0 {
        let (n, s) = (loaded.errors, if loaded.errors == 1 { "" } else { "s" });
        eprintln!(
            "warning: {n} error{s} in the manifests (see portcullis validate); the answer is that of a gateway which never \
             accepted what is invalid"
        );
    }
    Ok(loaded.fleet)
}
