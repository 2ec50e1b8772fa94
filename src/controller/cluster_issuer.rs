//! Who issues the cluster's ServiceAccount tokens, as the API server says.
//!
//! Invariant: issuer, keys and the API server's audiences come from the API server that the controller is authenticated to,
//! over that connection; keys that cannot be used are not handed on; and however many tokens name unknown keys, it is asked
//! no more often than once in [`FLOOR`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Installation;
use super::error::{ApiError, code};
use super::service_account;
use crate::generated::authority::KeySet;
use crate::identity::keys::{Algorithm, KeySetParsed};
use crate::resolve::{Cluster, ServiceAccounts};

/// How often it is asked.
const PERIOD: Duration = Duration::from_secs(300);
/// How often at most, whoever asks.
const FLOOR: Duration = Duration::from_secs(30);
/// How soon after a failure.
const RETRY: Duration = Duration::from_secs(10);
/// How long one look may take.
const ATTEMPT: Duration = Duration::from_secs(20);
/// How long keys are good for while the API server cannot be asked, in seconds.
const GOOD_FOR: i64 = 6 * 3600;
/// The longest document that is read.
const MOST_BYTES: usize = 512 * 1024;

/// What the API server says of its ServiceAccount tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learnt {
    /// Issuer and audiences.
    pub service_accounts: ServiceAccounts,
    /// The keys, as JSON.
    pub jwks: String,
}

/// Why it is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerUnknown {
    /// The API server does not answer, or does not let the controller ask.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// It answers with something else.
    #[error("{0} of the API server is not what it should be")]
    Document(&'static str),
    /// It does not answer in time.
    #[error("the API server does not answer in time")]
    Timeout,
}

impl IssuerUnknown {
    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            IssuerUnknown::Api(error) => error.reason(),
            IssuerUnknown::Document(_) => "ClusterIssuerMalformed",
            IssuerUnknown::Timeout => "ApiUnreachable",
        }
    }
}

/// Asks the API server.
///
/// # Errors
/// If it does not say who issues tokens, or with which keys.
pub async fn learn(client: &Client, gateway_namespace: &str) -> Result<Learnt, IssuerUnknown> {
    const METADATA: &str = "/.well-known/openid-configuration";
    // Not the `jwks_uri` of the document: that may be an address for others.
    const KEYS: &str = "/openid/v1/jwks";
    let metadata: serde_json::Value =
        serde_json::from_str(&get(client, METADATA).await?).map_err(|_| IssuerUnknown::Document(METADATA))?;
    let issuer = metadata.get("issuer").and_then(|issuer| issuer.as_str()).filter(|issuer| !issuer.is_empty());
    let issuer = issuer.ok_or(IssuerUnknown::Document(METADATA))?.to_owned();
    let jwks = get(client, KEYS).await?;
    let known: Vec<Algorithm> = Algorithm::NAMES.iter().filter_map(|name| Algorithm::from_name(name)).collect();
    KeySetParsed::parse(&jwks, &known).map_err(|_| IssuerUnknown::Document(KEYS))?;
    let mut api_audiences = api_audiences(client, gateway_namespace).await?;
    if !api_audiences.contains(&issuer) {
        api_audiences.push(issuer.clone());
    }
    api_audiences.sort_unstable();
    Ok(Learnt { service_accounts: ServiceAccounts { issuer, api_audiences }, jwks })
}

/// The audiences of the API server: who asks for a token without saying for whom is given one for all of them. The token is
/// thrown away. Where that may not be asked, the issuer counts as the only one, which is what API servers have by default.
async fn api_audiences(client: &Client, gateway_namespace: &str) -> Result<Vec<String>, IssuerUnknown> {
    match service_account::request(client, gateway_namespace, Vec::new()).await {
        Ok((_, audiences)) => Ok(audiences),
        Err(error @ ApiError::Refused { code: 403 | 404, .. }) => {
            tracing::warn!(
                reason = error.reason(), %error,
                "the API server's audiences are not known: tokens for its issuer are refused, and for no other name of it"
            );
            Ok(Vec::new())
        }
        Err(error) => Err(error.into()),
    }
}

async fn get(client: &Client, path: &'static str) -> Result<String, IssuerUnknown> {
    let request = http::Request::get(path).header(http::header::ACCEPT, "application/json, application/jwk-set+json");
    let request = request.body(Vec::new()).map_err(|_| IssuerUnknown::Document(path))?;
    let text = client.request_text(request).await.map_err(|error| match code(&error) {
        Some(404) => IssuerUnknown::Document(path),
        _ => IssuerUnknown::Api(ApiError::new(format!("reading {path}"), &error)),
    })?;
    if text.len() <= MOST_BYTES { Ok(text) } else { Err(IssuerUnknown::Document(path)) }
}

/// What is known, and until when.
#[derive(Clone, Debug, Default)]
struct State {
    learnt: Option<(Learnt, i64)>,
    failure: Option<IssuerUnknown>,
}

/// Follows the cluster's issuer.
#[derive(Clone)]
pub struct ClusterIssuer {
    state: Arc<Mutex<State>>,
    wanted: Arc<Notify>,
}

impl Default for ClusterIssuer {
    fn default() -> Self {
        Self { state: Arc::default(), wanted: Arc::new(Notify::new()) }
    }
}

impl ClusterIssuer {
    /// The cluster, as far as it is known.
    pub fn cluster(&self, installation: &Installation) -> Cluster {
        let service_accounts = self.state().learnt.map(|(learnt, _)| learnt.service_accounts);
        let Installation { gateway_namespace, cluster_domain, .. } = installation;
        Cluster { gateway_namespace: gateway_namespace.clone(), dns_domain: cluster_domain.clone(), service_accounts }
    }

    /// The keys, and why they could not be fetched anew: a stable word, and in words.
    pub fn keys(&self) -> (Option<KeySet>, Option<(&'static str, String)>) {
        let State { learnt, failure } = self.state();
        let key_set = learnt.map(|(learnt, valid_until)| KeySet { jwks: learnt.jwks, valid_until });
        (key_set, failure.map(|failure| (failure.reason(), failure.to_string())))
    }

    /// A token names a key that is not known: the API server is asked, if that is allowed now.
    pub fn ask(&self) {
        self.wanted.notify_one();
    }

    /// Asks for ever. `changed` is called when something is known that was not, and when it was confirmed. `now` says Unix
    /// seconds.
    pub async fn run(
        self,
        client: Client,
        gateway_namespace: String,
        now: impl Fn() -> i64 + Send + Sync,
        changed: impl Fn() + Send + Sync,
        stop: CancellationToken,
    ) {
        loop {
            let begun = Instant::now();
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = timeout(ATTEMPT, learn(&client, &gateway_namespace)) => outcome,
            };
            let wait = match outcome.unwrap_or(Err(IssuerUnknown::Timeout)) {
                Ok(learnt) => {
                    self.set(State { learnt: Some((learnt, now() + GOOD_FOR)), failure: None });
                    PERIOD
                }
                Err(failure) => {
                    tracing::warn!(reason = failure.reason(), error = %failure, "the cluster's issuer is not known");
                    self.set(State { learnt: self.state().learnt, failure: Some(failure) });
                    RETRY
                }
            };
            changed();
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
                () = self.wanted.notified() => sleep_until(begun + FLOOR).await,
            }
        }
    }

    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}
