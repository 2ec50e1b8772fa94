//! The real binary over a folder of manifests, on free ports of loopback, with its own issuer.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::hanging_disk::HangingDisk;
use super::http;
use super::ports::free_port;
use super::process::{Process, portcullis};
use super::small_disk::SmallDisk;
use super::wait::until;

/// A running gateway. Dropping it kills it.
pub(crate) struct Gateway {
    process: Option<Process>,
    /// Unmounted after the process has ended and before the folder is removed.
    _disk: Option<SmallDisk>,
    environment: Vec<(String, String)>,
    folder: TempDir,
    flags: Vec<String>,
    address: SocketAddr,
    admin: SocketAddr,
}

/// The trust in the gateway's own issuer.
pub(crate) const TRUST: &str = "\
apiVersion: portcullis.dev/v1alpha1
kind: McpAuthorizationServer
metadata: {name: local}
spec: {local: {}}
";

/// A server `default/NAME` before `upstream`, whose audit is best effort.
pub(crate) fn server(name: &str, upstream: &str) -> String {
    format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         upstream: {{url: {upstream:?}, credentials: {{none: {{}}}}}}\n  authorization: {{servers: [local]}}\n"
    )
}

/// A policy `default/NAME` for one server, with `rules` as a YAML list indented by two spaces.
pub(crate) fn policy(name: &str, server: &str, rules: &str) -> String {
    format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpPolicy\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         authority: local\n  targets: {{servers: [{server}]}}\n  rules:\n{rules}"
    )
}

/// A token of the local issuer of the gateway over these folders, and its id.
pub(crate) fn issue(manifests: &Path, state: &Path, person: &str, server: &str, more: &[&str]) -> (String, String) {
    let mut issue = portcullis();
    issue.args(["token", "issue", "--for", person, "--server", &format!("default/{server}"), "-o", "json"]);
    let issued = issue.arg("--manifests").arg(manifests).arg("--state-dir").arg(state).args(more).output().unwrap();
    assert!(issued.status.success(), "{}", String::from_utf8_lossy(&issued.stderr));
    let issued: Value = serde_json::from_slice(&issued.stdout).unwrap();
    (issued["token"].as_str().unwrap().to_owned(), issued["jti"].as_str().unwrap().to_owned())
}

impl Gateway {
    /// Starts over these files (name, content), and waits until it is ready.
    pub(crate) fn start(manifests: &[(&str, &str)]) -> Self {
        Self::start_with(manifests, &[])
    }

    /// [`Gateway::start`] with further flags.
    pub(crate) fn start_with(manifests: &[(&str, &str)], flags: &[&str]) -> Self {
        let gateway = Self::launch(manifests, flags);
        gateway.wait_ready();
        gateway
    }

    /// Starts, and waits only until it serves.
    pub(crate) fn launch(manifests: &[(&str, &str)], flags: &[&str]) -> Self {
        Self::launch_in(tempfile::tempdir().unwrap(), None, Vec::new(), manifests, flags)
    }

    /// [`Gateway::start`], with these environment variables.
    pub(crate) fn start_in(environment: &[(&str, &str)], manifests: &[(&str, &str)]) -> Self {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let gateway = Self::launch_in(tempfile::tempdir().unwrap(), None, environment, manifests, &[]);
        gateway.wait_ready();
        gateway
    }

    /// [`Gateway::start`], and the switch that makes its disk hang.
    pub(crate) fn start_on_hanging_disk(manifests: &[(&str, &str)]) -> (Self, HangingDisk) {
        let folder = tempfile::tempdir().unwrap();
        let disk = HangingDisk::new(folder.path());
        let gateway = Self::launch_in(folder, None, disk.environment(), manifests, &[]);
        gateway.wait_ready();
        (gateway, disk)
    }

    /// [`Gateway::start_with`], with a state folder on a disk of its own of so many MiB. Needs root.
    pub(crate) fn start_on_small_disk(manifests: &[(&str, &str)], flags: &[&str], mebibytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = SmallDisk::mount(&folder.path().join("state"), mebibytes);
        let gateway = Self::launch_in(folder, Some(disk), Vec::new(), manifests, flags);
        gateway.wait_ready();
        gateway
    }

    fn launch_in(
        folder: TempDir,
        disk: Option<SmallDisk>,
        environment: Vec<(String, String)>,
        manifests: &[(&str, &str)],
        flags: &[&str],
    ) -> Self {
        fs::create_dir(folder.path().join("manifests")).unwrap();
        // Of its own, since it is to listen there again after it was gone.
        let own = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut gateway = Self { process: None, _disk: disk, environment, folder, flags, address: own(), admin: own() };
        for (name, content) in manifests {
            gateway.write(name, content);
        }
        gateway.up();
        gateway
    }

    fn up(&mut self) {
        let mut command = portcullis();
        command.arg("standalone").arg("--manifests").arg(self.manifests()).arg("--state-dir").arg(self.state());
        command.args(["--listen", &self.address.to_string(), "--admin-listen", &self.admin.to_string()]);
        if !self.flags.iter().any(|flag| flag.starts_with("--allow-private-upstreams")) {
            command.arg("--allow-private-upstreams=127.0.0.0/8");
        }
        command.args(&self.flags);
        command.envs(self.environment.iter().cloned());
        let mut process = Process::start(command);
        let serving = until("the gateway to serve", || {
            if let Some(status) = process.exit_status() {
                panic!("the gateway ended with {status}: {}", process.stderr());
            }
            process
                .stderr()
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|line| line["message"] == "serving" || line["fields"]["message"] == "serving")
        });
        let field = |name: &str| {
            let value = if serving[name].is_string() { &serving[name] } else { &serving["fields"][name] };
            value.as_str().unwrap().parse().unwrap()
        };
        (self.address, self.admin) = (field("address"), field("admin"));
        self.process = Some(process);
    }

    /// Stops it by SIGKILL and starts it again over the same folder, at the same addresses.
    pub(crate) fn restart(&mut self) {
        self.process = None;
        self.up();
    }

    /// The process, for signals and its output.
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    /// The process, for waiting until it has ended.
    pub(crate) fn process_mut(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    /// Kills it by SIGKILL; [`Gateway::restart`] brings it back.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Everything that it logged so far.
    pub(crate) fn log(&self) -> String {
        self.process().stderr()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of `/default/NAME`.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}/default/{name}", self.address)
    }

    /// The URL of a path on the admin listener.
    pub(crate) fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.state().join("journal")
    }

    /// Writes a manifest, whole or not at all.
    pub(crate) fn write(&self, name: &str, content: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, self.manifests().join(name)).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.manifests().join(name)).unwrap();
    }

    /// `/readyz`: whether it is ready, and its report.
    pub(crate) fn readyz(&self) -> (bool, Value) {
        let response = http::get(&self.admin_url("/readyz"), &[]);
        (response.status == 200, response.json())
    }

    pub(crate) fn wait_ready(&self) {
        until("the gateway to be ready", || self.readyz().0.then_some(()));
    }

    pub(crate) fn metrics(&self) -> String {
        http::get(&self.admin_url("/metrics"), &[]).text()
    }

    /// A verb of the command line over this gateway's folders.
    pub(crate) fn verb(&self, words: &[&str]) -> Command {
        let mut command = portcullis();
        command.args(words).arg("--state-dir").arg(self.state());
        if words[0] == "token" {
            command.arg("--manifests").arg(self.manifests());
        }
        command
    }

    /// A token of the local issuer, and its id.
    pub(crate) fn issue(&self, person: &str, server: &str, more: &[&str]) -> (String, String) {
        issue(&self.manifests(), &self.state(), person, server, more)
    }

    /// A token of the local issuer.
    pub(crate) fn token(&self, person: &str, server: &str) -> String {
        self.issue(person, server, &[]).0
    }

    /// Revokes a token.
    pub(crate) fn revoke(&self, id: &str) {
        let revoked = self.verb(&["token", "revoke", "--id", id]).output().unwrap();
        assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    }
}
