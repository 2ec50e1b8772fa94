//! A real API server: etcd and kube-apiserver with our CustomResourceDefinitions, one test at a time.
//!
//! Servers are kept for the next test and emptied in between, since one takes five seconds to start. No controller manager
//! runs: nothing collects garbage, makes default ServiceAccounts, or takes namespaces down; what a test needs of that it
//! does itself. Everything ends with the test process, however that ends.

mod empty;
pub(crate) mod front;
mod lag;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use kube::api::{Api, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Client, Config};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::daemon::Daemon;
use super::ports::free_port;
use super::wait::{until, until_within};
use super::{now, runtime};

/// The namespace of controller and guardrails.
pub(crate) const SYSTEM: &str = "portcullis-system";
/// The namespace of proxies and generated objects.
pub(crate) const GATEWAY: &str = "portcullis-gateway";

/// An API server that is this test's alone, with [`SYSTEM`] and [`GATEWAY`] in it.
pub(crate) struct Cluster {
    server: Option<Server>,
    /// How long the API server's audit log was before this test: what others did is none of its matter.
    others_audited: u64,
}

/// Servers that wait for the next test.
static IDLE: Mutex<Vec<Server>> = Mutex::new(Vec::new());

/// One request that changed something, as the API server's audit log has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Write {
    pub(crate) verb: String,
    pub(crate) user: String,
    /// `resource` or `resource/subresource`.
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Cluster {
    /// An empty API server.
    pub(crate) fn acquire() -> Self {
        let idle = IDLE.lock().unwrap().pop();
        let server = match idle {
            Some(server) => {
                runtime().block_on(empty::empty(&server.client));
                server
            }
            None => Server::start(),
        };
        let mut cluster = Self { server: Some(server), others_audited: 0 };
        for namespace in [SYSTEM, GATEWAY] {
            cluster.namespace(namespace, &[]);
            cluster.wait_open(namespace);
        }
        cluster.others_audited = std::fs::metadata(cluster.server().audit_log()).map_or(0, |log| log.len());
        cluster
    }

    /// Waits until the namespace takes objects: whoever admits them may still see one of that name going.
    fn wait_open(&self, namespace: &str) {
        let probe =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe", "namespace": namespace}});
        let probe: DynamicObject = serde_json::from_value(probe).unwrap();
        let (api, dry) = (self.api_of(&probe), PostParams { dry_run: true, ..PostParams::default() });
        until(&format!("namespace {namespace} to take objects"), || runtime().block_on(api.create(&dry, &probe)).ok());
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// A client of cluster administrators, good on [`runtime`].
    pub(crate) fn client(&self) -> Client {
        self.server().client.clone()
    }

    /// A kubeconfig of cluster administrators.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.server().folder.path().join("admin.kubeconfig")
    }

    /// A client that acts as somebody else.
    pub(crate) fn as_user(&self, user: &str, groups: &[&str]) -> Client {
        let _inside = runtime().enter();
        let mut config = self.server().config();
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_groups = Some(groups.iter().map(|group| (*group).to_owned()).collect());
        Client::try_from(config).unwrap()
    }

    /// A kubeconfig of a ServiceAccount, with a token of an hour. The account is made if it is not there.
    pub(crate) fn kubeconfig_of(&self, namespace: &str, account: &str) -> PathBuf {
        self.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"namespace": namespace, "name": account}}));
        let token = self.service_account_token(namespace, account, &[]);
        self.server().write_kubeconfig(&format!("{namespace}.{account}"), &token, namespace)
    }

    /// A token of a ServiceAccount for some audiences (none: the API server's own).
    pub(crate) fn service_account_token(&self, namespace: &str, account: &str, audiences: &[&str]) -> String {
        let url = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": audiences, "expirationSeconds": 3600}});
        let request = http::Request::post(url).body(serde_json::to_vec(&request).unwrap()).unwrap();
        let made: Value = runtime().block_on(self.client().request(request)).unwrap();
        made["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Runs kubectl as an administrator.
    pub(crate) fn try_kubectl(&self, arguments: &[&str], stdin: Option<&str>) -> Output {
        let mut command = Command::new(assets().join("kubectl"));
        command.args(arguments).env("KUBECONFIG", self.kubeconfig()).env("HOME", self.server().folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut pipe, stdin.unwrap_or_default().as_bytes()).unwrap();
        drop(pipe);
        child.wait_with_output().unwrap()
    }

    /// [`Cluster::try_kubectl`], which must succeed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.try_kubectl(arguments, None);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "kubectl {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Applies YAML as people do, with server-side apply.
    pub(crate) fn apply_yaml(&self, yaml: &str) {
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        let output = self.try_kubectl(&arguments, Some(yaml));
        assert!(output.status.success(), "{}\n{yaml}", String::from_utf8_lossy(&output.stderr));
    }

    /// Applies one object, as JSON, without the detour over kubectl.
    pub(crate) fn apply(&self, object: &Value) -> DynamicObject {
        self.apply_as("tests", object)
    }

    /// The same, by somebody else: what one leaves out next time is not taken away from the other.
    pub(crate) fn apply_as(&self, manager: &str, object: &Value) -> DynamicObject {
        let applied = runtime().block_on(self.try_apply_as(manager, object));
        applied.unwrap_or_else(|error| panic!("{error}: {object}"))
    }

    /// [`Cluster::apply`], for objects that may be refused.
    pub(crate) async fn try_apply(&self, object: &Value) -> kube::Result<DynamicObject> {
        self.try_apply_as("tests", object).await
    }

    async fn try_apply_as(&self, manager: &str, object: &Value) -> kube::Result<DynamicObject> {
        let typed: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        let api = self.api_of(&typed);
        let name = typed.metadata.name.clone().unwrap();
        api.patch(&name, &kube::api::PatchParams::apply(manager).force(), &kube::api::Patch::Apply(&typed)).await
    }

    fn api_of(&self, object: &DynamicObject) -> Api<DynamicObject> {
        let types = object.types.clone().unwrap();
        self.api(&types.api_version, &types.kind, object.metadata.namespace.as_deref())
    }

    /// Objects of a kind, in a namespace, or in all of them (or cluster-scoped) without one.
    pub(crate) fn api(&self, api_version: &str, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        api(&self.client(), api_version, kind, namespace)
    }

    /// An object as JSON, if it is there.
    pub(crate) fn get(&self, api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Option<Value> {
        let found = runtime().block_on(self.api(api_version, kind, namespace).get_opt(name)).unwrap();
        found.map(|object| serde_json::to_value(object).unwrap())
    }

    /// All objects of a kind as JSON.
    pub(crate) fn list(&self, api_version: &str, kind: &str, namespace: Option<&str>) -> Vec<Value> {
        let found = runtime().block_on(self.api(api_version, kind, namespace).list(&Default::default())).unwrap();
        found.items.into_iter().map(|object| serde_json::to_value(object).unwrap()).collect()
    }

    /// Deletes an object; it may be gone already.
    pub(crate) fn delete(&self, api_version: &str, kind: &str, namespace: Option<&str>, name: &str) {
        match runtime().block_on(self.api(api_version, kind, namespace).delete(name, &Default::default())) {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("cannot delete {kind} {name}: {error}"),
        }
    }

    /// A namespace with these labels.
    pub(crate) fn namespace(&self, name: &str, labels: &[(&str, &str)]) {
        let labels: serde_json::Map<String, Value> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}));
    }

    /// The API server's audit log of this test: every request that would change something, once it was answered.
    pub(crate) fn audited(&self) -> Vec<Value> {
        let Ok(mut file) = File::open(self.server().audit_log()) else { return Vec::new() };
        file.seek(SeekFrom::Start(self.others_audited)).unwrap();
        let mut log = String::new();
        file.read_to_string(&mut log).unwrap();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Everything that was written in this test, in order. Take it twice to see what happened in between.
    pub(crate) fn writes(&self) -> Vec<Write> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let entries = self.audited().into_iter();
        let written = entries.filter(|entry| entry["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300));
        written
            .map(|entry| {
                let object = &entry["objectRef"];
                let mut resource = text(&object["resource"]);
                if let Some(below) = object["subresource"].as_str() {
                    write!(resource, "/{below}").unwrap();
                }
                let user = entry["impersonatedUser"]["username"].as_str().or(entry["user"]["username"].as_str());
                Write {
                    verb: text(&entry["verb"]),
                    user: user.unwrap_or_default().to_owned(),
                    resource,
                    namespace: text(&object["namespace"]),
                    name: text(&object["name"]),
                }
            })
            .collect()
    }

    /// Stops the API server as a crash would; etcd stays.
    pub(crate) fn stop(&mut self) {
        self.server.as_mut().unwrap().api_server = None;
    }

    /// Starts it again, at the same address. Its watch cache begins anew, so whoever goes on from before gets 410.
    pub(crate) fn start(&mut self) {
        self.server.as_mut().unwrap().start_api_server();
    }

    /// Freezes the API server: connections stay open and nothing is answered, as behind a broken network.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.server().api_server.as_ref().unwrap().signal(if frozen { "STOP" } else { "CONT" });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let server = self.server.take().unwrap();
        if std::thread::panicking() {
            eprintln!("--- the end of the API server's log\n{}", server.last_words());
        } else if server.api_server.is_some() {
            IDLE.lock().unwrap().push(server);
        }
    }
}

/// Objects of a kind. The plural is Kubernetes' usual one.
pub(crate) fn api(client: &Client, api_version: &str, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// The folder with kube-apiserver, etcd, kubectl and helm. Builds them when they are missing; panics with the installer's
/// own words when that cannot be done, because a skipped test would look like a passed one.
pub(crate) fn assets() -> &'static Path {
    static ASSETS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let install = || super::testbed::run_installer("hack/testbed/kube/install");
    match ASSETS.get_or_init(install) {
        Ok(folder) => folder,
        Err(why) => panic!("the API server is not there:\n{why}"),
    }
}

/// etcd and kube-apiserver.
struct Server {
    api_server: Option<Daemon>,
    /// After the API server, so that it ends later; it removes the folder.
    _etcd: Daemon,
    client: Client,
    port: u16,
    etcd: String,
    authority: String,
    folder: Folder,
}

/// A folder that outlives the process by a moment: what ends last removes it.
struct Folder(PathBuf);

impl Folder {
    fn path(&self) -> &Path {
        &self.0
    }
}

/// An API server starts with seconds of a core's work, which others want as well.
const SLOW: Duration = Duration::from_secs(300);
const ADMIN: &str = "the-administrators-token";
/// The cores are what is short, and these servers live for minutes: garbage is collected once there is much of it, not each
/// time the small heap has doubled, and nobody looks for work on a second core, which costs a fifth more and finds it taken.
fn thrifty(command: &mut Command, mebibytes: u32) {
    command.env("GOGC", "off").env("GOMEMLIMIT", format!("{mebibytes}MiB")).env("GOMAXPROCS", "1");
}

impl Server {
    fn start() -> Self {
        let folder = Folder(TempDir::with_prefix("portcullis-kube-").unwrap().keep());
        let authority = certificates(folder.path());
        let (etcd, address) = start_etcd(folder.path());
        let port = free_port();
        let mut config = Config::new(format!("https://127.0.0.1:{port}").parse().unwrap());
        config.root_cert = Some(vec![pem_body(&authority)]);
        config.auth_info.token = Some(ADMIN.to_owned().into());
        let client = {
            let _inside = runtime().enter();
            drop(portcullis_provider());
            Client::try_from(config).unwrap()
        };
        let mut server = Self { api_server: None, _etcd: etcd, client, port, etcd: address, authority, folder };
        server.write_kubeconfig("admin", ADMIN, "default");
        server.start_api_server();
        server.install_crds();
        server
    }

    fn audit_log(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    fn config(&self) -> Config {
        let mut config = Config::new(format!("https://127.0.0.1:{}", self.port).parse().unwrap());
        config.root_cert = Some(vec![pem_body(&self.authority)]);
        config.auth_info.token = Some(ADMIN.to_owned().into());
        config
    }

    fn start_api_server(&mut self) {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        std::fs::write(self.folder.path().join("tokens.csv"), format!("{ADMIN},admin,admin,system:masters\n")).unwrap();
        std::fs::write(self.folder.path().join("audit.yaml"), AUDIT_POLICY).unwrap();
        let mut command = Command::new(assets().join("kube-apiserver"));
        command.args([
            format!("--etcd-servers={}", self.etcd),
            format!("--secure-port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
            // Would refuse Pods without a default ServiceAccount, which nobody makes here.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--enable-priority-and-fairness=false".to_owned(),
            format!("--tls-cert-file={}", at("server.pem")),
            format!("--tls-private-key-file={}", at("server.key")),
            format!("--token-auth-file={}", at("tokens.csv")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={}", at("accounts.pub")),
            format!("--service-account-signing-key-file={}", at("accounts.key")),
            format!("--audit-policy-file={}", at("audit.yaml")),
            format!("--audit-log-path={}", self.audit_log().display()),
            // It is read from a place on, so it is not begun anew.
            "--audit-log-maxsize=100000".to_owned(),
        ]);
        thrifty(&mut command, 512);
        let mut daemon = Daemon::start(command, &self.folder.path().join("kube-apiserver.log"), None);
        until_within(SLOW, "the API server to be ready", || {
            assert!(!daemon.has_ended(), "kube-apiserver ended: {}", self.last_words());
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            runtime().block_on(self.client.request_text(request)).ok().filter(|text| text == "ok").map(drop)
        });
        self.api_server = Some(daemon);
    }

    fn install_crds(&self) {
        let crds = portcullis::api::crd::all();
        let mut served: BTreeSet<String> = BTreeSet::new();
        runtime().block_on(async {
            let api: Api<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> =
                Api::all(self.client.clone());
            for crd in &crds {
                api.create(&PostParams::default(), crd).await.unwrap();
                served.insert(crd.spec.names.plural.clone());
            }
        });
        until_within(SLOW, "our kinds to be served", || {
            let request = http::Request::get("/apis/portcullis.dev/v1alpha1").body(Vec::new()).unwrap();
            let list: Value = runtime().block_on(self.client.request(request)).ok()?;
            let found = |plural: &String| list["resources"].as_array().unwrap().iter().any(|r| r["name"] == **plural);
            served.iter().all(found).then_some(())
        });
    }

    fn write_kubeconfig(&self, name: &str, token: &str, namespace: &str) -> PathBuf {
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.folder.path().join("ca.pem")}}],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": namespace}}]});
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("kube-apiserver.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// Only what writes, once it is done.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, verbs: [create, update, patch, delete, deletecollection]}
- {level: None}
";

fn portcullis_provider() -> Result<(), std::sync::Arc<rustls::crypto::CryptoProvider>> {
    rustls::crypto::aws_lc_rs::default_provider().install_default()
}

/// A certificate authority, the server's certificate, and the key of ServiceAccount tokens. Returns the authority, PEM.
fn certificates(folder: &Path) -> String {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let (ca_key, key, accounts) =
        (KeyPair::generate().unwrap(), KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, format!("tests {}", now()));
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = authority.self_signed(&ca_key).unwrap();
    let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned).to_vec();
    let issuer = Issuer::from_params(&authority, &ca_key);
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    for (name, content) in [
        ("ca.pem", ca.pem()),
        ("server.pem", certificate.pem()),
        ("server.key", key.serialize_pem()),
        ("accounts.key", accounts.serialize_pem()),
        ("accounts.pub", accounts.public_key_pem()),
    ] {
        std::fs::write(folder.join(name), content).unwrap();
    }
    ca.pem()
}

fn pem_body(pem: &str) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

/// etcd over a folder below `folder`, which it removes when it ends. Tried on other ports while they are taken.
fn start_etcd(folder: &Path) -> (Daemon, String) {
    for _ in 0..5 {
        let (clients, peers) =
            (format!("http://127.0.0.1:{}", free_port()), format!("http://127.0.0.1:{}", free_port()));
        let mut command = Command::new(assets().join("etcd"));
        thrifty(&mut command, 256);
        command.arg(format!("--data-dir={}", folder.join("etcd").display())).arg("--unsafe-no-fsync");
        command.args([format!("--listen-client-urls={clients}"), format!("--advertise-client-urls={clients}")]);
        command.args([format!("--listen-peer-urls={peers}"), format!("--initial-advertise-peer-urls={peers}")]);
        command.arg(format!("--initial-cluster=default={peers}"));
        let mut daemon = Daemon::start(command, &folder.join("etcd.log"), Some(folder));
        let address = clients.trim_start_matches("http://").to_owned();
        let up = until_within(SLOW, "etcd to listen", || {
            if std::net::TcpStream::connect(&address).is_ok() {
                Some(true)
            } else {
                daemon.has_ended().then_some(false)
            }
        });
        if up {
            return (daemon, clients);
        }
    }
    panic!("etcd does not start: {}", std::fs::read_to_string(folder.join("etcd.log")).unwrap_or_default());
}
