//! `portcullis explain`: one decision, and why.

use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};

use super::load;
use super::output::{self, Format, Said, Tone, filled, printable};
use super::source::Source;
use crate::access::Answer;
use crate::access::explain::{Considered, Explanation, Verdict, explain};
use crate::access::targets::{Tool, class_by_name};
use crate::fleet::Fleet;
use crate::generated::authority::KeySource;
use crate::generated::{Risk, Server};
use crate::identity::principal::{Actor, Groups, Kind, Principal};
use crate::mcp::scan;
use crate::policy::index::PrincipalKeys;
use crate::policy::pattern::asserted;
use crate::policy::request::{Facts, Request, Target};
use crate::tools::risk::KnownRisk;

/// One decision, and why
///
/// Says what would happen to one call, from the manifests alone. Exit code 0: it is allowed; 1: it is not; 2: the
/// arguments or the files are unusable.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true))]
pub struct Args {
    /// The server
    #[arg(long, value_name = "NAMESPACE/NAME", env = "PORTCULLIS_SERVER")]
    pub server: String,
    /// The tool that is called
    #[arg(long, value_name = "TOOL", allow_hyphen_values = true, group = "target", env = "PORTCULLIS_TOOL")]
    pub tool: Option<String>,
    /// The resource that is read
    #[arg(long, value_name = "URI", group = "target", env = "PORTCULLIS_RESOURCE")]
    pub resource: Option<String>,
    /// The prompt that is asked for
    #[arg(long, value_name = "PROMPT", allow_hyphen_values = true, group = "target", env = "PORTCULLIS_PROMPT")]
    pub prompt: Option<String>,
    /// Who calls: user:ALICE@AUTHORITY, client:ID@AUTHORITY or serviceaccount:NAMESPACE/NAME; then, each after a comma,
    /// groups=A,B (groups=? for a token that does not say), client=ID and actor=SUBJECT
    #[arg(long = "as", value_name = "WHO", value_parser = parse_who, env = "PORTCULLIS_AS")]
    pub who: Who,
    /// The arguments of the call, a JSON object
    #[arg(long = "args", value_name = "JSON", env = "PORTCULLIS_ARGS")]
    pub arguments: Option<String>,
    /// The risk class to presume of the tool, as `portcullis scan` shows it, where its name alone does not tell
    #[arg(long, value_enum, env = "PORTCULLIS_RISK")]
    pub risk: Option<RiskClass>,
    /// Where the answer comes from.
    #[command(flatten)]
    pub source: Source,
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
    /// `None`: the cluster's, of which ServiceAccounts are.
    authority: Option<String>,
    subject: String,
    kind: Kind,
    client: Option<String>,
    groups: Groups,
    actor: Option<String>,
}

/// Reads `KIND:SUBJECT@AUTHORITY[,groups=A,B][,client=ID][,actor=SUBJECT]`. A subject may hold `@`, but no comma. A
/// ServiceAccount needs no authority, and has neither groups of its author's choice nor a client.
pub fn parse_who(text: &str) -> Result<Who, String> {
    let (who, rest) = text.split_once(',').unwrap_or((text, ""));
    let expected = "write user:SUBJECT@AUTHORITY, client:ID@AUTHORITY or serviceaccount:NAMESPACE/NAME";
    let (kind, qualified) = who.split_once(':').ok_or(expected)?;
    let (subject, authority) = match qualified.rsplit_once('@') {
        Some((subject, authority)) => (subject, Some(authority.to_owned())),
        None if kind == "serviceaccount" => (qualified, None),
        None => return Err(expected.to_owned()),
    };
    if subject.is_empty() || authority.as_deref() == Some("") {
        return Err(expected.to_owned());
    }
    let mut groups = Groups::Known(Box::default());
    let (kind, subject) = match kind {
        "user" => (Kind::User, subject.to_owned()),
        "client" => (Kind::Client, subject.to_owned()),
        "serviceaccount" => {
            let (namespace, name) = subject.split_once('/').ok_or(expected)?;
            groups = Groups::of_service_account(namespace);
            (Kind::ServiceAccount, format!("system:serviceaccount:{namespace}:{name}"))
        }
        other => return Err(format!("{other:?} is not a kind of principal; {expected}")),
    };
    let client = (kind == Kind::Client).then(|| subject.clone());
    let who = Who { authority, subject, kind, client, groups, actor: None };
    besides(who, rest)
}

/// Reads what follows a principal.
fn besides(mut who: Who, rest: &str) -> Result<Who, String> {
    let kind = who.kind;
    let mut groups: Vec<Box<str>> = Vec::new();
    let mut in_groups = false;
    for part in rest.split(',').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("groups" | "client", _)) if kind == Kind::ServiceAccount => {
                return Err(
                    "a ServiceAccount calls through no client, in the groups that Kubernetes gives it".to_owned()
                );
            }
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
    if kind == Kind::ServiceAccount {
        return Ok(who);
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
        let known = || fleet.authorities().map(|authority| authority.id.name.clone()).collect();
        let authority = match &self.authority {
            Some(name) => fleet
                .authority(name)
                .with_context(|| load::missing(&format!("McpAuthorizationServer {name}"), name, known())),
            None => {
                let mut clusters = fleet.authorities().filter(|one| one.keys == KeySource::Kubernetes);
                let cluster = clusters.next().context("there is no McpAuthorizationServer with `kubernetes: {}`")?;
                let others = clusters.next().is_some();
                if others {
                    Err(anyhow!("several McpAuthorizationServers have `kubernetes: {{}}`: write @NAME"))
                } else {
                    Ok(cluster)
                }
            }
        }?;
        Ok(Principal {
            authority: authority.id.name.as_str().into(),
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
    let loaded = args.source.about(&args.server)?;
    let inventory = loaded.inventories.get(&args.server).map(Vec::as_slice);
    let (text, code) = run(args, &loaded.fleet, inventory, jiff::Timestamp::now().as_second())?;
    output::say(&text)?;
    Ok(code)
}

/// One decision, ready to be printed. `inventory`: the tools that the server is known to have; `now` in Unix seconds.
///
/// # Errors
/// If the server, the principal or the arguments are not there or cannot be read.
pub fn run(args: &Args, fleet: &Fleet, inventory: Option<&[Tool]>, now: i64) -> anyhow::Result<(String, ExitCode)> {
    let served = load::server(fleet, &args.server)?;
    let principal = args.who.principal(fleet)?;
    if !served.server.authorities.iter().any(|accepted| **accepted == *principal.authority) {
        bail!(
            "{} does not accept tokens of {:?}: nobody of it gets as far as a decision; it accepts those of {}",
            args.server,
            principal.authority,
            served.server.authorities.join(", ")
        );
    }
    if let Some(text) = &args.arguments {
        check_arguments(text)?;
    }
    let keys = PrincipalKeys::of(&principal);
    let target = target(args, served.server, inventory)?;
    let unclassified = matches!(target, Target::Tool { risk, .. } if risk.own.is_none());
    let request = Request { principal: &principal, keys: &keys, target, arguments: args.arguments.as_deref() };
    let explanation = explain(served, &request, &Facts { now });
    let text = output::render(args.output, &explanation, |explanation| for_people(explanation, unclassified))?;
    Ok((text, ExitCode::from(if explanation.answer == Answer::Allow { 0 } else { 1 })))
}

/// What the gateway would refuse before it decides: it reads arguments once, strictly.
fn check_arguments(text: &str) -> anyhow::Result<()> {
    let example = r#"write a JSON object such as '{"repo": "acme/x"}'"#;
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        bail!("--args is no JSON ({error}): {example}");
    }
    if !text.trim_start().starts_with('{') {
        bail!("--args is JSON, but no object: {example}");
    }
    scan::check(text.as_bytes(), &scan::Limits::CLIENT)
        .map_err(|fault| anyhow::anyhow!("--args: a call with such arguments is refused unread: {fault}"))
}

fn target<'a>(args: &'a Args, server: &Server, inventory: Option<&[Tool]>) -> anyhow::Result<Target<'a>> {
    match (&args.tool, &args.resource, &args.prompt) {
        (Some(name), ..) => {
            let known = inventory.into_iter().flatten().find(|tool| tool.name == *name);
            let presumed = args.risk.map(Risk::from);
            let risk = known.and_then(|tool| tool.risk).unwrap_or_else(|| least_risk(server, name));
            let risk = KnownRisk { own: risk.own.or(presumed), guardrail: risk.guardrail.or(presumed) };
            Ok(Target::Tool { name, risk })
        }
        (None, Some(uri), _) => Ok(Target::Resource { uri }),
        (None, None, Some(name)) => Ok(Target::Prompt { name }),
        (None, None, None) => bail!("say which --tool, --resource or --prompt"),
    }
}

/// What a tool's name and `tools.risk` tell for sure without its definition: that it is in the highest class. Of a lower
/// one they do not, since the definition may raise it.
pub fn least_risk(server: &Server, name: &str) -> KnownRisk {
    let highest = |risk: Risk| (risk == Risk::Destructive).then_some(risk);
    let by_name = class_by_name(name);
    let locked = server.lock.as_ref().and_then(|lock| lock.class(name));
    let mut asserted = asserted(&server.risk, name).chain(locked);
    KnownRisk { own: by_name.or_else(|| asserted.find_map(highest)), guardrail: by_name }
}

fn for_people(explanation: &Explanation, unclassified: bool) -> String {
    let rule = explanation.rule.as_ref().map(|rule| format!(" by {rule}")).unwrap_or_default();
    let mut lines = Vec::new();
    if unclassified && explanation.rules.iter().any(|rule| rule.matches == Verdict::Unknown) {
        lines
            .push("Without the tool's risk class (--risk, as portcullis scan shows it) this is the answer:".to_owned());
    }
    lines.push(format!("{}: {}{rule}", explanation.answer.as_str(), explanation.reason));
    lines.extend(explanation.message.as_ref().map(|message| format!("The caller is told: {}", printable(message))));
    if !explanation.visible {
        lines.push("The caller is answered as if the target did not exist.".to_owned());
    }
    lines.extend(explanation.shadow.map(|shadow| format!("With the Shadow policies enforced: {}", shadow.as_str())));
    lines.extend(explanation.doubts.iter().map(|doubt| printable(doubt)));
    let rows: Vec<Vec<Said>> = explanation
        .rules
        .iter()
        .map(|rule| {
            [rule.rule.clone(), effect(rule), matches(rule), rule.why.clone()].map(|text| (text, Tone::Plain)).into()
        })
        .collect();
    if !rows.is_empty() {
        lines.push(filled(&["rule", "effect", "matches", "why"], &["rule", "why"], &rows).to_string());
    }
    lines.join("\n")
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
    use crate::generated::Digest;
    use crate::generated::server::{Lock, LockedTool, OnChange};

    #[test]
    fn principals_are_read_as_documented() {
        let alice = parse_who("user:a@x.example@corp,groups=b,a,client=ide,actor=bot").unwrap();
        assert_eq!((alice.subject.as_str(), alice.authority.as_deref()), ("a@x.example", Some("corp")));
        assert_eq!(alice.groups, Groups::Known(Box::new(["a".into(), "b".into()])));
        assert_eq!((alice.client.as_deref(), alice.actor.as_deref()), (Some("ide"), Some("bot")));
        let bot = parse_who("serviceaccount:ci/bot@cluster").unwrap();
        assert_eq!((bot.kind, bot.subject.as_str()), (Kind::ServiceAccount, "system:serviceaccount:ci:bot"));
        assert_eq!((bot.authority.as_deref(), &bot.groups), (Some("cluster"), &Groups::of_service_account("ci")));
        let bot = parse_who("serviceaccount:ci/bot,actor=x").unwrap();
        assert_eq!((bot.authority, bot.groups), (None, Groups::of_service_account("ci")));
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
            "serviceaccount:ci/bot@",
            "serviceaccount:ci/bot,groups=sre",
            "serviceaccount:ci/bot,client=ide",
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
        run(&line.args, &crate::access::tests::example(), None, 600).unwrap()
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
    fn arguments_that_the_gateway_would_not_read_are_refused() {
        assert!(check_arguments(r#"{"repo": "acme/x", "n": [1, {}]}"#).is_ok());
        for (text, says) in [
            ("{bad", "is no JSON"),
            ("[1]", "no object"),
            ("1", "no object"),
            (r#"{"a": 1, "a": 2}"#, "twice"),
            (r#"{"a": "\ud800"}"#, "--args"),
        ] {
            let error = check_arguments(text).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("expected a map"), "{text}: {error}");
        }
    }

    #[test]
    fn a_name_tells_the_highest_class_and_no_lower_one() {
        let fleet = crate::access::tests::example();
        let mut server = crate::generated::Server::clone(fleet.by_name("team", "a").unwrap().server);
        server.risk = vec![crate::generated::server::RiskRule {
            name: "mine".to_owned(),
            patterns: vec!["x_*".to_owned()],
            class: Risk::Destructive,
        }];
        let both = KnownRisk { own: Some(Risk::Destructive), guardrail: Some(Risk::Destructive) };
        assert_eq!(least_risk(&server, "delete_note"), both);
        assert_eq!(least_risk(&server, "x_y"), KnownRisk { own: Some(Risk::Destructive), guardrail: None });
        assert_eq!(least_risk(&server, "get_note"), KnownRisk::default());
    }

    #[test]
    fn a_lock_is_explained() {
        let mut fleet = crate::access::tests::example();
        let mut server = crate::generated::Server::clone(fleet.by_name("team", "a").unwrap().server);
        let locked = LockedTool(Digest([7; 32]), None);
        for (on_change, code, says, hidden) in [
            (OnChange::Deny, 1, "Deny: ToolNotReviewed", false),
            (OnChange::Hide, 1, "Deny: ToolNotReviewed", true),
            (OnChange::Warn, 0, "The tool lock has no create_issue: it passes, and is reported.", false),
        ] {
            let explained = |fleet: &Fleet| {
                let who = "user:alice@corp,groups=sre";
                let text = ["explain", "--server", "team/a", "--tool", "create_issue", "--as", who, "--args"];
                let line = <Line as clap::Parser>::try_parse_from([&text[..], &[r#"{"repo":"acme/x"}"#]].concat());
                run(&line.unwrap().args, fleet, None, 600).unwrap()
            };
            server.lock = Some(Lock { on_change, tools: [("other".to_owned(), locked)].into() });
            fleet.put_server(server.clone());
            let (text, exit) = explained(&fleet);
            assert_eq!(exit, ExitCode::from(code), "{text}");
            assert!(text.contains(says) && text.contains("did not exist") == hidden, "{text}");
            server.lock = Some(Lock { on_change, tools: [("create_issue".to_owned(), locked)].into() });
            fleet.put_server(server.clone());
            let (text, exit) = explained(&fleet);
            assert_eq!(exit, ExitCode::from(0), "{text}");
            assert!(text.contains("another digest than sha256:0707"), "{text}");
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
