//! The objects of a cluster as its gateway serves them, for questions; asked with the rights of whoever asks.
//!
//! Invariant: only what decides about one server is read: its namespace, the guardrails, the trust anchors; never a
//! Secret. What may not be read is said, and what is missing never makes an answer wider.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Client, ResourceExt as _};
use serde_json::Value;

use super::load::{self, Loaded};
use super::serving;
use crate::api::object::{self, Rejected};
use crate::api::{GROUP, Invalidity, Key, Kind, Object, VERSION};
use crate::cluster;
use crate::fleet::Fleet;
use crate::generated::codec::Generated;
use crate::generated::server::State;
use crate::resolve::{self, Accepted, Cluster, PublicUrl, Reason, Resolution, Settings};

/// How many objects one answer of the API server holds.
const PAGE: u32 = 500;

/// Everything that decides about the server `namespace/name`.
///
/// # Errors
/// If the cluster cannot be reached, or the server's namespace or the trust anchors may not be read.
pub fn for_questions(context: Option<&str>, server: &str, system_namespace: &str) -> anyhow::Result<Fleet> {
    let Some((namespace, _)) = server.split_once('/') else { bail!("--server {server}: write NAMESPACE/NAME") };
    let loaded = serving::runtime()?.block_on(async {
        let (client, _) = cluster::connect_to(context).await?;
        load(&client, namespace, system_namespace).await
    })?;
    if loaded.errors > 0 {
        let errors = super::output::counted(loaded.errors, "error");
        eprintln!(
            "warning: {errors} in the objects of {namespace} and {system_namespace} (see their conditions); of an invalid \
             policy the answer takes nothing to be granted"
        );
    }
    Ok(loaded.fleet)
}

async fn load(client: &Client, namespace: &str, system_namespace: &str) -> anyhow::Result<Loaded> {
    let mut found = Found::default();
    for (kind, place) in [
        (Kind::McpAuthorizationServer, None),
        (Kind::McpServer, Some(namespace)),
        (Kind::McpClient, Some(namespace)),
        (Kind::McpPolicy, Some(namespace)),
    ] {
        let objects = list(client, kind, place).await.with_context(|| cannot_read(kind, place))?;
        found.take(kind, objects);
    }
    if namespace != system_namespace {
        match list(client, Kind::McpPolicy, Some(system_namespace)).await {
            Ok(objects) => found.take(Kind::McpPolicy, objects),
            Err(kube::Error::Api(status)) if status.code == 403 => eprintln!(
                "warning: you may not read the guardrails (McpPolicies of {system_namespace}): whatever they deny is \
                 missing from the answer"
            ),
            Err(error) => return Err(error).context(cannot_read(Kind::McpPolicy, Some(system_namespace))),
        }
    }
    found.namespace(client, namespace).await;
    found.resolve(system_namespace)
}

fn cannot_read(kind: Kind, namespace: Option<&str>) -> String {
    let place = namespace.map(|namespace| format!(" in the namespace {namespace}")).unwrap_or_default();
    format!("cannot read each {}{place}", kind.as_str())
}

/// Objects as the API server has them.
async fn list(client: &Client, kind: Kind, namespace: Option<&str>) -> kube::Result<Vec<DynamicObject>> {
    let api = api(client, kind, namespace);
    let mut objects = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await?;
        objects.extend(list.items);
        match list.metadata.continue_.filter(|more| !more.is_empty()) {
            Some(more) => page = page.continue_token(&more),
            None => return Ok(objects),
        }
    }
}

fn api(client: &Client, kind: Kind, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, VERSION, kind.as_str()));
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

#[derive(Default)]
struct Found {
    objects: Vec<Object>,
    invalid: BTreeMap<Key, Invalidity>,
    /// By UID of the server: what its condition says of references that were not followed here.
    references: BTreeMap<String, Option<(String, String)>>,
}

impl Found {
    fn take(&mut self, kind: Kind, objects: Vec<DynamicObject>) {
        for mut object in objects {
            object.types = Some(kube::core::TypeMeta {
                api_version: format!("{GROUP}/{VERSION}"),
                kind: kind.as_str().to_owned(),
            });
            let Ok(value) = serde_json::to_value(&object) else { continue };
            if kind == Kind::McpServer {
                self.references.insert(object.uid().unwrap_or_default(), unresolved(&value));
            }
            match object::read(&value) {
                Ok(object) => self.objects.push(object),
                Err(Rejected::Invalid { key, problems }) => {
                    self.invalid.insert(key, Invalidity::Problems(problems));
                }
                Err(Rejected::Unidentified(problem)) => eprintln!("warning: {}: {problem:?}", object.name_any()),
                Err(Rejected::Foreign { .. }) => {}
            }
        }
    }

    /// The labels of the server's namespace, if they may be read: what guardrails select by.
    async fn namespace(&mut self, client: &Client, name: &str) {
        let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
        if let Ok(namespace) = api.get(name).await {
            let metadata = namespace.metadata;
            self.objects.push(Object::Namespace(crate::api::core::Namespace { metadata }));
        }
    }

    fn resolve(self, system_namespace: &str) -> anyhow::Result<Loaded> {
        // Who can do what does not depend on the host under which it is done.
        let public_url = PublicUrl::parse("https://mcp.invalid")?;
        let cluster = Cluster::presumed();
        let settings = Settings { public_url: &public_url, system_namespace, cluster: Some(&cluster) };
        let mut resolution = resolve::tree(&settings, &self.objects, &self.invalid, false, &Accepted::default());
        self.follow_conditions(&mut resolution);
        load::joined(resolution)
    }

    /// Secrets and ConfigMaps were not read, so whether a server lacks one is told by its condition.
    fn follow_conditions(&self, resolution: &mut Resolution) {
        let not_read = [Reason::SecretNotFound, Reason::ConfigMapNotFound].map(Reason::as_str);
        for object in &mut resolution.generated {
            let Generated::Server(server) = object else { continue };
            if !matches!(&server.state, State::Unserved { reason, .. } if not_read.contains(&reason.as_str())) {
                continue;
            }
            server.state = match self.references.get(&server.id.uid) {
                Some(Some((reason, message))) => State::Unserved { reason: reason.clone(), message: message.clone() },
                _ => State::Enabled,
            };
        }
    }
}

/// Reason and message of a server whose references are not resolved, as its condition has them.
fn unresolved(server: &Value) -> Option<(String, String)> {
    let conditions = server.pointer("/status/conditions")?.as_array()?;
    let condition = conditions.iter().find(|condition| condition["type"] == "ResolvedRefs")?;
    let text = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
    (condition["status"] == "False").then(|| (text("reason"), text("message")))
}
