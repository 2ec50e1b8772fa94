//! The cluster, and what every test does with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::testbed;

/// Where the release is installed.
pub(crate) const SYSTEM: &str = "portcullis-system";
/// Where its proxies run.
pub(crate) const GATEWAY: &str = "portcullis-gateway";

/// What the tests were given by `hack/cluster/test`.
pub(crate) struct World {
    assets: PathBuf,
    kubeconfig: PathBuf,
    pub(crate) image: String,
    /// The address of the Service that the proxies get.
    pub(crate) address: String,
    folder: TempDir,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test-cluster`"))
}

impl World {
    pub(crate) fn get() -> &'static Self {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(|| {
            let mut world = Self {
                assets: variable("PORTCULLIS_ASSETS").into(),
                kubeconfig: variable("KUBECONFIG").into(),
                image: variable("PORTCULLIS_IMAGE"),
                address: String::new(),
                folder: tempfile::tempdir().unwrap(),
            };
            world.address = world.free_address();
            world.make_certificate();
            world
        })
    }

    /// The gateway's URL: an address and no name, so that every client finds it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Whether the cluster makes volumes by itself.
    pub(crate) fn provisions(&self) -> bool {
        !self.kubectl(&["get", "storageclasses", "-o", "name"]).is_empty()
    }

    /// In the range of Services, beside the cluster's DNS.
    fn free_address(&self) -> String {
        let dns =
            self.kubectl(&["get", "service", "-n", "kube-system", "kube-dns", "-o", "jsonpath={.spec.clusterIP}"]);
        let (network, _) = dns.rsplit_once('.').unwrap();
        format!("{network}.77")
    }

    /// A certificate of the gateway's address, which the stock clients trust from now on.
    fn make_certificate(&self) {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut authority = CertificateParams::default();
        // Another name than the leaf's default one: who issues itself is taken for self-signed.
        authority.distinguished_name.push(DnType::CommonName, "the tests' certificate authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = authority.self_signed(&ca_key).unwrap();
        let issuer = Issuer::from_params(&authority, &ca_key);
        let leaf = CertificateParams::new(vec![self.address.clone()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(self.file("ca.pem"), ca.pem()).unwrap();
        std::fs::write(self.file("tls.crt"), leaf.pem()).unwrap();
        std::fs::write(self.file("tls.key"), key.serialize_pem()).unwrap();
        testbed::trust(&self.file("ca.pem"));
    }

    /// A command with the tests' kubectl on its PATH.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.assets.display())).env("KUBECONFIG", &self.kubeconfig);
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Output {
        self.command(self.assets.join("kubectl")).args(arguments).output().unwrap()
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        said("kubectl", arguments, &self.try_kubectl(arguments))
    }

    pub(crate) fn helm(&self, arguments: &[&str]) -> String {
        let output = self.command(self.assets.join("helm")).args(arguments).output().unwrap();
        said("helm", arguments, &output)
    }

    /// Applies manifests as people do.
    pub(crate) fn apply(&self, name: &str, yaml: &str) {
        let file = self.file(name);
        std::fs::write(&file, yaml).unwrap();
        self.kubectl(&["apply", "--server-side", "-f", file.to_str().unwrap()]);
    }

    /// What a verb of `kubectl portcullis` prints.
    pub(crate) fn plugin(&self, arguments: &[&str]) -> Output {
        use std::os::unix::process::CommandExt as _;
        let mut command = self.command(env!("CARGO_BIN_EXE_portcullis"));
        command.arg0("kubectl-portcullis").args(arguments).output().unwrap()
    }

    /// Objects of a kind, as JSON.
    pub(crate) fn list(&self, kind: &str, namespace: &str) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.kubectl(&["get", kind, "-n", namespace, "-o", "json"])).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// Everything that helps to understand a failure.
    pub(crate) fn tell(&self) {
        for arguments in [
            &["get", "pods,events", "-A", "-o", "wide"][..],
            &["get", "mcpauthorizationservers,mcpservers,mcppolicies,mcpclients", "-A", "-o", "yaml"],
            &["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/component=controller", "--tail=40", "--prefix"],
            &["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/component=webhook", "--tail=40", "--prefix"],
            &["logs", "-n", GATEWAY, "-l", "app.kubernetes.io/component=proxy", "--tail=40", "--prefix"],
        ] {
            let output = self.try_kubectl(arguments);
            eprintln!("--- kubectl {arguments:?}\n{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}

fn said(program: &str, arguments: &[&str], output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {stdout}{stderr}");
    stdout.into_owned()
}
