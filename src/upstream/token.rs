//! Asks an issuer for tokens, as the client that the gateway is there.
//!
//! Invariant: what proves the client goes to the issuer's token endpoint only, and so does a caller's token; what comes back
//! is a token for the upstream's resource and for nobody else: asked for by that name (RFC 8707), or with that name as its
//! audience. No failure says anything of what was sent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Method;

use super::UpstreamError;
use crate::egress::{Answer, Content, Egress, ExchangeError, Exchanger, Limits, Message, TlsOptions};
use crate::generated::server::{Grant, Oauth, Proof};
use crate::oauth::RefusalKind;
use crate::oauth::client_key::ClientKey;
use crate::oauth::token_request::{self, Access, Authentication, Token};
use crate::sensitive::Sensitive;

mod audience;

pub(super) use audience::Audience;
use audience::Fault;

/// For one request: a call may wait for it.
const LIMITS: Limits = Limits { max_bytes: 64 * 1024, timeout: Duration::from_secs(15) };
/// How long an assertion is good (seconds).
const ASSERTION_SECONDS: u32 = 60;

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFailure {
    /// The issuer gives no answer, or cannot answer now.
    #[error("the issuer gives no token now: {detail}")]
    Unavailable {
        /// In words.
        detail: String,
        /// How long it wants to be left alone, if it says so.
        retry_after: Option<Duration>,
    },
    /// Nobody was asked: too many wait for their turn.
    #[error("too many ask for a token at once, and the issuer is slow: try again")]
    Crowded,
    /// The issuer refuses.
    #[error("the issuer refuses a token (status {status}, {error}){}", described(.description.as_deref()))]
    Refused {
        /// The status.
        status: u16,
        /// The error code, if it is one that the specifications know.
        error: &'static str,
        /// The issuer's words, cleaned.
        description: Option<String>,
    },
    /// What it gave is no token that could be used.
    #[error(transparent)]
    Unusable(#[from] token_request::TokenError),
    /// What it gave does not say that it is for the upstream.
    #[error("the issuer gave a token whose audience is not {resource}: have it put there (docs/upstreams.md)")]
    Audience {
        /// What it should be for.
        resource: String,
    },
    /// What it gave is for somebody else, alone or besides.
    #[error("the issuer gave a token for {other}, and not for {resource} alone: see docs/upstreams.md")]
    OtherAudience {
        /// What it should be for.
        resource: String,
        /// What it is for as well.
        other: String,
    },
    /// What it gave has not the scopes that it was asked for because the upstream wants them.
    #[error("the issuer gives a token without them")]
    Narrower,
    /// What it gave has ended.
    #[error("the issuer gave a token that has ended already: how long do its tokens last?")]
    Ended,
    /// What it gave for a caller's token is that token, which goes to no upstream.
    #[error("the issuer gave the caller's own token back, which goes to no upstream: have it issue one for {resource}")]
    Returned {
        /// What it should be for.
        resource: String,
    },
    /// Tokens are got by callers' tokens, and there is no caller.
    #[error("tokens for this upstream are got with a caller's token, and the gateway asks for itself")]
    NoCaller,
    /// The caller's token is of another issuer than the one that would be asked.
    #[error("the caller's token is of {authority}, and is exchanged at its own issuer only")]
    ForeignCaller {
        /// The caller's authority.
        authority: String,
    },
}

fn described(description: Option<&str>) -> String {
    description.map_or_else(String::new, |text| format!(": {text}"))
}

impl TokenFailure {
    /// A stable word for records, conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            TokenFailure::Unavailable { .. } | TokenFailure::Crowded => "UpstreamTokenUnavailable",
            TokenFailure::Refused { .. } => "UpstreamTokenRefused",
            TokenFailure::Unusable(error) => error.reason(),
            TokenFailure::Audience { .. } | TokenFailure::OtherAudience { .. } => "UpstreamTokenAudience",
            TokenFailure::Narrower => super::tokens::SCOPES_LACKING,
            TokenFailure::Ended => "UpstreamTokenEnded",
            TokenFailure::Returned { .. } => "CallerTokenReturned",
            TokenFailure::NoCaller => "CallerTokenNeeded",
            TokenFailure::ForeignCaller { .. } => "CallerOfOtherIssuer",
        }
    }
}

/// A token that can be sent to the upstream.
pub(super) struct Granted {
    pub(super) token: Token,
    /// For whom it says that it is.
    pub(super) audience: Audience,
}

/// A client at its issuer.
pub(super) struct TokenClient {
    pub(super) oauth: Oauth,
    key: Option<ClientKey>,
    exchanger: Exchanger,
}

impl TokenClient {
    pub(super) fn new(oauth: &Oauth, egress: &Egress) -> Result<Self, UpstreamError> {
        let tls = TlsOptions { ca_pem: oauth.ca_pem.clone(), server_name: None };
        let key = match &oauth.proof {
            Proof::Basic(_) | Proof::Post(_) => None,
            Proof::Key(text) => {
                let error = || UpstreamError::Credential { name: "client".to_owned(), why: "has a key that is none" };
                let pkcs8 = BASE64_STANDARD.decode(text.expose()).map_err(|_| error())?;
                Some(ClientKey::new(&pkcs8).map_err(|_| error())?)
            }
        };
        Ok(Self { oauth: oauth.clone(), key, exchanger: egress.exchanger(&tls)? })
    }

    /// Asks for a token with these scopes; `subject` is the caller's, where the grant needs it. If the upstream has chosen some of
    /// them, `before` is for whom a token without those is.
    pub(super) async fn ask(
        &self,
        subject: Option<&Sensitive>,
        scopes: &[String],
        before: Option<&Audience>,
    ) -> Result<Granted, TokenFailure> {
        let oauth = &self.oauth;
        let proof = self.proof()?;
        let resources: &[String] = if oauth.says_resource { std::slice::from_ref(&oauth.resource) } else { &[] };
        let access = Access { resources, scopes };
        let form = match (&oauth.grant, subject) {
            (Grant::ClientCredentials, _) => token_request::client_credentials(access, &proof),
            (Grant::TokenExchange { .. }, Some(subject)) => {
                token_request::token_exchange(subject, None, access, &proof)
            }
            (Grant::JwtBearer { .. }, Some(subject)) => token_request::jwt_bearer(subject, access, &proof),
            (Grant::TokenExchange { .. } | Grant::JwtBearer { .. }, None) => return Err(TokenFailure::NoCaller),
        };
        let message = Message {
            method: Method::POST,
            url: oauth.token_endpoint.clone(),
            authorization: proof.header.clone(),
            content: Content::Form(form),
        };
        let answer = self.exchanger.send(&message, LIMITS).await;
        let unavailable =
            |error: ExchangeError| TokenFailure::Unavailable { detail: error.to_string(), retry_after: None };
        let answer = answer.map_err(unavailable)?;
        if answer.status != 200 {
            let params = proof.params.iter().filter(|(name, _)| *name != "client_id").map(|(_, value)| value);
            let sent: Vec<&Sensitive> = params.chain(&proof.header).chain(self.secret()).chain(subject).collect();
            return Err(refused(&answer, &sent));
        }
        let (now, resource) = (now(), || oauth.resource.clone());
        let token = token_request::parse_token(&answer.body, now)?;
        if subject.is_some_and(|subject| *subject == token.access_token) {
            return Err(TokenFailure::Returned { resource: resource() });
        }
        if token.expires_at.is_some_and(|expires| expires <= now) {
            return Err(TokenFailure::Ended);
        }
        let audience = Audience::of(&token.access_token);
        let wider = |()| before.map_or(Ok(()), |before| audience.judge_wider(before, oauth));
        match audience.judge(oauth).and_then(wider) {
            Ok(()) => Ok(Granted { token, audience }),
            Err(Fault::Unsaid) => Err(TokenFailure::Audience { resource: resource() }),
            Err(Fault::Other(other)) => Err(TokenFailure::OtherAudience { resource: resource(), other }),
        }
    }

    fn secret(&self) -> Option<&Sensitive> {
        match &self.oauth.proof {
            Proof::Basic(secret) | Proof::Post(secret) => Some(secret),
            Proof::Key(_) => None,
        }
    }

    fn proof(&self) -> Result<Authentication, TokenFailure> {
        let (id, issuer) = (self.oauth.client_id.as_str(), self.oauth.issuer.as_str());
        let detail = || "the client's assertion cannot be signed".to_owned();
        let unsigned = || TokenFailure::Unavailable { detail: detail(), retry_after: None };
        Ok(match (&self.oauth.proof, &self.key) {
            (Proof::Basic(secret), _) => Authentication::client_secret_basic(id, secret),
            (Proof::Post(secret), _) => Authentication::client_secret_post(id, secret),
            (Proof::Key(_), Some(key)) => {
                let jti = uuid::Uuid::now_v7().to_string();
                let assertion = key.assertion(id, issuer, now(), ASSERTION_SECONDS, &jti).map_err(|_| unsigned())?;
                Authentication::private_key_jwt(id, &assertion)
            }
            (Proof::Key(_), None) => return Err(unsigned()),
        })
    }
}

fn refused(answer: &Answer, sent: &[&Sensitive]) -> TokenFailure {
    let (status, retry_after) = (answer.status, answer.retry_after);
    let refusal = token_request::refusal(status, &answer.body, sent);
    if refusal.kind == RefusalKind::Later {
        return TokenFailure::Unavailable { detail: format!("it answered with status {status}"), retry_after };
    }
    TokenFailure::Refused { status, error: refusal.error.unwrap_or("no reason"), description: refusal.description }
}

/// Unix seconds.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}
