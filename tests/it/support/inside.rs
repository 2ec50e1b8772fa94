//! A gateway in this process, for limits that the binary's defaults would make a test wait for.

use std::fs;
use std::net::SocketAddr;

use portcullis::egress::{self, AllowPrivate};
use portcullis::proxy::config::Limits;
use portcullis::roles::serving;
use portcullis::roles::standalone::{Options, Standalone};
use tempfile::TempDir;

use super::{gateway, runtime};

/// A running gateway. Dropping it ends it.
pub(crate) struct Inside {
    running: Option<Standalone>,
    address: SocketAddr,
    folder: TempDir,
}

impl Inside {
    /// Serves these files (name, content) within `limits`.
    pub(crate) fn start(manifests: &[(&str, &str)], limits: Limits) -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("manifests")).unwrap();
        for (name, content) in manifests {
            fs::write(folder.path().join("manifests").join(name), content).unwrap();
        }
        let options = Options {
            manifests: vec![folder.path().join("manifests")],
            system_namespace: "portcullis-system".to_owned(),
            trust_every: portcullis::roles::standalone::TRUST_EVERY,
            serving: serving::Options {
                state_dir: folder.path().join("state"),
                listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                public_url: None,
                admin_listen: None,
                admin_hosts: Vec::new(),
                tls: None,
                tls_terminated_before_proxy: false,
                allowed_origins: Vec::new(),
                egress: egress::Policy {
                    allow_private: "127.0.0.0/8".parse::<AllowPrivate>().unwrap(),
                    ..egress::Policy::default()
                },
                audit_stdout: false,
                audit_segment_bytes: 16 << 20,
                audit_max_bytes: 1 << 30,
                limits,
            },
        };
        let running = runtime().block_on(Standalone::start(options)).unwrap();
        Self { address: running.serving().address(), running: Some(running), folder }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// The URL of `/default/NAME`.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}/default/{name}", self.address)
    }

    /// A token of the local issuer.
    pub(crate) fn token(&self, person: &str, server: &str) -> String {
        let (manifests, state) = (self.folder.path().join("manifests"), self.folder.path().join("state"));
        gateway::issue(&manifests, &state, person, server, &[]).0
    }

    pub(crate) fn journal(&self) -> std::path::PathBuf {
        self.folder.path().join("state/journal")
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.serving().drain().start();
            running.serving().drain().abort();
            runtime().block_on(running.into_serving().finish());
        }
    }
}
