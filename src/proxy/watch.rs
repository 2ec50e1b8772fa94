//! Asks again, for as long as a stream is open, whether its caller may stay.
//!
//! Invariant: a revoked or expired token, a removed server or a narrowed trust ends the stream at the change, not at
//! the next request (identity-audit 7, row 24). What changed elsewhere is nobody's news.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::authenticate::Caller;
use super::events::may_stay;
use super::gateway::{self, Gateway};
use super::snapshot::Site;
use crate::fleet::Basis;

/// Longest time between two looks: a stepped clock is noticed at the latest then.
const LONGEST: Duration = Duration::from_secs(60);

/// A stream's standing question.
pub(super) struct Watched {
    gateway: Arc<Gateway>,
    site: Arc<Site>,
    caller: Arc<Caller>,
    basis: Option<Basis>,
    changed: Pin<Box<dyn Future<Output = bool> + Send + Sync>>,
    expiry: Pin<Box<Sleep>>,
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
            expiry: Box::pin(tokio::time::sleep(Duration::ZERO)),
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
        if self.expiry.as_mut().poll(cx).is_ready() {
            if let Err(reason) = may_stay(&self.gateway, &self.site, &self.caller) {
                return Poll::Ready(Err(reason));
            }
            self.expiry.as_mut().reset(tokio::time::Instant::now() + until_expiry(&self.caller));
            // Registers with the timer that was just set; it is at least a moment away.
            if self.expiry.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
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
