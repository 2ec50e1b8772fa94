//! Whether those who ask the webhook would believe it, and be answered.
//!
//! Invariant: ready means that a caller which does what the configurations say takes the certificate that is served at this
//! moment, and asks where there is an answer; so `helm install --wait` ends when `kubectl apply` works, and not before. No
//! path is in any message.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{ValidatingWebhookConfiguration, WebhookClientConfig};
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use rustls::pki_types::CertificateDer;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::door::Door;
use super::metrics::Metrics;
use crate::cluster::in_words;
use crate::cluster::secret_path::{Asked, told_path};
use crate::process::certificate::{believed, certificates, validity};
use crate::process::readiness::Check;
use crate::process::tls::ServerTls;

/// How often files are compared, and how often it is looked at whether callers believe, until they do.
pub const SOON: Duration = Duration::from_secs(1);
/// How often that is looked at afterwards.
const LATER: Duration = Duration::from_secs(10);

/// Why nobody would believe the webhook, or be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It has run out, or does not hold yet.
    #[error("the certificate does not hold now: its Secret was not renewed, or a clock is wrong")]
    Expired,
    /// It cannot be asked.
    #[error("ValidatingWebhookConfiguration {0} cannot be read: {1}")]
    Unreadable(String, String),
    /// It is not there.
    #[error(
        "there is no ValidatingWebhookConfiguration {0}, so nothing is asked: install the chart again, or remove the webhook"
    )]
    Missing(String),
    /// It knows nobody to believe.
    #[error("webhook {0} has no caBundle yet: the leading controller, or cert-manager, writes it")]
    Untold(String),
    /// It believes somebody else.
    #[error("the caBundle of webhook {0} does not verify the certificate that is served: {1}")]
    Disbelieved(String, String),
    /// Nobody can be answered.
    #[error("there is no key of secret paths in {0} yet: the leading controller makes it")]
    Closed(String),
    /// It was told of no secret path.
    #[error("webhook {0} has no secret path yet: the leading controller writes it")]
    Pathless(String),
    /// It asks elsewhere.
    #[error(
        "webhook {0} has a path that was made with another key: its Secret was made anew, which a Pod has within two minutes, or \
         somebody else wrote it"
    )]
    Elsewhere(String),
}

impl Trouble {
    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Trouble::Expired => "CertificateExpired",
            Trouble::Unreadable(..) => "ConfigurationUnreadable",
            Trouble::Missing(_) => "ConfigurationMissing",
            Trouble::Untold(_) => "CaBundleMissing",
            Trouble::Disbelieved(..) => "CaBundleMismatch",
            Trouble::Closed(_) => "PathKeyUnreadable",
            Trouble::Pathless(_) => "PathMissing",
            Trouble::Elsewhere(_) => "PathMismatch",
        }
    }
}

/// Loads `tls.crt` and `tls.key` of a folder, as soon as they are there. `None`: `stop` came first.
pub async fn load(folder: &Path, check: &Check, stop: &CancellationToken) -> Option<ServerTls> {
    let mut said = "";
    loop {
        match ServerTls::load(&folder.join("tls.crt"), &folder.join("tls.key")) {
            Ok(tls) => return Some(tls),
            Err(error) => {
                if error.reason() != said {
                    tracing::warn!(reason = error.reason(), %error, "waiting for a certificate");
                    said = error.reason();
                }
                check.not_ready(error.reason(), error.to_string());
            }
        }
        stop.run_until_cancelled(sleep(SOON)).await?;
    }
}

/// Looks from time to time whether callers believe what is served, and ask where there is an answer.
pub async fn watch(
    client: Client,
    tls: ServerTls,
    door: Door,
    names: Vec<String>,
    check: Check,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let mut said = "";
    loop {
        let mut standing = Ok(());
        let (chain, now) = (tls.chain(), Timestamp::now().as_second());
        metrics.expires(chain.first().and_then(|leaf| validity(leaf)).map_or(0, |validity| validity.not_after));
        for name in &names {
            let found = api.get_opt(name).await;
            let found = found.map_err(|error| Trouble::Unreadable(name.clone(), in_words(&error)));
            let found = found.and_then(|found| found.ok_or_else(|| Trouble::Missing(name.clone())));
            if let Ok(found) = &found {
                let configs = found.webhooks.iter().flatten().map(|webhook| &webhook.client_config);
                configs.filter_map(told_path).for_each(|path| door.see(&path));
            }
            standing = standing.and(found.and_then(|found| stands(&found, &chain, &door, now)));
        }
        let pause = match &standing {
            Ok(()) => {
                check.ready();
                said = "";
                LATER
            }
            Err(trouble) => {
                if trouble.reason() != said {
                    tracing::warn!(reason = trouble.reason(), %trouble, "not ready");
                    said = trouble.reason();
                }
                check.not_ready(trouble.reason(), trouble.to_string());
                SOON
            }
        };
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// Whether callers that do what a configuration says believe this chain, and are let in.
fn stands(
    configuration: &ValidatingWebhookConfiguration,
    chain: &[CertificateDer<'static>],
    door: &Door,
    now: i64,
) -> Result<(), Trouble> {
    if !chain.first().and_then(|leaf| validity(leaf)).is_some_and(|validity| validity.holds(now)) {
        return Err(Trouble::Expired);
    }
    if !door.has_key() {
        return Err(Trouble::Closed(door.file().display().to_string()));
    }
    for webhook in configuration.webhooks.iter().flatten() {
        let bundle = webhook.client_config.ca_bundle.as_ref().filter(|bundle| !bundle.0.is_empty());
        let bundle = bundle.ok_or_else(|| Trouble::Untold(webhook.name.clone()))?;
        let disbelieved = |why: String| Trouble::Disbelieved(webhook.name.clone(), why);
        let authorities = certificates(&bundle.0).ok_or_else(|| disbelieved("it holds no certificates".to_owned()))?;
        let name = called(&webhook.client_config).ok_or_else(|| disbelieved("it names no server".to_owned()))?;
        believed(chain, &authorities, &name, now).map_err(disbelieved)?;
        let path = told_path(&webhook.client_config).unwrap_or_default();
        if door.asked(&path).is_none() {
            let bare = path.is_empty() || path == "/" || Asked::ALL.iter().any(|asked| path == asked.place());
            let name = webhook.name.clone();
            return Err(if bare { Trouble::Pathless(name) } else { Trouble::Elsewhere(name) });
        }
    }
    Ok(())
}

/// The name under which a caller expects the webhook.
fn called(config: &WebhookClientConfig) -> Option<String> {
    if let Some(service) = &config.service {
        return Some(format!("{}.{}.svc", service.name, service.namespace));
    }
    let url = url::Url::parse(config.url.as_deref()?).ok()?;
    url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::admissionregistration::v1::{ServiceReference, ValidatingWebhook};
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;
    use crate::cluster::secret_path::Key;

    struct Authority(CertificateParams, KeyPair, String);

    impl Authority {
        fn make(name: &str) -> Self {
            let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).unwrap().pem();
            Self(params, key, pem)
        }

        fn sign(&self, name: &str) -> Vec<CertificateDer<'static>> {
            let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let issuer = Issuer::from_params(&self.0, &self.1);
            vec![leaf.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()]
        }
    }

    fn configuration(bundle: &str, path: &str) -> ValidatingWebhookConfiguration {
        let path = Some(path.to_owned());
        let service = ServiceReference { name: "hook".into(), namespace: "system".into(), path, port: None };
        let ca_bundle = Some(ByteString(bundle.into()));
        let client_config = WebhookClientConfig { ca_bundle, service: Some(service), url: None };
        let webhook = ValidatingWebhook { name: "a.b.c".into(), client_config, ..ValidatingWebhook::default() };
        ValidatingWebhookConfiguration { webhooks: Some(vec![webhook]), ..ValidatingWebhookConfiguration::default() }
    }

    #[test]
    fn a_certificate_stands_if_the_bundle_verifies_it_for_the_name_that_is_called() {
        let (ours, theirs) = (Authority::make("ours"), Authority::make("theirs"));
        let now = Timestamp::now().as_second();
        let folder = tempfile::tempdir().unwrap();
        let (door, path) = opened(folder.path());
        door.see(&path);
        let stands = |configuration: &ValidatingWebhookConfiguration, chain: &[CertificateDer<'static>], now| {
            stands(configuration, chain, &door, now)
        };
        let configuration = |bundle: &str| configuration(bundle, &path);
        let chain = ours.sign("hook.system.svc");
        let both = configuration(&format!("{}{}", theirs.2, ours.2));
        assert_eq!(stands(&both, &chain, now), Ok(()));
        assert_eq!(stands(&both, &theirs.sign("hook.system.svc"), now), Ok(()));
        let reason = |configuration: &ValidatingWebhookConfiguration, chain: &[CertificateDer<'static>]| {
            stands(configuration, chain, now).unwrap_err().reason()
        };
        assert_eq!(reason(&both, &ours.sign("hook.other.svc")), "CaBundleMismatch");
        assert_eq!(reason(&configuration(&theirs.2), &chain), "CaBundleMismatch");
        assert_eq!(reason(&configuration("no certificate"), &chain), "CaBundleMismatch");
        assert_eq!(reason(&configuration(""), &chain), "CaBundleMissing");
        assert_eq!(stands(&both, &chain, 0).unwrap_err(), Trouble::Expired);
        let mut by_url = both.clone();
        let config = &mut by_url.webhooks.as_mut().unwrap()[0].client_config;
        (config.service, config.url) = (None, Some(format!("https://127.0.0.1:9443{path}")));
        assert_eq!(reason(&by_url, &chain), "CaBundleMismatch");
        assert_eq!(stands(&by_url, &ours.sign("127.0.0.1"), now), Ok(()));
    }

    /// A door that is open, and where it is asked about changes.
    fn opened(folder: &Path) -> (Door, String) {
        let key = Key::make().unwrap();
        std::fs::write(folder.join("key"), key.as_bytes()).unwrap();
        let (door, path) = (Door::new(folder.join("key")), key.path(Asked::Changes, 1_800_000_000));
        (door, path)
    }

    #[test]
    fn a_caller_that_asks_elsewhere_is_found_out_and_no_path_is_said() {
        let (ours, now) = (Authority::make("ours"), Timestamp::now().as_second());
        let chain = ours.sign("hook.system.svc");
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ((door, path), (_, other)) = (opened(one.path()), opened(two.path()));
        let closed = Door::new(one.path().join("nothing"));
        let trouble = |path: &str, door: &Door| stands(&configuration(&ours.2, path), &chain, door, now).unwrap_err();
        assert_eq!(trouble(&path, &door).reason(), "PathMismatch", "it was not seen yet");
        door.see(&path);
        assert_eq!(stands(&configuration(&ours.2, &path), &chain, &door, now), Ok(()));
        assert_eq!(trouble(&path, &closed).reason(), "PathKeyUnreadable");
        for bare in ["", "/", "/validate", "/deletions"] {
            assert_eq!(trouble(bare, &door).reason(), "PathMissing", "{bare}");
        }
        for wrong in [&other, "/validate/", "/other"] {
            assert_eq!(trouble(wrong, &door).reason(), "PathMismatch", "{wrong}");
        }
        let said = [trouble(&other, &door), trouble(&path, &closed)].map(|trouble| format!("{trouble}{trouble:?}"));
        assert!(!said.iter().any(|said| said.contains(&path) || said.contains(&other)), "{said:?}");
        let mut by_url = configuration(&ours.2, "/");
        let config = &mut by_url.webhooks.as_mut().unwrap()[0].client_config;
        (config.service, config.url) = (None, Some("https://hook.system.svc/validate".into()));
        assert_eq!(stands(&by_url, &chain, &door, now).unwrap_err().reason(), "PathMissing");
    }
}
