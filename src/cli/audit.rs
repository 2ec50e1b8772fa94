//! `portcullis audit`: what happened, and whether the record of it is whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use comfy_table::Cell;
use jiff::Timestamp;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::output::{self, Format, Tone, cell, printable, wide_table};
use super::place::Place;
use super::token::duration;
use crate::audit::query::{Call, Filter, Tail, query};
use crate::audit::verify::{Completeness, Expectation, Report, verify};
use crate::audit::{DECISION, Entry};
use crate::journal::Checkpoint;

/// How often a followed journal is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Verify, query and follow the audit journal.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Check the journal's hash chain, checkpoints and completeness
    Verify(Verify),
    /// Find calls, the newest last
    Query(Query),
    /// Follow the journal until Ctrl-C
    Tail(Follow),
    /// Print the latest signed checkpoint, to be kept elsewhere as an anchor
    Checkpoint(Anchor),
}

#[derive(clap::Args, Debug)]
struct Verify {
    #[command(flatten)]
    journal: Journal,
    /// A checkpoint that was kept elsewhere: proves that nothing up to it was cut off or rolled back
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_AUDIT_ANCHOR")]
    anchor: Option<PathBuf>,
    /// The journal's public key, base64url, as a checkpoint shows it: proves who signed
    #[arg(long, value_name = "KEY", env = "PORTCULLIS_AUDIT_KEY")]
    public_key: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    output: Format,
}

#[derive(clap::Args, Debug)]
struct Query {
    #[command(flatten)]
    journal: Journal,
    #[command(flatten)]
    wanted: Wanted,
    /// At most so many calls, the newest
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// How to print; JSON and YAML hold the whole records
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    output: Format,
}

#[derive(clap::Args, Debug)]
struct Follow {
    #[command(flatten)]
    journal: Journal,
    #[command(flatten)]
    wanted: Wanted,
    /// Begin with the oldest record
    #[arg(long)]
    from_start: bool,
    /// `json` prints whole records, one a line
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    output: Format,
}

#[derive(clap::Args, Debug)]
struct Anchor {
    #[command(flatten)]
    journal: Journal,
}

/// Which journal.
#[derive(clap::Args, Debug)]
struct Journal {
    #[command(flatten)]
    place: Place,
    /// The journal's folder, wherever it was copied to [default: the one in the state folder]
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_JOURNAL")]
    journal: Option<PathBuf>,
}

impl Journal {
    fn dir(&self) -> anyhow::Result<PathBuf> {
        let dir = match &self.journal {
            Some(dir) => dir.clone(),
            None => self.place.state()?.join("journal"),
        };
        fs::metadata(&dir).with_context(|| format!("cannot read the journal {}", dir.display()))?;
        Ok(dir)
    }
}

/// Which calls.
#[derive(clap::Args, Debug)]
struct Wanted {
    /// Of this person, client or service account
    #[arg(long = "user", value_name = "SUBJECT")]
    user: Option<String>,
    /// Through this client
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Of this tool
    #[arg(long, value_name = "NAME")]
    tool: Option<String>,
    /// To this server
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    server: Option<String>,
    /// With this decision
    #[arg(long, value_parser = ["allow", "deny", "require_approval"])]
    decision: Option<String>,
    /// With this outcome
    #[arg(long, value_parser = ["result", "tool_error", "error", "denied", "disconnected", "unknown"])]
    outcome: Option<String>,
    /// Since a time (RFC 3339), or for so long: 30m, 8h, 7d
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<u64>,
    /// Until a time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<u64>,
    /// Every event: also changes of configuration, failed authentications, starts and stops
    #[arg(long)]
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
    let report = verify(&dir, &expectation)?;
    if report.segments == 0 && report.holds() {
        bail!("{} holds no segment of a journal: nothing to verify; is it the right folder?", dir.display());
    }
    output::print(args.output, &Verdict::of(&report), verdict_text)?;
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// A report, ready to be printed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    holds: bool,
    completeness: String,
    #[serde(skip)]
    anchored: bool,
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
            anchored: report.completeness != Completeness::NotProven,
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
    let mut lines = Vec::new();
    match verdict.findings.split_first() {
        None => lines.push("The journal holds.".to_owned()),
        Some((first, rest)) => {
            lines.push(format!("The journal does NOT hold: {} ({})", first.message, first.reason));
            lines.extend(rest.iter().map(|finding| format!("  also: {} ({})", finding.message, finding.reason)));
        }
    }
    let mut completeness = verdict.completeness.clone();
    if let Some(first) = completeness.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let remedy = match verdict.anchored {
        true => "",
        false => " Keep what `audit checkpoint` prints elsewhere, and give it with --anchor.",
    };
    lines.push(format!("{completeness}.{remedy}"));
    lines.push(format!(
        "{} records in {} segments, {} checkpoints; {} decisions, {} completions, {} decisions without one.",
        verdict.records,
        verdict.segments,
        verdict.checkpoints,
        verdict.decisions,
        verdict.completions,
        verdict.decisions_without_completion
    ));
    lines.extend(verdict.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}

fn find(args: &Query) -> anyhow::Result<ExitCode> {
    let answer = query(&args.journal.dir()?, &args.wanted.filter(), args.limit)?;
    for place in &answer.unreadable {
        eprintln!("warning: {place}; run portcullis audit verify");
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
    let mut rows = wide_table(["time", "who", "method", "target", "server", "decision", "by", "outcome", "ms"]);
    for Call { entry, completion } in calls {
        let fields = &entry.fields;
        let end = completion.as_ref().map(|end| &end.fields);
        let server = [&fields.server_namespace, &fields.server_name].map(|part| part.as_deref().unwrap_or_default());
        rows.add_row([
            cell(&fields.time, Tone::Faint),
            cell(who(entry), Tone::Plain),
            cell(fields.method.as_deref().unwrap_or_default(), Tone::Plain),
            cell(target(entry), Tone::Plain),
            cell(server.join("/").trim_matches('/'), Tone::Plain),
            decided(entry),
            cell(by(entry), Tone::Plain),
            cell(end.and_then(|end| end.outcome.as_deref()).unwrap_or_default(), Tone::Plain),
            cell(
                end.and_then(|end| end.duration_us)
                    .map_or_else(String::new, |us| format!("{}.{}", us / 1000, us % 1000 / 100)),
                Tone::Faint,
            ),
        ]);
    }
    rows.to_string()
}

/// The same in the width of any terminal, for calls of one server and one moment.
pub fn calls_in_brief(calls: &[Call]) -> String {
    let mut rows = wide_table(["time", "who", "tool", "decision", "by", "outcome"]);
    for Call { entry, completion } in calls {
        let end = completion.as_ref().and_then(|end| end.fields.outcome.as_deref());
        // RFC 3339: the time of day to the second.
        let time = entry.fields.time.get(11..19).unwrap_or(&entry.fields.time);
        rows.add_row([
            cell(time, Tone::Faint),
            cell(who(entry), Tone::Plain),
            cell(target(entry), Tone::Plain),
            decided(entry),
            cell(by(entry), Tone::Plain),
            cell(end.unwrap_or_default(), Tone::Plain),
        ]);
    }
    rows.to_string()
}

fn decided(entry: &Entry) -> Cell {
    let decision = entry.fields.decision.as_deref().unwrap_or(&entry.fields.event);
    let tone = match decision {
        "allow" => Tone::Good,
        "deny" => Tone::Bad,
        _ => Tone::Caution,
    };
    cell(decision, tone)
}

fn who(entry: &Entry) -> &str {
    entry.fields.subject.as_deref().unwrap_or_default()
}

/// What was asked for, or what changed.
fn target(entry: &Entry) -> String {
    let fields = &entry.fields;
    if let Some(asked) = fields.tool.as_ref().or(fields.resource.as_ref()).or(fields.prompt.as_ref()) {
        return asked.clone();
    }
    let record = whole(entry);
    let member = |name: &str| record.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
    let [kind, namespace, name] =
        ["kind", "namespace", "name"].map(|part| member(&format!("portcullis.object.{part}")));
    let change = member("portcullis.change");
    format!("{kind} {} {change}", [namespace, name].join("/").trim_matches('/')).trim().to_owned()
}

/// The rule that decided, else the reason.
fn by(entry: &Entry) -> String {
    let fields = &entry.fields;
    match (&fields.policy, &fields.rule) {
        (Some(policy), Some(rule)) => format!("{policy} / {rule}"),
        _ => fields.reason.clone().unwrap_or_default(),
    }
}

fn follow(args: &Follow) -> anyhow::Result<ExitCode> {
    let mut tail = Tail::open(&args.journal.dir()?, args.wanted.filter(), args.from_start)?;
    super::standalone::runtime()?.block_on(async {
        // Listened to from the start: one that came between two looks would be lost otherwise.
        let mut interrupted = signal(SignalKind::interrupt())?;
        loop {
            while let Some(entry) = tail.poll()? {
                let line = match args.output {
                    Format::Table => line(&entry),
                    Format::Json | Format::Yaml => entry.json.clone(),
                };
                let mut out = io::stdout().lock();
                if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                    // The reader has gone: nobody is following any more.
                    return Ok(ExitCode::SUCCESS);
                }
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
    let what = fields.decision.as_deref().or(fields.outcome.as_deref()).unwrap_or(&fields.event);
    let words = [&fields.time, what, who(entry), fields.method.as_deref().unwrap_or_default(), &target(entry)];
    let text: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    printable(&format!("{} {}", text.join("  "), by(entry)))
}

fn checkpoint(args: &Anchor) -> anyhow::Result<ExitCode> {
    let path = args.journal.dir()?.join("anchor.json");
    let bytes =
        fs::read(&path).with_context(|| format!("there is no checkpoint yet: cannot read {}", path.display()))?;
    let checkpoint = Checkpoint::parse(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
    if !checkpoint.is_signed() {
        bail!("{} is not signed by the key that it names: it was changed; run portcullis audit verify", path.display());
    }
    io::stdout().lock().write_all(&checkpoint.to_json())?;
    println!();
    Ok(ExitCode::SUCCESS)
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
