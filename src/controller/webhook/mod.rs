//! What the leading controller does for the admission webhook: the secret paths by which it knows its callers, and its
//! certificates: an authority of our own, what the webhook serves, and what its callers are told.
//!
//! Invariant: [`next`] decides and nothing else does; only whoever leads writes, each Secret over the version that was seen;
//! and of the webhooks' configurations nothing is written but where to ask and whom to believe.
//!
//! There are three Secrets in the system namespace: `portcullis-webhook-ca`, which only controllers read, and
//! `portcullis-webhook-tls` and `portcullis-webhook-path`, which the webhook mounts and nobody reads through the API server but
//! controllers.

pub mod authority;
pub mod next;
pub mod stored;
pub mod told;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{PatchParams, PostParams};

use self::authority::Authority;
use self::next::{Action, Observed, Which, next};
use self::stored::{CA, Kept, PATH, TLS, hidden, key, mounted};
use self::told::{CONFIGURATIONS, Told, believed};
use super::Context;
use super::error::{ApiError, Failure, code};
use super::object::FIELD_MANAGER;
use crate::cluster;
use crate::cluster::secret_path::{Asked, Key};
use crate::process::certificate::certificates;

/// How often it is looked at: also how long callers that were just made know neither where to ask nor whom to believe.
pub const LOOK: Duration = Duration::from_secs(5);
/// Who writes what callers are told: not the manager of what else the controller applies, which would then be taken for removed.
const TELLING_MANAGER: &str = "portcullis-webhook-ca";
/// More than it ever takes to come to rest.
const MOST_ACTIONS: usize = 9;

/// Keeps what the webhook and its callers know of each other.
pub struct Callers {
    /// The names, and addresses, under which the webhook is called; none: others make its certificates.
    names: Vec<String>,
    /// Of which newest authority, and since when, this process saw that all callers were told.
    believed: Mutex<Option<(Vec<u8>, Instant)>>,
}

/// What was found.
struct Found {
    path: Option<Secret>,
    ca: Option<Secret>,
    tls: Option<Secret>,
    configurations: Vec<(ValidatingWebhookConfiguration, Asked)>,
    kept: Kept,
    told: Option<Told>,
    observed: Observed,
}

impl Callers {
    /// For a webhook of these names.
    pub fn new(names: Vec<String>) -> Self {
        Self { names, believed: Mutex::default() }
    }

    /// Looks, and does what is to be done.
    ///
    /// # Errors
    /// If something could not be read or written. It is to be tried again.
    pub async fn keep(&self, context: &Context) -> Result<(), Failure> {
        for _ in 0..MOST_ACTIONS {
            let now = Timestamp::now().as_second();
            let found = self.look(context, now).await?;
            match next(&found.observed, now) {
                Action::Nothing => return Ok(()),
                action => self.act(context, found, action, now).await?,
            }
        }
        Ok(())
    }

    async fn look(&self, context: &Context, now: i64) -> Result<Found, Failure> {
        let (secrets, foreign) = (secrets(context), self.names.is_empty());
        let path = secret(&secrets, PATH).await?;
        let (ca, tls) = match foreign {
            true => (None, None),
            false => (secret(&secrets, CA).await?, secret(&secrets, TLS).await?),
        };
        let api: Api<ValidatingWebhookConfiguration> = Api::all(context.client.clone());
        let mut configurations = Vec::new();
        for (name, asked) in CONFIGURATIONS.into_iter().zip(Asked::ALL) {
            let found = api.get_opt(name).await.map_err(|error| failed(name, &error))?;
            configurations.extend(found.map(|found| (found, asked)));
        }
        let kept = ca.as_ref().map(Kept::read).unwrap_or_default();
        let bundles: Vec<Vec<u8>> = configurations.iter().flat_map(|(one, _)| bundles(one)).collect();
        let newest = kept.held(Which::Newest, &bundles);
        let key = path.as_ref().and_then(key);
        let told = key.map(|key| Told { key, bundle: (!foreign).then(|| kept.bundle()), now });
        let observed = Observed {
            key: told.is_some(),
            foreign,
            newest,
            previous: kept.held(Which::Previous, &bundles),
            retired_at: kept.retired_at,
            leaf: tls.as_ref().and_then(|tls| kept.leaf(tls, &self.names, now)),
            told: told
                .as_ref()
                .is_some_and(|told| configurations.iter().all(|(one, asked)| told.is_known(one, *asked))),
            believed_for: self.believed_for(&kept, newest.is_some_and(|newest| newest.believed)),
        };
        Ok(Found { path, ca, tls, configurations, kept, told, observed })
    }

    /// For how many seconds this process has seen that callers believe the newest authority.
    fn believed_for(&self, kept: &Kept, believed: bool) -> i64 {
        let mut before = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = kept.get(Which::Newest).filter(|_| believed).map(|newest| newest.certificate.to_vec());
        if before.as_ref().map(|(certificate, _)| certificate) != newest.as_ref() {
            *before = newest.map(|certificate| (certificate, Instant::now()));
        }
        let since = before.as_ref().map(|(_, since)| since.elapsed().as_secs()).unwrap_or_default();
        i64::try_from(since).unwrap_or(i64::MAX)
    }

    async fn act(&self, context: &Context, found: Found, action: Action, now: i64) -> Result<(), Failure> {
        let Found { path, ca, tls, configurations, mut kept, told, observed } = found;
        match action {
            Action::Nothing => return Ok(()),
            Action::Hide => {
                let key = Key::make().ok_or(Failure::Build("RandomUnavailable"))?;
                put(context, PATH, hidden(&key, path)).await?;
                tracing::info!("the webhook has a new key of secret paths");
                return Ok(());
            }
            Action::Found => kept.found(Authority::make(now).map_err(|_| NOT_MADE)?, observed.leaf),
            Action::Retire => {
                kept.previous.as_mut().map(Authority::retire);
                kept.retired_at = Some(now);
            }
            Action::Forget => (kept.previous, kept.retired_at) = (None, None),
            Action::Tell => return tell(context, &configurations, told.as_ref()).await,
            Action::Issue(which) => {
                let authority = kept.get(which).ok_or(NOT_MADE)?;
                let pair = authority.issue(&self.names, now).map_err(|_| NOT_MADE)?.ok_or(NOT_MADE)?;
                put(context, TLS, mounted(pair, authority, tls)).await?;
                tracing::info!(names = ?self.names, "the webhook has a new certificate");
                return Ok(());
            }
        }
        put(context, CA, kept.write(ca)).await?;
        tracing::info!(?action, "the webhook's authorities changed");
        Ok(())
    }
}

const NOT_MADE: Failure = Failure::Build("CertificateNotMade");

fn secrets(context: &Context) -> Api<Secret> {
    Api::namespaced(context.client.clone(), &context.installation.system_namespace)
}

fn failed(what: &str, error: &kube::Error) -> Failure {
    Failure::Apply(ApiError::new(what, error))
}

async fn secret(secrets: &Api<Secret>, name: &str) -> Result<Option<Secret>, Failure> {
    secrets.get_opt(name).await.map_err(|error| failed(&format!("Secret {name}"), &error))
}

/// Writes a Secret over the version that was seen, or as a new one. Whoever else wrote meanwhile wins, and is looked at again.
async fn put(context: &Context, name: &str, secret: Secret) -> Result<(), Failure> {
    let secrets = secrets(context);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let write = async {
        match secret.metadata.resource_version {
            Some(_) => secrets.replace(name, &params, &secret).await,
            None => secrets.create(&params, &secret).await,
        }
    };
    match context.while_leading(write).await? {
        Ok(_) => Ok(()),
        Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(()),
        Err(error) => Err(failed(&format!("Secret {name}"), &error)),
    }
}

/// What each webhook of a configuration says whom to believe.
fn bundles(configuration: &ValidatingWebhookConfiguration) -> Vec<Vec<u8>> {
    configuration.webhooks.iter().flatten().map(|webhook| believed(&webhook.client_config)).collect()
}

/// Tells callers where to ask and whom to believe, where they do not know.
async fn tell(
    context: &Context,
    configurations: &[(ValidatingWebhookConfiguration, Asked)],
    told: Option<&Told>,
) -> Result<(), Failure> {
    let Some(told) = told else { return Ok(()) };
    let api: Api<ValidatingWebhookConfiguration> = Api::all(context.client.clone());
    for (configuration, asked) in configurations.iter().filter(|(one, asked)| !told.is_known(one, *asked)) {
        let name = configuration.metadata.name.clone().unwrap_or_default();
        let patch = told.patch(configuration, *asked);
        let params = PatchParams::apply(TELLING_MANAGER).force();
        match context.while_leading(cluster::apply(&api, &name, &params, &patch)).await? {
            Ok(_) => {
                let bundle = told.bundle.as_deref().and_then(certificates);
                let authorities = bundle.map_or(0, |all| all.len());
                tracing::info!(
                    configuration = name,
                    authorities,
                    "callers of the webhook are told where to ask and whom to believe"
                );
            }
            Err(error) if matches!(code(&error), Some(404 | 409)) => {}
            Err(error) => return Err(failed(&format!("ValidatingWebhookConfiguration {name}"), &error)),
        }
    }
    Ok(())
}
