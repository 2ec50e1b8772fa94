//! The NetworkPolicy that keeps a governed upstream from being called around the gateway, in the server's namespace: for an
//! McpServer that asks for it (`spec.upstream.service.reachableFrom: GatewayOnly`).
//!
//! Invariant: a NetworkPolicy that is not ours is left alone, whatever its name. One of ours is changed or removed for an
//! accepted McpServer only: while something is missing or not known, it stays as it is. That there may be one is in the
//! server's status before it is written, so whoever leads next knows what to remove.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use kube::api::{DeleteParams, PatchParams, Preconditions};
use serde_json::Value;

use crate::api::v1alpha1::{McpServerSpec, ReachableFrom, ServiceRef};
use crate::api::{GROUP, VERSION};
use crate::cluster;
use crate::controller::conditions::{
    ISOLATED, ISOLATION_FORBIDDEN, NETWORK_POLICY_CONFLICT, NOT_ACCEPTED, PENDING, SERVICE_NOT_FOUND,
    SERVICE_PORT_NOT_FOUND, SERVICE_WITHOUT_SELECTOR, Said, Truth, role_binding,
};
use crate::controller::error::{ApiError, Failure, code};
use crate::controller::fetch::Fetched;
use crate::controller::object::FIELD_MANAGER;
use crate::controller::{Context, Installation};
use crate::generated::ObjectId;

/// The label of such NetworkPolicies.
pub const LABEL: &str = "portcullis.dev/isolation";
/// Its value.
pub const LABEL_VALUE: &str = "upstream";
/// What the name of such a NetworkPolicy adds to its server's: a server's name is at most 63 characters long, and no two
/// servers of a namespace come to one name.
const SUFFIX: &str = "-gateway-only";
/// The member of a server's status with the name of its NetworkPolicy.
pub const NOTED: &str = "networkPolicy";
/// The role that lets the controller isolate upstreams.
const ROLE: &str = "portcullis-upstream-isolation";
/// The label of a namespace with its name, which nobody can change.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// What it means that nothing is closed.
const AROUND: &str = "Meanwhile who reaches the upstream can call it around the gateway.";

/// How long Service and NetworkPolicy are taken to be as they were read.
const REREAD: Duration = Duration::from_secs(60);
/// The same while something is in the way: whoever mends that waits for it.
const REREAD_HINDERED: Duration = Duration::from_secs(10);

/// The labels of the gateway's Pods, by their component: the chart's, which are the same for every release.
pub fn pod_labels(component: &str) -> BTreeMap<String, String> {
    labels([("app.kubernetes.io/name", "portcullis"), ("app.kubernetes.io/component", component)])
}

/// What a server asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked<'a> {
    /// Nobody knows: it is not accepted.
    Unknown,
    /// Nothing is to be closed.
    Anyone,
    /// The Pods behind this Service are to be closed to others than the gateway.
    GatewayOnly(&'a ServiceRef),
}

/// What was found of what a server's isolation depends on.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The Service behind which the Pods are; `None`: nobody asked for it.
    pub(super) service: Option<Fetched<Service>>,
    /// What has the NetworkPolicy's name; `None`: nobody asked for it.
    pub(super) policy: Option<Fetched<NetworkPolicy>>,
    /// The server's status says that there may be one of ours.
    pub(super) is_noted: bool,
}

/// What is to be done for a server's isolation, and what is said of it.
#[derive(Debug, Default)]
pub(super) struct Isolation {
    /// The next step.
    pub(super) step: Step,
    /// What is true before it is taken.
    pub(super) before: Option<Told>,
    /// What is true once it is taken.
    pub(super) after: Option<Told>,
    /// Whether the status says already that there may be a NetworkPolicy.
    pub(super) is_noted: bool,
}

/// A step.
#[derive(Debug, Default)]
pub(super) enum Step {
    /// There is nothing to do.
    #[default]
    Nothing,
    /// Write this. Its UID, if it has one, is that of the object which is there, and ours.
    Write(Box<NetworkPolicy>),
    /// Remove the one with this UID, which is ours.
    Remove(String),
}

/// What the author of a server is told of its isolation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The condition.
    pub said: Said,
    /// Whether there may be a NetworkPolicy of ours.
    pub may_be_there: bool,
}

impl Told {
    fn new(truth: Truth, reason: &str, message: impl Into<String>, may_be_there: bool) -> Self {
        Self { said: Said::new(ISOLATED, truth, reason, message), may_be_there }
    }

    /// How long it is taken to be so.
    pub(super) fn reread(&self) -> Duration {
        if self.said.truth == Truth::False { REREAD_HINDERED } else { REREAD }
    }
}

/// The name of a server's NetworkPolicy.
pub fn name(server: &ObjectId) -> String {
    format!("{}{SUFFIX}", server.name)
}

/// The Service whose Pods a server asks to be closed.
pub(super) fn asks(spec: &McpServerSpec) -> Option<&ServiceRef> {
    spec.upstream.service.as_ref().filter(|service| service.reachable_from == ReachableFrom::GatewayOnly)
}

/// Whether a status says that there may be a NetworkPolicy of ours.
pub(super) fn is_noted(status: &Value) -> bool {
    status.get(NOTED).is_some()
}

/// What is to be done, by what a server asks and what was found.
pub(super) fn plan(server: &ObjectId, asked: Asked<'_>, found: Found, installation: &Installation) -> Isolation {
    let is_noted = found.is_noted;
    let (step, before, after) = match asked {
        Asked::Unknown => {
            let message = format!("{} stays as it is until the McpServer is accepted", what(server));
            let told = is_noted.then(|| Told::new(Truth::Unknown, NOT_ACCEPTED, message, true));
            (Step::Nothing, told.clone(), told)
        }
        Asked::Anyone => opened(server, found.policy, installation),
        Asked::GatewayOnly(service) => match closed(server, service, found, installation) {
            Ok((step @ Step::Nothing, after)) => (step, Some(after.clone()), Some(after)),
            Ok((step, after)) => {
                let message = format!("{} is being written", what(server));
                (step, Some(Told::new(Truth::Unknown, PENDING, message, true)), Some(after))
            }
            Err(told) => (Step::Nothing, Some(told.clone()), Some(told)),
        },
    };
    Isolation { step, before, after, is_noted }
}

/// The step of a server that asks for nothing, and what is true before and after it.
fn opened(
    server: &ObjectId,
    policy: Option<Fetched<NetworkPolicy>>,
    installation: &Installation,
) -> (Step, Option<Told>, Option<Told>) {
    match policy {
        Some(Fetched::Found(policy)) if is_ours(&policy, server) => {
            let before = Told::new(Truth::Unknown, PENDING, format!("{} is being removed", what(server)), true);
            (policy.metadata.uid.map_or(Step::Nothing, Step::Remove), Some(before), None)
        }
        Some(Fetched::Forbidden) => {
            let told = forbidden(server, &format!("look for {}", what(server)), true, installation);
            (Step::Nothing, Some(told.clone()), Some(told))
        }
        Some(Fetched::Found(_) | Fetched::Absent) | None => (Step::Nothing, None, None),
    }
}

/// The step of a server whose Pods are to be closed, and what is true after it; or what is in the way.
fn closed(
    server: &ObjectId,
    reference: &ServiceRef,
    Found { service, policy, is_noted }: Found,
    installation: &Installation,
) -> Result<(Step, Told), Told> {
    let forbidden = |to: String| forbidden(server, &to, is_noted, installation);
    let policy = match policy {
        Some(Fetched::Found(policy)) => Some(policy),
        Some(Fetched::Forbidden) => return Err(forbidden(format!("read {}", what(server)))),
        Some(Fetched::Absent) | None => None,
    };
    let policy = match policy {
        Some(policy) if !is_ours(&policy, server) => {
            let message =
                format!("{} is somebody else's, and is left alone: rename or remove it. {AROUND}", what(server));
            return Err(Told::new(Truth::False, NETWORK_POLICY_CONFLICT, message, false));
        }
        policy => policy,
    };
    let place = format!("Service {}/{}", server.namespace, reference.name);
    let service = match service {
        Some(Fetched::Found(service)) => Some(service),
        Some(Fetched::Forbidden) => return Err(forbidden(format!("read {place}"))),
        Some(Fetched::Absent) | None => None,
    };
    let pods = behind(service.as_ref(), reference.port, &place).map_err(|(reason, message)| {
        // What stands of an earlier look goes on closing what it closes.
        let stays = format!("Meanwhile {} stays as it was.", what(server));
        let meanwhile = if policy.is_some() { &stays } else { AROUND };
        Told::new(Truth::False, reason, format!("{message}. {meanwhile}"), policy.is_some())
    })?;
    let wanted = network_policy(server, pods, installation);
    let message = format!("{} lets in the gateway only, if the network plugin enforces it", what(server));
    let told = Told::new(Truth::True, ISOLATED, message, true);
    if policy.as_ref().is_some_and(|policy| is(policy, &wanted)) {
        return Ok((Step::Nothing, told));
    }
    let metadata = ObjectMeta { uid: policy.and_then(|policy| policy.metadata.uid), ..wanted.metadata };
    Ok((Step::Write(Box::new(NetworkPolicy { metadata, ..wanted })), told))
}

/// The Pods behind a Service.
struct Pods {
    selector: BTreeMap<String, String>,
    port: IntOrString,
}

/// The Pods behind a Service; or why nobody knows them, as reason and message.
fn behind(service: Option<&Service>, port: i32, place: &str) -> Result<Pods, (&'static str, String)> {
    let service = service.ok_or_else(|| {
        let message = format!("no {place}: create it, or correct spec.upstream.service.name");
        (SERVICE_NOT_FOUND, message)
    })?;
    let selector = selector(service).ok_or_else(|| {
        let message = format!(
            "{place} selects no Pods, and a NetworkPolicy closes Pods only: give it a selector, or close what is behind it \
             by other means and set reachableFrom: Anyone"
        );
        (SERVICE_WITHOUT_SELECTOR, message)
    })?;
    let port = target_port(service, port).ok_or_else(|| {
        let message = format!("{place} has no TCP port {port}: add it, or correct spec.upstream.service.port");
        (SERVICE_PORT_NOT_FOUND, message)
    })?;
    Ok(Pods { selector, port })
}

fn what(server: &ObjectId) -> String {
    format!("NetworkPolicy {}/{}", server.namespace, name(server))
}

fn forbidden(server: &ObjectId, to: &str, may_be_there: bool, installation: &Installation) -> Told {
    let account = (installation.system_namespace.as_str(), installation.service_account.as_str());
    let message = format!(
        "the controller may not {to}: set controller.upstreamIsolation.enabled of the chart, for all namespaces; or, for this \
         one, {}",
        role_binding(ROLE, &server.namespace, account)
    );
    Told::new(Truth::False, ISOLATION_FORBIDDEN, message, may_be_there)
}

/// The Pods behind a Service. An empty selector would be all Pods of the namespace in a NetworkPolicy, and is none in a
/// Service (<https://kubernetes.io/docs/concepts/services-networking/service/#services-without-selectors>).
fn selector(service: &Service) -> Option<BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    let is_name = spec.type_.as_deref() == Some("ExternalName");
    spec.selector.clone().filter(|selector| !is_name && !selector.is_empty())
}

/// The Pods' port behind a TCP port of a Service. NetworkPolicies see Pods, so the port that a Service translates to counts;
/// a headless Service translates nothing.
fn target_port(service: &Service, port: i32) -> Option<IntOrString> {
    let spec = service.spec.as_ref()?;
    let is_tcp = |protocol: Option<&str>| protocol.is_none_or(|protocol| protocol == "TCP");
    let mut ports = spec.ports.iter().flatten();
    let found = ports.find(|one| one.port == port && is_tcp(one.protocol.as_deref()))?;
    let is_headless = spec.cluster_ip.as_deref() == Some("None");
    Some(found.target_port.clone().filter(|_| !is_headless).unwrap_or(IntOrString::Int(port)))
}

fn labels<const N: usize>(labels: [(&str, &str); N]) -> BTreeMap<String, String> {
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn network_policy(server: &ObjectId, pods: Pods, installation: &Installation) -> NetworkPolicy {
    let selecting = |labels| Some(LabelSelector { match_labels: Some(labels), match_expressions: None });
    let peer = |namespace: &str, component: &str| NetworkPolicyPeer {
        namespace_selector: selecting(labels([(NAMESPACE_NAME, namespace)])),
        pod_selector: selecting(pod_labels(component)),
        ip_block: None,
    };
    let gateway = peer(&installation.gateway_namespace, "proxy");
    // It asks for the list of tools.
    let controller = peer(&installation.system_namespace, "controller");
    let port = NetworkPolicyPort { protocol: Some("TCP".to_owned()), port: Some(pods.port), end_port: None };
    NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(name(server)),
            namespace: Some(server.namespace.clone()),
            labels: Some(labels([(LABEL, LABEL_VALUE)])),
            owner_references: Some(vec![OwnerReference {
                api_version: format!("{GROUP}/{VERSION}"),
                kind: "McpServer".to_owned(),
                name: server.name.clone(),
                uid: server.uid.clone(),
                controller: Some(true),
                block_owner_deletion: Some(false),
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(NetworkPolicySpec {
            pod_selector: selecting(pods.selector),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(vec![gateway, controller]),
                ports: Some(vec![port]),
            }]),
            egress: None,
        }),
    }
}

/// Whether it is this server's, or that of an earlier server of its name.
fn is_ours(policy: &NetworkPolicy, server: &ObjectId) -> bool {
    let metadata = &policy.metadata;
    let is_labelled = metadata.labels.as_ref().and_then(|labels| labels.get(LABEL)).is_some_and(|v| v == LABEL_VALUE);
    let is_of_ours = |api: &str| api.split_once('/').is_some_and(|(group, _)| group == GROUP);
    let mut owners = metadata.owner_references.iter().flatten();
    is_labelled
        && owners.any(|owner| is_of_ours(&owner.api_version) && owner.kind == "McpServer" && owner.name == server.name)
}

/// Whether one of ours is as it should be: others may have added labels and annotations, but no rule.
fn is(policy: &NetworkPolicy, wanted: &NetworkPolicy) -> bool {
    let owners = |policy: &NetworkPolicy| policy.metadata.owner_references.clone().unwrap_or_default();
    policy.spec == wanted.spec && owners(wanted).iter().all(|owner| owners(policy).contains(owner))
}

/// Takes the step of a server. Answers what is true then.
///
/// # Errors
/// If the API server did not do it, or what is there is not what it was any more.
pub(super) async fn take(
    context: &Context,
    server: &ObjectId,
    Isolation { step, after, .. }: Isolation,
) -> Result<Option<Told>, Failure> {
    let name = name(server);
    let api: Api<NetworkPolicy> = Api::namespaced(context.client.clone(), &server.namespace);
    let (to, done) = match step {
        Step::Nothing => return Ok(after),
        Step::Write(policy) => {
            let params = PatchParams::apply(FIELD_MANAGER);
            // What somebody made of ours is overruled. One that somebody makes of the name meanwhile is not: that conflicts.
            let params = if policy.metadata.uid.is_some() { params.force() } else { params };
            ("write", context.while_leading(cluster::apply(&api, &name, &params, &policy)).await?.map(drop))
        }
        Step::Remove(uid) => {
            let preconditions = Preconditions { uid: Some(uid), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match context.while_leading(api.delete(&name, &params)).await? {
                // Another one of the name (409) may be ours all the same: what was read may have been old. It is looked at again.
                Err(error) if code(&error) == Some(404) => return Ok(after),
                done => ("remove", done.map(drop)),
            }
        }
    };
    match done {
        Ok(()) => Ok(after),
        // It could look, so the role is bound, or part of it.
        Err(error) if code(&error) == Some(403) => {
            let what = what(server);
            let to = format!("{to} {what} (if that role is bound, an admission policy or a quota refuses it)");
            Ok(Some(forbidden(server, &to, true, &context.installation)))
        }
        Err(error) => Err(Failure::Apply(ApiError::new(what(server), &error))),
    }
}

#[cfg(test)]
mod tests;
