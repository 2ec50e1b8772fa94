//! How the API server is reached: in a Pod by its ServiceAccount, elsewhere by a kubeconfig.
//!
//! Invariant: a connection that is silently gone is noticed within the watch's own time and not a minute later.

use std::io::ErrorKind;
use std::time::Duration;

use kube::config::{KubeConfigOptions, KubeconfigError};
use kube::{Client, Config};

/// How long the API server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer, or the next piece of one, may take. Longer than a watch lasts.
const READ: Duration = Duration::from_secs(super::watch::LASTS_SECONDS as u64 + 5);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a Pod's ServiceAccount nor a kubeconfig.
    #[error("no API server is known: {0}")]
    Unknown(String),
    /// The configuration is there and cannot be used.
    #[error("the API server's address or credentials cannot be used: {0}")]
    Unusable(String),
}

impl ConnectError {
    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            ConnectError::Unknown(_) => "ClusterUnknown",
            ConnectError::Unusable(_) => "ClusterUnusable",
        }
    }
}

/// What went wrong, down to its cause, without what was being read: a decoding error may quote a Secret.
pub fn in_words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        kube::Error::SerdeError(_) => "an answer could not be read".to_owned(),
        other => {
            let mut said = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(error) = cause {
                let text = error.to_string();
                if !said.contains(&text) {
                    said = format!("{said}: {text}");
                }
                cause = error.source();
            }
            said
        }
    }
}

/// A client for a role: of the Pod's own cluster, or of the current one of a kubeconfig. Each request is sent once: whoever
/// runs for ever tries again by itself, and it alone knows whether it still may.
///
/// # Errors
/// If no API server is configured, or its configuration cannot be used. Nothing is sent yet.
pub async fn connect() -> Result<Client, ConnectError> {
    let mut config = infer().await?;
    config.default_retry = false;
    client(config)
}

/// A client for a command: of the Pod's own cluster, or of `context` (`None`: the current one) of the kubeconfig, and the
/// namespace that it is meant for. What the API server puts off is sent again.
///
/// # Errors
/// If no API server is configured, or its configuration cannot be used. Nothing is sent yet.
pub async fn connect_to(context: Option<&str>) -> Result<(Client, String), ConnectError> {
    let config = match context {
        Some(context) => {
            let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
            Config::from_kubeconfig(&options).await.map_err(|error| ConnectError::Unknown(unusable(&error)))?
        }
        None => infer().await?,
    };
    let namespace = config.default_namespace.clone();
    Ok((client(config)?, namespace))
}

/// The kubeconfig, or without one the Pod's ServiceAccount.
async fn infer() -> Result<Config, ConnectError> {
    Config::infer().await.map_err(|error| {
        // In a Pod, what is wrong with its ServiceAccount is what counts; elsewhere that there is none says nothing.
        let kubeconfig = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<KubeconfigError>());
        ConnectError::Unknown(match kubeconfig {
            Some(kubeconfig) if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() => unusable(kubeconfig),
            _ => error.to_string(),
        })
    })
}

fn unusable(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(cause, path) if cause.kind() == ErrorKind::NotFound => {
            format!("there is no kubeconfig {}; set KUBECONFIG, or run in a Pod with a ServiceAccount", path.display())
        }
        KubeconfigError::LoadContext(name) => format!("the kubeconfig has no context {name}"),
        // What follows the first line quotes the file, which may hold credentials.
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

fn client(mut config: Config) -> Result<Client, ConnectError> {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    Client::try_from(config).map_err(|error| ConnectError::Unusable(error.to_string()))
}
