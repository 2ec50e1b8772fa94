//! What `quickstart` is made of: a standalone gateway, a demo server unless another is named, and a first look.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use url::Url;

use super::demo;
use super::standalone::{Options, Standalone};
use crate::audit::DECISION;
use crate::audit::query::{Call, Filter, query};
use crate::egress::{self, AllowPrivate, Egress};
use crate::generated::Risk;
use crate::generated::server::{CredentialHeader, Credentials, Upstream as Target, UpstreamTls};
use crate::issuer::{DEFAULT_LIFETIME_SECONDS, TokenRequest};
use crate::mcp::list::ToolView;
use crate::process::Drain;
use crate::process::drain::Finish;
use crate::sensitive::Sensitive;
use crate::tools::risk::assess;
use crate::upstream::{Bounds, Called, Inventory, Upstream as Client, call_tool, inventory};

/// Who gets a token.
pub const PERSONS: [&str; 2] = ["alice", "bob"];

/// The name of the governed server, in namespace `default`.
pub const SERVER: &str = "quickstart";

/// The revision whose requests stand alone.
const MODERN: &str = "2026-07-28";

/// Where a folder says what it was made for.
pub const KEPT: &str = "quickstart.json";

/// How long the first look may take in all its parts.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the governed server may take to come up, and how often it is asked meanwhile.
const COMING_UP: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(500);

/// What a quickstart folder was made for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    /// What it governs.
    pub upstream: Upstream,
}

/// What is governed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Upstream {
    /// The demo server, always at the same address: the manifests name it.
    Demo(Demo),
    /// A server of the user's.
    Named {
        /// Its endpoint.
        url: String,
    },
}

impl Upstream {
    /// Its endpoint.
    pub fn url(&self) -> &str {
        match self {
            Upstream::Demo(demo) => &demo.url,
            Upstream::Named { url } => url,
        }
    }
}

/// The demo server's address.
#[derive(Debug, Serialize, Deserialize)]
pub struct Demo {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its endpoint.
    pub url: String,
    #[serde(skip)]
    listener: Option<TcpListener>,
}

impl Demo {
    /// Takes a free port on loopback.
    ///
    /// # Errors
    /// If there is none.
    pub async fn bind() -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind("127.0.0.1:0").await.context("no free port on loopback for the demo server")?;
        let address = listener.local_addr()?;
        Ok(Self { address, url: format!("http://{address}{}", demo::PATH), listener: Some(listener) })
    }

    /// What it will say of its tools.
    pub fn inventory(&self) -> Inventory {
        Inventory { server_name: None, server_version: None, revision: "", tools: demo::tools() }
    }

    async fn listener(&mut self) -> anyhow::Result<TcpListener> {
        match self.listener.take() {
            Some(listener) => Ok(listener),
            None => TcpListener::bind(self.address).await.map_err(|error| {
                anyhow::anyhow!(
                    "cannot listen on {}, the demo server's address: {error}: is another quickstart running over this \
                     folder? Stop it, or choose another --dir",
                    self.address
                )
            }),
        }
    }
}

impl Kept {
    /// What the folder says; `None` if it is new.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(KEPT);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| {
                format!("{} is damaged: remove the folder, or choose another --dir", path.display())
            })?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Says it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let path = dir.join(KEPT);
        fs::write(&path, serde_json::to_vec_pretty(self)?).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// A running quickstart.
pub struct Quickstart {
    gateway: Standalone,
    upstream: String,
    /// Its results hold nothing but the demo's notes, so they may be shown.
    is_demo: bool,
    state_dir: std::path::PathBuf,
}

/// What a user must know.
#[derive(Debug)]
pub struct Said {
    /// What is governed.
    pub upstream: String,
    /// Where clients connect.
    pub endpoint: String,
    /// Where operators look.
    pub admin: Option<SocketAddr>,
    /// One per person, in the order of [`PERSONS`].
    pub tokens: Vec<Sensitive>,
}

/// The first look.
#[derive(Debug, Default)]
pub struct Tour {
    /// What was done.
    pub steps: Vec<Step>,
    /// What was recorded of it.
    pub records: Vec<Call>,
    /// Whether the governed server answers single requests of 2026-07-28, without a handshake.
    pub modern: bool,
    /// The tool that was called and allowed, without arguments.
    pub allowed: Option<String>,
}

/// One call.
#[derive(Debug)]
pub struct Step {
    /// Who called.
    pub person: &'static str,
    /// What.
    pub tool: String,
    /// What came of it.
    pub answer: String,
}

impl Tour {
    /// What is not on record, though a tour is there to show it, and why not.
    pub fn lacks(&self) -> Option<&'static str> {
        let has = |decision| self.records.iter().any(|call| call.entry.fields.decision.as_deref() == Some(decision));
        match (has("allow"), has("deny")) {
            (false, _) => Some("no allowed call: nobody may do anything"),
            (true, false) => Some("no refused call: all that it tried is allowed"),
            (true, true) => None,
        }
    }
}

impl Quickstart {
    /// Starts the demo, if it is the one that is governed, and the gateway.
    ///
    /// # Errors
    /// If a port is taken or the folder cannot be used.
    pub async fn start(mut kept: Kept, mut options: Options) -> anyhow::Result<Self> {
        let url = Url::parse(kept.upstream.url()).context("the folder's upstream is no URL")?;
        let egress = &mut options.serving.egress;
        if egress.allow_private == AllowPrivate::Never {
            // Exactly the server that this folder was made for, nothing beside it.
            egress.allow_private = AllowPrivate::exactly(&url).await?;
        }
        let demo = match &mut kept.upstream {
            Upstream::Demo(demo) => Some(demo.listener().await?),
            Upstream::Named { .. } => None,
        };
        let state_dir = options.serving.state_dir.clone();
        let gateway = Standalone::start(options).await?;
        let is_demo = demo.is_some();
        if let Some(listener) = demo {
            // It outlives the calls that the gateway lets end.
            let stop = gateway.serving().drain().aborted().clone();
            tokio::spawn(async move {
                if let Err(error) = demo::serve(listener, stop).await {
                    tracing::error!(%error, "the demo server stopped");
                }
            });
        }
        Ok(Self { gateway, upstream: url.to_string(), is_demo, state_dir })
    }

    /// How it ends.
    pub fn drain(&self) -> &Drain {
        self.gateway.serving().drain()
    }

    /// Issues the tokens, and says what a user must know.
    ///
    /// # Errors
    /// If the manifests have no local authority any more, or tokens cannot be issued.
    pub fn said(&self) -> anyhow::Result<Said> {
        let endpoint = self.gateway.serving().public_url().join(&format!("/default/{SERVER}"));
        let issuer = self
            .gateway
            .local_authority("local")
            .context("the manifests have no McpAuthorizationServer `local` with `local: {}` any more")?;
        let now = jiff::Timestamp::now().as_second();
        let issue = |person: &&str| {
            let request = TokenRequest {
                subject: (*person).to_owned(),
                audiences: vec![endpoint.clone()],
                client_id: "quickstart".to_owned(),
                groups: Vec::new(),
                scopes: Vec::new(),
                lifetime_seconds: DEFAULT_LIFETIME_SECONDS,
                label: Some("quickstart".to_owned()),
            };
            issuer.issue(&request, now).map(|issued| issued.token)
        };
        let tokens = PERSONS.iter().map(issue).collect::<Result<_, _>>()?;
        let admin = self.gateway.serving().admin();
        Ok(Said { upstream: self.upstream.clone(), endpoint, admin, tokens })
    }

    /// Makes a call that is allowed and one that is refused, as the second person, and finds their records. At the
    /// demo, the first person besides tries what she sees and may not do.
    ///
    /// # Errors
    /// If the gateway or the governed server does not answer.
    pub async fn tour(&self, said: &Said) -> anyhow::Result<Tour> {
        let since = jiff::Timestamp::now().as_millisecond();
        let [first, second] = [0, 1].map(|n| said.tokens.get(n).cloned());
        let (Some(first), Some(second)) = (first, second) else { return Ok(Tour::default()) };
        let egress = self.own_egress()?;
        let as_first = client(&said.endpoint, &first, &egress)?;
        let as_second = client(&said.endpoint, &second, &egress)?;
        let all = self.seen(&as_first).await?;
        let seen = self.seen(&as_second).await?;
        let mut tour = Tour { modern: seen.revision == MODERN, ..Tour::default() };
        let allowed = harmless(&seen);
        tour.allowed.clone_from(&allowed);
        let refused = names(&all).into_iter().find(|name| !names(&seen).contains(name));
        let refused = refused.unwrap_or_else(|| "a_tool_that_nobody_granted".to_owned());
        let bobs = allowed.into_iter().chain([refused]).map(|tool| (PERSONS[1], &as_second, tool));
        // Somebody else's server is never asked to destroy anything: its policy may have been edited since.
        let destroying = self.is_demo.then(|| (PERSONS[0], &as_first, "delete_note".to_owned()));
        for (person, client, tool) in bobs.chain(destroying) {
            let called = call_tool(client, seen.revision, &tool, serde_json::json!({}), PATIENCE).await?;
            let answer = match called {
                Called::Result(result) if self.is_demo || is_error(result.get()) => short(result.get()),
                Called::Result(result) => format!("a result of {} bytes, not shown here", result.get().len()),
                Called::Error { code, message } => format!("error {code}, {message}"),
            };
            tour.steps.push(Step { person, tool, answer });
        }
        tour.records = self.records(since, tour.steps.len()).await?;
        Ok(tour)
    }

    /// What a person sees. The governed server may take a moment to come up.
    async fn seen(&self, client: &Client) -> anyhow::Result<Inventory> {
        let deadline = tokio::time::Instant::now() + COMING_UP;
        loop {
            match inventory(client, &Bounds { time: PATIENCE, ..Bounds::default() }).await {
                Ok(found) => return Ok(found),
                Err(error) if tokio::time::Instant::now() > deadline => {
                    return Err(error).with_context(|| {
                        format!(
                            "{} does not answer through the gateway (is it running, and are its credentials still good? \
                             `portcullis scan` of it says more)",
                            self.upstream
                        )
                    });
                }
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// The records of the tour's calls: the second ones are written behind the answers.
    async fn records(&self, since: i64, calls: usize) -> anyhow::Result<Vec<Call>> {
        let filter =
            Filter { event: Some(DECISION.to_owned()), since_unix_ms: u64::try_from(since).ok(), ..Filter::default() };
        let journal = self.state_dir.join("journal");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut found = query(&journal, &filter, 100)?.calls;
            found.retain(|call| call.entry.fields.method.as_deref() == Some("tools/call"));
            let denied = |call: &Call| call.entry.fields.decision.as_deref() != Some("allow");
            let whole = found.iter().all(|call| call.completion.is_some() || denied(call));
            if (found.len() >= calls && whole) || tokio::time::Instant::now() > deadline {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn own_egress(&self) -> anyhow::Result<Egress> {
        let ip = self.gateway.serving().address().ip();
        let range = format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
        Ok(Egress::new(egress::Policy { allow_private: range.parse()?, ..egress::Policy::default() })?)
    }

    /// Serves until it is told to stop.
    pub async fn finish(self) -> Finish {
        self.gateway.into_serving().finish().await
    }
}

fn client(endpoint: &str, token: &Sensitive, egress: &Egress) -> anyhow::Result<Client> {
    let header = CredentialHeader {
        name: "authorization".to_owned(),
        value: Sensitive::new(format!("Bearer {}", token.expose())),
    };
    let target = Target {
        url: endpoint.to_owned(),
        tls: UpstreamTls::default(),
        credentials: Credentials::Headers(vec![header]),
    };
    Ok(Client::new(&target, egress)?)
}

fn names(inventory: &Inventory) -> Vec<String> {
    inventory.tools.iter().filter_map(|raw| Some(ToolView::read(raw.get())?.name.into_owned())).collect()
}

/// A tool that reads and needs no arguments.
fn harmless(inventory: &Inventory) -> Option<String> {
    inventory.tools.iter().find_map(|raw| {
        let tool = ToolView::read(raw.get())?;
        let schema: serde_json::Value = serde_json::from_str(tool.input_schema?).ok()?;
        let free = schema["required"].as_array().is_none_or(Vec::is_empty);
        (free && assess(&tool, None, []).class == Some(Risk::ReadOnly)).then(|| tool.name.into_owned())
    })
}

fn is_error(result: &str) -> bool {
    serde_json::from_str(result).is_ok_and(|result: serde_json::Value| result["isError"] == true)
}

/// The text of a result, cut to a line.
fn short(result: &str) -> String {
    let result: serde_json::Value = serde_json::from_str(result).unwrap_or_default();
    let text = result["content"][0]["text"].as_str().unwrap_or("(no text)").replace('\n', " ");
    let text: String = if text.chars().count() > 90 { text.chars().take(89).chain(['…']).collect() } else { text };
    if result["isError"] == true { format!("refused: {text}") } else { text }
}
