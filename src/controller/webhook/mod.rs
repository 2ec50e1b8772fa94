//! Certificates of the admission webhook: an authority of our own, what the webhook serves, and what its callers are told.
//!
//! Invariant: [`next`] decides and nothing else does; only whoever leads writes, each Secret over the version that was seen;
//! and of the webhooks' configurations nothing is written but whom to believe.
//!
//! There are two Secrets in the system namespace: `portcullis-webhook-ca`, which only controllers read, and
//! `portcullis-webhook-tls`, which the webhook mounts and nobody reads through the API server but controllers.

pub mod authority;
pub mod next;
pub mod stored;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{PatchParams, PostParams};
use serde_json::json;

use self::authority::Authority;
use self::next::{Action, Observed, Which, next};
use self::stored::{CA, Kept, TLS, mounted};
use super::Context;
use super::error::{ApiError, Failure, code};
use super::object::FIELD_MANAGER;
use crate::cluster;
use crate::process::certificate::certificates;

/// How often it is looked at: also how long callers that were just made know nobody to believe.
pub const LOOK: Duration = Duration::from_secs(5);
/// The configurations whose webhooks are ours.
pub const CONFIGURATIONS: [&str; 2] = ["portcullis-validate", "portcullis-deletions"];
/// Who writes whom to believe: not the manager of what else the controller applies, which would then be taken for removed.
const BELIEF_MANAGER: &str = "portcullis-webhook-ca";
/// More than it ever takes to come to rest.
const MOST_ACTIONS: usize = 8;

/// Keeps the certificates.
pub struct Certificates {
    /// The names, and addresses, under which the webhook is called.
    names: Vec<String>,
    /// Of which newest authority, and since when, this process saw that all callers were told.
    believed: Mutex<Option<(Vec<u8>, Instant)>>,
}

/// What was found.
struct Found {
    ca: Option<Secret>,
    tls: Option<Secret>,
    configurations: Vec<ValidatingWebhookConfiguration>,
    kept: Kept,
    observed: Observed,
}

impl Certificates {
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
        let secrets = secrets(context);
        let (ca, tls) = (secret(&secrets, CA).await?, secret(&secrets, TLS).await?);
        let api: Api<ValidatingWebhookConfiguration> = Api::all(context.client.clone());
        let mut configurations = Vec::new();
        for name in CONFIGURATIONS {
            let found = api.get_opt(name).await.map_err(|error| failed(name, &error))?;
            configurations.extend(found);
        }
        let kept = ca.as_ref().map(Kept::read).unwrap_or_default();
        let told: Vec<Vec<u8>> = configurations.iter().flat_map(bundles).collect();
        let newest = kept.held(Which::Newest, &told);
        let observed = Observed {
            newest,
            previous: kept.held(Which::Previous, &told),
            retired_at: kept.retired_at,
            leaf: tls.as_ref().and_then(|tls| kept.leaf(tls, &self.names, now)),
            told: told.iter().all(|bundle| *bundle == kept.bundle()),
            believed_for: self.believed_for(&kept, newest.is_some_and(|newest| newest.believed)),
        };
        Ok(Found { ca, tls, configurations, kept, observed })
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
        let Found { ca, tls, configurations, mut kept, observed } = found;
        match action {
            Action::Nothing => return Ok(()),
            Action::Found => kept.found(Authority::make(now).map_err(|_| NOT_MADE)?, observed.leaf),
            Action::Retire => {
                kept.previous.as_mut().map(Authority::retire);
                kept.retired_at = Some(now);
            }
            Action::Forget => (kept.previous, kept.retired_at) = (None, None),
            Action::Tell => return tell(context, &configurations, &kept.bundle()).await,
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
    let webhooks = configuration.webhooks.iter().flatten();
    webhooks.map(|webhook| webhook.client_config.ca_bundle.clone().unwrap_or_default().0).collect()
}

/// Tells callers whom to believe, where they do not know.
async fn tell(
    context: &Context,
    configurations: &[ValidatingWebhookConfiguration],
    bundle: &[u8],
) -> Result<(), Failure> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(context.client.clone());
    for configuration in configurations.iter().filter(|one| bundles(one).iter().any(|told| told != bundle)) {
        let name = configuration.metadata.name.clone().unwrap_or_default();
        let belief = json!({"caBundle": BASE64_STANDARD.encode(bundle)});
        let webhooks = configuration.webhooks.iter().flatten();
        let webhooks: Vec<_> = webhooks.map(|webhook| json!({"name": webhook.name, "clientConfig": belief})).collect();
        // The UID makes it a precondition: one that was removed meanwhile is not made anew.
        let patch = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name, "uid": configuration.metadata.uid}, "webhooks": webhooks,
        });
        let params = PatchParams::apply(BELIEF_MANAGER).force();
        match context.while_leading(cluster::apply(&api, &name, &params, &patch)).await? {
            Ok(_) => {
                let authorities = certificates(bundle).map_or(0, |all| all.len());
                tracing::info!(configuration = name, authorities, "callers of the webhook are told whom to believe");
            }
            Err(error) if matches!(code(&error), Some(404 | 409)) => {}
            Err(error) => return Err(failed(&format!("ValidatingWebhookConfiguration {name}"), &error)),
        }
    }
    Ok(())
}
