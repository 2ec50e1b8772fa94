//! An API server with generated objects in it, a heart that beats, and one proxy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis::generated::codec::{self, Generated};
use portcullis::generated::kind::{GENERATED, OBJECT_KEY, SEALING, SEALING_LABEL, SOURCE_UID};
use portcullis::generated::report::{HEARTBEAT, REPORT, Report};
use portcullis::generated::{Authority, Collection, Policy, Server};
use portcullis::issuer::{LocalAuthority, TokenRequest};
use portcullis::manifests::{self, Limits, Remembered};
use portcullis::resolve::{self, Accepted, Observed, PublicUrl, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::gateway::{TRUST, policy, server};
use crate::support::http::{self, Response};
use crate::support::kube::{Cluster, GATEWAY, SYSTEM, api};
use crate::support::process::{Process, portcullis};
use crate::support::upstream::{Sdk, Upstream};
use crate::support::wait::until;
use crate::support::{now, runtime};

pub(super) const PUBLIC_URL: &str = "https://mcp.example";
/// How the tests write it: what ends TLS in front of the proxy is not there.
const CLEAR_URL: &str = "http://mcp.example";

/// Ana may do everything.
pub(super) const RULES: &str =
    "  - {name: ana, effect: Allow, principals: [{users: [ana]}], tools: [{patterns: [\"*\"]}]}\n";

/// What the chart gives a proxy's ServiceAccount in the gateway namespace. Nothing in any other.
pub(super) const ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: portcullis-proxy, namespace: portcullis-gateway}
rules:
# What it serves: servers (which may hold credentials), policies, authorities, sealing keys.
- {apiGroups: [\"\"], resources: [secrets, configmaps], verbs: [list, watch]}
# The controller's heartbeat.
- {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [portcullis-heartbeat], verbs: [list, watch]}
# Its report. RBAC cannot bind create to a name: a ValidatingAdmissionPolicy binds each Lease to its Pod.
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: portcullis-proxy, namespace: portcullis-gateway}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: portcullis-proxy}
subjects: [{kind: ServiceAccount, name: portcullis-proxy, namespace: portcullis-gateway}]
";

/// What still speaks to the cluster goes first: the next test gets the cluster as this one leaves it.
pub(super) struct House {
    proxy: Option<Process>,
    heart: Option<Heart>,
    pub(super) cluster: Cluster,
    pub(super) upstream: Upstream,
    pub(super) issuer: LocalAuthority,
    pub(super) server: Server,
    pub(super) policy: Policy,
    pub(super) authority: Authority,
    pub(super) kubeconfig: PathBuf,
    folder: TempDir,
}

/// What the leading controller does.
struct Heart {
    stop: CancellationToken,
    beating: JoinHandle<()>,
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop.cancel();
        // A beat that is on its way would be written into the next test's cluster; one that is not answered is left.
        let ended = async { tokio::time::timeout(Duration::from_secs(10), &mut self.beating).await.ok() };
        runtime().block_on(ended);
    }
}

impl House {
    /// A cluster with everything that a proxy needs, and no proxy yet.
    pub(super) fn build() -> Self {
        let cluster = Cluster::acquire();
        let upstream = Upstream::start(Sdk::Rmcp);
        let folder = tempfile::tempdir().unwrap();
        let generated = generate(&[TRUST, &server("items", upstream.url()), &policy("persons", "items", RULES)]);
        let (mut servers, mut policies, mut authorities) = (Vec::new(), Vec::new(), Vec::new());
        for object in generated {
            match object {
                Generated::Server(server) => servers.push(server),
                Generated::Policy(policy) => policies.push(policy),
                Generated::Authority(authority) => authorities.push(authority),
                Generated::Client(_) => panic!("manifests of a folder have no clients"),
            }
        }
        let mut authority = authorities.pop().unwrap();
        let issuer = LocalAuthority::open(&folder.path().join("issuer"), authority.issuer.clone()).unwrap();
        let keys = json!({"jwks": issuer.jwks(), "valid_until": i64::MAX});
        authority.key_set = Some(serde_json::from_value(keys).unwrap());
        cluster.apply_yaml(ROLE);
        let kubeconfig = cluster.kubeconfig_of(GATEWAY, "portcullis-proxy");
        let mut house = Self {
            cluster,
            upstream,
            issuer,
            server: servers.pop().unwrap(),
            policy: policies.pop().unwrap(),
            authority,
            kubeconfig,
            proxy: None,
            heart: None,
            folder,
        };
        house.put(&Generated::Authority(house.authority.clone()));
        house.put(&Generated::Server(house.server.clone()));
        house.put(&Generated::Policy(house.policy.clone()));
        house.seal(1, None);
        house.beat();
        house
    }

    /// With a proxy that is ready.
    pub(super) fn serve(flags: &[&str]) -> Self {
        let mut house = Self::build();
        house.start(flags);
        house.wait_ready();
        house
    }

    /// Starts the proxy as its ServiceAccount.
    pub(super) fn start(&mut self, flags: &[&str]) {
        self.start_in(&[], flags);
    }

    /// [`House::start`], with these environment variables.
    pub(super) fn start_in(&mut self, environment: &[(&str, &str)], flags: &[&str]) {
        let mut command = portcullis();
        command.envs(environment.iter().copied());
        command.args(["proxy", "--gateway-namespace", GATEWAY, "--pod-name", "gate-0", "--public-url", PUBLIC_URL]);
        command.arg("--state-dir").arg(self.folder.path().join("state"));
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--tls-terminated-before-proxy", "--allow-private-upstreams=127.0.0.0/8"]).args(flags);
        command.env("KUBECONFIG", &self.kubeconfig);
        self.proxy = Some(Process::start(command));
    }

    /// Stops it by SIGKILL.
    pub(super) fn kill(&mut self) {
        self.proxy = None;
    }

    pub(super) fn process(&self) -> &Process {
        self.proxy.as_ref().unwrap()
    }

    /// Whether it ends cleanly.
    pub(super) fn ends_cleanly(&mut self) -> bool {
        self.proxy.as_mut().unwrap().wait_exit().success()
    }

    fn said(&self, message: &str) -> SocketAddr {
        until(&format!("the proxy to say: {message}"), || {
            let lines = self.process().stderr();
            let mut lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let line = lines.find(|line| line["message"] == message || line["fields"]["message"] == message)?;
            let fields = if line["address"].is_string() { &line } else { &line["fields"] };
            Some(fields["address"].as_str().unwrap().parse().unwrap())
        })
    }

    pub(super) fn address(&self) -> String {
        self.said("serving").to_string()
    }

    fn admin(&self, path: &str) -> Response {
        http::get(&format!("http://{}{path}", self.said("health and metrics are shown")), &[])
    }

    /// `/readyz`: whether it is ready, and its report.
    pub(super) fn readyz(&self) -> (bool, Value) {
        let response = self.admin("/readyz");
        (response.status == 200, response.json())
    }

    pub(super) fn wait_ready(&self) {
        until("the proxy to be ready", || self.readyz().0.then_some(()));
    }

    pub(super) fn metrics(&self) -> String {
        self.admin("/metrics").text()
    }

    /// A metric without labels.
    pub(super) fn metric(&self, name: &str) -> i64 {
        let metrics = self.metrics();
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("portcullis_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
    }

    /// The bytes of a call of `items` in the 2026 line.
    pub(super) fn call_bytes(token: &str, tool: &str) -> Vec<u8> {
        let params = json!({"name": tool, "arguments": {}});
        http::request_2026(&format!("{CLEAR_URL}/default/items"), Some(token), "tools/call", &params)
    }

    pub(super) fn call(&self, token: &str) -> Response {
        http::send(&self.address(), &Self::call_bytes(token, "echo"))
    }

    pub(super) fn is_allowed(&self, token: &str) -> bool {
        let answer = self.call(token);
        answer.status == 200 && answer.json().get("result").is_some_and(|result| result["isError"] != true)
    }

    pub(super) fn wait_allowed(&self, token: &str) {
        until("a call to be allowed", || self.is_allowed(token).then_some(()));
    }

    /// Waits until a call finds no tool: nothing grants it, or everything is denied.
    pub(super) fn wait_denied(&self, token: &str) {
        until("a call to be denied", || {
            let answer = self.call(token);
            (answer.status == 200 && answer.json()["error"]["code"] == -32602).then_some(())
        });
    }

    /// GETs a public document.
    pub(super) fn get(&self, path: &str) -> Response {
        http::send(&self.address(), &http::request("GET", &format!("{CLEAR_URL}{path}"), &[], b""))
    }

    /// Posts a message in the 2025 line.
    pub(super) fn post(&self, token: &str, session: Option<&str>, message: &Value) -> Response {
        let mut headers = vec![("MCP-Protocol-Version", "2025-11-25")];
        headers.extend(session.map(|id| ("Mcp-Session-Id", id)));
        let url = format!("{CLEAR_URL}/default/items");
        http::send(&self.address(), &http::mcp_request(&url, Some(token), &headers, message.to_string().as_bytes()))
    }

    /// Opens a session of the 2025 line, and gives its id.
    pub(super) fn session(&self, token: &str) -> String {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "wire", "version": "1"}});
        let opened =
            self.post(token, None, &json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}));
        let id = opened.header("mcp-session-id").unwrap_or_else(|| panic!("no session in {opened:?}")).to_owned();
        self.post(token, Some(&id), &json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        id
    }

    /// A token of the local authority.
    pub(super) fn token(&self, person: &str) -> String {
        self.issue(person).0
    }

    /// A token of the local authority, and its id.
    pub(super) fn issue(&self, person: &str) -> (String, String) {
        let request = TokenRequest {
            subject: person.to_owned(),
            audiences: vec![self.server.resource.clone()],
            client_id: "tests".to_owned(),
            groups: Vec::new(),
            scopes: Vec::new(),
            lifetime_seconds: 600,
            label: None,
        };
        let issued = self.issuer.issue(&request, i64::try_from(now()).unwrap()).unwrap();
        (issued.token.expose().to_owned(), issued.record.jti)
    }

    /// Writes a generated object, and gives its resource version.
    pub(super) fn put(&self, object: &Generated) -> u64 {
        let (kind, id) = object.identity();
        self.put_as(&kind.object_name(&id.uid), kind.label(), kind.collection(), &codec::encode(object).unwrap())
    }

    /// Writes an object of any name, label and content.
    pub(super) fn put_as(&self, name: &str, label: &str, collection: Collection, content: &[u8]) -> u64 {
        let (api_kind, content) = match collection {
            Collection::Secrets => ("Secret", STANDARD.encode(content)),
            Collection::ConfigMaps => ("ConfigMap", String::from_utf8(content.to_vec()).unwrap()),
        };
        let uid = name.split_once('-').map_or(name, |(_, uid)| uid);
        let written = self.cluster.apply(&json!({"apiVersion": "v1", "kind": api_kind,
            "metadata": {"name": name, "namespace": GATEWAY, "labels": {GENERATED: label, SOURCE_UID: uid}},
            "data": {OBJECT_KEY: content}}));
        written.metadata.resource_version.unwrap().parse().unwrap()
    }

    /// Removes a generated object.
    pub(super) fn remove(&self, object: &Generated) {
        let (kind, id) = object.identity();
        let api_kind = if kind.collection() == Collection::Secrets { "Secret" } else { "ConfigMap" };
        self.cluster.delete("v1", api_kind, Some(GATEWAY), &kind.object_name(&id.uid));
    }

    /// Writes sealing keys, each of one byte repeated.
    pub(super) fn seal(&self, current: u8, previous: Option<u8>) {
        let key = |byte| STANDARD.encode([byte; portcullis::seal::KEY_BYTES]);
        let mut data = json!({"current": key(current)});
        if let Some(previous) = previous {
            data["previous"] = key(previous).into();
        }
        self.cluster.apply(&json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": SEALING, "namespace": GATEWAY, "labels": {GENERATED: SEALING_LABEL}}, "data": data}));
    }

    /// The controller lives from now on.
    pub(super) fn beat(&mut self) {
        let stop = CancellationToken::new();
        let client = self.cluster.client();
        runtime().block_on(write_heartbeat(&client, jiff::Timestamp::now())).unwrap();
        let stopped = stop.clone();
        let beating = runtime().spawn(async move {
            while !stopped.is_cancelled() {
                // While the API server is away there is nobody to tell.
                write_heartbeat(&client, jiff::Timestamp::now()).await.ok();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        self.heart = Some(Heart { stop, beating });
    }

    /// The controller is dead from now on: no beat of its is on its way any more.
    pub(super) fn stop_beating(&mut self) {
        drop(self.heart.take());
    }

    /// Writes a heartbeat of this time.
    pub(super) fn beat_at(&self, time: jiff::Timestamp) {
        runtime().block_on(write_heartbeat(&self.cluster.client(), time)).unwrap();
    }

    /// The proxy's Lease.
    pub(super) fn lease(&self) -> Option<Value> {
        self.cluster.get("coordination.k8s.io/v1", "Lease", Some(GATEWAY), "proxy-gate-0")
    }

    /// What the proxy last reported.
    pub(super) fn report(&self) -> Report {
        let lease = until("the proxy to report", || self.lease());
        serde_json::from_str(lease["metadata"]["annotations"][REPORT].as_str().unwrap()).unwrap()
    }

    /// Waits for a report that says something.
    pub(super) fn wait_report(&self, what: &str, says: impl Fn(&Report) -> bool) -> Report {
        until(&format!("a report of {what}"), || Some(self.report()).filter(&says))
    }
}

async fn write_heartbeat(client: &kube::Client, time: jiff::Timestamp) -> kube::Result<()> {
    let leases = api(client, "coordination.k8s.io/v1", "Lease", Some(GATEWAY));
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": HEARTBEAT, "namespace": GATEWAY}, "spec": {"renewTime": format!("{time:.6}")}});
    let apply = kube::api::PatchParams::apply("heart").force();
    leases.patch(HEARTBEAT, &apply, &kube::api::Patch::Apply(lease)).await.map(drop)
}

/// What the controller would generate of manifests.
pub(super) fn generate(manifests: &[&str]) -> Vec<Generated> {
    let folder = tempfile::tempdir().unwrap();
    for (number, text) in manifests.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{number}.yaml")), text).unwrap();
    }
    let scan = manifests::scan(&[folder.path().to_owned()], &Limits::default(), None);
    let merged = manifests::merge(&Remembered::default(), &scan);
    let public_url = PublicUrl::parse(PUBLIC_URL).unwrap();
    let settings = Settings { public_url: &public_url, system_namespace: SYSTEM, cluster: None };
    let resolution = resolve::tree(
        &settings,
        &merged.objects,
        &merged.invalid,
        merged.unreadable,
        &Accepted::default(),
        Observed::default(),
    );
    assert!(resolution.findings.is_empty(), "{:?}", resolution.findings);
    resolution.generated
}

/// One policy of [`generate`].
pub(super) fn generated_policy(name: &str, rules: &str) -> Generated {
    let generated = generate(&[TRUST, &server("items", "http://127.0.0.1:1/mcp"), &policy(name, "items", rules)]);
    generated.into_iter().find(|object| matches!(object, Generated::Policy(_))).unwrap()
}
