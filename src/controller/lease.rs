//! The Lease by which controllers elect a leader, as one of them holds it.
//!
//! Invariant: [`Fence::is_open`] is true only for as long as nobody else can have taken the lease; every write happens
//! inside of [`Fence::while_open`], and is given up when it closes. Who cannot renew in time says so, and its process ends:
//! another takes over.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::leader::{Seen, Step, Terms, decide};

/// The Lease's name, in the system namespace.
pub const NAME: &str = "portcullis-leader";
/// How soon a failed attempt is repeated.
const RETRY: Duration = Duration::from_secs(1);
/// How long one attempt may take: short enough for another before the deadline.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Until when this process may write. Clones are the same fence.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<Mutex<Option<Instant>>>);

impl Fence {
    /// Whether this process may write now.
    pub fn is_open(&self) -> bool {
        self.until().is_some_and(|until| Instant::now() < until)
    }

    /// Does something that writes, while it is open. `None`: it closed first, and nobody knows whether it was done. After a
    /// pause of the process the fence is asked before anything is gone on with.
    pub async fn while_open<T>(&self, act: impl Future<Output = T>) -> Option<T> {
        let mut act = std::pin::pin!(act);
        loop {
            let until = self.until().filter(|until| Instant::now() < *until)?;
            tokio::select! {
                biased;
                // It may have been renewed meanwhile.
                () = sleep_until(until.into()) => {}
                done = &mut act => return Some(done),
            }
        }
    }

    fn until(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Another controller leads, or the API server could not be told in time that this one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the leader Lease {NAME} could not be renewed in time, or another controller holds it: this process ends")]
pub struct Lost;

/// A candidate for the lease.
pub struct Candidate {
    api: Api<Lease>,
    identity: String,
    terms: Terms,
    fence: Fence,
    start: Instant,
    seen: Option<(Seen, Lease)>,
}

impl Candidate {
    /// A candidate who has not looked yet. `identity` is this process's alone, in all the world and for all time.
    pub fn new(client: Client, namespace: &str, identity: String, fence: Fence) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, identity, terms: Terms::default(), fence, start: Instant::now(), seen: None }
    }

    /// Waits until this candidate leads, or `stop`.
    pub async fn lead(&mut self, stop: &CancellationToken) {
        loop {
            let wait = match self.step().await {
                Ok(Some(wait)) => wait,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(reason = error.reason(), %error, "the leader Lease cannot be read or written");
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// Looks, and perhaps takes the lease. `None`: it was taken.
    async fn step(&mut self) -> Result<Option<Duration>, ApiError> {
        self.look().await?;
        match decide(self.seen.as_ref().map(|(seen, _)| seen), &self.identity, &self.terms, self.start.elapsed()) {
            Step::Wait(wait) => Ok(Some(wait)),
            // One's own lease, of a write whose answer was lost, is written once more, so as to know when that was.
            Step::Acquire | Step::Renew => Ok(if self.write().await? { None } else { Some(Duration::ZERO) }),
        }
    }

    /// Keeps the lease until `stop`.
    ///
    /// # Errors
    /// Once it may be another's.
    pub async fn keep(&mut self, stop: &CancellationToken) -> Result<(), Lost> {
        let mut wait = self.terms.renew;
        loop {
            let Some(left) = self.fence.until().map(|until| until.saturating_duration_since(Instant::now())) else {
                return Err(Lost);
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(wait.min(left)) => {}
            }
            if !self.fence.is_open() {
                return Err(Lost);
            }
            wait = match self.renew().await {
                Ok(true) => self.terms.renew,
                Ok(false) => {
                    self.fence.open(None);
                    return Err(Lost);
                }
                Err(error) => {
                    tracing::warn!(reason = error.reason(), %error, "the leader Lease was not renewed");
                    RETRY
                }
            };
        }
    }

    /// Renews. `false`: it is another's.
    async fn renew(&mut self) -> Result<bool, ApiError> {
        if self.write().await? {
            return Ok(true);
        }
        // Somebody wrote to it: perhaps this process, with an answer that was lost, or somebody who only annotated it.
        self.look().await?;
        let mine = self.seen.as_ref().is_some_and(|(seen, _)| seen.holder.as_deref() == Some(&self.identity));
        if mine { self.write().await } else { Ok(false) }
    }

    /// Gives the lease back, so that another need not wait for it to run out.
    pub async fn release(mut self) {
        self.fence.open(None);
        let Some((_, mut lease)) = self.seen.take() else { return };
        if let Some(spec) = &mut lease.spec {
            (spec.holder_identity, spec.renew_time) = (None, Some(MicroTime(Timestamp::now())));
        }
        // Whoever took it meanwhile has another version. If it fails, another waits a little longer.
        if let Ok(Err(error)) = timeout(ATTEMPT, self.api.replace(NAME, &PostParams::default(), &lease)).await {
            let error = ApiError::new("giving back the leader Lease", &error);
            tracing::info!(reason = error.reason(), %error, "the leader Lease runs out by itself");
        }
    }

    async fn look(&mut self) -> Result<(), ApiError> {
        let found = bounded("looking at the leader Lease", self.api.get_opt(NAME)).await?;
        let now = self.start.elapsed();
        self.seen = found.map(|lease| {
            let earlier = self.seen.as_ref().map(|(seen, _)| seen);
            (seen(&lease, now).after(earlier), lease)
        });
        Ok(())
    }

    /// Writes this candidate into the lease as it was last seen. `false`: it was changed, or made, by somebody since.
    async fn write(&mut self) -> Result<bool, ApiError> {
        let sent = Instant::now();
        let lease = self.mine();
        let params = PostParams::default();
        let written = if self.seen.is_some() {
            bounded("renewing the leader Lease", self.api.replace(NAME, &params, &lease)).await
        } else {
            bounded("making the leader Lease", self.api.create(&params, &lease)).await
        };
        match written {
            Ok(lease) => {
                self.seen = Some((seen(&lease, self.start.elapsed()), lease));
                self.fence.open(Some(sent + self.terms.deadline));
                Ok(true)
            }
            // 404: it was deleted since.
            Err(ApiError::Refused { code: 404 | 409, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn mine(&self) -> Lease {
        let now = Some(MicroTime(Timestamp::now()));
        let mut lease = match &self.seen {
            Some((_, lease)) => lease.clone(),
            None => Lease { metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() }, spec: None },
        };
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time.clone_from(&now);
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default().saturating_add(1));
        }
        spec.lease_duration_seconds = i32::try_from(self.terms.duration.as_secs()).ok();
        spec.renew_time = now;
        lease
    }
}

fn seen(lease: &Lease, since: Duration) -> Seen {
    let spec = lease.spec.as_ref();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    Seen {
        holder: spec.and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty()),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        duration: Duration::from_secs(seconds.unwrap_or_default()),
        since,
    }
}

async fn bounded<T>(what: &str, asked: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    match timeout(ATTEMPT, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(ApiError::new(what, &error)),
        Err(_) => {
            let cause = format!("no answer within {} s", ATTEMPT.as_secs());
            Err(ApiError::Unreachable { what: what.to_owned(), cause })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn what_writes_is_given_up_when_the_fence_closes_and_not_when_it_moved_on() {
        let fence = Fence::default();
        assert_eq!(fence.while_open(ready(1)).await, None, "it was never open");
        let soon = || Some(Instant::now() + Duration::from_millis(50));
        fence.open(soon());
        assert_eq!(fence.while_open(ready(1)).await, Some(1));
        assert_eq!(fence.while_open(pending::<()>()).await, None);
        assert!(!fence.is_open());
        fence.open(soon());
        let late = async {
            fence.open(Some(Instant::now() + Duration::from_secs(60)));
            sleep(Duration::from_millis(100)).await;
        };
        assert_eq!(fence.while_open(late).await, Some(()));
    }
}
