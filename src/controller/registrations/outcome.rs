//! What came of a look at a registration: for statuses, for logs and for counters.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};

use super::held::Held;
use super::servers::NotAsked;
use crate::api::{GROUP, VERSION};
use crate::controller::Context;
use crate::controller::error::{ApiError, Failure};
use crate::controller::proxies::Programming;
use crate::registration::call::Purpose;
use crate::registration::ledger::{Handle, Registration, Substitution};
use crate::registration::{Ledger, Method, News, Seen, Trouble};

/// What came of the credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::controller) enum Publication {
    /// There is nothing to give yet.
    Unknown,
    /// The owner has them.
    Written,
    /// There is a Secret of that name, and it is not the client's.
    Foreign,
    /// The controller may not write Secrets of the namespace.
    Forbidden,
}

/// What came of a look.
#[derive(Clone, Debug)]
pub(in crate::controller) struct Outcome {
    /// When to look again (Unix seconds).
    pub(in crate::controller) again: i64,
    /// How the client is registered, once that was chosen.
    pub(in crate::controller) method: Option<Method>,
    /// The client, if there is one.
    pub(in crate::controller) client: Option<Client>,
    /// What keeps it from going on.
    pub(in crate::controller) trouble: Option<Trouble>,
    /// What came of its credentials.
    pub(in crate::controller) publication: Publication,
    /// What proxies make of its document, if not every one of them serves it.
    pub(in crate::controller) unserved: Option<Programming>,
    /// What somebody changed at the server, and is not reverted yet.
    pub(in crate::controller) drift: Vec<String>,
    /// Why the client that an administrator has named is not taken over.
    pub(in crate::controller) adoption: Option<String>,
    /// What is left of it where it is not to be.
    pub(in crate::controller) left: Left,
    /// Nothing is left to be done for it.
    pub(in crate::controller) is_over: bool,
    /// Its owner need not wait for it.
    pub(in crate::controller) is_released: bool,
}

/// What is left where it is not to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::controller) struct Left {
    /// At which issuer a client is not taken back yet, and why.
    pub(in crate::controller) behind: Option<(String, Trouble)>,
    /// What may be left, and cannot be removed from here: an id, or the attempt that may have made it.
    pub(in crate::controller) lost: Vec<String>,
    /// How many that are, the unnamed included.
    pub(in crate::controller) losses: u64,
}

impl Left {
    /// With what is left elsewhere.
    pub(in crate::controller) fn add(&mut self, other: Left) {
        self.behind = self.behind.take().or(other.behind);
        self.lost.extend(other.lost);
        self.losses = self.losses.saturating_add(other.losses);
    }

    /// Whether there is nothing.
    pub(in crate::controller) fn is_none(&self) -> bool {
        self.behind.is_none() && self.losses == 0
    }
}

/// What is known of a client's standing at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::controller) enum Standing {
    /// The server has said that it knows it.
    Known,
    /// Its document is served, and nobody has asked the server about it.
    Served,
    /// Its author says that it is known, and nobody has asked the server about it.
    Given,
}

/// A client, as its owner is told of it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::controller) struct Client {
    /// Its id.
    pub(in crate::controller) client_id: String,
    /// Its issuer.
    pub(in crate::controller) issuer: String,
    /// What is known of its standing at the server.
    pub(in crate::controller) standing: Standing,
    /// When it was registered (Unix seconds), if that was done here.
    pub(in crate::controller) registered_at: Option<i64>,
    /// Since when it has its secret, and when that expires (Unix seconds).
    pub(in crate::controller) secret: Option<(i64, i64)>,
    /// When the server was last asked about it (Unix seconds), if this process asked it.
    pub(in crate::controller) checked_at: Option<i64>,
    /// What the server has instead of what was asked for.
    pub(in crate::controller) substituted: Vec<Substitution>,
}

impl Outcome {
    /// Of what is known.
    pub(super) fn of(seen: &Seen, checked: Option<i64>, now: i64) -> Self {
        let ledger = &seen.ledger;
        let publication = if seen.published() { Publication::Written } else { Publication::Unknown };
        Self {
            again: now,
            method: Some(ledger.method),
            client: ledger.current.as_ref().map(|current| client(ledger, current, checked)),
            trouble: seen.trouble().cloned(),
            publication,
            unserved: None,
            drift: seen.drift().iter().map(|one| one.field.to_owned()).collect(),
            adoption: None,
            left: Left {
                behind: None,
                lost: ledger.lost.iter().map(|lost| named(lost.client_id.as_deref(), lost.attempt)).collect(),
                losses: ledger.losses(),
            },
            is_over: false,
            is_released: ledger.released.is_some(),
        }
    }

    /// Nobody could be asked.
    pub(in crate::controller) fn not_asked(not: NotAsked, now: i64) -> Self {
        let NotAsked { what, detail, wait } = not;
        let trouble = Trouble { what, during: None, detail, retry_after: None };
        Self { again: now.saturating_add(wait), trouble: Some(trouble), ..Self::nothing() }
    }

    /// It has no client, and is not to be given one yet.
    pub(super) fn waiting(held: Option<&Held>, not: NotAsked, now: i64) -> Self {
        let not_asked = Self::not_asked(not, now);
        match held {
            Some(held) => {
                let known = Self::of(&held.seen, held.checked(), now);
                Self { again: not_asked.again, trouble: not_asked.trouble, ..known }
            }
            None => not_asked,
        }
    }

    /// Nothing is left.
    pub(super) fn forgotten() -> Self {
        Self { is_over: true, is_released: true, ..Self::nothing() }
    }

    /// Nobody was asked, and nothing is known.
    pub(in crate::controller) fn nothing() -> Self {
        Self {
            again: i64::MAX,
            method: None,
            client: None,
            trouble: None,
            publication: Publication::Unknown,
            unserved: None,
            drift: Vec::new(),
            adoption: None,
            left: Left::default(),
            is_over: false,
            is_released: false,
        }
    }
}

fn client(ledger: &Ledger, current: &Registration, checked_at: Option<i64>) -> Client {
    let standing = match current.handle {
        Handle::Document { is_believed: false, .. } => Standing::Served,
        Handle::Given { is_believed: false } => Standing::Given,
        _ => Standing::Known,
    };
    Client {
        standing,
        client_id: current.client_id.clone(),
        issuer: ledger.issuer.clone(),
        registered_at: Some(current.registered_at).filter(|_| !current.is_given()),
        secret: current.secret_expires_at.map(|expires| (current.secret_since, expires)),
        checked_at: checked_at.filter(|_| standing == Standing::Known),
        substituted: current.substituted.clone(),
    }
}

fn named(client_id: Option<&str>, attempt: u64) -> String {
    client_id.map_or_else(|| format!("software_version {attempt}"), str::to_owned)
}

/// Tells what happened: to the log, to the counters, and, of what somebody has to know, in an event on the owner.
pub(super) async fn tell(context: &Context, ledger: &Ledger, news: &[News]) -> Result<(), Failure> {
    // Each is about another client: one that remembers would count it in the event before, whose note tells of that one alone.
    let recorder = || Recorder::new(context.client.clone(), context.reporter.clone());
    for event in news.iter().filter_map(event) {
        let reference = ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some(ledger.owner.kind.clone()),
            name: Some(ledger.owner.name.clone()),
            namespace: Some(ledger.owner.namespace.clone()),
            uid: Some(ledger.owner.uid.clone()),
            ..ObjectReference::default()
        };
        // The owner's namespace may be gone, and then nobody reads events there.
        if let Err(error) = context.while_leading(recorder().publish(&event, &reference)).await? {
            let error = ApiError::new("an event", &error);
            tracing::warn!(owner = ledger.owner.name, reason = error.reason(), %error, "an event was not recorded");
        }
    }
    log(context, ledger, news);
    Ok(())
}

/// An event, of what somebody has to know.
fn event(news: &News) -> Option<Event> {
    let (reason, note) = match news {
        News::Lost { client_id, attempt } => (
            "OrphanedRegistration",
            format!(
                "a client may be left at the authorization server, and cannot be removed from here: {}",
                named(client_id.as_deref(), *attempt)
            ),
        ),
        News::Drifted { fields } => (
            "RegistrationDrifted",
            format!("the client was changed at the authorization server, and that is reverted: {}", fields.join(", ")),
        ),
        News::Vanished { client_id } => (
            "RegistrationVanished",
            format!("client {client_id} was deleted at the authorization server, and is registered again"),
        ),
        _ => return None,
    };
    Some(Event {
        type_: EventType::Warning,
        reason: reason.to_owned(),
        note: Some(note.chars().take(900).collect()),
        action: "Register".to_owned(),
        secondary: None,
    })
}

fn log(context: &Context, ledger: &Ledger, news: &[News]) {
    let owner = format!("{} {}/{}", ledger.owner.kind, ledger.owner.namespace, ledger.owner.name);
    let issuer = &ledger.issuer;
    for one in news {
        context.metrics.registration_news(word(one));
        match one {
            News::Lost { client_id, attempt } => {
                let left = named(client_id.as_deref(), *attempt);
                tracing::warn!(owner, issuer, left, "a client may be left at the authorization server");
            }
            News::Drifted { fields } => {
                let fields = fields.join(", ");
                tracing::warn!(
                    owner,
                    issuer,
                    fields,
                    "a client was changed at the authorization server; it is reverted"
                );
            }
            News::Vanished { client_id } => {
                tracing::warn!(owner, issuer, client_id, "a client was deleted at the authorization server");
            }
            other => tracing::info!(owner, issuer, what = word(other), "registration"),
        }
    }
}

/// A stable word, for counters.
pub(super) fn word(news: &News) -> &'static str {
    match news {
        News::Registered { .. } => "registered",
        News::Adopted { .. } => "adopted",
        News::Updated => "updated",
        News::Drifted { .. } => "drifted",
        News::Vanished { .. } => "vanished",
        News::Rotated => "rotated",
        News::Replaced { .. } => "replaced",
        News::Lost { .. } => "lost",
        News::Deleted { .. } => "deleted",
    }
}

/// Every word of [`word`].
pub(in crate::controller) const WORDS: [&str; 9] =
    ["registered", "adopted", "updated", "drifted", "vanished", "rotated", "replaced", "lost", "deleted"];

/// Every purpose of a request.
pub(in crate::controller) const PURPOSES: [Purpose; 9] = [
    Purpose::Create,
    Purpose::Find,
    Purpose::Adopt,
    Purpose::Read,
    Purpose::Update,
    Purpose::Renew,
    Purpose::Delete,
    Purpose::DeleteRetired,
    Purpose::Probe,
];
