//! What code scanning is told of manifests: by the essentials of the SARIF schema, by what GitHub asks for besides, and by a
//! snapshot.

use std::path::Path;
use std::process::{Command, Output};

use portcullis::resolve::Reason;
use serde_json::Value;

use crate::support::process::portcullis;

const POLICY: &str = "\
apiVersion: portcullis.dev/v1alpha1
kind: McpPolicy
metadata: {name: p, namespace: team}
spec:
  authority: corp
  targets: {servers: [notes]}
  rules:
  - name: read
    effect: Allow
    principals: [{any: true}]
    tools: [{names: [get_note]}]
    whne: args.a == 1
";

fn sarif(here: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let mut command: Command = portcullis();
    command.args(["validate", "-o", "sarif"]).args(more).current_dir(here);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let read = serde_json::from_slice(&stdout);
    (status.code(), read.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stderr))))
}

/// The properties that the schema requires where they are used here, their types, and what they refer to.
fn check(log: &Value) {
    assert_eq!(log["version"], "2.1.0");
    assert!(log["$schema"].as_str().unwrap().ends_with("sarif-2.1.0.json"));
    let [run] = log["runs"].as_array().unwrap().as_slice() else { panic!("{log}") };
    let driver = &run["tool"]["driver"];
    assert_eq!(driver["name"], "portcullis");
    assert!(["utf16CodeUnits", "unicodeCodePoints"].contains(&run["columnKind"].as_str().unwrap()));
    assert!(run["invocations"][0]["executionSuccessful"].is_boolean());
    let rules = driver["rules"].as_array().unwrap();
    let words: Vec<&str> = rules.iter().map(|rule| rule["id"].as_str().unwrap()).collect();
    assert_eq!(words, Reason::ALL.iter().map(|reason| reason.as_str()).collect::<Vec<_>>());
    for rule in rules {
        for text in ["shortDescription", "help"] {
            assert!(!rule[text]["text"].as_str().unwrap().is_empty(), "{rule}");
        }
        assert!(["error", "warning"].contains(&rule["defaultConfiguration"]["level"].as_str().unwrap()));
    }
    for result in run["results"].as_array().unwrap() {
        let rule = &rules[usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()];
        assert_eq!((&rule["id"], &rule["defaultConfiguration"]["level"]), (&result["ruleId"], &result["level"]));
        assert!(!result["message"]["text"].as_str().unwrap().is_empty());
        let [place] = result["locations"].as_array().unwrap().as_slice() else { panic!("{result}") };
        let place = &place["physicalLocation"];
        let uri = place["artifactLocation"]["uri"].as_str().unwrap();
        assert!(!uri.is_empty() && !uri.contains(' ') && !uri.starts_with('/'), "{uri}");
        for position in ["startLine", "startColumn"] {
            assert!(place["region"][position].as_u64().unwrap() >= 1, "{result}");
        }
    }
}

#[test]
fn code_scanning_is_told_what_validate_finds_and_exit_codes_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("a policy.yaml", POLICY);
    write("broken.yaml", "kind: [");
    let (code, log) = sarif(folder.path(), &["."]);
    check(&log);
    assert_eq!(code, Some(1));
    let mut results = log["runs"][0]["results"].clone();
    // Which moves when a reason is added; `check` has followed it.
    results.as_array_mut().unwrap().iter_mut().for_each(|result| drop(result["ruleIndex"].take()));
    insta::assert_snapshot!(serde_json::to_string_pretty(&results).unwrap());
    // What is only warned about fails when that is asked for.
    std::fs::remove_file(folder.path().join("broken.yaml")).unwrap();
    write("a policy.yaml", &POLICY.replace("    whne: args.a == 1\n", ""));
    for (more, want) in [(&["."][..], 0), (&[".", "--strict"], 1)] {
        let (code, log) = sarif(folder.path(), more);
        check(&log);
        assert_eq!(code, Some(want), "{more:?}");
        let levels: Vec<&Value> = log["runs"][0]["results"].as_array().unwrap().iter().map(|r| &r["level"]).collect();
        assert!(!levels.is_empty() && levels.iter().all(|level| *level == "warning"), "{levels:?}");
    }
}

#[test]
fn any_tree_makes_a_log() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for tree in ["examples", "tests/behaviour", "charts", "docs", "hack"] {
        let (_, log) = sarif(root, &[tree]);
        check(&log);
    }
    let (code, log) = sarif(root, &["examples/platform-team", "--strict"]);
    check(&log);
    assert_eq!((code, log["runs"][0]["results"].as_array().unwrap().len()), (Some(0), 0));
}
