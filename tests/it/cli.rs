//! The command line, as a newcomer and as a script use it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::process::{Process, portcullis};
use crate::support::upstream::{Sdk, Upstream};
use crate::support::wait::until;
use crate::support::{canary, free_port, http};

fn ran(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn verb(words: &[&str]) -> Command {
    let mut command = portcullis();
    command.args(words).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

fn quickstart(dir: &Path, more: &[&str]) -> Command {
    let mut command = verb(&["quickstart", "--listen", &format!("127.0.0.1:{}", free_port()), "--dir"]);
    command.arg(dir).args(more);
    command
}

#[test]
fn quickstart_shows_an_allowed_and_a_refused_call_with_their_records_and_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("q");
    let (code, first, complaints) = ran(&mut quickstart(&dir, &["--tour-only"]));
    assert_eq!(code, Some(0), "{first}{complaints}");
    let rows: Vec<&str> = first.lines().skip_while(|line| !line.starts_with("TIME")).skip(1).collect();
    assert!(rows[0].contains("list_notes") && rows[0].contains("allow") && rows[0].contains("result"), "{first}");
    assert!(rows[1].contains("deny") && rows[1].contains("NoMatchingAllow"), "{first}");
    // What the user made of it is kept.
    let policy = dir.join("manifests/3-policy.yaml");
    let edited = std::fs::read_to_string(&policy).unwrap().replace("users: [alice, bob]", "users: [alice, bob, carol]");
    std::fs::write(&policy, &edited).unwrap();
    let (code, again, complaints) = ran(&mut quickstart(&dir, &["--tour-only"]));
    assert_eq!(code, Some(0), "{again}{complaints}");
    assert_eq!(std::fs::read_to_string(&policy).unwrap(), edited);
    // Everything that it wrote is valid, and its journal holds.
    let manifests = dir.join("manifests");
    let (code, said, _) = ran(verb(&["validate", "--strict"]).arg(&manifests));
    assert_eq!((code, said.lines().last()), (Some(0), Some("3 objects, 0 errors, 0 warnings")), "{said}");
    let (code, said, _) = ran(verb(&["audit", "verify", "--dir"]).arg(&dir));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("The journal holds.\nCompleteness not proven."), "{said}");
    let (_, anchor, _) = ran(verb(&["audit", "checkpoint", "--dir"]).arg(&dir));
    let kept = folder.path().join("anchor.json");
    std::fs::write(&kept, anchor).unwrap();
    let (code, said, _) = ran(verb(&["audit", "verify", "--dir"]).arg(&dir).arg("--anchor").arg(&kept));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Complete up to anchor"), "{said}");
    let (code, said, _) = ran(verb(&["token", "list", "-o", "json", "--dir"]).arg(&dir));
    let tokens: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, tokens.as_array().unwrap().len()), (Some(0), 4), "{said}");
}

#[test]
fn quickstart_serves_until_it_is_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Process::start(quickstart(&folder.path().join("q"), &[]));
    until("it to serve", || running.stdout().contains("Press Ctrl-C to stop").then_some(()));
    running.signal("INT");
    assert!(running.wait_exit().success());
}

#[test]
fn quickstart_governs_a_real_server_and_scan_classes_its_tools() {
    let upstream = Upstream::everything();
    let folder = tempfile::tempdir().unwrap();
    let (code, said, complaints) =
        ran(&mut quickstart(&folder.path().join("q"), &["--tour-only", "--upstream", upstream.url()]));
    assert_eq!(code, Some(0), "{said}{complaints}");
    assert!(said.contains("allow") && said.contains("deny"), "{said}");
    let (code, said, complaints) = ran(verb(&["scan", "-o", "json"]).arg(upstream.url()));
    assert_eq!(code, Some(0), "{complaints}");
    let scan: Value = serde_json::from_str(&said).unwrap();
    let tools = scan["tools"].as_array().unwrap();
    assert!(tools.len() > 5, "{said}");
    assert!(tools.iter().all(|tool| tool["risk"].is_null() || !tool["why"].as_array().unwrap().is_empty()), "{said}");
}

#[test]
fn scan_writes_manifests_that_are_valid_and_grant_nothing() {
    let upstream = Upstream::start(Sdk::Rmcp);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let (code, table, complaints) = ran(verb(&["scan", upstream.url(), "--name", "items", "--out"]).arg(&out));
    assert_eq!(code, Some(0), "{complaints}");
    let delete = table.lines().find(|line| line.starts_with("delete_item")).unwrap();
    assert!(delete.contains("Destructive") && delete.contains("delete"), "{table}");
    std::fs::copy("examples/first-server/portcullis.yaml", folder.path().join("x")).unwrap();
    std::fs::write(out.join("trust.yaml"), crate::support::gateway::TRUST).unwrap();
    let (code, said, _) = ran(verb(&["validate"]).arg(&out));
    assert_eq!(code, Some(0), "{said}");
    let (code, said, _) = ran(verb(&[
        "explain",
        "--server",
        "default/items",
        "--tool",
        "echo",
        "--as",
        "user:ana@local",
        "-f",
    ])
    .arg(&out));
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn what_cannot_be_done_says_what_where_and_how_to_mend_it() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let inside = folder.path().display().to_string();
    let mut on_taken = verb(&["quickstart", "--tour-only", "--listen", &address, "--dir"]);
    let cases: Vec<(Output, &[&str])> = vec![
        (on_taken.arg(folder.path().join("q")).output().unwrap(), &["cannot listen on", "--listen"]),
        (verb(&["scan", "http://127.0.0.1:1/mcp"]).output().unwrap(), &["cannot scan http://127.0.0.1:1/mcp"]),
        (verb(&["scan", "nonsense"]).output().unwrap(), &["no URL such as"]),
        (verb(&["token", "list"]).output().unwrap(), &["--dir DIR"]),
        (verb(&["audit", "verify", "--state-dir", "/nonexistent"]).output().unwrap(), &["/nonexistent"]),
        (verb(&["who-can", "--server", "x/y", "-f", "examples"]).output().unwrap(), &["no McpServer x/y"]),
        (verb(&["validate", "/nonexistent"]).output().unwrap(), &["cannot read /nonexistent"]),
        (verb(&["standalone", "--manifests", "examples", "--state-dir", "/proc/x"]).output().unwrap(), &["/proc/x"]),
        (
            verb(&["standalone", "--manifests", &inside, "--state-dir"])
                .arg(folder.path().join("state"))
                .output()
                .unwrap(),
            &["lies in the folder of manifests", "--state-dir"],
        ),
    ];
    for (output, said) in cases {
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{complaint}");
        assert!(said.iter().all(|part| complaint.contains(part)), "{said:?} in {complaint}");
    }
}

#[test]
fn validate_names_file_line_field_and_the_nearest_word() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/first-server/portcullis.yaml"))
            .unwrap();
    std::fs::write(folder.path().join("broken.yaml"), text.replace("    effect: Deny", "    efect: Deny")).unwrap();
    let (code, said, _) = ran(verb(&["validate"]).arg(folder.path()));
    assert_eq!(code, Some(1));
    assert!(said.contains("broken.yaml:") && said.contains("spec.rules[2]") && said.contains("effect"), "{said}");
}

#[test]
fn who_can_prints_a_table_for_an_auditor() {
    let (code, table, _) = ran(&mut verb(&["who-can", "--server", "default/notes", "-f", "examples/first-server"]));
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"));
}

/// Design 4: of a guardrail that asks for labels which nobody knows, what denies counts, and everybody is told.
#[test]
fn guardrails_count_where_a_namespace_has_no_manifest_and_every_verb_says_so() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/platform-team");
    let folder = tempfile::tempdir().unwrap();
    for name in ["guardrails.yaml", "payments.yaml", "trust.yaml"] {
        std::fs::copy(examples.join(name), folder.path().join(name)).unwrap();
    }
    let doubt = "portcullis-system/no-destruction-in-production chooses namespaces by label";
    let server = ["--server", "payments/ledger", "-f"];
    let (_, table, _) = ran(verb(&["who-can"]).args(server).arg(folder.path()));
    assert!(table.contains(doubt) && table.contains("no-destruction-in-production/destructive-tools"), "{table}");
    let call = ["--tool", "get_x", "--risk", "Destructive", "--as", "user:u@corp,groups=payments"];
    let (code, why, _) = ran(verb(&["explain"]).args(server).arg(folder.path()).args(call));
    assert_eq!(code, Some(1), "{why}");
    assert!(why.starts_with("Deny: DeniedByRule by portcullis-system/no-destruction") && why.contains(doubt), "{why}");
    let (code, said, _) = ran(verb(&["validate", "--strict"]).arg(folder.path()));
    assert!(code == Some(1) && said.contains("warning[NamespaceNotFound]"), "{said}");
}

#[test]
fn the_demo_shows_hidden_and_visible_refusals_and_keeps_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("q");
    let (code, said, complaints) = ran(&mut quickstart(&dir, &["--tour-only"]));
    assert_eq!(code, Some(0), "{said}{complaints}");
    assert!(said.contains("bob calls create_note: error -32602, Unknown tool: create_note"), "{said}");
    assert!(said.contains("alice calls delete_note: refused: Nothing is destroyed"), "{said}");
    let policy = std::fs::read_to_string(dir.join("manifests/3-policy.yaml")).unwrap();
    for tools in ["# get_note, list_notes", "# create_note", "# delete_note"] {
        assert!(policy.contains(tools), "{policy}");
    }
    let query = ["audit", "query", "--user", "alice", "--decision", "deny", "-o", "json", "--dir"];
    let (code, found, _) = ran(verb(&query).arg(&dir));
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!((code, found.as_array().unwrap().len()), (Some(0), 1), "{found}");
    assert_eq!(ran(verb(&["audit", "query", "--user", "nobody", "--dir"]).arg(&dir)).0, Some(1));
    let (_, events, _) = ran(verb(&["audit", "query", "--all", "--dir"]).arg(&dir));
    assert!(events.contains("McpPolicy default/persons"), "{events}");
    // Another upstream does not take over what the folder is.
    let (code, _, complaint) = ran(&mut quickstart(&dir, &["--upstream", "http://127.0.0.1:9/mcp"]));
    assert!(code == Some(2) && complaint.contains("choose another --dir"), "{complaint}");
    // The tokens were printed on purpose, and are kept nowhere.
    let tokens: Vec<&str> = said.split_whitespace().filter(|word| word.starts_with("eyJ")).collect();
    assert_eq!(tokens.len(), 2, "{said}");
    canary::assert_none_below(&tokens, &dir, &|_| false);
}

#[test]
fn tokens_are_issued_listed_and_revoked_while_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("q");
    let running = Process::start(quickstart(&dir, &[]));
    let url =
        running.wait_stdout("its endpoint", 0, |line| Some(line.trim().strip_prefix("endpoint")?.trim().to_owned()));
    running.wait_stdout("that it serves", 0, |line| line.starts_with("Serving.").then_some(()));
    let token = |words: &[&str]| ran(verb(&["token"]).args(words).arg("--dir").arg(&dir));

    let (code, issued, notice) = token(&["issue", "--for", "alice", "--server", "default/quickstart", "--label", "a"]);
    let issued = issued.trim();
    assert!(code == Some(0) && notice.contains("alice") && !notice.contains(issued), "{notice}");
    let listed = http::post_2026(&url, Some(issued), "tools/list", &json!({}));
    assert!(listed.status == 200 && listed.text().contains("create_note"), "{}", listed.text());

    let (_, list, _) = token(&["list", "-o", "json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    let ours = list.as_array().unwrap().iter().find(|token| token["label"] == "a").unwrap();
    let id = ours["jti"].as_str().unwrap();
    assert_eq!(token(&["revoke", "--id", id]).0, Some(0));
    let refused = || http::post_2026(&url, Some(issued), "tools/list", &json!({})).status == 401;
    until("the revoked token to be refused", || refused().then_some(()));
    let (_, list, _) = token(&["list"]);
    assert!(list.lines().any(|line| line.contains(id) && line.contains("revoked")), "{list}");
    assert!(!list.contains(issued));
    assert_eq!(token(&["revoke", "--id", "no-such-id"]).0, Some(1));
    let (code, _, complaint) = token(&["issue", "--for", "x", "--server", "default/nothing"]);
    assert!(code == Some(2) && complaint.contains("default/quickstart"), "{complaint}");
}

#[test]
fn a_scan_overwrites_nothing_and_dials_no_metadata_service() {
    let upstream = Upstream::start(Sdk::Rmcp);
    let folder = tempfile::tempdir().unwrap();
    let mut scan = verb(&["scan", upstream.url(), "--name", "them", "--out"]);
    scan.arg(folder.path());
    assert_eq!(ran(&mut scan).0, Some(0));
    let (code, _, complaint) = ran(&mut scan);
    assert!(code == Some(2) && complaint.contains("there already"), "{complaint}");
    let (code, _, complaint) = ran(&mut verb(&["scan", "http://169.254.169.254/mcp"]));
    assert!(code == Some(2) && complaint.contains("metadata"), "{complaint}");
}
