//! The command line as its first user meets it: what it prints, what it refuses, and with which exit code.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::process::{Process, portcullis};
use crate::support::upstream::Upstream;

fn run(words: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = portcullis().args(words).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn quickstart(dir: &Path, more: &[&str]) -> Command {
    let mut command = portcullis();
    command.arg("quickstart").arg("--dir").arg(dir).args(["--listen", "127.0.0.1:0"]).args(more);
    command
}

fn tour(dir: &Path, more: &[&str]) -> String {
    let done = quickstart(dir, &[&["--tour-only"], more].concat()).output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("  allow  ") && said.contains("  deny  "), "{said}");
    said
}

#[test]
fn a_quickstart_shows_both_answers_and_keeps_what_its_user_edited() {
    let folder = tempfile::tempdir().unwrap();
    tour(folder.path(), &[]);
    let policy = folder.path().join("manifests/3-policy.yaml");
    let edited = std::fs::read_to_string(&policy).unwrap() + "# mine\n";
    std::fs::write(&policy, &edited).unwrap();
    tour(folder.path(), &[]);
    assert_eq!(std::fs::read_to_string(&policy).unwrap(), edited);
}

#[test]
fn a_quickstart_ends_cleanly_on_ctrl_c() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(quickstart(folder.path(), &[]));
    process.wait_stdout("that it serves", 0, |line| line.contains("Press Ctrl-C").then_some(()));
    assert!(process.stdout().contains("Mcp-Method: tools/list"), "the demo needs no handshake");
    process.signal("INT");
    assert_eq!(process.wait_exit().code(), Some(0));
}

#[test]
fn an_upstream_of_the_older_line_is_governed_and_its_results_are_not_shown() {
    let (upstream, folder) = (Upstream::everything(), tempfile::tempdir().unwrap());
    let said = tour(folder.path(), &["--upstream", upstream.url()]);
    assert!(said.contains("not shown here") && said.contains("unclassified"), "{said}");
    let process = Process::start(quickstart(folder.path(), &[]));
    process.wait_stdout("that it serves", 0, |line| line.contains("Press Ctrl-C").then_some(()));
    assert!(process.stdout().contains("Mcp-Session-Id: $SESSION"), "{}", process.stdout());
}

#[test]
fn a_taken_port_is_named_with_the_flag_that_chooses_another() {
    let (taken, folder) = (TcpListener::bind("127.0.0.1:0").unwrap(), tempfile::tempdir().unwrap());
    let address = taken.local_addr().unwrap().to_string();
    let dir = folder.path().join("new");
    let (code, _, error) = run(&["quickstart", "--tour-only", "--dir", dir.to_str().unwrap(), "--listen", &address]);
    assert!(code == 2 && error.contains("--listen") && error.contains(&address), "{error}");
}

#[test]
fn a_folder_without_a_journal_does_not_hold() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said, error) = run(&["audit", "verify", "--journal", folder.path().to_str().unwrap()]);
    assert_eq!((code, said.as_str()), (2, ""));
    assert!(error.contains("no segment of a journal"), "{error}");
}

#[test]
fn the_checked_in_crds_are_what_the_verb_prints() {
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    let (code, printed, _) = run(&["crd"]);
    assert_eq!(code, 0);
    for file in std::fs::read_dir(crds).unwrap() {
        assert!(printed.contains(&std::fs::read_to_string(file.unwrap().path()).unwrap()));
    }
}
