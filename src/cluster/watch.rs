//! One collection, followed.
//!
//! Invariant: objects are handed out as they are, unread, so that one which cannot be read stops nobody; an object that is
//! gone is told once, from its metadata alone, whether its deletion was seen or found out by listing again; and after
//! whatever failure the collection is listed from its beginning, so that the end of a failure is always told, by `Synced`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures_util::{Stream, StreamExt as _, stream};
use kube::Api;
use kube::api::DynamicObject;
use kube::runtime::watcher::{self, Config};
use tokio::time::sleep;

use super::client;

/// How long one watch lasts before it is taken up again where it ended: also how long a connection that is silently gone
/// goes unnoticed, about.
pub const LASTS_SECONDS: u32 = 60;
/// How long after a failure the collection is listed again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What happened to a collection.
#[derive(Clone)]
pub enum Event {
    /// The collection is about to be listed from its beginning: until `Synced`, objects come in no order, and what is told
    /// of them may be older than what was told before, since a cluster may have been restored.
    Begun,
    /// An object is new or changed, or was found when listing.
    Put(Box<DynamicObject>),
    /// An object is gone.
    Gone {
        /// Its namespace; empty for cluster-scoped kinds.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID, as it was last seen.
        uid: String,
        /// Another of its name is there, and told of next.
        replaced: bool,
    },
    /// Everything that was there when listing began has been told.
    Synced,
    /// The API server cannot be reached, or refuses: in words, without content. It is tried again.
    Failed(String),
}

/// Follows what `api` lists under a label selector (empty: all), for ever.
pub fn watch(api: Api<DynamicObject>, labels: &str) -> impl Stream<Item = Event> + Send + use<> {
    let config = Config::default();
    follow(api, if labels.is_empty() { config } else { config.labels(labels) })
}

/// Follows the one object of this name, for ever.
pub fn watch_one(api: Api<DynamicObject>, name: &str) -> impl Stream<Item = Event> + Send + use<> {
    follow(api, Config::default().fields(&format!("metadata.name={name}")))
}

fn follow(api: Api<DynamicObject>, config: Config) -> impl Stream<Item = Event> + Send + use<> {
    let config = config.timeout(LASTS_SECONDS);
    // A watcher that goes on after a failure resumes, and does not say when it could: another one begins.
    let opened = stream::unfold(Pauses::default(), move |mut pauses| {
        let (api, config) = (api.clone(), config.clone());
        async move {
            sleep(pauses.next(Instant::now())).await;
            Some((until_it_fails(watcher::watcher(api, config)), pauses))
        }
    });
    let mut known = Known::default();
    opened.flatten().flat_map(move |event| stream::iter(known.take(event)))
}

/// All up to the first failure, and that. What failed is not asked for more: it may go on, and have nothing to say for hours.
fn until_it_fails<T, E>(events: impl Stream<Item = Result<T, E>>) -> impl Stream<Item = Result<T, E>> {
    stream::unfold(Some(Box::pin(events)), async |events| {
        let mut events = events?;
        let event = events.next().await?;
        let rest = event.is_ok().then_some(events);
        Some((event, rest))
    })
}

/// How long is waited between failures.
#[derive(Default)]
struct Pauses {
    backoff: Option<ExponentialBackoff>,
    opened: Option<Instant>,
}

impl Pauses {
    /// What is waited at `now`. Nothing before the first time; and after it was followed for longer than the longest pause,
    /// the shortest again.
    fn next(&mut self, now: Instant) -> Duration {
        let wait = self.opened.map_or(Duration::ZERO, |opened| {
            if now.saturating_duration_since(opened) > RETRY.1 {
                self.backoff = None;
            }
            self.backoff.get_or_insert_with(backoff).next().unwrap_or(RETRY.1)
        });
        self.opened = Some(now + wait);
        wait
    }
}

fn backoff() -> ExponentialBackoff {
    let backoff = ExponentialBuilder::default().with_min_delay(RETRY.0).with_max_delay(RETRY.1);
    backoff.without_max_times().with_jitter().build()
}

/// Which objects there are.
#[derive(Default)]
struct Known {
    /// UIDs by namespace and name.
    present: HashMap<(String, String), String>,
    /// Those found by the listing under way.
    listed: HashMap<(String, String), String>,
}

impl Known {
    fn take(&mut self, event: Result<watcher::Event<DynamicObject>, watcher::Error>) -> Vec<Event> {
        match event {
            Ok(watcher::Event::Init) => {
                self.listed.clear();
                vec![Event::Begun]
            }
            Ok(watcher::Event::InitApply(object)) => {
                let (key, uid) = identity(&object);
                self.listed.insert(key.clone(), uid.clone());
                self.put(key, uid, object)
            }
            Ok(watcher::Event::InitDone) => {
                let gone = self.present.extract_if(|key, _| !self.listed.contains_key(key));
                let mut events: Vec<Event> = gone.map(|(key, uid)| departed(key, uid, false)).collect();
                self.listed.clear();
                events.push(Event::Synced);
                events
            }
            Ok(watcher::Event::Apply(object)) => {
                let (key, uid) = identity(&object);
                self.put(key, uid, object)
            }
            Ok(watcher::Event::Delete(object)) => {
                let (key, uid) = identity(&object);
                let known = self.present.remove(&key);
                vec![departed(key, known.unwrap_or(uid), false)]
            }
            Err(error) => vec![Event::Failed(in_words(&error))],
        }
    }

    /// An object of the same name with another UID is another object: the earlier one is gone.
    fn put(&mut self, key: (String, String), uid: String, object: DynamicObject) -> Vec<Event> {
        let earlier = self.present.insert(key.clone(), uid.clone()).filter(|earlier| *earlier != uid);
        let gone = earlier.map(|earlier| departed(key, earlier, true));
        gone.into_iter().chain([Event::Put(Box::new(object))]).collect()
    }
}

fn departed((namespace, name): (String, String), uid: String, replaced: bool) -> Event {
    Event::Gone { namespace, name, uid, replaced }
}

fn identity(object: &DynamicObject) -> ((String, String), String) {
    let metadata = &object.metadata;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    ((text(&metadata.namespace), text(&metadata.name)), text(&metadata.uid))
}

/// What went wrong, without what was being read: a decoding error may quote a Secret.
fn in_words(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) => format!("cannot list: {}", client::in_words(error)),
        watcher::Error::WatchStartFailed(error) => format!("cannot watch: {}", client::in_words(error)),
        watcher::Error::WatchError(status) => format!("the watch ended: {} ({})", status.message, status.code),
        watcher::Error::WatchFailed(error) => format!("the watch broke: {}", client::in_words(error)),
        watcher::Error::NoResourceVersion => "the answer has no resource version".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectMeta;

    use super::*;

    fn object(name: &str, uid: &str) -> DynamicObject {
        let metadata = ObjectMeta {
            namespace: Some("n".into()),
            name: Some(name.into()),
            uid: Some(uid.into()),
            ..ObjectMeta::default()
        };
        DynamicObject { types: None, metadata, data: serde_json::json!({"unreadable": []}) }
    }

    fn told(known: &mut Known, event: watcher::Event<DynamicObject>) -> Vec<String> {
        let word = |event: &Event| match event {
            Event::Begun => "begun".to_owned(),
            Event::Put(object) => format!("put {}", object.metadata.uid.as_deref().unwrap_or_default()),
            Event::Gone { name, uid, .. } => format!("gone {name} {uid}"),
            Event::Synced => "synced".to_owned(),
            Event::Failed(_) => "failed".to_owned(),
        };
        known.take(Ok(event)).iter().map(word).collect()
    }

    #[test]
    fn what_is_gone_is_told_once_whether_its_deletion_was_seen_or_not() {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let mut known = Known::default();
        assert_eq!(told(&mut known, Init), ["begun"]);
        assert_eq!(told(&mut known, InitApply(object("a", "1"))), ["put 1"]);
        assert_eq!(told(&mut known, InitApply(object("b", "2"))), ["put 2"]);
        assert_eq!(told(&mut known, InitDone), ["synced"]);
        assert_eq!(told(&mut known, Apply(object("c", "3"))), ["put 3"]);
        assert_eq!(told(&mut known, Delete(object("c", "3"))), ["gone c 3"]);
        // Deleted and made anew while nobody looked.
        assert_eq!(told(&mut known, Init), ["begun"]);
        assert_eq!(told(&mut known, InitApply(object("a", "9"))), ["gone a 1", "put 9"]);
        assert_eq!(told(&mut known, InitDone), ["gone b 2", "synced"]);
        assert_eq!(told(&mut known, Init), ["begun"]);
        assert_eq!(told(&mut known, InitApply(object("a", "9"))), ["put 9"]);
        assert_eq!(told(&mut known, InitDone), ["synced"]);
    }

    #[tokio::test]
    async fn after_a_failure_nothing_more_is_taken_from_a_watcher() {
        // It goes on, and nothing happens for hours.
        let events = stream::iter([Ok(1), Ok(2), Err(3)]).chain(stream::pending());
        let taken: Vec<Result<i32, i32>> = until_it_fails(events).collect().await;
        assert_eq!(taken, [Ok(1), Ok(2), Err(3)]);
    }

    #[test]
    fn pauses_grow_while_it_goes_on_failing_and_begin_anew_after_it_was_followed() {
        let (mut pauses, mut now) = (Pauses::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..10 {
            let wait = pauses.next(now);
            waits.push(wait);
            now += wait;
        }
        assert!(waits[0].is_zero() && waits[1] >= RETRY.0 && waits[9] >= RETRY.1, "{waits:?}");
        let again = pauses.next(now + RETRY.1 + RETRY.0);
        // With jitter it is at most twice the shortest.
        assert!(again >= RETRY.0 && again <= 2 * RETRY.0, "{again:?}");
    }
}
