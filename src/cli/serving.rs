//! What the verbs that serve calls have in common.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use http::HeaderValue;
use url::Url;

use super::outbound::Outbound;
use super::{address, boolish};
use crate::audit::AuditError;
use crate::egress;
use crate::journal::JournalError;
use crate::process::drain::Finish;
use crate::proxy::config::Limits;
use crate::resolve::PublicUrl;
use crate::roles::serving::Options;

/// Which manifests are guardrails.
#[derive(clap::Args, Clone, Debug)]
pub struct Guardrails {
    /// The namespace whose policies are guardrails for all others
    #[arg(long, env = "PORTCULLIS_SYSTEM_NAMESPACE", value_name = "NAME", default_value = "portcullis-system")]
    pub system_namespace: String,
}

/// How a gateway serves: shared by `standalone`, `quickstart` and `proxy`.
#[derive(clap::Args, Clone, Debug)]
pub struct Serving {
    /// Where callers connect
    #[arg(long, env = "PORTCULLIS_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8420", value_parser = address)]
    pub listen: SocketAddr,
    /// The URL under which callers reach the gateway [default: http:// and the listening address, on loopback]
    #[arg(long, env = "PORTCULLIS_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// Where operators look: /livez, /readyz, /metrics [default: nowhere; quickstart: a free port of loopback]
    #[arg(long, env = "PORTCULLIS_ADMIN_LISTEN", value_name = "ADDR", value_parser = address)]
    pub admin_listen: Option<SocketAddr>,
    /// A host name, besides loopback ones, under which the admin listener may be called
    #[arg(long = "admin-host", env = "PORTCULLIS_ADMIN_HOSTS", value_name = "HOST", value_delimiter = ',')]
    pub admin_hosts: Vec<String>,
    /// Certificate chain of the public listener (PEM); read again when it changes
    #[arg(long, env = "PORTCULLIS_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Key of the public listener (PEM)
    #[arg(long, env = "PORTCULLIS_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// A proxy in front ends TLS, so the listener speaks clear text although the public URL is https
    #[arg(long, env = "PORTCULLIS_TLS_TERMINATED_BEFORE_PROXY", value_parser = boolish())]
    pub tls_terminated_before_proxy: bool,
    /// A browser origin whose pages may call, such as https://inspector.example.com
    #[arg(
        long = "allowed-origin",
        env = "PORTCULLIS_ALLOWED_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = origin
    )]
    pub allowed_origins: Vec<HeaderValue>,
    /// What may be dialed.
    #[command(flatten)]
    pub outbound: Outbound,
    /// Copy every audit record to standard output as a JSON line
    #[arg(long, env = "PORTCULLIS_AUDIT_STDOUT", value_parser = boolish())]
    pub audit_stdout: bool,
    /// Size of one file of the audit journal; less than 4 MiB counts as that
    #[arg(long, env = "PORTCULLIS_AUDIT_SEGMENT_BYTES", value_name = "BYTES", default_value_t = 16 << 20)]
    pub audit_segment_bytes: u64,
    /// Oldest files of the audit journal are deleted while all together are larger
    #[arg(long, env = "PORTCULLIS_AUDIT_MAX_BYTES", value_name = "BYTES", default_value_t = 10 << 30)]
    pub audit_max_bytes: u64,
}

impl Serving {
    /// The options of a gateway with this state folder, which may dial what `egress` says of [`Serving::outbound`].
    ///
    /// # Errors
    /// If an URL or a file cannot be used.
    pub fn options(self, state_dir: PathBuf, egress: egress::Policy) -> anyhow::Result<Options> {
        let public_url = self
            .public_url
            .map(|url| PublicUrl::parse(&url).map_err(|error| anyhow::anyhow!("--public-url {url}: {error}")));
        Ok(Options {
            state_dir,
            listen: self.listen,
            public_url: public_url.transpose()?,
            admin_listen: self.admin_listen,
            admin_hosts: self.admin_hosts,
            tls: self.tls_cert.zip(self.tls_key),
            tls_terminated_before_proxy: self.tls_terminated_before_proxy,
            allowed_origins: self.allowed_origins,
            egress,
            audit_stdout: self.audit_stdout,
            audit_segment_bytes: self.audit_segment_bytes,
            audit_max_bytes: self.audit_max_bytes,
            limits: Limits::default(),
        })
    }
}

/// Reads an origin, into the form in which browsers send it (RFC 6454 section 6.2): in small letters, and without the
/// scheme's own port. What is compared byte for byte must not hold what never comes, such as a path.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let expected = || "write scheme, host and port only, such as https://a.b".to_owned();
    let rest = text.split_once("://").map(|(_, rest)| rest).ok_or_else(expected)?;
    if rest.contains(|c: char| "/\\?#@".contains(c) || c.is_whitespace() || c.is_control()) {
        return Err(expected());
    }
    let url = Url::parse(&text.to_ascii_lowercase()).map_err(|_| expected())?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(expected)?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    HeaderValue::try_from(format!("{}://{host}{port}", url.scheme())).map_err(|_| expected())
}

/// Says first what a locked journal means: which folder, and what to do.
pub fn taken(error: anyhow::Error, state: &Path) -> anyhow::Error {
    if !matches!(error.downcast_ref(), Some(AuditError::Journal(JournalError::Locked { .. }))) {
        return error;
    }
    let state = state.display();
    error.context(format!(
        "another gateway uses the state folder {state}: stop it, or give this one its own --state-dir"
    ))
}

/// The runtime of everything that serves.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// The exit code of a drain: calls that were cut off are not a clean end.
pub fn ended(finish: Finish) -> ExitCode {
    match finish {
        Finish::Clean => ExitCode::SUCCESS,
        Finish::Aborted(calls) | Finish::TimedOut(calls) => {
            tracing::warn!(calls, "connections were cut off");
            ExitCode::from(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_kept_as_browsers_send_it() {
        for (typed, sent) in [
            ("https://a.b", "https://a.b"),
            ("HTTPS://A.b:443", "https://a.b"),
            ("http://localhost:6274", "http://localhost:6274"),
            ("http://[::1]:80", "http://[::1]"),
            ("vscode-webview://Abc", "vscode-webview://abc"),
        ] {
            assert_eq!(origin(typed).unwrap(), sent, "{typed}");
        }
        for typed in ["https://a.b/", "https://a.b/c", "a.b", "null", "*", "https://", "https://u@a.b", "https://a.b?x"]
        {
            assert!(origin(typed).is_err(), "{typed}");
        }
    }
}
