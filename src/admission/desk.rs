//! From the bytes of a review to the bytes of its answer.
//!
//! Invariant: there is an answer, or a refusal in words, before the API server's patience ends; the bytes that are worked on
//! at once are bounded; and nobody is answered from a world that is not complete.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::follow::Known;
use super::judge::{Decided, LookedUp, judge, wanted};
use super::metrics::Metrics;
use super::response::Response;
use super::review::{MOST_BYTES, Malformed, read};
use super::share::{Room, Share};
use super::{live, rights};
use crate::api::Kind;

/// ConfigMaps that are held at once, of at most a megabyte each, besides the reviews that ask for them. More wait.
const CONFIG_MAPS_AT_ONCE: usize = 64;
/// How many may wait or be worked on. More are put off.
const MOST_REVIEWS: usize = 512;

/// How long the API server may take to send one, which it has in memory.
const BODY: Duration = Duration::from_secs(3);

/// Why a review was not answered. The API server refuses what was asked for, with these words, or lets a deletion pass.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Not a review of ours.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// Too long.
    #[error("a review has at most {MOST_BYTES} bytes")]
    TooLarge,
    /// It broke off, or is not sent.
    #[error("the review broke off, or does not come")]
    Incomplete,
    /// Too many at once.
    #[error("the admission webhook of Portcullis has too much to do; try again")]
    Overloaded,
    /// Not everything is known yet.
    #[error("the admission webhook of Portcullis has not read all of the cluster's objects yet; try again")]
    Starting,
    /// The API server could not be asked.
    #[error("the admission webhook of Portcullis cannot look up what the object refers to; try again: {0}")]
    LookUp(String),
    /// It took too long.
    #[error("the admission webhook of Portcullis could not answer within {} s; try again", .0.as_secs())]
    Late(Duration),
    /// A fault of ours.
    #[error("the admission webhook of Portcullis failed, which is a fault of its own: its log says more")]
    Fault,
}

impl Unanswered {
    /// Every reason that there is, for counters.
    pub const REASONS: [&'static str; 8] =
        ["Malformed", "TooLarge", "Incomplete", "Overloaded", "Starting", "LookUpFailed", "Late", "Fault"];

    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Unanswered::Malformed(_) => "Malformed",
            Unanswered::TooLarge => "TooLarge",
            Unanswered::Incomplete => "Incomplete",
            Unanswered::Overloaded => "Overloaded",
            Unanswered::Starting => "Starting",
            Unanswered::LookUp(_) => "LookUpFailed",
            Unanswered::Late(_) => "Late",
            Unanswered::Fault => "Fault",
        }
    }

    /// As HTTP says it. The API server repeats what is put off by 429, while it has time.
    pub fn status(&self) -> StatusCode {
        match self {
            Unanswered::Malformed(_) | Unanswered::Incomplete => StatusCode::BAD_REQUEST,
            Unanswered::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Unanswered::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Unanswered::Starting => StatusCode::SERVICE_UNAVAILABLE,
            Unanswered::LookUp(_) | Unanswered::Fault => StatusCode::INTERNAL_SERVER_ERROR,
            Unanswered::Late(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// Where reviews are answered.
pub struct Desk {
    client: Client,
    known: Known,
    metrics: Metrics,
    room: Room,
    config_maps: Arc<Semaphore>,
    reviews: AtomicUsize,
}

impl Desk {
    /// Answers from what is known, and what `client` may look up.
    pub fn new(client: Client, known: Known, metrics: Metrics) -> Self {
        let config_maps = Arc::new(Semaphore::new(CONFIG_MAPS_AT_ONCE));
        Self { client, known, metrics, room: Room::default(), config_maps, reviews: AtomicUsize::default() }
    }

    /// Answers a review within `patience`.
    ///
    /// # Errors
    /// If it cannot be answered.
    pub async fn answer(&self, body: Incoming, patience: Duration) -> Result<Vec<u8>, Unanswered> {
        let begun = Instant::now();
        let _seat = Seat::take(&self.reviews).ok_or(Unanswered::Overloaded).inspect_err(|error| self.count(error))?;
        let answered = timeout(patience, self.review(body)).await.unwrap_or(Err(Unanswered::Late(patience)));
        self.metrics.took(begun.elapsed().as_secs_f64());
        answered.map(|response| response.encode()).inspect_err(|error| self.count(error))
    }

    fn count(&self, error: &Unanswered) {
        self.metrics.failed(error.reason());
        // What a stranger can send as often as it likes fills no log.
        match error {
            Unanswered::LookUp(_) | Unanswered::Late(_) | Unanswered::Fault => {
                tracing::warn!(reason = error.reason(), %error, "a review was not answered");
            }
            _ => tracing::debug!(reason = error.reason(), %error, "a review was not answered"),
        }
    }

    async fn review(&self, body: Incoming) -> Result<Response, Unanswered> {
        if !self.known.is_complete() {
            return Err(Unanswered::Starting);
        }
        let (body, share) = self.receive(body).await?;
        let share = Arc::new(share);
        let known = self.known.clone();
        let (review, keys) = self
            .work(&share, move || {
                let review = read(&body)?;
                let keys = wanted(&review, &known.world());
                Ok::<_, Malformed>((Arc::new(review), keys))
            })
            .await??;
        let config_maps = keys.iter().filter(|key| key.kind == Kind::ConfigMap).count().min(CONFIG_MAPS_AT_ONCE);
        let config_maps = u32::try_from(config_maps).unwrap_or(u32::MAX);
        let held = self.config_maps.clone().acquire_many_owned(config_maps).await.map_err(|_| Unanswered::Fault)?;
        let found = live::find(self.client.clone(), keys.clone()).await.map_err(Unanswered::LookUp)?;
        // What is held goes with them.
        let found = Arc::new((LookedUp { asked: keys, found }, held));
        let (known, asked, looked_up) = (self.known.clone(), review.clone(), found.clone());
        let judged = self.work(&share, move || judge(&asked, &known.world(), &looked_up.0)).await?;
        let refused = rights::refused(&self.client, &review.user, judged.needs()).await;
        let (known, asked, now) = (self.known.clone(), review.clone(), Timestamp::now().as_second());
        let response = match judged.decide(&refused) {
            Decided::Final(response) => response,
            decided => self.work(&share, move || decided.tell(&asked, &known.world(), &found.0, now)).await?,
        };
        self.metrics.answered(&review, &response);
        Ok(response)
    }

    /// All of a body, and the room that it takes: no more than has come of it, whatever it says of its length.
    async fn receive(&self, body: Incoming) -> Result<(Bytes, Share), Unanswered> {
        if body.size_hint().lower() > MOST_BYTES as u64 {
            return Err(Unanswered::TooLarge);
        }
        let mut share = self.room.share();
        share.grow(0).await;
        let (mut body, mut all, mut patience) = (pin!(Limited::new(body, MOST_BYTES)), BytesMut::new(), BODY);
        loop {
            // Only its sender's time counts here. Waiting for room is bounded by the patience of whoever asks.
            let begun = Instant::now();
            let frame = timeout(patience, body.frame()).await.map_err(|_| Unanswered::Incomplete)?;
            patience = patience.saturating_sub(begun.elapsed());
            match frame.transpose() {
                Ok(None) => return Ok((all.freeze(), share)),
                Ok(Some(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    share.grow(all.len() + data.len()).await;
                    all.extend_from_slice(&data);
                }
                Err(error) if error.is::<LengthLimitError>() => return Err(Unanswered::TooLarge),
                Err(_) => return Err(Unanswered::Incomplete),
            }
        }
    }

    /// Computes on a thread that nobody waits for. What is given up still has its share until it ends.
    async fn work<T: Send + 'static>(
        &self,
        share: &Arc<Share>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let share = share.clone();
        let done = spawn_blocking(move || {
            let done = work();
            drop(share);
            done
        });
        done.await.map_err(|_| Unanswered::Fault)
    }
}

/// One of the reviews that there may be at once.
struct Seat<'a>(&'a AtomicUsize);

impl<'a> Seat<'a> {
    fn take(reviews: &'a AtomicUsize) -> Option<Self> {
        let seat = Self(reviews);
        (reviews.fetch_add(1, Ordering::AcqRel) < MOST_REVIEWS).then_some(seat)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
