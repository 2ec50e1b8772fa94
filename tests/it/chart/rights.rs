//! What the chart's accounts and roles may do, asked of a real API server line by line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{chart, installed, installed_with, root};
use crate::controller::USER;
use crate::support::kube::{Cluster, GATEWAY, SYSTEM};
use crate::support::runtime;
use crate::support::wait::until;

/// A line of `charts/portcullis/tests/forbidden.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Right {
    who: String,
    may: bool,
    verb: String,
    resource: String,
    #[serde(default)]
    group: String,
    #[serde(default)]
    name: String,
    r#in: String,
    why: String,
}

fn rights() -> Vec<Right> {
    let text = fs::read_to_string(chart().join("tests/forbidden.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

/// A user name and groups, as the API server has them.
fn account(who: &str) -> (String, Vec<String>) {
    let of = |namespace: &str, account: &str| {
        let groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        (format!("system:serviceaccount:{namespace}:{account}"), groups)
    };
    let (user, mut groups) = match who {
        "controller" => of(SYSTEM, "portcullis-controller"),
        "webhook" => of(SYSTEM, "portcullis-webhook"),
        "proxy" => of(GATEWAY, "portcullis-proxy"),
        "upstream" => of(GATEWAY, "portcullis-upstream"),
        "view" | "edit" | "admin" => (who.to_owned(), Vec::new()),
        other => panic!("nobody is {other}"),
    };
    groups.push("system:authenticated".to_owned());
    (user, groups)
}

fn bind(cluster: &Cluster, namespace: &str, role: &str, subject: &Value) {
    cluster.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": role, "namespace": namespace}, "subjects": [subject],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}}));
}

/// What Kubernetes' own authorizer says, with all that a request of that user would bring.
fn allowed(cluster: &Cluster, right: &Right) -> bool {
    let (user, groups) = account(&right.who);
    let (resource, subresource) = right.resource.split_once('/').unwrap_or((&right.resource, ""));
    let namespace = if right.r#in == "-" { "" } else { &right.r#in };
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": user, "groups": groups, "resourceAttributes": {"verb": right.verb, "group": right.group,
            "resource": resource, "subresource": subresource, "namespace": namespace, "name": right.name}}});
    let request = http::Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews");
    let request = request.body(serde_json::to_vec(&review).unwrap()).unwrap();
    let answer: Value = runtime().block_on(cluster.client().request(request)).unwrap();
    answer["status"]["allowed"].as_bool().unwrap()
}

#[test]
fn forbidden_calls_are_refused_and_needed_ones_are_not() {
    let cluster = installed();
    for namespace in ["tenant", "bound"] {
        cluster.namespace(namespace, &[]);
    }
    // A tenant's `edit` includes `view`, and `admin` both: nobody aggregates roles here, so each is bound.
    for (user, roles) in [("view", &["view"][..]), ("edit", &["view", "edit"]), ("admin", &["view", "edit", "admin"])] {
        let subject = json!({"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"});
        for role in roles {
            let name = format!("portcullis-{role}");
            cluster.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": format!("{user}-{role}"), "namespace": "tenant"}, "subjects": [subject],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}}));
        }
    }
    let controller = json!({"kind": "ServiceAccount", "name": "portcullis-controller", "namespace": SYSTEM});
    bind(&cluster, "bound", "portcullis-secret-reader", &controller);
    bind(&cluster, "bound", "portcullis-token-writer", &controller);
    bind(&cluster, "bound", "portcullis-upstream-isolation", &controller);
    cluster.wait_may(USER, "get", ("networking.k8s.io", "networkpolicies"), "bound");

    let rights = rights();
    let wrong: Vec<&Right> = rights.iter().filter(|right| allowed(&cluster, right) != right.may).collect();
    assert!(wrong.is_empty(), "the API server says otherwise: {wrong:#?}");
    for who in ["proxy", "controller", "webhook", "upstream", "view", "edit", "admin"] {
        assert!(rights.iter().any(|right| right.who == who && !right.may), "nothing is forbidden to {who}");
    }
}

/// The rules of `portcullis-upstream-isolation` in every namespace, and for nobody else.
#[test]
fn isolation_in_all_namespaces_is_a_value_of_its_own() {
    let cluster = installed_with("upstream-isolation");
    cluster.namespace("tenant", &[]);
    let right = |who: &str, verb: &str, resource: &str, group: &str| Right {
        who: who.to_owned(),
        may: true,
        verb: verb.to_owned(),
        resource: resource.to_owned(),
        group: group.to_owned(),
        name: String::new(),
        r#in: "tenant".to_owned(),
        why: String::new(),
    };
    let rights = |who: &str| {
        let policies =
            ["get", "create", "patch", "delete"].map(|verb| right(who, verb, "networkpolicies", "networking.k8s.io"));
        policies.into_iter().chain([right(who, "get", "services", "")]).collect::<Vec<_>>()
    };
    for right in rights("controller") {
        until(&format!("{right:?}"), || allowed(&cluster, &right).then_some(()));
    }
    for right in
        rights("proxy").into_iter().chain([right("controller", "list", "networkpolicies", "networking.k8s.io")])
    {
        assert!(!allowed(&cluster, &right), "{right:?}");
    }
}

/// With its value set, a proxy may ask about tokens; all that is forbidden besides stays so.
#[test]
fn who_lets_proxies_review_tokens_lets_them_do_nothing_else() {
    let cluster = installed_with("token-review");
    cluster.namespace("tenant", &[]);
    let rights = rights();
    let (reviews, others): (Vec<&Right>, Vec<&Right>) =
        rights.iter().filter(|right| right.who == "proxy").partition(|right| right.resource == "tokenreviews");
    let [review] = reviews[..] else { panic!("{reviews:?}") };
    assert!(!review.may);
    until("proxies to be allowed to review", || allowed(&cluster, review).then_some(()));
    let wrong: Vec<&&Right> = others.iter().filter(|right| allowed(&cluster, right) != right.may).collect();
    assert!(wrong.is_empty() && others.len() > 20, "{wrong:#?}");
    let read = Right {
        verb: "get".to_owned(),
        ..serde_json::from_value(json!({"who": "proxy", "may": false, "verb": "",
        "resource": "tokenreviews", "group": "authentication.k8s.io", "in": "-", "why": ""}))
        .unwrap()
    };
    assert!(!allowed(&cluster, &read));
}

/// Not only the authorizer: requests with a proxy's own token, as far as they would get.
#[test]
fn a_proxys_token_opens_nothing_but_its_namespace() {
    let cluster = installed();
    let config = cluster.kubeconfig_of(GATEWAY, "portcullis-proxy");
    let ask = |arguments: &[&str]| {
        let config = format!("--kubeconfig={}", config.display());
        cluster.try_kubectl(&[&[config.as_str()], arguments].concat(), None)
    };
    let seen = ask(&["get", "secrets", "-n", GATEWAY]);
    assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    for arguments in [
        &["get", "secrets", "-n", SYSTEM][..],
        &["get", "secrets", "-A"],
        &["get", "leases", "-n", GATEWAY],
        &["get", "mcpservers", "-A"],
        &["create", "secret", "generic", "x", "-n", GATEWAY],
        &["create", "token", "portcullis-controller", "-n", SYSTEM],
        &["get", "secrets", "-n", GATEWAY, "--as=system:admin"],
    ] {
        let output = ask(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("forbidden"), "kubectl {arguments:?}: {said}");
    }
}

#[test]
fn the_page_of_rights_is_current() {
    let mut page = String::from(
        "# Rights\n\nWhat the chart's accounts and roles may do at the API server, and what they may not. Generated from \
         `charts/portcullis/tests/forbidden.yaml`; the tests ask a real API server every line. The rules themselves, each \
         with its reason, are in `charts/portcullis/templates/rbac/`.\n\n\
         What RBAC cannot say is held by ValidatingAdmissionPolicies (`charts/portcullis/templates/admission/`):\n\n\
         | policy | holds |\n|---|---|\n\
         | `portcullis-proxy-leases` | a proxy writes its own Lease only, and nobody else does |\n\
         | `portcullis-generated-objects` | generated objects, sealing keys and the heartbeat are written by the controller \
         only |\n\
         | `portcullis-controller-writes` | outside the gateway namespace the controller makes signing keys, writes ledgers \
         of registrations, the webhook's certificates and keys, tokens and credentials of McpClients, and metadata and \
         NetworkPolicies of McpServers only, and takes over nothing that was somebody else's |\n\
         | `portcullis-controller-finalizers` | of an McpClient the controller writes the finalizer only |\n\
         | `portcullis-clients` | who makes an McpClient has the verb `issue` on the \
         McpAuthorizationServer |\n\n\
         Members of `admission.exemptGroups` (by default `system:masters`) may repair what the first two hold.\n\n\
         Admission sees what is written, and never what is read. In the system namespace the controller may read every Secret, since \
         the names of those that it makes are not known before: nothing but the namespace holds that, so keep no Secrets there that \
         are not Portcullis's own.\n",
    );
    let heading = |who: &str| match who {
        "proxy" => "Proxies (`portcullis-proxy`)",
        "controller" => "The controller (`portcullis-controller`)",
        "webhook" => "The admission webhook (`portcullis-webhook`)",
        "upstream" => "What the gateway shows to upstreams in the cluster (`portcullis-upstream`)",
        "view" => "Tenants with `view` in the namespace `tenant`",
        "edit" => "Tenants with `edit`",
        "admin" => "Tenants with `admin`",
        other => panic!("nobody is {other}"),
    };
    let rights = rights();
    let mut tables: BTreeMap<usize, (&str, Vec<&Right>)> = BTreeMap::new();
    for (place, right) in rights.iter().enumerate() {
        let first = rights.iter().position(|other| other.who == right.who).unwrap_or(place);
        tables.entry(first).or_insert_with(|| (heading(&right.who), Vec::new())).1.push(right);
    }
    for (heading, rights) in tables.into_values() {
        write!(page, "\n## {heading}\n\n| | verb | resource | in | why |\n|---|---|---|---|---|\n").unwrap();
        for right in rights {
            let may = if right.may { "may" } else { "may not" };
            let name = if right.name.is_empty() { String::new() } else { format!(" `{}`", right.name) };
            let place = if right.r#in == "-" { "the cluster".to_owned() } else { format!("`{}`", right.r#in) };
            let row = (&right.verb, &right.resource, &right.why);
            writeln!(page, "| {may} | {} | `{}`{name} | {place} | {} |", row.0, row.1, row.2).unwrap();
        }
    }
    let path = root().join("docs/cluster/rbac.md");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/cluster/rbac.md is not what the chart says: run make docs");
}
