//! Who is calling: every HTTP request, whatever connection or session it comes on (mcp-obligations 1).
//!
//! Invariant: a [`Caller`] that this module returns was admitted for this server at this moment: signature (now or
//! earlier, under unchanged keys and rules), time, audience, authority, revocation and baseline scopes; and, where its
//! authority wants that, by the API server within the window of [`super::review`].

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::gateway::{self, Gateway};
use super::respond::{self, Refused};
use super::review::{Standing, Unbelieved};
use super::snapshot::{Site, Snapshot};
use super::streams::Share;
use crate::audit::PrincipalFields;
use crate::identity::bearer;
use crate::identity::cache::{TokenDigest, VerifiedCache};
use crate::identity::token::{self, Missing, TokenError, Verified, review};
use crate::mcp::answer::Own;
use crate::policy::index::PrincipalKeys;
use crate::seal::{Owner, Purpose};
use crate::sensitive::Sensitive;
use crate::upstream::{Subject, Upstream};

/// What is said of every token that is refused, whatever is wrong with it.
const INVALID: &str = "the access token is not valid for this server";

/// How many callers are remembered.
pub const TOKENS: usize = 16 * 1024;

/// A verified token and what is derived from it once.
#[derive(Debug)]
pub struct Caller {
    /// What the token proves.
    pub verified: Verified,
    /// The keys under which policies may know its principal.
    pub keys: PrincipalKeys,
    /// How many calls its principal may have under way.
    pub calls: Arc<Share>,
    /// How many streams its principal may listen on.
    pub listeners: Arc<Share>,
    /// What the API server says of the token, if it is to be asked.
    pub standing: Option<Arc<Standing>>,
}

impl Caller {
    /// What follows from a token that was proven; given is one of which the API server is asked.
    pub(super) fn of(gateway: &Gateway, verified: Verified, asked_about: Option<(TokenDigest, &str)>) -> Arc<Self> {
        let keys = PrincipalKeys::of(verified.principal());
        let (calls, listeners) = (gateway.calls.of(verified.binding()), gateway.listeners.of(verified.binding()));
        let standing = asked_about.map(|(digest, token)| gateway.reviews.standing(digest, token));
        Arc::new(Self { verified, keys, calls, listeners, standing })
    }

    /// The caller in records, by this token's id if one is meant.
    pub fn fields<'a>(&'a self, token_jti: Option<&'a str>) -> PrincipalFields<'a> {
        let principal = self.verified.principal();
        PrincipalFields {
            authority: &principal.authority,
            issuer: &principal.issuer,
            tenant: principal.tenant.as_deref(),
            subject: &principal.subject,
            kind: principal.kind.as_str(),
            client: principal.client.as_deref(),
            actor: principal.actor.as_ref().map(|actor| &*actor.subject),
            token_jti,
        }
    }
}

impl AsRef<Verified> for Caller {
    fn as_ref(&self) -> &Verified {
        &self.verified
    }
}

/// The callers of late.
pub type Callers = VerifiedCache<Caller>;

/// Whom an id that leaves the gateway belongs to.
pub fn owner<'a>(purpose: Purpose, site: &'a Site, caller: &'a Caller) -> Owner<'a> {
    Owner {
        purpose,
        server_uid: &site.server.id.uid,
        upstream: &site.server.upstream.url,
        principal: caller.verified.binding(),
    }
}

/// The caller's own token, for an upstream that is called with what it is exchanged for; else it goes nowhere.
pub(super) fn subject(upstream: &Upstream, caller: &Caller, headers: &HeaderMap) -> Option<Subject> {
    if !upstream.needs_callers() {
        return None;
    }
    let token = Sensitive::new(bearer::extract(headers, None).ok()?);
    let principal = caller.verified.principal();
    let (authority, issuer) = (principal.authority.to_string(), principal.issuer.to_string());
    Some(Subject { token, authority, issuer, expires: caller.verified.expires() })
}

/// Notes that a request to `site` is not authenticated: among the failures of strangers, for it may be anybody's.
pub(super) fn note(gateway: &Gateway, site: &Site, refused: &Refused, peer: IpAddr) {
    gateway.metrics().unauthenticated.inc();
    gateway.failures.note(&site.server.id.display_name(), refused.reason, peer);
}

/// Authenticates a request to `site`, or says what the caller is told.
pub(super) async fn authenticate(
    gateway: &Gateway,
    site: &Site,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<Arc<Caller>, Refused> {
    let text = bearer::extract(headers, query).map_err(|error| {
        let response = respond::challenge(site.challenges.bearer(error), None, &error.to_string());
        Refused::with(error.reason(), response)
    })?;
    let now = gateway::now();
    let digest = TokenDigest::of(text);
    // A token that was proven under other keys or rules is not found, and is proven anew.
    if let Some(caller) = gateway.callers.get(&digest, site.anchors()) {
        admit(&caller, site, now).map_err(|error| refused(site, &error))?;
        stand(gateway, site, &caller).await?;
        return Ok(caller);
    }
    let verified = match token::verify(text, site.anchors(), now) {
        Err(error) => match error.refreshable() {
            Some(missing) => after_refresh(gateway, site, missing, text, now).await,
            None => Err(error),
        },
        verified => verified,
    };
    let verified = verified.map_err(|error| refused(site, &error))?;
    let asked_about = verified.needs_review().then_some((digest, text));
    let caller = Caller::of(gateway, verified, asked_about);
    gateway.callers.insert(digest, caller.clone());
    // What a refresh brought is in a newer snapshot than `site`.
    let snapshot = gateway.snapshot();
    let current = snapshot.site(&site.server.path).map_or(site, |site| site);
    admit(&caller, current, now).map_err(|error| refused(site, &error))?;
    stand(gateway, current, &caller).await?;
    Ok(caller)
}

/// Whether the API server stands by an admitted caller, where it is to be asked.
async fn stand(gateway: &Gateway, site: &Site, caller: &Arc<Caller>) -> Result<(), Refused> {
    if believed_for(gateway, caller).is_some() {
        return Ok(());
    }
    asked(gateway, site, caller).await.map_err(|unbelieved| refused_after_review(site, unbelieved))?;
    // The answer may have taken long.
    again(gateway, site, caller).map(drop)
}

/// For how long nobody has to be asked about a caller, beginning now; `None`: the API server has to be.
pub(super) fn believed_for(gateway: &Gateway, caller: &Caller) -> Option<Duration> {
    caller.standing.as_ref().map_or(Some(Duration::MAX), |standing| gateway.reviews.believed_for(standing))
}

/// Asks the API server about a caller, who is not believed without.
pub(super) fn asked(
    gateway: &Gateway,
    site: &Site,
    caller: &Arc<Caller>,
) -> impl Future<Output = Result<(), Unbelieved>> + Send + Sync + use<> {
    // Of a caller who may not use the server any more there is nothing to ask.
    let admitted = token::admit(&caller.verified, &site.trust(), gateway::now());
    let audiences = admitted.map(|admitted| admitted.audiences().map(str::to_owned).collect()).unwrap_or_default();
    let (reviews, caller) = (gateway.reviews.clone(), caller.clone());
    async move {
        let Some(standing) = caller.standing.clone() else { return Ok(()) };
        let judge = move |asked: &[String], answer: &review::Answer| review::judge(&caller.verified, asked, answer);
        reviews.ask(standing, audiences, judge).await
    }
}

/// Verifies once more after the authority's keys may have been fetched again (identity-audit 1.5).
async fn after_refresh(
    gateway: &Gateway,
    site: &Site,
    missing: Missing<'_>,
    text: &str,
    now: i64,
) -> Result<Verified, TokenError> {
    match missing {
        Missing::Key { authority, kid } => gateway.keys().refresh(authority, kid).await,
        Missing::AllKeys { authority } => gateway.keys().first_keys(authority).await,
    }
    let snapshot: Arc<Snapshot> = gateway.snapshot();
    let anchors = snapshot.site(&site.server.path).map_or(site.anchors(), |site| site.anchors());
    token::verify(text, anchors, now)
}

/// Whether a caller that was verified may still use this server: also asked of open streams when something changed.
pub fn admit(caller: &Caller, site: &Site, now: i64) -> Result<(), TokenError> {
    token::admit(&caller.verified, &site.trust(), now).map(drop)
}

/// What holds now, for a caller who was let in a while ago: a revocation or a change counts for what is under way too.
pub(super) fn again(gateway: &Gateway, site: &Site, caller: &Caller) -> Result<(Arc<Snapshot>, Arc<Site>), Refused> {
    let snapshot = gateway.snapshot();
    let Some(current) = snapshot.same(site).cloned() else {
        return Err(Refused::with("ServerGone", respond::status(StatusCode::NOT_FOUND)));
    };
    admit(caller, &current, gateway::now()).map_err(|error| refused(&current, &error))?;
    Ok((snapshot, current))
}

fn refused_after_review(site: &Site, unbelieved: Unbelieved) -> Refused {
    let (server, reason) = (site.server.id.display_name(), unbelieved.reason());
    tracing::debug!(server, reason, "token refused after a review");
    let response = match unbelieved {
        Unbelieved::Refused(_) => respond::challenge(site.challenges.invalid_token(), None, INVALID),
        Unbelieved::Unavailable => {
            let message = "tokens cannot be reviewed now: the cluster's API server does not say whether they are good";
            respond::retry(respond::answer(Own::NotServed.answer(None, message)), 5)
        }
    };
    Refused::with(reason, response)
}

fn refused(site: &Site, error: &TokenError) -> Refused {
    let server = site.server.id.display_name();
    tracing::debug!(server, reason = error.reason(), %error, "token refused");
    let response = match error.refusal(&site.challenges) {
        Some(refusal) => respond::challenge(refusal, None, INVALID),
        None => {
            let message = "tokens cannot be verified now: the authorization server's keys are not available";
            respond::retry(respond::answer(Own::NotServed.answer(None, message)), 5)
        }
    };
    Refused::with(error.reason(), response)
}

#[cfg(test)]
mod tests {
    use super::super::authorize::tests::{allowed_call, authority};
    use super::super::review::tests::{Fake, Server};
    use super::super::review::{NoAnswer, TokenReviewer};
    use super::*;
    use crate::generated::authority::Revocation;
    use crate::issuer::LocalAuthority;

    #[tokio::test]
    async fn a_token_revoked_while_the_api_server_is_asked_is_refused_and_silence_is_not_the_tokens_fault() {
        for (says, revoked, outcome) in [
            (Ok(true), false, None),
            (Ok(true), true, Some(("TokenRevoked", 401))),
            (Ok(false), false, Some(("TokenReviewRefused", 401))),
            (Err(NoAnswer::Forbidden), false, Some(("TokenReviewUnavailable", 503))),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let issuer = LocalAuthority::open(&dir.path().join("issuer"), "https://mcp.example/-/issuer/corp").unwrap();
            let fake = Fake::new(0);
            fake.says(says);
            let reviewer: Arc<dyn TokenReviewer> = Arc::new(Server(fake.clone()));
            let (call, jti) = allowed_call(dir.path(), &issuer, Some(reviewer)).await;
            let asked_about = Some((TokenDigest::of("token"), "token"));
            let caller = Caller::of(&call.gateway, call.caller.verified.clone(), asked_about);
            let mut standing = Box::pin(stand(&call.gateway, &call.site, &caller));
            assert!(tokio::time::timeout(Duration::ZERO, standing.as_mut()).await.is_err(), "it waits for the answer");
            if revoked {
                call.gateway.apply(vec![authority(&issuer, vec![Revocation::Token { jti }])]);
            }
            fake.gate.add_permits(1);
            let refused = standing.await.err().map(|refused| (refused.reason, refused.response.status().as_u16()));
            assert_eq!(refused, outcome);
        }
    }
}
