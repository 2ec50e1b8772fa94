//! `portcullis diff`: who gains and who loses access by a change, for people, scripts and pull requests.
//!
//! Invariant: exit code 0 means that nobody gains, surely: what cannot be judged (objects that are refused, an answer that was
//! cut off, another condition) counts as a gain.

mod markdown;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;

use super::git::Revision;
use super::load::{self, Loaded, Refused};
use super::output::{self, Format, Said, Tone, counted, filled, printable};
use super::{cluster, who_can};
use crate::access::diff::{Change, Diff, Direction, Limits, Note, compare_fleets};
use crate::access::except::Except;
use crate::access::who_can::Window;
use crate::api::Key;
use crate::policy::request::Facts;
use crate::resolve::RegisteredAs;

/// Who gains and who loses access by a change
///
/// OLD and NEW are each a folder or a file of manifests, a folder or a file of a Git revision as git show writes it
/// (main:deploy), or the word cluster. Exit code 0: nobody gains; 1: somebody does, or could; 2: the arguments, the files,
/// the revision or the cluster are unusable.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What was before: PATH, REV:PATH or cluster
    #[arg(value_name = "OLD", env = "PORTCULLIS_DIFF_OLD")]
    pub old: String,
    /// What is to be: PATH, REV:PATH or cluster
    #[arg(value_name = "NEW", env = "PORTCULLIS_DIFF_NEW")]
    pub new: String,
    /// The kubeconfig's context to ask instead of the current one
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_CONTEXT")]
    pub context: Option<String>,
    /// The namespace whose policies are guardrails for all others
    #[arg(long, value_name = "NAME", default_value = "portcullis-system", env = "PORTCULLIS_SYSTEM_NAMESPACE")]
    pub system_namespace: String,
    /// What exit code 1 is for: somebody gains, any change at all, or none
    #[arg(long, value_enum, default_value = "gained", env = "PORTCULLIS_FAIL_ON")]
    pub fail_on: FailOn,
    /// How to print; markdown is for pull requests
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    pub output: Form,
}

/// What fails a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FailOn {
    /// Somebody gains, or could.
    Gained,
    /// Anything changes.
    Any,
    /// Nothing.
    None,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// For people.
    Table,
    /// For scripts.
    Json,
    /// For files.
    Yaml,
    /// For pull requests.
    Markdown,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How many principals gain how many targets, whatever risk class these may have.
    pub gained: usize,
    /// How many they lose.
    pub lost: usize,
    /// For how many it is neither for sure: a condition is another.
    pub changed: usize,
    /// The changes and what else differs.
    #[serde(flatten)]
    pub diff: Diff,
    /// Objects that are wrong in themselves, and were not before: they would be refused.
    pub refused: Vec<Refused>,
}

impl Report {
    fn of(diff: Diff, old: &Loaded, new: &Loaded) -> Self {
        let what = |change: &Change| (change.server.clone(), change.kind, change.target.clone());
        let who = |change: &Change| (change.principal.clone(), change.via.clone(), change.actor.clone());
        let count = |direction| {
            let changes = diff.changes.iter().filter(|change| change.direction == direction);
            changes.map(|change| (what(change), who(change))).collect::<BTreeSet<_>>().len()
        };
        let mut refused: Vec<Refused> = new.refused.iter().filter(|one| !old.refused.contains(one)).cloned().collect();
        refused.sort();
        let (gained, lost, changed) = (count(Direction::Gained), count(Direction::Lost), count(Direction::Changed));
        Self { gained, lost, changed, diff, refused }
    }

    fn fails(&self, on: FailOn) -> bool {
        match on {
            FailOn::Gained => self.diff.gains() || !self.refused.is_empty(),
            FailOn::Any => {
                let Diff { changes, notes, whole } = &self.diff;
                !(changes.is_empty() && notes.is_empty() && self.refused.is_empty() && *whole)
            }
            FailOn::None => false,
        }
    }

    /// `2 gained, 1 lost`, or that there is nothing.
    fn headline(&self) -> String {
        let counts = [(self.gained, "gained"), (self.changed, "changed under a condition"), (self.lost, "lost")];
        let told: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        if told.is_empty() { "nobody gains or loses access".to_owned() } else { told.join(", ") }
    }
}

/// One side of a comparison.
enum Operand {
    Cluster,
    Files(std::path::PathBuf),
    Revision(String),
}

impl Operand {
    fn parse(text: &str) -> anyhow::Result<Self> {
        match text {
            "cluster" => Ok(Self::Cluster),
            _ if Path::new(text).exists() => Ok(Self::Files(text.into())),
            _ if text.split_once(':').is_some_and(|(rev, _)| !rev.is_empty()) => Ok(Self::Revision(text.to_owned())),
            _ => bail!(
                "there is no {text}: write a folder or a file, a revision of one such as main:deploy (REV:PATH), or cluster"
            ),
        }
    }

    /// `registered`: as whom McpClients are, where the other side knows.
    fn load(&self, args: &Args, registered: &BTreeMap<Key, RegisteredAs>) -> anyhow::Result<Loaded> {
        match self {
            Self::Cluster => cluster::everything(args.context.as_deref(), &args.system_namespace),
            Self::Files(path) => load::for_comparison(std::slice::from_ref(path), &args.system_namespace, registered),
            Self::Revision(name) => {
                let revision = Revision::read(name)?;
                let folder = revision.folder();
                let mut loaded = load::for_comparison(&[folder.to_owned()], &args.system_namespace, registered)?;
                // Nobody knows the folder where the files were for a moment.
                let here = folder.display().to_string();
                for refused in &mut loaded.refused {
                    refused.object = refused.object.replace(&here, name);
                    refused.message = refused.message.replace(&here, name);
                }
                Ok(loaded)
            }
        }
    }
}

/// Compares, prints, and answers with the exit code.
pub fn answer(args: &Args) -> anyhow::Result<ExitCode> {
    let (old, new) = (Operand::parse(&args.old)?, Operand::parse(&args.new)?);
    let nobody = BTreeMap::new();
    let (old, new) = if matches!(new, Operand::Cluster) {
        let new = new.load(args, &nobody)?;
        (old.load(args, &new.registered)?, new)
    } else {
        let old = old.load(args, &nobody)?;
        let new = new.load(args, &old.registered)?;
        (old, new)
    };
    for (loaded, name) in [(&old, &args.old), (&new, &args.new)] {
        if loaded.fleet.server_count() == 0 && loaded.refused.is_empty() {
            eprintln!("warning: no McpServer found in {}", printable(name));
        }
    }
    let (text, code) = run(args, &old, &new, jiff::Timestamp::now().as_second())?;
    output::say(&text)?;
    Ok(code)
}

/// What changes, ready to be printed. `now` in Unix seconds.
///
/// # Errors
/// If the answer cannot be written in the form that is asked for.
pub fn run(args: &Args, old: &Loaded, new: &Loaded, now: i64) -> anyhow::Result<(String, ExitCode)> {
    let mut inventories = old.inventories.clone();
    inventories.extend(new.inventories.clone());
    let diff = compare_fleets(&old.fleet, &new.fleet, &inventories, &Facts { now }, &Limits::default());
    let report = Report::of(diff, old, new);
    let text = match args.output {
        Form::Table => output::render(Format::Table, &report, for_people),
        Form::Json => output::render(Format::Json, &report, for_people),
        Form::Yaml => output::render(Format::Yaml, &report, for_people),
        Form::Markdown => Ok(markdown::page(&report)),
    }?;
    Ok((text, ExitCode::from(if report.fails(args.fail_on) { 1 } else { 0 })))
}

/// Changes that differ in their targets and risk classes only.
struct Group<'r> {
    first: &'r Change,
    /// The classes, the riskiest first.
    risk: Vec<Option<&'static str>>,
    targets: Vec<String>,
}

impl Group<'_> {
    fn risk(&self) -> String {
        // Of a tool whose class nobody knows, each that it could have is told if a rule asks for it.
        match self.risk.len() {
            1 if self.risk == [None] => return "unknown".to_owned(),
            4 => return "any".to_owned(),
            _ => {}
        }
        self.risk.iter().map(|class| class.unwrap_or("unclassified")).collect::<Vec<_>>().join(", ")
    }

    fn who(&self) -> String {
        let change = self.first;
        let via = change.via.as_ref().map(|client| format!(" via {client}"));
        let actor = change.actor.as_deref().map(|actor| match actor {
            "*" => " through any actor".to_owned(),
            actor => format!(" through {actor}"),
        });
        [Some(change.principal.clone()), via, actor].into_iter().flatten().collect()
    }

    /// The rules that make the difference as far as it is told: those that decide now, or decided before.
    fn rules(&self) -> Vec<String> {
        let Change { rules, rules_before, .. } = self.first;
        let gone = rules_before.iter().filter(|rule| !rules.contains(rule)).map(|rule| format!("no longer {rule}"));
        let told: Vec<String> = rules.iter().cloned().chain(gone).collect();
        if told.is_empty() { vec!["no rule allows it".to_owned()] } else { told }
    }

    /// The condition as it is, and as it was.
    fn conditions(&self) -> Vec<String> {
        let Change { conditions, conditions_before, .. } = self.first;
        let gone =
            conditions_before.iter().filter(|text| !conditions.contains(text)).map(|text| format!("before: {text}"));
        conditions.iter().cloned().chain(gone).collect()
    }

    fn notes(&self) -> Vec<String> {
        let Change { from, windows, .. } = self.first;
        // What begins then is said once.
        let since =
            |window: &Window| Window { not_before: window.not_before.filter(|at| Some(*at) != *from), ..*window };
        let windows =
            windows.iter().map(since).map(|window| who_can::in_words(&window)).filter(|text| !text.is_empty());
        let from = from.map(|from| format!("from {} on", who_can::instant(from)));
        let unless = (!self.first.unless.is_empty())
            .then(|| format!("unless also in a group of {}", self.first.unless.join(", ")));
        from.into_iter().chain(windows).chain(unless).collect()
    }
}

/// Puts together what differs in its risk class only, then what differs in its target only; in the order of the first of them.
fn groups<'r>(changes: impl IntoIterator<Item = &'r Change>) -> Vec<Group<'r>> {
    let mut by_risk: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut found: Vec<Group<'r>> = Vec::new();
    for change in changes {
        let target = who_can::with_exceptions(change.kind, &change.target, &change.except);
        match by_risk.entry((rest(change), target.clone())) {
            Entry::Occupied(known) => {
                found.iter_mut().skip(*known.get()).take(1).for_each(|g| g.risk.push(change.risk))
            }
            Entry::Vacant(new) => {
                new.insert(found.len());
                found.push(Group { first: change, risk: vec![change.risk], targets: vec![target] });
            }
        }
    }
    let mut by_target: BTreeMap<(String, Vec<Option<&str>>), usize> = BTreeMap::new();
    let mut groups: Vec<Group<'r>> = Vec::new();
    for one in found {
        match by_target.entry((rest(one.first), one.risk.clone())) {
            Entry::Occupied(known) => {
                groups.iter_mut().skip(*known.get()).take(1).for_each(|g| g.targets.extend(one.targets.clone()));
            }
            Entry::Vacant(new) => {
                new.insert(groups.len());
                groups.push(one);
            }
        }
    }
    groups
}

/// All that a line tells but target and risk.
fn rest(change: &Change) -> String {
    format!("{:?}", Change { risk: None, target: String::new(), except: Except::default(), ..change.clone() })
}

const HEAD: [&str; 9] = ["", "risk", "server", "target", "principal", "answer", "rules", "condition", "notes"];

fn for_people(report: &Report) -> String {
    let mut parts = Vec::new();
    for refused in &report.refused {
        let field = if refused.field.is_empty() { String::new() } else { format!("{}: ", refused.field) };
        parts
            .push(printable(&format!("{} is refused: {}: {field}{}", refused.object, refused.reason, refused.message)));
    }
    let rows: Vec<Vec<Said>> = groups(&report.diff.changes).iter().map(row).collect();
    if !rows.is_empty() {
        parts.push(filled(&HEAD, &["rules", "condition", "notes"], &rows).to_string());
    }
    parts.extend(report.diff.notes.iter().map(|note| printable(&said(note))));
    if !report.diff.whole {
        parts.push(CUT.to_owned());
    }
    let mut headline = report.headline();
    if !report.refused.is_empty() {
        let objects: BTreeSet<&str> = report.refused.iter().map(|refused| refused.object.as_str()).collect();
        headline = format!("{} refused; {headline}", counted(objects.len(), "object"));
    }
    parts.push(headline);
    parts.join("\n")
}

/// What to think of an answer that is not whole.
const CUT: &str = "There is more than could be looked at: others may gain too.";

fn said(note: &Note) -> String {
    format!("{}: {}", note.about, note.text)
}

fn row(group: &Group<'_>) -> Vec<Said> {
    let change = group.first;
    let (sign, tone) = sign(change);
    let answer = format!("{} -> {}", change.before.as_str(), change.after.as_str());
    vec![
        (sign.to_owned(), tone),
        (group.risk(), Tone::Plain),
        (change.server.clone(), Tone::Plain),
        (group.targets.join("\n"), Tone::Plain),
        (group.who(), Tone::Plain),
        (answer, tone),
        (group.rules().join("\n"), Tone::Plain),
        (group.conditions().join("\n"), Tone::Plain),
        (group.notes().join("\n"), Tone::Faint),
    ]
}

fn sign(change: &Change) -> (&'static str, Tone) {
    match change.direction {
        Direction::Gained => ("+", Tone::Caution),
        Direction::Changed => ("~", Tone::Caution),
        Direction::Lost => ("-", Tone::Plain),
    }
}

#[cfg(test)]
mod tests;
