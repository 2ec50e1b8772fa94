//! Whom the upstreams of a folder trust, asked again and again.
//!
//! Invariant: what is known of an upstream is what it said last to the question as it is, across restarts too, and silence
//! changes nothing of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::api::Key;
use crate::egress::Egress;
use crate::oauth::upstream_trust::{Known, Question, Trust, pause};
use crate::process::Drain;
use crate::roles::serving::StateDir;
use crate::upstream::trust;

/// How many upstreams are asked at once.
const AT_ONCE: usize = 8;
/// Where what upstreams said is kept.
const KEPT: &str = "upstreams.json";

/// What upstreams said whom they trust.
pub struct Trusts {
    egress: Egress,
    every: Duration,
    state: StateDir,
    drain: Drain,
    heard: Mutex<BTreeMap<Key, Heard>>,
    turns: Semaphore,
    news: Notify,
}

struct Heard {
    known: Known,
    /// Ends whoever asks; `None`: nobody does yet.
    asking: Option<DropGuard>,
}

impl Trusts {
    /// What was said to an earlier run is known.
    ///
    /// # Errors
    /// If what was kept cannot be read.
    pub fn open(egress: Egress, every: Duration, state: StateDir, drain: Drain) -> anyhow::Result<Self> {
        let kept: Vec<(Key, Known)> = state.load(KEPT)?;
        let heard = kept.into_iter().map(|(key, known)| (key, Heard { known, asking: None })).collect();
        let turns = Semaphore::new(AT_ONCE);
        Ok(Self { egress, every, state, drain, heard: Mutex::new(heard), turns, news: Notify::new() })
    }

    /// What is known.
    pub fn known(&self) -> BTreeMap<Key, Known> {
        self.all().iter().map(|(key, heard)| (key.clone(), heard.known.clone())).collect()
    }

    /// Asks these from now on, and no others.
    pub fn follow(self: &Arc<Self>, questions: BTreeMap<Key, Question>) {
        let mut all = self.all();
        all.retain(|key, heard| questions.get(key) == Some(&heard.known.question));
        for (key, question) in questions {
            let heard = all
                .entry(key.clone())
                .or_insert_with(|| Heard { known: Known::nothing(question.clone()), asking: None });
            if heard.asking.is_none() {
                let ended = self.drain.draining().child_token();
                heard.asking = Some(ended.clone().drop_guard());
                self.drain.spawn(self.clone().ask(key, question, ended));
            }
        }
    }

    /// Ends when there is something to say that was not known before.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    async fn ask(self: Arc<Self>, key: Key, question: Question, ended: CancellationToken) {
        let mut failures = 0;
        loop {
            let asking = async {
                let _turn = self.turns.acquire().await;
                trust(&question, &self.egress).await
            };
            let Some(outcome) = ended.run_until_cancelled(Box::pin(asking)).await else { return };
            failures = if outcome.is_ok() { 0 } else { failures + 1 };
            let outcome = outcome.map_err(|error| (error.reason().to_owned(), error.to_string()));
            if self.record(&key, &question, outcome) {
                self.news.notify_one();
            }
            let waiting = ended.run_until_cancelled(tokio::time::sleep(pause(failures, self.every)));
            if waiting.await.is_none() {
                return;
            }
        }
    }

    /// Whether it is news.
    fn record(&self, key: &Key, question: &Question, outcome: Result<Trust, (String, String)>) -> bool {
        let mut all = self.all();
        let Some(heard) = all.get_mut(key).filter(|heard| heard.known.question == *question) else { return false };
        if !heard.known.hear(outcome) {
            return false;
        }
        let kept: Vec<(&Key, &Known)> = all.iter().map(|(key, heard)| (key, &heard.known)).collect();
        if let Err(error) = self.state.save(KEPT, &kept) {
            tracing::warn!(error = format!("{error:#}"), "what upstreams said whom they trust is not kept");
        }
        true
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Key, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
