//! What one process knows of a registration: its ledger, and what it learned that need not outlive it.

use serde_json::{Map, Value};

use super::call::{Call, Purpose};
use super::claim::Claim;
use super::desired::{Deletion, Method, Profile};
use super::document;
use super::ledger::{Handle, Ledger, Registration, Step, WhyLost};
use super::next::lose;
use crate::generated::Client;
use crate::oauth::client_registration::Difference;
use crate::sensitive::Sensitive;

/// What is known of a registration.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// What is, or is to be, stored.
    pub ledger: Ledger,
    /// Whether it is stored as it is.
    pub(super) stored: bool,
    /// Whether this process itself wrote the step that is under way, and so knows that nothing was sent for it before.
    pub(super) begun: bool,
    /// Whether a request for that step was handed out.
    pub(super) sent: bool,
    /// Whether the owner has the credentials.
    pub(super) published: bool,
    /// Whether every proxy serves what is to be served of it.
    pub(super) served: bool,
    /// The secret that its author gives it.
    pub(super) given: Option<Sensitive>,
    /// When the client was read back last, or was believed last (Unix seconds).
    pub(super) checked: i64,
    /// Whether it is to be looked for under our id.
    pub(super) look: bool,
    /// Why nobody knows whether there still is a client.
    pub(super) doubt: Option<Doubt>,
    /// Of which wish the server was told, and has not said yet what it made of it.
    pub(super) told: Option<String>,
    /// What was changed at the server behind our back, and is to be reverted.
    pub(super) drift: Vec<Difference>,
    /// What an update is to keep of what was read.
    pub(super) found: Option<Map<String, Value>>,
    /// The client that is to be taken over.
    pub(super) claim: Option<Claim>,
    /// What keeps it from going on.
    pub(super) trouble: Option<Trouble>,
    /// What there is to tell.
    pub(super) news: Vec<News>,
}

/// Why nobody knows whether there still is a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// What it is managed with was not believed.
    Unmanageable,
    /// Nothing was found where it is managed.
    Missing,
}

/// What keeps a registration from going on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What it is.
    pub what: What,
    /// What was tried.
    pub during: Option<Purpose>,
    /// In words, without secrets.
    pub detail: String,
    /// Not before this many seconds have passed, if that is known: by the server, or of what it is asked with.
    pub retry_after: Option<u32>,
}

/// What keeps a registration from going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// The server does not take the client as it is wanted.
    Refused,
    /// The server does not take it from us.
    Denied,
    /// Our id is somebody else's client there.
    Foreign,
    /// The server has answered something less safe than what was asked for.
    Weakened,
    /// The secret that the server gives expires before anybody could use it.
    ShortLived,
    /// Somebody has switched the client off at the server.
    Disabled,
    /// So many clients may be left at the server that no more are made.
    Crowded,
    /// The method that it is registered by is not among those that are allowed any more.
    NotAllowed,
    /// Nothing is found where the client is managed, and nobody can tell whether it is gone.
    Unfound,
    /// The server has no place for what is to be done.
    NoEndpoint,
    /// No server takes what the client would say of itself.
    Document,
    /// The server does not believe the client.
    Unbelieved,
    /// A client is to be taken over, and nobody has said which.
    AwaitsAdoption,
    /// The client that is to be taken over is not one that can be.
    AdoptionRefused,
    /// The server does not want to be asked now.
    Busy,
    /// The server cannot be reached.
    Unreachable,
    /// It is not known what came of it.
    NoAnswer,
    /// What is stored of it is not this installation's, or cannot be read.
    Ledger,
    /// What the McpAuthorizationServer says by now is not in force yet.
    Unsettled,
}

impl What {
    /// A stable word, as conditions have it.
    pub fn reason(self) -> &'static str {
        match self {
            What::Refused => "RegistrationRefused",
            What::Denied => "RegistrationDenied",
            What::Foreign => "ClientIdTaken",
            What::Weakened => "RegistrationWeakened",
            What::ShortLived => "SecretTooShortLived",
            What::Disabled => "ClientDisabled",
            What::Crowded => "TooManyOrphans",
            What::NotAllowed => "MethodNotAllowed",
            What::Unfound => "ClientNotFound",
            What::NoEndpoint => "RegistrationUnsupported",
            What::Document => "ClientDocumentInvalid",
            What::Unbelieved => "ClientNotBelieved",
            What::AwaitsAdoption => "AwaitingAdoption",
            What::AdoptionRefused => "AdoptionRefused",
            What::Busy => "AuthorizationServerBusy",
            What::Unreachable => "AuthorizationServerUnreachable",
            What::NoAnswer => "NoAnswer",
            What::Ledger => "LedgerNotUsed",
            What::Unsettled => "Pending",
        }
    }

    /// Whether it goes on as soon as somebody changes something, and hardly before.
    pub fn is_lasting(self) -> bool {
        match self {
            What::Refused | What::Denied | What::Foreign | What::Weakened | What::ShortLived | What::Disabled => true,
            What::Crowded | What::NotAllowed | What::Unfound | What::NoEndpoint | What::Document => true,
            What::AwaitsAdoption | What::AdoptionRefused | What::Ledger => true,
            What::Unbelieved | What::Busy | What::Unreachable | What::NoAnswer | What::Unsettled => false,
        }
    }
}

/// What there is to tell of a registration: transitions, for events and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A client was registered.
    Registered {
        /// Its id.
        client_id: String,
    },
    /// A client that was there already was taken over: it has our mark.
    Adopted {
        /// Its id.
        client_id: String,
    },
    /// What it is at the server was brought to what is wanted.
    Updated,
    /// Somebody had changed it at the server; that is about to be reverted.
    Drifted {
        /// The fields.
        fields: Vec<&'static str>,
    },
    /// It was deleted behind our back.
    Vanished {
        /// Its id.
        client_id: String,
    },
    /// It has other credentials.
    Rotated,
    /// It is replaced by a new client.
    Replaced {
        /// The id of the old one.
        client_id: String,
    },
    /// A client may be left at the server.
    Lost {
        /// Its id, if that is known.
        client_id: Option<String>,
        /// The attempt that may have made it.
        attempt: u64,
    },
    /// A client was deleted.
    Deleted {
        /// Its id.
        client_id: String,
    },
}

impl Seen {
    /// A registration that is begun: nothing is stored yet.
    pub fn new(ledger: Ledger, checked: i64) -> Self {
        Self { stored: false, ..Self::stored(ledger, checked) }
    }

    /// What was found stored. `checked`: when it counts as read back, since nobody knows.
    pub fn stored(ledger: Ledger, checked: i64) -> Self {
        Self {
            ledger,
            stored: true,
            begun: false,
            sent: false,
            published: false,
            served: false,
            given: None,
            checked,
            look: false,
            doubt: None,
            told: None,
            drift: Vec::new(),
            found: None,
            claim: None,
            trouble: None,
            news: Vec::new(),
        }
    }

    /// The ledger was stored.
    pub fn persisted(&mut self) {
        self.stored = true;
    }

    /// The owner has the credentials.
    pub fn is_published(&mut self, now: i64) {
        self.published = true;
        document::is_given(self, now);
    }

    /// Every proxy serves what is to be served.
    pub fn is_served(&mut self, now: i64) {
        document::is_served(self, now);
    }

    /// Somebody may serve something else by now: it is looked at again.
    pub fn serve_again(&mut self) {
        self.served = false;
    }

    /// The secret that its author gives it, as it is found.
    pub fn give(&mut self, secret: Option<&Sensitive>) {
        self.given = secret.cloned();
    }

    /// The owner may have lost them, or is to have others: they are looked at again.
    pub fn publish_again(&mut self) {
        self.published = false;
    }

    /// What kept it from going on is over, or is tried again.
    pub fn try_again(&mut self) {
        self.trouble = None;
        // What was sent may have come to something: it is looked at before it is sent again.
        self.begun &= !self.sent;
        // And it may be another by now, or be there again.
        (self.found, self.doubt) = (None, None);
    }

    /// A client is to be taken over, or none is.
    pub fn set_claim(&mut self, claim: Option<Claim>) {
        self.claim = claim;
    }

    /// Whether the client that was to be taken over is, and is as it is wanted.
    pub fn has_taken_over(&self) -> bool {
        self.ledger.step == Step::Idle && self.claim.as_ref().is_some_and(|claim| self.has(claim))
    }

    /// Whether this client is the current one.
    pub(super) fn has(&self, claim: &Claim) -> bool {
        self.ledger.current.as_ref().is_some_and(|current| current.client_id == claim.claimed.client_id)
    }

    /// Whether the owner has the credentials.
    pub fn published(&self) -> bool {
        self.published
    }

    /// Whether there is a client, or was one.
    pub fn had_client(&self) -> bool {
        self.ledger.had_client || self.ledger.current.is_some()
    }

    /// Whether what is known is stored.
    pub fn is_stored(&self) -> bool {
        self.stored
    }

    /// What was registered is over, and its owner is there: what was lost is kept, and nothing besides.
    pub fn keep_losses(&mut self, now: i64) {
        let ledger = &mut self.ledger;
        let is_bare = ledger.keys.is_empty() && !ledger.had_client && ledger.step == Step::Idle;
        if !(ledger.is_over() && is_bare) {
            (ledger.current, ledger.released, ledger.had_client) = (None, Some(now), false);
            ledger.retired.clear();
            ledger.keys.clear();
            self.set_step(Step::Idle);
        }
    }

    /// Where a registration is over, another one begins: by this method, at a server that may be another product by now.
    pub fn begin_anew(&mut self, method: Method, profile: Profile) {
        (self.ledger.method, self.ledger.profile) = (method, profile);
        (self.ledger.released, self.ledger.token_endpoint) = (None, None);
        // Nobody has them any more.
        self.ledger.keys.clear();
        self.ledger.had_client = false;
        (self.published, self.doubt) = (false, None);
        self.drift.clear();
        self.set_step(Step::Idle);
    }

    /// A client that another owner has by now, as this tells, is that one's alone.
    pub fn leave_to_others(&mut self, is_anothers: impl Fn(&str) -> bool) {
        let before = self.ledger.retired.len();
        self.ledger.retired.retain(|retired| !is_anothers(&retired.registration.client_id));
        self.stored &= self.ledger.retired.len() == before;
        if self.ledger.current.as_ref().is_some_and(|current| is_anothers(&current.client_id)) {
            self.ledger.current = None;
            self.set_step(Step::Idle);
        }
    }

    /// Nobody asks for it to be taken over any more: a client that was not brought yet to what is wanted is left as it is.
    pub fn give_adoption_up(&mut self, now: i64) {
        let is_new = |current: &Registration| current.digest.is_empty();
        let is_taking = matches!(self.ledger.step, Step::Updating { .. });
        if is_taking && self.ledger.current.as_ref().is_some_and(is_new) {
            let given_up = self.ledger.current.take();
            self.ledger.had_client = false;
            // By RFC 7592, a look at it may have been answered with another token: nobody has that any more.
            if let Some(Registration { client_id, handle: Handle::Protocol { .. }, .. }) = given_up {
                lose(self, Some(client_id), now, WhyLost::Unmanageable);
            }
            self.doubt = None;
            self.drift.clear();
            self.set_step(Step::Idle);
        }
    }

    /// What was stored is not there any more.
    pub fn unstored(&mut self) {
        self.stored = false;
    }

    /// The McpAuthorizationServer that it belongs to by now: one of another name may have the same issuer.
    pub fn belongs_to(&mut self, authority: &str) {
        if self.ledger.authority != authority {
            authority.clone_into(&mut self.ledger.authority);
            self.stored = false;
        }
    }

    /// What is to become of it, as its author says by now.
    pub fn goes_by(&mut self, deletion: Deletion) {
        if self.ledger.deletion != deletion {
            self.ledger.deletion = deletion;
            self.stored = false;
        }
    }

    /// Its owner says, by this word, that nothing is left of what was lost; of that which was lost before a time (Unix
    /// seconds), where the word is one.
    pub fn forget_losses(&mut self, word: &str, until: Option<i64>) {
        if self.ledger.forgotten.as_deref() != Some(word) {
            self.ledger.lost.retain(|lost| until.is_some_and(|until| lost.at >= until));
            if self.ledger.lost.is_empty() {
                self.ledger.lost_besides = 0;
            }
            self.ledger.forgotten = Some(word.to_owned());
            self.stored = false;
        }
    }

    /// Something keeps it from going on that was found before anything was sent.
    pub fn cannot(&mut self, what: What, detail: String) {
        self.is_in_trouble(what, None, detail);
    }

    /// What keeps it from going on.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// What somebody changed at the server.
    pub fn drift(&self) -> &[Difference] {
        &self.drift
    }

    /// When the client was read back last (Unix seconds).
    pub fn checked(&self) -> i64 {
        self.checked
    }

    /// What there is to tell, once.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    pub(super) fn set_step(&mut self, step: Step) {
        (self.begun, self.sent) = (step != Step::Idle, false);
        self.ledger.step = step;
        self.stored = false;
        // What the step before learned or left open is none of this one's.
        (self.told, self.found) = (None, None);
    }

    pub(super) fn is_in_trouble(&mut self, what: What, during: Option<Purpose>, detail: impl Into<String>) {
        self.trouble = Some(Trouble { what, during, detail: detail.into(), retry_after: None });
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The ledger is to be stored as it is; then [`Seen::persisted`].
    Persist,
    /// A key is to be made for the client, and added to the ledger with [`super::add_key`].
    MakeKey,
    /// A request is to be sent; what comes of it goes to [`super::absorb`].
    Send(Call),
    /// The owner is to be given the credentials; then [`Seen::is_published`].
    Publish,
    /// Nothing is left: the ledger goes.
    Forget,
    /// The proxies are to be given this; once each of them serves it, [`Seen::is_served`].
    Serve(Box<Client>),
    /// Nothing is to be done before this time (Unix seconds), but for what keeps it from going on.
    Settled {
        /// When to look again.
        again: i64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::ledger::WhyLost;
    use crate::registration::tests::desired;

    #[test]
    fn what_was_lost_since_somebody_looked_is_not_forgotten() {
        let mut seen = Seen::stored(Ledger::new(&desired(), "McpClient", Method::Dcr, "cluster"), 0);
        seen.ledger.lose(Some("seen".to_owned()), 100, WhyLost::NoAnswer);
        seen.ledger.lose(Some("later".to_owned()), 200, WhyLost::NoAnswer);
        seen.forget_losses("then", Some(150));
        assert_eq!((seen.ledger.losses(), seen.ledger.lost[0].client_id.as_deref()), (1, Some("later")));
        seen.forget_losses("then", None);
        assert_eq!(seen.ledger.losses(), 1, "a word is followed once");
        seen.forget_losses("now", None);
        assert_eq!(seen.ledger.losses(), 0);
    }
}
