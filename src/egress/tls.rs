//! Whom we believe to be who they say: client TLS configurations.

use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use super::EgressError;

/// How a peer's certificate is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM certificates to trust instead of the system's.
    pub ca_pem: Option<String>,
    /// The name to verify and to send as SNI, instead of the URL's host.
    pub server_name: Option<String>,
}

/// The system's trust roots and the configuration that most peers share.
pub(super) struct Trust {
    extra: Vec<CertificateDer<'static>>,
    // Reading the system's roots takes milliseconds and megabytes, and a gateway in a cluster may never need them.
    shared: OnceLock<Option<Arc<ClientConfig>>>,
}

impl Trust {
    pub(super) fn new(extra_pem: Option<&str>) -> Result<Self, EgressError> {
        let extra = extra_pem.map(certificates).transpose()?.unwrap_or_default();
        Ok(Self { extra, shared: OnceLock::new() })
    }

    /// The configuration for a peer with `ca_pem` as its only trust, or the shared one.
    pub(super) fn config(&self, ca_pem: Option<&str>) -> Result<Arc<ClientConfig>, EgressError> {
        match ca_pem {
            Some(pem) => client_config(certificates(pem)?),
            None => self.shared.get_or_init(|| self.system_config().ok()).clone().ok_or(EgressError::NoRoots),
        }
    }

    fn system_config(&self) -> Result<Arc<ClientConfig>, EgressError> {
        let mut roots = rustls_native_certs::load_native_certs().certs;
        roots.extend(self.extra.iter().cloned());
        client_config(roots)
    }
}

fn client_config(roots: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>, EgressError> {
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(roots);
    if added == 0 {
        return Err(EgressError::CaBundle);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| EgressError::NoRoots)?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, EgressError> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|_| EgressError::CaBundle)?;
    if certificates.is_empty() { Err(EgressError::CaBundle) } else { Ok(certificates) }
}

/// The name to verify, as rustls wants it.
pub(super) fn server_name(name: &str) -> Result<ServerName<'static>, EgressError> {
    // A trailing dot makes a name absolute for the resolver; certificates never carry it.
    let bare = name.strip_suffix('.').unwrap_or(name);
    ServerName::try_from(bare.to_owned()).map_err(|_| EgressError::ServerName { name: name.to_owned() })
}
