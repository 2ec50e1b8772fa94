//! What people who write our objects are told, through kubectl.

use serde_json::json;

use super::house::{House, VERSION, policy, server, trust};
use crate::support::http;

#[test]
fn what_is_wrong_is_refused_with_field_and_remedy_and_what_is_right_is_stored() {
    let house = House::build();
    house.taken(&trust());
    house.taken(&server("notes"));
    house.taken(&policy("readers", "notes"));

    let mut broken = policy("broken", "notes");
    broken["spec"]["rules"][0]["whne"] = json!("true");
    let said = house.refused(&broken);
    assert!(said.contains("spec.rules[0].whne") && said.contains("did you mean \"when\"?"), "{said}");
    assert!(said.contains("correct or remove the field"), "the remedy is missing: {said}");
    assert!(house.cluster.get(VERSION, "McpPolicy", Some("team"), "broken").is_none());
    // An edit is judged as well, and what was stands.
    let mut edit = policy("readers", "notes");
    edit["spec"]["rules"][0]["when"] = json!("1 +");
    let said = house.refused(&edit);
    assert!(said.contains("spec.rules[0].when"), "{said}");
    // What depends on others is a warning: the same tree ends in the same state in every order.
    let said = house.taken(&policy("early", "not-there-yet"));
    assert!(said.contains("Warning:") && said.contains("not-there-yet"), "{said}");

    let metrics = house.metrics();
    for counted in [
        "portcullis_reviews_total{kind=\"McpPolicy\",operation=\"Create\",answer=\"Invalid\"} 1",
        "portcullis_reviews_total{kind=\"McpPolicy\",operation=\"Create\",answer=\"Warned\"} ",
        "portcullis_reviews_total{kind=\"McpPolicy\",operation=\"Update\",answer=\"Invalid\"} 1",
    ] {
        assert!(metrics.contains(counted), "{counted} is not in {metrics}");
    }
    assert!(metrics.contains("portcullis_review_seconds_count"), "{metrics}");
    assert!(metrics.contains("portcullis_webhook_followed{kind=\"McpServer\"} 1"), "{metrics}");
}

/// Nobody answers: what was stored before can still be annotated and let go, even if it could not be stored now.
#[test]
fn what_slipped_past_can_be_annotated_and_deleted() {
    let house = House::without_webhook();
    let mut broken = policy("broken", "notes");
    broken["spec"]["rules"][0]["whne"] = json!("true");
    broken["metadata"]["finalizers"] = json!(["example.com/held"]);
    house.cluster.delete(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        None,
        "portcullis-validate",
    );
    crate::support::wait::until("the API server to ask nobody", || house.apply(&broken).status.success().then_some(()));
    house.ask();
    // Another one each time: nobody is asked about what does not change.
    let mut tries = 0;
    crate::support::wait::until("the API server to ask", || {
        tries += 1;
        (!house.apply(&server(&format!("any-{tries}"))).status.success()).then_some(())
    });
    // Nobody answers, and nobody is asked.
    house.cluster.kubectl(&["annotate", "mcppolicy", "broken", "-n", "team", "a=b"]);
    house.cluster.kubectl(&["delete", "mcppolicy", "broken", "-n", "team", "--wait=false"]);
    house.cluster.kubectl(&[
        "patch",
        "mcppolicy",
        "broken",
        "-n",
        "team",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ]);
    assert!(house.cluster.get(VERSION, "McpPolicy", Some("team"), "broken").is_none());
}

/// Strangers in the cluster can call it too.
#[test]
fn whatever_is_sent_is_answered_in_http() {
    let house = House::build();
    let ask = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        let url = format!("http://{}{path}", house.address());
        tls(&house.address(), &http::request(method, &url, headers, body))
    };
    const JSON: (&str, &str) = ("Content-Type", "application/json");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    // Refused by what it says of itself, before any of it is read.
    let huge = (8 * 1024 * 1024 + 1).to_string();
    let [changes, deletions] = ["portcullis-validate", "portcullis-deletions"].map(|name| house.told(name));
    for (method, path, headers, body, status) in [
        ("GET", &*changes, &[JSON][..], &b""[..], "405"),
        ("POST", "/other", &[JSON], b"", "404"),
        ("POST", &*changes, &[("Content-Type", "text/plain")], b"{}", "415"),
        ("POST", &*changes, &[JSON], b"", "400"),
        ("POST", &*changes, &[JSON], b"{}", "400"),
        ("POST", &*deletions, &[JSON], b"\xff\xfe", "400"),
        ("POST", &*changes, &[JSON], deep.as_bytes(), "400"),
        ("POST", &*changes, &[JSON, ("Content-Length", &huge)], b"", "413"),
    ] {
        let answer = ask(method, path, headers, body);
        let first = answer.lines().next().unwrap_or_default();
        assert!(first.contains(status), "{method} {path}: {answer}");
    }
    // And it goes on.
    house.taken(&trust());
    assert!(house.readyz().0);
    let metrics = house.metrics();
    assert!(metrics.contains("portcullis_review_failures_total{reason=\"Malformed\"} 4"), "{metrics}");
}

/// Sends bytes over TLS, and gives all that is answered. Whoever serves is believed: it is not what is tested here.
fn tls(address: &str, request: &[u8]) -> String {
    use std::io::{Read as _, Write as _};
    let mut connection = super::rotation::connect(address);
    // It may be told before all of it was read.
    connection.write_all(request).ok();
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(length) = connection.read(&mut piece) {
        if length == 0 {
            break;
        }
        answer.extend_from_slice(&piece[..length]);
        if answer.windows(4).any(|end| end == b"\r\n\r\n") {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// With the roles that the chart has for tenants: who edits may write servers, who administers decides who may call them.
#[test]
fn who_opens_a_server_needs_the_verb_grant() {
    let house = House::build();
    house.taken(&trust());
    for (user, roles) in [("ed", &["edit", "view"][..]), ("ada", &["edit", "admin", "view"])] {
        for role in roles {
            house.cluster.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": format!("{user}-{role}"), "namespace": "team"},
                "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                    "name": format!("portcullis-{role}")}}));
        }
    }
    // Ed may write policies too, by mistake of whoever gave it: that alone opens nothing.
    house.cluster.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "policies", "namespace": "team"}, "rules": [{"apiGroups": ["portcullis.dev"],
            "resources": ["mcppolicies"], "verbs": ["create", "update", "patch", "get"]}]}));
    house.cluster.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "ed-policies", "namespace": "team"},
        "subjects": [{"kind": "User", "name": "ed", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "policies"}}));
    house.cluster.wait_may("ed", "patch", ("portcullis.dev", "mcppolicies"), "team");
    let apply = |user: &str, object: &serde_json::Value| {
        let who = [format!("--as={user}"), "--as-group=system:authenticated".to_owned()];
        let arguments = ["apply", "--server-side", "-f", "-", who[0].as_str(), who[1].as_str()];
        let output = house.cluster.try_kubectl(&arguments, Some(&object.to_string()));
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let taken = |user: &str, object: &serde_json::Value| {
        let (taken, said) = apply(user, object);
        assert!(taken, "{user}: {said}");
        said
    };
    taken("ed", &server("notes"));
    let (done, said) = apply("ed", &policy("readers", "notes"));
    assert!(!done && said.contains("GrantMissing") && said.contains("McpServer team/notes"), "{said}");
    let said = taken("ada", &policy("readers", "notes"));
    assert!(said.contains("Warning: + any@corp: echo on team/notes (rule readers/allow)"), "{said}");
    // What does not fit into warnings is on record whole. An annotation may be longer than what is passed on of warnings.
    let crowd: Vec<String> = (0..150).map(|number| format!("{number:03}-of-a-long-list-of-people")).collect();
    let mut many = policy("many", "notes");
    many["spec"]["rules"][0]["principals"] = json!([{"users": crowd}]);
    many["spec"]["rules"][0]["tools"] = json!([{"names": ["put"]}]);
    let said = taken("ada", &many);
    let whole: Vec<String> =
        crowd.iter().map(|user| format!("+ user:{user}@corp: put on team/notes (rule many/allow)")).collect();
    let told = whole.iter().filter(|line| said.contains(line.as_str())).count();
    assert!(told > 20 && told < 100, "{told}: {said}");
    assert!(said.contains(&format!("{} more warnings are left out here", whole.len() - told)), "{said}");
    let entries = house.cluster.audited();
    let is_it = |entry: &&serde_json::Value| {
        entry["objectRef"]["name"] == "many" && entry["objectRef"]["subresource"].is_null()
    };
    let entry = entries.iter().rev().find(is_it).unwrap();
    assert_eq!(entry["impersonatedUser"]["username"], "ada", "{entry}");
    let on_record = entry["annotations"]["validate.portcullis.dev/access-changes"].as_str().unwrap();
    assert_eq!(on_record.lines().collect::<Vec<_>>(), whole);
    house.cluster.kubectl(&["delete", "mcppolicy", "many", "-n", "team"]);
    // What narrows needs no right to open, and is told to whoever may list policies.
    let mut narrower = policy("guard", "notes");
    narrower["spec"]["rules"][0]["effect"] = json!("Deny");
    let said = taken("ed", &narrower);
    assert!(said.contains("Warning: - any@corp: echo on team/notes (rule guard/allow)"), "{said}");
    house.cluster.kubectl(&["delete", "mcppolicy", "guard", "-n", "team"]);
    house.cluster.delete("rbac.authorization.k8s.io/v1", "RoleBinding", Some("team"), "ed-view");
    house.cluster.wait_may_not("ed", "list", ("portcullis.dev", "mcppolicies"), "team");
    let (done, said) = apply("ed", &narrower);
    assert!(done && !said.contains("on team/notes"), "{said}");
}
