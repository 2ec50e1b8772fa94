//! Clients registered at authorization servers: the pure steps of [`crate::registration`], taken.
//!
//! Invariant: one look at a time goes on with a registration; every request and every write happens while this process leads;
//! a ledger is stored before the next request is sent; and credentials are in the owner's Secret before a status speaks of
//! them. Whoever waits for an authorization server here keeps nobody waiting who does not ask it: these looks have a queue and
//! workers of their own.

mod adoption;
mod audience;
mod documents;
mod held;
mod index;
mod keep;
mod ledgers;
mod outcome;
mod publish;
mod resources;
mod servers;
mod tombstones;
mod turns;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

pub(super) use self::adoption::withdraw as withdraw_request;
pub use self::adoption::{ADOPT, REQUEST_LABEL, request_name};
pub(super) use self::audience::{Audiences, verify};
pub(super) use self::documents::withdraw;
pub use self::held::assumed_age;
pub(super) use self::keep::{Kept, keep};
pub(super) use self::outcome::{Client, Left, Outcome, PURPOSES, Publication, Standing, WORDS};
pub(super) use self::resources::{issuers, tidy};
pub(super) use self::servers::Anchor;
pub(super) use self::tombstones::{Taken, Waits, abandon, anchor, look, moved, sweep, take_back};

use self::held::{Held, Recalled, recall};
use self::index::{Entry, Index};
use self::resources::Resources;
use self::servers::{NotAsked, Servers};
use self::turns::{Turn, Turns};
use super::Context;
use super::error::Failure;
use super::proxies::Programming;
use crate::issuer::{Clock as _, SystemClock};
use crate::oauth::client_key::ClientKey;
use crate::registration::call::{Call, Heard, Place};
use crate::registration::desired::DeletionPolicy;
use crate::registration::ledger::Key;
use crate::registration::{Action, CHECK_SECONDS, Desired, Wish, absorb, add_key, hear, next};
use crate::sensitive::Sensitive;

/// The annotation that gives a registration up: whatever is at the server stays there.
pub const ABANDON: &str = "portcullis.dev/abandon-registration";
/// The annotation that says, by another word each time, that nothing is left of what was lost.
pub const FORGET: &str = "portcullis.dev/forget-orphans";
/// On an McpClient, the annotation that agrees to an issuer: to that which it names, exactly. On a ledger, its issuer.
pub const ISSUER_ANNOTATION: &str = "portcullis.dev/issuer";
/// On a ledger, the McpAuthorizationServer at which it is registered.
pub const AUTHORITY_ANNOTATION: &str = "portcullis.dev/authorization-server";
/// On a ledger, the installation that goes on with it: the UID of its system namespace.
pub const CLUSTER_ANNOTATION: &str = "portcullis.dev/cluster";
/// On a ledger, by which method its client is registered: with the next two, what is told of one whose owner is gone to whoever
/// does not read what the ledger holds.
pub const METHOD_ANNOTATION: &str = "portcullis.dev/method";
/// On a ledger, which id its client has.
pub const CLIENT_ID_ANNOTATION: &str = "portcullis.dev/client-id";
/// On a ledger, when its client was registered (RFC 3339).
pub const REGISTERED_AT_ANNOTATION: &str = "portcullis.dev/registered-at";
/// The label that ledgers are found by: `live`; `tombstone` of one whose owner does not wait for it any more; or `orphans` of one
/// that is kept for what was lost alone.
pub const LABEL: &str = "portcullis.dev/registration";
/// How often registrations without an owner are looked for, besides when an owner goes.
pub(super) const SWEEP: Duration = Duration::from_secs(60);
/// The first wait after something that did not work, and the longest one (seconds).
const FIRST_WAIT: i64 = 2;
const LONGEST_WAIT: i64 = 300;
/// What only a change helps against is tried again after this all the same (seconds).
const LASTING_WAIT: i64 = 600;
const AGAIN: &str = "it is tried again within ten minutes, or as soon as the McpClient changes";
/// What only the owner of a Secret or of a namespace can mend is looked at again after this (seconds).
const HINDERED_WAIT: i64 = 10;
/// A ledger is written over what turned out to be there instead so many times.
const MOST_WRITES: usize = 4;
/// No registration takes more deeds than this in one look.
const MOST_DEEDS: usize = 64;

/// What this process knows of all registrations.
#[derive(Default)]
pub struct Registrations {
    held: Mutex<HashMap<String, Box<Held>>>,
    index: Mutex<Index>,
    /// What owners have left that are registered no more, by their UID.
    left: Mutex<HashMap<String, Left>>,
    servers: Servers,
    turns: Turns,
    resources: Resources,
}

impl Registrations {
    fn held(&self) -> MutexGuard<'_, HashMap<String, Box<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all that is stored of registrations is known: before that, nobody knows what there is.
    pub(super) fn are_known(&self) -> bool {
        self.index().cluster.is_some()
    }

    /// What tells this installation from others, once all that is stored is known.
    fn cluster(&self) -> Result<String, Failure> {
        self.index().cluster.clone().ok_or(Failure::Build("LedgersUnread"))
    }

    fn left(&self) -> MutexGuard<'_, HashMap<String, Left>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A turn to go on with what an owner has registered, and wants registered at `authority`.
///
/// # Errors
/// When to come again.
pub(super) fn turn<'c>(
    context: &'c Context,
    uid: &str,
    owner: (&str, &str),
    authority: Option<&String>,
) -> Result<Turn<'c>, Duration> {
    let has: Vec<Entry> = context.registrations.index().of(uid).into_values().collect();
    // Of what is over, nobody is asked anything.
    let servers = has.into_iter().filter(|entry| !entry.is_over).map(|entry| entry.authority).chain(authority.cloned());
    context.registrations.turns.take(uid, owner, servers, context.start.elapsed())
}

/// Whether anything is stored of what the owner with this UID has registered.
pub(super) fn has_any(context: &Context, uid: &str) -> bool {
    context.registrations.index().has_any(uid)
}

/// What an owner is known to have left that is registered no more; `None`: nobody knows yet.
pub(super) fn left(context: &Context, uid: &str) -> Option<Left> {
    context.registrations.left().get(uid).cloned()
}

/// Remembers what an owner has left that is registered no more. Whether that is news.
pub(super) fn remember_left(context: &Context, uid: &str, left: Option<Left>) -> bool {
    let mut all = context.registrations.left();
    let before = match &left {
        Some(left) => all.insert(uid.to_owned(), left.clone()),
        None => all.remove(uid),
    };
    before != left
}

/// What an author says beside what is wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Words {
    /// That nothing is left of what was lost.
    pub(super) forget: Option<String>,
    /// That a client is to be taken over.
    pub(super) adopt: Option<String>,
}

/// Takes back the registration of an object that goes, or is gone.
///
/// # Errors
/// If the API server does not do what it has to; it is to be tried again.
pub(super) async fn remove(
    context: &Context,
    anchor: Result<&Anchor, NotAsked>,
    name: &str,
    waits: Waits<'_>,
) -> Result<Outcome, Failure> {
    let now = now();
    let mut held = match recall(context, name, now).await? {
        Recalled::Nothing => return Ok(Outcome::forgotten()),
        // Nobody waits for longer because nothing can be done at all.
        Recalled::Not(not) => {
            return Ok(Outcome { is_released: waits.are_over(now), ..Outcome::not_asked(not, now) });
        }
        Recalled::Here(held) => held,
    };
    if let Some(deletion) = waits.deletion {
        held.seen.goes_by(deletion);
    }
    if let Some(words) = waits.stays {
        held.heed(words);
    }
    // Whoever goes takes nothing over; and what was taken over since is its new owner's.
    held.seen.set_claim(None);
    let owner = held.seen.ledger.owner.uid.clone();
    let issuer = held.seen.ledger.issuer.clone();
    held.seen.leave_to_others(|client_id| tombstones::is_anothers(context, (&issuer, client_id), &owner));
    held.follow("-".to_owned(), now);
    let server = anchor.clone().and_then(|anchor| context.registrations.servers.of(anchor, &context.egress));
    let wish = Wish::Remove { waits_since: waits.since, stays: waits.stays.is_some() };
    let server = server.as_deref().map_err(Clone::clone);
    let run = Run { context, server, anchor: anchor.ok(), name, wish };
    let ended = run.go_on(&mut held, None).await;
    finish(context, name.to_owned(), held, ended).await
}

/// One look.
struct Run<'r> {
    context: &'r Context,
    /// Who is asked; or why nobody can be.
    server: Result<&'r servers::Server, NotAsked>,
    anchor: Option<&'r Anchor>,
    name: &'r str,
    wish: Wish<'r>,
}

/// How a look ended.
enum Ended {
    /// Nothing is to be done before this time (Unix seconds).
    Settled(i64),
    /// Nothing is left.
    Forgotten,
    /// Nothing is left to be done, and what was lost is kept for its owner.
    Over,
    /// The ledger is not what it was taken for: it begins again with what is stored.
    Overtaken,
    /// The credentials could not be written.
    Unpublished(Publication),
    /// Not every proxy serves what it is to serve.
    Unserved(Programming),
}

impl Run<'_> {
    async fn go_on(&self, held: &mut Held, desired: Option<&Desired>) -> Result<Ended, Failure> {
        let context = self.context;
        let ledger = &held.seen.ledger;
        let is_nothing_left = ledger.is_over() || (matches!(self.wish, Wish::Remove { .. }) && ledger.is_empty());
        let place = if is_nothing_left { Ok(self.known_place()) } else { self.place(now()).await };
        let place = place.unwrap_or_else(|not| {
            // What is registered can be managed, and given to its owner, by what is known of it.
            if held.seen.ledger.current.is_none() && !held.seen.ledger.is_only_told() {
                held.seen.cannot(not.what, not.detail);
            }
            self.known_place()
        });
        for _ in 0..MOST_DEEDS {
            let now = now();
            match next(&mut held.seen, &self.wish, &place, now) {
                Action::Persist => {
                    // Whoever ends between the two tells it twice, and never not at all.
                    let news = held.seen.take_news();
                    outcome::tell(context, &held.seen.ledger, &news).await?;
                    if !self.persist(held).await? {
                        return Ok(Ended::Overtaken);
                    }
                }
                Action::MakeKey => add_key(&mut held.seen, new_key(now)?),
                Action::Send(call) => {
                    let heard = self.send(held, &call, now).await?;
                    context.metrics.registration_request(call.purpose, &heard);
                    absorb(&mut held.seen, call.purpose, heard, &self.wish, now);
                }
                Action::Publish => {
                    let Some(desired) = desired else { return Ok(Ended::Settled(now)) };
                    match publish::write(context, desired, &held.seen.ledger).await? {
                        Publication::Written => held.seen.is_published(now),
                        other => return Ok(Ended::Unpublished(other)),
                    }
                }
                Action::Serve(client) => match documents::serve(context, *client).await? {
                    Programming::Everywhere(_) => held.seen.is_served(now),
                    other => return Ok(Ended::Unserved(other)),
                },
                Action::Forget => return self.forget(held).await,
                Action::Settled { again } => return Ok(Ended::Settled(again)),
            }
        }
        Err(Failure::Build("RegistrationRestless"))
    }

    /// Where things are. What is stored of a registration is enough to take it back by RFC 7592.
    async fn place(&self, now: i64) -> Result<Place, NotAsked> {
        match &self.server {
            Ok(server) => server.place(now).await.map(|(place, _)| place),
            Err(_) => Ok(self.known_place()),
        }
    }

    /// What is known without asking anybody.
    fn known_place(&self) -> Place {
        let admin = self.anchor.and_then(|anchor| anchor.registration.admin.as_ref());
        Place { admin: admin.map(|admin| admin.url.clone()), ..Place::default() }
    }

    async fn persist(&self, held: &mut Held) -> Result<bool, Failure> {
        let context = self.context;
        let namespace = &context.installation.system_namespace;
        let cluster = context.registrations.cluster()?;
        for _ in 0..MOST_WRITES {
            let ledger = &held.seen.ledger;
            let text = ledger.encode().map_err(|error| Failure::Build(error.reason()))?;
            let to = (namespace.as_str(), self.name);
            let write = ledgers::write(&context.client, to, &cluster, held.version(), (ledger, text));
            if let Some(version) = context.while_leading(write).await?.map_err(Failure::Apply)? {
                held.persisted(version);
                let ledger = &held.seen.ledger;
                context.registrations.index().know(&ledger.owner.uid, self.name, Entry::of(ledger));
                return Ok(true);
            }
            // What a server has answered may be known here alone: only another ledger is a reason to drop it.
            let found = ledgers::get(&context.client, namespace, self.name).await.map_err(Failure::Dereference)?;
            let found = found.map(|stored| stored.usable(namespace, &cluster)).transpose();
            if !found.is_ok_and(|found| held.writes_over(found)) {
                return Ok(false);
            }
        }
        Ok(false)
    }

    async fn send(&self, held: &Held, call: &Call, now: i64) -> Result<Heard, Failure> {
        let (context, ledger) = (self.context, &held.seen.ledger);
        let is_its = self.anchor.is_none_or(|anchor| anchor.registration.issuer == ledger.issuer);
        let server = match &self.server {
            Ok(server) if is_its => server,
            Ok(_) => {
                let detail = "the McpAuthorizationServer that it belongs to has another issuer";
                return Ok(Heard::Unsent(detail.to_owned()));
            }
            Err(not) => return Ok(Heard::Unsent(not.detail.clone())),
        };
        let owner = (ledger.owner.namespace.as_str(), ledger.owner.name.as_str());
        context.registrations.turns.spend(owner, &ledger.authority, context.start.elapsed());
        let heard = match server.send(context, call, Some(ledger), now).await? {
            Ok(answer) => server.with_remedy(context, call, hear(&held.seen, call, &answer, &self.wish)),
            Err(heard) => heard,
        };
        Ok(match heard {
            // What is to go does not hang on what its author writes.
            Heard::Denied(detail) if matches!(self.wish, Wish::Keep(_)) => Heard::Denied(format!("{detail}; {AGAIN}")),
            heard => heard,
        })
    }

    async fn forget(&self, held: &mut Held) -> Result<Ended, Failure> {
        if held.seen.ledger.deletion.policy == DeletionPolicy::Retain {
            let ledger = &held.seen.ledger;
            let is_its = self.anchor.is_some_and(|anchor| anchor.registration.issuer == ledger.issuer);
            let server = self.server.as_ref().ok().copied().filter(|_| is_its);
            resources::leave(self.context, server, (self.name, ledger)).await?;
        }
        if self.wish.owner_stays() && held.seen.ledger.losses() > 0 {
            held.seen.keep_losses(now());
            let is_kept = held.seen.is_stored() || self.persist(held).await?;
            return Ok(if is_kept { Ended::Over } else { Ended::Overtaken });
        }
        let Some(version) = held.version() else { return Ok(Ended::Forgotten) };
        let context = self.context;
        let namespace = &context.installation.system_namespace;
        let removal = ledgers::remove(&context.client, namespace, self.name, version);
        let is_removed = context.while_leading(removal).await?.map_err(Failure::Apply)?;
        Ok(if is_removed { Ended::Forgotten } else { Ended::Overtaken })
    }
}

/// Tells what happened, remembers what is known, and says when to look again.
async fn finish(
    context: &Context,
    name: String,
    mut held: Box<Held>,
    ended: Result<Ended, Failure>,
) -> Result<Outcome, Failure> {
    let now = now();
    let news = held.seen.take_news();
    let told = outcome::tell(context, &held.seen.ledger, &news).await;
    count_orphans(context);
    let ended = match ended.and_then(|ended| told.map(|()| ended)) {
        Ok(ended) => ended,
        Err(failure) => {
            context.registrations.held().insert(name, held);
            return Err(failure);
        }
    };
    let not_before = held.rest(now);
    let mut outcome = Outcome::of(&held.seen, held.checked(), now);
    outcome.again = match ended {
        Ended::Settled(again) => not_before.map_or(again, |at| again.min(at.max(now + 1))),
        Ended::Forgotten => {
            context.registrations.index().forget(&held.seen.ledger.owner.uid, &name);
            return Ok(Outcome::forgotten());
        }
        Ended::Over => {
            (outcome.is_over, outcome.is_released) = (true, true);
            now + CHECK_SECONDS
        }
        Ended::Overtaken => now + 1,
        Ended::Unpublished(why) => {
            outcome.publication = why;
            now + HINDERED_WAIT
        }
        Ended::Unserved(programming) => {
            outcome.unserved = Some(programming);
            // Proxies that have caught up are told of before that.
            now + CHECK_SECONDS
        }
    };
    context.registrations.held().insert(name, held);
    Ok(outcome)
}

/// Shows how many clients may be left that cannot be removed from here.
fn count_orphans(context: &Context) {
    let losses = context.registrations.index().losses();
    context.metrics.orphaned.set(i64::try_from(losses).unwrap_or(i64::MAX));
}

/// A key for a client.
fn new_key(now: i64) -> Result<Key, Failure> {
    let failed = |_| Failure::Build("KeyNotMade");
    let pkcs8 = ClientKey::generate().map_err(failed)?;
    let key = ClientKey::new(&pkcs8).map_err(failed)?;
    Ok(Key {
        kid: key.kid().to_owned(),
        pkcs8: Sensitive::new(BASE64_STANDARD.encode(&pkcs8)),
        public: key.public_jwk(),
        made: now,
        served: None,
        given: None,
    })
}

fn now() -> i64 {
    SystemClock::default().unix()
}
