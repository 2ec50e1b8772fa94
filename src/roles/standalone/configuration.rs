//! From the folder to what is served.
//!
//! Invariant: what was accepted outlives a restart, and is written down before it is served, so that an edit which
//! breaks while the gateway is down still leaves its last accepted Deny rules in force (design 4).

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::keys::Keys;
use super::trusts::Trusts;
use crate::generated::codec::Generated;
use crate::generated::{Authority, Kind};
use crate::manifests::{self, Limits, Merged, Note, Remembered, Scan, Watcher};
use crate::process::readiness::{Check, Readiness};
use crate::proxy::gateway::{Change, Gateway};
use crate::resolve::{self, Accepted, Observed, PublicUrl, Resolution, Settings, Severity};
use crate::roles::serving::StateDir;

/// Where what was last read and accepted is kept.
const REMEMBERED: &str = "manifests.json";
const ACCEPTED: &str = "accepted.json";

/// How long after a failure to keep them changed manifests are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is read, and how.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Files and folders.
    pub paths: Vec<PathBuf>,
    /// The namespace whose policies are guardrails.
    pub system_namespace: String,
}

/// Something in the folder that is not as its author meant it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `file:line:column`, as far as known.
    pub place: String,
    /// Whether the object, or the whole file, is refused.
    pub severity: Severity,
    /// A stable word.
    pub reason: String,
    /// The object and field, what is wrong, and how to mend it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}: {}", self.place, self.severity.as_str(), self.reason, self.message)
    }
}

/// Where the folder's state is shown.
#[derive(Debug)]
pub struct Reporter {
    check: Check,
    errors: Gauge,
    warnings: Gauge,
}

impl Reporter {
    /// Names the readiness check and the gauges.
    pub fn register(readiness: &Readiness, registry: &mut Registry) -> Self {
        let (errors, warnings) = (Gauge::default(), Gauge::default());
        registry.register("manifest_errors", "Objects and files that are refused", errors.clone());
        registry.register("manifest_warnings", "Findings that refuse nothing", warnings.clone());
        Self { check: readiness.check("manifests"), errors, warnings }
    }

    fn report(&self, problems: &[Problem]) {
        let errors: Vec<&Problem> = problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
        self.errors.set(i64::try_from(errors.len()).unwrap_or(i64::MAX));
        self.warnings.set(i64::try_from(problems.len() - errors.len()).unwrap_or(i64::MAX));
        if errors.is_empty() {
            self.check.ready();
        } else {
            let text: Vec<String> = errors.iter().take(20).map(ToString::to_string).collect();
            self.check.not_ready("ManifestsInvalid", text.join("\n"));
        }
    }
}

/// The folder, and what is served of it.
pub struct Configuration {
    folder: Folder,
    public_url: PublicUrl,
    gateway: Arc<Gateway>,
    keys: Arc<Keys>,
    trusts: Arc<Trusts>,
    state: StateDir,
    reporter: Reporter,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    scan: Scan,
    remembered: Remembered,
    accepted: Accepted,
    served: BTreeSet<(Kind, String)>,
    problems: Vec<Problem>,
    notes: Vec<Note>,
}

impl Configuration {
    /// Reads the folder once and serves what it holds.
    ///
    /// # Errors
    /// If what was kept of an earlier run cannot be read, or the folder's state cannot be kept.
    pub fn load(
        folder: Folder,
        public_url: PublicUrl,
        gateway: Arc<Gateway>,
        (keys, trusts): (Arc<Keys>, Arc<Trusts>),
        state: StateDir,
        reporter: Reporter,
    ) -> anyhow::Result<Self> {
        let scan = manifests::scan(&folder.paths, &Limits::default(), None);
        let current = Current {
            scan: scan.clone(),
            remembered: state.load(REMEMBERED)?,
            accepted: state.load(ACCEPTED)?,
            ..Current::default()
        };
        let current = Mutex::new(current);
        let configuration = Self { folder, public_url, gateway, keys, trusts, state, reporter, current };
        configuration.apply(scan)?;
        Ok(configuration)
    }

    /// Follows the folder until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let scan = self.current().scan.clone();
        let mut watcher = Watcher::new(self.folder.paths.clone(), Limits::default(), scan);
        let mut unkept: Option<Scan> = None;
        loop {
            let scan = tokio::select! {
                () = stop.cancelled() => return,
                scan = watcher.changed() => scan,
                scan = later(unkept.clone()) => scan,
                // The same manifests may come to something else.
                () = self.trusts.news() => self.current().scan.clone(),
            };
            unkept = None;
            let (configuration, applying) = (self.clone(), scan.clone());
            let applied = tokio::task::spawn_blocking(move || configuration.apply(applying));
            match applied.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    // What is served stays; what would be served could not be kept.
                    let message = format!("{error:#}");
                    tracing::error!(error = message, "changed manifests are not served");
                    self.reporter.check.not_ready("StateNotWritable", message);
                    unkept = Some(scan);
                }
                Err(error) => tracing::error!(%error, "manifests could not be applied"),
            }
        }
    }

    /// What could not be read or accepted.
    pub fn problems(&self) -> Vec<Problem> {
        self.current().problems.clone()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, scan: Scan) -> anyhow::Result<()> {
        let mut current = self.current();
        let merged = manifests::merge(&current.remembered, &scan);
        let settings =
            Settings { public_url: &self.public_url, system_namespace: &self.folder.system_namespace, cluster: None };

        let (invalid, accepted, discovered) = (&merged.invalid, &current.accepted, self.trusts.known());
        let observed = Observed { discovered: Some(&discovered), ..Observed::default() };
        let resolution = resolve::tree(&settings, &merged.objects, invalid, merged.unreadable, accepted, observed);
        self.trusts.follow(resolution.questions.clone());
        self.state.save(REMEMBERED, &merged.remembered)?;
        self.state.save(ACCEPTED, &resolution.accepted)?;

        let problems = problems(&merged, &resolution);
        report_new(&current.problems, &problems);
        for note in merged.notes.iter().filter(|note| !current.notes.contains(note)) {
            tracing::info!(file = &*note.file, "{}", note.message);
        }
        let served = self.serve(&current.served, resolution.generated)?;
        // Only now: whoever sees that the folder is ready calls at once, and must find it served.
        self.reporter.report(&problems);
        let (remembered, accepted, notes) = (merged.remembered, resolution.accepted, merged.notes);
        *current = Current { scan, remembered, accepted, served, problems, notes };
        Ok(())
    }

    /// Hands everything to the gateway in one batch; what is not among it any more is removed.
    fn serve(
        &self,
        before: &BTreeSet<(Kind, String)>,
        objects: Vec<Generated>,
    ) -> anyhow::Result<BTreeSet<(Kind, String)>> {
        let mut authorities: Vec<Authority> = Vec::new();
        let mut changes = Vec::new();
        let mut served = BTreeSet::new();
        for object in objects {
            let (kind, id) = object.identity();
            served.insert((kind, id.uid.clone()));
            match object {
                Generated::Authority(authority) => authorities.push(authority),
                other => changes.push(Change::put(&other)?),
            }
        }
        changes.extend(before.difference(&served).map(|(kind, uid)| Change::Remove(*kind, uid.clone())));
        let mut encoded = Ok(());
        self.keys.replace(authorities, |complete| {
            // Trust first: a server whose authority is not there yet would refuse everybody for a moment.
            let trust: Result<Vec<Change>, _> =
                complete.into_iter().map(|authority| Change::put(&Generated::Authority(authority))).collect();
            match trust {
                Ok(trust) => self.gateway.apply(trust.into_iter().chain(changes).collect()),
                Err(error) => encoded = Err(error),
            }
        });
        encoded?;
        Ok(served)
    }
}

/// The same scan after a while, for another try: a full disk may have room by then. Without one, never.
async fn later(scan: Option<Scan>) -> Scan {
    match scan {
        Some(scan) => {
            tokio::time::sleep(RETRY).await;
            scan
        }
        None => std::future::pending().await,
    }
}

/// Everything that the author should know, with its place.
fn problems(merged: &Merged, resolution: &Resolution) -> Vec<Problem> {
    let files = merged.problems.iter().map(|problem| Problem {
        place: match problem.position {
            Some(position) => format!("{}:{position}", problem.file),
            None => problem.file.to_string(),
        },
        severity: Severity::Error,
        reason: "FileUnreadable".to_owned(),
        message: problem.message.clone(),
    });
    let findings = resolution.findings.iter().map(|found| {
        let finding = &found.finding;
        let source = merged.sources.get(&found.key).and_then(|sources| sources.first());
        Problem {
            place: source.map_or_else(
                || "(not read)".to_owned(),
                |source| format!("{}:{}", source.file, source.locate(&finding.field)),
            ),
            severity: finding.severity,
            reason: finding.reason.as_str().to_owned(),
            message: format!("{} {}: {}; {}", found.key, finding.field, finding.message, finding.remedy),
        }
    });
    files.chain(findings).collect()
}

/// Says each problem once, when it appears.
fn report_new(before: &[Problem], now: &[Problem]) {
    for problem in now.iter().filter(|problem| !before.contains(problem)) {
        let (place, reason, message) = (&problem.place, &problem.reason, &problem.message);
        match problem.severity {
            Severity::Error => tracing::error!(place, reason, "{message}"),
            Severity::Warning => tracing::warn!(place, reason, "{message}"),
        }
    }
}
