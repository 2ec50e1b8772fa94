//! `portcullis clients adopt`: asks the controller to take over a client that is at its authorization server and in no ledger, or
//! the ledger of an installation whose place it has taken.
//!
//! Invariant: a token is read from a file or from the standard input, is written into one Secret of the system namespace, and is
//! shown nowhere; what is asked for and not met is taken back.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use kube::{Client, ResourceExt as _};
use tokio::time::Instant;

use super::clients::{annotate, installation};
use super::named::Named;
use super::output;
use crate::api::{McpAuthorizationServer, McpClient};
use crate::cluster;
use crate::controller::conditions::{ADOPTION_REFUSED, READY};
use crate::controller::registrations::{ADOPT, CLUSTER_ANNOTATION, LABEL, REQUEST_LABEL, request_name};
use crate::generated::kind::SOURCE;
use crate::sensitive::Sensitive;

/// The longest token that is read.
const MOST_TOKEN_BYTES: u64 = 8000;
/// How often the McpClient is looked at.
const POLL: Duration = Duration::from_millis(250);

/// Take over a client that is at the authorization server already, such as one of a cluster that is lost
///
/// The McpClient must have no client yet: make it with the annotation portcullis.dev/adopt-registration (of any value), which keeps
/// it from being registered. The client keeps its id and is brought to what the McpClient says, with keys or a secret of its own.
/// Without --registration-url it is looked for through the administrative API.
///
/// With --ledger, this installation goes on with what another one has registered, whose place it has taken. What a client is
/// managed with is kept in a Secret of the controller's namespace. Where that was restored from another installation's backup,
/// nothing is done with it before you say so: that other installation may still use the client. Afterwards, the client is deleted
/// at its authorization server if its McpClient, by its UID, is not here, and no other one has taken it over.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    client: Option<Named>,
    /// The client's id at the authorization server
    #[arg(
        long,
        value_name = "ID",
        allow_hyphen_values = true,
        required_unless_present = "ledger",
        env = "PORTCULLIS_CLIENT_ID"
    )]
    client_id: Option<String>,
    /// Where it is managed (RFC 7592): its registration_client_uri
    #[arg(long, value_name = "URL", requires = "token", env = "PORTCULLIS_REGISTRATION_URL")]
    registration_url: Option<String>,
    /// A file with its registration access token; - reads it from the standard input
    #[arg(
        long = "registration-token-file",
        id = "token",
        value_name = "FILE|-",
        requires = "registration_url",
        env = "PORTCULLIS_REGISTRATION_TOKEN_FILE"
    )]
    token: Option<PathBuf>,
    /// The mark that it bears, if that is not the McpClient's own: that of an owner who is gone, or none
    #[arg(long, value_name = "MARK|none", allow_hyphen_values = true, env = "PORTCULLIS_MARK")]
    mark: Option<String>,
    /// Instead of a client: the Secret of another installation's registration, as `clients list` shows it
    #[arg(long, value_name = "SECRET", conflicts_with_all = ["client", "client_id"], env = "PORTCULLIS_LEDGER")]
    ledger: Option<String>,
    /// The namespace of the controller
    #[arg(long, value_name = "NAME", default_value = "portcullis-system", env = "PORTCULLIS_SYSTEM_NAMESPACE")]
    system_namespace: String,
    /// For how long to wait for the controller (seconds)
    #[arg(long, value_name = "SECONDS", default_value_t = 60, env = "PORTCULLIS_TIMEOUT")]
    timeout: u64,
    /// The kubeconfig's context to ask instead of the current one
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_CONTEXT")]
    context: Option<String>,
}

/// What is asked for, and of whom.
struct Request<'r> {
    args: &'r Args,
    /// The McpClient, as people name it, and as it was found.
    client: &'r Named,
    found: McpClient,
    client_id: &'r str,
    clients: Api<McpClient>,
    secrets: Api<Secret>,
    secret: String,
    word: String,
    /// The word of before, which is put back if nothing comes of it.
    before: Option<String>,
}

pub(super) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match (&args.ledger, &args.client, &args.client_id) {
        (Some(ledger), ..) => take_over(args, ledger).await,
        (None, Some(client), Some(client_id)) => adopt(args, client, client_id).await,
        (None, ..) => bail!("say which McpClient, and --client-id; or --ledger"),
    }
}

/// Goes on with what another installation has registered.
async fn take_over(args: &Args, name: &str) -> anyhow::Result<ExitCode> {
    let (client, _) = cluster::connect_to(args.context.as_deref()).await?;
    let namespace = &args.system_namespace;
    let cluster = installation(&client, namespace).await?;
    let api: Api<Secret> = Api::namespaced(client, namespace);
    let found = api.get_metadata(name).await.with_context(|| format!("cannot read Secret {namespace}/{name}"))?;
    if !found.labels().contains_key(LABEL) {
        bail!("Secret {namespace}/{name} tells of no registration");
    }
    if found.annotations().get(CLUSTER_ANNOTATION) == Some(&cluster) {
        println!("Secret {namespace}/{name} is this installation's already.");
        return Ok(ExitCode::from(1));
    }
    annotate(&api, &found, CLUSTER_ANNOTATION, Some(&cluster)).await?;
    let source = found.annotations().get(SOURCE).map_or("an object that nobody knows", String::as_str);
    println!(
        "Secret {namespace}/{name} is this installation's now. Within a minute, the client that it tells of is deleted at its \
         authorization server, unless {} is here under the UID that it had, or another McpClient has taken it over.",
        output::printable(source)
    );
    Ok(ExitCode::SUCCESS)
}

/// Asks for a client that is in no ledger, and waits for what comes of it.
async fn adopt(args: &Args, asked: &Named, client_id: &str) -> anyhow::Result<ExitCode> {
    let token = args.token.as_deref().map(read_token).transpose()?;
    let (namespace, name) = asked.parse()?;
    let (client, _) = cluster::connect_to(args.context.as_deref()).await?;
    let clients: Api<McpClient> = Api::namespaced(client.clone(), namespace);
    let found = clients.get(name).await.with_context(|| format!("cannot read McpClient {asked}"))?;
    let issuer = issuer(&client, &found).await?;
    let uid = found.uid().context("the McpClient has no UID")?;
    let request = Request {
        args,
        client: asked,
        client_id,
        secrets: Api::namespaced(client, &args.system_namespace),
        secret: request_name(&uid),
        word: Timestamp::now().to_string(),
        before: found.annotations().get(ADOPT).cloned(),
        found,
        clients,
    };
    request.ask(members(args, client_id, &issuer, token.as_ref())).await?;
    request.wait().await
}

/// The issuer at which the McpClient is registered now: if it becomes another one, the controller refuses.
async fn issuer(client: &Client, found: &McpClient) -> anyhow::Result<String> {
    let name = &found.spec.authorization_server;
    let anchors: Api<McpAuthorizationServer> = Api::all(client.clone());
    let anchor = anchors.get(name).await.with_context(|| format!("cannot read McpAuthorizationServer {name}"))?;
    anchor
        .spec
        .issuer
        .with_context(|| format!("McpAuthorizationServer {name} is no issuer at which clients are registered"))
}

fn read_token(path: &std::path::Path) -> anyhow::Result<Sensitive> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(MOST_TOKEN_BYTES + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        file.take(MOST_TOKEN_BYTES + 1).read_to_string(&mut text)
    };
    // The error of a text that is none says nothing of it.
    read.with_context(|| format!("cannot read a token from {}", path.display()))?;
    let token = Sensitive::new(text.trim());
    if token.expose().is_empty() || text.len() as u64 > MOST_TOKEN_BYTES {
        bail!("{} holds no registration access token", path.display());
    }
    Ok(token)
}

fn members(args: &Args, client_id: &str, issuer: &str, token: Option<&Sensitive>) -> BTreeMap<String, ByteString> {
    let all = [
        ("client_id", Some(client_id)),
        ("issuer", Some(issuer)),
        ("mark", args.mark.as_deref()),
        ("registration_client_uri", args.registration_url.as_deref()),
        ("registration_access_token", token.map(Sensitive::expose)),
    ];
    let member = |(name, text): (&str, Option<&str>)| Some((name.to_owned(), ByteString(text?.as_bytes().to_vec())));
    all.into_iter().filter_map(member).collect()
}

impl Request<'_> {
    async fn ask(&self, data: BTreeMap<String, ByteString>) -> anyhow::Result<()> {
        let labels = self.found.uid().map(|uid| BTreeMap::from([(REQUEST_LABEL.to_owned(), uid)]));
        let metadata = ObjectMeta { name: Some(self.secret.clone()), labels, ..ObjectMeta::default() };
        let secret = Secret { metadata, data: Some(data), ..Secret::default() };
        if let Err(error) = self.secrets.create(&PostParams::default(), &secret).await {
            if matches!(&error, kube::Error::Api(status) if status.code == 409) {
                bail!("a client is being taken over already: delete Secret {} to ask for another", self.secret);
            }
            return Err(error).with_context(|| format!("cannot write Secret {}", self.secret));
        }
        match annotate(&self.clients, &self.found, ADOPT, Some(&self.word)).await {
            Ok(()) => Ok(()),
            Err(error) => self.take_back().await.and(Err(error)),
        }
    }

    /// Waits until the client is taken over and ready, or refused.
    async fn wait(&self) -> anyhow::Result<ExitCode> {
        let (client, name) = (self.client, self.found.name_any());
        let until = Instant::now() + Duration::from_secs(self.args.timeout);
        loop {
            let found = self.clients.get(&name).await.with_context(|| format!("cannot read McpClient {client}"))?;
            let condition = |type_: &str| {
                let conditions = found.status.iter().flat_map(|status| &status.conditions);
                conditions.into_iter().find(|one| one.type_ == type_)
            };
            if let Some(said) = condition(ADOPTION_REFUSED).filter(|said| said.message.contains(&self.word)) {
                println!("Not taken over: {}", output::printable(&said.message));
                self.take_back().await?;
                annotate(&self.clients, &self.found, ADOPT, self.before.as_deref()).await?;
                return Ok(ExitCode::from(1));
            }
            let ready = condition(READY);
            let is_its = found.status.as_ref().and_then(|status| status.client_id.as_deref()) == Some(self.client_id);
            let is_met = self.secrets.get_metadata_opt(&self.secret).await;
            let is_met = is_met.with_context(|| format!("cannot read Secret {}", self.secret))?.is_none();
            if is_met && is_its && ready.is_some_and(|ready| ready.status == "True") {
                annotate(&self.clients, &self.found, ADOPT, None).await?;
                println!("{client} has taken over {}.", output::printable(self.client_id));
                return Ok(ExitCode::SUCCESS);
            }
            if Instant::now() >= until {
                let said = ready.map(|ready| output::printable(&ready.message)).unwrap_or_default();
                println!(
                    "{client} has not taken it over yet, and goes on trying: {said}\nTo give up, delete Secret {} in {}.",
                    self.secret, self.args.system_namespace
                );
                return Ok(ExitCode::from(1));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn take_back(&self) -> anyhow::Result<()> {
        let deleted = self.secrets.delete(&self.secret, &DeleteParams::default()).await;
        match deleted {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            deleted => deleted.map(drop).with_context(|| format!("cannot delete Secret {}", self.secret)),
        }
    }
}
