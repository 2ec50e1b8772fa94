//! Authorization servers, as clients are registered at them: their metadata, and requests sent to them.
//!
//! Invariant: a credential is put on a request here and nowhere else, and only on one that goes where its issuer's metadata,
//! or the registration itself, says; what comes back is bounded, and no error repeats what was sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use tokio::sync::Mutex as AsyncMutex;

use crate::controller::fetch::{self, Fetched};
use crate::controller::{Context, error::Failure};
use crate::egress::{Content, Egress, ExchangeError, Exchanger, Fetcher, Limits, Message, TlsOptions};
use crate::issuer::metadata::{self, MetadataError};
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
    metadata: AsyncMutex<Option<(ServerMetadata, i64)>>,
    admin: AsyncMutex<Option<(Sensitive, i64)>>,
}

/// Why nothing can be asked.
#[derive(Debug)]
pub(super) struct NotAsked {
    /// What it is.
    pub(super) what: What,
    /// In words.
    pub(super) detail: String,
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
        let (fetcher, exchanger) =
            made.map_err(|error| NotAsked { what: What::Unreachable, detail: error.to_string() })?;
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
        if known.as_ref().is_none_or(|(_, since)| now >= since.saturating_add(METADATA_SECONDS)) {
            let found = metadata::fetch(&self.fetcher, &registration.issuer).await.map_err(unreachable)?;
            *known = Some((found, now));
        }
        let Some((metadata, _)) = known.as_ref() else {
            return Err(NotAsked { what: What::Unreachable, detail: "its metadata is not known".to_owned() });
        };
        let place = Place {
            registration_endpoint: metadata.registration_endpoint.clone(),
            token_endpoint: metadata.token_endpoint.clone(),
            takes_documents: Some(metadata.client_id_metadata_document_supported),
            admin: registration.admin.as_ref().map(|admin| admin.url.clone()),
        };
        Ok((place, metadata.clone()))
    }

    /// Sends a request. What went wrong before anything was sent is told apart from what may have been done.
    pub(super) async fn send(
        &self,
        context: &Context,
        call: &Call,
        ledger: &Ledger,
        now: i64,
    ) -> Result<Result<Answer, Heard>, Failure> {
        let mut sent = call.secrets();
        let mut content = match &call.body {
            Body::None | Body::Grant => Content::Empty,
            Body::Json(text) => Content::Json(text.clone()),
        };
        let authorization = match &call.auth {
            Auth::Initial => match self.initial(context).await? {
                Ok(token) => token,
                Err(heard) => return Ok(Err(heard)),
            },
            Auth::Registration(token) => Some(token.clone()),
            Auth::Admin => match self.admin(context, now).await? {
                Ok(token) => Some(token),
                Err(heard) => return Ok(Err(heard)),
            },
            Auth::Client => {
                let Some(proof) = proof(ledger, now) else {
                    return Ok(Err(Heard::Unsent("there is nothing to prove the client by".to_owned())));
                };
                let access = Access { resources: &[], scopes: &[] };
                content = Content::Form(token_request::client_credentials(access, &proof));
                sent.extend(proof.header.iter().cloned());
                sent.extend(proof.params.iter().filter(|(name, _)| *name != "client_id").map(|(_, it)| it.clone()));
                let message = message(call, proof.header.clone(), content);
                return self.exchange(context, &message, sent).await;
            }
        };
        sent.extend(authorization.clone());
        let bearer = authorization.map(|token| Sensitive::new(format!("Bearer {}", token.expose())));
        let answered = self.exchange(context, &message(call, bearer, content), sent).await?;
        if matches!((&call.auth, &answered), (Auth::Admin, Ok(answer)) if answer.status == 401) {
            // It may have been ended before its time: the next request asks for another.
            *self.admin.lock().await = None;
        }
        Ok(answered)
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
    async fn initial(&self, context: &Context) -> Result<Result<Option<Sensitive>, Heard>, Failure> {
        let Some(SecretKey { name, key }) = &self.anchor.registration.initial_access_token else { return Ok(Ok(None)) };
        Ok(match values(context, name, &[key]).await? {
            Ok(mut values) => Ok(values.pop()),
            Err(why) => Err(Heard::Denied(why)),
        })
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
        let endpoint = self.metadata.lock().await.as_ref().and_then(|(metadata, _)| metadata.token_endpoint.clone());
        let Some(url) = endpoint else {
            return Ok(Err(Heard::Unsent("its metadata names no token endpoint".to_owned())));
        };
        let (id, secret) = match values(context, &admin.credential, &["client_id", "client_secret"]).await? {
            Ok(values) => match <[Sensitive; 2]>::try_from(values) {
                Ok([id, secret]) => (id, secret),
                Err(_) => return Ok(Err(Heard::Denied("its credentials are not whole".to_owned()))),
            },
            Err(why) => return Ok(Err(Heard::Denied(why))),
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

fn unreachable(error: MetadataError) -> NotAsked {
    NotAsked { what: What::Unreachable, detail: error.to_string() }
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

/// Values of a Secret of the system namespace, in the order of `keys`; or why they are not to be had.
async fn values(context: &Context, name: &str, keys: &[&str]) -> Result<Result<Vec<Sensitive>, String>, Failure> {
    let namespace = &context.installation.system_namespace;
    let secret = match fetch::secret(&context.client, namespace, name).await? {
        Fetched::Found(secret) => secret,
        Fetched::Absent => return Ok(Err(format!("there is no Secret {namespace}/{name}"))),
        Fetched::Forbidden => return Ok(Err(format!("the controller may not read Secret {namespace}/{name}"))),
    };
    let value = |key: &&str| {
        let bytes = secret.data.get(*key).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let text = bytes.map(str::trim_end).filter(|text| !text.is_empty());
        text.map(Sensitive::new).ok_or_else(|| format!("Secret {namespace}/{name} has no text under the key {key}"))
    };
    Ok(keys.iter().map(value).collect())
}
