//! Clients registered at authorization servers: the pure steps of [`crate::registration`], taken.
//!
//! Invariant: one look at a time goes on with a registration; every request and every write happens while this process leads;
//! a ledger is stored before the next request is sent; and credentials are in the owner's Secret before a status speaks of
//! them.

mod adoption;
mod documents;
mod index;
mod ledgers;
mod outcome;
mod publish;
mod servers;
mod tombstones;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

pub use self::adoption::{ADOPT, request_name};
pub(super) use self::documents::withdraw;
pub(super) use self::outcome::{Client, Outcome, PURPOSES, Publication, Standing, WORDS};
pub(super) use self::servers::Anchor;
pub(super) use self::tombstones::{abandon, anchor, look, moved, sweep, take_back};

use self::index::Index;
use self::ledgers::Stored;
use self::servers::{NotAsked, Servers};
use super::Context;
use super::error::Failure;
use super::proxies::Programming;
use crate::issuer::{Clock as _, SystemClock};
use crate::oauth::client_key::ClientKey;
use crate::registration::call::{Call, Heard, Place};
use crate::registration::ledger::Key;
use crate::registration::{
    Action, CHECK_SECONDS, Claim, Desired, Ledger, Method, Seen, What, Wish, absorb, add_key, choose, hear, is_another,
    next,
};
use crate::sensitive::Sensitive;

/// The annotation that gives a registration up: whatever is at the server stays there.
pub const ABANDON: &str = "portcullis.dev/abandon-registration";
/// The annotation that says, by another word each time, that nothing is left of what was lost.
pub const FORGET: &str = "portcullis.dev/forget-orphans";
/// On an McpClient, the annotation that agrees to an issuer: to that which it names, exactly. On a ledger, its issuer.
pub const ISSUER_ANNOTATION: &str = "portcullis.dev/issuer";
/// The label that ledgers are found by: `live`, or `tombstone` of one whose owner does not wait for it any more.
pub const LABEL: &str = "portcullis.dev/registration";
/// How often registrations without an owner are looked for, besides when an owner goes.
pub(super) const SWEEP: Duration = Duration::from_secs(60);
/// The first wait after something that did not work, and the longest one (seconds).
const FIRST_WAIT: i64 = 2;
const LONGEST_WAIT: i64 = 300;
/// What only a change helps against is tried again after this all the same (seconds).
const LASTING_WAIT: i64 = 600;
/// No registration takes more deeds than this in one look.
const MOST_DEEDS: usize = 64;

/// What this process knows of all registrations.
#[derive(Default)]
pub struct Registrations {
    held: Mutex<HashMap<String, Held>>,
    index: Mutex<Index>,
    servers: Servers,
}

/// What is known of one.
struct Held {
    seen: Seen,
    /// What its ledger is written over; `None`: it is not stored yet.
    version: Option<(String, String)>,
    /// The wish that was followed last.
    wish: String,
    /// How often it did not work in a row, and until when it is not tried again (Unix seconds).
    failures: u32,
    not_before: i64,
}

impl Registrations {
    fn held(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all that is stored of registrations is known: before that, nobody knows what there is.
    pub(super) fn are_known(&self) -> bool {
        self.index().cluster.is_some()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an author says beside what is wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Words {
    /// That nothing is left of what was lost.
    pub(super) forget: Option<String>,
    /// That a client is to be taken over.
    pub(super) adopt: Option<String>,
}

/// Goes on with the registration that an object wants. `given`: the secret that its author gives it.
///
/// # Errors
/// If the API server does not do what it has to; it is to be tried again.
pub(super) async fn keep(
    context: &Context,
    anchor: &Anchor,
    desired: &Desired,
    given: Option<&Sensitive>,
    words: &Words,
) -> Result<Outcome, Failure> {
    let now = now();
    let cluster = context.registrations.index().cluster.clone().ok_or(Failure::Build("LedgersUnread"))?;
    // What it has elsewhere is taken back: its author chose another server, or agreed to another issuer.
    take_back(context, &desired.owner.uid, None, |entry| entry.issuer != desired.issuer).await?;
    let name = ledgers::name(&desired.owner.uid, &desired.issuer);
    let server = match context.registrations.servers.of(anchor, &context.egress) {
        Ok(server) => server,
        Err(not) => return Ok(Outcome::not_asked(not.what, not.detail, now)),
    };
    let known = recall(context, &name, now).await?;
    let ledger = known.as_ref().map(|held| &held.seen.ledger);
    if ledger.is_some_and(|ledger| is_another(desired, ledger.method)) {
        context.registrations.held().extend(known.map(|held| (name.clone(), held)));
        return another(context, anchor, desired, &name).await;
    }
    let asked = adoption::asked(context, desired, ledger, &cluster, words.adopt.as_deref()).await?;
    let has_client = ledger.is_some_and(|ledger| ledger.current.is_some());
    if let Some((what, why)) = asked.hindrance().filter(|_| !has_client) {
        let mut outcome = Outcome::waiting(known.as_ref().map(|held| &held.seen), what, why, now);
        outcome.adoption = asked.refusal(None);
        context.registrations.held().extend(known.map(|held| (name, held)));
        return Ok(outcome);
    }
    let mut held = match known {
        Some(held) => held,
        // Nothing is begun before it is known how.
        None => match chosen(&server, desired, asked.claim(), now).await {
            Ok(method) => Held::new(Ledger::new(desired, "McpClient", method, &cluster), now),
            Err(not) => return Ok(Outcome::not_asked(not.what, not.detail, now)),
        },
    };
    held.seen.give(given);
    if let Some(word) = &words.forget {
        held.seen.forget_losses(word);
    }
    held.seen.set_claim(asked.claim().cloned());
    held.follow(wish_digest(desired, words), now);
    let wish = Wish::Keep(desired);
    let run = Run { context, server: Some(&server), anchor: Some(anchor), name: &name, wish };
    let ended = run.go_on(&mut held, Some(desired)).await;
    let is_served = held.seen.ledger.method == Method::Cimd && desired.client_id.is_none();
    let has_taken_over = held.seen.has_taken_over();
    let mut outcome = finish(context, name, held, ended).await?;
    if !is_served {
        withdraw(context, &desired.owner.uid).await?;
    }
    if has_taken_over {
        adoption::done(context, desired, &asked).await?;
    }
    outcome.adoption = asked.refusal(outcome.trouble.as_ref());
    Ok(outcome)
}

/// The method by which a client is registered of which nothing is known yet: what somebody has registered already, or asks to be
/// taken over, is for nobody to choose.
async fn chosen(
    server: &servers::Server,
    desired: &Desired,
    claim: Option<&Claim>,
    now: i64,
) -> Result<Method, NotAsked> {
    if desired.asked == Some(Method::Preregistered) {
        return Ok(Method::Preregistered);
    }
    if let Some(claim) = claim {
        return Ok(claim.method());
    }
    let (place, metadata) = server.place(now).await?;
    choose(desired, &metadata, &place).map_err(|detail| NotAsked { what: What::NoEndpoint, detail })
}

/// Its author asks for another method by now: what there is goes first, since that is another registration.
async fn another(context: &Context, anchor: &Anchor, desired: &Desired, name: &str) -> Result<Outcome, Failure> {
    let outcome = remove(context, Some(anchor), name, None).await?;
    if !outcome.is_forgotten {
        return Ok(outcome);
    }
    context.registrations.index().forget(&desired.owner.uid, name);
    withdraw(context, &desired.owner.uid).await?;
    Ok(Outcome::under_way(now()))
}

/// Takes back the registration of an object that goes, or is gone.
///
/// # Errors
/// If the API server does not do what it has to; it is to be tried again.
pub(super) async fn remove(
    context: &Context,
    anchor: Option<&Anchor>,
    name: &str,
    waits_since: Option<i64>,
) -> Result<Outcome, Failure> {
    let now = now();
    let Some(mut held) = recall(context, name, now).await? else { return Ok(Outcome::forgotten()) };
    held.follow("-".to_owned(), now);
    let server = anchor.map(|anchor| context.registrations.servers.of(anchor, &context.egress)).transpose();
    let server = match server {
        Ok(server) => server,
        Err(not) => return Ok(Outcome::not_asked(not.what, not.detail, now)),
    };
    let wish = Wish::Remove { waits_since, desired: None };
    let run = Run { context, server: server.as_deref(), anchor, name, wish };
    let ended = run.go_on(&mut held, None).await;
    finish(context, name.to_owned(), held, ended).await
}

/// What is known of a registration: what this process remembers, if that is what is stored.
async fn recall(context: &Context, name: &str, now: i64) -> Result<Option<Held>, Failure> {
    let remembered = context.registrations.held().remove(name);
    let namespace = &context.installation.system_namespace;
    let stored = ledgers::get(&context.client, namespace, name).await.map_err(Failure::Dereference)?;
    match (remembered, stored) {
        (Some(held), Some(stored)) if held.version.as_ref() == Some(&stored.version) => Ok(Some(held)),
        // Nothing is remembered, or somebody else wrote it.
        (_, Some(stored)) => Held::stored(stored, now).map(Some),
        (_, None) => Ok(None),
    }
}

impl Held {
    fn new(ledger: Ledger, now: i64) -> Self {
        Self { seen: Seen::new(ledger, now), version: None, wish: String::new(), failures: 0, not_before: 0 }
    }

    /// Nobody knows when it was read back last: for each at another time, so that a new leader does not ask for all at once.
    fn stored(stored: Stored, now: i64) -> Result<Self, Failure> {
        let ledger = stored.ledger.map_err(|error| Failure::Build(error.reason()))?;
        let spread = ledger.owner.uid.bytes().fold(7i64, |sum, byte| (sum * 31 + i64::from(byte)) % CHECK_SECONDS);
        let seen = Seen::stored(ledger, now - spread);
        Ok(Self { seen, version: Some(stored.version), wish: String::new(), failures: 0, not_before: 0 })
    }

    /// Begins a look: with another wish, or once its time has come, what did not work is tried again.
    fn follow(&mut self, wish: String, now: i64) {
        if self.wish != wish || now >= self.not_before {
            if self.wish != wish {
                self.failures = 0;
            }
            self.wish = wish;
            self.seen.try_again();
        }
        self.seen.publish_again();
        self.seen.serve_again();
    }
}

/// One look.
struct Run<'r> {
    context: &'r Context,
    server: Option<&'r servers::Server>,
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
        let mut is_away = false;
        for _ in 0..MOST_DEEDS {
            let now = now();
            // One that does not answer is not asked over and over again in one look.
            let found = if is_away { Ok(self.known_place()) } else { self.place(now).await };
            let place = found.unwrap_or_else(|not| {
                is_away = true;
                // What is registered can be managed, and given to its owner, by what is known of it.
                if held.seen.ledger.current.is_none() && !held.seen.ledger.is_only_told() {
                    held.seen.cannot(not.what, not.detail);
                }
                self.known_place()
            });
            match next(&mut held.seen, &self.wish, &place, now) {
                Action::Persist => {
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
        match self.server {
            Some(server) => server.place(now).await.map(|(place, _)| place),
            None => Ok(self.known_place()),
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
        let text = held.seen.ledger.encode().map_err(|error| Failure::Build(error.reason()))?;
        let over = held.version.as_ref();
        let write = ledgers::write(&context.client, namespace, self.name, over, (&held.seen.ledger, text));
        match context.while_leading(write).await?.map_err(Failure::Apply)? {
            Some(version) => {
                held.version = Some(version);
                held.seen.persisted();
                context.registrations.index().know(&held.seen.ledger, self.name);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    async fn send(&self, held: &Held, call: &Call, now: i64) -> Result<Heard, Failure> {
        let ledger = &held.seen.ledger;
        let is_its = self.anchor.is_some_and(|anchor| anchor.registration.issuer == ledger.issuer);
        let Some(server) = self.server.filter(|_| is_its) else {
            let detail = "the McpAuthorizationServer that it belongs to is gone, or has another issuer";
            return Ok(Heard::Unsent(detail.to_owned()));
        };
        Ok(match server.send(self.context, call, ledger, now).await? {
            Ok(answer) => hear(&held.seen, call, &answer, &self.wish),
            Err(heard) => heard,
        })
    }

    async fn forget(&self, held: &Held) -> Result<Ended, Failure> {
        let Some(version) = &held.version else { return Ok(Ended::Forgotten) };
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
    mut held: Held,
    ended: Result<Ended, Failure>,
) -> Result<Outcome, Failure> {
    let now = now();
    let news = held.seen.take_news();
    let told = outcome::tell(context, &held.seen.ledger, &news).await;
    let ended = match ended.and_then(|ended| told.map(|()| ended)) {
        Ok(ended) => ended,
        Err(failure) => {
            context.registrations.held().insert(name, held);
            return Err(failure);
        }
    };
    let trouble = held.seen.trouble().cloned();
    if let Some(trouble) = &trouble {
        if now >= held.not_before {
            held.failures = held.failures.saturating_add(1);
            let wait = if trouble.what.is_lasting() {
                LASTING_WAIT
            } else {
                let grown = FIRST_WAIT.saturating_mul(1 << held.failures.saturating_sub(1).min(16)).min(LONGEST_WAIT);
                grown.max(trouble.retry_after.map_or(0, i64::from))
            };
            held.not_before = now.saturating_add(wait);
        }
    } else {
        (held.failures, held.not_before) = (0, 0);
    }
    let mut outcome = Outcome::of(&held.seen, now);
    outcome.again = match ended {
        Ended::Settled(again) if trouble.is_some() => again.min(held.not_before.max(now + 1)),
        Ended::Settled(again) => again,
        Ended::Forgotten => {
            context.registrations.index().forget(&held.seen.ledger.owner.uid, &name);
            return Ok(Outcome::forgotten());
        }
        Ended::Overtaken => now + 1,
        Ended::Unpublished(why) => {
            outcome.publication = why;
            now + FIRST_WAIT
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

/// What tells one wish from another, as far as trying again is concerned.
fn wish_digest(desired: &Desired, words: &Words) -> String {
    let gateway = desired.gateway.as_deref().unwrap_or_default();
    let methods: Vec<&str> = desired.methods.iter().map(|method| method.as_str()).collect();
    let adopt = words.adopt.as_deref().unwrap_or_default();
    format!("{}/{}/{gateway}/{}/{adopt}", desired.owner.generation, desired.resources.join(" "), methods.join(" "))
}

fn now() -> i64 {
    SystemClock::default().unix()
}
