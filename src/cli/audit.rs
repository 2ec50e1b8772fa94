//! `portcullis audit`: what happened, and whether the record of it is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{ArgMatches, Command, FromArgMatches, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::output::{self, Format, Said, Tone, counted, filled, printable, progress_of};
use super::token::duration;
use super::{boolish, place};
use crate::audit::query::{Call, Filter, Tail, query};
use crate::audit::verify::{Completeness, Expectation, Report, verify};
use crate::audit::{DECISION, Entry};
use crate::journal::Checkpoint;

/// How often a followed journal is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How many findings a person is shown; JSON and YAML have all.
const SHOWN: usize = 20;

/// Verify, query and follow the audit journal
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Verify(Verify),
    Query(Query),
    Tail(Follow),
    Checkpoint(Anchor),
}

/// Check the journal's hash chain, checkpoints and completeness
///
/// Names the first record that is damaged, missing, rewritten or there twice. Exit code 0: the journal holds; 1: it does
/// not; 2: there is none, or it cannot be read.
#[derive(clap::Args, Debug)]
struct Verify {
    #[command(flatten)]
    journal: Journal,
    /// A checkpoint that was kept elsewhere: proves that nothing up to it was cut off or rolled back
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_ANCHOR")]
    anchor: Option<PathBuf>,
    /// The journal's public key, base64url, as a checkpoint shows it: proves who signed
    #[arg(long, value_name = "KEY", env = "PORTCULLIS_PUBLIC_KEY", value_parser = public_key)]
    public_key: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    output: Format,
}

/// Find calls, the newest last
///
/// Exit code 0: some were found; 1: none; 2: the journal cannot be read.
#[derive(clap::Args, Debug)]
struct Query {
    #[command(flatten)]
    journal: Journal,
    #[command(flatten)]
    wanted: Wanted,
    /// At most so many calls, the newest
    #[arg(long, value_name = "N", default_value_t = 100, env = "PORTCULLIS_LIMIT")]
    limit: usize,
    /// How to print; JSON and YAML hold the whole records
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    output: Format,
}

/// Follow the journal until Ctrl-C
#[derive(clap::Args, Debug)]
struct Follow {
    #[command(flatten)]
    journal: Journal,
    #[command(flatten)]
    wanted: Wanted,
    /// Begin with the oldest record
    #[arg(long, env = "PORTCULLIS_FROM_START", value_parser = boolish())]
    from_start: bool,
    /// How to print: whole records with `json`, one a line, and with `yaml`, one a document
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    output: Format,
}

/// Print the latest signed checkpoint, to be kept elsewhere as an anchor
///
/// It is one line of JSON. Exit code 2: there is none yet.
#[derive(clap::Args, Debug)]
struct Anchor {
    #[command(flatten)]
    journal: Journal,
}

/// Which journal, as typed.
#[derive(clap::Args, Debug)]
#[group(skip)]
struct Typed {
    /// The folder of a quickstart: its manifests and its state
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_DIR")]
    dir: Option<PathBuf>,
    /// The gateway's own folder
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// The journal's folder, wherever it was copied to [default: the one in the state folder]
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_JOURNAL")]
    journal: Option<PathBuf>,
}

/// Which journal.
#[derive(Debug)]
struct Journal(Typed);

impl FromArgMatches for Journal {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let Typed { dir, state_dir, journal } = Typed::from_arg_matches(matches)?;
        Ok(Self(match place::chosen(matches, &[&["dir"], &["state_dir"], &["journal"]])? {
            Some(0) => Typed { dir, state_dir: None, journal: None },
            Some(1) => Typed { dir: None, state_dir, journal: None },
            _ => Typed { dir: None, state_dir: None, journal },
        }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Journal {
    fn augment_args(command: Command) -> Command {
        Typed::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Typed::augment_args_for_update(command)
    }
}

impl Journal {
    fn dir(&self) -> anyhow::Result<PathBuf> {
        let dir = match &self.0.journal {
            Some(dir) => dir.clone(),
            None => place::state(self.0.dir.as_deref(), self.0.state_dir.as_deref())?.join("journal"),
        };
        let found = fs::metadata(&dir).with_context(|| format!("cannot read the journal {}", dir.display()))?;
        if !found.is_dir() {
            bail!("{} is no folder: name the folder that holds the journal's files", dir.display());
        }
        Ok(dir)
    }
}

/// Which calls.
#[derive(clap::Args, Debug)]
struct Wanted {
    /// Of this person, client or service account
    #[arg(long = "user", value_name = "SUBJECT", env = "PORTCULLIS_USER")]
    user: Option<String>,
    /// Through this client
    #[arg(long, value_name = "ID", env = "PORTCULLIS_CLIENT")]
    client: Option<String>,
    /// Of this tool
    #[arg(long, value_name = "TOOL", env = "PORTCULLIS_TOOL")]
    tool: Option<String>,
    /// To this server; the namespace may be left out
    #[arg(long, value_name = "NAMESPACE/NAME", env = "PORTCULLIS_SERVER")]
    server: Option<String>,
    /// With this decision
    #[arg(long, value_parser = ["allow", "deny", "require_approval"], env = "PORTCULLIS_DECISION")]
    decision: Option<String>,
    /// With this outcome
    #[arg(
        long,
        value_parser = ["result", "tool_error", "error", "denied", "disconnected", "unknown", "none"],
        env = "PORTCULLIS_OUTCOME"
    )]
    outcome: Option<String>,
    /// Since a time (RFC 3339), or for so long: 30m, 8h, 7d
    #[arg(long, value_name = "TIME", value_parser = moment, env = "PORTCULLIS_SINCE")]
    since: Option<u64>,
    /// Until a time, in the same forms
    #[arg(long, value_name = "TIME", value_parser = moment, env = "PORTCULLIS_UNTIL")]
    until: Option<u64>,
    /// Every event: also changes of configuration, failed authentications, starts and stops
    #[arg(long, env = "PORTCULLIS_ALL", value_parser = boolish())]
    all: bool,
}

impl Wanted {
    fn filter(&self) -> Filter {
        Filter {
            principal: self.user.clone(),
            client: self.client.clone(),
            target: self.tool.clone(),
            server: self.server.clone(),
            decision: self.decision.clone(),
            outcome: self.outcome.clone(),
            event: (!self.all).then(|| DECISION.to_owned()),
            since_unix_ms: self.since,
            until_unix_ms: self.until,
        }
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Verify(args) => check(&args),
        Verb::Query(args) => find(&args),
        Verb::Tail(args) => follow(&args),
        Verb::Checkpoint(args) => checkpoint(&args),
    }
}

fn check(args: &Verify) -> anyhow::Result<ExitCode> {
    let anchor = args.anchor.as_ref().map(|path| {
        let bytes = fs::read(path).with_context(|| format!("cannot read the anchor {}", path.display()))?;
        Checkpoint::parse(&bytes).with_context(|| format!("{} is no checkpoint", path.display()))
    });
    let expectation = Expectation { anchor: anchor.transpose()?, public_key: args.public_key.clone() };
    let dir = args.journal.dir()?;
    let given = expectation.anchor.clone();
    let work = (dir.clone(), expectation);
    let report = progress_of(format!("reading {}", dir.display()), move || verify(&work.0, &work.1))??;
    if report.segments == 0 && report.holds() {
        bail!("{} holds no segment of a journal: nothing to verify; is it the right folder?", dir.display());
    }
    let mut verdict = Verdict::of(&report);
    if let Some(anchor) = &given {
        verdict.wants_anchor = false;
        verdict.other_key = other_key(anchor, &dir).filter(|_| !verdict.holds);
    }
    output::print(args.output, &verdict, verdict_text)?;
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The keys of the anchor and of the journal's own latest checkpoint, if they are two.
fn other_key(anchor: &Checkpoint, journal: &Path) -> Option<[String; 2]> {
    let own = Checkpoint::parse(&fs::read(journal.join("anchor.json")).ok()?).ok()?;
    (own.key != anchor.key).then(|| [anchor.key.clone(), own.key])
}

/// A report, ready to be printed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    holds: bool,
    completeness: String,
    /// Whether an anchor would prove more, and none was given.
    #[serde(skip)]
    wants_anchor: bool,
    /// The anchor's key and the journal's, where they differ: then each finding says that and no more.
    #[serde(skip)]
    other_key: Option<[String; 2]>,
    journal: Option<String>,
    segments: u64,
    records: u64,
    checkpoints: u64,
    last_record: Option<u64>,
    decisions: u64,
    completions: u64,
    decisions_without_completion: u64,
    findings: Vec<Found>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Found {
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn of(report: &Report) -> Self {
        let found = report.findings.iter();
        Self {
            holds: report.holds(),
            completeness: report.completeness.to_string(),
            wants_anchor: report.completeness == Completeness::NotProven,
            other_key: None,
            journal: report.instance.clone(),
            segments: report.segments,
            records: report.records,
            checkpoints: report.checkpoints,
            last_record: report.last_seq,
            decisions: report.decisions,
            completions: report.completions,
            decisions_without_completion: report.decisions_without_completion,
            findings: found.map(|finding| Found { reason: finding.reason(), message: finding.to_string() }).collect(),
            notes: report.notes.iter().map(ToString::to_string).collect(),
        }
    }
}

fn verdict_text(verdict: &Verdict) -> String {
    if let Some([anchor, journal]) = &verdict.other_key {
        return format!(
            "The journal does NOT hold against this anchor: the anchor's key is {anchor}, this journal's is {journal}. Is \
             the anchor of another gateway, or was the state folder made anew?"
        );
    }
    let mut lines = Vec::new();
    match verdict.findings.split_first() {
        None => lines.push("The journal holds.".to_owned()),
        Some((first, rest)) => {
            lines.push(format!("The journal does NOT hold: {} ({})", first.message, first.reason));
            let also =
                rest.iter().take(SHOWN).map(|finding| format!("  also: {} ({})", finding.message, finding.reason));
            lines.extend(also);
            if let Some(more) = rest.len().checked_sub(SHOWN).filter(|more| *more > 0) {
                lines.push(format!("  and {more} more: -o json has them all"));
            }
        }
    }
    let mut completeness = verdict.completeness.clone();
    if let Some(first) = completeness.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let remedy = match verdict.wants_anchor {
        false => "",
        true => " Keep what `audit checkpoint` prints elsewhere, and give it with --anchor.",
    };
    lines.push(format!("{completeness}.{remedy}"));
    let many = |n: u64, one: &str| counted(usize::try_from(n).unwrap_or(usize::MAX), one);
    lines.push(format!(
        "{} in {}, {}; {}, {}, {} without one.",
        many(verdict.records, "record"),
        many(verdict.segments, "segment"),
        many(verdict.checkpoints, "checkpoint"),
        many(verdict.decisions, "decision"),
        many(verdict.completions, "completion"),
        many(verdict.decisions_without_completion, "decision"),
    ));
    lines.extend(verdict.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}

fn find(args: &Query) -> anyhow::Result<ExitCode> {
    let (dir, filter, limit) = (args.journal.dir()?, args.wanted.filter(), args.limit);
    let answer = progress_of(format!("reading {}", dir.display()), move || query(&dir, &filter, limit))??;
    for place in &answer.unreadable {
        eprintln!("warning: {place}");
    }
    if answer.truncated {
        eprintln!("note: older calls match too; ask for more with --limit");
    }
    match args.output {
        Format::Table => output::print(Format::Table, &(), |()| calls(&answer.calls))?,
        format => {
            let records: Vec<BTreeMap<&str, serde_json::Value>> = answer
                .calls
                .iter()
                .map(|call| {
                    let parts = [("record", Some(&call.entry)), ("completion", call.completion.as_ref())];
                    let known = parts.into_iter().filter_map(|(name, entry)| Some((name, whole(entry?))));
                    known.collect()
                })
                .collect();
            output::print(format, &records, |_| String::new())?;
        }
    }
    Ok(if answer.calls.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn whole(entry: &Entry) -> serde_json::Value {
    serde_json::from_str(&entry.json).unwrap_or_else(|_| serde_json::Value::String(entry.json.clone()))
}

/// Calls as a table: who, what, what was decided by which rule, and how it ended.
pub fn calls(calls: &[Call]) -> String {
    if calls.is_empty() {
        return "no records match".to_owned();
    }
    // One server, or one day, for all is no news on every line.
    let days: BTreeSet<&str> = calls.iter().filter_map(|call| call.entry.fields.time.get(..10)).collect();
    let day = days.first().copied().filter(|_| days.len() == 1);
    let servers: BTreeSet<String> = calls.iter().map(|call| server(&call.entry)).collect();
    let rows: Vec<Vec<Said>> = calls
        .iter()
        .map(|Call { entry, completion }| {
            let end = completion.as_ref().map(|end| &end.fields);
            let outcome = end.and_then(|end| end.outcome.clone()).unwrap_or_default();
            let ms = end.and_then(|end| end.duration_us).map(|us| format!("{}.{}", us / 1000, us % 1000 / 100));
            vec![
                (to_the_second(&entry.fields.time, day), Tone::Faint),
                (who(entry), Tone::Plain),
                (asked(entry), Tone::Plain),
                (if servers.len() > 1 { server(entry) } else { String::new() }, Tone::Plain),
                decided(entry),
                (by(entry), Tone::Plain),
                (outcome, Tone::Plain),
                (ms.unwrap_or_default(), Tone::Faint),
            ]
        })
        .collect();
    let head = [day.unwrap_or("time"), "who", "what", "server", "decision", "by", "outcome", "ms"];
    filled(&head, &["server", "by"], &rows).to_string()
}

/// The same in fewer columns, for calls of one server and one moment.
pub fn calls_in_brief(calls: &[Call]) -> String {
    let rows: Vec<Vec<Said>> = calls
        .iter()
        .map(|Call { entry, completion }| {
            let outcome = completion.as_ref().and_then(|end| end.fields.outcome.clone()).unwrap_or_default();
            vec![
                (to_the_second(&entry.fields.time, entry.fields.time.get(..10)), Tone::Faint),
                (who(entry), Tone::Plain),
                (target(entry), Tone::Plain),
                decided(entry),
                (by(entry), Tone::Plain),
                (outcome, Tone::Plain),
            ]
        })
        .collect();
    filled(&["time", "who", "tool", "decision", "by", "outcome"], &["by"], &rows).to_string()
}

/// RFC 3339 without fractions, and without the day that all have in common.
fn to_the_second(time: &str, day: Option<&str>) -> String {
    let from = day.map_or(0, |day| day.len() + 1);
    time.get(from..19).map_or_else(|| time.to_owned(), |seconds| format!("{seconds}Z"))
}

fn decided(entry: &Entry) -> Said {
    let decision = entry.fields.decision.as_deref().unwrap_or_default();
    let tone = match decision {
        "allow" => Tone::Good,
        "deny" => Tone::Bad,
        _ => Tone::Caution,
    };
    (decision.to_owned(), tone)
}

/// The tool of a call; for other requests, the method.
fn asked(entry: &Entry) -> String {
    let target = target(entry);
    match entry.fields.method.as_deref() {
        Some("tools/call") | None => target,
        Some(method) => format!("{method} {target}").trim().to_owned(),
    }
}

fn server(entry: &Entry) -> String {
    let fields = &entry.fields;
    let parts = [&fields.server_namespace, &fields.server_name].map(|part| part.as_deref().unwrap_or_default());
    let name = parts.join("/").trim_matches('/').to_owned();
    if name.is_empty() { member(&whole(entry), "portcullis.server") } else { name }
}

/// The caller; of failed authentications, where they came from.
fn who(entry: &Entry) -> String {
    entry.fields.subject.clone().unwrap_or_else(|| member(&whole(entry), "client.address.prefix"))
}

fn member(record: &serde_json::Value, name: &str) -> String {
    record.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

/// What was asked for, or what changed; else what kind of event it is, and how often it happened.
fn target(entry: &Entry) -> String {
    let fields = &entry.fields;
    if let Some(asked) = fields.tool.as_ref().or(fields.resource.as_ref()).or(fields.prompt.as_ref()) {
        return asked.clone();
    }
    if fields.event == DECISION {
        return String::new();
    }
    let record = whole(entry);
    let [kind, namespace, name] =
        ["kind", "namespace", "name"].map(|part| member(&record, &format!("portcullis.object.{part}")));
    if kind.is_empty() {
        let event = fields.event.strip_prefix("mcp.gateway.").unwrap_or(&fields.event);
        let times = record.get("portcullis.count").and_then(serde_json::Value::as_u64).filter(|times| *times > 1);
        return times.map_or_else(|| event.to_owned(), |times| format!("{event} ×{times}"));
    }
    let change = member(&record, "portcullis.change");
    format!("{kind} {} {change}", [namespace, name].join("/").trim_matches('/')).trim().to_owned()
}

/// The rule that decided, else the reason.
fn by(entry: &Entry) -> String {
    let fields = &entry.fields;
    match (&fields.policy, &fields.rule) {
        (Some(policy), Some(rule)) => format!("{policy} / {rule}"),
        _ => fields.reason.clone().or_else(|| fields.error.clone()).unwrap_or_default(),
    }
}

fn follow(args: &Follow) -> anyhow::Result<ExitCode> {
    let mut tail = Tail::open(&args.journal.dir()?, args.wanted.filter(), args.from_start)?;
    super::standalone::runtime()?.block_on(async {
        // Listened to from the start: one that came between two looks would be lost otherwise.
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut told = false;
        loop {
            while let Some(entry) = tail.poll()? {
                let line = match args.output {
                    Format::Table => line(&entry),
                    Format::Json => entry.json.clone(),
                    Format::Yaml => format!("---\n{}", serde_saphyr::to_string(&whole(&entry))?.trim_end()),
                };
                let mut out = io::stdout().lock();
                if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                    // The reader has gone: nobody is following any more.
                    return Ok(ExitCode::SUCCESS);
                }
            }
            if let Some(obstacle) = tail.obstacle()?.filter(|_| !told) {
                eprintln!("warning: {obstacle}; nothing behind it is shown");
                told = true;
            }
            tokio::select! {
                _ = interrupted.recv() => return Ok(ExitCode::SUCCESS),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    })
}

/// One record, on one line.
fn line(entry: &Entry) -> String {
    let fields = &entry.fields;
    let what = fields.decision.as_deref().or(fields.outcome.as_deref()).unwrap_or_default();
    let words = [fields.time.clone(), what.to_owned(), who(entry), asked(entry), by(entry)];
    let text: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    printable(&text.join("  "))
}

fn checkpoint(args: &Anchor) -> anyhow::Result<ExitCode> {
    let path = args.journal.dir()?.join("anchor.json");
    let bytes =
        fs::read(&path).with_context(|| format!("there is no checkpoint yet: cannot read {}", path.display()))?;
    let checkpoint = Checkpoint::parse(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
    if !checkpoint.is_signed() {
        bail!("{} is not signed by the key that it names: it was changed; run portcullis audit verify", path.display());
    }
    output::say(&String::from_utf8_lossy(&checkpoint.to_json()))?;
    Ok(ExitCode::SUCCESS)
}

/// Reads a public key: Ed25519, base64url without padding.
fn public_key(text: &str) -> Result<String, String> {
    let is_key = URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == 32);
    is_key
        .then(|| text.to_owned())
        .ok_or_else(|| "write the member `key` of what `portcullis audit checkpoint` prints".to_owned())
}

/// Reads a time, or how long ago, in milliseconds since 1970.
fn moment(text: &str) -> Result<u64, String> {
    let ms = match (text.parse::<Timestamp>(), duration(text)) {
        (Ok(time), _) => u64::try_from(time.as_millisecond()).ok(),
        (Err(_), Ok(seconds)) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            now.checked_sub(Duration::from_secs(seconds.into())).and_then(|then| u64::try_from(then.as_millis()).ok())
        }
        (Err(_), Err(_)) => None,
    };
    ms.ok_or_else(|| format!("{text:?}: write a time such as 2026-11-23T09:00:00Z, or how long ago: 30m, 8h, 7d"))
}
