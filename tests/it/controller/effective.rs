//! What policies come to where they reach, as their status says it: what `validate` says of the same objects.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use portcullis::tools::{digest::sha256, lock};
use serde_json::{Value, json};

use super::{Controller, USER, VERSION, condition, object, server, trust, wait_condition};
use crate::chart::installed;
use crate::support::kube::{Cluster, Write};
use crate::support::process::portcullis;
use crate::support::wait::until;

const READ: &str = r#"{"name":"read","inputSchema":{"type":"object","properties":{"path":{}}}}"#;
const WRITE: &str = r#"{"name":"write","inputSchema":{"type":"object","required":["path"],"properties":{"path":{}}}}"#;

/// A server with a lock of these tools, and the lock.
fn locked(tools: &[&str]) -> [Value; 2] {
    let found = lock::lockable(tools.iter().copied());
    let reviewed =
        found.values().map(|(tool, digest)| lock::Reviewed { tool: tool.clone(), digest: *digest, risk: None });
    let text = lock::write(reviewed).unwrap().text;
    let sha256 = sha256(text.as_bytes()).hex();
    // What was reviewed anew has a name of its own, so nobody reads the earlier one by its digest.
    let name = format!("tools-{}", &sha256[..8]);
    let spec = json!({"tools": {"lock": {"configMapName": name, "sha256": sha256}}});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "team", "name": name},
        "data": {"tools-lock.json": text}});
    [map, server("team", "notes", &spec)]
}

fn policy(name: &str, targets: Value, rules: &[Value]) -> Value {
    json!({"apiVersion": VERSION, "kind": "McpPolicy", "metadata": {"namespace": "team", "name": name},
        "spec": {"authority": "corp", "targets": targets, "rules": rules}})
}

fn rule(name: &str, effect: &str, tool: &str) -> Value {
    json!({"name": name, "effect": effect, "principals": [{"any": true}], "tools": [{"names": [tool]}]})
}

/// One policy for each word, and one of which nothing is to be said.
fn policies() -> Vec<Value> {
    let notes = || json!({"servers": ["notes"]});
    let mut unguarded = rule("inbox", "Allow", "read");
    unguarded["when"] = "args.path == 'inbox'".into();
    vec![
        policy("fine", notes(), &[rule("reads", "Allow", "read")]),
        policy("misspelled", notes(), &[rule("writes", "Allow", "write"), rule("reads", "Allow", "raed")]),
        policy("unguarded", notes(), &[unguarded]),
        policy("nobody-asks", notes(), &[rule("asks", "RequireApproval", "purge")]),
        policy("only-narrows", json!({"servers": ["bare"]}), &[rule("denies", "Deny", "read")]),
        // Nothing is looked at of one that reaches no server.
        policy("elsewhere", json!({"selector": {"matchLabels": {"tier": "none"}}}), &[rule("denies", "Deny", "read")]),
    ]
}

/// What `validate` says of these objects where policies reach, by policy: lines as they stand in a condition.
fn validated(objects: &[Value], folder: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let text: Vec<String> = objects.iter().map(Value::to_string).collect();
    std::fs::write(folder.join("all.yaml"), text.join("\n---\n")).unwrap();
    let output = portcullis().args(["validate", "-o", "json"]).arg(folder).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["errors"], 0, "{report:#}");
    let words = ["ApprovalUnreachable", "ArgumentNotRequired", "ArgumentType", "NothingAllowed", "ToolNotFound"];
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in report["findings"].as_array().unwrap() {
        let text = |member: &str| line[member].as_str().unwrap();
        if words.contains(&text("reason")) {
            let name = text("object").rsplit('/').next().unwrap().to_owned();
            let told = format!("{}: {} ({}); {}", text("field"), text("message"), text("reason"), text("remedy"));
            found.entry(name).or_default().insert(told);
        }
    }
    found
}

/// What the policies' conditions say, by policy; `None` while one of them says nothing.
fn said(cluster: &Cluster) -> Option<BTreeMap<String, BTreeSet<String>>> {
    let mut found = BTreeMap::new();
    for policy in policies() {
        let name = policy["metadata"]["name"].as_str().unwrap();
        let told = object(cluster, "McpPolicy", Some("team"), name)?;
        condition(&told, "Ready")?;
        if name == "elsewhere" {
            assert_eq!(condition(&told, "Effective"), None, "{told:#}");
            continue;
        }
        let (status, reason) = condition(&told, "Effective")?;
        let message = super::message(&told, "Effective");
        match status.as_str() {
            "True" => assert_eq!((reason.as_str(), message.as_str()), ("Effective", "")),
            _ => {
                assert!(message.contains(&format!("({reason})")), "{message}");
                found.insert(name.to_owned(), message.lines().map(str::to_owned).collect());
            }
        }
    }
    Some(found)
}

#[test]
fn what_validate_warns_of_is_a_condition_that_goes_with_what_caused_it() {
    let cluster = installed();
    cluster.namespace("team", &[]);
    let folder = tempfile::tempdir().unwrap();
    let mut objects = vec![trust("corp"), server("team", "bare", &json!({}))];
    objects.extend(locked(&[READ]));
    objects.extend(policies());
    objects.iter().for_each(|object| drop(cluster.apply(object)));
    let controller = Controller::start(&cluster);
    let expected = validated(&objects, folder.path());
    let faulty = ["misspelled", "nobody-asks", "only-narrows", "unguarded"];
    assert!(expected.keys().eq(faulty.iter()), "{expected:#?}");
    let told = |what: &str, expected: &BTreeMap<String, BTreeSet<String>>| {
        until(what, || said(&cluster).filter(|said| said == expected).map(drop));
    };
    told("the policies to say what validate says", &expected);
    // It is advice: no rollout waits for it, and there is no proxy yet.
    let misspelled = object(&cluster, "McpPolicy", Some("team"), "misspelled").unwrap();
    assert_eq!(condition(&misspelled, "Ready"), Some(("Unknown".into(), "NoProxies".into())));
    // All of it is known at the first look where no lock is to be read.
    let statuses = |name: &str| {
        let ours = |write: &&Write| write.user == USER && write.resource == "mcppolicies/status" && write.name == name;
        cluster.writes().iter().filter(ours).count()
    };
    let both = || (statuses("only-narrows"), statuses("elsewhere"));
    // What is written comes into the log a moment later.
    until("both to be on record", || (both().0 >= 1 && both().1 >= 1).then_some(()));
    assert_eq!(both(), (1, 1));

    // The tool is reviewed, and an Allow is written that the Deny can limit.
    objects.retain(|object| object["kind"] != "ConfigMap" && object["metadata"]["name"] != "notes");
    objects.extend(locked(&[READ, WRITE]));
    objects.push(policy("grants", json!({"selector": {}}), &[rule("reads", "Allow", "read")]));
    objects.iter().for_each(|object| drop(cluster.apply(object)));
    let expected = validated(&objects, folder.path());
    assert_eq!(expected["misspelled"].len(), 1, "{expected:#?}");
    told("the policies to say what validate says by now", &expected);
    let only = |name: &'static str| ("McpPolicy", Some("team"), name);
    wait_condition(&cluster, only("only-narrows"), ("Effective", "True", "Effective"));
    // Mended.
    objects.retain(|object| object["metadata"]["name"] != "misspelled");
    objects.push(policy("misspelled", json!({"servers": ["notes"]}), &[rule("writes", "Allow", "write")]));
    cluster.apply(objects.last().unwrap());
    wait_condition(&cluster, only("misspelled"), ("Effective", "True", "Effective"));
    let expected = validated(&objects, folder.path());
    told("the policies to say what validate says in the end", &expected);

    // Another process, with an empty memory, writes nothing.
    controller.stop();
    let before = cluster.writes().len();
    let controller = Controller::start(&cluster);
    controller.wait_leading();
    let looks =
        |kind: &str| controller.metric(&format!("portcullis_reconciles_total{{kind=\"{kind}\",result=\"done\"}}"));
    let is_looked_at =
        || looks("McpPolicy") >= 7.0 && looks("McpServer") >= 2.0 && looks("policies of a namespace") >= 1.0;
    until("everything to be looked at", || is_looked_at().then_some(()));
    // What was asked for before is done before: the last one shows that nothing is under way.
    cluster.apply(&trust("last"));
    wait_condition(&cluster, ("McpAuthorizationServer", None, "last"), ("Accepted", "True", "Accepted"));
    until("what came of the looks to be looked at", || {
        (controller.metric("portcullis_queue_depth") == 0.0).then_some(())
    });
    let writes = cluster.writes();
    let written = |write: &&Write| write.user == USER && write.resource == "mcppolicies/status";
    let written: Vec<&Write> = writes[before..].iter().filter(written).collect();
    assert!(written.is_empty(), "{written:#?}");
    told("nothing to be said otherwise", &expected);
}
