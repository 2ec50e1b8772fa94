//! The state folder: one gateway's, nobody else's, and said plainly when it cannot be used.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http;
use crate::support::process::{Process, portcullis};
use crate::support::small_disk::SmallDisk;
use crate::support::upstream::{Sdk, Upstream};

const RULES: &str =
    "  - name: all\n    effect: Allow\n    principals: [{users: [ana]}]\n    tools: [{patterns: [\"*\"]}]\n";

fn start(upstream: &Upstream) -> Gateway {
    Gateway::start(&[
        ("trust.yaml", TRUST),
        ("server.yaml", &server("echo", upstream.url())),
        ("policy.yaml", &policy("all", "echo", RULES)),
    ])
}

fn standalone(manifests: &Path, state: &Path) -> Command {
    let mut command = portcullis();
    command.arg("standalone").arg("--manifests").arg(manifests).arg("--state-dir").arg(state);
    command.args(["--listen", "127.0.0.1:0"]);
    command
}

#[test]
fn a_second_gateway_over_one_state_folder_is_refused_and_changes_nothing() {
    let upstream = Upstream::start_with(Sdk::Rmcp, &json!({"json": true, "stateless": true}));
    let gateway = start(&upstream);
    let mut second = Process::start(standalone(&gateway.manifests(), &gateway.state()));
    assert!(!second.wait_exit().success());
    let said = second.stderr();
    let journal = gateway.journal().display().to_string();
    assert!(said.contains(&journal) && said.contains("has a writer already"), "{said}");
    // What the command line learns from the folder is still about the gateway that runs.
    let token = gateway.token("ana", "echo");
    let call = json!({"name": "echo", "arguments": {"message": "a"}});
    assert_eq!(http::post_2026(&gateway.url("echo"), Some(&token), "tools/call", &call).status, 200);
}

/// Everything below `folder` whose mode lets others at it.
fn open_to_others(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        if mode != expected {
            found.push(format!("{} {mode:o}", path.display()));
        }
        if path.is_dir() {
            open_to_others(&path, found);
        }
    }
}

#[test]
fn everything_in_the_state_folder_is_the_owners_alone() {
    let upstream = Upstream::start_with(Sdk::Rmcp, &json!({"json": true, "stateless": true}));
    let gateway = start(&upstream);
    let (_, id) = gateway.issue("ana", "echo", &[]);
    gateway.revoke(&id);
    assert_eq!(gateway.state().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let mut found = Vec::new();
    open_to_others(&gateway.state(), &mut found);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_state_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    let state = folder.path().join("state");
    let _disk = SmallDisk::mount(&state, 1);
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&state).status().unwrap();
    assert!(remounted.success());
    let mut gateway = Process::start(standalone(&manifests, &state));
    assert!(!gateway.wait_exit().success());
    let said = gateway.stderr();
    assert!(said.contains(&state.display().to_string()) && said.contains("Read-only"), "{said}");
}
