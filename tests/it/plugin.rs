//! `kubectl portcullis`: the questions that are asked of files, asked of a cluster, with the rights of whoever asks.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::kube::{Cluster, SYSTEM};
use crate::support::process::portcullis;
use crate::support::wait::until;

const VERSION: &str = "portcullis.dev/v1alpha1";

const MANIFESTS: &str = "\
apiVersion: portcullis.dev/v1alpha1
kind: McpAuthorizationServer
metadata: {name: corp}
spec: {issuer: \"https://login.example\", validation: {groups: {claim: groups}}}
---
apiVersion: portcullis.dev/v1alpha1
kind: McpServer
metadata: {name: notes, namespace: team-a}
spec:
  upstream:
    url: https://notes.example/mcp
    credentials: {headers: [{name: x-api-key, secretKeyRef: {name: notes, key: key}}]}
  authorization: {servers: [corp]}
---
apiVersion: portcullis.dev/v1alpha1
kind: McpPolicy
metadata: {name: readers, namespace: team-a}
spec:
  authority: corp
  targets: {servers: [notes]}
  rules:
  - {name: read, effect: Allow, principals: [{users: [ana]}, {groups: [sre]}], tools: [{patterns: [\"*\"]}]}
---
apiVersion: portcullis.dev/v1alpha1
kind: McpPolicy
metadata: {name: nothing-is-destroyed, namespace: portcullis-system}
spec:
  targets: {selector: {}, namespaceSelector: {matchLabels: {tier: prod}}}
  rules:
  - {name: none, effect: Deny, principals: [{any: true}], tools: [{names: [delete_note]}], message: Not here.}
";

/// What only a folder needs: in the cluster it is not read.
const BESIDES: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: team-a, labels: {tier: prod}}
---
apiVersion: v1
kind: Secret
metadata: {name: notes, namespace: team-a, annotations: {portcullis.dev/allowed-hosts: notes.example}}
stringData: {key: hunter2}
";

fn plugin(kubeconfig: &Path, arguments: &[&str]) -> Output {
    // kubectl calls plugins by their name.
    let mut command: Command = portcullis();
    command.arg0("kubectl-portcullis").args(arguments).env("KUBECONFIG", kubeconfig).output().unwrap()
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn questions_to_a_cluster_are_answered_as_those_to_its_manifests() {
    let cluster = Cluster::acquire();
    cluster.namespace("team-a", &[("tier", "prod")]);
    cluster.apply_yaml(MANIFESTS);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), format!("{MANIFESTS}---\n{BESIDES}")).unwrap();
    let files = folder.path().to_str().unwrap();
    for question in [
        vec!["who-can", "--server", "team-a/notes"],
        vec!["who-can", "--server", "team-a/notes", "--tool", "delete_note", "-o", "json"],
        vec!["explain", "--server", "team-a/notes", "--tool", "get_note", "--as", "user:ana@corp"],
        vec!["explain", "--server", "team-a/notes", "--tool", "delete_note", "--as", "user:ana@corp", "-o", "yaml"],
    ] {
        let asked = plugin(&cluster.kubeconfig(), &question);
        let offline = portcullis().args(&question).args(["-f", files]).output().unwrap();
        assert_eq!(said(&asked), said(&offline), "{question:?}");
        assert_eq!(asked.status.code(), offline.status.code(), "{question:?}");
    }
    // Files that are named are asked, also by the plugin; and a cluster that is named, also without it.
    let named = plugin(&cluster.kubeconfig(), &["who-can", "--server", "team-a/notes", "-f", files]);
    assert!(named.status.success(), "{:?}", said(&named));
    let asked = portcullis()
        .args(["who-can", "--server", "team-a/notes", "--cluster"])
        .env("KUBECONFIG", cluster.kubeconfig())
        .output();
    assert!(asked.unwrap().status.success());
}

#[test]
fn what_the_condition_says_of_references_counts() {
    let cluster = Cluster::acquire();
    cluster.namespace("team-a", &[]);
    cluster.apply_yaml(MANIFESTS);
    let condition = json!({"type": "ResolvedRefs", "status": "False", "reason": "SecretForbidden", "message": "bind it",
        "lastTransitionTime": "2026-11-25T10:00:00Z"});
    let patch = json!({"status": {"conditions": [condition]}}).to_string();
    cluster.kubectl(&[
        "patch",
        "mcpserver",
        "notes",
        "-n",
        "team-a",
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ]);
    let (answer, _) = said(&plugin(&cluster.kubeconfig(), &["who-can", "--server", "team-a/notes"]));
    assert!(answer.contains("SecretForbidden"), "{answer}");
}

/// The tools that the upstream lists are in the server's status: then they are asked about, and no patterns.
#[test]
fn the_tools_that_a_status_lists_are_known() {
    let cluster = Cluster::acquire();
    cluster.namespace("team-a", &[("tier", "prod")]);
    cluster.apply_yaml(MANIFESTS);
    let tool = |name: &str, risk: &str| json!({"name": name, "risk": risk});
    let tools = json!([tool("delete_note", "Destructive"), tool("get_note", "ReadOnly")]);
    let patch = json!({"status": {"tools": {"count": 2, "items": tools}}}).to_string();
    let at = ["notes", "-n", "team-a", "--subresource=status", "--type=merge", "-p", &patch];
    cluster.kubectl(&[&["patch", "mcpserver"], &at[..]].concat());
    let (table, _) = said(&plugin(&cluster.kubeconfig(), &["who-can", "--server", "team-a/notes", "-o", "json"]));
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    let mut targets: Vec<&str> =
        table["rows"].as_array().unwrap().iter().map(|row| row["target"].as_str().unwrap()).collect();
    targets.sort_unstable();
    targets.dedup();
    assert_eq!(targets, ["delete_note", "get_note"]);
    let (table, _) = said(&plugin(&cluster.kubeconfig(), &["who-can", "--server", "team-a/notes"]));
    assert!(!table.contains("do not say which tools"), "{table}");
    // Everything that somebody can call, in all namespaces.
    let answer = plugin(&cluster.kubeconfig(), &["what-can", "--user", "ana", "-o", "json"]);
    let answers: serde_json::Value = serde_json::from_str(&said(&answer).0).unwrap();
    let grants = answers["grants"].as_array().unwrap();
    assert_eq!((grants.len(), &grants[0]["target"]), (1, &"get_note".into()), "{answers}");
    // And what a folder would change.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.yaml");
    let path = file.to_str().unwrap();
    let compare = |manifests: &str, arguments: &[&str]| {
        std::fs::write(&file, format!("{manifests}---\n{BESIDES}")).unwrap();
        plugin(&cluster.kubeconfig(), &[&["diff"], arguments].concat())
    };
    let same = compare(MANIFESTS, &["cluster", path, "--fail-on", "any"]);
    assert!(same.status.success(), "{:?}", said(&same));
    let more = compare(&MANIFESTS.replace("[delete_note]", "[purge_notes]"), &["cluster", path]);
    let (table, why) = said(&more);
    assert!(more.status.code() == Some(1) && table.contains("Destructive"), "{table}{why}");
    assert!(table.contains("delete_note") && !table.contains("get_note") && table.contains("user:ana@corp"), "{table}");
    assert_eq!(compare(MANIFESTS, &[path, "cluster"]).status.code(), Some(0));
}

#[test]
fn a_client_is_who_it_is_registered_as() {
    const NAMED: &str = "\
apiVersion: portcullis.dev/v1alpha1
kind: McpClient
metadata: {name: reports, namespace: team-a}
spec: {authorizationServer: corp, registration: {}}
---
apiVersion: portcullis.dev/v1alpha1
kind: McpPolicy
metadata: {name: reports, namespace: team-a}
spec:
  authority: corp
  targets: {servers: [notes]}
  rules:
  - {name: read, effect: Allow, principals: [{mcpClients: [reports]}], tools: [{names: [list_notes]}]}
";
    let cluster = Cluster::acquire();
    cluster.namespace("team-a", &[("tier", "prod")]);
    cluster.apply_yaml(&format!("{MANIFESTS}---\n{NAMED}"));
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().to_str().unwrap();
    // What a file says there is no proof.
    let status = "status: {registration: {method: DCR, issuer: \"https://login.example\", clientId: c-1}}";
    let claims = NAMED.replacen("\n---\n", &format!("\n{status}\n---\n"), 1);
    assert!(claims.contains(status));
    std::fs::write(folder.path().join("all.yaml"), format!("{MANIFESTS}---\n{claims}---\n{BESIDES}")).unwrap();

    let question = ["who-can", "--server", "team-a/notes", "--tool", "list_notes", "-o", "json"];
    let vias = |(answer, why): (String, String)| -> BTreeSet<String> {
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}{why}"));
        let rows = answer["rows"].as_array().unwrap();
        let ours = rows.iter().filter(|row| row["rules"] == json!(["team-a/reports/read"]));
        ours.map(|row| row["via"].as_str().unwrap().to_owned()).collect()
    };
    let registered = |issuer: &str| {
        json!({"status": {"registration": {"method": "DCR", "issuer": issuer, "clientId": "c-1"}}}).to_string()
    };
    let patch = ["patch", "mcpclient", "reports", "-n", "team-a", "--subresource=status", "--type=merge", "-p"];
    let unknown = "McpClient team-a/reports";
    for (issuer, via) in
        [(None, unknown), (Some("https://earlier.example"), unknown), (Some("https://login.example"), "c-1")]
    {
        if let Some(issuer) = issuer {
            cluster.kubectl(&[&patch[..], &[registered(issuer).as_str()]].concat());
        }
        assert_eq!(
            vias(said(&plugin(&cluster.kubeconfig(), &question))),
            BTreeSet::from([via.to_owned()]),
            "{issuer:?}"
        );
        // Whatever it is registered as, the folder changes nothing.
        for sides in [["cluster", files], [files, "cluster"]] {
            let same = plugin(&cluster.kubeconfig(), &["diff", sides[0], sides[1], "--fail-on", "any"]);
            assert!(same.status.success(), "{issuer:?} {sides:?}: {:?}", said(&same));
        }
    }
    let offline = portcullis().args(question).args(["-f", files]).output().unwrap();
    assert_eq!(vias(said(&offline)), BTreeSet::from([unknown.to_owned()]));
}

#[test]
fn what_may_not_be_read_is_said() {
    let cluster = Cluster::acquire();
    cluster.namespace("team-a", &[]);
    cluster.apply_yaml(MANIFESTS);
    let mine = cluster.kubeconfig_of("team-a", "owner");
    let subject = json!({"kind": "ServiceAccount", "name": "owner", "namespace": "team-a"});
    let role = |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "mcp"});
    let ours = json!([{"apiGroups": ["portcullis.dev"], "resources": ["*"], "verbs": ["get", "list"]}]);
    cluster.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "mcp", "namespace": "team-a"}, "rules": ours}));
    cluster.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "mcp", "namespace": "team-a"}, "roleRef": role("Role"), "subjects": [subject]}));
    let question = ["who-can", "--server", "team-a/notes"];
    // The API server knows of rights a moment after they are written.
    until("the rights in the namespace to count", || {
        let (_, why) = said(&plugin(&mine, &question));
        (why.contains("cannot read each McpAuthorizationServer") && why.contains("forbidden")).then_some(())
    });
    let everywhere = plugin(&mine, &["what-can", "--user", "ana"]);
    assert_eq!(everywhere.status.code(), Some(2), "{:?}", said(&everywhere));

    let anchors =
        json!([{"apiGroups": ["portcullis.dev"], "resources": ["mcpauthorizationservers"], "verbs": ["list"]}]);
    cluster.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "mcp"}, "rules": anchors}));
    cluster.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "mcp"}, "roleRef": role("ClusterRole"), "subjects": [subject]}));
    let (table, why) = until("the rights in the cluster to count", || {
        let answer = plugin(&mine, &question);
        answer.status.success().then(|| said(&answer))
    });
    assert!(table.contains("ana"), "{table}{why}");
    assert!(why.contains("may not read the guardrails") && why.contains(SYSTEM), "{why}");
    assert!(cluster.get(VERSION, "McpServer", Some("team-a"), "notes").is_some());
}
