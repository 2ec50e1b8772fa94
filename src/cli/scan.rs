//! `portcullis scan`: what a server offers, how risky it is, and the manifests that would govern it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;
use url::Url;

use super::output::{self, Format, Tone, cell, progress, table};
use super::standalone::runtime;
use crate::egress::{self, AllowPrivate, Egress};
use crate::generated::server::{CredentialHeader, Credentials, Upstream as Target, UpstreamTls};
use crate::generated::{Risk, Sensitive};
use crate::mcp::list::ToolView;
use crate::tools::digest::tool_digest;
use crate::tools::risk::{Assessment, assess};
use crate::upstream::{Bounds, DiscoverError, Inventory, Upstream, UpstreamError, inventory};

/// Ask an MCP server what it offers, and write the manifests that would govern it: an McpServer, and an McpPolicy that
/// denies everything until you open it.
///
/// Nothing is called on the server: it is asked for its tools only.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The server's MCP endpoint, such as https://mcp.vendor.example/mcp
    url: String,
    /// Write the manifests into this folder
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_OUT")]
    out: Option<PathBuf>,
    /// Name of the McpServer [default: made from the host]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Namespace of the McpServer
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// A header that the server wants, its value in an environment variable: Authorization=TOKEN_VARIABLE
    #[arg(long = "header-from-env", value_name = "HEADER=VARIABLE")]
    headers: Vec<String>,
    /// PEM certificates trusted besides the system's
    #[arg(long, env = "PORTCULLIS_EXTRA_CA", value_name = "FILE")]
    extra_ca: Option<PathBuf>,
    /// How to print what was found
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    output: Format,
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
    /// Whether it can be called without arguments.
    #[serde(skip)]
    pub without_arguments: bool,
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
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let extra = args.extra_ca.as_ref().map(fs::read_to_string).transpose().context("--extra-ca")?;
    let credentials = credentials(&args.headers)?;
    let scan = runtime()?.block_on(scan(&args.url, credentials, extra))?;
    output::print(args.output, &scan, for_people)?;
    if let Some(out) = &args.out {
        let name = args.name.clone().map_or_else(|| name_of(&args.url), Ok)?;
        let written = write_manifests(out, &args.namespace, &name, &scan, !args.headers.is_empty())?;
        eprintln!("wrote {}: nobody may call anything until you open it there", written.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes a server's inventory. Its address may be private: whoever typed it meant it.
///
/// # Errors
/// If the server cannot be reached or is no MCP server.
pub async fn scan(url: &str, credentials: Credentials, extra_roots_pem: Option<String>) -> anyhow::Result<Scan> {
    let parsed = Url::parse(url).with_context(|| format!("{url:?} is no URL such as https://host/mcp"))?;
    let policy = egress::Policy {
        allow_private: AllowPrivate::exactly(&parsed).await?,
        extra_roots_pem,
        ..egress::Policy::default()
    };
    let target = Target { url: url.to_owned(), tls: UpstreamTls::default(), credentials };
    let upstream = Upstream::new(&target, &Egress::new(policy)?)?;
    let asked = progress(format!("asking {} for its tools", parsed.host_str().unwrap_or(url)), async {
        inventory(&upstream, &Bounds::default()).await
    });
    let found = asked.await.map_err(|error| {
        let remedy = match error {
            DiscoverError::Upstream(UpstreamError::CredentialsRefused { status }) => {
                return anyhow!(
                    "{url} wants credentials (status {status}): put them into an environment variable and give \
                     --header-from-env Authorization=VARIABLE"
                );
            }
            DiscoverError::Upstream(UpstreamError::Redirected { .. }) => ": give the URL that it redirects to",
            DiscoverError::Upstream(UpstreamError::ContentType) => ": is this the MCP endpoint? It often ends in /mcp",
            _ => "",
        };
        anyhow::Error::new(error).context(format!("cannot scan {url}{remedy}"))
    })?;
    Ok(assessed(url, &found))
}

/// Judges what a server says that it has.
pub fn assessed(url: &str, found: &Inventory) -> Scan {
    let mut tools: Vec<Found> = found
        .tools
        .iter()
        .filter_map(|raw| ToolView::read(raw.get()))
        .map(|tool| {
            let Assessment { class, reasons, .. } = assess(&tool, None, []);
            Found {
                name: tool.name.to_string(),
                risk: class,
                why: reasons.into_iter().map(|reason| reason.why).collect(),
                digest: tool_digest(&tool),
                without_arguments: !requires_arguments(tool.input_schema),
            }
        })
        .collect();
    tools.sort_by(|a, b| b.risk.cmp(&a.risk).then_with(|| a.name.cmp(&b.name)));
    let server = found.server_name.as_ref().map(|name| match &found.server_version {
        Some(version) => format!("{name} {version}"),
        None => name.clone(),
    });
    Scan { url: url.to_owned(), server, revision: found.revision.to_owned(), tools }
}

fn requires_arguments(schema: Option<&str>) -> bool {
    let schema: Option<serde_json::Value> = schema.and_then(|text| serde_json::from_str(text).ok());
    schema.is_some_and(|schema| schema["required"].as_array().is_some_and(|required| !required.is_empty()))
}

/// The table of a scan.
pub fn for_people(scan: &Scan) -> String {
    let mut rows = table(["tool", "risk", "why", "definition"]);
    for tool in &scan.tools {
        let (risk, tone) = match tool.risk {
            Some(risk @ Risk::ReadOnly) => (risk.as_str(), Tone::Good),
            Some(risk @ Risk::Write) => (risk.as_str(), Tone::Caution),
            Some(risk @ Risk::Destructive) => (risk.as_str(), Tone::Bad),
            None => ("unclassified", Tone::Caution),
        };
        let why = if tool.why.is_empty() { "nothing says what it does".to_owned() } else { tool.why.join("\n") };
        let digest: String = tool.digest.iter().flat_map(|digest| digest.chars()).take(19).collect();
        rows.add_row([
            cell(&tool.name, Tone::Plain),
            cell(risk, tone),
            cell(why, Tone::Plain),
            cell(digest, Tone::Faint),
        ]);
    }
    let server = scan.server.as_deref().unwrap_or("a server without a name");
    let count = scan.tools.len();
    output::printable(&format!("{server} at {}, revision {}, {count} tools", scan.url, scan.revision))
        + "\n\n"
        + &rows.to_string()
}

fn credentials(headers: &[String]) -> anyhow::Result<Credentials> {
    if headers.is_empty() {
        return Ok(Credentials::None);
    }
    let header = |text: &String| {
        let (name, variable) = text.split_once('=').with_context(|| format!("{text:?}: write HEADER=VARIABLE"))?;
        let value = std::env::var(variable).with_context(|| format!("the environment has no {variable}"))?;
        Ok(CredentialHeader { name: name.to_lowercase(), value: Sensitive::new(value) })
    };
    headers.iter().map(header).collect::<anyhow::Result<_>>().map(Credentials::Headers)
}

/// A Kubernetes name made from a URL's host.
///
/// # Errors
/// If the URL has no host.
pub fn name_of(url: &str) -> anyhow::Result<String> {
    let parsed = Url::parse(url)?;
    let host = parsed.host_str().context("the URL has no host")?;
    let name: String =
        host.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let name = name.trim_matches('-');
    Ok(match name.chars().next() {
        Some(first) if first.is_ascii_alphabetic() => name.chars().take(50).collect(),
        _ => format!("server-{name}").chars().take(50).collect(),
    })
}

fn write_manifests(out: &Path, namespace: &str, name: &str, scan: &Scan, has_headers: bool) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let path = out.join(format!("{name}.yaml"));
    if path.exists() {
        bail!("{} is there already: remove it, or choose another folder with --out", path.display());
    }
    let text =
        server_manifest(namespace, name, "local", scan, has_headers) + "---\n" + &closed_policy(namespace, name, scan);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The McpServer of a scanned server. `authority` names an McpAuthorizationServer.
pub fn server_manifest(namespace: &str, name: &str, authority: &str, scan: &Scan, has_headers: bool) -> String {
    let credentials = if has_headers {
        "      # Put the value into a Secret with the annotation portcullis.dev/allowed-hosts, and name it here.\n      \
         headers:\n      - name: Authorization\n        secretKeyRef: {name: upstream-credentials, key: authorization}\n"
    } else {
        "      none: {} # The caller's token is never passed on. What the upstream needs is said here.\n"
    };
    format!(
        "apiVersion: portcullis.dev/v1alpha1\n\
         kind: McpServer\n\
         metadata:\n  name: {name}\n  namespace: {namespace}\n\
         spec:\n  upstream:\n    url: {url}\n    credentials:\n{credentials}  \
         authorization:\n    # Whose tokens are accepted: names of McpAuthorizationServers.\n    servers: [{authority}]\n",
        url = quoted(&scan.url),
    )
}

fn closed_policy(namespace: &str, name: &str, scan: &Scan) -> String {
    format!(
        "# What no rule allows is denied. This one grants nothing: no such person exists. Replace the principals of the\n\
         # rules with your own, class by class.\n\
         apiVersion: portcullis.dev/v1alpha1\n\
         kind: McpPolicy\n\
         metadata:\n  name: {name}\n  namespace: {namespace}\n\
         spec:\n  authority: local\n  targets:\n    servers: [{name}]\n  rules:\n{}",
        [Risk::ReadOnly, Risk::Write, Risk::Destructive]
            .map(|class| rule(
                &format!("nobody-yet-{}", class.as_str().to_lowercase()),
                "users: [nobody-yet]",
                class,
                scan
            ))
            .concat()
    )
}

/// An Allow for the tools of one class, by class, with the tools that are in it as a comment.
pub fn rule(name: &str, principal: &str, class: Risk, scan: &Scan) -> String {
    let tools = named(scan, Some(class));
    let comment = if tools.is_empty() { "none today".to_owned() } else { tools };
    format!(
        "  - name: {name}\n    effect: Allow\n    principals:\n    - {principal}\n    tools:\n    # {comment}\n    \
         - risk: [{}]\n",
        class.as_str()
    )
}

/// Tools of a class, for a comment: an upstream's words, so on one line and printable.
pub fn named(scan: &Scan, class: Option<Risk>) -> String {
    let names: Vec<&str> = scan.tools.iter().filter(|tool| tool.risk == class).map(|tool| tool.name.as_str()).collect();
    let text: String = output::printable(&names.join(", ")).replace('\n', " ");
    if text.chars().count() > 100 { text.chars().take(99).chain(['…']).collect() } else { text }
}

/// A YAML string that is a string whatever it holds: JSON strings are YAML.
pub fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}
