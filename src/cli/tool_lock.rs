//! The tool lock that `scan --lock` writes: a ConfigMap beside the McpServer that names it with its digest.
//!
//! Invariant: a class that a reviewer raised is kept; only a hand lowers it. What an upstream chose stands in the manifest
//! as JSON of one form, in a block of its own, and can become nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

use super::output::{self, counted};
use super::scaffold;
use super::scan::Scan;
use crate::api::Object;
use crate::api::v1alpha1::LOCK_KEY;
use crate::generated::server::LockedTool;
use crate::manifests::{self, Limits, Remembered};
use crate::tools::digest::sha256;
use crate::tools::lock::{self, Drift, Reviewed, Tools};

/// How many tools of a kind are named.
const NAMED: usize = 10;

/// A lock, ready to be written.
pub(super) struct NewLock {
    config_map: String,
    file: String,
    manifest: String,
    sha256: String,
    /// The digest of the lock that is there, if one is.
    former: Option<String>,
    summary: String,
}

/// Makes the lock of what was scanned, with what was reviewed before in `out`.
///
/// # Errors
/// If there are too many tools, or the lock that is there cannot be read.
pub(super) fn make(out: &Path, namespace: &str, name: &str, scan: &Scan) -> anyhow::Result<NewLock> {
    let (file, config_map) = (format!("{name}-tools-lock.yaml"), format!("{name}-tools"));
    let former = former(&out.join(&file))?;
    let before = former
        .as_deref()
        .map(lock::read)
        .transpose()
        .with_context(|| format!("cannot go on from {}: restore or remove it", out.join(&file).display()))?;
    let listed = lock::lockable(scan.definitions.iter().map(|raw| raw.get()));
    let class = |name: &str| {
        let found = scan.tools.iter().find(|tool| tool.name == name).and_then(|tool| tool.risk);
        let reviewed = before.as_ref().and_then(|tools| tools.get(name)).and_then(|LockedTool(_, class)| *class);
        found.max(reviewed)
    };
    let reviewed =
        listed.iter().map(|(name, (tool, digest))| Reviewed { tool: tool.clone(), digest: *digest, risk: class(name) });
    let written = lock::write(reviewed).context("cannot lock the tools")?;
    let listed: BTreeMap<&str, _> = listed.iter().map(|(name, (_, digest))| (name.as_str(), Some(*digest))).collect();
    let mut summary = counted(listed.len(), "tool");
    if let Some(before) = &before {
        summary += &compared(before, &listed);
    }
    if !written.definitions {
        summary += "; the definitions are too large for a ConfigMap, so that only their digests are in it";
    }
    let left_out = scan.definitions.len() - listed.len();
    if left_out > 0 {
        summary += &format!("; {} cannot be locked", counted(left_out, "definition"));
    }
    let indented: String = written.text.lines().map(|line| format!("    {line}\n")).collect();
    let manifest = format!(
        "# Tools as they were defined when portcullis scan --lock wrote this. Review them: what differs from it is refused.\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {config_map}\n  namespace: {namespace}\ndata:\n  \
         {LOCK_KEY}: |\n{indented}"
    );
    let sha256 = sha256(written.text.as_bytes()).hex();
    let former = former.map(|text| crate::tools::digest::sha256(text.as_bytes()).hex());
    Ok(NewLock { config_map, file, manifest, sha256, former, summary })
}

/// The text of the lock in a manifest, if the manifest is there.
fn former(path: &Path) -> anyhow::Result<Option<String>> {
    if !path.exists() {
        return Ok(None);
    }
    let scan = manifests::scan(&[path.to_path_buf()], &Limits::default(), None);
    let merged = manifests::merge(&Remembered::default(), &scan);
    let text = merged.objects.into_iter().find_map(|object| match object {
        Object::ConfigMap(mut map) => map.data.remove(LOCK_KEY),
        _ => None,
    });
    match text {
        Some(text) => Ok(Some(text)),
        None => bail!("{} is there and holds no tool lock: remove it, or choose another folder", path.display()),
    }
}

/// What differs from the lock before.
fn compared(before: &Tools, listed: &BTreeMap<&str, Option<crate::generated::Digest>>) -> String {
    let drifts = lock::drifts(before, listed);
    let kinds = [(Drift::Changed, "changed"), (Drift::New, "new"), (Drift::Gone, "gone")];
    let mut said: Vec<String> = Vec::new();
    for (kind, word) in kinds {
        let names: Vec<&str> = drifts.iter().filter(|(_, drift)| **drift == kind).map(|(name, _)| *name).collect();
        if !names.is_empty() {
            let more = if names.len() > NAMED { ", ..." } else { "" };
            let shown: Vec<&str> = names.iter().take(NAMED).copied().collect();
            said.push(format!("{} {word} ({}{more})", names.len(), shown.join(", ")));
        }
    }
    if said.is_empty() { ", as before".to_owned() } else { format!(": {}", said.join(", ")) }
}

impl NewLock {
    /// The lines of an McpServer's spec that name it, each behind `indent`.
    pub(super) fn reference(&self, indent: &str) -> String {
        let Self { config_map, sha256, .. } = self;
        let lines = [
            "tools:".to_owned(),
            "  lock:".to_owned(),
            format!("    configMapName: {config_map}"),
            "    # What was reviewed. While the ConfigMap holds anything else, no tool counts as reviewed.".to_owned(),
            format!("    sha256: {sha256}"),
            "    onChange: Deny".to_owned(),
        ];
        lines.iter().map(|line| format!("{indent}{line}\n")).collect()
    }

    /// Writes the ConfigMap.
    pub(super) fn write(&self, out: &Path) -> anyhow::Result<()> {
        let written = scaffold::write(out, &self.file, &self.manifest, 0o644)?;
        eprintln!("wrote {}: {}", written.display(), output::printable(&self.summary));
        Ok(())
    }

    /// Writes the ConfigMap, and its digest into the McpServer that is there already.
    pub(super) fn renew(&self, out: &Path, file: &str) -> anyhow::Result<()> {
        let path = out.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        self.write(out)?;
        if text.contains(&self.sha256) {
            return Ok(());
        }
        match self.former.as_ref().filter(|former| text.matches(former.as_str()).count() == 1) {
            Some(former) => {
                scaffold::write(out, file, &text.replace(former.as_str(), &self.sha256), 0o644)?;
                eprintln!("wrote its digest into {}: review both before you commit them", path.display());
            }
            None => eprintln!(
                "write this into the spec of the McpServer in {}:\n\n{}",
                path.display(),
                self.reference("  ")
            ),
        }
        Ok(())
    }
}
