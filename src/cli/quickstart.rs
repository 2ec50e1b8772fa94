//! `portcullis quickstart`: a governed server in seconds.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::outbound::pem;
use super::output::{self, printable, progress};
use super::scan::{self, Shown};
use super::serving::{Guardrails, Serving, ended, runtime};
use super::{boolish, scaffold};
use crate::generated::Risk;
use crate::process::telemetry::{self, Format};
use crate::roles::quickstart::{Demo, Kept, PERSONS, Quickstart, SERVER, Said, Tour, Upstream};
use crate::roles::standalone::{Options, TRUST_EVERY};

/// A governed MCP server in seconds: try this first
///
/// Makes a folder with manifests that you can edit while it serves, starts a small demo server (or puts the gate in front
/// of --upstream), issues a token for each of two persons with different grants, and makes a few calls to show what
/// happens. Start it again over the same folder, and it goes on with what you made of it. Exit code 0: it ended cleanly;
/// 1: calls were cut off at the end; 2: it could not start.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The folder of a quickstart: its manifests and its state
    #[arg(long, env = "PORTCULLIS_DIR", value_name = "DIR", default_value = "portcullis-quickstart")]
    dir: PathBuf,
    /// Govern this MCP server instead of the demo
    #[arg(long, env = "PORTCULLIS_UPSTREAM", value_name = "URL")]
    upstream: Option<String>,
    #[command(flatten)]
    shown: Shown,
    /// Stop after the first calls: for scripts. Exit code 1 unless one was allowed and one refused
    #[arg(long, env = "PORTCULLIS_TOUR_ONLY", value_parser = boolish())]
    tour_only: bool,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    guardrails: Guardrails,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::init(Format::Auto, Some(&std::env::var(telemetry::FILTER_VARIABLE).unwrap_or_else(|_| "warn".into())))?;
    runtime()?.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<ExitCode> {
    let manifests = args.dir.join("manifests");
    let mut serving = args.serving.clone().options(args.dir.join("state"), args.serving.outbound.clone().policy()?)?;
    let kept = prepare(&args, &manifests).await?;
    if serving.admin_listen.is_none() {
        serving.admin_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    }
    let system_namespace = args.guardrails.system_namespace.clone();
    let options = Options { manifests: vec![manifests.clone()], system_namespace, trust_every: TRUST_EVERY, serving };
    let quickstart = Quickstart::start(kept, options).await?;
    quickstart.drain().on_signals()?;
    let said = quickstart.said()?;
    output::say(&head(&args.dir, &said))?;
    let tour = progress("calling through the gateway".to_owned(), quickstart.tour(&said)).await?;
    output::say(&seen(&tour))?;
    let lacks = tour.lacks().filter(|_| args.tour_only);
    if let Some(lacks) = lacks {
        let policy = manifests.join("3-policy.yaml");
        eprintln!("error: the tour shows {lacks} by {}", policy.display());
    }
    if args.tour_only {
        quickstart.drain().start();
    } else {
        output::say(&how_to(&args.dir, &said, &tour))?;
    }
    let code = ended(quickstart.finish().await);
    Ok(if lacks.is_some() { ExitCode::from(1) } else { code })
}

/// Makes the folder at the first start; afterwards it is the user's.
async fn prepare(args: &Args, manifests: &Path) -> anyhow::Result<Kept> {
    if args.dir.exists() && !args.dir.is_dir() {
        bail!("{} is a file: choose another --dir", args.dir.display());
    }
    if let Some(kept) = Kept::load(&args.dir)? {
        if let Some(url) = args.upstream.as_deref().filter(|url| kept.upstream.url() != *url) {
            bail!(
                "{} governs {} already: choose another --dir for {url}, or edit its manifests",
                args.dir.display(),
                kept.upstream.url()
            );
        }
        write_secret(&args.shown, kept.upstream.url(), manifests)?;
        return Ok(kept);
    }
    if manifests.exists() {
        bail!("{} is there, but quickstart did not make it: choose another --dir", manifests.display());
    }
    let upstream = match &args.upstream {
        Some(url) => Upstream::Named { url: url.clone() },
        None if !args.shown.headers.is_empty() => {
            bail!("--header-from-env is for a server of yours: say which, with --upstream")
        }
        None => Upstream::Demo(Demo::bind().await?),
    };
    let scan = match &upstream {
        Upstream::Named { url } => {
            scan::scan(url, &args.shown, pem(args.serving.outbound.extra_ca.as_deref())?).await?
        }
        // The demo is not up yet, and what it has is known.
        Upstream::Demo(demo) => scan::assessed(&demo.url, &demo.inventory()),
    };
    if let Upstream::Named { .. } = upstream {
        output::print(output::Format::Table, &scan, scan::for_people)?;
        output::say("")?;
    }
    let kept = Kept { upstream };
    write_manifests(args, &scan, manifests)?;
    kept.save(&args.dir)?;
    Ok(kept)
}

/// Writes the manifests, all or none: what an interrupted start left of them is made anew.
fn write_manifests(args: &Args, scan: &scan::Scan, manifests: &Path) -> anyhow::Result<()> {
    let new = manifests.with_extension("new");
    fs::create_dir_all(&new).with_context(|| format!("cannot make the folder {}", new.display()))?;
    let trust = TRUST.replace("PORTCULLIS", &program()).replace("THIS_FOLDER", &shell(&args.dir.to_string_lossy()));
    scaffold::write(&new, "1-trust.yaml", &trust, 0o644)?;
    let server = scaffold::server("default", SERVER, "local", scan, &args.shown.headers);
    scaffold::write(&new, "2-server.yaml", &format!("{SERVER_HEAD}{server}"), 0o644)?;
    scaffold::write(&new, "3-policy.yaml", &policy(scan), 0o644)?;
    write_secret(&args.shown, &scan.url, &new)?;
    fs::rename(&new, manifests).with_context(|| format!("cannot make the folder {}", manifests.display()))
}

/// Writes what the upstream is shown, as the environment has it now, into a Secret that only this user may read.
fn write_secret(shown: &Shown, url: &str, manifests: &Path) -> anyhow::Result<()> {
    if shown.headers.is_empty() {
        return Ok(());
    }
    let values = shown.headers.iter().map(|from| Ok((from.header.as_str(), from.value()?)));
    let values = values.collect::<anyhow::Result<Vec<_>>>()?;
    let entries: Vec<(&str, &str)> = values.iter().map(|(header, value)| (*header, value.expose())).collect();
    let secret = scaffold::secret("default", SERVER, url, &entries)?;
    scaffold::write(manifests, "4-credentials.yaml", &format!("{SECRET_HEAD}{secret}"), 0o600)?;
    Ok(())
}

const TRUST: &str = "\
# Whose tokens are believed. `local` is the gateway's own issuer: one token per person, each revocable:
#   PORTCULLIS token issue|list|revoke --dir THIS_FOLDER
# Later, write `issuer: https://your-identity-provider.example` instead of `local`; nothing else changes.
apiVersion: portcullis.dev/v1alpha1
kind: McpAuthorizationServer
metadata:
  name: local
spec:
  local: {}
";

const SERVER_HEAD: &str = "\
# The server that is governed. Clients use <public URL>/default/quickstart; nobody may call it unless a policy allows.
";

const SECRET_HEAD: &str = "\
# What the gateway shows to the server. Written by `quickstart --header-from-env`, and anew at each start with it.
";

/// Two persons with different grants, and a Deny that holds whatever else is allowed.
fn policy(scan: &scan::Scan) -> String {
    format!(
        "# Who may do what. What no rule allows is denied, and a tool that you may not call does not exist for you.\n\
         # Edit and save: it is enforced within a second, also for open sessions. A mistake is named in the log.\n\
         apiVersion: portcullis.dev/v1alpha1\n\
         kind: McpPolicy\n\
         metadata:\n  name: persons\n  namespace: default\n\
         spec:\n  authority: local\n  targets:\n    servers: [{SERVER}]\n  rules:\n\
         {}{}{}{}  \
         # Only Allow grants; a Deny limits whatever other rules and policies allow.\n  \
         - name: nothing-is-destroyed\n    effect: Deny\n    principals:\n    - any: true\n    tools:\n    \
         - risk: [Destructive]\n    \
         message: Nothing is destroyed through this gateway. Ask its owner.\n",
        scaffold::unclassified(scan),
        scaffold::rule("both-read", "users: [alice, bob]", Risk::ReadOnly, scan),
        scaffold::rule("alice-writes", "users: [alice]", Risk::Write, scan),
        scaffold::rule("alice-sees-what-destroys", "users: [alice]", Risk::Destructive, scan),
    )
}

/// How this program is called by whoever reads what it prints: by its name if the shell finds it, else by its path.
fn program() -> String {
    let Ok(here) = std::env::current_exe().and_then(fs::canonicalize) else { return "portcullis".to_owned() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("portcullis")).find(|path| path.is_file());
    if found.and_then(|found| fs::canonicalize(found).ok()).is_some_and(|found| found == here) {
        return "portcullis".to_owned();
    }
    let folder = std::env::current_dir().and_then(fs::canonicalize).unwrap_or_default();
    // One folder below it at least, else the shell would look for the bare name on its path.
    let near = here.strip_prefix(folder).ok().filter(|near| near.components().count() > 1);
    shell(&near.unwrap_or(&here).to_string_lossy())
}

/// A word as a POSIX shell reads it back.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn head(dir: &Path, said: &Said) -> String {
    let (program, folder) = (program(), shell(&dir.to_string_lossy()));
    let mut lines = vec![
        format!("A gate stands before {}.\n", printable(&said.upstream)),
        format!("  endpoint   {}", said.endpoint),
        format!("  manifests  {}   edit and save: enforced within a second", dir.join("manifests").display()),
        format!("  records    {program} audit tail --dir {folder}"),
    ];
    lines.extend(said.admin.map(|admin| format!("  health     http://{admin}/readyz and /metrics")));
    lines
        .push("\nOne token per person, good for 8 hours. Paste one of these lines into another terminal:\n".to_owned());
    for (person, token) in PERSONS.iter().zip(&said.tokens) {
        lines.push(format!("  export TOKEN={} # {person}\n", token.expose()));
    }
    lines.join("\n")
}

fn seen(tour: &Tour) -> String {
    let mut lines = vec!["\nCalls, made for you:\n".to_owned()];
    for step in &tour.steps {
        lines.push(format!("  {} calls {}: {}", step.person, printable(&step.tool), printable(&step.answer)));
    }
    lines.push("\nTheir records:\n".to_owned());
    lines.extend(super::audit::calls_in_brief(&tour.records).lines().map(|line| line.trim_end().to_owned()));
    lines.join("\n")
}

/// What each request by hand carries.
const CURL_HEADERS: &str = "-H \"Authorization: Bearer $TOKEN\" \\\n    -H 'Content-Type: application/json' \
                            -H 'Accept: application/json, text/event-stream'";

fn how_to(dir: &Path, said: &Said, tour: &Tour) -> String {
    let endpoint = &said.endpoint;
    let manifests = shell(&dir.join("manifests").to_string_lossy());
    let mut lines = vec!["\nTo paste, with a TOKEN from above:\n".to_owned()];
    lines.extend(if tour.modern { curl_modern(endpoint, tour.allowed.as_deref()) } else { curl_session(endpoint) });
    lines.extend([
        "\n  # Claude Code".to_owned(),
        format!("  claude mcp add --transport http {SERVER} {endpoint} --header \"Authorization: Bearer $TOKEN\""),
        "\n  # MCP Inspector".to_owned(),
        format!("  npx @modelcontextprotocol/inspector --cli {endpoint} --transport http \\"),
        "    --header \"Authorization: Bearer $TOKEN\" --method tools/list".to_owned(),
        "\n  # VS Code: .vscode/mcp.json (it asks for the token)".to_owned(),
        "  {\"inputs\": [{\"type\": \"promptString\", \"id\": \"token\", \"description\": \"token\", \"password\": true}],"
            .to_owned(),
        format!(
            "   \"servers\": {{\"{SERVER}\": {{\"type\": \"http\", \"url\": \"{endpoint}\",\n     \
             \"headers\": {{\"Authorization\": \"Bearer ${{input:token}}\"}}}}}}}}"
        ),
        "\n  # Cursor: ~/.cursor/mcp.json".to_owned(),
        format!(
            "  {{\"mcpServers\": {{\"{SERVER}\": {{\"url\": \"{endpoint}\",\n     \
             \"headers\": {{\"Authorization\": \"Bearer ${{env:TOKEN}}\"}}}}}}}}"
        ),
        "\n  # who can do what, and why".to_owned(),
        format!("  {} who-can --server default/{SERVER} -f {manifests}", program()),
        "\nServing. Press Ctrl-C to stop; start again with the same command.".to_owned(),
    ]);
    lines.join("\n")
}

/// Requests of 2026-07-28: each stands for itself.
fn curl_modern(endpoint: &str, tool: Option<&str>) -> Vec<String> {
    let meta = "\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\
                \"io.modelcontextprotocol/clientCapabilities\":{}}";
    let request = |method: &str, name: &str, params: &str| {
        format!(
            "  curl -s {endpoint} {CURL_HEADERS} \\\n    -H 'MCP-Protocol-Version: 2026-07-28' -H 'Mcp-Method: {method}' \
             {name}\\\n    -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\",\"params\":{{{params}{meta}}}}}'"
        )
    };
    let mut lines = vec!["  # what may I call?".to_owned(), request("tools/list", "", "")];
    // A name that a header and a shell take as it is.
    if let Some(tool) = tool.filter(|tool| shell(tool) == *tool) {
        lines.push(format!("\n  # call {tool}"));
        let (name, params) = (format!("-H 'Mcp-Name: {tool}' "), format!("\"name\":\"{tool}\",\"arguments\":{{}},"));
        lines.push(request("tools/call", &name, &params));
    }
    lines
}

/// Requests of the older revisions: in a session.
fn curl_session(endpoint: &str) -> Vec<String> {
    vec![
        "  # what may I call?".to_owned(),
        format!("  SESSION=$(curl -s -D - -o /dev/null {endpoint} {CURL_HEADERS} \\"),
        "    -d '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"2025-11-25\",\
         \"capabilities\":{},\"clientInfo\":{\"name\":\"curl\",\"version\":\"1\"}}}' \\"
            .to_owned(),
        "    | tr -d '\\r' | sed -n 's/^mcp-session-id: *//p')".to_owned(),
        format!("  curl -s {endpoint} {CURL_HEADERS} \\"),
        "    -H \"Mcp-Session-Id: $SESSION\" -d '{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/list\"}'".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_by_a_shell_as_they_are() {
        for word in ["a/b-c.d", "with space", "it's", "$(touch x)", "", "a\\b"] {
            let script = format!("printf %s {}", shell(word));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
