//! Asks again, for as long as a stream is open, whether its caller may stay.
//!
//! Invariant: a revoked or expired token, a removed server or a narrowed trust ends the stream at the change, not at
//! the next request (identity-audit 7, row 24). What changed elsewhere is nobody's news.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use super::authenticate::{self, Caller};
use super::events::may_stay;
use super::gateway::{self, Gateway};
use super::review::Unbelieved;
use super::snapshot::Site;
use crate::fleet::Basis;

/// Longest time between two looks: a stepped clock is noticed at the latest then.
const LONGEST: Duration = Duration::from_secs(60);
/// Shortest time between two reviews of its token, should one take longer than its answer counts.
const SHORTEST: Duration = Duration::from_millis(100);

/// The question to the API server about a caller.
type Review = Pin<Box<dyn Future<Output = Result<(), Unbelieved>> + Send + Sync>>;

/// A stream's standing question.
pub(super) struct Watched {
    gateway: Arc<Gateway>,
    site: Arc<Site>,
    caller: Arc<Caller>,
    basis: Option<Basis>,
    changed: Pin<Box<dyn Future<Output = bool> + Send + Sync>>,
    due: Pin<Box<Sleep>>,
    review: Option<Review>,
}

impl Watched {
    /// Watches over a stream of `caller` at `site`.
    pub(super) fn new(gateway: &Arc<Gateway>, site: &Arc<Site>, caller: &Arc<Caller>) -> Self {
        Self {
            gateway: gateway.clone(),
            site: site.clone(),
            caller: caller.clone(),
            // Changes are awaited from before this look on.
            changed: next_change(gateway),
            basis: gateway.snapshot().fleet.basis(&site.server.path),
            // Due at once: what changed since the caller was admitted, while the upstream was asked, is seen now.
            due: Box::pin(tokio::time::sleep(Duration::ZERO)),
            review: None,
        }
    }

    /// The server.
    pub(super) fn site(&self) -> &Arc<Site> {
        &self.site
    }

    /// The caller.
    pub(super) fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// Ready when the caller's grants may have changed: `Ok`; or why it may not stay.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        if let Poll::Ready(reason) = self.poll_due(cx) {
            return Poll::Ready(Err(reason));
        }
        if self.is_in_doubt() {
            // Changes are told, and looked at, once it is known: they wait.
            return Poll::Pending;
        }
        while let Poll::Ready(gone) = self.changed.as_mut().poll(cx) {
            if gone {
                return Poll::Ready(Err("GatewayStopping"));
            }
            self.changed = next_change(&self.gateway);
            let basis = self.gateway.snapshot().fleet.basis(&self.site.server.path);
            let same = basis == self.basis;
            self.basis = basis;
            match may_stay(&self.gateway, &self.site, &self.caller) {
                Ok(()) if same => {}
                outcome => return Poll::Ready(outcome),
            }
        }
        Poll::Pending
    }

    /// Whether it is not known now if the caller is believed: nothing passes meanwhile.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.review.is_some()
    }

    /// Looks when its time has come; ready when the caller may not stay.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        loop {
            if let Some(review) = &mut self.review {
                let outcome = ready!(review.as_mut().poll(cx));
                self.review = None;
                if let Err(unbelieved) = outcome {
                    return Poll::Ready(unbelieved.reason());
                }
            } else {
                ready!(self.due.as_mut().poll(cx));
                if let Err(reason) = may_stay(&self.gateway, &self.site, &self.caller) {
                    return Poll::Ready(reason);
                }
                if authenticate::believed_for(&self.gateway, &self.caller).is_none() {
                    let snapshot = self.gateway.snapshot();
                    let site = snapshot.same(&self.site).unwrap_or(&self.site);
                    self.review = Some(Box::pin(authenticate::asked(&self.gateway, site, &self.caller)));
                    continue;
                }
            }
            let believed = authenticate::believed_for(&self.gateway, &self.caller).unwrap_or_default();
            let next = until_expiry(&self.caller).min(believed.max(SHORTEST));
            self.due.as_mut().reset(tokio::time::Instant::now() + next);
        }
    }
}

/// Ends at the next change; true if there will be none.
fn next_change(gateway: &Gateway) -> Pin<Box<dyn Future<Output = bool> + Send + Sync>> {
    let mut changes = gateway.changes();
    Box::pin(async move { changes.changed().await.is_err() })
}

fn until_expiry(caller: &Caller) -> Duration {
    // The skew that is granted to tokens is granted to their streams too: `may_stay` has the last word.
    let seconds = caller.verified.expires().saturating_sub(gateway::now()).max(1);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(1)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::super::authorize::tests::allowed_call;
    use super::super::gateway::Change;
    use super::super::review::TokenReviewer;
    use super::super::review::tests::{Fake, Server};
    use super::*;
    use crate::generated::Kind;
    use crate::identity::cache::TokenDigest;
    use crate::issuer::LocalAuthority;

    /// The stream of a caller of whom `fake` is asked, at the moment that it opens.
    async fn watched(fake: &Arc<Fake>) -> (Arc<Gateway>, Watched) {
        let dir = tempfile::tempdir().unwrap();
        let issuer = LocalAuthority::open(&dir.path().join("issuer"), "https://mcp.example/-/issuer/corp").unwrap();
        let reviewer: Arc<dyn TokenReviewer> = Arc::new(Server(fake.clone()));
        let (call, _) = allowed_call(dir.path(), &issuer, Some(reviewer)).await;
        let (gateway, site) = (call.gateway.clone(), call.site.clone());
        let digest = TokenDigest::of("token");
        let caller = Caller::of(&gateway, call.caller.verified.clone(), Some((digest, "token")));
        let watched = Watched::new(&gateway, &site, &caller);
        (gateway, watched)
    }

    #[tokio::test]
    async fn nothing_is_said_while_it_is_not_known_whether_the_caller_is_believed() {
        let fake = Fake::new(0);
        let (gateway, mut watched) = watched(&fake).await;
        // Its first look is due a moment after it opens.
        poll_fn(|cx| {
            assert!(watched.poll(cx).is_pending());
            if watched.is_in_doubt() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        gateway.apply(vec![Change::Remove(Kind::Policy, "allow-team".into())]);
        let told = watched.poll(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(told.is_pending() && watched.is_in_doubt());
        fake.gate.add_permits(1);
        assert_eq!(poll_fn(|cx| watched.poll(cx)).await, Ok(()), "then the change is told");
        assert!(!watched.is_in_doubt() && fake.questions() == 1);
    }

    #[tokio::test]
    async fn whom_the_api_server_refuses_may_not_stay() {
        let fake = Fake::new(1);
        fake.says(Ok(false));
        let (_gateway, mut watched) = watched(&fake).await;
        assert_eq!(poll_fn(|cx| watched.poll(cx)).await, Err("TokenReviewRefused"));
    }
}
