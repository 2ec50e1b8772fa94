//! `portcullis what-can` and `portcullis diff`, as people, scripts and pull requests use them.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::process::portcullis;

fn ran(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn verb(words: &[&str]) -> Command {
    let mut command = portcullis();
    command.args(words).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

fn lines(table: &str) -> String {
    table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

const NOTES: &str = "examples/first-server/portcullis.yaml";

/// The first example in a folder, with something in it exchanged.
fn edited(folder: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(NOTES)).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("portcullis.yaml"), text.replace(from, to)).unwrap();
}

/// A repository with the first example in `deploy/`, and a change of it in the work tree.
fn repository(from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=ana", "-c", "user.email=ana@example.com", "-c", "commit.gpgsign=false"]);
        let output = git.args(words).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    };
    git(&["init", "--quiet", "--initial-branch", "main"]);
    edited(&folder.path().join("deploy/notes"), "effect", "effect");
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message", "As it was"]);
    edited(&folder.path().join("deploy/notes"), from, to);
    folder
}

const TAMED: &str = "names: [delete_all_notes]";

#[test]
fn what_can_prints_a_table_of_everything_that_somebody_can_call() {
    let (code, table, _) = ran(&mut verb(&["what-can", "--user", "ana", "-f", "examples/first-server"]));
    assert_eq!(code, Some(0));
    insta::assert_snapshot!("what_can", lines(&table));
    let (code, table, _) = ran(&mut verb(&["what-can", "--user", "zoe", "-f", "examples/first-server"]));
    assert_eq!((code, table.as_str()), (Some(1), "user:zoe@local can call nothing.\n"));
    // Through a client and for somebody: what is more than without.
    let many = ["what-can", "--group", "payments,sre", "--authority", "corp", "-f", "examples/platform-team"];
    let (code, table, _) = ran(&mut verb(&many));
    assert_eq!(code, Some(0));
    insta::assert_snapshot!("what_can_many", lines(&table));
    let (_, json, _) = ran(verb(&many).args(["-o", "json"]));
    let (_, yaml, _) = ran(verb(&many).args(["-o", "yaml"]));
    let (json, yaml): (Value, Value) = (serde_json::from_str(&json).unwrap(), serde_saphyr::from_str(&yaml).unwrap());
    assert_eq!(json, yaml);
    assert!(json["grants"][0]["server"] == "payments/ledger" && json["refused"].is_object(), "{json}");
}

#[test]
fn a_change_is_told_as_table_json_yaml_and_markdown_and_gates_a_pipeline() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    edited(&old, "effect", "effect");
    edited(&new, "users: [ben]", "users: [ben, \"eve<b>|@all\"]");
    let paths = |old: &Path, new: &Path| [old, new].map(|path| path.to_str().unwrap().to_owned());
    let diff = |old: &Path, new: &Path, more: &[&str]| ran(verb(&["diff"]).args(paths(old, new)).args(more));
    let (code, table, complaint) = diff(&old, &new, &[]);
    assert_eq!((code, complaint.as_str()), (Some(1), ""));
    insta::assert_snapshot!("diff", lines(&table));
    let (_, page, _) = diff(&old, &new, &["-o", "markdown"]);
    insta::assert_snapshot!("diff_markdown", page);
    let (_, json, _) = diff(&old, &new, &["-o", "json"]);
    let (_, yaml, _) = diff(&old, &new, &["-o", "yaml"]);
    let (json, yaml): (Value, Value) = (serde_json::from_str(&json).unwrap(), serde_saphyr::from_str(&yaml).unwrap());
    assert_eq!(json, yaml);
    let mut members: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["changed", "changes", "gained", "lost", "notes", "refused", "whole"]);
    assert_eq!((&json["gained"], &json["changes"][0]["after"]), (&3.into(), &"Allow".into()));
    for (on, code) in [("gained", 1), ("any", 1), ("none", 0)] {
        assert_eq!(diff(&old, &new, &["--fail-on", on]).0, Some(code), "{on}");
    }
    for (on, code) in [("gained", 0), ("any", 1)] {
        assert_eq!(diff(&new, &old, &["--fail-on", on]).0, Some(code), "{on}, backwards");
    }
    let (code, said, _) = diff(&old, &old, &["--fail-on", "any"]);
    assert_eq!((code, said.as_str()), (Some(0), "nobody gains or loses access\n"));
}

#[test]
fn objects_that_become_invalid_are_told_and_pass_no_gate() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    edited(&old, "effect", "effect");
    edited(&new, "    effect: Deny", "    efect: Deny");
    let (code, said, _) = ran(verb(&["diff"]).arg(&old).arg(&new));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("McpPolicy default/notes is refused: UnknownField: spec.rules[2].efect"), "{said}");
    assert!(said.contains("1 object refused"), "{said}");
}

/// Secrets are not in Git: that they are not there says nothing of who may do what.
#[test]
fn what_a_folder_lacks_of_secrets_hides_no_gain() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = |groups: &str| {
        format!(
            "apiVersion: portcullis.dev/v1alpha1\nkind: McpAuthorizationServer\nmetadata: {{name: corp}}\nspec: {{issuer: \
             \"https://login.example\", validation: {{groups: {{claim: groups}}}}}}\n---\napiVersion: \
             portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{name: notes, namespace: team-a}}\nspec:\n  upstream:\n    \
             url: https://notes.example/mcp\n    credentials: {{headers: [{{name: x-api-key, secretKeyRef: {{name: notes, \
             key: key}}}}]}}\n  authorization: {{servers: [corp]}}\n---\napiVersion: portcullis.dev/v1alpha1\nkind: \
             McpPolicy\nmetadata: {{name: p, namespace: team-a}}\nspec:\n  authority: corp\n  targets: {{servers: \
             [notes]}}\n  rules:\n  - {{name: r, effect: Allow, principals: [{{groups: [{groups}]}}], tools: [{{names: \
             [get_x]}}]}}\n"
        )
    };
    for (name, groups) in [("old", "a"), ("new", "a, b")] {
        std::fs::write(folder.path().join(format!("{name}.yaml")), manifest(groups)).unwrap();
    }
    let (code, said, _) = ran(verb(&["diff", "old.yaml", "new.yaml"]).current_dir(folder.path()));
    assert!(code == Some(1) && said.contains("group:b@corp") && said.ends_with("1 gained\n"), "{said}");
}

#[test]
fn revisions_are_read_from_git() {
    let folder = repository(TAMED, "names: [delete_some_notes]");
    let here = |words: &[&str], place: &str| ran(verb(words).current_dir(folder.path().join(place)));
    let (code, from_top, complaint) = here(&["diff", "main:deploy", "deploy"], "");
    assert_eq!((code, complaint.as_str()), (Some(1), ""), "{from_top}");
    assert!(from_top.contains("delete_all_notes") && from_top.contains("1 gained, 1 lost"), "{from_top}");
    for (words, place) in [
        (["diff", "main:deploy/", "deploy"], ""),
        (["diff", "HEAD:./", "."], "deploy"),
        (["diff", "main:deploy/notes/portcullis.yaml", "notes"], "deploy"),
    ] {
        assert_eq!(here(&words, place).1, from_top, "{words:?}");
    }
    assert_eq!(here(&["diff", "main:deploy", "HEAD:deploy", "--fail-on", "any"], "").0, Some(0));
    for (words, says) in [
        (["diff", "mian:deploy", "deploy"], "there is no mian:deploy in the Git repository"),
        (["diff", "main:nope", "deploy"], "there is no main:nope in the Git repository"),
        (["diff", "nope", "deploy"], "write a folder or a file, a revision"),
    ] {
        let (code, _, complaint) = here(&words, "");
        assert!(code == Some(2) && complaint.contains(says), "{complaint}");
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let (code, _, complaint) = ran(verb(&["diff", "main:a", "."]).current_dir(elsewhere.path()));
    assert!(code == Some(2) && complaint.contains("not a git repository"), "{complaint}");
    let (code, _, complaint) = ran(verb(&["diff", "main:deploy", "."]).current_dir(folder.path()).env("PATH", "/none"));
    assert!(code == Some(2) && complaint.contains("git, which is not on the path: install it"), "{complaint}");
}

/// What is wrong in a revision is told by the names that people know, and nothing is left behind.
#[test]
fn a_revision_leaves_nothing_behind_and_its_files_keep_their_names() {
    let folder = repository(TAMED, TAMED);
    let broken = folder.path().join("deploy/broken.yaml");
    std::fs::write(&broken, "a: b: c\n").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("deploy/link.yaml")).unwrap();
    for words in [&["add", "."][..], &["-c", "user.name=a", "-c", "user.email=a@b.example", "commit", "-qm", "x"]] {
        assert!(Command::new("git").args(words).current_dir(folder.path()).status().unwrap().success());
    }
    let room = tempfile::tempdir().unwrap();
    let (code, said, complaint) =
        ran(verb(&["diff", "HEAD~:deploy", "HEAD:deploy"]).current_dir(folder.path()).env("TMPDIR", room.path()));
    assert_eq!(code, Some(1), "{said}{complaint}");
    assert!(said.contains("HEAD:deploy/broken.yaml is refused: FileUnreadable"), "{said}");
    assert!(said.contains("HEAD:deploy/link.yaml is refused: FileUnreadable: the link leads outside"), "{said}");
    assert!(!said.contains(room.path().to_str().unwrap()), "{said}");
    assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 0, "nothing stays");
}
