//! What a proxy knows of its cluster, and what it makes of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use kube::api::DynamicObject;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;
use tokio::time::MissedTickBehavior;

use super::intake::{Intake, Step};
use super::lease::Shown;
use super::staleness::{Now, Source, Staleness};
use super::wanted::{Questions, Wanted};
use super::{AT_ONCE, LOOK};
use crate::cluster::Event;
use crate::generated::Collection;
use crate::generated::codec::VERSION;
use crate::generated::report::{LONGEST_TROUBLE, MOST_REFUSED, MOST_TROUBLED, Report};
use crate::issuer::{Clock as _, SystemClock};
use crate::process::readiness::{Check, Readiness};
use crate::proxy::gateway::{Change, Gateway};
use crate::seal::{KeyRing, Sealer};

/// Who denies when the configuration is too old, and the word for it.
const SOURCE: &str = "configuration";
const STALE: &str = "ConfigurationStale";

/// Where the state of the configuration is shown.
pub struct Checks {
    /// Not ready until everything was read, and while it is too old.
    configuration: Check,
    /// What cannot be followed.
    api_server: Check,
    sealing: Check,
    staleness: Gauge,
}

impl Checks {
    /// Names them.
    pub fn register(readiness: &Readiness, registry: &mut Registry) -> Self {
        let staleness = Gauge::default();
        let help = "How old the configuration may be, in seconds; past --max-staleness every call is denied";
        registry.register("configuration_staleness_seconds", help, staleness.clone());
        Self {
            configuration: readiness.check("configuration"),
            api_server: readiness.advisory("api-server"),
            sealing: readiness.advisory("sealing-keys"),
            staleness,
        }
    }
}

impl Shown {
    /// Names the check and the counter.
    pub fn register(readiness: &Readiness, registry: &mut Registry) -> Self {
        let failures = Counter::default();
        registry.register("report_failures", "Failed writes of this proxy's Lease", failures.clone());
        Self { check: readiness.advisory("report"), failures }
    }
}

/// What there is to do.
#[derive(Default)]
pub struct Taken {
    /// What is served.
    pub changes: Vec<Change>,
    /// The sealing keys, if they changed.
    pub keys: Option<KeyRing>,
}

/// What is known of the cluster.
pub struct World {
    secrets: Intake,
    config_maps: Intake,
    heartbeat_read: bool,
    /// Why sources cannot be followed, while they cannot.
    failing: BTreeMap<Source, String>,
    staleness: Staleness,
    limit: Duration,
    stale: bool,
    clock: SystemClock,
    checks: Checks,
    serving: Option<(Arc<Gateway>, Sealer)>,
}

impl World {
    /// Knows nothing yet.
    pub fn new(limit: Duration, checks: Checks) -> Self {
        Self {
            secrets: Intake::new(Collection::Secrets),
            config_maps: Intake::new(Collection::ConfigMaps),
            heartbeat_read: false,
            failing: BTreeMap::new(),
            staleness: Staleness::default(),
            limit,
            stale: false,
            clock: SystemClock::default(),
            checks,
            serving: None,
        }
    }

    /// Says who serves what is taken in.
    pub fn serve_through(&mut self, gateway: Arc<Gateway>, sealer: Sealer) {
        self.serving = Some((gateway, sealer));
    }

    /// Whether everything was read once.
    pub fn has_synced(&self) -> bool {
        self.secrets.has_synced() && self.config_maps.has_synced() && self.heartbeat_read
    }

    /// Shows what is waited for before anything is served.
    pub fn wait_for(&self, has_keys: bool) {
        let mut missing = String::new();
        for (is_there, what) in [
            (self.secrets.has_synced(), "the generated Secrets"),
            (self.config_maps.has_synced(), "the generated ConfigMaps"),
            (self.heartbeat_read, "the controller's heartbeat"),
            (has_keys, "the Secret portcullis-sealing, which the controller makes"),
        ] {
            if !is_there {
                // Writing to a String cannot fail.
                write!(missing, "{}{what}", if missing.is_empty() { "waiting for " } else { ", " }).unwrap_or_default();
            }
        }
        let failing: Vec<&str> = self.failing.values().map(String::as_str).collect();
        if !failing.is_empty() {
            write!(missing, ": {}", failing.join("; ")).unwrap_or_default();
        }
        self.checks.configuration.not_ready("Syncing", missing);
    }

    /// Takes in what is told of a source.
    pub fn take(&mut self, source: Source, event: Event) -> Taken {
        match &event {
            Event::Failed(why) => self.failed(source, why),
            Event::Synced => self.followed(source),
            Event::Put(lease) if source == Source::Heartbeat => self.beat(lease),
            Event::Begun | Event::Put(_) | Event::Gone { .. } => {}
        }
        let step = self.intake(source).and_then(|intake| intake.take(event));
        let mut taken = Taken::default();
        if let Some(step) = step {
            match step {
                Step::Serve(change) => taken.changes.push(change),
                Step::Seal(Ok(keys)) => {
                    self.checks.sealing.ready();
                    taken.keys = Some(keys);
                }
                Step::Seal(Err(why)) => {
                    let message = format!("Secret portcullis-sealing: {why}; the keys known before stay in use");
                    tracing::error!(error = message, "sealing keys cannot be used");
                    self.checks.sealing.not_ready("SealingKeysUnusable", message);
                }
            }
        }
        taken
    }

    fn intake(&mut self, source: Source) -> Option<&mut Intake> {
        match source {
            Source::Secrets => Some(&mut self.secrets),
            Source::ConfigMaps => Some(&mut self.config_maps),
            Source::Heartbeat => None,
        }
    }

    fn failed(&mut self, source: Source, why: &str) {
        if !self.failing.contains_key(&source) {
            tracing::warn!(source = what(source), error = why, "cannot be followed; calls go on");
        }
        self.failing.insert(source, why.to_owned());
        self.staleness.failed(source, self.now());
        self.show_failing();
    }

    fn followed(&mut self, source: Source) {
        if self.failing.remove(&source).is_some() {
            tracing::info!(source = what(source), "followed again");
        }
        self.heartbeat_read |= source == Source::Heartbeat;
        self.staleness.followed(source);
        self.show_failing();
    }

    fn show_failing(&self) {
        if self.failing.is_empty() {
            return self.checks.api_server.ready();
        }
        let said: Vec<String> = self.failing.iter().map(|(source, why)| format!("{}: {why}", what(*source))).collect();
        self.checks.api_server.not_ready("NotFollowed", said.join("\n"));
    }

    fn beat(&mut self, lease: &DynamicObject) {
        let renewed = lease.data.get("spec").and_then(|spec| spec.get("renewTime")).and_then(|time| time.as_str());
        let renewed = renewed.and_then(|time| time.parse::<jiff::Timestamp>().ok());
        if let Some(renewed) = renewed {
            self.staleness.beat(renewed.as_microsecond(), self.now());
        }
    }

    fn now(&self) -> Now {
        Now { unix: self.clock.unix(), monotonic: self.clock.monotonic() }
    }

    /// Has a batch served, and what follows from the configuration's age with it: it passed the limit, either way.
    ///
    /// # Errors
    /// If it could not be: then nobody knows what is served, and nothing may be reported.
    pub async fn apply(&mut self, mut changes: Vec<Change>) -> Result<(), JoinError> {
        let age = self.staleness.age(self.now());
        let stale = age > self.limit;
        if stale && !self.stale {
            tracing::error!(age = age.as_secs(), "the configuration is too old: every call is denied");
            changes.push(Change::DenyAll { source: SOURCE, reason: STALE });
        } else if self.stale && !stale {
            tracing::info!("the configuration is current again");
            changes.push(Change::Clear { source: SOURCE });
        }
        self.stale = stale;
        let Some((gateway, _)) = self.serving.as_ref().filter(|_| !changes.is_empty()) else { return Ok(()) };
        let gateway = gateway.clone();
        // Compiles what changed.
        tokio::task::spawn_blocking(move || gateway.apply(changes)).await
    }

    /// Shows how old what is served may be. Only now: whoever sees that the proxy is ready calls at once.
    fn show(&self) {
        let age = self.staleness.age(self.now()).as_secs();
        self.checks.staleness.set(i64::try_from(age).unwrap_or(i64::MAX));
        if !self.stale {
            return self.checks.configuration.ready();
        }
        let limit = self.limit.as_secs();
        let message = format!(
            "the configuration may be {age} s old, more than the {limit} s of --max-staleness, so every call is denied: see \
             whether the controller runs and this proxy reaches the API server"
        );
        self.checks.configuration.not_ready(STALE, message);
    }

    /// What is run now. To be asked after what was taken in is applied.
    pub fn report(&self, questions: &Questions) -> Report {
        let applied = [(Collection::Secrets, &self.secrets), (Collection::ConfigMaps, &self.config_maps)];
        let applied = applied.into_iter().filter_map(|(of, intake)| Some((of, intake.applied()?)));
        let mut report = Report {
            reads: VERSION,
            applied: applied.collect(),
            stale: self.stale,
            wanted: questions.clone(),
            ..Report::default()
        };
        if let Some((gateway, _)) = &self.serving {
            let snapshot = gateway.snapshot();
            for trouble in snapshot.troubles().filter(|trouble| trouble.refused) {
                if report.refused.len() == MOST_REFUSED {
                    report.more_refused = true;
                    break;
                }
                report.refused.insert(trouble.id.uid.clone(), trouble.reason.clone());
            }
            for (uid, trouble) in snapshot.upstream_troubles().take(MOST_TROUBLED) {
                let words = [trouble.reason(), trouble.words()].join(" ");
                report.troubled.insert(uid.to_owned(), words.trim_end().chars().take(LONGEST_TROUBLE).collect());
            }
        }
        report
    }

    /// Follows what is told, until nothing is told any more or it cannot be applied.
    pub async fn follow(
        mut self,
        mut told: mpsc::Receiver<(Source, Event)>,
        wanted: Arc<Wanted>,
        report: watch::Sender<Report>,
    ) {
        let mut questions = wanted.questions();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut events = Vec::new();
            tokio::select! {
                _ = look.tick() => wanted.tidy(),
                Ok(()) = questions.changed() => {}
                count = told.recv_many(&mut events, AT_ONCE) => if count == 0 { return },
            }
            let mut changes = Vec::new();
            for (source, event) in events {
                let taken = self.take(source, event);
                changes.extend(taken.changes);
                if let (Some(keys), Some((_, sealer))) = (taken.keys, &self.serving) {
                    sealer.rotate(keys);
                    tracing::info!("sealing keys were rotated");
                }
            }
            if let Err(error) = self.apply(changes).await {
                tracing::error!(%error, "changes could not be applied");
                return;
            }
            self.show();
            let now = self.report(&questions.borrow_and_update());
            report.send_if_modified(|known| {
                let changed = *known != now;
                *known = now;
                changed
            });
        }
    }
}

fn what(source: Source) -> &'static str {
    match source {
        Source::Secrets => "Secrets",
        Source::ConfigMaps => "ConfigMaps",
        Source::Heartbeat => "heartbeat",
    }
}
