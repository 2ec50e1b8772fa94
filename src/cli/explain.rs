//! `portcullis explain`: one decision, and why.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::load;
use super::output::{Format, Tone, cell, printable, table};
use super::who_can::find;
use crate::access::Answer;
use crate::access::explain::{Considered, Explanation, Verdict, explain};
use crate::access::who_can::Tool;
use crate::fleet::Fleet;
use crate::generated::Risk;
use crate::identity::principal::{Actor, Groups, Kind, Principal};
use crate::mcp::scan::{Limits, check};
use crate::policy::index::PrincipalKeys;
use crate::policy::request::{Facts, KnownRisk, Request, Target};

/// Says what would happen to one call, and why. Exit code 0: it is allowed; 1: it is not; 2: the arguments or the files
/// are unusable.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true))]
pub struct Args {
    /// The server
    #[arg(long, value_name = "NAMESPACE/NAME", env = "PORTCULLIS_SERVER")]
    pub server: String,
    /// The tool that is called
    #[arg(long, value_name = "TOOL", group = "target", env = "PORTCULLIS_TOOL")]
    pub tool: Option<String>,
    /// The resource that is read
    #[arg(long, value_name = "URI", group = "target", env = "PORTCULLIS_RESOURCE")]
    pub resource: Option<String>,
    /// The prompt that is asked for
    #[arg(long, value_name = "PROMPT", group = "target", env = "PORTCULLIS_PROMPT")]
    pub prompt: Option<String>,
    /// Who calls: user:ALICE@AUTHORITY, client:ID@AUTHORITY or serviceaccount:NAMESPACE/NAME@AUTHORITY; then, each
    /// after a comma, groups=A,B (groups=? for a token that does not say), client=ID and actor=SUBJECT
    #[arg(long = "as", value_name = "WHO", value_parser = parse_who, env = "PORTCULLIS_AS")]
    pub who: Who,
    /// The arguments of the call, a JSON object
    #[arg(long = "args", value_name = "JSON", env = "PORTCULLIS_ARGS")]
    pub arguments: Option<String>,
    /// The risk class to presume of the tool, where nothing else is known
    #[arg(long, value_enum, env = "PORTCULLIS_RISK")]
    pub risk: Option<RiskClass>,
    /// The folder of manifests
    #[arg(short = 'f', long = "filename", value_name = "DIR", default_value = ".", env = "PORTCULLIS_MANIFESTS")]
    pub folder: PathBuf,
    /// The namespace whose policies are guardrails of the whole fleet
    #[arg(long, value_name = "NAMESPACE", default_value = "portcullis-system", env = "PORTCULLIS_SYSTEM_NAMESPACE")]
    pub system_namespace: String,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    pub output: Format,
}

/// A risk class, as an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum RiskClass {
    /// Reads and changes nothing.
    ReadOnly,
    /// Creates or changes.
    Write,
    /// Removes, overwrites, or cannot be undone.
    Destructive,
}

impl From<RiskClass> for Risk {
    fn from(class: RiskClass) -> Self {
        match class {
            RiskClass::ReadOnly => Risk::ReadOnly,
            RiskClass::Write => Risk::Write,
            RiskClass::Destructive => Risk::Destructive,
        }
    }
}

/// Who calls, as written on the command line: everything but the issuer, which the authority knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    authority: String,
    subject: String,
    kind: Kind,
    client: Option<String>,
    groups: Groups,
    actor: Option<String>,
}

/// Reads `KIND:SUBJECT@AUTHORITY[,groups=A,B][,client=ID][,actor=SUBJECT]`. A subject may hold `@`, but no comma.
pub fn parse_who(text: &str) -> Result<Who, String> {
    let (who, rest) = text.split_once(',').unwrap_or((text, ""));
    let expected = "write user:SUBJECT@AUTHORITY, client:ID@AUTHORITY or serviceaccount:NAMESPACE/NAME@AUTHORITY";
    let (kind, qualified) = who.split_once(':').ok_or(expected)?;
    let (subject, authority) = qualified.rsplit_once('@').ok_or(expected)?;
    if subject.is_empty() || authority.is_empty() {
        return Err(expected.to_owned());
    }
    let (kind, subject) = match kind {
        "user" => (Kind::User, subject.to_owned()),
        "client" => (Kind::Client, subject.to_owned()),
        "serviceaccount" => {
            let (namespace, name) = subject.split_once('/').ok_or(expected)?;
            (Kind::ServiceAccount, format!("system:serviceaccount:{namespace}:{name}"))
        }
        other => return Err(format!("{other:?} is not a kind of principal; {expected}")),
    };
    let client = (kind == Kind::Client).then(|| subject.clone());
    let mut who = Who {
        authority: authority.to_owned(),
        subject,
        kind,
        client,
        groups: Groups::Known(Box::default()),
        actor: None,
    };
    let mut groups: Vec<Box<str>> = Vec::new();
    let mut in_groups = false;
    for part in rest.split(',').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("groups", "?")) => who.groups = Groups::Unknown,
            Some(("groups", group)) => groups.push(group.into()),
            Some(("client", _)) if kind == Kind::Client => return Err("a client is its own client".to_owned()),
            Some(("client", id)) => who.client = Some(id.to_owned()),
            Some(("actor", subject)) => who.actor = Some(subject.to_owned()),
            None if in_groups => groups.push(part.into()),
            _ => return Err(format!("{part:?} is not understood; write groups=A,B, client=ID or actor=SUBJECT")),
        }
        in_groups = part.starts_with("groups=") || in_groups && !part.contains('=');
    }
    if let Groups::Known(known) = &mut who.groups {
        groups.sort_unstable();
        groups.dedup();
        *known = groups.into();
    } else if !groups.is_empty() {
        return Err("groups=? says that no group is known; leave the others out".to_owned());
    }
    Ok(who)
}

impl Who {
    fn principal(&self, fleet: &Fleet) -> anyhow::Result<Principal> {
        let authority = fleet.authority(&self.authority);
        let authority = authority
            .with_context(|| format!("there is no McpAuthorizationServer {:?} among the manifests", self.authority))?;
        Ok(Principal {
            authority: self.authority.as_str().into(),
            issuer: authority.issuer.as_str().into(),
            tenant: None,
            subject: self.subject.as_str().into(),
            kind: self.kind,
            client: self.client.as_deref().map(Box::from),
            groups: self.groups.clone(),
            actor: self.actor.as_deref().map(|subject| Actor { subject: subject.into(), issuer: None }),
        })
    }
}

/// Answers from the folder of manifests.
pub fn answer(args: &Args) -> anyhow::Result<ExitCode> {
    let fleet = load::for_questions(std::slice::from_ref(&args.folder), &args.system_namespace)?;
    run(args, &fleet, None, jiff::Timestamp::now().as_second(), &mut std::io::stdout().lock())
}

/// Prints one decision. `inventory`: the tools that the server is known to have; `now` in Unix seconds.
pub fn run(
    args: &Args,
    fleet: &Fleet,
    inventory: Option<&[Tool]>,
    now: i64,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let served = find(fleet, &args.server)?;
    let principal = args.who.principal(fleet)?;
    if !served.server.authorities.contains(&args.who.authority) {
        bail!(
            "{} does not accept tokens of {:?}: nobody of it gets as far as a decision",
            args.server,
            args.who.authority
        );
    }
    if let Some(text) = &args.arguments {
        let object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text);
        object.context("--args is not a JSON object")?;
        if let Err(fault) = check(text.as_bytes(), &Limits::CLIENT) {
            bail!("--args: such a call is refused before it is decided: {fault}");
        }
    }
    let keys = PrincipalKeys::of(&principal);
    let request = Request {
        principal: &principal,
        keys: &keys,
        target: target(args, inventory)?,
        arguments: args.arguments.as_deref(),
    };
    let explanation = explain(served, &request, &Facts { now });
    match args.output {
        Format::Table => print(&explanation, out)?,
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&explanation)?)?,
        Format::Yaml => write!(out, "{}", serde_saphyr::to_string(&explanation)?)?,
    }
    Ok(ExitCode::from(if explanation.answer == Answer::Allow { 0 } else { 1 }))
}

fn target<'a>(args: &'a Args, inventory: Option<&[Tool]>) -> anyhow::Result<Target<'a>> {
    match (&args.tool, &args.resource, &args.prompt) {
        (Some(name), ..) => {
            let known = inventory.into_iter().flatten().find(|tool| tool.name == *name);
            let presumed = args.risk.map(Risk::from);
            let risk = known.and_then(|tool| tool.risk).unwrap_or_default();
            let risk = KnownRisk { own: risk.own.or(presumed), guardrail: risk.guardrail.or(presumed) };
            Ok(Target::Tool { name, risk })
        }
        (None, Some(uri), _) => Ok(Target::Resource { uri }),
        (None, None, Some(name)) => Ok(Target::Prompt { name }),
        (None, None, None) => bail!("say which --tool, --resource or --prompt"),
    }
}

fn print(explanation: &Explanation, out: &mut impl Write) -> anyhow::Result<()> {
    let rule = explanation.rule.as_ref().map(|rule| format!(" by {rule}")).unwrap_or_default();
    writeln!(out, "{}: {}{rule}", explanation.answer.as_str(), explanation.reason)?;
    if let Some(message) = &explanation.message {
        writeln!(out, "The caller is told: {}", printable(message))?;
    }
    if !explanation.visible {
        writeln!(out, "The caller is answered as if the target did not exist.")?;
    }
    if let Some(shadow) = explanation.shadow {
        writeln!(out, "With the Shadow policies enforced: {}", shadow.as_str())?;
    }
    for doubt in &explanation.doubts {
        writeln!(out, "{doubt}")?;
    }
    let mut table = table(["rule", "effect", "matches", "why"]);
    for rule in &explanation.rules {
        let cells = [rule.rule.clone(), effect(rule), matches(rule), rule.why.clone()];
        table.add_row(cells.map(|text| cell(text, Tone::Plain)));
    }
    writeln!(out, "{table}")?;
    Ok(())
}

fn effect(rule: &Considered) -> String {
    let shadow = if rule.shadow { " (shadow)" } else { "" };
    format!("{}{shadow}", rule.effect.as_str())
}

fn matches(rule: &Considered) -> String {
    let counts = if rule.counts { "yes" } else { "no" };
    match rule.matches {
        Verdict::Unknown => format!("unknown: counts as {counts}"),
        Verdict::Yes | Verdict::No => counts.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_are_read_as_documented() {
        let alice = parse_who("user:a@x.example@corp,groups=b,a,client=ide,actor=bot").unwrap();
        assert_eq!((alice.subject.as_str(), alice.authority.as_str()), ("a@x.example", "corp"));
        assert_eq!(alice.groups, Groups::Known(Box::new(["a".into(), "b".into()])));
        assert_eq!((alice.client.as_deref(), alice.actor.as_deref()), (Some("ide"), Some("bot")));
        let bot = parse_who("serviceaccount:ci/bot@cluster").unwrap();
        assert_eq!((bot.kind, bot.subject.as_str()), (Kind::ServiceAccount, "system:serviceaccount:ci:bot"));
        let client = parse_who("client:https://c.example/c.json@corp,groups=?").unwrap();
        assert_eq!((client.client.as_deref(), client.groups), (Some("https://c.example/c.json"), Groups::Unknown));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in [
            "",
            "alice",
            "user:alice",
            "user:@corp",
            "user:alice@",
            "robot:r@corp",
            "serviceaccount:bot@cluster",
            "user:alice@corp,dev",
            "user:alice@corp,client=x,dev",
            "user:alice@corp,groups=?,dev",
            "user:alice@corp,email=x",
            "client:c@corp,client=d",
        ] {
            assert!(parse_who(text).is_err(), "{text:?}");
        }
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn asked(text: &[&str]) -> (String, ExitCode) {
        let line = <Line as clap::Parser>::try_parse_from([&["explain", "--server", "team/a"], text].concat()).unwrap();
        let mut out = Vec::new();
        let code = run(&line.args, &crate::access::tests::example(), None, 600, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), code)
    }

    #[test]
    fn a_refusal_is_explained_and_exits_with_one() {
        let (text, code) = asked(&["--tool", "get_x", "--as", "user:bob@corp,groups=dev"]);
        assert_eq!(code, ExitCode::from(1));
        for words in [
            "Deny: DeniedByRule by team/policy/freeze",
            "The caller is told: frozen",
            "it is about other principals",
            "it is about other targets",
        ] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
    }

    #[test]
    fn arguments_that_no_call_can_have_are_refused() {
        for arguments in [r#"{"a":1,"a":2}"#, "[1]", "{", r#"{"a":"\ud800"}"#] {
            let text = ["explain", "--server", "team/a", "--tool", "t", "--as", "user:alice@corp", "--args", arguments];
            let args = <Line as clap::Parser>::try_parse_from(text).unwrap().args;
            assert!(run(&args, &crate::access::tests::example(), None, 0, &mut Vec::new()).is_err(), "{arguments}");
        }
    }

    #[test]
    fn a_grant_exits_with_zero() {
        let who = "user:alice@corp,groups=sre";
        let asked_for = ["--tool", "create_issue", "--as", who, "--args", r#"{"repo":"acme/x"}"#, "-o", "json"];
        let (text, code) = asked(&asked_for);
        assert_eq!(code, ExitCode::from(0));
        let explanation: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(explanation["rule"], "team/policy/write");
    }
}
