//! The one place that knows the gateway's command line and manifests.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::PATH;
use crate::running::{self, PERSONS, Running};

/// Starts the gateway before `upstream` with audit delivery `delivery`, state and manifests below `folder`, and issues one
/// token per person.
pub fn start_gateway(binary: &Path, delivery: &str, upstream: &str, folder: &Path) -> Result<(Running, Vec<String>)> {
    let (manifests, state) = (folder.join("manifests"), folder.join("state"));
    fs::create_dir_all(&manifests)?;
    let name = PATH.rsplit('/').next().unwrap_or_default();
    let namespace = PATH.split('/').nth(1).unwrap_or_default();
    let text = include_str!("gateway.yaml")
        .replace("NAMESPACE", namespace)
        .replace("NAME", name)
        .replace("DELIVERY", delivery)
        .replace("UPSTREAM", &format!("http://{upstream}{PATH}"));
    fs::write(manifests.join("bench.yaml"), text)?;
    let common = |command: &mut Command| {
        command.arg("--manifests").arg(&manifests).arg("--state-dir").arg(&state);
    };
    let mut serve = Command::new(binary);
    serve.arg("standalone").args(["--listen", "127.0.0.1:0", "--allow-private-upstreams=127.0.0.0/8"]);
    common(&mut serve);
    let running = running::start_gateway(&mut serve)?;
    let mut tokens = Vec::new();
    for person in 0..PERSONS {
        let mut issue = Command::new(binary);
        issue.args(["token", "issue", "--for", &format!("person-{person}"), "--group", "engineers"]);
        issue.args(["--server", &format!("{namespace}/{name}"), "-o", "json"]);
        common(&mut issue);
        let issued = issue.stderr(Stdio::inherit()).output()?;
        ensure!(issued.status.success(), "{issue:?} failed");
        let issued: serde_json::Value = serde_json::from_slice(&issued.stdout)?;
        tokens.push(issued["token"].as_str().context("no token was issued")?.to_owned());
    }
    Ok((running, tokens))
}
