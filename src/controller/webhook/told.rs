//! What callers of the webhook are told: where to ask, and whom to believe if its certificates are ours.
//!
//! Invariant: of a configuration nothing else is written, and nothing that it says already; what was told is in no output.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::admissionregistration::v1::{ValidatingWebhookConfiguration, WebhookClientConfig};
use serde_json::{Value, json};
use url::Url;

use crate::cluster::secret_path::{Asked, Key, told_path};

/// The configurations whose webhooks are ours: in the order of [`Asked::ALL`], what each asks about.
pub const CONFIGURATIONS: [&str; 2] = ["portcullis-validate", "portcullis-deletions"];

/// How long callers are told of one path, in seconds. Whoever came to see it can ask for so long.
pub const PATH: i64 = 3_600;

/// What there is to tell.
pub struct Told {
    /// By which paths are made.
    pub key: Key,
    /// Whom to believe; `None`: others say so.
    pub bundle: Option<Vec<u8>>,
    /// The time.
    pub now: i64,
}

impl Told {
    /// Whether every webhook of a configuration was told, and not too long ago.
    pub fn is_known(&self, configuration: &ValidatingWebhookConfiguration, asked: Asked) -> bool {
        // A clock that was ahead does not keep one for ever.
        let is_young = |since: i64| (self.now - PATH..=self.now + PATH).contains(&since);
        let is_good = |path: String| self.key.opens(&path).is_some_and(|(to, since)| to == asked && is_young(since));
        configuration.webhooks.iter().flatten().map(|webhook| &webhook.client_config).all(|config| {
            let bundle = self.bundle.as_ref().is_none_or(|bundle| *bundle == believed(config));
            bundle && told_path(config).is_none_or(is_good)
        })
    }

    /// What is to be applied for a configuration.
    pub fn patch(&self, configuration: &ValidatingWebhookConfiguration, asked: Asked) -> Value {
        let webhooks = configuration.webhooks.iter().flatten();
        let webhooks: Vec<_> = webhooks
            .map(|webhook| json!({"name": webhook.name, "clientConfig": self.client_config(&webhook.client_config, asked)}))
            .collect();
        let metadata = &configuration.metadata;
        // The UID makes it a precondition: one that was removed meanwhile is not made anew.
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": metadata.name, "uid": metadata.uid}, "webhooks": webhooks})
    }

    /// From when on one is to ask there. The clock of whoever told callers before may have been ahead a little: a webhook opens at
    /// once what is later than all that it saw.
    fn since(&self, config: &WebhookClientConfig) -> i64 {
        let before = told_path(config).and_then(|path| self.key.opens(&path)).map(|(_, since)| since);
        before.filter(|since| *since <= self.now + PATH).map_or(self.now, |since| self.now.max(since + 1))
    }

    fn client_config(&self, config: &WebhookClientConfig, asked: Asked) -> Value {
        let mut told = json!({});
        if let Some(bundle) = &self.bundle {
            told["caBundle"] = BASE64_STANDARD.encode(bundle).into();
        }
        let path = self.key.path(asked, self.since(config));
        if config.service.is_some() {
            told["service"] = json!({"path": path});
        } else if let Some(mut url) = config.url.as_deref().and_then(|url| Url::parse(url).ok()) {
            url.set_path(&path);
            told["url"] = String::from(url).into();
        }
        told
    }
}

/// Whom a webhook's caller was told to believe.
pub fn believed(config: &WebhookClientConfig) -> Vec<u8> {
    config.ca_bundle.clone().unwrap_or_default().0
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::admissionregistration::v1::{ServiceReference, ValidatingWebhook};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn configuration(config: WebhookClientConfig) -> ValidatingWebhookConfiguration {
        let webhook = ValidatingWebhook { name: "a.b.c".into(), client_config: config, ..ValidatingWebhook::default() };
        ValidatingWebhookConfiguration { webhooks: Some(vec![webhook]), ..ValidatingWebhookConfiguration::default() }
    }

    fn service(path: Option<&str>, bundle: &str) -> ValidatingWebhookConfiguration {
        let service = ServiceReference {
            name: "hook".into(),
            namespace: "system".into(),
            path: path.map(str::to_owned),
            port: Some(443),
        };
        let ca_bundle = Some(ByteString(bundle.into()));
        configuration(WebhookClientConfig { ca_bundle, service: Some(service), url: None })
    }

    fn url(url: &str) -> ValidatingWebhookConfiguration {
        configuration(WebhookClientConfig { url: Some(url.to_owned()), ..WebhookClientConfig::default() })
    }

    #[test]
    fn a_path_is_told_beside_the_bundle_or_alone_and_nothing_else() {
        let (key, now) = (Key::make().unwrap(), NOW);
        let path = key.path(Asked::Deletions, NOW);
        let of = |told: &Told, configuration: &ValidatingWebhookConfiguration| {
            told.patch(configuration, Asked::Deletions)["webhooks"].clone()
        };
        let both = Told { key: key.clone(), bundle: Some(b"pem".to_vec()), now };
        let alone = Told { key, bundle: None, now };
        let webhook = |config: Value| json!([{"name": "a.b.c", "clientConfig": config}]);
        let bare = service(None, "theirs");
        assert_eq!(of(&both, &bare), webhook(json!({"caBundle": "cGVt", "service": {"path": path}})));
        assert_eq!(of(&alone, &bare), webhook(json!({"service": {"path": path}})));
        let by_url = url("https://127.0.0.1:9443/deletions");
        assert_eq!(of(&alone, &by_url), webhook(json!({"url": format!("https://127.0.0.1:9443{path}")})));
    }

    #[test]
    fn what_is_told_already_is_not_told_again() {
        let told = Told { key: Key::make().unwrap(), bundle: Some(b"pem".to_vec()), now: NOW };
        let alone = Told { key: told.key.clone(), bundle: None, now: NOW };
        let path = told.key.path(Asked::Changes, NOW);
        let known =
            |told: &Told, configuration: ValidatingWebhookConfiguration| told.is_known(&configuration, Asked::Changes);
        assert!(known(&told, service(Some(&path), "pem")) && known(&alone, service(Some(&path), "theirs")));
        assert!(!known(&told, service(Some(&path), "theirs")));
        for other in [None, Some("/validate"), Some(told.key.path(Asked::Deletions, NOW).as_str())] {
            assert!(!known(&told, service(other, "pem")) && !known(&alone, service(other, "pem")), "{other:?}");
        }
        assert!(known(&alone, url(&format!("https://127.0.0.1:9443{path}"))));
        assert!(
            !known(&alone, url("https://127.0.0.1:9443/validate")) && !known(&alone, url("https://127.0.0.1:9443"))
        );
        // It is another one each hour, whatever a clock said.
        for (since, young) in [(NOW - PATH, true), (NOW - PATH - 1, false), (NOW + PATH, true), (NOW + PATH + 1, false)]
        {
            let path = told.key.path(Asked::Changes, since);
            assert_eq!(known(&told, service(Some(&path), "pem")), young, "{since}");
        }
        // What says neither can be told nothing, which is not tried for ever.
        assert!(known(&alone, configuration(WebhookClientConfig::default())));
    }
}
