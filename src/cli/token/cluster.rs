//! Tokens of a cluster's gateway: McpClients, written and read with the rights of whoever asks.
//!
//! Invariant: the signing key is never here; a token is what the controller has put into the Secret of its McpClient.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Issue, Revoke, Which};
use crate::api::v1alpha1::McpClientStatus;
use crate::api::{McpAuthorizationServer, McpClient, McpServer};
use crate::cluster;
use crate::issuer::TokenRecord;

/// How long a token is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(250);
/// The key of the Secret that holds a token.
const KEY: &str = "token";
/// The annotation that holds a person's note.
const LABEL: &str = "portcullis.dev/label";

/// A cluster, and a namespace in it.
pub(super) struct There {
    client: Client,
    namespace: String,
}

impl There {
    pub(super) async fn connect(which: &Which, servers: &[String]) -> anyhow::Result<Self> {
        let (client, default) = cluster::connect_to(which.context.as_deref()).await?;
        let of_servers =
            servers.first().and_then(|server| server.split_once('/')).map(|(namespace, _)| namespace.to_owned());
        let namespace = which.namespace.clone().or(of_servers).unwrap_or(default);
        Ok(Self { client, namespace })
    }

    fn clients(&self) -> Api<McpClient> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes an McpClient, and waits for its token.
    pub(super) async fn issue(&self, args: &Issue) -> anyhow::Result<(String, TokenRecord)> {
        let (mut own, mut audiences, mut issuers) = (Vec::new(), Vec::new(), Vec::new());
        for server in &args.servers {
            let (namespace, name) =
                server.split_once('/').with_context(|| format!("--server {server}: write NAMESPACE/NAME"))?;
            let servers: Api<McpServer> = Api::namespaced(self.client.clone(), namespace);
            let found = servers.get(name).await.with_context(|| format!("cannot read McpServer {server}"))?;
            issuers.push(found.spec.authorization.servers.clone());
            if namespace == self.namespace {
                own.push(name.to_owned());
            } else {
                let resource = found.status.and_then(|status| status.resource);
                audiences.push(resource.with_context(|| format!("the status of {server} does not say where it is"))?);
            }
        }
        let authority = self.local_issuer(args.which.authority.as_deref(), &issuers).await?;
        let mut token = json!({"subject": args.subject, "lifetime": format!("{}s", args.lifetime)});
        for (member, list) in
            [("servers", &own), ("audiences", &audiences), ("groups", &args.groups), ("scopes", &args.scopes)]
        {
            if !list.is_empty() {
                token[member] = json!(list);
            }
        }
        let mut object = json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpClient",
            "metadata": {"generateName": format!("{}-", slug(&args.subject)), "namespace": self.namespace},
            "spec": {"authorizationServer": authority, "method": "Token", "token": token},
        });
        if let Some(label) = &args.label {
            object["metadata"]["annotations"] = json!({LABEL: label});
        }
        let made = self.clients().create(&PostParams::default(), &serde_json::from_value(object)?).await;
        let name = made.with_context(|| format!("cannot make an McpClient in {}", self.namespace))?.name_any();
        self.wait(&name).await.with_context(|| {
            format!("McpClient {0}/{name} stays: kubectl delete mcpclient {name} -n {0}", self.namespace)
        })
    }

    /// The issuer of the gateway's own that every server accepts.
    async fn local_issuer(&self, named: Option<&str>, accepted: &[Vec<String>]) -> anyhow::Result<String> {
        if let Some(name) = named {
            return Ok(name.to_owned());
        }
        let first = accepted.first().map(Vec::as_slice).unwrap_or_default();
        let common = first.iter().filter(|name| accepted.iter().all(|list| list.contains(name)));
        let api: Api<McpAuthorizationServer> = Api::all(self.client.clone());
        let mut local = Vec::new();
        for name in common {
            match api.get_opt(name).await {
                Ok(found) => local.extend(found.filter(|one| one.spec.local.is_some()).map(|_| name.clone())),
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot read McpAuthorizationServer {name}: choose with --authority, without looking")
                    });
                }
            }
        }
        match local.as_slice() {
            [one] => Ok(one.clone()),
            [] => bail!("the servers accept tokens of no common McpAuthorizationServer with `local: {{}}`"),
            several => bail!("choose with --authority one of {}", several.join(", ")),
        }
    }

    async fn wait(&self, name: &str) -> anyhow::Result<(String, TokenRecord)> {
        let begun = Instant::now();
        loop {
            let client = self.clients().get(name).await.context("cannot read it")?;
            match told(&client) {
                Told::Issued => {
                    let record = record(&client).context("its status does not say what its token is")?;
                    let secret = client.status.and_then(|status| status.token).map(|token| token.secret_name);
                    return Ok((self.token(&secret.unwrap_or_default()).await?, record));
                }
                Told::Refused(message) => bail!("{message}"),
                Told::Nothing if begun.elapsed() < PATIENCE => sleep(LOOK).await,
                Told::Nothing => bail!("the controller has said nothing of it for a minute: does it run?"),
            }
        }
    }

    async fn token(&self, secret: &str) -> anyhow::Result<String> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let found =
            secrets.get(secret).await.with_context(|| format!("cannot read Secret {}/{secret}", self.namespace))?;
        let token = found.data.as_ref().and_then(|data| data.get(KEY)).map(|token| token.0.clone());
        String::from_utf8(token.unwrap_or_default()).ok().filter(|token| !token.is_empty()).context("it holds no token")
    }

    /// The tokens of the namespace's clients, each with what is to be said of it.
    pub(super) async fn list(&self) -> anyhow::Result<Vec<(TokenRecord, &'static str)>> {
        let now = super::now();
        let clients = self.all().await?;
        let state = |client: &McpClient, record: &TokenRecord| match told(client) {
            _ if record.expires_at <= now => "expired",
            _ if ended(client, record) => "revoked",
            _ => "active",
        };
        let records = clients.iter().filter_map(|client| record(client).map(|record| (state(client, &record), record)));
        Ok(records.map(|(state, record)| (record, state)).collect())
    }

    async fn all(&self) -> anyhow::Result<Vec<McpClient>> {
        let listed = self.clients().list(&ListParams::default()).await;
        Ok(listed.with_context(|| format!("cannot list McpClients of {}", self.namespace))?.items)
    }

    /// Ends tokens; says whether there was one.
    pub(super) async fn revoke(&self, args: &Revoke) -> anyhow::Result<bool> {
        let clients = self.all().await?;
        let with_id = |id: &str| {
            let of = |client: &&McpClient| record(client).is_some_and(|record| record.jti == id);
            clients.iter().find(of).map(|client| client.spec.authorization_server.clone())
        };
        if let Some(id) = &args.id {
            let known = with_id(id);
            let authority = known.clone().or_else(|| args.which.authority.clone()).with_context(|| {
                format!("no McpClient of {} has this token now: say --authority to end it nevertheless", self.namespace)
            })?;
            self.revoke_one(&authority, id).await?;
            return Ok(known.is_some());
        }
        let mut any = false;
        let subject = args.subject.as_deref().unwrap_or_default();
        for client in clients.iter().filter(|client| client.spec.token.as_ref().is_some_and(|t| t.subject == subject)) {
            // One second on: tokens of this very second are meant too.
            let after = super::time(super::now() + 1);
            let patch = json!({"spec": {"validAfter": after}});
            let name = client.name_any();
            let patched = self.clients().patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
            patched.with_context(|| format!("cannot change McpClient {}/{name}", self.namespace))?;
            any = true;
        }
        Ok(any)
    }

    /// One token, by the list of its authority.
    async fn revoke_one(&self, authority: &str, jti: &str) -> anyhow::Result<()> {
        let api: Api<McpAuthorizationServer> = Api::all(self.client.clone());
        let what = || format!("cannot change McpAuthorizationServer {authority}");
        let found = api.get(authority).await.with_context(what)?;
        let mut revoked = found.spec.revoked.clone();
        if revoked.iter().any(|entry| entry.jti.as_deref() == Some(jti)) {
            return Ok(());
        }
        revoked.push(crate::api::v1alpha1::RevokedSpec { jti: Some(jti.to_owned()), ..Default::default() });
        // The version makes it a precondition: what somebody else revokes meanwhile is not lost.
        let patch =
            json!({"metadata": {"resourceVersion": found.metadata.resource_version}, "spec": {"revoked": revoked}});
        api.patch(authority, &PatchParams::default(), &Patch::Merge(&patch)).await.with_context(what)?;
        Ok(())
    }
}

/// What the controller says of a client's token.
enum Told {
    Issued,
    Refused(String),
    Nothing,
}

fn told(client: &McpClient) -> Told {
    let conditions = client.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let current = conditions.iter().filter(|said| said.observed_generation == client.metadata.generation);
    let said = |type_: &str| current.clone().find(|said| said.type_ == type_);
    let refused = [said("Accepted"), said("TokenIssued")].into_iter().flatten().find(|said| said.status == "False");
    match (refused, said("TokenIssued")) {
        (Some(why), _) if why.reason == "Pending" => Told::Nothing,
        (Some(why), _) => Told::Refused(format!("{} ({})", why.message, why.reason)),
        (None, Some(issued)) if issued.status == "True" => Told::Issued,
        (None, _) => Told::Nothing,
    }
}

/// What is on record of a client's token.
fn record(client: &McpClient) -> Option<TokenRecord> {
    let McpClientStatus { client_id, token, .. } = client.status.clone()?;
    let token = token?;
    let seconds = |time: &str| time.parse::<Timestamp>().ok().map(|time| time.as_second());
    Some(TokenRecord {
        issued_at: seconds(&token.issued_at)?,
        expires_at: seconds(&token.expires_at)?,
        jti: token.jti,
        subject: token.subject,
        audiences: token.audiences,
        client_id: client_id.unwrap_or_default(),
        groups: token.groups,
        scopes: token.scopes,
        label: client.annotations().get(LABEL).cloned(),
    })
}

/// Whether the token that is on record is refused already, until the controller has made another.
fn ended(client: &McpClient, record: &TokenRecord) -> bool {
    let said = client.status.as_ref().and_then(|status| status.valid_after.as_deref());
    let times = [client.spec.valid_after.as_deref(), said].into_iter().flatten();
    times.filter_map(|time| time.parse::<Timestamp>().ok()).any(|time| record.issued_at < time.as_second())
}

/// A name that an object can have, made of a person's.
fn slug(subject: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let text: String = subject.chars().map(plain).take(40).collect();
    let text = text.trim_matches('-');
    if text.is_empty() { "client".to_owned() } else { text.to_owned() }
}

/// Runs something against the cluster.
pub(super) fn ask<T>(asked: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    crate::cli::serving::runtime()?.block_on(asked)
}

/// Exit code and words of a revocation.
pub(super) fn say_revoked(any: bool, what: &str, namespace: Option<&str>) -> ExitCode {
    if any {
        eprintln!("revoked: proxies refuse it within a second");
        return ExitCode::SUCCESS;
    }
    let place = namespace.map(|namespace| format!(" in {namespace}")).unwrap_or_default();
    let message = format!("warning: no token{place} is meant by {what:?}: see portcullis token list");
    eprintln!("{}", super::output::printable(&message));
    ExitCode::from(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persons_name_makes_an_objects_name() {
        for (subject, name) in
            [("ana", "ana"), ("Ana.Lopez@x.example", "ana-lopez-x-example"), ("\u{e9}", "client"), ("--a--", "a")]
        {
            assert_eq!(slug(subject), name);
        }
        assert!(slug(&"x".repeat(255)).len() <= 40);
    }
}
