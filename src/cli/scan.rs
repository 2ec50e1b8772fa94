//! `portcullis scan`: what a server offers, how risky it is, and the manifests that would govern it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::builder::{EnumValueParser, PossibleValue, StyledStr, TypedValueParser};
use clap::error::{ContextKind, ContextValue};
use http::HeaderName;
use serde::Serialize;
use serde_json::value::RawValue;
use url::Url;

use super::outbound::pem;
use super::output::{self, Format, Said, Tone, counted, filled, progress};
use super::serving::runtime;
use super::{boolish, scaffold, tool_lock};
use crate::egress::{self, AllowPrivate, Egress, EgressError};
use crate::generated::Risk;
use crate::generated::server::{CredentialHeader, Credentials, Upstream as Target, UpstreamTls};
use crate::mcp::list::ToolView;
use crate::sensitive::Sensitive;
use crate::tools::digest::tool_digest;
use crate::tools::risk::{Assessment, assess};
use crate::upstream::{Bounds, DiscoverError, Inventory, Upstream, UpstreamError, inventory};

/// Ask an MCP server what it offers, with risk classes, and write manifests for it
///
/// The manifests that would govern it are an McpServer, and an McpPolicy that denies everything until you open it. Nothing
/// is called on the server: it is asked for its tools only. Exit code 0: it was asked; 2: it cannot be reached, is no MCP
/// server, or the manifests cannot be written.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The server's MCP endpoint, such as https://mcp.vendor.example/mcp
    #[arg(env = "PORTCULLIS_UPSTREAM")]
    url: String,
    /// Write the manifests into this folder
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_OUT")]
    out: Option<PathBuf>,
    /// Write a tool lock as well: the tools' definitions as they are now, for you to review and keep in Git. Where manifests
    /// of an earlier scan are, only the lock is written anew, and its digest in the McpServer
    #[arg(long, requires = "out", env = "PORTCULLIS_LOCK", value_parser = boolish())]
    lock: bool,
    /// Name of the McpServer [default: made from the host]
    #[arg(long, value_name = "NAME", value_parser = scaffold::label, env = "PORTCULLIS_NAME")]
    name: Option<String>,
    /// Namespace of the McpServer
    #[arg(
        short,
        long,
        value_name = "NAMESPACE",
        default_value = "default",
        value_parser = scaffold::label,
        env = "PORTCULLIS_NAMESPACE"
    )]
    namespace: String,
    #[command(flatten)]
    shown: Shown,
    /// PEM certificates trusted for upstreams and issuers besides the system's
    #[arg(long, env = "PORTCULLIS_EXTRA_CA", value_name = "FILE")]
    extra_ca: Option<PathBuf>,
    /// How to print what was found
    #[arg(short, long, default_value = "table", value_parser = FormOrFolder, env = "PORTCULLIS_OUTPUT")]
    output: Format,
}

/// What the server is shown: shared by `scan` and `quickstart`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Shown {
    /// A header that the server wants, with its whole value in an environment variable, so that no list of processes
    /// shows it: Authorization=MY_VARIABLE
    #[arg(
        long = "header-from-env",
        value_name = "HEADER=VARIABLE",
        value_delimiter = ',',
        value_parser = from_env,
        env = "PORTCULLIS_HEADER_FROM_ENV"
    )]
    pub headers: Vec<FromEnv>,
}

/// A header whose value is in the environment.
#[derive(Clone, Debug)]
pub struct FromEnv {
    /// The header.
    pub header: String,
    /// The variable.
    pub variable: String,
}

fn from_env(text: &str) -> Result<FromEnv, String> {
    let parts = text.split_once('=').filter(|(header, variable)| {
        header.parse::<HeaderName>().is_ok() && !variable.is_empty() && !variable.contains('=')
    });
    let (header, variable) = parts.ok_or("write HEADER=VARIABLE, such as Authorization=MY_VARIABLE")?;
    Ok(FromEnv { header: header.to_owned(), variable: variable.to_owned() })
}

impl FromEnv {
    /// The header's value.
    ///
    /// # Errors
    /// If the environment has none.
    pub fn value(&self) -> anyhow::Result<Sensitive> {
        match std::env::var(&self.variable) {
            Ok(value) if !value.is_empty() => Ok(Sensitive::new(value)),
            _ => bail!(
                "--header-from-env {}={}: the environment has no variable {} (is it exported?)",
                self.header,
                self.variable,
                self.variable
            ),
        }
    }
}

impl Shown {
    /// What a request carries.
    ///
    /// # Errors
    /// If the environment lacks a value.
    pub fn credentials(&self) -> anyhow::Result<Credentials> {
        let header = |from: &FromEnv| Ok(CredentialHeader { name: from.header.to_lowercase(), value: from.value()? });
        match self.headers.as_slice() {
            [] => Ok(Credentials::None),
            headers => headers.iter().map(header).collect::<anyhow::Result<_>>().map(Credentials::Headers),
        }
    }
}

/// The parser of `--output`, which knows what is meant when `-o` is given a folder.
#[derive(Clone)]
struct FormOrFolder;

impl TypedValueParser for FormOrFolder {
    type Value = Format;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Format, clap::Error> {
        EnumValueParser::<Format>::new().parse_ref(command, arg, value).map_err(|mut error| {
            let tip =
                format!("-o is the form of the answer; to write manifests into a folder: --out {}", value.display());
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
            error
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let values: Vec<PossibleValue> = EnumValueParser::<Format>::new().possible_values()?.collect();
        Some(Box::new(values.into_iter()))
    }
}

/// What was found of one tool.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its class; absent: nobody can say.
    pub risk: Option<Risk>,
    /// Why.
    pub why: Vec<String>,
    /// Digest of its definition.
    pub digest: Option<String>,
}

/// What was found of a server.
#[derive(Clone, Debug, Serialize)]
pub struct Scan {
    /// Its endpoint.
    pub url: String,
    /// Its own name and version, unverified.
    pub server: Option<String>,
    /// The revision that it speaks.
    pub revision: String,
    /// Its tools, riskiest first.
    pub tools: Vec<Found>,
    /// How many definitions are none that a gateway would list.
    pub unreadable: usize,
    /// The definitions as they came.
    #[serde(skip)]
    pub definitions: Vec<Box<RawValue>>,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let scan = runtime()?.block_on(scan(&args.url, &args.shown, pem(args.extra_ca.as_deref())?))?;
    output::print(args.output, &scan, for_people)?;
    if let Some(out) = &args.out {
        let name = args.name.clone().map_or_else(|| scaffold::name_of(&args.url), Ok)?;
        let manifests = Manifests { out, namespace: &args.namespace, name: &name, headers: &args.shown.headers };
        manifests.write(&scan, args.lock)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes a server's inventory. Its address may be private: whoever typed it meant it.
///
/// # Errors
/// If the server cannot be reached or is no MCP server.
pub async fn scan(url: &str, shown: &Shown, extra_roots_pem: Option<String>) -> anyhow::Result<Scan> {
    let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    let parsed = parsed.with_context(|| format!("{url:?} is no URL such as https://host/mcp"))?;
    let allow_private = AllowPrivate::exactly(&parsed)
        .await
        .map_err(|error| explained(url, shown, UpstreamError::from(error).into()))?;
    let policy = egress::Policy { allow_private, extra_roots_pem, ..egress::Policy::default() };
    let target = Target { url: url.to_owned(), tls: UpstreamTls::default(), credentials: shown.credentials()? };
    let upstream = Upstream::new(&target, &Egress::new(policy)?)?;
    let asked = progress(format!("asking {} for its tools", parsed.host_str().unwrap_or(url)), async {
        inventory(&upstream, &Bounds::default()).await
    });
    let found = asked.await.map_err(|error| explained(url, shown, error))?;
    Ok(assessed(url, &found))
}

/// Why a scan failed, and what may mend it.
fn explained(url: &str, shown: &Shown, error: DiscoverError) -> anyhow::Error {
    let remedy = match &error {
        DiscoverError::Upstream(UpstreamError::CredentialsRefused { status }) if shown.headers.is_empty() => {
            return anyhow!(
                "{url} wants credentials (status {status}): put the header's whole value, such as \"Bearer ...\", into an \
                 environment variable and give --header-from-env Authorization=VARIABLE"
            );
        }
        DiscoverError::Upstream(UpstreamError::CredentialsRefused { status }) => {
            return anyhow!(
                "{url} refuses what --header-from-env shows it (status {status}): does the variable hold the header's whole \
                 value, such as \"Bearer ...\", and is it still good?"
            );
        }
        DiscoverError::Malformed { .. } => ": is it an MCP server?",
        DiscoverError::Upstream(UpstreamError::ContentType) => ": is this the MCP endpoint? It often ends in /mcp",
        DiscoverError::Upstream(UpstreamError::Http { .. }) => {
            ": is it an MCP server, and is it http that it speaks there?"
        }
        DiscoverError::Upstream(UpstreamError::Egress(EgressError::Resolve { .. })) => ": is the host spelled right?",
        DiscoverError::Upstream(UpstreamError::Egress(EgressError::Connect { .. })) => {
            ": is the server running, and are host and port right?"
        }
        DiscoverError::Upstream(UpstreamError::Egress(EgressError::Tls { .. })) => {
            ": does it speak https there? If its certificate is of a private authority, give that with --extra-ca FILE"
        }
        _ => "",
    };
    anyhow!("cannot scan {url}: {error}{remedy}")
}

/// Judges what a server says that it has.
pub fn assessed(url: &str, found: &Inventory) -> Scan {
    let mut tools: Vec<Found> =
        found.tools.iter().filter_map(|raw| ToolView::read(raw.get())).map(|tool| judged(&tool)).collect();
    tools.sort_by(|a, b| b.risk.cmp(&a.risk).then_with(|| a.name.cmp(&b.name)));
    let server = found.server_name.as_ref().map(|name| match &found.server_version {
        Some(version) => format!("{name} {version}"),
        None => name.clone(),
    });
    let unreadable = found.tools.len() - tools.len();
    let definitions = found.tools.clone();
    Scan { url: url.to_owned(), server, revision: found.revision.to_owned(), tools, unreadable, definitions }
}

fn judged(tool: &ToolView<'_>) -> Found {
    let Assessment { class, reasons, .. } = assess(tool, None, []);
    let mut why: Vec<String> = reasons.into_iter().map(|reason| reason.why).collect();
    match (class, why.as_slice()) {
        (None, []) => why.push("nothing says what it does".to_owned()),
        (None, [..]) => why.push("the server's own word alone gives no class".to_owned()),
        (Some(_), _) => {}
    }
    Found { name: tool.name.to_string(), risk: class, why, digest: tool_digest(tool).map(|digest| digest.to_string()) }
}

/// The table of a scan.
pub fn for_people(scan: &Scan) -> String {
    let row = |tool: &Found| -> Vec<Said> {
        let (risk, tone) = match tool.risk {
            Some(risk @ Risk::ReadOnly) => (risk.as_str(), Tone::Good),
            Some(risk @ Risk::Write) => (risk.as_str(), Tone::Caution),
            Some(risk @ Risk::Destructive) => (risk.as_str(), Tone::Bad),
            None => ("unclassified", Tone::Caution),
        };
        vec![(tool.name.clone(), Tone::Plain), (risk.to_owned(), tone), (tool.why.join("\n"), Tone::Plain)]
    };
    let server = scan.server.as_deref().unwrap_or("a server without a name");
    let count = counted(scan.tools.len(), "tool");
    let mut parts = vec![output::printable(&format!("{server} at {}, revision {}, {count}", scan.url, scan.revision))];
    if !scan.tools.is_empty() {
        let rows: Vec<_> = scan.tools.iter().map(row).collect();
        parts.push(filled(&["tool", "risk", "why"], &["why"], &rows).to_string());
    }
    if scan.tools.iter().any(|tool| tool.risk.is_none()) {
        parts.push(
            "No rule by class grants what is unclassified: name it in a rule, or give it a class in spec.tools.risk."
                .to_owned(),
        );
    }
    if scan.unreadable > 0 {
        let definitions = counted(scan.unreadable, "definition");
        parts.push(format!("{definitions} besides cannot be read: the gateway lists no such tool."));
    }
    parts.join("\n\n")
}

/// Where manifests of a scanned server are written.
struct Manifests<'a> {
    out: &'a Path,
    namespace: &'a str,
    name: &'a str,
    headers: &'a [FromEnv],
}

impl Manifests<'_> {
    fn write(&self, scan: &Scan, with_lock: bool) -> anyhow::Result<()> {
        let Self { out, namespace, name, headers } = *self;
        fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
        let file = format!("{name}.yaml");
        let there = out.join(&file).exists();
        if there && !with_lock {
            bail!("{} is there already: remove it, or choose another folder with --out", out.join(&file).display());
        }
        let lock = with_lock.then(|| tool_lock::make(out, namespace, name, scan)).transpose()?;
        if let Some(lock) = lock.as_ref().filter(|_| there) {
            return lock.renew(out, &file);
        }
        let mut text = scaffold::server(namespace, name, "local", scan, headers);
        if let Some(lock) = &lock {
            lock.write(out)?;
            text += &lock.reference("  ");
        }
        text += "---\n";
        if !headers.is_empty() {
            let entries: Vec<_> = headers.iter().map(|from| (from.header.as_str(), "replace-me")).collect();
            text += "# Put the whole value of the header here, or into a file of its own that no repository sees.\n";
            text += &scaffold::secret(namespace, name, &scan.url, &entries)?;
            text += "---\n";
        }
        text += &scaffold::closed_policy(namespace, name, scan);
        let written = scaffold::write(out, &file, &text, 0o644)?;
        eprintln!("wrote {}: nobody may call anything until you open it there", written.display());
        Ok(())
    }
}
