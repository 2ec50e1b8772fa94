//! The proxies, by what they say in their Leases, and what follows for an object: whether all of them enforce it.
//!
//! Invariant: an object counts as enforced only if every proxy that could be serving says so. One that has fallen silent
//! could still be serving what it had, and counts against until its Pod is gone or until it has denied everything
//! itself for want of news (`maxStaleness`). One that has not read everything once does not serve yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::generated::report::{Enforces, LEASE_PREFIX, LONGEST_KEY_ID, LONGEST_TROUBLE, MOST_WANTED, REPORT, Report};
use crate::generated::{Collection, Kind};

/// How many proxies a message names.
const MOST_NAMED: usize = 3;
/// How long a Lease that does not say otherwise holds, and how long one may say that it does: a Pod that was taken over must
/// not be believed to be heard for years.
const USUAL_DURATION: Duration = Duration::from_secs(30);
const LONGEST_DURATION: Duration = Duration::from_secs(60);

/// Whether a proxy is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    /// It renews its Lease.
    Heard,
    /// It does not, and could be serving.
    Silent,
    /// It does not, and serves nothing any more.
    Gone,
}

#[derive(Debug)]
struct Proxy {
    report: Report,
    renewed: String,
    /// When its Lease last changed, by our own clock.
    since: Duration,
    lasts: Duration,
    voice: Voice,
}

/// What changed for objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Nothing,
    /// A proxy has caught up: objects of the collection with versions in `after..=upto`.
    CaughtUp(Vec<(Collection, u64, u64)>),
    /// What a proxy says of these servers' upstreams, by UID.
    Troubled(Vec<String>),
    /// Anything.
    Everything,
}

/// What proxies make of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Programming {
    /// There is no proxy.
    NoProxies,
    /// All run it: how many.
    Everywhere(usize),
    /// Some have not said so yet. Who is not said: every proxy that catches up would be a write more.
    Waiting,
    /// Some are not heard: who.
    Silent(String),
    /// One could not load it, and denies what it governs.
    Refused {
        /// Which proxy.
        proxy: String,
        /// A stable word.
        reason: String,
    },
}

/// All proxies, by the names of their Pods.
#[derive(Debug)]
pub struct Proxies {
    proxies: BTreeMap<String, Proxy>,
    pods: BTreeSet<String>,
    max_staleness: Duration,
}

impl Proxies {
    /// None is known. `max_staleness` is when proxies deny everything for want of news.
    pub fn new(max_staleness: Duration) -> Self {
        Self { proxies: BTreeMap::new(), pods: BTreeSet::new(), max_staleness }
    }

    /// A proxy's Lease, by its name, as it is now.
    pub fn lease(&mut self, name: &str, lease: &Value, now: Duration) -> Change {
        let Some(pod) = name.strip_prefix(LEASE_PREFIX) else { return Change::Nothing };
        let annotation = lease.pointer("/metadata/annotations").and_then(|all| all.get(REPORT)).and_then(Value::as_str);
        // What cannot be read claims nothing.
        let report: Report = annotation.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let text = |pointer| lease.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let renewed = text("/spec/renewTime");
        let lasts = lease.pointer("/spec/leaseDurationSeconds").and_then(Value::as_u64);
        let lasts = lasts.map_or(USUAL_DURATION, Duration::from_secs).min(LONGEST_DURATION);
        let Some(proxy) = self.proxies.get_mut(pod) else {
            let counts = serves(&report);
            let proxy = Proxy { report, renewed, since: now, lasts, voice: Voice::Heard };
            self.proxies.insert(pod.to_owned(), proxy);
            return if counts { Change::Everything } else { Change::Nothing };
        };
        let was = (serves(&proxy.report) && proxy.voice != Voice::Gone, proxy.voice);
        if proxy.renewed != renewed {
            (proxy.renewed, proxy.since, proxy.voice) = (renewed, now, Voice::Heard);
        }
        proxy.lasts = lasts;
        let earlier = std::mem::replace(&mut proxy.report, report);
        let now_is = (serves(&proxy.report) && proxy.voice != Voice::Gone, proxy.voice);
        if was != now_is || !same_but_versions(&earlier, &proxy.report) {
            Change::Everything
        } else {
            match (caught_up(&earlier, &proxy.report), troubled(&earlier, &proxy.report)) {
                (change, Change::Nothing) | (Change::Nothing, change) => change,
                (_, _) => Change::Everything,
            }
        }
    }

    /// What a proxy says of how a server's upstream is called: a stable word, and the scopes that are missing or the code that the
    /// issuer said. What it says is taken for no more than words.
    pub fn trouble(&self, uid: &str) -> Option<(String, String)> {
        let (_, said) = self.counted().find_map(|(pod, proxy)| Some((pod, proxy.report.troubled.get(uid)?)))?;
        let (reason, scopes) = said.split_once(' ').unwrap_or((said, ""));
        let reason: String = reason.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
        let is_plain = |c: &char| c.is_ascii_graphic() || *c == ' ';
        Some((reason, scopes.chars().filter(is_plain).take(LONGEST_TROUBLE).collect()))
    }

    /// A proxy's Lease is gone.
    pub fn lease_gone(&mut self, name: &str) -> Change {
        let known = name.strip_prefix(LEASE_PREFIX).and_then(|pod| self.proxies.remove(pod));
        if known.is_some() { Change::Everything } else { Change::Nothing }
    }

    /// A Pod of the gateway namespace is there.
    pub fn pod(&mut self, name: &str, ended: bool) {
        if ended {
            self.pods.remove(name);
        } else {
            self.pods.insert(name.to_owned());
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) -> Change {
        let mut change = Change::Nothing;
        for (pod, proxy) in &mut self.proxies {
            let silence = now.saturating_sub(proxy.since);
            let voice = if silence <= proxy.lasts {
                Voice::Heard
            } else if silence > self.max_staleness || !self.pods.contains(pod) {
                Voice::Gone
            } else {
                Voice::Silent
            };
            if voice != proxy.voice {
                proxy.voice = voice;
                change = Change::Everything;
            }
        }
        change
    }

    /// Leases that nobody renews any more.
    pub fn abandoned(&self) -> Vec<String> {
        let gone = self.proxies.iter().filter(|(_, proxy)| proxy.voice == Voice::Gone);
        gone.map(|(pod, _)| format!("{LEASE_PREFIX}{pod}")).collect()
    }

    /// Keys that tokens name and authorities lack: authority and key id.
    pub fn wanted(&self, name: &str) -> Vec<(String, String)> {
        let proxy = name.strip_prefix(LEASE_PREFIX).and_then(|pod| self.proxies.get(pod));
        let wanted = proxy.into_iter().flat_map(|proxy| &proxy.report.wanted);
        // A report is believed no further than one of ours goes.
        let wanted = wanted.take(MOST_WANTED).filter(|(_, kid)| kid.len() <= LONGEST_KEY_ID);
        wanted.map(|(authority, kid)| (authority.clone(), kid.clone())).collect()
    }

    /// For how long the proxy has been silent that has been so the longest.
    pub fn longest_silence(&self, now: Duration) -> Duration {
        let counted = self.proxies.values().filter(|proxy| proxy.voice != Voice::Gone);
        counted.map(|proxy| now.saturating_sub(proxy.since)).max().unwrap_or_default()
    }

    /// How many proxies could be serving.
    pub fn len(&self) -> usize {
        self.counted().count()
    }

    /// Whether no proxy could be serving.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What they make of the object of this kind and source, written at `version` of its collection.
    pub fn programming(&self, uid: &str, kind: Kind, version: u64) -> Programming {
        let (mut waiting, mut silent, mut running) = (false, Vec::new(), 0);
        for (pod, proxy) in self.counted() {
            if proxy.voice == Voice::Silent {
                silent.push(pod);
                continue;
            }
            match proxy.report.enforces(uid, kind, version) {
                Enforces::Yes => running += 1,
                Enforces::Refused(reason) => return Programming::Refused { proxy: pod.clone(), reason },
                Enforces::NotYet | Enforces::Unknown => waiting = true,
            }
        }
        match (silent.is_empty(), waiting, running) {
            (false, ..) => Programming::Silent(named(&silent)),
            (true, true, _) => Programming::Waiting,
            (true, false, 0) => Programming::NoProxies,
            (true, false, running) => Programming::Everywhere(running),
        }
    }

    fn counted(&self) -> impl Iterator<Item = (&String, &Proxy)> {
        self.proxies.iter().filter(|(_, proxy)| proxy.voice != Voice::Gone && serves(&proxy.report))
    }
}

/// Whether a proxy has read everything once: before that it serves nobody.
fn serves(report: &Report) -> bool {
    [Collection::Secrets, Collection::ConfigMaps].iter().all(|collection| report.applied.contains_key(collection))
}

fn same_but_versions(a: &Report, b: &Report) -> bool {
    (a.reads, &a.refused, a.more_refused, a.stale) == (b.reads, &b.refused, b.more_refused, b.stale)
}

/// The servers of which something else is said now.
fn troubled(earlier: &Report, later: &Report) -> Change {
    let (was, is) = (&earlier.troubled, &later.troubled);
    let differs = |uid: &&String| was.get(*uid) != is.get(*uid);
    let uids: BTreeSet<&String> = was.keys().chain(is.keys()).filter(differs).collect();
    if uids.is_empty() { Change::Nothing } else { Change::Troubled(uids.into_iter().cloned().collect()) }
}

fn caught_up(earlier: &Report, later: &Report) -> Change {
    let moved = later.applied.iter().filter_map(|(collection, upto)| {
        let after = earlier.applied.get(collection).copied().unwrap_or_default();
        (after < *upto).then_some((*collection, after, *upto))
    });
    let moved: Vec<_> = moved.collect();
    let back = earlier.applied.iter().any(|(collection, was)| later.applied.get(collection).is_none_or(|is| is < was));
    match (back, moved.is_empty()) {
        (true, _) => Change::Everything,
        (false, true) => Change::Nothing,
        (false, false) => Change::CaughtUp(moved),
    }
}

fn named(pods: &[&String]) -> String {
    let mut names: Vec<String> = pods.iter().take(MOST_NAMED).map(|pod| (*pod).clone()).collect();
    if pods.len() > MOST_NAMED {
        names.push(format!("{} more", pods.len() - MOST_NAMED));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn lease(renewed: &str, report: &Value) -> Value {
        json!({"metadata": {"annotations": {REPORT: report.to_string()}},
            "spec": {"renewTime": renewed, "leaseDurationSeconds": 30}})
    }

    fn applied(secrets: u64, config_maps: u64) -> Value {
        json!({"reads": 1, "applied": {"Secrets": secrets, "ConfigMaps": config_maps}})
    }

    #[test]
    fn an_object_is_enforced_when_every_proxy_that_could_be_serving_says_so() {
        let mut proxies = Proxies::new(seconds(3600));
        let said = |proxies: &Proxies| proxies.programming("u", Kind::Server, 7);
        assert_eq!(said(&proxies), Programming::NoProxies);
        assert_eq!(proxies.lease("proxy-a", &lease("1", &json!({"reads": 1})), seconds(0)), Change::Nothing);
        assert_eq!(said(&proxies), Programming::NoProxies, "it has read nothing, so it serves nobody");
        assert_eq!(proxies.lease("proxy-a", &lease("1", &applied(6, 1)), seconds(0)), Change::Everything);
        assert_eq!(said(&proxies), Programming::Waiting);
        let moved = Change::CaughtUp(vec![(Collection::Secrets, 6, 7)]);
        assert_eq!(proxies.lease("proxy-a", &lease("1", &applied(7, 1)), seconds(0)), moved);
        assert_eq!(said(&proxies), Programming::Everywhere(1));
        assert_eq!(proxies.lease("proxy-b", &lease("1", &applied(5, 1)), seconds(0)), Change::Everything);
        assert_eq!(said(&proxies), Programming::Waiting);
        let mut refusing = applied(8, 1);
        refusing["refused"] = json!({"u": "GeneratedMalformed"});
        assert_eq!(proxies.lease("proxy-b", &lease("2", &refusing), seconds(0)), Change::Everything);
        let refused = Programming::Refused { proxy: "b".into(), reason: "GeneratedMalformed".into() };
        assert_eq!(said(&proxies), refused);
        assert_eq!(proxies.lease("proxy-b", &lease("3", &applied(8, 1)), seconds(0)), Change::Everything);
        assert_eq!(said(&proxies), Programming::Everywhere(2));
        assert_eq!(
            proxies.lease("proxy-b", &lease("4", &applied(3, 1)), seconds(0)),
            Change::Everything,
            "it began anew"
        );
        assert_eq!(proxies.lease_gone("proxy-b"), Change::Everything);
        assert_eq!(said(&proxies), Programming::Everywhere(1));
        assert_eq!(proxies.lease("another", &lease("1", &applied(1, 1)), seconds(0)), Change::Nothing);
    }

    #[test]
    fn what_proxies_say_of_upstreams_touches_those_servers_alone_and_is_no_more_than_words() {
        let mut proxies = Proxies::new(seconds(3600));
        proxies.lease("proxy-a", &lease("1", &applied(1, 1)), seconds(0));
        let saying = |troubled: Value| {
            let mut report = applied(1, 1);
            report["troubled"] = troubled;
            lease("1", &report)
        };
        let lacking = json!({"u": "UpstreamScopesLacking files:write \u{202e}admin\n", "v": "UpstreamTokenRefused"});
        let both = Change::Troubled(vec!["u".into(), "v".into()]);
        assert_eq!(proxies.lease("proxy-a", &saying(lacking.clone()), seconds(0)), both);
        assert_eq!(proxies.lease("proxy-a", &saying(lacking), seconds(0)), Change::Nothing);
        let said = |uid: &str| proxies.trouble(uid).map(|(word, scopes)| format!("{word}|{scopes}"));
        assert_eq!(said("u").unwrap(), "UpstreamScopesLacking|files:write admin");
        assert_eq!((said("v").unwrap(), said("w")), ("UpstreamTokenRefused|".to_owned(), None));
        let one = json!({"u": "UpstreamScopesLacking files:write \u{202e}admin\n"});
        assert_eq!(proxies.lease("proxy-a", &saying(one), seconds(0)), Change::Troubled(vec!["v".into()]));
    }

    #[test]
    fn a_silent_proxy_counts_against_until_its_pod_is_gone_or_it_denies_by_itself() {
        let mut proxies = Proxies::new(seconds(100));
        let said = |proxies: &Proxies| proxies.programming("u", Kind::Server, 1);
        for name in ["proxy-a", "proxy-b"] {
            proxies.lease(name, &lease("1", &applied(9, 9)), seconds(0));
        }
        proxies.pod("a", false);
        proxies.pod("b", false);
        proxies.lease("proxy-a", &lease("2", &applied(9, 9)), seconds(20));
        assert_eq!(proxies.tick(seconds(30)), Change::Nothing);
        assert_eq!(proxies.tick(seconds(31)), Change::Everything);
        assert_eq!(said(&proxies), Programming::Silent("b".into()));
        assert_eq!(proxies.longest_silence(seconds(31)), seconds(31));
        // Its Pod goes.
        proxies.pod("b", true);
        assert_eq!(proxies.tick(seconds(32)), Change::Everything);
        assert_eq!(said(&proxies), Programming::Everywhere(1));
        assert_eq!(proxies.abandoned(), ["proxy-b"]);
        // The other falls silent too; it comes back, falls silent again, and is too old to serve anything.
        assert_eq!(proxies.tick(seconds(51)), Change::Everything);
        assert_eq!(said(&proxies), Programming::Silent("a".into()));
        assert_eq!(proxies.lease("proxy-a", &lease("3", &applied(9, 9)), seconds(52)), Change::Everything);
        assert_eq!(said(&proxies), Programming::Everywhere(1));
        assert_eq!(proxies.tick(seconds(153)), Change::Everything);
        assert!(proxies.is_empty());
        assert_eq!(said(&proxies), Programming::NoProxies);
    }

    #[test]
    fn a_report_is_believed_no_further_than_one_of_ours_goes() {
        let mut proxies = Proxies::new(seconds(3600));
        let kids = |count: usize| {
            (0..count).map(|n| (format!("authority-{n}"), json!("k"))).collect::<serde_json::Map<_, _>>()
        };
        let mut report = applied(1, 1);
        report["wanted"] = kids(10 * MOST_WANTED).into();
        report["wanted"]["authority-0"] = json!("k".repeat(LONGEST_KEY_ID + 1));
        let mut endless = lease("1", &report);
        endless["spec"]["leaseDurationSeconds"] = json!(2_147_483_647);
        proxies.pod("a", false);
        proxies.lease("proxy-a", &endless, seconds(0));
        assert_eq!(proxies.wanted("proxy-a").len(), MOST_WANTED - 1);
        proxies.pod("a", true);
        proxies.tick(seconds(61));
        assert_eq!(proxies.abandoned(), ["proxy-a"]);
    }

    #[test]
    fn what_cannot_be_read_claims_nothing() {
        let mut proxies = Proxies::new(seconds(100));
        let broken = json!({"metadata": {"annotations": {REPORT: "{"}}, "spec": {}});
        assert_eq!(proxies.lease("proxy-a", &broken, seconds(0)), Change::Nothing);
        assert!(proxies.is_empty() && proxies.wanted("proxy-a").is_empty());
        let mut wanting = applied(1, 1);
        wanting["wanted"] = json!({"corp": "k1"});
        proxies.lease("proxy-a", &lease("1", &wanting), seconds(0));
        assert_eq!(proxies.wanted("proxy-a"), [("corp".to_owned(), "k1".to_owned())]);
        assert_eq!(proxies.wanted("proxy-b"), []);
    }
}
