//! Why a connection was not opened.

use super::address::Internal;

/// Why a connection was not opened. Names the host that was asked for, never the addresses behind it: a tenant must
/// not learn the inside of the network from its server's status.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EgressError {
    /// Not an absolute http(s) URL with a host.
    #[error("the URL is not an absolute http or https URL with a host")]
    Url,
    /// A flag's value is not `true`, `false` or ranges.
    #[error("{text:?} is neither true, false nor a list of address ranges such as 10.0.0.0/8,fd00::/8")]
    Range {
        /// The flag's value.
        text: String,
    },
    /// The name has no address, or the look-up failed.
    #[error("the name {host:?} could not be resolved: {detail}")]
    Resolve {
        /// The host.
        host: String,
        /// What the resolver said.
        detail: String,
    },
    /// An address of the host is not open to the gateway.
    #[error(
        "{host:?} resolves to an address that is {why}; if that is meant, the administrator opens it with \
         --allow-private-upstreams (true, or ranges such as 10.0.0.0/8; in a cluster loopback by its range only)"
    )]
    Internal {
        /// The host.
        host: String,
        /// What is wrong with the address.
        why: Internal,
    },
    /// An address of the host is closed to the gateway.
    #[error("{host:?} resolves to an address in a range that the administrator closed")]
    Closed {
        /// The host.
        host: String,
    },
    /// Plain http where only https is safe.
    #[error("{host:?} is not reached over plain http: use https")]
    PlainHttp {
        /// The host.
        host: String,
    },
    /// No address accepted a connection.
    #[error("could not connect to {host:?}: {detail}")]
    Connect {
        /// The host.
        host: String,
        /// What the operating system said.
        detail: String,
    },
    /// Look-up, connect and handshake together took too long.
    #[error("connecting to {host:?} took longer than {seconds} s")]
    Timeout {
        /// The host.
        host: String,
        /// The limit.
        seconds: u64,
    },
    /// The TLS handshake failed.
    #[error("TLS handshake with {host:?} failed: {detail}")]
    Tls {
        /// The host.
        host: String,
        /// What failed.
        detail: String,
    },
    /// The PEM text holds no readable certificate.
    #[error("the CA bundle holds no readable PEM certificate")]
    CaBundle,
    /// The name to verify is not a DNS name or address.
    #[error("{name:?} is not a name that a certificate can carry")]
    ServerName {
        /// The name.
        name: String,
    },
    /// The system has no certificates to trust.
    #[error(
        "no trusted CA certificates were found on this system; install them, set SSL_CERT_FILE, or give the server its \
         own CA bundle"
    )]
    NoRoots,
}

impl EgressError {
    /// A stable word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            EgressError::Url => "UrlInvalid",
            EgressError::Range { .. } => "AddressRangeInvalid",
            EgressError::Resolve { .. } => "HostUnresolved",
            EgressError::Internal { .. } => "AddressNotAllowed",
            EgressError::Closed { .. } => "AddressClosed",
            EgressError::PlainHttp { .. } => "PlainHttpRefused",
            EgressError::Connect { .. } => "ConnectFailed",
            EgressError::Timeout { .. } => "ConnectTimeout",
            EgressError::Tls { .. } => "TlsFailed",
            EgressError::CaBundle => "CaBundleInvalid",
            EgressError::ServerName { .. } => "ServerNameInvalid",
            EgressError::NoRoots => "NoTrustRoots",
        }
    }
}
