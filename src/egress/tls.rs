//! Whom we believe to be who they say: client TLS configurations.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use rustls::client::Resumption;
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
    // By CA bundle, for as long as a server uses it: thousands of servers typically name the same one.
    bundles: Mutex<HashMap<String, Weak<ClientConfig>>>,
}

/// TLS sessions kept for resumption: the store is allocated whole, and one per CA bundle exists.
const SHARED_SESSIONS: usize = 256;
const OWN_SESSIONS: usize = 16;

impl Trust {
    pub(super) fn new(extra_pem: Option<&str>) -> Result<Self, EgressError> {
        let extra = extra_pem.map(certificates).transpose()?.unwrap_or_default();
        Ok(Self { extra, shared: OnceLock::new(), bundles: Mutex::default() })
    }

    /// The configuration for peers without a CA bundle of their own. The first call reads the system's roots.
    pub(super) fn shared(&self) -> Result<Arc<ClientConfig>, EgressError> {
        self.shared.get_or_init(|| self.system_config().ok()).clone().ok_or(EgressError::NoRoots)
    }

    /// The configuration for peers that only `pem` vouches for.
    pub(super) fn own(&self, pem: &str) -> Result<Arc<ClientConfig>, EgressError> {
        let mut bundles = self.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = bundles.get(pem).and_then(Weak::upgrade) {
            return Ok(config);
        }
        let config = client_config(certificates(pem)?, OWN_SESSIONS)?;
        bundles.retain(|_, config| config.strong_count() > 0);
        bundles.insert(pem.to_owned(), Arc::downgrade(&config));
        Ok(config)
    }

    fn system_config(&self) -> Result<Arc<ClientConfig>, EgressError> {
        let mut roots = rustls_native_certs::load_native_certs().certs;
        roots.extend(self.extra.iter().cloned());
        client_config(roots, SHARED_SESSIONS)
    }
}

fn client_config(roots: Vec<CertificateDer<'static>>, sessions: usize) -> Result<Arc<ClientConfig>, EgressError> {
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
    config.resumption = Resumption::in_memory_sessions(sessions);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bundle_is_one_configuration_for_as_long_as_it_is_used() {
        let pem = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem();
        let (one, two) = (pem("one.example"), pem("two.example"));
        let trust = Trust::new(None).unwrap();
        let first = trust.own(&one).unwrap();
        assert!(Arc::ptr_eq(&first, &trust.own(&one).unwrap()));
        let second = trust.own(&two).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        drop((first, second));
        let again = trust.own(&one).unwrap();
        assert_eq!(trust.bundles.lock().unwrap().len(), 1);
        drop(again);
    }
}
