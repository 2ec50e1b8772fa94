//! The certificate of a server of ours.
//!
//! Invariant: certificate and key are replaced together, and only by a pair that belongs together: until a new pair is
//! whole and readable the last good one serves. Changes are found by comparing contents, since the file watches that
//! others use miss the way in which Kubernetes swaps Secret volumes.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Why a certificate could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("{path} cannot be read: {detail}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        detail: String,
    },
    /// The certificate file holds no PEM certificate.
    #[error("{path} holds no readable PEM certificate", path = path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
    },
    /// The key file holds no PEM private key.
    #[error("{path} holds no readable PEM private key", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The two do not belong together, or the key is of a kind that is not supported.
    #[error("the key in {path} does not belong to the certificate or is of an unsupported kind", path = path.display())]
    Pair {
        /// The key file.
        path: PathBuf,
    },
    /// The TLS library refused the configuration.
    #[error("no TLS protocol version is available")]
    Versions,
}

impl TlsError {
    /// A stable word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            TlsError::Read { .. } => "TlsFileUnreadable",
            TlsError::Certificate { .. } => "TlsCertificateInvalid",
            TlsError::Key { .. } => "TlsKeyInvalid",
            TlsError::Pair { .. } => "TlsPairMismatch",
            TlsError::Versions => "TlsVersions",
        }
    }
}

/// A server's certificate, reloaded when its files change. Clones share it.
#[derive(Clone, Debug)]
pub struct ServerTls {
    certificate: PathBuf,
    key: PathBuf,
    current: Arc<Current>,
    config: Arc<ServerConfig>,
}

#[derive(Debug)]
struct Current(ArcSwap<Loaded>);

#[derive(Debug)]
struct Loaded {
    pair: Arc<CertifiedKey>,
    // Of both files: enough to see a change without keeping a second copy of the key.
    digest: [u8; 32],
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().pair.clone())
    }
}

impl ServerTls {
    /// Loads certificate chain and key from PEM files, offering HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// If a file is unreadable or the two do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (certificate_pem, key_pem) = (read(certificate)?, read(key)?);
        let loaded = parse(&certificate_pem, &key_pem, certificate, key, &provider)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(loaded)));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| TlsError::Versions)?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { certificate: certificate.into(), key: key.into(), current, config: Arc::new(config) })
    }

    /// Accepts connections with whatever pair is current at each handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.clone())
    }

    /// The chain that serves now, its own certificate first.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.current.0.load().pair.cert.clone()
    }

    /// Reads the files again; `true` if they changed and the new pair serves from now on.
    ///
    /// # Errors
    /// If the new contents are unusable; the last good pair then goes on serving.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let (certificate_pem, key_pem) = (read(&self.certificate)?, read(&self.key)?);
        if digest_of(&certificate_pem, &key_pem) == self.current.0.load().digest {
            return Ok(false);
        }
        let loaded = parse(&certificate_pem, &key_pem, &self.certificate, &self.key, self.config.crypto_provider())?;
        self.current.0.store(Arc::new(loaded));
        Ok(true)
    }

    /// Reloads every `interval` until `stop`; problems are logged once each time they change.
    pub async fn watch(self, interval: Duration, stop: CancellationToken) {
        let mut last_problem = "";
        while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            match self.reload() {
                Ok(changed) => {
                    if changed {
                        tracing::info!(certificate = %self.certificate.display(), "TLS certificate reloaded");
                    }
                    last_problem = "";
                }
                Err(error) => {
                    if error.reason() != last_problem {
                        tracing::error!(reason = error.reason(), %error, "TLS certificate not reloaded; the last one serves");
                    }
                    last_problem = error.reason();
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| {
        let detail = match error.kind() {
            ErrorKind::NotFound => "there is no such file".to_owned(),
            kind => kind.to_string(),
        };
        TlsError::Read { path: path.into(), detail }
    })
}

fn parse(
    certificate_pem: &[u8],
    key_pem: &[u8],
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<Loaded, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate_pem)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::Certificate { path: certificate.into() })?;
    if chain.is_empty() {
        return Err(TlsError::Certificate { path: certificate.into() });
    }
    let private = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| TlsError::Key { path: key.into() })?;
    let pair = CertifiedKey::from_der(chain, private, provider).map_err(|_| TlsError::Pair { path: key.into() })?;
    Ok(Loaded { pair: Arc::new(pair), digest: digest_of(certificate_pem, key_pem) })
}

fn digest_of(certificate_pem: &[u8], key_pem: &[u8]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&(certificate_pem.len() as u64).to_be_bytes());
    context.update(certificate_pem);
    context.update(key_pem);
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_pair(dir: &Path, name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        std::fs::write(dir.join("tls.crt"), &certificate).unwrap();
        std::fs::write(dir.join("tls.key"), &key).unwrap();
        (certificate, key)
    }

    fn serving(tls: &ServerTls) -> CertificateDer<'static> {
        tls.chain()[0].clone()
    }

    #[test]
    fn a_new_pair_serves_and_a_broken_or_half_written_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        write_pair(dir.path(), "one.example");
        let tls = ServerTls::load(&dir.path().join("tls.crt"), &dir.path().join("tls.key")).unwrap();
        let first = serving(&tls);
        assert!(!tls.reload().unwrap());

        let (_, second_key) = write_pair(dir.path(), "two.example");
        assert!(tls.reload().unwrap());
        let second = serving(&tls);
        assert_ne!(first, second);

        // Only the certificate of the third pair has arrived.
        write_pair(dir.path(), "three.example");
        std::fs::write(dir.path().join("tls.key"), second_key).unwrap();
        assert_eq!(tls.reload().unwrap_err().reason(), "TlsPairMismatch");
        assert_eq!(serving(&tls), second);

        std::fs::write(dir.path().join("tls.crt"), "").unwrap();
        assert_eq!(tls.reload().unwrap_err().reason(), "TlsCertificateInvalid");
        std::fs::remove_file(dir.path().join("tls.crt")).unwrap();
        assert_eq!(tls.reload().unwrap_err().reason(), "TlsFileUnreadable");
        assert_eq!(serving(&tls), second);
    }
}
