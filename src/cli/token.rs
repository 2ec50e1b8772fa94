//! `portcullis token`: tokens of the local authority, one per person.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;

use super::load;
use super::output::{self, Format, Tone, cell, wide_table};
use super::place::Place;
use crate::fleet::Fleet;
use crate::generated::authority::{KeySource, Revocation};
use crate::generated::{Authority, Server};
use crate::issuer::{LocalAuthority, TokenRecord, TokenRequest};
use crate::roles::standalone::StateDir;

/// Issue, list and revoke tokens of the gateway's own issuer.
///
/// Works while the gateway runs: a revoked token is refused within a second, also on streams that are open.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Issue a token for one person; it is printed once and kept nowhere
    Issue(Issue),
    /// List the tokens that were issued
    List(List),
    /// Revoke one token, or all that a person has
    Revoke(Revoke),
}

#[derive(clap::Args, Debug)]
struct Issue {
    #[command(flatten)]
    which: Which,
    /// For whom the token speaks
    #[arg(long = "for", alias = "subject", value_name = "PERSON")]
    subject: String,
    /// A server at which it is accepted; may be given several times
    #[arg(long = "server", value_name = "NAMESPACE/NAME", required = true)]
    servers: Vec<String>,
    /// A group of the person; may be given several times
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// A scope besides those that the servers ask for in general; may be given several times
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// How long it lasts, such as 30m, 8h or 7d; at most 90d
    #[arg(long, value_name = "TIME", default_value = "8h", value_parser = duration)]
    lifetime: u32,
    /// The client that it is given to
    #[arg(long, value_name = "ID", default_value = "portcullis-cli")]
    client: String,
    /// A note for the list
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// How to print; as a table, only the token itself goes to standard output
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    output: Format,
}

#[derive(clap::Args, Debug)]
struct List {
    #[command(flatten)]
    which: Which,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    output: Format,
}

#[derive(clap::Args, Debug)]
#[group(skip)]
struct Revoke {
    #[command(flatten)]
    which: Which,
    /// The token with this id, as `token list` shows it
    #[arg(long, value_name = "ID", required_unless_present = "subject", conflicts_with = "subject")]
    id: Option<String>,
    /// All tokens of this person that were issued until now
    #[arg(long = "for", alias = "subject", value_name = "PERSON")]
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
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Issue(args) => issue(&args),
        Verb::List(args) => list(&args),
        Verb::Revoke(args) => revoke(&args),
    }
}

#[derive(Serialize)]
struct Issued<'a> {
    token: &'a str,
    #[serde(flatten)]
    record: &'a TokenRecord,
}

fn issue(args: &Issue) -> anyhow::Result<ExitCode> {
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
        let server = server(&fleet, name)?;
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
    let record = &issued.record;
    let token = issued.token.expose();
    match args.output {
        Format::Table => {
            eprintln!(
                "token {} for {}, until {}; it is shown once: keep it like a password",
                record.jti,
                output::printable(&record.subject),
                time(record.expires_at)
            );
            println!("{token}");
        }
        format => output::print(format, &Issued { token, record }, |_| String::new())?,
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    record: TokenRecord,
    state: &'static str,
}

fn list(args: &List) -> anyhow::Result<ExitCode> {
    let (_, authority) = args.which.find()?;
    let issuer = args.which.open(&authority)?;
    let (now, revoked) = (now(), issuer.revocations()?);
    let tokens: Vec<Listed> =
        issuer.list()?.into_iter().map(|record| Listed { state: state(&record, &revoked, now), record }).collect();
    output::print(args.output, &tokens, |tokens| {
        let mut rows = wide_table(["id", "for", "groups", "servers", "issued", "expires", "state", "label"]);
        for Listed { record, state } in tokens {
            let tone = if *state == "active" { Tone::Good } else { Tone::Faint };
            rows.add_row([
                cell(&record.jti, Tone::Plain),
                cell(&record.subject, Tone::Plain),
                cell(record.groups.join(", "), Tone::Plain),
                cell(record.audiences.join("\n"), Tone::Plain),
                cell(time(record.issued_at), Tone::Plain),
                cell(time(record.expires_at), Tone::Plain),
                cell(state, tone),
                cell(record.label.as_deref().unwrap_or_default(), Tone::Plain),
            ]);
        }
        if tokens.is_empty() { "no tokens were issued".to_owned() } else { rows.to_string() }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn revoke(args: &Revoke) -> anyhow::Result<ExitCode> {
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
    eprintln!("revoked, but no token on record is affected: see portcullis token list");
    Ok(ExitCode::from(1))
}

impl Which {
    /// The manifests, and the local authority among them.
    fn find(&self) -> anyhow::Result<(Fleet, Arc<Authority>)> {
        let place = &self.place;
        let fleet = load::load(&place.manifests()?, &place.public_url()?, &place.system_namespace)?.fleet;
        let mut locals: Vec<Arc<Authority>> =
            fleet.authorities().filter(|authority| authority.keys == KeySource::Local).cloned().collect();
        let names = locals.iter().map(|authority| authority.id.name.as_str()).collect::<Vec<_>>().join(", ");
        let authority = match &self.authority {
            Some(name) => locals.into_iter().find(|authority| authority.id.name == *name),
            None if locals.len() > 1 => bail!("there are several local authorities: choose with --authority {names}"),
            None => locals.pop(),
        };
        let authority = authority.with_context(|| match &self.authority {
            Some(name) => format!("{name} is no McpAuthorizationServer with `local: {{}}`; there are: {names}"),
            None => "no McpAuthorizationServer with `local: {}` is among the manifests".to_owned(),
        })?;
        Ok((fleet, authority))
    }

    fn open(&self, authority: &Authority) -> anyhow::Result<LocalAuthority> {
        let state = StateDir::open(&self.place.state()?)?;
        Ok(LocalAuthority::open(&state.issuer(&authority.id.name), authority.issuer.clone())?)
    }
}

fn server(fleet: &Fleet, name: &str) -> anyhow::Result<Arc<Server>> {
    let found = name.split_once('/').and_then(|(namespace, name)| fleet.by_name(namespace, name));
    let known = || {
        let names: Vec<String> = fleet.servers().map(|served| served.server.id.display_name()).collect();
        format!("there is no McpServer {name} (NAMESPACE/NAME); there are: {}", names.join(", "))
    };
    found.map(|served| served.server.clone()).with_context(known)
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
