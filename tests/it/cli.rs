//! The command line, as a newcomer and as a script use it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::ports::free_port;
use crate::support::process::{Process, portcullis};
use crate::support::upstream::{Sdk, Upstream};
use crate::support::wait::until;
use crate::support::{canary, http};

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

/// A tour of a folder that has been used: by now somebody else may have the demo server's port, for a while.
fn tour_again(dir: &Path) -> (Option<i32>, String, String) {
    until("the demo server's port to be free", || {
        let ran = ran(&mut quickstart(dir, &["--tour-only"]));
        (!ran.2.contains("the demo server's address")).then_some(ran)
    })
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
    let (code, again, complaints) = tour_again(&dir);
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
    // Another gateway's anchor is one mistake, and not a journal full of them.
    let other = folder.path().join("other");
    assert_eq!(ran(&mut quickstart(&other, &["--tour-only"])).0, Some(0));
    let (code, said, _) = ran(verb(&["audit", "verify", "--dir"]).arg(&other).arg("--anchor").arg(&kept));
    assert!(code == Some(1) && said.lines().count() == 1, "{said}");
    assert!(said.contains("does NOT hold against this anchor: the anchor's key is ") && !said.contains("--anchor"));
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
    let file = folder.path().join("file.txt");
    std::fs::write(&file, "no manifest").unwrap();
    let file = file.to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let fresh = folder.path().join("q").display().to_string();
    let other = folder.path().join("other").display().to_string();
    let none = folder.path().join("none").display().to_string();
    let (outer, inner) = (folder.path().display().to_string(), folder.path().join("state").display().to_string());
    let here = ["-f", "examples/first-server"];
    let explain = |server: &'static str, more: &[&'static str]| {
        [&["explain", "--server", server, "--tool", "get_note"], more, &here].concat()
    };
    let ana = ["--as", "user:ana@local"];
    let notes = "default/notes";
    let served = ["quickstart", "--listen", "127.0.0.1:0", "--public-url", "https://localhost:8420", "--dir", &fresh];
    let tls = [&served[..], &["--tls-cert", "/none.pem", "--tls-key", "/none.key"]].concat();
    let cases: Vec<(Vec<&str>, &[&str])> = vec![
        (vec!["quickstart", "--tour-only", "--listen", &address, "--dir", &fresh], &["cannot listen on", "--listen"]),
        (vec!["quickstart", "--listen", "localhost:1", "--dir", &fresh], &["127.0.0.1:8420"]),
        (vec!["quickstart", "--allowed-origin", "https://a.b/c", "--dir", &fresh], &["scheme, host and port only"]),
        (tls, &["/none.pem cannot be read", "there is no such file"]),
        (vec!["quickstart", "--dir", file], &["file.txt", "is a file", "--dir"]),
        (vec!["quickstart", "--dir", "/proc/x"], &["/proc/x", "cannot make the folder"]),
        (vec!["quickstart", "--public-url", "http://mcp.example.com", "--dir", &other], &["must be https"]),
        (vec!["quickstart", "--upstream", "http://127.0.0.1:1/mcp", "--dir", &other], &["is the server running"]),
        (vec!["quickstart", "--header-from-env", "A=PATH", "--dir", &other], &["--upstream"]),
        (vec!["scan", "http://127.0.0.1:1/mcp"], &["cannot scan http://127.0.0.1:1/mcp", "is the server running"]),
        (vec!["scan", "http://no-such-host.invalid/mcp"], &["cannot scan", "spelled right?"]),
        (vec!["scan", "nonsense"], &["no URL such as"]),
        (vec!["scan", "ftp://127.0.0.1/mcp"], &["no URL such as https://host/mcp"]),
        (vec!["scan", "http://x.invalid", "-o", "some/dir"], &["--out some/dir", "table, json, yaml"]),
        (vec!["scan", "http://x.invalid", "--name", "../x"], &["--name", "small letters"]),
        (vec!["scan", "http://x.invalid", "--header-from-env", "Authorization"], &["HEADER=VARIABLE"]),
        (vec!["scan", "http://127.0.0.1:1", "--header-from-env", "A=NO_SUCH_VAR"], &["no variable NO_SUCH_VAR"]),
        (vec!["scan", "http://127.0.0.1:1", "--extra-ca", "/nonexistent"], &["--extra-ca /nonexistent"]),
        (vec!["scan", "http://127.0.0.1:1", "--extra-ca", file], &["file.txt", "no certificate in PEM"]),
        (vec!["token", "list"], &["--dir DIR"]),
        (vec!["token", "revoke", "--dir", "x"], &["--id <ID>|--for <PERSON>"]),
        (vec!["token", "list", "--dir", "x", "--state-dir", "y"], &["--dir and --state-dir", "one of them"]),
        (vec!["audit", "verify", "--state-dir", "/nonexistent"], &["/nonexistent is not there", "--dir that of a"]),
        (vec!["audit", "verify", "--journal", file], &["file.txt", "is no folder"]),
        (vec!["audit", "verify", "--journal", ".", "--public-key", "xx"], &["--public-key", "audit checkpoint"]),
        (vec!["audit", "verify", "--journal", ".", "--anchor", file], &["file.txt", "is no checkpoint"]),
        (vec!["audit", "query", "--journal", ".", "--since", "yesterday"], &["--since", "30m"]),
        (vec!["who-can", "--server", "x/y", "-f", "examples"], &["no McpServer x/y", "there are: default/notes"]),
        (vec!["who-can", "--server", "x/y", "-f", "src"], &["there is none at all", "right place to look?"]),
        (explain("default/nots", &ana), &["did you mean default/notes?"]),
        (explain("notes", &ana), &["NAMESPACE/NAME", "did you mean default/notes?"]),
        (explain(notes, &["--as", "user:ana@locl"]), &["McpAuthorizationServer locl", "did you mean local?"]),
        (explain(notes, &["--as", "ana"]), &["user:SUBJECT@AUTHORITY"]),
        (explain(notes, &["--as", "user:ana@local", "--args", "{x"]), &["--args is no JSON", "write a JSON object"]),
        (explain(notes, &["--as", "user:ana@local", "--args", "{\"a\":1,\"a\":2}"]), &["occurs twice"]),
        (vec!["validate", "/nonexistent"], &["there is no /nonexistent"]),
        (vec!["validate", "--public-url", "x", "examples"], &["--public-url x", "https://mcp.example.com"]),
        (vec!["standalone", "--manifests", "/nonexistent", "--state-dir", &none], &["--manifests /nonexistent"]),
        (vec!["standalone", "--manifests", "examples", "--state-dir", "/proc/x"], &["/proc/x"]),
        (vec!["standalone", "--manifests", "examples", "--state-dir", "/usr"], &["/usr", "of the gateway's own"]),
        (
            vec!["standalone", "--manifests", "examples", "--state-dir", "Cargo.toml"],
            &["Cargo.toml is no folder", "of the gateway's own"],
        ),
        (
            vec!["standalone", "--manifests", &outer, "--state-dir", &inner],
            &["lies in the folder of manifests", "--state-dir"],
        ),
    ];
    for (words, said) in cases {
        let (code, answer, complaint) = ran(&mut verb(&words));
        assert_eq!((code, answer.as_str()), (Some(2), ""), "{words:?}: {complaint}");
        assert!(said.iter().all(|part| complaint.contains(part)), "{words:?}: {said:?} in {complaint}");
        // Neither a debugger's view, nor one cause twice.
        assert!(
            !complaint.contains("{ ") && !complaint.contains("Some(") && !complaint.contains("Error("),
            "{complaint}"
        );
        let causes: Vec<&str> = complaint.trim().split(": ").collect();
        let distinct: std::collections::BTreeSet<&&str> = causes.iter().collect();
        assert_eq!(causes.len(), distinct.len(), "{complaint}");
    }
    // What could not start leaves nothing behind.
    assert!(!Path::new(&other).exists() && !Path::new(&none).exists());
}

#[test]
fn a_second_gateway_over_one_folder_is_told_so_once() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("q");
    let running = Process::start(quickstart(&dir, &[]));
    running.wait_stdout("that it serves", 0, |line| line.starts_with("Serving.").then_some(()));
    let (code, _, complaint) = ran(&mut quickstart(&dir, &[]));
    assert!(code == Some(2) && complaint.contains("is another quickstart running over this folder?"), "{complaint}");
    let mut other = verb(&["standalone", "--listen", "127.0.0.1:0", "--manifests"]);
    other.arg(dir.join("manifests")).arg("--state-dir").arg(dir.join("state"));
    let (code, _, log) = ran(&mut other);
    let complaint = log.lines().find(|line| line.starts_with("error:")).unwrap();
    assert_eq!((code, complaint.matches("has a writer already").count()), (Some(2), 1), "{complaint}");
    let state = dir.join("state").display().to_string();
    assert!(complaint.contains(&format!("another gateway uses the state folder {state}: stop it")), "{complaint}");
}

#[test]
fn a_flag_is_set_by_its_variable_as_people_write_it() {
    let examples = "examples/first-server";
    for (text, code) in [("1", 1), ("true", 1), ("yes", 1), ("0", 0), ("false", 0), ("off", 0)] {
        // With nothing but the server and the policy, the authority is missing: a warning.
        let all = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(examples).join("portcullis.yaml"));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x.yaml"), all.unwrap().split_once("\n---\n").unwrap().1).unwrap();
        let (found, said, complaint) = ran(verb(&["validate"]).arg(folder.path()).env("PORTCULLIS_STRICT", text));
        assert_eq!(found, Some(code), "{text}: {said}{complaint}");
    }
}

#[test]
fn what_is_typed_counts_over_what_the_environment_names() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("q");
    assert_eq!(ran(&mut quickstart(&dir, &["--tour-only"])).0, Some(0));
    let elsewhere = |words: &[&str]| {
        let mut command = verb(words);
        command.env("PORTCULLIS_MANIFESTS", "/elsewhere").env("PORTCULLIS_STATE_DIR", "/elsewhere");
        command
    };
    let (code, _, complaint) = ran(elsewhere(&["token", "list", "--dir"]).arg(&dir));
    assert_eq!(code, Some(0), "{complaint}");
    let (code, _, complaint) = ran(elsewhere(&["audit", "query", "--dir"]).arg(&dir));
    assert_eq!(code, Some(0), "{complaint}");
    let (code, _, complaint) = ran(elsewhere(&["audit", "query", "--journal"]).arg(dir.join("state/journal")));
    assert_eq!(code, Some(0), "{complaint}");
    let (code, _, complaint) = ran(elsewhere(&["token", "list"]).env("PORTCULLIS_DIR", &dir));
    assert!(code == Some(2) && complaint.contains("both set in the environment"), "{complaint}");
    // Several folders, as for the gateway itself.
    let several = "examples/first-server,examples/platform-team";
    let (code, table, _) =
        ran(verb(&["who-can", "--server", "payments/ledger", "-o", "json"]).env("PORTCULLIS_MANIFESTS", several));
    let table: Value = serde_json::from_str(&table).unwrap();
    assert!(code == Some(0) && table["rows"].as_array().unwrap().len() > 5, "{table}");
}

#[test]
fn answers_have_one_shape_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("q");
    assert_eq!(ran(&mut quickstart(&dir, &["--tour-only"])).0, Some(0));
    let (manifests, dir) = (dir.join("manifests").display().to_string(), dir.display().to_string());
    let server = ["--server", "default/quickstart"];
    let explained = ["--tool", "delete_note", "--as", "user:alice@local", "-f", &manifests];
    let verbs: Vec<(Vec<&str>, &[&str])> = vec![
        (vec!["validate", &manifests], &["findings", "notes", "objects", "errors", "warnings"]),
        (
            [&["who-can"], &server[..], &["-f", &manifests]].concat(),
            &["server", "refused", "rows", "dormant", "doubts", "strangers"],
        ),
        (
            [&["explain"], &server[..], &explained].concat(),
            &["answer", "reason", "visible", "rule", "message", "shadow", "doubts", "rules"],
        ),
        (
            [&["token", "issue", "--for", "ana", "--dir", &dir], &server[..]].concat(),
            &[
                "token",
                "jti",
                "subject",
                "audiences",
                "clientId",
                "groups",
                "scopes",
                "issuedAt",
                "expiresAt",
                "label",
                "state",
            ],
        ),
        (
            vec!["token", "list", "--dir", &dir],
            &["jti", "subject", "audiences", "clientId", "groups", "scopes", "issuedAt", "expiresAt", "label", "state"],
        ),
        (
            vec!["audit", "verify", "--dir", &dir],
            &[
                "holds",
                "completeness",
                "journal",
                "segments",
                "records",
                "checkpoints",
                "lastRecord",
                "decisions",
                "completions",
                "decisionsWithoutCompletion",
                "findings",
                "notes",
            ],
        ),
        (vec!["audit", "query", "--dir", &dir, "--outcome", "result"], &["record", "completion"]),
    ];
    for (words, members) in verbs {
        let (_, json, complaint) = ran(verb(&words).args(["-o", "json"]));
        let json: Value = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{words:?}: {e}: {complaint}"));
        let first = json.as_array().map_or(&json, |list| &list[0]);
        let mut found: Vec<&str> = first.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = members.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{words:?}");
        // What is asked twice answers alike, but for a new token.
        if words[1] != "issue" {
            let (_, yaml, _) = ran(verb(&words).args(["-o", "yaml"]));
            let yaml: Value = serde_saphyr::from_str(&yaml).unwrap_or_else(|e| panic!("{words:?}: {e}"));
            assert_eq!(yaml, json, "{words:?}");
        }
    }
    // The highest class is known by name; then the decision is the one that the tour was shown.
    let (code, said, _) = ran(verb(&["explain"]).args(server).args(explained));
    assert_eq!(code, Some(1));
    assert!(said.starts_with("Deny: DeniedByRule by default/persons/nothing-is-destroyed\n"), "{said}");
    assert!(!said.contains("as if the target did not exist"), "{said}");
}

#[test]
fn a_question_to_a_damaged_journal_says_that_its_answer_is_not_whole() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("q");
    assert_eq!(ran(&mut quickstart(&dir, &["--tour-only"])).0, Some(0));
    let segment = dir.join("state/journal/0000000000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.windows(10).position(|part| part == b"list_notes").unwrap();
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (code, said, _) = ran(verb(&["audit", "verify", "--dir"]).arg(&dir));
    assert!(code == Some(1) && said.contains("RecordDamaged"), "{said}");
    let (_, found, warning) = ran(verb(&["audit", "query", "--dir"]).arg(&dir));
    assert!(found.contains("tools/list") && !found.contains("delete_note"), "{found}");
    assert!(warning.contains("is damaged") && warning.contains("portcullis audit verify"), "{warning}");
    let mut tail = verb(&["audit", "tail", "--from-start", "--dir"]);
    tail.arg(&dir);
    let tail = Process::start(tail);
    until("tail to warn", || tail.stderr().contains("nothing behind it is shown").then_some(()));
    tail.signal("INT");
}

#[test]
fn every_verb_says_its_purpose_and_its_exit_codes() {
    let (code, general, _) = ran(&mut verb(&["--help"]));
    assert!(code == Some(0) && general.contains("Exit codes: 0 it holds, 1 it does not hold, 2"), "{general}");
    for words in [
        &["validate"][..],
        &["who-can"],
        &["what-can"],
        &["diff"],
        &["explain"],
        &["scan"],
        &["audit", "verify"],
        &["standalone"],
    ] {
        let (code, help, _) = ran(verb(words).arg("--help"));
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(code == Some(0) && help.contains("Exit code 0: ") && help.contains("2: "), "{words:?}: {help}");
    }
    assert_eq!(ran(&mut verb(&["vaildate"])).0, Some(2));
    assert!(ran(&mut verb(&["vaildate"])).2.contains("'validate'"));
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
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let (_, _, warning) = ran(verb(&["validate"]).arg(&empty));
    assert!(warning.contains(&format!("warning: no object found in {}", empty.display())), "{warning}");
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
    let (_, why, _) = ran(verb(&["explain"]).args(server).arg(folder.path()).args(&call[..2]).args(&call[4..]));
    assert!(why.starts_with("Without the tool's risk class (--risk,"), "{why}");
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
    let tokens: Vec<&str> = said.split([' ', '=', '\n']).filter(|word| word.starts_with("eyJ")).collect();
    assert_eq!(tokens.len(), 2, "{said}");
    // A tour that shows nothing says so.
    let path = dir.join("manifests/3-policy.yaml");
    std::fs::write(&path, policy.replace("effect: Allow", "effect: Deny")).unwrap();
    let (code, _, complaint) = tour_again(&dir);
    let why = format!("error: the tour shows no allowed call: nobody may do anything by {}", path.display());
    assert!(code == Some(1) && complaint.contains(&why), "{complaint}");
    canary::assert_none_below(&tokens, &dir, &|_| false);
}

#[test]
fn tokens_are_issued_listed_and_revoked_while_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("q");
    let mut running = Process::start(quickstart(&dir, &[]));
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
    let (code, _, warning) = token(&["revoke", "--id", "no-such-id"]);
    assert!(code == Some(1) && warning.contains("no token on record"), "{warning}");
    let (code, _, warning) = token(&["revoke", "--for", "alise"]);
    assert!(code == Some(1) && warning.contains("did you mean alice?"), "{warning}");
    let nowhere = http::post_2026(&format!("{url}x"), None, "tools/list", &json!({}));
    assert_eq!((nowhere.status, &nowhere.json()["error"]["code"]), (404, &json!(-31008)), "{}", nowhere.text());
    // Who is not let in is on record with the reason and where from, in few columns.
    for _ in 0..2 {
        assert_eq!(http::post_2026(&url, Some("nonsense"), "tools/list", &json!({})).status, 401);
    }
    running.signal("INT");
    assert!(running.wait_exit().success());
    let (_, events, _) = ran(verb(&["audit", "query", "--all", "--dir"]).arg(&dir));
    // Both are summed up: in one record, or in one each where a window ended between them.
    let is_it = |line: &&str| line.contains("authentication_failure") && line.contains("TokenMalformed");
    let failed: Vec<&str> = events.lines().filter(is_it).collect();
    match failed[..] {
        [both] => assert!(both.contains(" authentication_failure ×2 "), "{events}"),
        [_, _] => assert!(failed.iter().all(|line| line.contains(" authentication_failure ")), "{events}"),
        _ => panic!("{} records of two failures: {events}", failed.len()),
    }
    assert!(failed.len() == 1 || !failed.iter().any(|line| line.contains('×')), "{events}");
    for words in ["127.0.0.", "default/quickstart"] {
        assert!(failed.iter().all(|line| line.contains(words)), "{words}: {events}");
    }
    assert!(!events.contains("mcp.gateway."), "{events}");
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
