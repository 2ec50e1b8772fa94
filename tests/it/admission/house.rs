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
use crate::support::http;
use crate::support::kube::{Cluster, SYSTEM, api};
use crate::support::ports::free_port;
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
    log: &'static str,
    pub(super) cluster: Cluster,
}

/// Puts Secrets' contents into a folder each as the kubelet does: all of one at once, by a link that is swapped.
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

/// Writes files into the folder, by one swap.
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

    /// The same, whose parts log all that they can.
    pub(super) fn build_talkative() -> Self {
        let mut house = Self::found("trace");
        house.start_controller();
        house.start_kubelet();
        house.start_webhook();
        house.wait_ready();
        house
    }

    /// Controller and certificates, and nobody who answers.
    pub(super) fn without_webhook() -> Self {
        let mut house = Self::found("info");
        house.start_controller();
        house.start_kubelet();
        house
    }

    fn found(log: &'static str) -> Self {
        let cluster = installed();
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        cluster.namespace("team", &[]);
        for account in ["portcullis-controller", "portcullis-webhook"] {
            cluster.kubeconfig_of(SYSTEM, account);
        }
        let house = Self { webhook: None, controller: None, kubelet: None, folder, port, log, cluster };
        house.ask();
        house
    }

    /// Has the API server ask, as the chart says, but on this machine. Where exactly, the controller says.
    pub(super) fn ask(&self) {
        for mut configuration in webhook_configurations(&self.cluster) {
            for webhook in configuration["webhooks"].as_array_mut().unwrap() {
                webhook["clientConfig"] = json!({"url": format!("https://{}", self.address())});
            }
            self.cluster.apply(&configuration);
        }
    }

    fn kubeconfig(&self, account: &str) -> PathBuf {
        self.cluster.kubeconfig().with_file_name(format!("{SYSTEM}.{account}.kubeconfig"))
    }

    pub(super) fn start_controller(&mut self) {
        let mut command = portcullis();
        command.args(["controller", "--public-url", PUBLIC_URL, "--no-inventory", "--webhook"]);
        command.args(["--admin-listen", "127.0.0.1:0"]).env("PORTCULLIS_LOG", self.log);
        command.arg(format!("--webhook-name={}", NAMES.join(",")));
        command.env("KUBECONFIG", self.kubeconfig("portcullis-controller"));
        self.controller = Some(Process::start(command));
    }

    pub(super) fn mounted(&self, what: &str) -> PathBuf {
        self.folder.path().join(what)
    }

    /// Mounts the webhook's Secrets from now on.
    pub(super) fn start_kubelet(&mut self) {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, client) = (stop.clone(), self.cluster.client());
        let mut volumes =
            ["tls", "path"].map(|name| (format!("portcullis-webhook-{name}"), self.mounted(name), String::new()));
        let thread = thread::spawn(move || {
            let secrets = api(&client, "v1", "Secret", Some(SYSTEM));
            while !stopped.load(Ordering::SeqCst) {
                for (name, folder, mounted) in &mut volumes {
                    // While the API server is away nothing changes.
                    if let Ok(Some(secret)) = crate::support::runtime().block_on(secrets.get_opt(name)) {
                        let version = secret.metadata.resource_version.unwrap();
                        if version != *mounted {
                            let data = secret.data["data"].as_object().unwrap();
                            let decoded = |value: &Value| BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap();
                            let files: Vec<_> =
                                data.iter().map(|(name, value)| (name.as_str(), decoded(value))).collect();
                            swap(folder, &version, &files);
                            *mounted = version;
                        }
                    }
                }
                thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        self.kubelet = Some(Kubelet { stop, thread: Some(thread) });
    }

    /// Mounts nothing that comes from now on.
    pub(super) fn end_kubelet(&mut self) {
        self.kubelet = None;
    }

    /// Mounts this pair, and nothing that comes after it.
    pub(super) fn mount(&mut self, certificate: &str, key: &str) {
        self.end_kubelet();
        swap(&self.mounted("tls"), "by-hand", &[("tls.crt", certificate.into()), ("tls.key", key.into())]);
    }

    pub(super) fn start_webhook(&mut self) {
        let mut command = portcullis();
        command.args(["webhook", "--public-url", PUBLIC_URL, "--admin-listen", "127.0.0.1:0"]);
        command.arg(format!("--listen=127.0.0.1:{}", self.port)).arg("--tls-dir").arg(self.mounted("tls"));
        command.arg("--path-key-file").arg(self.mounted("path").join("key")).env("PORTCULLIS_LOG", self.log);
        command.env("KUBECONFIG", self.kubeconfig("portcullis-webhook"));
        self.webhook = Some(Process::start(command));
    }

    pub(super) fn kill_controller(&mut self) {
        self.controller = None;
    }

    /// Has it stand still with its connections open, or go on.
    pub(super) fn freeze_webhook(&self, frozen: bool) {
        self.webhook.as_ref().unwrap().signal(if frozen { "STOP" } else { "CONT" });
    }

    /// Ends it by SIGKILL.
    pub(super) fn kill_webhook(&mut self) {
        self.webhook = None;
    }

    /// Tells it to end, as Kubernetes does.
    pub(super) fn tell_to_end(&self) {
        self.webhook.as_ref().unwrap().signal("TERM");
    }

    /// Waits until it has ended; whether it did so cleanly.
    pub(super) fn ended_cleanly(&mut self) -> bool {
        self.webhook.take().unwrap().wait_exit().success()
    }

    fn admin(&self) -> SocketAddr {
        Self::admin_of(self.webhook.as_ref().unwrap())
    }

    fn admin_of(role: &Process) -> SocketAddr {
        until("the admin listener", || {
            let log = role.stderr();
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

    /// All that both roles wrote and show.
    pub(super) fn outputs(&self) -> String {
        let mut all = String::new();
        for role in [&self.webhook, &self.controller].map(|role| role.as_ref().unwrap()) {
            let admin = Self::admin_of(role);
            let shown = ["metrics", "readyz"].map(|page| http::get(&format!("http://{admin}/{page}"), &[]).text());
            all += &[role.stdout(), role.stderr(), shown.concat()].concat();
        }
        all
    }

    /// The path that the API server is told of in a configuration, once there is one.
    pub(super) fn told(&self, name: &str) -> String {
        let kind = "ValidatingWebhookConfiguration";
        until("a secret path", || {
            let found = self.cluster.get("admissionregistration.k8s.io/v1", kind, None, name)?;
            let url = found["webhooks"][0]["clientConfig"]["url"].as_str().unwrap();
            Some(url.split_once(&self.address()).unwrap().1.to_owned()).filter(|path| path.len() > 64)
        })
    }

    /// Where the API server asks about what is made and changed.
    pub(super) fn path(&self) -> String {
        self.told("portcullis-validate")
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
