//! What this process knows of one registration, beside what is stored of it.
//!
//! Invariant: what a server has answered is forgotten by no failure of the API server's, and by nobody's edit of a Secret's
//! labels: it is dropped only if what is stored says something that was not written here.

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::jiff::Timestamp;

use super::index::Entry;
use super::servers::NotAsked;
use super::{FIRST_WAIT, LASTING_WAIT, LONGEST_WAIT, Words, ledgers};
use crate::controller::Context;
use crate::controller::error::Failure;
use crate::registration::{CHECK_SECONDS, Ledger, Seen};

/// No server, and no clock that was set back, keeps anything from being tried again for longer (seconds).
const MOST_WAIT: i64 = 3600;

/// What is known of one.
pub(super) struct Held {
    pub(super) seen: Seen,
    /// What its ledger is written over, and the digest of what is stored there; `None`: it is not stored.
    stored: Option<((String, String), Vec<u8>)>,
    /// When it counts as read back, though nobody here did (Unix seconds): of what was found stored, nobody knows.
    assumed: Option<i64>,
    /// The wish that was followed last.
    wish: String,
    /// How often it did not work in a row, and until when it is not tried again (Unix seconds).
    failures: u32,
    not_before: i64,
}

/// What there is of a registration.
pub(super) enum Recalled {
    /// Nothing.
    Nothing,
    /// This.
    Here(Box<Held>),
    /// Something that cannot be used.
    Not(NotAsked),
}

/// How long ago what was found stored counts as read back (seconds), by the UID of its owner.
pub fn assumed_age(uid: &str) -> i64 {
    uid.bytes().fold(7, |sum, byte| (sum * 31 + i64::from(byte)) % CHECK_SECONDS)
}

/// What is known of a registration: what this process remembers, if nothing else is stored.
pub(super) async fn recall(context: &Context, name: &str, now: i64) -> Result<Recalled, Failure> {
    let cluster = context.registrations.cluster()?;
    let namespace = &context.installation.system_namespace;
    // If that fails, it is still remembered.
    let stored = ledgers::get(&context.client, namespace, name).await.map_err(Failure::Dereference)?;
    let remembered = context.registrations.held().remove(name);
    let Some(stored) = stored else {
        return Ok(remembered.map_or(Recalled::Nothing, |mut held| {
            held.is_gone();
            Recalled::Here(held)
        }));
    };
    let usable = stored.usable(namespace, &cluster);
    if let Ok((ledger, _)) = &usable {
        // It may have been unusable when all of them were read.
        context.registrations.index().know(&ledger.owner.uid, name, Entry::of(ledger));
    }
    Ok(match (usable, remembered) {
        (Ok((ledger, version)), Some(mut held)) if held.knows(&ledger) => {
            held.is_stored_as(&ledger, version);
            Recalled::Here(held)
        }
        (Ok((ledger, version)), _) => Recalled::Here(Box::new(Held::stored(ledger, version, now))),
        (Err(not), remembered) => {
            if let Some(held) = remembered {
                context.registrations.held().insert(name.to_owned(), held);
            }
            Recalled::Not(not)
        }
    })
}

impl Held {
    /// One that is begun.
    pub(super) fn new(ledger: Ledger, now: i64) -> Self {
        let seen = Seen::new(ledger, now);
        Self { seen, stored: None, assumed: None, wish: String::new(), failures: 0, not_before: 0 }
    }

    /// Nobody knows when it was read back last: for each at another time, so that a new leader does not ask for all at once.
    fn stored(ledger: Ledger, version: (String, String), now: i64) -> Self {
        let assumed = now - assumed_age(&ledger.owner.uid);
        let stored = Some((version, sum(&ledger)));
        let seen = Seen::stored(ledger, assumed);
        Self { seen, stored, assumed: Some(assumed), wish: String::new(), failures: 0, not_before: 0 }
    }

    /// Whether this is what was stored last, or what was to be: the answer to a write may have been lost.
    fn knows(&self, ledger: &Ledger) -> bool {
        self.seen.ledger == *ledger || self.stored.as_ref().is_some_and(|(_, digest)| *digest == sum(ledger))
    }

    /// What its ledger is written over.
    pub(super) fn version(&self) -> Option<&(String, String)> {
        self.stored.as_ref().map(|(version, _)| version)
    }

    /// What is known is stored, in this version.
    pub(super) fn persisted(&mut self, version: (String, String)) {
        self.stored = Some((version, sum(&self.seen.ledger)));
        self.seen.persisted();
    }

    /// What is stored is this, in this version: somebody may have edited something else of the Secret.
    fn is_stored_as(&mut self, ledger: &Ledger, version: (String, String)) {
        self.stored = Some((version, sum(ledger)));
        if self.seen.ledger == *ledger {
            self.seen.persisted();
        }
    }

    /// Nothing is stored: what is known here is all that anybody knows.
    fn is_gone(&mut self) {
        self.stored = None;
        self.seen.unstored();
    }

    /// Whether it is to be written after all, over what turned out to be there instead of what was taken to be.
    pub(super) fn writes_over(&mut self, found: Option<(Ledger, (String, String))>) -> bool {
        match found {
            None => self.is_gone(),
            Some((ledger, version)) if self.knows(&ledger) => self.is_stored_as(&ledger, version),
            Some(_) => return false,
        }
        true
    }

    /// When the server was last asked about the client, if this process knows (Unix seconds).
    pub(super) fn checked(&self) -> Option<i64> {
        Some(self.seen.checked()).filter(|checked| *checked > 0 && Some(*checked) != self.assumed)
    }

    /// What its author says of what was lost.
    pub(super) fn heed(&mut self, words: &Words) {
        if let Some(word) = &words.forget {
            self.seen.forget_losses(word, word.parse().ok().map(|time: Timestamp| time.as_second()));
        }
    }

    /// Begins a look: with another wish, or once its time has come, what did not work is tried again.
    pub(super) fn follow(&mut self, wish: String, now: i64) {
        if self.wish != wish || self.is_due(now) {
            if self.wish != wish {
                (self.failures, self.not_before) = (0, 0);
            }
            self.wish = wish;
            self.seen.try_again();
        }
        self.seen.publish_again();
        self.seen.serve_again();
    }

    fn is_due(&self, now: i64) -> bool {
        now >= self.not_before || self.not_before > now.saturating_add(MOST_WAIT)
    }

    /// Ends a look. Answers until when it is not tried again, if it did not work.
    pub(super) fn rest(&mut self, now: i64) -> Option<i64> {
        let Some(trouble) = self.seen.trouble() else {
            (self.failures, self.not_before) = (0, 0);
            return None;
        };
        if self.is_due(now) {
            self.failures = self.failures.saturating_add(1);
            let wait = if trouble.what.is_lasting() {
                trouble.retry_after.map_or(LASTING_WAIT, i64::from)
            } else {
                let grown = FIRST_WAIT.saturating_mul(1 << self.failures.saturating_sub(1).min(16)).min(LONGEST_WAIT);
                // Of the second that is now, most may be over.
                grown.max(trouble.retry_after.map_or(0, |seconds| i64::from(seconds) + 1)).min(MOST_WAIT)
            };
            self.not_before = now.saturating_add(wait);
        }
        Some(self.not_before)
    }
}

fn sum(ledger: &Ledger) -> Vec<u8> {
    digest(&SHA256, &ledger.encode().unwrap_or_default()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::ledgers::tests::ledger;
    use super::*;
    use crate::registration::call::{Heard, Purpose};
    use crate::registration::{What, Wish, absorb};

    const REMOVED: Wish<'static> = Wish::Remove { waits_since: None, stays: false };

    fn version(number: u32) -> (String, String) {
        ("uid".to_owned(), number.to_string())
    }

    fn held() -> Held {
        Held::stored(ledger(), version(1), 10_000)
    }

    /// An answer that is not stored yet.
    fn answered() -> Held {
        let mut held = held();
        held.seen.ledger.attempts = 9;
        held
    }

    #[test]
    fn an_edit_of_something_else_and_a_deletion_lose_nothing_that_was_answered() {
        let mut edited = answered();
        assert!(edited.writes_over(Some((ledger(), version(2)))));
        assert_eq!((edited.version(), edited.seen.ledger.attempts), (Some(&version(2)), 9));
        let mut deleted = answered();
        assert!(deleted.writes_over(None));
        assert_eq!((deleted.version(), deleted.seen.ledger.attempts), (None, 9), "it is made again");
        let mut other = ledger();
        other.attempts = 50;
        assert!(!answered().writes_over(Some((other, version(2)))), "somebody else has gone on with it");
    }

    #[test]
    fn a_write_whose_answer_was_lost_was_done() {
        let held = answered();
        assert!(held.knows(&held.seen.ledger.clone()) && held.knows(&ledger()));
        let mut begun = Held::new(ledger(), 0);
        assert!(begun.writes_over(Some((ledger(), version(1)))));
        assert_eq!(begun.version(), Some(&version(1)));
    }

    #[test]
    fn nobody_says_when_a_server_was_asked_that_this_process_has_not_asked() {
        assert_eq!(held().checked(), None);
        // What was begun here was answered here, be it in the same second.
        assert_eq!(Held::new(ledger(), 10_000).checked(), Some(10_000));
    }

    /// A registration that its server put off; `retry_after`: for so long, as it says.
    fn put_off(retry_after: Option<u32>) -> Held {
        let mut held = held();
        let heard = Heard::Later { retry_after, status: 429 };
        absorb(&mut held.seen, Purpose::Create, heard, &REMOVED, 10_000);
        held
    }

    #[test]
    fn a_clock_that_is_set_back_and_a_server_that_asks_for_ages_keep_nothing_from_being_tried_again() {
        let mut held = put_off(None);
        assert_eq!(held.rest(10_000), Some(10_000 + FIRST_WAIT));
        held.follow(String::new(), 10_001);
        assert!(held.seen.trouble().is_some(), "not yet");
        held.follow(String::new(), 2_000);
        assert!(held.seen.trouble().is_none(), "that was long ago");

        let mut held = put_off(Some(u32::MAX));
        assert_eq!(held.rest(10_000), Some(10_000 + MOST_WAIT));
        held.follow(String::new(), 10_000 + MOST_WAIT - 1);
        assert!(held.seen.trouble().is_some(), "not yet");
        held.follow(String::new(), 10_000 + MOST_WAIT);
        assert!(held.seen.trouble().is_none(), "it is tried again");
    }

    /// RFC 9110 section 10.2.3.
    #[test]
    fn a_server_is_left_alone_for_as_long_as_it_asks_and_no_shorter_than_after_any_failure() {
        let mut held = put_off(Some(7));
        // It is 10 000 seconds and a fraction.
        let asked = 8;
        assert_eq!(held.rest(10_000), Some(10_000 + asked));
        // A look in between puts off nothing, and brings nothing forward.
        held.follow(String::new(), 10_000 + FIRST_WAIT);
        assert!(held.seen.trouble().is_some(), "not yet");
        assert_eq!(held.rest(10_000 + FIRST_WAIT), Some(10_000 + asked));
        held.follow(String::new(), 10_000 + asked);
        assert!(held.seen.trouble().is_none(), "it is tried again");
        assert_eq!(put_off(Some(0)).rest(10_000), Some(10_000 + FIRST_WAIT), "an answer that says nothing of use");
    }

    #[test]
    fn another_wish_waits_for_nothing_that_kept_the_one_before() {
        let mut held = held();
        held.follow("one".to_owned(), 10_000);
        held.seen.cannot(What::Refused, "no".to_owned());
        assert_eq!(held.rest(10_000), Some(10_000 + LASTING_WAIT));
        held.follow("another".to_owned(), 10_001);
        held.seen.cannot(What::Busy, "not now".to_owned());
        assert_eq!(held.rest(10_001), Some(10_001 + FIRST_WAIT));
    }
}
