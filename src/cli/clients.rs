//! `portcullis clients`: what is registered at authorization servers, and what to do where that went wrong.
//!
//! Invariant: nothing secret is read; what is shown is what the controller has said in statuses, and which ledgers there are.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use serde_json::json;

use super::named::Named;
use super::output::{self, Format, Said, Tone};
use super::{adopt, serving};
use crate::api::McpClient;
use crate::api::v1alpha1::ClientMethod;
use crate::cluster;
use crate::controller::registrations::{ABANDON, CLUSTER_ANNOTATION, FORGET, ISSUER_ANNOTATION, LABEL};
use crate::generated::kind::SOURCE;

/// List the clients that are registered at authorization servers, and repair what went wrong
///
/// Asks the cluster of the kubeconfig, with your rights.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    List(List),
    /// Forget the orphans of a client: you have removed them at the authorization server
    Forget(One),
    /// Give up the registration of a client that is being deleted: whatever is at the authorization server stays there
    Abandon(One),
    Adopt(adopt::Args),
}

/// List registered clients: age, method, expiry, drift, and when the authorization server was last asked
#[derive(clap::Args, Debug)]
struct List {
    /// The kubeconfig's context to ask instead of the current one
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_CONTEXT")]
    context: Option<String>,
    /// The namespace of the McpClients [default: all that you may list]
    #[arg(short, long, value_name = "NAMESPACE", env = "PORTCULLIS_NAMESPACE")]
    namespace: Option<String>,
    /// The namespace of the controller, where tombstones are
    #[arg(long, value_name = "NAME", default_value = "portcullis-system", env = "PORTCULLIS_SYSTEM_NAMESPACE")]
    system_namespace: String,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    output: Format,
}

#[derive(clap::Args, Debug)]
struct One {
    #[command(flatten)]
    client: Named,
    /// The kubeconfig's context to ask instead of the current one
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_CONTEXT")]
    context: Option<String>,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = serving::runtime()?;
    match args.verb {
        Verb::List(args) => runtime.block_on(list(&args)),
        Verb::Forget(args) => runtime.block_on(forget(&args)),
        Verb::Abandon(args) => runtime.block_on(abandon(&args)),
        Verb::Adopt(args) => runtime.block_on(adopt::run(&args)),
    }
}

/// What is printed of a client.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    namespace: String,
    name: String,
    state: String,
    method: Option<String>,
    client_id: Option<String>,
    issuer: Option<String>,
    registered_at: Option<String>,
    secret_expires_at: Option<String>,
    checked_at: Option<String>,
    drifted: bool,
    /// Its secret should have been replaced by now.
    expiring: bool,
    orphaned: bool,
    /// Its tokens are not for all of its servers.
    misdirected: bool,
    message: Option<String>,
}

async fn list(args: &List) -> anyhow::Result<ExitCode> {
    let (client, _) = cluster::connect_to(args.context.as_deref()).await?;
    let api: Api<McpClient> = match &args.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let clients = api.list(&ListParams::default()).await.context("cannot list McpClients")?;
    let mut all: Vec<Shown> = clients.items.iter().filter_map(shown).collect();
    let is_fine = |one: &Shown| {
        let is_wrong = one.drifted || one.expiring || one.orphaned || one.misdirected;
        one.state == "Ready" && !is_wrong
    };
    let is_fine = all.iter().all(is_fine);
    all.extend(ledgers(&client, args).await);
    output::print(args.output, &all, |all| table(all, Timestamp::now()))?;
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// A client that is registered, as its status says.
fn shown(client: &McpClient) -> Option<Shown> {
    let status = client.status.clone().unwrap_or_default();
    let says = |type_: &str, truth: &str| status.conditions.iter().any(|one| one.type_ == type_ && one.status == truth);
    let holds = |type_: &str| says(type_, "True");
    // What one with a token was registered as may be left.
    if client.spec.method == Some(ClientMethod::Token) && !holds("Orphaned") && !holds("LeftBehind") {
        return None;
    }
    let ready = status.conditions.iter().find(|one| one.type_ == "Ready");
    let state = ready.map_or("Pending", |ready| if ready.status == "True" { "Ready" } else { ready.reason.as_str() });
    let registration = status.registration.clone();
    let of = |pick: fn(crate::api::v1alpha1::ClientRegistrationStatus) -> Option<String>| {
        registration.clone().and_then(pick)
    };
    Some(Shown {
        namespace: client.namespace().unwrap_or_default(),
        name: client.name_any(),
        state: if client.metadata.deletion_timestamp.is_some() { "Deleting".to_owned() } else { state.to_owned() },
        method: of(|one| Some(one.method)),
        client_id: status.client_id.clone(),
        issuer: of(|one| Some(one.issuer)),
        registered_at: of(|one| one.registered_at),
        secret_expires_at: of(|one| one.secret_expires_at),
        checked_at: of(|one| one.checked_at),
        drifted: holds("Drifted"),
        expiring: holds("CredentialExpiring"),
        orphaned: holds("Orphaned"),
        misdirected: says("AudienceVerified", "False"),
        message: ready.filter(|ready| ready.status != "True").map(|ready| ready.message.clone()),
    })
}

/// Registrations whose object did not wait, and those of another installation.
async fn ledgers(client: &Client, args: &List) -> Vec<Shown> {
    let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), &args.system_namespace);
    let found = match api.list_metadata(&ListParams::default().labels(LABEL)).await {
        Ok(found) => found.items,
        Err(_) => {
            eprintln!("note: you may not list Secrets of {}, where tombstones are", args.system_namespace);
            return Vec::new();
        }
    };
    let cluster = installation(client, &args.system_namespace).await.ok();
    let kept = found.iter().filter_map(|secret| kept(secret, cluster.as_deref()));
    kept.filter(|one| args.namespace.as_ref().is_none_or(|asked| *asked == one.namespace)).collect()
}

/// A registration that no McpClient of this installation tells of, as its Secret's labels and annotations say.
fn kept(secret: &impl kube::ResourceExt, cluster: Option<&str>) -> Option<Shown> {
    let (name, annotations) = (secret.name_any(), secret.annotations());
    let of = annotations.get(CLUSTER_ANNOTATION);
    let is_elsewhere = of.zip(cluster).is_some_and(|(of, cluster)| of != cluster);
    let (state, message) = match secret.labels().get(LABEL).map(String::as_str) {
        _ if is_elsewhere => {
            ("Elsewhere", format!("another installation's: clients adopt --ledger {name}, or delete the Secret"))
        }
        Some("tombstone") => {
            ("Tombstone", format!("taken back as soon as its authorization server answers: Secret {name}"))
        }
        _ => return None,
    };
    let (namespace, name) = annotations.get(SOURCE)?.split_once('/')?;
    Some(Shown {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        state: state.to_owned(),
        method: None,
        client_id: None,
        issuer: annotations.get(ISSUER_ANNOTATION).cloned(),
        registered_at: None,
        secret_expires_at: None,
        checked_at: None,
        drifted: false,
        expiring: false,
        orphaned: false,
        misdirected: false,
        message: Some(message),
    })
}

/// What tells an installation from others: the UID of its system namespace.
pub(super) async fn installation(client: &Client, namespace: &str) -> anyhow::Result<String> {
    let found = Api::<Namespace>::all(client.clone()).get(namespace).await;
    let found = found.with_context(|| format!("cannot read namespace {namespace}"))?;
    found.metadata.uid.with_context(|| format!("namespace {namespace} has no UID"))
}

fn table(all: &[Shown], now: Timestamp) -> String {
    let head = ["client", "state", "method", "client id", "issuer", "age", "expires", "asked", "notes"];
    let since = |time: &Option<String>| {
        let time: Option<Timestamp> = time.as_ref().and_then(|time| time.parse().ok());
        time.map(|time| span(now.as_second().saturating_sub(time.as_second()))).unwrap_or_default()
    };
    let plain = |text: Option<&String>| (text.cloned().unwrap_or_default(), Tone::Plain);
    let rows: Vec<Vec<Said>> = all
        .iter()
        .map(|one| {
            let tone = match one.state.as_str() {
                "Ready" => Tone::Good,
                "Pending" | "Deleting" | "Tombstone" | "Elsewhere" => Tone::Caution,
                _ => Tone::Bad,
            };
            let mut notes = Vec::new();
            notes.extend(one.drifted.then_some("drifted"));
            notes.extend(one.expiring.then_some("secret not replaced"));
            notes.extend(one.orphaned.then_some("orphans left"));
            notes.extend(one.misdirected.then_some("wrong audience"));
            let expires = one.secret_expires_at.as_ref().and_then(|time| time.parse::<Timestamp>().ok());
            let expires = expires.map(|at| span(at.as_second().saturating_sub(now.as_second())));
            vec![
                (format!("{}/{}", one.namespace, one.name), Tone::Plain),
                (one.state.clone(), tone),
                plain(one.method.as_ref()),
                plain(one.client_id.as_ref()),
                plain(one.issuer.as_ref()),
                (since(&one.registered_at), Tone::Plain),
                (expires.unwrap_or_default(), Tone::Plain),
                (since(&one.checked_at), Tone::Faint),
                (notes.join(", "), Tone::Caution),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "No client is registered anywhere.".to_owned();
    }
    output::wide(&head, &rows).to_string()
}

/// A length of time as `kubectl` shows ages.
fn span(seconds: i64) -> String {
    match seconds {
        ..=0 => "0s".to_owned(),
        1..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

async fn forget(args: &One) -> anyhow::Result<ExitCode> {
    let (api, name) = named(args).await?;
    // What is lost from now on was not looked at.
    let looked = Timestamp::now();
    let found = api.get(&name).await.with_context(|| format!("cannot read McpClient {}", args.client))?;
    let orphaned = found.status.iter().flat_map(|status| &status.conditions).find(|one| one.type_ == "Orphaned");
    let Some(orphaned) = orphaned.filter(|one| one.status == "True") else {
        println!("{} has no orphans.", args.client);
        return Ok(ExitCode::from(1));
    };
    println!("{}", output::printable(&orphaned.message));
    annotate(&api, &found, FORGET, Some(&looked.to_string())).await?;
    println!("They are forgotten: if one is still there, nothing will tell of it any more.");
    Ok(ExitCode::SUCCESS)
}

async fn abandon(args: &One) -> anyhow::Result<ExitCode> {
    let (api, name) = named(args).await?;
    let found = api.get(&name).await.with_context(|| format!("cannot read McpClient {}", args.client))?;
    if found.metadata.deletion_timestamp.is_none() {
        bail!(
            "{} is not being deleted. To leave a registration where it is, set spec.registration.deletion.policy: Retain \
             and delete the McpClient",
            args.client
        );
    }
    annotate(&api, &found, ABANDON, Some(&Timestamp::now().to_string())).await?;
    let id = found.status.and_then(|status| status.client_id).unwrap_or_else(|| "nobody knows which".to_owned());
    println!("{} is let go. What stays at the authorization server: {}", args.client, output::printable(&id));
    Ok(ExitCode::SUCCESS)
}

async fn named(args: &One) -> anyhow::Result<(Api<McpClient>, String)> {
    let (namespace, name) = args.client.parse()?;
    let (client, _) = cluster::connect_to(args.context.as_deref()).await?;
    Ok((Api::namespaced(client, namespace), name.to_owned()))
}

/// Annotates what was looked at, and not another object of its name; no value removes the annotation.
pub(super) async fn annotate<K>(
    api: &Api<K>,
    found: &impl kube::ResourceExt,
    annotation: &str,
    value: Option<&str>,
) -> anyhow::Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let name = found.name_any();
    let patch = json!({"metadata": {"uid": found.uid(), "annotations": {annotation: value}}});
    let patched = api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map(drop).with_context(|| format!("cannot annotate {name}"))
}
