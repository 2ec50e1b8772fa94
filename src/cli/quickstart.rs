//! `portcullis quickstart`: a governed server in seconds.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::output;
use super::scan::{self, named, rule, server_manifest};
use super::standalone::{Serving, ended, runtime};
use crate::generated::Risk;
use crate::generated::server::Credentials;
use crate::process::telemetry::{self, Format};
use crate::roles::quickstart::{Demo, Kept, PERSONS, Quickstart, SERVER, Said, Upstream};

/// A governed MCP server in seconds: two persons with different grants, each call decided before it runs, and recorded.
///
/// Makes a folder with manifests that you can edit while it serves, starts a small demo server (or puts the gate in front
/// of --upstream), issues a token for each person, and makes a few calls to show what happens. Start it again over the same
/// folder, and it goes on with what you made of it.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The folder: manifests, and the gateway's state
    #[arg(long, env = "PORTCULLIS_DIR", value_name = "DIR", default_value = "portcullis-quickstart")]
    dir: PathBuf,
    /// Govern this MCP server instead of the demo
    #[arg(long, env = "PORTCULLIS_UPSTREAM", value_name = "URL")]
    upstream: Option<String>,
    /// Stop after the first calls: for scripts. Exit code 1 unless one was allowed and one refused
    #[arg(long, env = "PORTCULLIS_TOUR_ONLY")]
    tour_only: bool,
    #[command(flatten)]
    serving: Serving,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::init(Format::Auto, Some(&std::env::var(telemetry::FILTER_VARIABLE).unwrap_or_else(|_| "warn".into())))?;
    runtime()?.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<ExitCode> {
    let manifests = args.dir.join("manifests");
    let kept = prepare(&args, &manifests).await?;
    let mut options = args.serving.options(vec![manifests.clone()], args.dir.join("state"))?;
    if options.admin_listen.is_none() {
        options.admin_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    }
    let quickstart = Quickstart::start(kept, options).await?;
    quickstart.drain().on_signals()?;
    let said = quickstart.said()?;
    print_head(&args.dir, &manifests, &said);
    let tour = quickstart.tour(&said).await?;
    print_tour(&tour);
    let shown = tour.shows_both();
    if args.tour_only {
        quickstart.drain().start();
    } else {
        print_how_to(&args.dir, &said, tour.modern);
    }
    let code = ended(quickstart.finish().await);
    Ok(if args.tour_only && !shown { ExitCode::from(1) } else { code })
}

/// Makes the folder at the first start; afterwards it is the user's.
async fn prepare(args: &Args, manifests: &Path) -> anyhow::Result<Kept> {
    fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    if let Some(kept) = Kept::load(&args.dir)? {
        if let Some(url) = args.upstream.as_deref().filter(|url| kept.upstream.url() != *url) {
            bail!(
                "{} governs {} already: choose another --dir for {url}, or edit its manifests",
                args.dir.display(),
                kept.upstream.url()
            );
        }
        return Ok(kept);
    }
    if manifests.exists() {
        bail!("{} is there, but quickstart did not make it: choose another --dir", manifests.display());
    }
    let upstream = match &args.upstream {
        Some(url) => Upstream::Named { url: url.clone() },
        None => Upstream::Demo(Demo::bind().await?),
    };
    let scan = match &upstream {
        Upstream::Named { url } => scan::scan(url, Credentials::None, None).await?,
        // The demo is not up yet, and what it has is known.
        Upstream::Demo(demo) => scan::assessed(&demo.url, &demo.inventory()),
    };
    if let Upstream::Named { .. } = upstream {
        println!("{}\n", scan::for_people(&scan));
    }
    fs::create_dir_all(manifests)?;
    write(manifests, "1-trust.yaml", &TRUST.replace("THIS_FOLDER", &args.dir.to_string_lossy()))?;
    let server = format!("{SERVER_HEAD}{}", server_manifest("default", SERVER, "local", &scan, false));
    write(manifests, "2-server.yaml", &server)?;
    write(manifests, "3-policy.yaml", &policy(&scan))?;
    let kept = Kept { upstream };
    kept.save(&args.dir)?;
    Ok(kept)
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

const TRUST: &str = "\
# Whose tokens are believed. `local` is the gateway's own issuer: one token per person, each revocable:
#   portcullis token issue|list|revoke --dir THIS_FOLDER
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

/// Two persons with different grants, and a Deny that holds whatever else is allowed.
fn policy(scan: &scan::Scan) -> String {
    let unclassified = named(scan, None);
    let unclassified = if unclassified.is_empty() {
        String::new()
    } else {
        format!("  # In no class, so that no rule by class grants them: {unclassified}\n")
    };
    format!(
        "# Who may do what. What no rule allows is denied, and a tool that you may not call does not exist for you.\n\
         # Edit and save: it is enforced within a second, also for open sessions. A mistake is named in the log.\n\
         apiVersion: portcullis.dev/v1alpha1\n\
         kind: McpPolicy\n\
         metadata:\n  name: persons\n  namespace: default\n\
         spec:\n  authority: local\n  targets:\n    servers: [{SERVER}]\n  rules:\n\
         {unclassified}{}{}{}  \
         # Only Allow grants; a Deny limits whatever other rules and policies allow.\n  \
         - name: nothing-is-destroyed\n    effect: Deny\n    principals:\n    - any: true\n    tools:\n    \
         - risk: [Destructive]\n    \
         message: Nothing is destroyed through this gateway. Ask its owner.\n",
        rule("both-read", "users: [alice, bob]", Risk::ReadOnly, scan),
        rule("alice-writes", "users: [alice]", Risk::Write, scan),
        rule("alice-sees-what-destroys", "users: [alice]", Risk::Destructive, scan),
    )
}

fn print_head(dir: &Path, manifests: &Path, said: &Said) {
    println!("A gate stands before {}.\n", output::printable(&said.upstream));
    println!("  endpoint   {}", said.endpoint);
    println!("  manifests  {}   edit and save: enforced within a second", manifests.display());
    println!("  records    portcullis audit tail --dir {}", dir.display());
    if let Some(admin) = said.admin {
        println!("  health     http://{admin}/readyz and /metrics");
    }
    println!("\nOne token per person, good for 8 hours:\n");
    for (person, token) in PERSONS.iter().zip(&said.tokens) {
        println!("  {person:<6} {}\n", token.expose());
    }
}

fn print_tour(tour: &crate::roles::quickstart::Tour) {
    println!("Calls, made for you:\n");
    for step in &tour.steps {
        println!("  {} calls {}: {}", step.person, output::printable(&step.tool), output::printable(&step.answer));
    }
    println!("\nTheir records:\n");
    for line in super::audit::calls_in_brief(&tour.records).lines() {
        println!("{}", line.trim_end());
    }
    println!();
}

/// What each request by hand carries.
const CURL_HEADERS: &str = "-H \"Authorization: Bearer $TOKEN\" \\\n    -H 'Content-Type: application/json' \
                            -H 'Accept: application/json, text/event-stream'";

fn print_how_to(dir: &Path, said: &Said, modern: bool) {
    let endpoint = &said.endpoint;
    println!("Paste the token of a person:\n\n  export TOKEN=...\n");
    println!("  # what may I call?");
    if modern {
        println!("  curl -s {endpoint} {CURL_HEADERS} \\");
        println!("    -H 'MCP-Protocol-Version: 2026-07-28' -H 'Mcp-Method: tools/list' \\");
        println!(
            "    -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\",\"params\":{{\"_meta\":{{\
             \"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\
             \"io.modelcontextprotocol/clientCapabilities\":{{}}}}}}}}'"
        );
    } else {
        println!("  SESSION=$(curl -s -D - -o /dev/null {endpoint} {CURL_HEADERS} \\");
        println!(
            "    -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{{\"protocolVersion\":\"2025-11-25\",\
             \"capabilities\":{{}},\"clientInfo\":{{\"name\":\"curl\",\"version\":\"1\"}}}}}}' \\"
        );
        println!("    | tr -d '\\r' | sed -n 's/^mcp-session-id: *//p')");
        println!("  curl -s {endpoint} {CURL_HEADERS} \\");
        println!("    -H \"Mcp-Session-Id: $SESSION\" -d '{{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/list\"}}'");
    }
    println!("\n  # Claude Code");
    println!("  claude mcp add --transport http {SERVER} {endpoint} --header \"Authorization: Bearer $TOKEN\"");
    println!("\n  # MCP Inspector");
    println!("  npx @modelcontextprotocol/inspector --cli {endpoint} --transport http \\");
    println!("    --header \"Authorization: Bearer $TOKEN\" --method tools/list");
    println!("\n  # VS Code (.vscode/mcp.json), Cursor and others");
    println!(
        "  {{\"servers\": {{\"{SERVER}\": {{\"type\": \"http\", \"url\": \"{endpoint}\", \
         \"headers\": {{\"Authorization\": \"Bearer ${{env:TOKEN}}\"}}}}}}}}"
    );
    println!("\n  # who can do what, and why");
    println!("  portcullis who-can --server default/{SERVER} -f {}/manifests", dir.display());
    println!("\nServing. Press Ctrl-C to stop; start again with the same command.");
}
