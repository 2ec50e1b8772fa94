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
use crate::controller::registrations::{
    ABANDON, CLIENT_ID_ANNOTATION, CLUSTER_ANNOTATION, FORGET, ISSUER_ANNOTATION, LABEL, METHOD_ANNOTATION,
    REGISTERED_AT_ANNOTATION,
};
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
///
/// And tombstones: registrations whose McpClient is gone, and whose authorization server did not answer yet. Exit code 0: all are
/// as they should be; 1: one is not, a tombstone or another installation's registration included.
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
    /// Nobody can tell whose it is: whoever asks may not read which installation this is.
    perhaps_elsewhere: bool,
    message: Option<String>,
}

impl Shown {
    /// Whether nobody has to do or to wait for anything.
    fn is_fine(&self) -> bool {
        let is_wrong = self.drifted || self.expiring || self.orphaned || self.misdirected;
        self.state == "Ready" && !is_wrong
    }
}

async fn list(args: &List) -> anyhow::Result<ExitCode> {
    let (client, _) = cluster::connect_to(args.context.as_deref()).await?;
    let api: Api<McpClient> = match &args.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let clients = api.list(&ListParams::default()).await.context("cannot list McpClients")?;
    let mut all: Vec<Shown> = clients.items.iter().filter_map(shown).collect();
    all.extend(ledgers(&client, args).await);
    output::print(args.output, &all, |all| table(all, Timestamp::now()))?;
    Ok(if all.iter().all(Shown::is_fine) { ExitCode::SUCCESS } else { ExitCode::from(1) })
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
        perhaps_elsewhere: false,
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
    if cluster.is_none() && !found.is_empty() {
        eprintln!(
            "note: you may not read namespace {}, which tells this installation from others: tombstones may be another's, and what \
             else another has is not shown",
            args.system_namespace
        );
    }
    let kept = found.iter().filter_map(|secret| kept(secret, cluster.as_deref()));
    kept.filter(|one| args.namespace.as_ref().is_none_or(|asked| *asked == one.namespace)).collect()
}

/// A registration that no McpClient of this installation tells of, as its Secret's labels and annotations say.
fn kept(secret: &impl kube::ResourceExt, cluster: Option<&str>) -> Option<Shown> {
    let (name, annotations) = (secret.name_any(), secret.annotations());
    let of = annotations.get(CLUSTER_ANNOTATION);
    let is_elsewhere = of.zip(cluster).is_some_and(|(of, cluster)| of != cluster);
    let perhaps_elsewhere = of.is_some() && cluster.is_none();
    let (state, message) = match secret.labels().get(LABEL).map(String::as_str) {
        _ if is_elsewhere => {
            ("Elsewhere", format!("another installation's: clients adopt --ledger {name}, or delete the Secret"))
        }
        Some("tombstone") if perhaps_elsewhere => (
            "Tombstone",
            format!(
                "perhaps another installation's, which may have it taken back; else taken back as soon as its authorization server \
                 answers: Secret {name}"
            ),
        ),
        Some("tombstone") => {
            ("Tombstone", format!("taken back as soon as its authorization server answers: Secret {name}"))
        }
        _ => return None,
    };
    let (namespace, name) = annotations.get(SOURCE)?.split_once('/')?;
    let noted = |annotation: &str| annotations.get(annotation).cloned();
    Some(Shown {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        state: state.to_owned(),
        method: noted(METHOD_ANNOTATION),
        client_id: noted(CLIENT_ID_ANNOTATION),
        issuer: noted(ISSUER_ANNOTATION),
        registered_at: noted(REGISTERED_AT_ANNOTATION),
        secret_expires_at: None,
        // A ledger does not say when its server was asked.
        checked_at: None,
        drifted: false,
        expiring: false,
        orphaned: false,
        misdirected: false,
        perhaps_elsewhere,
        message: Some(message),
    })
}

/// What tells an installation from others: the UID of its system namespace.
pub(super) async fn installation(client: &Client, namespace: &str) -> anyhow::Result<String> {
    let found = Api::<Namespace>::all(client.clone()).get(namespace).await;
    let found = found.with_context(|| format!("cannot read namespace {namespace}"))?;
    found.metadata.uid.with_context(|| format!("namespace {namespace} has no UID"))
}

const HEAD: [&str; 9] = ["client", "state", "method", "client id", "issuer", "age", "expires", "asked", "notes"];

fn table(all: &[Shown], now: Timestamp) -> String {
    if all.is_empty() {
        return "No client is registered anywhere.".to_owned();
    }
    let rows: Vec<Vec<Said>> = all.iter().map(|one| row(one, now)).collect();
    output::wide(&HEAD, &rows).to_string()
}

fn row(one: &Shown, now: Timestamp) -> Vec<Said> {
    let since = |time: &Option<String>| {
        let time: Option<Timestamp> = time.as_ref().and_then(|time| time.parse().ok());
        time.map(|time| span(now.as_second().saturating_sub(time.as_second()))).unwrap_or_default()
    };
    let plain = |text: Option<&String>| (text.cloned().unwrap_or_default(), Tone::Plain);
    let tone = match one.state.as_str() {
        "Ready" => Tone::Good,
        "Pending" | "Deleting" | "Tombstone" | "Elsewhere" => Tone::Caution,
        _ => Tone::Bad,
    };
    let mut notes = Vec::new();
    notes.extend(one.drifted.then_some("drifted"));
    notes.extend(one.expiring.then_some("secret not replaced"));
    notes.extend(one.orphaned.then_some("orphans left"));
    notes.extend(one.misdirected.then_some("audience not verified"));
    notes.extend(one.perhaps_elsewhere.then_some("perhaps another installation's"));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    const NOW: &str = "2026-03-04T12:00:00Z";

    fn cells(one: &Shown) -> BTreeMap<&'static str, String> {
        let row = row(one, NOW.parse().unwrap());
        assert_eq!(row.len(), HEAD.len());
        HEAD.into_iter().zip(row).map(|(head, (text, _))| (head, text)).filter(|(_, text)| !text.is_empty()).collect()
    }

    fn expected(cells: &[(&'static str, &str)]) -> BTreeMap<&'static str, String> {
        cells.iter().map(|(head, text)| (*head, (*text).to_owned())).collect()
    }

    fn client(registration: Value, conditions: &[(&str, &str)]) -> Shown {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(type_, status)| {
                json!({"type": type_, "status": status, "reason": "Why", "message": "said",
                    "lastTransitionTime": NOW, "observedGeneration": 1})
            })
            .collect();
        let client = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpClient",
            "metadata": {"namespace": "team", "name": "reports"},
            "spec": {"authorizationServer": "corp", "registration": {}},
            "status": {"clientId": "c-1", "conditions": conditions, "registration": registration}});
        shown(&serde_json::from_value(client).unwrap()).unwrap()
    }

    fn ledger(label: &str, cluster: Option<&str>) -> Secret {
        let mut annotations = json!({SOURCE: "team/reports", ISSUER_ANNOTATION: "https://as.example",
            METHOD_ANNOTATION: "DCR", CLIENT_ID_ANNOTATION: "c-1", REGISTERED_AT_ANNOTATION: "2026-03-01T11:00:00Z"});
        if let Some(cluster) = cluster {
            annotations[CLUSTER_ANNOTATION] = cluster.into();
        }
        let metadata = json!({"name": "registration-u-1-0", "labels": {LABEL: label}, "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    #[test]
    fn a_client_is_shown_with_its_age_its_expiry_when_it_was_asked_about_and_what_is_wrong_with_it() {
        let registration = json!({"method": "DCR", "issuer": "https://as.example",
            "registeredAt": "2026-03-04T09:00:00Z", "secretExpiresAt": "2026-03-10T12:00:00Z",
            "checkedAt": "2026-03-04T11:55:00Z"});
        let ready = client(registration.clone(), &[("Ready", "True")]);
        let plain = [
            ("client", "team/reports"),
            ("state", "Ready"),
            ("method", "DCR"),
            ("client id", "c-1"),
            ("issuer", "https://as.example"),
            ("age", "3h"),
            ("expires", "6d"),
            ("asked", "5m"),
        ];
        assert_eq!(cells(&ready), expected(&plain));
        assert!(ready.is_fine());
        for (condition, note) in [("Drifted", "drifted"), ("CredentialExpiring", "secret not replaced")] {
            let wrong = client(registration.clone(), &[("Ready", "True"), (condition, "True")]);
            assert_eq!((cells(&wrong)["notes"].as_str(), wrong.is_fine()), (note, false));
        }
        let wrong = [("Ready", "True"), ("Orphaned", "True"), ("AudienceVerified", "False")];
        let wrong = client(registration.clone(), &wrong);
        assert_eq!((cells(&wrong)["notes"].as_str(), wrong.is_fine()), ("orphans left, audience not verified", false));
        let mut late = registration;
        late["secretExpiresAt"] = "2026-03-04T11:00:00Z".into();
        let late = client(late, &[("Ready", "False")]);
        assert_eq!((cells(&late)["expires"].as_str(), cells(&late)["state"].as_str()), ("0s", "Why"));
        assert!(!late.is_fine());
    }

    #[test]
    fn a_tombstone_is_shown_with_what_its_ledger_tells_of_it() {
        let told = [
            ("client", "team/reports"),
            ("state", "Tombstone"),
            ("method", "DCR"),
            ("client id", "c-1"),
            ("issuer", "https://as.example"),
            ("age", "3d"),
        ];
        // Ledgers of before do not say whose they are.
        for cluster in [Some("ours"), None] {
            let tombstone = kept(&ledger("tombstone", cluster), Some("ours")).unwrap();
            assert_eq!(cells(&tombstone), expected(&told));
            assert!(!tombstone.is_fine(), "what is left at the server is to be waited for");
            assert!(tombstone.message.as_ref().unwrap().starts_with("taken back as soon as"), "{tombstone:?}");
        }
        assert!(kept(&ledger("live", Some("ours")), Some("ours")).is_none(), "its McpClient tells of it");
    }

    #[test]
    fn a_ledger_is_anothers_or_perhaps_anothers_where_nobody_can_tell() {
        for label in ["live", "tombstone", "orphans"] {
            let one = kept(&ledger(label, Some("theirs")), Some("ours")).unwrap();
            assert_eq!((one.state.as_str(), one.is_fine(), one.perhaps_elsewhere), ("Elsewhere", false, false));
            assert!(one.message.unwrap().contains("clients adopt --ledger registration-u-1-0"));
        }
        let perhaps = kept(&ledger("tombstone", Some("theirs")), None).unwrap();
        assert_eq!((perhaps.state.as_str(), perhaps.is_fine()), ("Tombstone", false));
        assert_eq!(cells(&perhaps)["notes"], "perhaps another installation's");
        assert!(perhaps.message.unwrap().starts_with("perhaps another installation's"));
        // One that does not say whose it is is this installation's, whoever asks.
        assert!(!kept(&ledger("tombstone", None), None).unwrap().perhaps_elsewhere);
    }
}
