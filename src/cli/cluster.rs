//! The objects of a cluster as its gateway serves them, for questions; asked with the rights of whoever asks.
//!
//! Invariant: only what decides is read, and about one server only its namespace, the guardrails, the trust anchors; never a
//! Secret. What may not be read is said, and what is missing never makes an answer wider.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Client, ResourceExt as _};
use serde_json::Value;

use super::load::{self, Loaded};
use super::serving;
use crate::access::targets::Inventories;
use crate::admission::inventory::inventory;
use crate::api::object::{self, Rejected};
use crate::api::{GROUP, Invalidity, Key, Kind, Object, VERSION};
use crate::cluster;
use crate::generated::codec::Generated;
use crate::generated::server::State;
use crate::resolve::{self, Accepted, Cluster, Observed, RegisteredAs, Resolution, Settings};

/// How many objects one answer of the API server holds.
const PAGE: u32 = 500;

/// Everything that decides about the server `namespace/name`.
///
/// # Errors
/// If the cluster cannot be reached, or the server's namespace or the trust anchors may not be read.
pub fn for_questions(context: Option<&str>, server: &str, system_namespace: &str) -> anyhow::Result<Loaded> {
    let Some((namespace, _)) = server.split_once('/') else { bail!("--server {server}: write NAMESPACE/NAME") };
    let loaded = asked(context, Some(namespace), system_namespace)?;
    complain(&loaded, &format!("{namespace} and {system_namespace}"));
    Ok(loaded)
}

/// Everything that decides about any server.
///
/// # Errors
/// If the cluster cannot be reached, or what is in it may not be read in all namespaces.
pub fn everything(context: Option<&str>, system_namespace: &str) -> anyhow::Result<Loaded> {
    let loaded = asked(context, None, system_namespace)?;
    complain(&loaded, "the cluster");
    Ok(loaded)
}

fn complain(loaded: &Loaded, place: &str) {
    if !loaded.refused.is_empty() {
        let errors = super::output::counted(loaded.refused.len(), "error");
        eprintln!(
            "warning: {errors} in the objects of {place} (see their conditions); of an invalid policy the answer takes \
             nothing to be granted"
        );
    }
}

fn asked(context: Option<&str>, namespace: Option<&str>, system_namespace: &str) -> anyhow::Result<Loaded> {
    serving::runtime()?.block_on(async {
        let (client, _) = cluster::connect_to(context).await?;
        load(&client, namespace, system_namespace).await
    })
}

/// What is in a namespace, or in all of them.
async fn load(client: &Client, namespace: Option<&str>, system_namespace: &str) -> anyhow::Result<Loaded> {
    let mut found = Found::default();
    for (kind, place) in [
        (Kind::McpAuthorizationServer, None),
        (Kind::McpServer, namespace),
        (Kind::McpClient, namespace),
        (Kind::McpPolicy, namespace),
    ] {
        let objects = list(client, kind, place).await.with_context(|| cannot_read(kind, place))?;
        found.take(kind, objects);
    }
    if namespace.is_some_and(|namespace| namespace != system_namespace) {
        match list(client, Kind::McpPolicy, Some(system_namespace)).await {
            Ok(objects) => found.take(Kind::McpPolicy, objects),
            Err(kube::Error::Api(status)) if status.code == 403 => eprintln!(
                "warning: you may not read the guardrails (McpPolicies of {system_namespace}): whatever they deny is \
                 missing from the answer"
            ),
            Err(error) => return Err(error).context(cannot_read(Kind::McpPolicy, Some(system_namespace))),
        }
    }
    found.namespaces(client, namespace).await;
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
    /// As whom McpClients are registered, as their status has it.
    registered: BTreeMap<Key, RegisteredAs>,
    /// The tools that servers list, as their status has them.
    inventories: Inventories,
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
                let name = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
                self.inventories.extend(inventory(&value).map(|tools| (name, tools)));
            }
            match object::read(&value) {
                Ok(object) => {
                    let registered = value.get("status").filter(|_| kind == Kind::McpClient).and_then(RegisteredAs::of);
                    self.registered.extend(registered.map(|registered| (object.key(), registered)));
                    self.objects.push(object);
                }
                Err(Rejected::Invalid { key, problems }) => {
                    self.invalid.insert(key, Invalidity::Problems(problems));
                }
                Err(Rejected::Unidentified(problem)) => eprintln!("warning: {}: {problem:?}", object.name_any()),
                Err(Rejected::Foreign { .. }) => {}
            }
        }
    }

    /// The labels of a namespace, or of all of them, if they may be read: what guardrails select by.
    async fn namespaces(&mut self, client: &Client, name: Option<&str>) {
        let api: Api<Namespace> = Api::all(client.clone());
        let found = match name {
            Some(name) => api.get(name).await.map(|one| vec![one]),
            None => api.list(&ListParams::default()).await.map(|all| all.items),
        };
        let namespaces = found.unwrap_or_default().into_iter().map(|namespace| namespace.metadata);
        self.objects.extend(namespaces.map(|metadata| Object::Namespace(crate::api::core::Namespace { metadata })));
    }

    fn resolve(self, system_namespace: &str) -> anyhow::Result<Loaded> {
        let public_url = load::any_url()?;
        let cluster = Cluster::presumed();
        let settings = Settings { public_url: &public_url, system_namespace, cluster: Some(&cluster) };
        let observed = Observed { registered: Some(&self.registered), ..Observed::default() };
        let accepted = Accepted::default();
        let mut resolution = resolve::tree(&settings, &self.objects, &self.invalid, false, &accepted, observed);
        self.follow_conditions(&mut resolution);
        Ok(Loaded { inventories: self.inventories, registered: self.registered, ..load::joined(resolution)? })
    }

    /// Secrets and ConfigMaps were not read, so whether a server lacks one is told by its condition.
    fn follow_conditions(&self, resolution: &mut Resolution) {
        for object in &mut resolution.generated {
            let Generated::Server(server) = object else { continue };
            if !load::lacks_reference(server) {
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
