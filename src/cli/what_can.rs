//! `portcullis what-can`: everything that one principal can call, at every server.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::load::{self, Loaded};
use super::output::{self, Format, Said, Tone, filled, printable};
use super::source::Source;
use super::{boolish, who_can};
use crate::access::Answer;
use crate::access::what_can::{Answers, Grant, Whom, what_can};
use crate::fleet::Fleet;
use crate::generated::authority::KeySource;
use crate::identity::principal::Kind;
use crate::policy::request::Facts;

/// What a person, a group, a client or a ServiceAccount can call, at every server
///
/// The answer is about whoever is that and nothing more. Exit code 0: something can be called; 1: nothing can; 2: the
/// arguments, the files or the cluster are unusable.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("whom").required(true).multiple(true)
    .args(["user", "group", "client", "service_account", "any"]))]
#[command(group = clap::ArgGroup::new("subject").args(["user", "client", "service_account", "any"]))]
pub struct Args {
    /// A person, by the subject of their tokens
    #[arg(long, value_name = "SUBJECT", allow_hyphen_values = true, env = "PORTCULLIS_USER")]
    pub user: Option<String>,
    /// A group; with another option, one that they are in. May be given several times
    #[arg(long, value_name = "GROUP", allow_hyphen_values = true, env = "PORTCULLIS_GROUP", value_delimiter = ',')]
    pub group: Vec<String>,
    /// An OAuth client that acts for itself
    #[arg(long, value_name = "ID", allow_hyphen_values = true, env = "PORTCULLIS_CLIENT")]
    pub client: Option<String>,
    /// A ServiceAccount of the cluster
    #[arg(long, value_name = "NAMESPACE/NAME", env = "PORTCULLIS_WHAT_CAN_SERVICE_ACCOUNT", conflicts_with = "group")]
    pub service_account: Option<String>,
    /// Anybody with a token
    #[arg(long, env = "PORTCULLIS_ANY", value_parser = boolish())]
    pub any: bool,
    /// The McpAuthorizationServer that vouches for them [default: the only one; for a ServiceAccount the cluster's]
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_AUTHORITY")]
    pub authority: Option<String>,
    /// Where the answer comes from.
    #[command(flatten)]
    pub source: Source,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    pub output: Format,
}

/// Answers from manifests or cluster.
pub fn answer(args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = args.source.everything()?;
    let (text, code) = run(args, &loaded, jiff::Timestamp::now().as_second())?;
    output::say(&text)?;
    Ok(code)
}

/// Everything that somebody can call, ready to be printed. `now` in Unix seconds.
///
/// # Errors
/// If nobody is known to vouch for the principal.
pub fn run(args: &Args, loaded: &Loaded, now: i64) -> anyhow::Result<(String, ExitCode)> {
    let whom = whom(args, &loaded.fleet)?;
    let answers = what_can(&loaded.fleet, &whom, &loaded.inventories, &Facts { now });
    let text = output::render(args.output, &answers, |answers| for_people(answers, &whom))?;
    Ok((text, ExitCode::from(if answers.grants.is_empty() { 1 } else { 0 })))
}

fn whom(args: &Args, fleet: &Fleet) -> anyhow::Result<Whom> {
    let account = |account: &String| {
        let (namespace, name) = account.split_once('/').context("--service-account: write NAMESPACE/NAME")?;
        anyhow::Ok((Kind::ServiceAccount, format!("system:serviceaccount:{namespace}:{name}")))
    };
    let subject = match (&args.user, &args.client, &args.service_account) {
        (Some(user), ..) => Some((Kind::User, user.clone())),
        (None, Some(client), _) => Some((Kind::Client, client.clone())),
        (None, None, Some(name)) => Some(account(name)?),
        (None, None, None) => None,
    };
    let of_cluster = args.service_account.is_some();
    let names: Vec<String> = fleet
        .authorities()
        .filter(|authority| !of_cluster || authority.keys == KeySource::Kubernetes)
        .map(|authority| authority.id.name.clone())
        .collect();
    let authority = match (&args.authority, names.as_slice()) {
        (Some(name), _) if names.contains(name) => name.clone(),
        (Some(name), _) => {
            let what = if of_cluster { " with `kubernetes: {}`" } else { "" };
            bail!("{}", load::missing(&format!("McpAuthorizationServer {name}{what}"), name, names))
        }
        (None, [only]) => only.clone(),
        (None, []) => bail!("there is no McpAuthorizationServer to vouch for them; is this the right place to look?"),
        (None, several) => {
            bail!("say which McpAuthorizationServer vouches for them, --authority {}", several.join("|"))
        }
    };
    Ok(Whom { authority, subject, groups: args.group.clone() })
}

/// As `who-can` would call them.
fn title(whom: &Whom) -> String {
    let subject = whom.subject.as_ref().map(|(kind, subject)| match kind {
        Kind::User => format!("user:{subject}"),
        Kind::Client => format!("client:{subject}"),
        Kind::ServiceAccount => format!("serviceaccount:{}", subject.split(':').skip(2).collect::<Vec<_>>().join("/")),
    });
    let groups = whom.groups.iter().map(|group| format!("group:{group}"));
    let parts: Vec<String> = subject.into_iter().chain(groups).collect();
    let who = if parts.is_empty() { "any".to_owned() } else { parts.join("+") };
    printable(&format!("{who}@{}", whom.authority))
}

const HEAD: [&str; 9] = ["server", "target", "risk", "answer", "via", "actor", "rules", "condition", "notes"];

fn for_people(answers: &Answers, whom: &Whom) -> String {
    let mut parts = Vec::new();
    if answers.grants.is_empty() {
        parts.push(format!("{} can call nothing.", title(whom)));
    } else {
        parts.push(format!("What {} can call, and by which rules. All else is denied.\n", title(whom)));
        parts.push(filled(&HEAD, &["rules", "condition", "notes"], &lines(&answers.grants)).to_string());
    }
    if !answers.unknown.is_empty() {
        let servers = answers.unknown.iter().map(|server| printable(server)).collect::<Vec<_>>().join(", ");
        parts.push(format!("Nobody here knows which tools these servers have, so patterns stand for them: {servers}"));
    }
    if !answers.crowded.is_empty() {
        let servers = answers.crowded.iter().map(|server| printable(server)).collect::<Vec<_>>().join(", ");
        parts.push(format!("Too many patterns to show what is answered where two of them meet: {servers}"));
    }
    parts.extend(answers.refused.iter().map(|(server, why)| printable(&format!("{server} refuses every call: {why}"))));
    parts.join("\n")
}

/// One line for targets that are answered alike, and for risk classes that are.
fn lines(grants: &[Grant]) -> Vec<Vec<Said>> {
    // What else a line says, by what it says of whom; then the targets and the classes.
    let mut lines: BTreeMap<Vec<String>, BTreeMap<String, Vec<&'static str>>> = BTreeMap::new();
    for Grant { server, row } in grants {
        let of_way = [row.via.clone(), row.actor.clone()].map(Option::unwrap_or_default);
        let why = [row.rules.join("\n"), row.conditions.join("\n"), who_can::notes(row)];
        let answer = row.answer.as_str().to_owned();
        let key = [server.clone(), answer].into_iter().chain(of_way).chain(why).collect();
        lines
            .entry(key)
            .or_default()
            .entry(who_can::with_exceptions(row.kind, &row.target, &row.except))
            .or_default()
            .push(row.risk.unwrap_or(""));
    }
    let mut rows = Vec::new();
    for (key, targets) in lines {
        let mut by_risk: BTreeMap<Vec<&'static str>, Vec<String>> = BTreeMap::new();
        for (target, risk) in targets {
            by_risk.entry(risk).or_default().push(target);
        }
        for (risk, targets) in by_risk {
            let [server, answer, via, actor, rules, conditions, notes] = key.as_slice() else { continue };
            let tone = if answer == Answer::Allow.as_str() { Tone::Good } else { Tone::Caution };
            let plain = |text: &str| (text.to_owned(), Tone::Plain);
            // Every class, or none that a rule asks for: nothing to tell.
            let risk = if risk.len() == 4 || risk == [""] { String::new() } else { classes(&risk) };
            rows.push(vec![
                plain(server),
                plain(&targets.join("\n")),
                plain(&risk),
                (answer.clone(), tone),
                plain(via),
                plain(actor),
                plain(rules),
                plain(conditions),
                (notes.clone(), Tone::Faint),
            ]);
        }
    }
    rows
}

fn classes(risk: &[&'static str]) -> String {
    risk.iter().map(|class| if class.is_empty() { "unclassified" } else { class }).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::tests::example;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(text: &[&str]) -> Result<Args, clap::Error> {
        <Line as clap::Parser>::try_parse_from([&["what-can"], text].concat()).map(|line| line.args)
    }

    fn printed(text: &[&str]) -> (String, ExitCode) {
        let loaded = Loaded { fleet: example(), ..Loaded::default() };
        run(&parsed(text).unwrap(), &loaded, 600).unwrap()
    }

    #[test]
    fn what_somebody_can_is_told_with_conditions_and_exceptions() {
        let (text, code) = printed(&["--user", "alice", "--group", "sre"]);
        assert_eq!(code, ExitCode::from(0));
        assert!(text.starts_with("What user:alice+group:sre@corp can call"), "{text}");
        for word in
            ["create_issue", "under a condition", "args.repo", "until 1970-01-01T00:16:40Z", "team/policy/interns"]
        {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
        // While everything is frozen, whoever is excepted from that by no group can do nothing.
        let (text, code) = printed(&["--user", "alice"]);
        assert_eq!((text.as_str(), code), ("user:alice@corp can call nothing.", ExitCode::from(1)));
        let (text, _) = printed(&["--group", "dev,sre", "-o", "json"]);
        let answers: serde_json::Value = serde_json::from_str(&text).unwrap();
        let grant = &answers["grants"][0];
        assert_eq!((&grant["server"], &grant["target"]), (&"team/a".into(), &"get_*".into()), "{text}");
        assert_eq!((&grant["answer"], &answers["unknown"][0]), (&"Allow".into(), &"team/a".into()));
    }

    #[test]
    fn one_asks_for_one_principal_of_a_known_authority() {
        for text in [&[][..], &["--user", "a", "--client", "b"], &["--service-account", "a/b", "--group", "c"]] {
            assert!(parsed(text).is_err(), "{text:?}");
        }
        let loaded = Loaded { fleet: example(), ..Loaded::default() };
        for (text, says) in [
            (&["--user", "a", "--authority", "crop"][..], "did you mean corp?"),
            (&["--service-account", "ci/bot"], "no McpAuthorizationServer"),
        ] {
            let error = run(&parsed(text).unwrap(), &loaded, 0).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
