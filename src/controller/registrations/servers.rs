//! Authorization servers, as clients are registered at them: their metadata, and requests sent to them.
//!
//! Invariant: a credential is put on a request here and nowhere else, and only on one that goes where its issuer's metadata,
//! or the registration itself, says; what an administrator has lent us goes to the issuer's own origin alone, whatever its
//! metadata says. What comes back is bounded, and no error repeats what was sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, Method};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;
use url::Url;

use super::LASTING_WAIT;
use crate::controller::fetch::{self, Fetched};
use crate::controller::{Context, error::Failure};
use crate::egress::{Content, Egress, ExchangeError, Exchanger, FetchError, Fetcher, Limits, Message, TlsOptions};
use crate::issuer::metadata::{self, MetadataError};
use crate::oauth::bearer_challenge::Challenge;
use crate::oauth::client_key::ClientKey;
use crate::oauth::client_registration::AuthMethod;
use crate::oauth::server_metadata::ServerMetadata;
use crate::oauth::token_request::{self, Access, Authentication};
use crate::registration::call::{Answer, Auth, Body, Call, Heard, Place, Verb};
use crate::registration::desired::SecretKey;
use crate::registration::wanted::signing;
use crate::registration::{Ledger, What};
use crate::resolve::Registration;
use crate::sensitive::Sensitive;

/// From look-up to last byte.
const LIMITS: Limits = Limits { max_bytes: 256 * 1024, timeout: Duration::from_secs(20) };
/// How long metadata is taken to be as it was read (seconds).
const METADATA_SECONDS: i64 = 3600;
/// A server that did not say where things are is not asked again for this long (seconds).
const AWAY_SECONDS: i64 = 30;
/// A trust anchor that was just written is looked for after this (seconds).
const UNSETTLED_SECONDS: i64 = 2;
/// It has so long to say it, wherever it is looked for.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// A token for the administrative API is used no longer than until so long before it expires (seconds).
const MARGIN_SECONDS: i64 = 10;
/// How long an assertion is good (seconds).
const ASSERTION_SECONDS: u32 = 60;

/// A trust anchor, as far as clients are registered at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) struct Anchor {
    /// Its name.
    pub(super) name: String,
    /// How clients are registered.
    pub(super) registration: Arc<Registration>,
    /// PEM certificates to trust, instead of the system's.
    pub(super) ca_pem: Option<String>,
}

/// All authorization servers that are asked.
#[derive(Default)]
pub(super) struct Servers(Mutex<BTreeMap<String, Arc<Server>>>);

/// One authorization server.
pub(super) struct Server {
    anchor: Anchor,
    fetcher: Fetcher,
    exchanger: Exchanger,
    metadata: AsyncMutex<Known>,
    admin: AsyncMutex<Option<(Sensitive, i64)>>,
}

/// Why nothing can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) struct NotAsked {
    /// What it is.
    pub(super) what: What,
    /// In words.
    pub(super) detail: String,
    /// When to see whether it still is so (seconds from now).
    pub(super) wait: i64,
}

impl NotAsked {
    pub(super) fn new(what: What, detail: impl Into<String>) -> Self {
        let wait = match what {
            What::Unsettled => UNSETTLED_SECONDS,
            what if what.is_lasting() => LASTING_WAIT,
            _ => AWAY_SECONDS,
        };
        Self { what, detail: detail.into(), wait }
    }
}

/// What is known of a server's metadata.
#[derive(Debug, Default)]
struct Known {
    /// What it said last, and when (Unix seconds).
    found: Option<(ServerMetadata, i64)>,
    /// Why it said nothing since, and when.
    failed: Option<(NotAsked, i64)>,
}

impl Known {
    /// Whether it is to be asked. A clock may be set back.
    fn is_due(&self, now: i64) -> bool {
        let over = |since: i64, seconds: i64| !(since..since.saturating_add(seconds)).contains(&now);
        match (&self.failed, &self.found) {
            (Some((_, at)), _) => over(*at, AWAY_SECONDS),
            (None, Some((_, at))) => over(*at, METADATA_SECONDS),
            (None, None) => true,
        }
    }

    fn take(&mut self, told: Result<ServerMetadata, MetadataError>, now: i64) {
        match told {
            Ok(metadata) => *self = Self { found: Some((metadata, now)), failed: None },
            Err(error) => {
                if !matches!(error, MetadataError::Unavailable(_)) {
                    // It has said something, and it is not that any more.
                    self.found = None;
                }
                self.failed = Some((NotAsked::new(What::Unreachable, error.to_string()), now));
            }
        }
    }

    /// What it said last: where things were, they are, as long as nobody says otherwise. Whoever comes before it is asked again
    /// waits for that, and no longer.
    fn get(&self, now: i64) -> Result<&ServerMetadata, NotAsked> {
        match (&self.found, &self.failed) {
            (Some((metadata, _)), _) => Ok(metadata),
            (None, Some((why, at))) => {
                let left = at.saturating_add(AWAY_SECONDS).saturating_sub(now);
                Err(NotAsked { wait: left.clamp(1, AWAY_SECONDS), ..why.clone() })
            }
            (None, None) => Err(NotAsked::new(What::Unreachable, "its metadata is not known")),
        }
    }
}

impl Servers {
    /// The server of a trust anchor; another one as soon as anything about it is another.
    pub(super) fn of(&self, anchor: &Anchor, egress: &Egress) -> Result<Arc<Server>, NotAsked> {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(&anchor.name).filter(|server| server.anchor == *anchor) {
            return Ok(server.clone());
        }
        let tls = TlsOptions { ca_pem: anchor.ca_pem.clone(), server_name: None };
        let made = egress.fetcher(&tls).and_then(|fetcher| Ok((fetcher, egress.exchanger(&tls)?)));
        let (fetcher, exchanger) = made.map_err(|error| NotAsked::new(What::Unreachable, error.to_string()))?;
        let server = Arc::new(Server {
            anchor: anchor.clone(),
            fetcher,
            exchanger,
            metadata: AsyncMutex::default(),
            admin: AsyncMutex::default(),
        });
        servers.insert(anchor.name.clone(), server.clone());
        Ok(server)
    }
}

impl Server {
    /// What is known of where things are, asked for once by whoever comes first.
    pub(super) async fn place(&self, now: i64) -> Result<(Place, ServerMetadata), NotAsked> {
        let registration = &self.anchor.registration;
        let mut known = self.metadata.lock().await;
        if known.is_due(now) {
            let told = timeout(METADATA_TIMEOUT, metadata::fetch(&self.fetcher, &registration.issuer)).await;
            known.take(told.unwrap_or_else(|_| Err(late(&registration.issuer))), now);
        }
        let metadata = known.get(now)?;
        let place = Place {
            registration_endpoint: metadata.registration_endpoint.clone(),
            token_endpoint: metadata.token_endpoint.clone(),
            takes_documents: Some(metadata.client_id_metadata_document_supported),
            admin: registration.admin.as_ref().map(|admin| admin.url.clone()),
        };
        Ok((place, metadata.clone()))
    }

    /// Sends a request; as a client, that of the ledger. What went wrong before anything was sent is told apart from what may
    /// have been done.
    pub(super) async fn send(
        &self,
        context: &Context,
        call: &Call,
        ledger: Option<&Ledger>,
        now: i64,
    ) -> Result<Result<Answer, Heard>, Failure> {
        let mut sent = call.secrets();
        let content = match &call.body {
            Body::None | Body::Grant => Content::Empty,
            Body::Json(text) => Content::Json(text.clone()),
        };
        let authorization = match &call.auth {
            Auth::Initial => match self.initial(context, &call.url).await {
                Ok(token) => token,
                Err(heard) => return Ok(Err(heard)),
            },
            Auth::Registration(token) => Some(token.clone()),
            Auth::Admin => return self.administer(context, call, content, sent, now).await,
            Auth::Client => {
                let Some(ledger) = ledger else {
                    return Ok(Err(Heard::Unsent("there is no client to ask as".to_owned())));
                };
                let access = Access { resources: &[], scopes: &[] };
                return self.grant(context, &call.url, ledger, access, now).await;
            }
        };
        sent.extend(authorization.clone());
        self.exchange(context, &message(call, authorization.as_ref().map(bearer), content), sent).await
    }

    /// Where a registration is not taken from us, with what to renew: servers answer alike for a token that is used up, that has
    /// expired, and that they never gave.
    pub(super) fn with_remedy(&self, context: &Context, call: &Call, heard: Heard) -> Heard {
        let (Heard::Denied(detail), Auth::Initial) = (&heard, &call.auth) else { return heard };
        Heard::Denied(match &self.anchor.registration.initial_access_token {
            Some(SecretKey { name, key }) => {
                let namespace = &context.installation.system_namespace;
                format!(
                    "{detail}. The initial access token may be used up, or have expired: put a new one under the key {key} of \
                     Secret {namespace}/{name}"
                )
            }
            None => format!(
                "{detail}. If it takes registrations with an initial access token alone, name one in \
                 spec.registration.initialAccessTokenRef of McpAuthorizationServer {}",
                self.anchor.name
            ),
        })
    }

    /// Asks the administrative API. A token that we had may have been ended before its time: then another one is tried, once.
    async fn administer(
        &self,
        context: &Context,
        call: &Call,
        content: Content,
        mut sent: Vec<Sensitive>,
        now: i64,
    ) -> Result<Result<Answer, Heard>, Failure> {
        let mut was_held = self.admin.lock().await.is_some();
        loop {
            let token = match self.admin(context, now).await? {
                Ok(token) => token,
                Err(heard) => return Ok(Err(heard)),
            };
            sent.push(token.clone());
            let message = message(call, Some(bearer(&token)), content.clone());
            let answered = self.exchange(context, &message, sent.clone()).await?;
            if !matches!(&answered, Ok(answer) if answer.status == 401) {
                return Ok(answered);
            }
            let mut held = self.admin.lock().await;
            if held.as_ref().is_some_and(|(known, _)| *known == token) {
                *held = None;
            }
            if !std::mem::take(&mut was_held) {
                return Ok(answered);
            }
        }
    }

    /// Asks for a token as the current client.
    pub(super) async fn grant(
        &self,
        context: &Context,
        url: &str,
        ledger: &Ledger,
        access: Access<'_>,
        now: i64,
    ) -> Result<Result<Answer, Heard>, Failure> {
        let Some(proof) = proof(ledger, now) else {
            return Ok(Err(Heard::Unsent("there is nothing to prove the client by".to_owned())));
        };
        let content = Content::Form(token_request::client_credentials(access, &proof));
        let secrets = proof.params.iter().filter(|(name, _)| *name != "client_id").map(|(_, it)| it);
        // The header has the secret in another form.
        let secret = ledger.current.iter().filter_map(|current| current.client_secret.as_ref());
        let sent = proof.header.iter().chain(secrets).chain(secret).cloned().collect();
        let message = Message { method: Method::POST, url: url.to_owned(), authorization: proof.header, content };
        self.exchange(context, &message, sent).await
    }

    async fn exchange(
        &self,
        context: &Context,
        message: &Message,
        sent: Vec<Sensitive>,
    ) -> Result<Result<Answer, Heard>, Failure> {
        let answered = context.while_leading(self.exchanger.send(message, LIMITS)).await?;
        Ok(match answered {
            Ok(answer) => Ok(Answer {
                status: answer.status,
                denies_token: Challenge::read(answer.challenges.iter().map(HeaderValue::as_bytes))
                    .is_some_and(|challenge| challenge.error.as_deref() == Some("invalid_token")),
                retry_after: answer.retry_after.and_then(|after| u32::try_from(after.as_secs()).ok()),
                body: answer.body.to_vec(),
                sent,
            }),
            Err(error @ ExchangeError::Redirect { .. }) => Err(Heard::Refused(error.to_string())),
            Err(error) if error.was_sent() => Err(Heard::Unknown(error.to_string())),
            Err(error) => Err(Heard::Unsent(error.to_string())),
        })
    }

    /// The initial access token, if there is to be one.
    async fn initial(&self, context: &Context, url: &str) -> Result<Option<Sensitive>, Heard> {
        let Some(SecretKey { name, key }) = &self.anchor.registration.initial_access_token else { return Ok(None) };
        self.is_own("registration_endpoint", url, "the initial access token")?;
        Ok(values(context, name, &[key]).await?.pop())
    }

    /// Whether what an administrator has lent us may be sent to `url`: only to whom they named, and metadata names others too.
    fn is_own(&self, member: &str, url: &str, what: &str) -> Result<(), Heard> {
        let issuer = &self.anchor.registration.issuer;
        let origin = |text: &str| Url::parse(text).ok().map(|url| url.origin());
        if origin(url).is_some_and(|of| Some(of) == origin(issuer)) {
            return Ok(());
        }
        let url: String = url.chars().take(200).collect();
        Err(Heard::Denied(format!(
            "its metadata has {member} {url}, which is not at the scheme, host and port of {issuer}: {what} is not sent there"
        )))
    }

    /// A token for the administrative API.
    async fn admin(&self, context: &Context, now: i64) -> Result<Result<Sensitive, Heard>, Failure> {
        let mut held = self.admin.lock().await;
        if let Some((token, _)) = held.as_ref().filter(|(_, until)| now < *until) {
            return Ok(Ok(token.clone()));
        }
        let Some(admin) = &self.anchor.registration.admin else {
            return Ok(Err(Heard::Denied("there are no credentials for its administrative API".to_owned())));
        };
        let endpoint = self.metadata.lock().await.get(now).ok().and_then(|metadata| metadata.token_endpoint.clone());
        let Some(url) = endpoint else {
            return Ok(Err(Heard::Unsent("its metadata names no token endpoint".to_owned())));
        };
        if let Err(heard) = self.is_own("token_endpoint", &url, "the administrative client's secret") {
            return Ok(Err(heard));
        }
        let (id, secret) = match values(context, &admin.credential, &["client_id", "client_secret"]).await {
            Ok(values) => match <[Sensitive; 2]>::try_from(values) {
                Ok([id, secret]) => (id, secret),
                Err(_) => return Ok(Err(Heard::Denied("its credentials are not whole".to_owned()))),
            },
            Err(heard) => return Ok(Err(heard)),
        };
        let proof = Authentication::client_secret_basic(id.expose(), &secret);
        let form = token_request::client_credentials(Access { resources: &[], scopes: &[] }, &proof);
        let message = Message { method: Method::POST, url, authorization: proof.header, content: Content::Form(form) };
        let answer = match self.exchange(context, &message, vec![secret]).await? {
            Ok(answer) => answer,
            // Asking for a token does nothing that has to be remembered.
            Err(Heard::Unknown(detail)) => return Ok(Err(Heard::Unsent(detail))),
            Err(heard) => return Ok(Err(heard)),
        };
        if answer.status != 200 {
            let sent: Vec<&Sensitive> = answer.sent.iter().collect();
            let refusal = token_request::refusal(answer.status, &answer.body, &sent);
            let detail = format!(
                "the administrative client {} gets no token: status {}, {}",
                admin.credential,
                answer.status,
                refusal.error.unwrap_or("no reason")
            );
            return Ok(Err(match answer.status {
                429 | 500.. => Heard::Later { retry_after: answer.retry_after, status: answer.status },
                _ => Heard::Denied(detail),
            }));
        }
        Ok(match token_request::parse_token(&answer.body, now) {
            Ok(token) => {
                let until = token.expires_at.unwrap_or(now).saturating_sub(MARGIN_SECONDS);
                *held = Some((token.access_token.clone(), until));
                Ok(token.access_token)
            }
            Err(error) => Err(Heard::Denied(format!("the administrative client gets no token: {error}"))),
        })
    }
}

fn bearer(token: &Sensitive) -> Sensitive {
    Sensitive::new(format!("Bearer {}", token.expose()))
}

fn late(issuer: &str) -> MetadataError {
    let detail = format!("no answer within {} s", METADATA_TIMEOUT.as_secs());
    MetadataError::Unavailable(FetchError::Http { url: issuer.to_owned(), detail })
}

fn message(call: &Call, authorization: Option<Sensitive>, content: Content) -> Message {
    let method = match call.verb {
        Verb::Get => Method::GET,
        Verb::Post => Method::POST,
        Verb::Put => Method::PUT,
        Verb::Delete => Method::DELETE,
    };
    Message { method, url: call.url.clone(), authorization, content }
}

/// What proves the client at its token endpoint.
fn proof(ledger: &Ledger, now: i64) -> Option<Authentication> {
    let current = ledger.current.as_ref()?;
    let id = current.client_id.as_str();
    if let Some(key) = signing(ledger) {
        let pkcs8 = BASE64_STANDARD.decode(key.pkcs8.expose()).ok()?;
        let jti = uuid::Uuid::now_v7().to_string();
        let assertion =
            ClientKey::new(&pkcs8).ok()?.assertion(id, &ledger.issuer, now, ASSERTION_SECONDS, &jti).ok()?;
        return Some(Authentication::private_key_jwt(id, &assertion));
    }
    let secret = current.client_secret.as_ref()?;
    Some(match current.auth_method {
        AuthMethod::ClientSecretPost => Authentication::client_secret_post(id, secret),
        _ => Authentication::client_secret_basic(id, secret),
    })
}

/// Values of a Secret of the system namespace, in the order of `keys`; or why they are not to be had. Nothing was sent then,
/// whatever the reason: one that is the API server's is no other.
async fn values(context: &Context, name: &str, keys: &[&str]) -> Result<Vec<Sensitive>, Heard> {
    let namespace = &context.installation.system_namespace;
    let found = fetch::secret(&context.client, namespace, name).await;
    let secret = match found.map_err(|failure| Heard::Unsent(failure.to_string()))? {
        Fetched::Found(secret) => secret,
        Fetched::Absent => {
            let keys = keys.join(" and ");
            return Err(Heard::Lacking(format!("there is no Secret {namespace}/{name}: make it, with {keys}")));
        }
        Fetched::Forbidden => {
            return Err(Heard::Lacking(format!("the controller may not read Secret {namespace}/{name}")));
        }
    };
    let value = |key: &&str| {
        let bytes = secret.data.get(*key).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let text = bytes.map(str::trim_end).filter(|text| !text.is_empty());
        let missing = || Heard::Lacking(format!("Secret {namespace}/{name} has no text under the key {key}"));
        text.map(Sensitive::new).ok_or_else(missing)
    };
    keys.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::Policy;
    use crate::registration::desired::Profile;

    fn metadata() -> ServerMetadata {
        let issuer = "https://as.example";
        ServerMetadata::parse(br#"{"issuer":"https://as.example"}"#, issuer).unwrap()
    }

    #[test]
    fn a_server_that_is_away_is_not_asked_by_everybody_and_what_it_said_counts_meanwhile() {
        let mut known = Known::default();
        assert!(known.is_due(100));
        known.take(Err(late("https://as.example")), 100);
        assert!(!known.is_due(100 + AWAY_SECONDS - 1) && known.is_due(100 + AWAY_SECONDS));
        let wait = |now: i64| known.get(now).unwrap_err().wait;
        // Looks come back up to a tenth before their time.
        let looks = [100, 110, 100 + AWAY_SECONDS - 1, 100 + AWAY_SECONDS, 99].map(wait);
        assert_eq!(looks, [AWAY_SECONDS, AWAY_SECONDS - 10, 1, 1, AWAY_SECONDS], "nobody waits for it twice");
        known.take(Ok(metadata()), 200);
        assert!(!known.is_due(200 + METADATA_SECONDS - 1) && known.is_due(200 + METADATA_SECONDS));
        assert!(known.is_due(100), "the clock was set back");
        known.take(Err(late("https://as.example")), 4000);
        assert_eq!(known.get(4000), Ok(&metadata()));
        assert!(!known.is_due(4001));
        // One that speaks for another by now has said that it is not there any more.
        known.take(Err(MetadataError::Issuer), 5000);
        assert!(known.get(5000).is_err());
    }

    #[test]
    fn what_an_administrator_lent_us_goes_to_the_issuers_origin_alone() {
        let issuer = "https://sso.example/realms/corp";
        let registration = Registration {
            issuer: issuer.to_owned(),
            profile: Profile::Keycloak,
            methods: Vec::new(),
            initial_access_token: None,
            admin: None,
        };
        let anchor = Anchor { name: "corp".to_owned(), registration: Arc::new(registration), ca_pem: None };
        let server = Servers::default().of(&anchor, &Egress::new(Policy::default()).unwrap()).unwrap();
        let is_own = |url: &str| server.is_own("token_endpoint", url, "it");
        assert_eq!(is_own("https://sso.example/other/token"), Ok(()));
        assert_eq!(is_own("https://sso.example:443/token"), Ok(()));
        for url in [
            "https://sso.example:8443/t",
            "http://sso.example/t",
            "https://evil.example/t",
            "https://sso.example.evil/t",
        ] {
            let Err(Heard::Denied(detail)) = is_own(url) else { panic!("{url}") };
            assert!(detail.contains(url) && detail.contains(issuer), "{detail}");
        }
    }
}
