//! `portcullis token`: tokens of the local authority, one per person.

mod cluster;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;

use self::cluster::There;
use super::output::{self, Format, Said, Tone, wide};
use super::place::Place;
use super::source::is_plugin;
use super::{boolish, load};
use crate::api::schema::nearest;
use crate::fleet::Fleet;
use crate::generated::Authority;
use crate::generated::authority::{KeySource, Revocation};
use crate::issuer::{LocalAuthority, TokenRecord, TokenRequest};
use crate::roles::serving::StateDir;

/// Issue, list and revoke tokens of the gateway's own issuer
///
/// Works while the gateway runs: a revoked token is refused within a second, also on streams that are open. In a cluster
/// (--cluster, or as kubectl portcullis) a token is that of an McpClient, which goes on to be kept fresh in its Secret.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Issue(Issue),
    List(List),
    Revoke(Revoke),
}

/// Issue a token for one person; it is printed once
#[derive(clap::Args, Debug)]
struct Issue {
    #[command(flatten)]
    which: Which,
    /// For whom the token speaks
    #[arg(long = "for", alias = "subject", value_name = "PERSON", allow_hyphen_values = true, env = "PORTCULLIS_FOR")]
    subject: String,
    /// A server at which it is accepted; may be given several times
    #[arg(
        long = "server",
        value_name = "NAMESPACE/NAME",
        required = true,
        value_delimiter = ',',
        env = "PORTCULLIS_SERVER"
    )]
    servers: Vec<String>,
    /// A group of the person; may be given several times
    #[arg(
        long = "group",
        value_name = "GROUP",
        allow_hyphen_values = true,
        value_delimiter = ',',
        env = "PORTCULLIS_GROUPS"
    )]
    groups: Vec<String>,
    /// A scope besides those that the servers ask for in general; may be given several times
    #[arg(
        long = "scope",
        value_name = "SCOPE",
        allow_hyphen_values = true,
        value_delimiter = ',',
        env = "PORTCULLIS_SCOPES"
    )]
    scopes: Vec<String>,
    /// How long it lasts, such as 30m, 8h or 7d; at most 90d
    #[arg(long, value_name = "TIME", default_value = "8h", value_parser = duration, env = "PORTCULLIS_LIFETIME")]
    lifetime: u32,
    /// The client that it is given to
    #[arg(
        long,
        value_name = "ID",
        allow_hyphen_values = true,
        default_value = "portcullis-cli",
        env = "PORTCULLIS_CLIENT"
    )]
    client: String,
    /// A note for the list
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, env = "PORTCULLIS_LABEL")]
    label: Option<String>,
    /// How to print; as a table, only the token itself goes to standard output
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    output: Format,
}

/// List the tokens that were issued
#[derive(clap::Args, Debug)]
struct List {
    #[command(flatten)]
    which: Which,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    output: Format,
}

/// Revoke one token, or all that a person has
///
/// Exit code 0: it is refused from now on; 1: so it is, but no token on record is meant, so look at what was typed; 2:
/// nothing was revoked.
#[derive(clap::Args, Debug)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("what").required(true))]
struct Revoke {
    #[command(flatten)]
    which: Which,
    /// The token with this id, as `token list` shows it
    #[arg(long, value_name = "ID", allow_hyphen_values = true, group = "what", env = "PORTCULLIS_ID")]
    id: Option<String>,
    /// All tokens of this person that were issued until now
    #[arg(
        long = "for",
        alias = "subject",
        value_name = "PERSON",
        allow_hyphen_values = true,
        group = "what",
        env = "PORTCULLIS_FOR"
    )]
    subject: Option<String>,
}

/// Which local authority.
#[derive(clap::Args, Debug)]
struct Which {
    #[command(flatten)]
    place: Place,
    /// The McpAuthorizationServer with `local: {}` [default: the only one]
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_AUTHORITY")]
    authority: Option<String>,
    /// Ask the cluster of the kubeconfig instead of a gateway on this machine; kubectl portcullis does so by itself
    #[arg(long, env = "PORTCULLIS_CLUSTER", value_parser = boolish())]
    cluster: bool,
    /// The kubeconfig's context to ask instead of the current one
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_CONTEXT")]
    context: Option<String>,
    /// In a cluster: the namespace of the McpClients [default: that of the servers, or the kubeconfig's]
    #[arg(short, long, value_name = "NAMESPACE", env = "PORTCULLIS_NAMESPACE")]
    namespace: Option<String>,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Issue(args) => issue(&args),
        Verb::List(args) => list(&args),
        Verb::Revoke(args) => revoke(&args),
    }
}

/// What is printed of a token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Printed<'a> {
    /// The token itself, once.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    jti: &'a str,
    subject: &'a str,
    audiences: &'a [String],
    client_id: &'a str,
    groups: &'a [String],
    scopes: &'a [String],
    issued_at: String,
    expires_at: String,
    label: Option<&'a str>,
    state: &'static str,
}

impl<'a> Printed<'a> {
    fn of(record: &'a TokenRecord, token: Option<&'a str>, state: &'static str) -> Self {
        Self {
            token,
            jti: &record.jti,
            subject: &record.subject,
            audiences: &record.audiences,
            client_id: &record.client_id,
            groups: &record.groups,
            scopes: &record.scopes,
            issued_at: time(record.issued_at),
            expires_at: time(record.expires_at),
            label: record.label.as_deref(),
            state,
        }
    }
}

fn issue(args: &Issue) -> anyhow::Result<ExitCode> {
    if args.which.is_in_cluster() {
        let (token, record) =
            cluster::ask(async { There::connect(&args.which, &args.servers).await?.issue(args).await })?;
        return say_issued(args, &record, &token);
    }
    let (fleet, authority) = args.which.find()?;
    let issuer = args.which.open(&authority)?;
    let mut request = TokenRequest {
        subject: args.subject.clone(),
        audiences: Vec::new(),
        client_id: args.client.clone(),
        groups: args.groups.clone(),
        scopes: args.scopes.clone(),
        lifetime_seconds: args.lifetime,
        label: args.label.clone(),
    };
    for name in &args.servers {
        let server = &load::server(&fleet, name)?.server;
        if !server.authorities.contains(&authority.id.name) {
            bail!(
                "{name} does not trust {}: add it to spec.authorization.servers, or choose with --authority one of {}",
                authority.id.name,
                server.authorities.join(", ")
            );
        }
        request.audiences.push(server.resource.clone());
        request.scopes.extend(server.scopes.baseline.iter().cloned());
    }
    request.scopes.sort();
    request.scopes.dedup();
    let issued = issuer.issue(&request, now())?;
    say_issued(args, &issued.record, issued.token.expose())
}

fn say_issued(args: &Issue, record: &TokenRecord, token: &str) -> anyhow::Result<ExitCode> {
    match args.output {
        Format::Table => {
            eprintln!(
                "token {} for {}, until {}; it is shown once: keep it like a password",
                record.jti,
                output::printable(&record.subject),
                time(record.expires_at)
            );
            output::say(token)?;
        }
        format => output::print(format, &Printed::of(record, Some(token), "active"), |_| String::new())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(args: &List) -> anyhow::Result<ExitCode> {
    if args.which.is_in_cluster() {
        let records = cluster::ask(async { There::connect(&args.which, &[]).await?.list().await })?;
        let tokens: Vec<Printed<'_>> = records.iter().map(|(record, state)| Printed::of(record, None, state)).collect();
        return say_list(args, &tokens);
    }
    let (_, authority) = args.which.find()?;
    let issuer = args.which.open(&authority)?;
    let (now, revoked, records) = (now(), issuer.revocations()?, issuer.list()?);
    let tokens: Vec<Printed<'_>> =
        records.iter().map(|record| Printed::of(record, None, state(record, &revoked, now))).collect();
    say_list(args, &tokens)
}

fn say_list(args: &List, tokens: &[Printed<'_>]) -> anyhow::Result<ExitCode> {
    output::print(args.output, &tokens, |tokens| {
        if tokens.is_empty() {
            return "no tokens were issued".to_owned();
        }
        let head = ["id", "for", "state", "expires", "groups", "servers", "issued", "label"];
        wide(&head, &tokens.iter().map(row).collect::<Vec<_>>()).to_string()
    })?;
    Ok(ExitCode::SUCCESS)
}

fn row(token: &Printed<'_>) -> Vec<Said> {
    let tone = if token.state == "active" { Tone::Good } else { Tone::Faint };
    let plain = |text: String| (text, Tone::Plain);
    vec![
        plain(token.jti.to_owned()),
        plain(token.subject.to_owned()),
        (token.state.to_owned(), tone),
        plain(token.expires_at.clone()),
        plain(token.groups.join(", ")),
        plain(token.audiences.join(", ")),
        plain(token.issued_at.clone()),
        plain(token.label.unwrap_or_default().to_owned()),
    ]
}

fn revoke(args: &Revoke) -> anyhow::Result<ExitCode> {
    if args.which.is_in_cluster() {
        let any = cluster::ask(async { There::connect(&args.which, &[]).await?.revoke(args).await })?;
        let what = args.id.as_ref().or(args.subject.as_ref()).map_or("", String::as_str);
        return Ok(cluster::say_revoked(any, what, args.which.namespace.as_deref()));
    }
    let (_, authority) = args.which.find()?;
    let issuer = args.which.open(&authority)?;
    let now = now();
    let what = match (&args.id, &args.subject) {
        (Some(id), _) => Revocation::Token { jti: id.clone() },
        // One second on: tokens of this very second are meant too.
        (None, Some(subject)) => Revocation::Subject { subject: subject.clone(), issued_before: now + 1 },
        (None, None) => bail!("say what to revoke: --id ID or --for PERSON"),
    };
    if issuer.revoke(&what, now)? {
        eprintln!("revoked: a running gateway refuses it within a second");
        return Ok(ExitCode::SUCCESS);
    }
    let records = issuer.list()?;
    let known = || records.iter().map(|record| if args.id.is_some() { &record.jti } else { &record.subject });
    let typed = args.id.as_ref().or(args.subject.as_ref()).map_or("", String::as_str);
    let hint = match nearest(typed, known().map(String::as_str)) {
        Some(meant) => format!("did you mean {meant}?"),
        None => "see portcullis token list".to_owned(),
    };
    let message = format!("warning: no token on record is meant by {typed:?}, which is refused from now on: {hint}");
    eprintln!("{}", output::printable(&message));
    Ok(ExitCode::from(1))
}

impl Which {
    fn is_in_cluster(&self) -> bool {
        self.cluster || self.context.is_some() || is_plugin() && !self.place.is_named()
    }

    /// The manifests, and the local authority among them.
    fn find(&self) -> anyhow::Result<(Fleet, Arc<Authority>)> {
        let place = &self.place;
        let fleet = load::load(&place.manifests()?, &place.public_url()?, place.system_namespace())?.fleet;
        let mut locals: Vec<Arc<Authority>> =
            fleet.authorities().filter(|authority| authority.keys == KeySource::Local).cloned().collect();
        let names = locals.iter().map(|authority| authority.id.name.as_str()).collect::<Vec<_>>().join(", ");
        let authority = match &self.authority {
            Some(name) => locals.into_iter().find(|authority| authority.id.name == *name),
            None if locals.len() > 1 => bail!("there are several local authorities: choose with --authority {names}"),
            None => locals.pop(),
        };
        let authority = authority.with_context(|| match &self.authority {
            Some(name) => {
                let known = names.split(", ").filter(|name| !name.is_empty()).map(str::to_owned).collect();
                load::missing(&format!("McpAuthorizationServer {name} with `local: {{}}`"), name, known)
            }
            None => "no McpAuthorizationServer with `local: {}` is there, so there is no issuer of tokens: \
                     add one, or get tokens from the issuer that they name"
                .to_owned(),
        })?;
        Ok((fleet, authority))
    }

    fn open(&self, authority: &Authority) -> anyhow::Result<LocalAuthority> {
        let state = StateDir::open(&self.place.state()?)?;
        Ok(LocalAuthority::open(&state.issuer(&authority.id.name), authority.issuer.clone())?)
    }
}

fn state(record: &TokenRecord, revoked: &[Revocation], now: i64) -> &'static str {
    let is_revoked = revoked.iter().any(|revocation| match revocation {
        Revocation::Token { jti } => *jti == record.jti,
        Revocation::Subject { subject, issued_before } => {
            *subject == record.subject && record.issued_at < *issued_before
        }
    });
    match is_revoked {
        true => "revoked",
        false if record.expires_at <= now => "expired",
        false => "active",
    }
}

/// Unix seconds as RFC 3339.
fn time(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Reads `45s`, `30m`, `8h` or `7d`, in seconds.
pub fn duration(text: &str) -> Result<u32, String> {
    let expected = || format!("{text:?}: write a number and a unit, such as 30m, 8h or 7d");
    let unit = text.chars().last().ok_or_else(expected)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(expected()),
    };
    let count: u32 = text.strip_suffix(unit).and_then(|count| count.parse().ok()).ok_or_else(expected)?;
    count.checked_mul(seconds).filter(|total| *total > 0).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("90s"), Ok(90));
        assert_eq!(duration("8h"), Ok(28_800));
        assert_eq!(duration("7d"), Ok(604_800));
        for bad in ["", "8", "h", "0m", "-1h", "1.5h", "99999999d", "8 h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
