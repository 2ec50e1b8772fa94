//! `portcullis audit`: what happened, and whether the record of it is whole.

mod pods;
mod table;
mod verdict;

use pods::Pods;
pub use table::calls_in_brief;
use verdict::{Verdict, verdict_text};

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
use tokio::signal::unix::{SignalKind, signal};

use super::output::{self, Format, progress_of};
use super::token::duration;
use super::{boolish, place, source};
use crate::audit::DECISION;
use crate::audit::query::{Filter, Tail, query};
use crate::audit::verify::{Expectation, verify};
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
    /// Ask the proxies of the kubeconfig's cluster; kubectl portcullis does so by itself
    #[arg(long, env = "PORTCULLIS_CLUSTER", value_parser = boolish())]
    cluster: bool,
    /// The kubeconfig's context to ask instead of the current one
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_CONTEXT")]
    context: Option<String>,
    /// Where the cluster's proxies run
    #[arg(long, value_name = "NAME", default_value = "portcullis-gateway", env = "PORTCULLIS_GATEWAY_NAMESPACE")]
    gateway_namespace: String,
    /// Only this proxy's Pod; may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "PORTCULLIS_POD")]
    pod: Vec<String>,
}

/// Which journal.
#[derive(Debug)]
enum Journal {
    /// Of a gateway on this machine: its folder, and the state folder and the quickstart's that it may lie in.
    Folder { dir: Option<PathBuf>, state_dir: Option<PathBuf>, journal: Option<PathBuf> },
    /// Of a cluster's proxies.
    Pods(Pods),
}

impl FromArgMatches for Journal {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let typed = Typed::from_arg_matches(matches)?;
        let (dir, state_dir, journal) = (typed.dir, typed.state_dir, typed.journal);
        let pods = Pods { context: typed.context, namespace: typed.gateway_namespace, names: typed.pod };
        let ways: [&[&str]; 4] = [&["dir"], &["state_dir"], &["journal"], &["cluster", "context", "pod"]];
        Ok(match place::chosen(matches, &ways)? {
            Some(0) => Self::Folder { dir, state_dir: None, journal: None },
            Some(1) => Self::Folder { dir: None, state_dir, journal: None },
            Some(2) => Self::Folder { dir: None, state_dir: None, journal },
            Some(_) if typed.cluster || pods.context.is_some() || !pods.names.is_empty() => Self::Pods(pods),
            None if source::is_plugin() => Self::Pods(pods),
            _ => Self::Folder { dir: None, state_dir: None, journal: None },
        })
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
    /// The journal's folder, or the Pods to ask for theirs.
    fn place(&self) -> anyhow::Result<Result<PathBuf, &Pods>> {
        let (dir, state_dir, journal) = match self {
            Journal::Pods(pods) => return Ok(Err(pods)),
            Journal::Folder { dir, state_dir, journal } => (dir, state_dir, journal),
        };
        let dir = match journal {
            Some(dir) => dir.clone(),
            None => place::state(dir.as_deref(), state_dir.as_deref())?.join("journal"),
        };
        let found = fs::metadata(&dir).with_context(|| format!("cannot read the journal {}", dir.display()))?;
        if !found.is_dir() {
            bail!("{} is no folder: name the folder that holds the journal's files", dir.display());
        }
        Ok(Ok(dir))
    }
}

/// Which calls.
#[derive(clap::Args, Debug)]
struct Wanted {
    /// Of this person, client or service account
    #[arg(long = "user", value_name = "SUBJECT", allow_hyphen_values = true, env = "PORTCULLIS_USER")]
    user: Option<String>,
    /// Through this client
    #[arg(long, value_name = "ID", allow_hyphen_values = true, env = "PORTCULLIS_CLIENT")]
    client: Option<String>,
    /// Of this tool
    #[arg(long, value_name = "TOOL", allow_hyphen_values = true, env = "PORTCULLIS_TOOL")]
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
    /// The same, as a proxy's own command line takes it.
    fn arguments(&self) -> Vec<String> {
        let time =
            |ms: u64| i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).map(|t| t.to_string());
        let given = [
            ("user", self.user.clone()),
            ("client", self.client.clone()),
            ("tool", self.tool.clone()),
            ("server", self.server.clone()),
            ("decision", self.decision.clone()),
            ("outcome", self.outcome.clone()),
            ("since", self.since.and_then(time)),
            ("until", self.until.and_then(time)),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value?)));
        given.chain(self.all.then(|| "--all".to_owned())).collect()
    }

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
    let dir = match args.journal.place()? {
        Ok(dir) => dir,
        Err(_) if args.anchor.is_some() => {
            bail!("an anchor belongs to one journal: copy that journal here (kubectl cp) and name it with --journal")
        }
        Err(pods) => {
            let key = args.public_key.iter().map(|key| format!("--public-key={key}"));
            return pods.verify(&key.collect::<Vec<_>>(), args.output);
        }
    };
    let anchor = args.anchor.as_ref().map(|path| {
        let bytes = fs::read(path).with_context(|| format!("cannot read the anchor {}", path.display()))?;
        Checkpoint::parse(&bytes).with_context(|| format!("{} is no checkpoint", path.display()))
    });
    let expectation = Expectation { anchor: anchor.transpose()?, public_key: args.public_key.clone() };
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

fn find(args: &Query) -> anyhow::Result<ExitCode> {
    let dir = match args.journal.place()? {
        Ok(dir) => dir,
        Err(pods) => return pods.query(&args.wanted.arguments(), args.limit, args.output),
    };
    let (filter, limit) = (args.wanted.filter(), args.limit);
    let answer = progress_of(format!("reading {}", dir.display()), move || query(&dir, &filter, limit))??;
    for place in &answer.unreadable {
        eprintln!("warning: {place}");
    }
    if answer.truncated {
        eprintln!("note: older calls match too; ask for more with --limit");
    }
    table::print(&answer.calls, args.output)?;
    Ok(if answer.calls.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn follow(args: &Follow) -> anyhow::Result<ExitCode> {
    let dir = match args.journal.place()? {
        Ok(dir) => dir,
        Err(pods) => return pods.tail(&args.wanted.arguments(), args.from_start, args.output),
    };
    let mut tail = Tail::open(&dir, args.wanted.filter(), args.from_start)?;
    super::serving::runtime()?.block_on(async {
        // Listened to from the start: one that came between two looks would be lost otherwise.
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut told = false;
        loop {
            while let Some(entry) = tail.poll()? {
                let line = table::one(&entry, args.output)?;
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

fn checkpoint(args: &Anchor) -> anyhow::Result<ExitCode> {
    let path = match args.journal.place()? {
        Ok(dir) => dir.join("anchor.json"),
        Err(pods) => return pods.checkpoint(),
    };
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
