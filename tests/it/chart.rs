//! The Helm chart, as helm renders it and as a real API server takes it.

mod admission;
mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use portcullis::controller::server::isolation::pod_labels;
use serde_json::{Value, json};

use crate::support::kube::{Cluster, GATEWAY, SYSTEM, assets};
use crate::support::wait::until;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn chart() -> PathBuf {
    root().join("charts/portcullis")
}

/// Runs helm against a cluster, with nothing of the person's who runs the tests.
fn try_helm(cluster: &Cluster, arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(assets().join("helm"));
    command.args(arguments).env("KUBECONFIG", cluster.kubeconfig()).env("HOME", home.path());
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HELM_PLUGINS"] {
        command.env(variable, home.path().join(variable));
    }
    command.output().unwrap()
}

/// [`try_helm`], which must succeed.
fn helm(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = try_helm(cluster, arguments);
    assert!(output.status.success(), "helm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the chart renders with a file of values.
fn render(cluster: &Cluster, values: &Path) -> String {
    let (chart, values) = (chart(), values.to_str().unwrap());
    helm(cluster, &["template", "portcullis", chart.to_str().unwrap(), "--namespace", SYSTEM, "--values", values])
}

/// The chart with the values that one cannot do without, on a cluster.
pub(crate) fn installed() -> Cluster {
    installed_with("minimal")
}

/// The chart with the values of a file in `ci/`, on a cluster; but nobody is asked before an object is stored, since no webhook
/// runs. Whoever runs one takes [`webhook_configurations`].
pub(crate) fn installed_with(values: &str) -> Cluster {
    let cluster = Cluster::acquire();
    for object in objects(&cluster, values) {
        cluster.apply_as("helm", &object);
    }
    cluster
}

/// What the chart renders with the values of a file in `ci/`, without what every [`Cluster`] has and what nobody answers. It is
/// rendered once for a test process, since most tests want the same.
fn objects(cluster: &Cluster, values: &str) -> Vec<Value> {
    static RENDERED: Mutex<BTreeMap<String, Vec<Value>>> = Mutex::new(BTreeMap::new());
    let mut known = RENDERED.lock().unwrap_or_else(PoisonError::into_inner);
    let objects = known.entry(values.to_owned()).or_insert_with(|| {
        let rendered = render(cluster, &chart().join(format!("ci/{values}.yaml")));
        let mut objects: Vec<Value> = serde_saphyr::from_multiple(&rendered).unwrap();
        let elsewhere = ["CustomResourceDefinition", "ValidatingWebhookConfiguration"];
        objects.retain(|object| object.is_object() && !elsewhere.iter().any(|kind| object["kind"] == *kind));
        objects
    });
    objects.clone()
}

const ASKS: &str = "\nkind: ValidatingWebhookConfiguration\n";

/// The chart's ValidatingWebhookConfigurations.
pub(crate) fn webhook_configurations(cluster: &Cluster) -> Vec<Value> {
    let rendered = render(cluster, &chart().join("ci/minimal.yaml"));
    let documents = rendered.split("\n---\n").filter(|document| document.contains(ASKS));
    documents.map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

#[test]
fn it_holds_what_it_promises_without_a_cluster() {
    let output = Command::new(root().join("hack/chart-test")).env("HELM", assets().join("helm")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// Alerts and panels that ask for what nobody counts would be silent for ever.
#[test]
fn every_metric_that_alerts_and_panels_name_exists() {
    let mut sources = String::new();
    read_sources(&root().join("src"), &mut sources);
    let mut named = BTreeSet::new();
    for file in ["templates/monitoring/prometheusrule.yaml", "files/dashboard.json"] {
        let text = fs::read_to_string(chart().join(file)).unwrap();
        for rest in text.split("portcullis_").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
            let name = &rest[..end];
            let name = ["_total", "_info", "_bucket"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            named.insert(name.to_owned());
        }
    }
    assert!(named.len() > 15, "{named:?}");
    let missing: Vec<_> = named.iter().filter(|name| !sources.contains(&format!("\"{name}\""))).collect();
    assert!(missing.is_empty(), "no source file registers {missing:?}");
}

fn read_sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            read_sources(&entry, text);
        } else {
            text.push_str(&fs::read_to_string(entry).unwrap());
        }
    }
}

/// Kinds of others, which a plain API server does not have.
const FOREIGN: [&str; 5] = ["ServiceMonitor", "PrometheusRule", "Certificate", "Issuer", "HTTPRoute"];

/// Every value set, and not a single warning: of Pod Security, of unknown fields, or of what is deprecated.
#[test]
fn a_real_api_server_takes_every_value_set_without_a_warning() {
    // A cluster without the chart: what cannot be changed later is no matter here.
    let cluster = Cluster::acquire();
    let labels =
        [("pod-security.kubernetes.io/enforce", "restricted"), ("pod-security.kubernetes.io/warn", "restricted")];
    for namespace in [SYSTEM, GATEWAY, "mcp-gateway"] {
        cluster.namespace(namespace, &labels);
    }
    let mut sets = 0;
    for entry in fs::read_dir(chart().join("ci")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            continue;
        }
        let rendered = render(&cluster, &entry);
        let foreign = |document: &&str| FOREIGN.iter().any(|kind| document.contains(&format!("\nkind: {kind}\n")));
        let ours: Vec<&str> = rendered.split("\n---\n").filter(|document| !foreign(document)).collect();
        let arguments =
            ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = cluster.try_kubectl(&arguments, Some(&ours.join("\n---\n")));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{}: {said}", entry.display());
        sets += 1;
    }
    assert!(sets >= 12, "{sets}");
}

/// The Pods themselves, made from the workloads as their controllers would, in a namespace that enforces `restricted`.
#[test]
fn pods_meet_the_restricted_standard() {
    let cluster = installed();
    cluster.namespace(SYSTEM, &[("pod-security.kubernetes.io/enforce", "restricted")]);
    for (kind, namespace, name) in
        [("Deployment", SYSTEM, "portcullis-controller"), ("StatefulSet", GATEWAY, "portcullis-proxy")]
    {
        let pod = pod_of(&cluster, kind, namespace, name, "0");
        cluster.apply(&pod);
        let mut broken = pod;
        broken["metadata"]["name"] = "broken".into();
        broken["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = true.into();
        // The API server knows of a namespace's labels a moment after they are written.
        let error = until("the namespace to enforce it", || {
            let refused = crate::support::runtime().block_on(cluster.try_apply(&broken)).err();
            if refused.is_none() {
                cluster.delete("v1", "Pod", Some(namespace), "broken");
            }
            refused.map(|error| error.to_string())
        });
        assert!(error.contains("violates PodSecurity \"restricted"), "{error}");
    }
}

/// One Pod of a workload.
fn pod_of(cluster: &Cluster, kind: &str, namespace: &str, name: &str, ordinal: &str) -> Value {
    let workload = cluster.get("apps/v1", kind, Some(namespace), name).unwrap();
    let mut spec = workload["spec"]["template"]["spec"].clone();
    if let Some(claims) = workload["spec"]["volumeClaimTemplates"].as_array() {
        let volumes = claims.iter().map(|claim| {
            let volume = &claim["metadata"]["name"];
            json!({"name": volume, "persistentVolumeClaim": {"claimName": format!("{}-{name}-{ordinal}", volume.as_str().unwrap())}})
        });
        let volumes: Vec<Value> =
            spec["volumes"].as_array().cloned().unwrap_or_default().into_iter().chain(volumes).collect();
        spec["volumes"] = volumes.into();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "spec": spec, "metadata": {"name": format!("{name}-{ordinal}"),
        "namespace": namespace, "labels": workload["spec"]["template"]["metadata"]["labels"]}})
}

/// Upstreams that ask to be reachable from the gateway only let in Pods with these labels, whatever the release is called.
#[test]
fn the_gateways_pods_have_the_labels_that_upstreams_let_in() {
    let cluster = Cluster::acquire();
    let (chart, values) = (chart(), chart().join("ci/minimal.yaml"));
    let arguments = ["template", "another", chart.to_str().unwrap(), "-n", "elsewhere", "-f", values.to_str().unwrap()];
    cluster.namespace("elsewhere", &[]);
    cluster.apply_yaml(&helm(&cluster, &arguments));
    for (component, kind, namespace) in [("controller", "Deployment", "elsewhere"), ("proxy", "StatefulSet", GATEWAY)] {
        let workload = cluster.get("apps/v1", kind, Some(namespace), &format!("portcullis-{component}")).unwrap();
        let labels = &workload["spec"]["template"]["metadata"]["labels"];
        for (key, value) in pod_labels(component) {
            assert_eq!(labels[&key], value, "{key}");
        }
    }
}

/// Whoever removes the release loses nothing of what users wrote, nor the namespace with the journals' volume claims.
#[test]
fn helm_installs_upgrades_and_uninstalls_and_users_objects_stay() {
    let cluster = Cluster::acquire();
    let chart = chart();
    let chart = chart.to_str().unwrap();
    let values = format!("{chart}/ci/minimal.yaml");
    // The test's API server has the kinds and the namespaces already.
    // No Pod runs here, so there is nobody to ask.
    let install = ["install", "portcullis", chart, "--namespace", SYSTEM, "--values", &values, "--take-ownership"];
    let notes = helm(&cluster, &[&install[..], &["--set", "webhook.enabled=false"]].concat());
    assert!(notes.contains("kubectl wait --for=condition=Ready"), "{notes}");
    for name in ["notes", "other"] {
        cluster.apply(&json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
            "metadata": {"name": name, "namespace": "default"}, "spec": {
                "upstream": {"url": "https://notes.example/mcp", "credentials": {"none": {}}},
                "authorization": {"servers": ["local"]}}}));
    }

    let values = format!("{chart}/ci/private-upstreams.yaml");
    helm(&cluster, &["upgrade", "portcullis", chart, "--namespace", SYSTEM, "--values", &values]);
    let proxy = cluster.get("apps/v1", "StatefulSet", Some(GATEWAY), "portcullis-proxy").unwrap();
    let arguments = &proxy["spec"]["template"]["spec"]["containers"][0]["args"];
    for set in [
        "--allow-private-upstreams=10.0.0.0/8,fd00::/8",
        "--deny-upstreams=10.0.0.1/32",
        "--cluster-domain=corp.internal",
    ] {
        assert!(arguments.as_array().unwrap().contains(&set.into()), "{set}: {arguments}");
    }

    let webhook = cluster.get("apps/v1", "Deployment", Some(SYSTEM), "portcullis-webhook").unwrap();
    let arguments = &webhook["spec"]["template"]["spec"]["containers"][0]["args"];
    assert!(arguments.as_array().unwrap().contains(&"--cluster-domain=corp.internal".into()), "{arguments}");

    // Where to ask, and whom to believe, is told by the controller, and an upgrade leaves it alone.
    let told = json!({"path": "/validate/secret"});
    cluster.apply(&json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "portcullis-validate"}, "webhooks": [{"name": "validate.portcullis.dev",
            "clientConfig": {"service": told, "caBundle": "dGhlaXJz"}}]}));
    let again = ["upgrade", "portcullis", chart, "--namespace", SYSTEM, "--values", &values];
    helm(&cluster, &[&again[..], &["--set", "webhook.podAnnotations.upgraded=yes"]].concat());
    let kind = "ValidatingWebhookConfiguration";
    let asked = cluster.get("admissionregistration.k8s.io/v1", kind, None, "portcullis-validate").unwrap();
    let config = &asked["webhooks"][0]["clientConfig"];
    assert_eq!((&config["service"]["path"], &config["caBundle"]), (&told["path"], &"dGhlaXJz".into()));

    // From here on a webhook is asked, and does not answer: what is there can be removed all the same, and so can the release.
    let mut tries = 0;
    until("the API server to ask", || {
        tries += 1;
        // Another label each time: nobody is asked about what does not change.
        let label = format!("asked=yes-{tries}");
        let output = cluster.try_kubectl(&["label", "mcpserver", "notes", &label, "--overwrite"], None);
        (!output.status.success()).then_some(())
    });
    cluster.kubectl(&["delete", "mcpserver", "other"]);
    helm(&cluster, &["uninstall", "portcullis", "--namespace", SYSTEM]);
    assert!(cluster.get("apps/v1", "StatefulSet", Some(GATEWAY), "portcullis-proxy").is_none());
    assert!(cluster.get("v1", "Namespace", None, GATEWAY).unwrap()["metadata"]["deletionTimestamp"].is_null());
    assert!(cluster.get("portcullis.dev/v1alpha1", "McpServer", Some("default"), "notes").is_some());

    // Coming back, Helm takes on what it left.
    let values = format!("{chart}/ci/minimal.yaml");
    helm(&cluster, &["install", "portcullis", chart, "--namespace", SYSTEM, "--values", &values]);
    assert!(cluster.get("apps/v1", "StatefulSet", Some(GATEWAY), "portcullis-proxy").is_some());
}
