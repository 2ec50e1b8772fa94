//! An API server with the chart in it, a controller, a webhook, and what a kubelet would do for them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chart::{installed, webhook_configurations};
use crate::support::free_port;
use crate::support::http;
use crate::support::kube::{Cluster, SYSTEM};
use crate::support::process::{Process, portcullis};
use crate::support::wait::until;

pub(super) const VERSION: &str = "portcullis.dev/v1alpha1";
const PUBLIC_URL: &str = "https://mcp.example.com";
/// Under which the API server calls the webhook here, and as the chart has it.
pub(super) const NAMES: [&str; 2] = ["127.0.0.1", "portcullis-webhook.portcullis-system.svc"];

pub(super) struct House {
    webhook: Option<Process>,
    controller: Option<Process>,
    kubelet: Option<Kubelet>,
    folder: TempDir,
    port: u16,
    pub(super) cluster: Cluster,
}

/// Puts a Secret's content into a folder as the kubelet does: all of it at once, by a link that is swapped.
struct Kubelet {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Writes a pair into the folder, by one swap.
fn swap(folder: &Path, generation: &str, files: &[(&str, Vec<u8>)]) {
    let data = folder.join(format!("..{generation}"));
    std::fs::create_dir_all(&data).unwrap();
    for (name, content) in files {
        std::fs::write(data.join(name), content).unwrap();
        let link = folder.join(name);
        if !link.is_symlink() {
            std::os::unix::fs::symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    let (new, current) = (folder.join("..data_tmp"), folder.join("..data"));
    std::os::unix::fs::symlink(format!("..{generation}"), &new).unwrap();
    std::fs::rename(new, current).unwrap();
}

impl House {
    /// All of it, ready.
    pub(super) fn build() -> Self {
        let mut house = Self::without_webhook();
        house.start_webhook();
        house.wait_ready();
        house
    }

    /// Controller and certificates, and nobody who answers.
    pub(super) fn without_webhook() -> Self {
        let cluster = installed();
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        cluster.namespace("team", &[]);
        for account in ["portcullis-controller", "portcullis-webhook"] {
            cluster.kubeconfig_of(SYSTEM, account);
        }
        let mut house = Self { webhook: None, controller: None, kubelet: None, folder, port, cluster };
        house.ask();
        house.start_controller();
        house.start_kubelet();
        house
    }

    /// Has the API server ask, as the chart says, but on this machine.
    pub(super) fn ask(&self) {
        for mut configuration in webhook_configurations(&self.cluster) {
            for webhook in configuration["webhooks"].as_array_mut().unwrap() {
                let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap();
                webhook["clientConfig"] = json!({"url": format!("https://127.0.0.1:{}{path}", self.port)});
            }
            self.cluster.apply(&configuration);
        }
    }

    fn kubeconfig(&self, account: &str) -> PathBuf {
        self.cluster.kubeconfig().with_file_name(format!("{SYSTEM}.{account}.kubeconfig"))
    }

    fn start_controller(&mut self) {
        let mut command = portcullis();
        command.args(["controller", "--public-url", PUBLIC_URL, "--no-inventory"]);
        command.arg(format!("--webhook-names={}", NAMES.join(",")));
        command.env("KUBECONFIG", self.kubeconfig("portcullis-controller"));
        self.controller = Some(Process::start(command));
    }

    fn tls(&self) -> PathBuf {
        self.folder.path().join("tls")
    }

    /// Mounts the webhook's Secret from now on.
    pub(super) fn start_kubelet(&mut self) {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, folder, client) = (stop.clone(), self.tls(), self.cluster.client());
        std::fs::create_dir_all(&folder).unwrap();
        let thread = thread::spawn(move || {
            let mut mounted = String::new();
            let secrets = crate::support::kube::api(&client, "v1", "Secret", Some(SYSTEM));
            while !stopped.load(Ordering::SeqCst) {
                let found = crate::support::runtime().block_on(secrets.get_opt("portcullis-webhook-tls"));
                // While the API server is away nothing changes.
                if let Ok(Some(secret)) = found {
                    let version = secret.metadata.resource_version.unwrap();
                    if version != mounted {
                        let data = secret.data["data"].as_object().unwrap();
                        let decoded = |value: &Value| BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap();
                        let files: Vec<_> = data.iter().map(|(name, value)| (name.as_str(), decoded(value))).collect();
                        swap(&folder, &version, &files);
                        mounted = version;
                    }
                }
                thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        self.kubelet = Some(Kubelet { stop, thread: Some(thread) });
    }

    /// Mounts this pair, and nothing that comes after it.
    pub(super) fn mount(&mut self, certificate: &str, key: &str) {
        self.kubelet = None;
        swap(&self.tls(), "by-hand", &[("tls.crt", certificate.into()), ("tls.key", key.into())]);
    }

    pub(super) fn start_webhook(&mut self) {
        let mut command = portcullis();
        command.args(["webhook", "--public-url", PUBLIC_URL, "--admin-listen", "127.0.0.1:0"]);
        command.arg(format!("--listen=127.0.0.1:{}", self.port)).arg("--tls-dir").arg(self.tls());
        command.env("KUBECONFIG", self.kubeconfig("portcullis-webhook"));
        self.webhook = Some(Process::start(command));
    }

    /// Ends it by SIGKILL.
    pub(super) fn kill_webhook(&mut self) {
        self.webhook = None;
    }

    /// Ends it as Kubernetes does; whether it ended cleanly.
    pub(super) fn stop_webhook(&mut self) -> bool {
        let mut webhook = self.webhook.take().unwrap();
        webhook.signal("TERM");
        webhook.wait_exit().success()
    }

    fn admin(&self) -> SocketAddr {
        let webhook = self.webhook.as_ref().unwrap();
        until("the webhook's admin listener", || {
            let log = webhook.stderr();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.filter_map(|line| line["admin"].as_str()?.parse().ok()).next()
        })
    }

    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Whether it is ready, and its report.
    pub(super) fn readyz(&self) -> (bool, Value) {
        let response = http::get(&format!("http://{}/readyz", self.admin()), &[]);
        (response.status == 200, response.json())
    }

    pub(super) fn wait_ready(&self) {
        let mut said = Value::Null;
        let waited = std::panic::AssertUnwindSafe(|| {
            until("the webhook to be ready", || {
                let (ready, report) = self.readyz();
                said = report;
                ready.then_some(())
            });
        });
        if let Err(why) = std::panic::catch_unwind(waited) {
            eprintln!("{}\n{}", self.webhook.as_ref().unwrap().stderr(), self.controller.as_ref().unwrap().stderr());
            std::panic::resume_unwind(why);
        }
    }

    pub(super) fn metrics(&self) -> String {
        http::get(&format!("http://{}/metrics", self.admin()), &[]).text()
    }

    /// `kubectl apply` as people do.
    pub(super) fn apply(&self, object: &Value) -> Output {
        self.cluster.try_kubectl(&["apply", "-f", "-"], Some(&object.to_string()))
    }

    /// What kubectl says of an object that is refused.
    #[track_caller]
    pub(super) fn refused(&self, object: &Value) -> String {
        let output = self.apply(object);
        assert!(!output.status.success(), "it was taken: {object}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// What kubectl says beside that an object was taken.
    #[track_caller]
    pub(super) fn taken(&self, object: &Value) -> String {
        let output = self.apply(object);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}: {object}");
        said
    }
}

pub(super) fn server(name: &str) -> Value {
    json!({"apiVersion": VERSION, "kind": "McpServer", "metadata": {"namespace": "team", "name": name},
        "spec": {"upstream": {"url": "https://vendor.example/mcp", "credentials": {"none": {}}},
            "authorization": {"servers": ["corp"]}}})
}

pub(super) fn policy(name: &str, server: &str) -> Value {
    json!({"apiVersion": VERSION, "kind": "McpPolicy", "metadata": {"namespace": "team", "name": name}, "spec": {
        "authority": "corp", "targets": {"servers": [server]}, "rules": [
            {"name": "allow", "effect": "Allow", "principals": [{"any": true}], "tools": [{"names": ["echo"]}]}]}})
}

pub(super) fn trust() -> Value {
    json!({"apiVersion": VERSION, "kind": "McpAuthorizationServer", "metadata": {"name": "corp"},
        "spec": {"issuer": "https://corp.invalid", "validation": {"groups": {"claim": "groups"}}}})
}
