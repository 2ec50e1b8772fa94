//! Asking every server for its tools, again and again, beside the queue.
//!
//! Invariant: a server that answers late or never holds up neither a look at an object nor, but for its own turn, another
//! server; what is known of one never outlives it; and what came of it is said by a look at the server like all else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::told::{Basis, Failed, Heard, Listed};
use super::{keep, sum_up};
use crate::api::Key;
use crate::controller::Context;
use crate::controller::error::Failure;
use crate::controller::queue::{Depth, Outcome, Queue, Subject};
use crate::egress::Egress;
use crate::generated::{Kind, Server};
use crate::upstream::{Bounds, DiscoverError, Upstream, inventory};

/// How many servers are asked at once.
const AT_ONCE: usize = 8;
/// How long one may take: while it does, another waits.
const TIME: Duration = Duration::from_secs(30);
/// How long after a failure a server is asked again; twice as long after each further one, up to the usual time.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// How long after a failure the removal of strays is tried again.
const STRAYS_RETRY: Duration = Duration::from_secs(5);

/// What is known of the tools of all servers.
pub struct Inventories {
    egress: Egress,
    every: Option<Duration>,
    turns: Queue,
    known: Mutex<HashMap<String, Known>>,
}

struct Known {
    basis: Basis,
    heard: Heard,
    failures: u32,
}

impl Inventories {
    /// Servers are asked as often as this, over the controller's own way out; `None`: never.
    pub fn new(egress: Egress, every: Option<Duration>) -> Self {
        Self { egress, every, turns: Queue::default(), known: Mutex::default() }
    }

    /// Whether servers are asked at all.
    pub fn are_taken(&self) -> bool {
        self.every.is_some()
    }

    /// A server was applied: it is asked soon if it is to be asked for something else than before, and no more if `basis`
    /// is `None`.
    pub fn follow(&self, key: &Key, uid: &str, basis: Option<Basis>) {
        let Some(basis) = basis.filter(|_| self.are_taken()) else { return self.forget(uid) };
        let mut known = self.known();
        if known.get(uid).is_none_or(|known| known.basis != basis) {
            known.insert(uid.to_owned(), Known { basis, heard: Heard::default(), failures: 0 });
            drop(known);
            self.turns.add(Subject::Source(key.clone()), Depth::Whole);
        }
    }

    /// A server is gone, or takes no calls.
    pub fn forget(&self, uid: &str) {
        self.known().remove(uid);
    }

    /// What is known of a server's tools; `None`: it is not asked.
    pub fn heard(&self, uid: &str) -> Option<(Basis, Heard)> {
        self.known().get(uid).map(|known| (known.basis, known.heard.clone()))
    }

    /// Takes over what came of asking; when to ask again, and whether there is something to say. `None`: nobody wants to
    /// know any more, or something else by now.
    fn record(
        &self,
        uid: &str,
        basis: Basis,
        outcome: Result<Listed, Failed>,
        every: Duration,
    ) -> Option<(Duration, bool)> {
        let mut all = self.known();
        let known = all.get_mut(uid).filter(|known| known.basis == basis)?;
        let before = known.heard.clone();
        match outcome {
            Ok(listed) => {
                known.failures = 0;
                known.heard = Heard { listed: Some(listed), failure: None };
            }
            Err(failed) => {
                known.failures += 1;
                known.heard.failure = Some(failed);
            }
        }
        let pause = match known.failures.checked_sub(1) {
            None => every,
            Some(earlier) => FIRST_RETRY.saturating_mul(1 << earlier.min(20)).min(every),
        };
        Some((pause, known.heard != before))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the servers, until `stop`. For whoever leads.
pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let work = TaskTracker::new();
    if let Some(every) = context.inventories.every {
        for _ in 0..AT_ONCE {
            work.spawn(stop.clone().run_until_cancelled_owned(ask_in_turn(context.clone(), every)));
        }
    }
    work.spawn(stop.run_until_cancelled_owned(remove_strays(context)));
    work.close();
    work.wait().await;
}

async fn ask_in_turn(context: Arc<Context>, every: Duration) {
    let turns = &context.inventories.turns;
    loop {
        let (subject, _) = turns.next().await;
        let outcome = match &subject {
            Subject::Source(key) => ask(&context, key, every).await,
            Subject::Stray(..) | Subject::Registered(_) | Subject::Unowned(_) | Subject::Near(_) => Outcome::Settled,
        };
        turns.done(subject, outcome);
    }
}

/// Asks one server, keeps what it lists, and has it said.
async fn ask(context: &Context, key: &Key, every: Duration) -> Outcome {
    let Some((uid, server)) = known(context, key) else { return Outcome::Settled };
    // What is to be written may not be written yet: whoever still follows it asks again.
    let not_now = |context: &Context| match context.inventories.heard(&uid) {
        Some(_) => Outcome::Again(FIRST_RETRY.min(every)),
        None => Outcome::Settled,
    };
    let Some((server, basis)) = server.and_then(|server| Basis::of(&server).map(|basis| (server, basis))) else {
        return not_now(context);
    };
    // In a box: most of the time there is none.
    let found = Box::pin(take(&server, &context.inventories.egress)).await;
    context.metrics.inventory(found.is_ok());
    let (outcome, objects) = match found {
        Ok(listed) => {
            let listed: Vec<&str> = listed.iter().map(|raw| raw.get()).collect();
            let found = sum_up(&server, &listed);
            let tools = Arc::new(serde_json::to_value(&found.status).unwrap_or_default());
            (Ok(Listed { tools, drift: found.drift }), Some(found.objects))
        }
        Err(error) => {
            let failed = Failed::from(&error);
            tracing::debug!(server = %key, reason = failed.reason, error = failed.message, "no inventory");
            (Err(failed), None)
        }
    };
    let Some((pause, is_news)) = context.inventories.record(&uid, basis, outcome, every) else {
        return not_now(context);
    };
    if is_news {
        context.queue.add(Subject::Source(key.clone()), Depth::Status);
    }
    let kept = match objects {
        Some(objects) => keep::write(context, &uid, objects).await,
        None => Ok(()),
    };
    // It may have gone meanwhile, and what there was of it may have been removed before this was written.
    if context.store().owner(Kind::Server, &uid).is_none() {
        context.queue.add(Subject::Stray(Kind::Server, uid), Depth::Whole);
        return Outcome::Settled;
    }
    match kept {
        Ok(()) => Outcome::Again(pause),
        Err(failure) => {
            context.metrics.failed(&failure);
            tracing::warn!(server = %key, reason = failure.reason(), error = %failure, "an inventory was not kept");
            Outcome::Again(FIRST_RETRY.min(every))
        }
    }
}

/// The UID of a server, and the server as proxies are given it.
fn known(context: &Context, key: &Key) -> Option<(String, Option<Server>)> {
    let store = context.store();
    let uid = store.source(key)?.id.uid.clone();
    let server = store.last_server(&uid);
    Some((uid, server))
}

async fn take(server: &Server, egress: &Egress) -> Result<Vec<Box<serde_json::value::RawValue>>, DiscoverError> {
    let upstream = Upstream::new(&server.upstream, egress)?;
    Ok(inventory(&upstream, &Bounds { time: TIME, ..Bounds::default() }).await?.tools)
}

async fn remove_strays(context: Arc<Context>) {
    while let Err(failure) = keep::remove_strays(&context).await {
        if matches!(failure, Failure::NotLeading) {
            return;
        }
        context.metrics.failed(&failure);
        tracing::warn!(reason = failure.reason(), error = %failure, "inventories of former servers stay for now");
        sleep(STRAYS_RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::egress;
    use crate::generated::Digest;

    const MINUTE: Duration = Duration::from_secs(60);

    fn basis(byte: u8) -> Basis {
        Basis { digest: Digest([byte; 32]), locked: false }
    }

    fn key() -> Key {
        Key { kind: crate::api::Kind::McpServer, namespace: "team".into(), name: "s".into() }
    }

    fn inventories(every: Option<Duration>) -> Inventories {
        Inventories::new(Egress::new(egress::Policy::default()).unwrap(), every)
    }

    fn listed() -> Result<Listed, Failed> {
        Ok(Listed { tools: Arc::new(json!({"count": 1})), drift: None })
    }

    fn failed() -> Result<Listed, Failed> {
        Err(Failed { reason: "UpstreamTimeout", message: "late".into() })
    }

    #[test]
    fn who_fails_is_asked_ever_more_rarely_and_only_news_is_said() {
        let all = inventories(Some(MINUTE));
        all.follow(&key(), "u", Some(basis(1)));
        let record = |outcome| all.record("u", basis(1), outcome, MINUTE);
        assert_eq!(record(listed()), Some((MINUTE, true)));
        assert_eq!(record(listed()), Some((MINUTE, false)));
        let pauses: Vec<_> = (0..6).map(|_| record(failed()).unwrap()).collect();
        let seconds: Vec<u64> = pauses.iter().map(|(pause, _)| pause.as_secs()).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 60, 60]);
        assert_eq!(pauses.iter().filter(|(_, is_news)| *is_news).count(), 1);
        assert!(all.heard("u").unwrap().1.listed.is_some(), "what was listed last");
        assert_eq!(record(listed()), Some((MINUTE, true)));
    }

    #[test]
    fn a_server_has_a_turn_when_it_is_asked_for_something_else_and_is_forgotten_when_it_is_not_asked() {
        let all = inventories(Some(MINUTE));
        all.follow(&key(), "u", Some(basis(1)));
        assert_eq!(all.turns.depth(), 1);
        all.record("u", basis(1), listed(), MINUTE);
        all.follow(&key(), "u", Some(basis(1)));
        assert!(all.heard("u").unwrap().1.listed.is_some(), "the same again changes nothing");
        all.follow(&key(), "u", Some(basis(2)));
        assert_eq!(all.heard("u"), Some((basis(2), Heard::default())));
        assert_eq!(all.record("u", basis(1), listed(), MINUTE), None, "an answer to an earlier question");
        all.follow(&key(), "u", None);
        assert_eq!(all.heard("u"), None);

        let none = inventories(None);
        none.follow(&key(), "u", Some(basis(1)));
        assert_eq!((none.heard("u"), none.turns.depth()), (None, 0));
    }
}
