//! The fleet: what people wrote, the controller, and proxies.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::bare::CONCURRENCY;
use crate::support::issuer::Issuer;
use crate::support::kube::{Cluster, GATEWAY, SYSTEM};
use crate::support::process::{Process, portcullis};
use crate::support::wait::until;
use crate::support::{http, runtime};

const VERSION: &str = "portcullis.dev/v1alpha1";
const PUBLIC_URL: &str = "https://mcp.example";
const NAMESPACES: usize = 100;
/// Whether a controller leads.
const LEADS: &str = "portcullis_leader";

/// What people wrote: one policy for each server, spread over namespaces.
pub(super) struct Seed {
    pub(super) count: usize,
    pub(super) issuer: String,
    pub(super) upstream: String,
}

fn place(number: usize) -> (String, String) {
    (format!("team-{}", number % NAMESPACES), format!("server-{number}"))
}

/// A server, and a token of somebody whom its policy knows.
fn caller(number: usize, issuer: &Issuer) -> (String, String, String) {
    let (namespace, name) = place(number);
    let token = issuer.token("ana", &format!("{PUBLIC_URL}/{namespace}/{name}"), "", &[]);
    (namespace, name, token)
}

impl Seed {
    fn server(&self, number: usize) -> Value {
        Self::server_of(&self.upstream, number)
    }

    pub(super) fn server_of(upstream: &str, number: usize) -> Value {
        let (namespace, name) = place(number);
        json!({"apiVersion": VERSION, "kind": "McpServer", "metadata": {"namespace": namespace, "name": name},
            "spec": {"upstream": {"url": upstream, "credentials": {"none": {}}},
                "authorization": {"servers": ["corp"]}, "audit": {"delivery": "BestEffort"}}})
    }

    pub(super) fn policy(number: usize, tools: &[&str]) -> Value {
        let (namespace, name) = place(number);
        json!({"apiVersion": VERSION, "kind": "McpPolicy", "metadata": {"namespace": namespace, "name": name},
            "spec": {"authority": "corp", "targets": {"servers": [name]},
                "rules": [{"name": "persons", "effect": "Allow", "principals": [{"users": ["ana", "ben"]}],
                    "tools": [{"names": tools}]}]}})
    }

    /// Writes all of it.
    pub(super) fn plant(&self, cluster: &Cluster) {
        for number in 0..NAMESPACES {
            cluster.namespace(&format!("team-{number}"), &[]);
        }
        cluster.apply(&json!({"apiVersion": VERSION, "kind": "McpAuthorizationServer", "metadata": {"name": "corp"},
            "spec": {"issuer": self.issuer}}));
        let objects = (0..self.count).flat_map(|n| [self.server(n), Self::policy(n, &["echo"])]);
        let writes = objects.map(|object| {
            let api = cluster.api(VERSION, object["kind"].as_str().unwrap(), object["metadata"]["namespace"].as_str());
            async move {
                let object: DynamicObject = serde_json::from_value(object).unwrap();
                api.create(&PostParams::default(), &object).await.unwrap();
            }
        });
        runtime().block_on(futures_util::stream::iter(writes).buffer_unordered(CONCURRENCY).for_each(|()| async {}));
    }

    /// Waits until every policy says that every proxy enforces it.
    pub(super) fn wait_enforced(&self, cluster: &Cluster) {
        patiently("every policy to be enforced", || {
            // Listing them is work for the API server too.
            std::thread::sleep(Duration::from_secs(1));
            let policies = cluster.list(VERSION, "McpPolicy", None);
            (policies.iter().filter(|policy| holds(policy, "Enforced")).count() == self.count).then_some(())
        });
    }

    /// Grants one more tool by one policy, and says how long each proxy took to let it through.
    pub(super) fn change_one(
        &self,
        cluster: &Cluster,
        issuer: &Issuer,
        proxies: &[Proxy],
        round: usize,
    ) -> Vec<Duration> {
        let number = round * 97 % self.count;
        let (namespace, name, token) = caller(number, issuer);
        let allowed = |proxy: &Proxy| proxy.call(&namespace, &name, &token, "get_item").get("result").is_some();
        proxies.iter().for_each(|proxy| assert!(!allowed(proxy), "allowed before it was granted"));
        let api = cluster.api(VERSION, "McpPolicy", Some(&namespace));
        let changed = Self::policy(number, &["echo", "get_item"]);
        let patch = Patch::Merge(json!({"spec": changed["spec"]}));
        runtime().block_on(api.patch(&name, &PatchParams::default(), &patch)).unwrap();
        let began = Instant::now();
        let mut took = vec![None; proxies.len()];
        while took.contains(&None) {
            for (proxy, took) in proxies.iter().zip(&mut took) {
                if took.is_none() && allowed(proxy) {
                    *took = Some(began.elapsed());
                }
            }
            if began.elapsed() > Duration::from_secs(60) {
                panic!("{took:?}: {}", proxies[0].call(&namespace, &name, &token, "get_item"));
            }
        }
        took.into_iter().flatten().collect()
    }
}

impl Seed {
    /// Takes away the policy of a server while a stream of it is open at each proxy, and says how long each took to tell its
    /// listener that the tools are others now.
    pub(super) fn revoke_one(
        &self,
        cluster: &Cluster,
        issuer: &Issuer,
        proxies: &[Proxy],
        round: usize,
    ) -> Vec<Duration> {
        let (namespace, name, token) = caller((round * 89 + 7) % self.count, issuer);
        let streams: Vec<_> = proxies.iter().map(|proxy| proxy.listen(&namespace, &name, &token)).collect();
        let api = cluster.api(VERSION, "McpPolicy", Some(&namespace));
        let began = Instant::now();
        let listeners = streams.into_iter().map(|mut stream| {
            std::thread::spawn(move || {
                let mut buffer = String::new();
                let mut events = std::iter::from_fn(|| stream.read_event(&mut buffer));
                assert!(events.any(|event| event.data.contains("notifications/tools/list_changed")), "it was not told");
                began.elapsed()
            })
        });
        let listeners: Vec<_> = listeners.collect();
        runtime().block_on(api.delete(&name, &Default::default())).unwrap();
        listeners.into_iter().map(|listener| listener.join().unwrap()).collect()
    }
}

/// Whether a condition is true of the object as it is.
fn holds(object: &Value, condition: &str) -> bool {
    let generation = &object["metadata"]["generation"];
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|known| {
        known["type"] == condition && known["status"] == "True" && known["observedGeneration"] == *generation
    })
}

/// For what takes minutes at this size.
pub(super) fn patiently<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(1800), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Resident memory in MiB.
pub(super) fn memory(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn admin(process: &Process) -> SocketAddr {
    until("the admin listener", || {
        let said = process.stderr();
        let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter_map(|line| line["admin"].as_str()?.parse().ok()).next_back()
    })
}

fn binary(verb: &str) -> Command {
    let mut command = portcullis();
    command.args([verb, "--public-url", PUBLIC_URL, "--gateway-namespace", GATEWAY]);
    command.args(["--admin-listen", "127.0.0.1:0", "--allow-private-upstreams=127.0.0.0/8"]);
    command
}

/// The controller.
pub(super) struct Controller {
    process: Process,
    admin: SocketAddr,
}

impl Controller {
    pub(super) fn start(cluster: &Cluster) -> Self {
        let mut command = binary("controller");
        command.args(["--system-namespace", SYSTEM, "--no-inventory"]).env("KUBECONFIG", cluster.kubeconfig());
        let process = Process::start(command);
        let admin = admin(&process);
        Self { process, admin }
    }

    fn metric(&self, name: &str) -> u64 {
        let text = http::get(&format!("http://{}/metrics", self.admin), &[]).text();
        let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit_once(' '));
        values.map(|(_, value)| value.parse::<f64>().unwrap() as u64).sum()
    }

    /// Waits until everything was reconciled once.
    pub(super) fn wait_settled(&self, seed: &Seed) {
        patiently("everything to be reconciled", || {
            let statuses = self.metric("portcullis_status_writes_total");
            (statuses > 2 * seed.count as u64 && self.metric("portcullis_queue_depth") == 0).then_some(())
        });
    }

    /// Waits until it knows everything, so that it can take over.
    pub(super) fn wait_ready(&self) {
        let url = format!("http://{}/readyz", self.admin);
        patiently("the controller to be ready", || (http::get(&url, &[]).status == 200).then_some(()));
    }

    /// Kills this controller, which leads, and says how long it took until the other one does.
    pub(super) fn hand_over(mut self, other: &Controller) -> Duration {
        assert_eq!((self.metric(LEADS), other.metric(LEADS)), (1, 0));
        let began = Instant::now();
        self.process.kill();
        patiently("the other controller to lead", || (other.metric(LEADS) == 1).then_some(()));
        began.elapsed()
    }

    pub(super) fn memory(&self) -> u64 {
        memory(&self.process)
    }
}

/// A proxy.
pub(super) struct Proxy {
    process: Process,
    admin: SocketAddr,
    address: SocketAddr,
    _folder: TempDir,
}

impl Proxy {
    pub(super) fn start(cluster: &Cluster, number: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = binary("proxy");
        command.args([
            "--pod-name",
            &format!("gate-{number}"),
            "--listen",
            "127.0.0.1:0",
            "--tls-terminated-before-proxy",
        ]);
        command.arg("--state-dir").arg(folder.path()).env("KUBECONFIG", cluster.kubeconfig());
        let process = Process::start(command);
        let admin = admin(&process);
        let address = until("the listener", || {
            let said = process.stderr();
            let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.filter_map(|line| line["address"].as_str()?.parse().ok()).next_back()
        });
        Self { process, admin, address, _folder: folder }
    }

    pub(super) fn wait_ready(&self) {
        let url = format!("http://{}/readyz", self.admin);
        patiently("the proxy to be ready", || (http::get(&url, &[]).status == 200).then_some(()));
    }

    pub(super) fn memory(&self) -> u64 {
        memory(&self.process)
    }

    /// A stream that only listens, in a session of the 2025 line.
    fn listen(&self, namespace: &str, name: &str, token: &str) -> http::Connection {
        let (url, address) = (format!("http://mcp.example/{namespace}/{name}"), self.address.to_string());
        let post = |session: Option<&str>, message: &Value| {
            let mut headers = vec![("MCP-Protocol-Version", "2025-11-25")];
            headers.extend(session.map(|id| ("Mcp-Session-Id", id)));
            http::send(&address, &http::mcp_request(&url, Some(token), &headers, message.to_string().as_bytes()))
        };
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "bench", "version": "1"}});
        let opened = post(None, &json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}));
        let session = opened.header("mcp-session-id").unwrap_or_else(|| panic!("no session in {opened:?}")).to_owned();
        post(Some(&session), &json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        let bearer = format!("Bearer {token}");
        let headers = [
            ("Authorization", bearer.as_str()),
            ("Mcp-Session-Id", session.as_str()),
            ("Accept", "text/event-stream"),
            ("MCP-Protocol-Version", "2025-11-25"),
        ];
        let mut stream = http::Connection::open(&address);
        stream.write(&http::request("GET", &url, &headers, b""));
        assert_eq!(stream.read_head().status, 200);
        stream
    }

    /// The answer to a call.
    fn call(&self, namespace: &str, name: &str, token: &str, tool: &str) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool,
            "arguments": {"id": "1"}, "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {}}}});
        let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", tool)];
        let url = format!("http://mcp.example/{namespace}/{name}");
        let request = http::mcp_request(&url, Some(token), &headers, body.to_string().as_bytes());
        http::send(&self.address.to_string(), &request).json()
    }
}

/// Objects of a kind that the API server has.
pub(super) fn api(cluster: &Cluster, version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
    cluster.api(version, kind, Some(namespace))
}
