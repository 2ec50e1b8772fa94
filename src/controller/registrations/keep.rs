//! A registration that its owner wants: what stands in the way is seen to first, and then it is gone on with.
//!
//! Invariant: nothing is begun before it is known how; and where another registration is wanted, by another method or elsewhere, what
//! there is goes first.

use super::adoption::{self, Asked};
use super::held::{Held, Recalled, recall};
use super::index::Entry;
use super::servers::{self, NotAsked};
use super::{Anchor, Outcome, Run, Waits, Words, finish, ledgers, now, remember_left, remove, take_back, withdraw};
use crate::controller::Context;
use crate::controller::error::Failure;
use crate::registration::{Claim, Desired, Ledger, Method, What, Wish, choose, is_another};
use crate::sensitive::Sensitive;

/// What came of a registration that its owner wants.
pub(in crate::controller) struct Kept {
    /// What came of it.
    pub(in crate::controller) outcome: Outcome,
    /// Whether all that is left of it is in there: what was said of that before is said no longer.
    pub(in crate::controller) tells_left: bool,
}

impl Kept {
    /// Nobody was asked, and nobody has looked at what is left.
    pub(in crate::controller) fn unseen(not: NotAsked, now: i64) -> Self {
        Self { outcome: Outcome::not_asked(not, now), tells_left: false }
    }
}

/// Goes on with the registration that an object wants. `given`: the secret that its author gives it.
///
/// # Errors
/// If the API server does not do what it has to; it is to be tried again.
pub(in crate::controller) async fn keep(
    context: &Context,
    anchor: &Anchor,
    desired: &Desired,
    given: Option<&Sensitive>,
    words: &Words,
) -> Result<Kept, Failure> {
    // What it has elsewhere is taken back: its author chose another server, or agreed to another issuer.
    let elsewhere = |entry: &Entry| entry.issuer != desired.issuer;
    let waits = Waits { stays: Some(words), ..Waits::default() };
    let taken = take_back(context, &desired.owner.uid, waits, elsewhere).await?;
    remember_left(context, &desired.owner.uid, None);
    let mut kept = keep_here(context, anchor, desired, given, words).await?;
    kept.outcome.left.add(taken.left);
    kept.tells_left &= taken.is_all_seen;
    Ok(kept)
}

/// The same, where it wants it.
async fn keep_here(
    context: &Context,
    anchor: &Anchor,
    desired: &Desired,
    given: Option<&Sensitive>,
    words: &Words,
) -> Result<Kept, Failure> {
    let now = now();
    let name = ledgers::name(&desired.owner.uid, &desired.issuer);
    let server = match context.registrations.servers.of(anchor, &context.egress) {
        Ok(server) => server,
        Err(not) => return Ok(Kept::unseen(not, now)),
    };
    let outcome = match recall(context, &name, now).await? {
        Recalled::Not(not) => return Ok(Kept::unseen(not, now)),
        Recalled::Here(held) if !held.seen.ledger.is_at_an_end() && is_another(desired, held.seen.ledger.method) => {
            context.registrations.held().insert(name.clone(), held);
            another(context, anchor, (desired, words), &name).await?
        }
        Recalled::Here(held) => go_on(context, (anchor, &server), (desired, given, words), &name, Some(held)).await?,
        Recalled::Nothing => go_on(context, (anchor, &server), (desired, given, words), &name, None).await?,
    };
    Ok(Kept { outcome, tells_left: true })
}

/// Goes on with what is known, or begins.
async fn go_on(
    context: &Context,
    (anchor, server): (&Anchor, &servers::Server),
    (desired, given, words): (&Desired, Option<&Sensitive>, &Words),
    name: &str,
    mut known: Option<Box<Held>>,
) -> Result<Outcome, Failure> {
    let (name, now) = (name.to_owned(), now());
    let cluster = context.registrations.cluster()?;
    let ledger = known.as_ref().map(|held| &held.seen.ledger);
    let asked = match adoption::asked(context, desired, ledger, &cluster, words.adopt.as_deref()).await {
        Ok(asked) => asked,
        Err(failure) => {
            context.registrations.held().extend(known.map(|held| (name, held)));
            return Err(failure);
        }
    };
    let run = Run { context, server: Ok(server), anchor: Some(anchor), name: &name, wish: Wish::Keep(desired) };
    // Whatever is forgotten of what was lost.
    let is_at_an_end = known.as_ref().is_some_and(|held| held.seen.ledger.is_at_an_end());
    if let Some(held) = &mut known {
        held.heed(words);
        if asked.is_for_none() {
            held.seen.give_adoption_up(now);
        }
    }
    // Whoever had a client, and lost it, is given another: nobody waits for that to be said.
    let had_client = !is_at_an_end && known.as_ref().is_some_and(|held| held.seen.had_client());
    if let Some((what, why)) = asked.hindrance().filter(|_| !had_client) {
        let mut outcome = Outcome::waiting(known.as_deref(), NotAsked::new(what, why), now);
        outcome.adoption = asked.refusal(None);
        // What was given up is given up.
        let stored = match known.as_mut().filter(|held| !held.seen.is_stored()) {
            Some(held) => run.persist(held).await.map(drop),
            None => Ok(()),
        };
        context.registrations.held().extend(known.map(|held| (name, held)));
        return stored.map(|()| outcome);
    }
    let mut held = match known {
        Some(held) if !is_at_an_end => held,
        // Nothing is begun before it is known how.
        over => match chosen(server, desired, asked.claim(), now).await {
            Ok(method) => begun(over, desired, words, method, &cluster, now),
            Err(not) => {
                let outcome = Outcome::waiting(over.as_deref(), not, now);
                context.registrations.held().extend(over.map(|held| (name, held)));
                return Ok(outcome);
            }
        },
    };
    held.seen.belongs_to(&desired.authority);
    held.seen.give(given);
    held.seen.set_claim(asked.claim().cloned());
    held.follow(wish_digest(desired, words), now);
    look_on(run, held, desired, &asked).await
}

/// Looks at a registration that its owner wants, and sees to what stands beside it.
async fn look_on(run: Run<'_>, mut held: Box<Held>, desired: &Desired, asked: &Asked) -> Result<Outcome, Failure> {
    let context = run.context;
    let ended = run.go_on(&mut held, Some(desired)).await;
    let is_served = held.seen.ledger.method == Method::Cimd && desired.client_id.is_none();
    let has_taken_over = held.seen.has_taken_over();
    let mut outcome = finish(context, run.name.to_owned(), held, ended).await?;
    if outcome.is_over {
        // What was being deleted is gone, and is wanted again.
        outcome.again = now();
    }
    if !is_served {
        withdraw(context, &desired.owner.uid).await?;
    }
    if has_taken_over {
        adoption::done(context, desired, asked).await?;
    }
    outcome.adoption = asked.refusal(outcome.trouble.as_ref());
    Ok(outcome)
}

/// A registration that is begun by this method, where nothing was, or another one is over.
fn begun(
    over: Option<Box<Held>>,
    desired: &Desired,
    words: &Words,
    method: Method,
    cluster: &str,
    now: i64,
) -> Box<Held> {
    match over {
        Some(mut held) => {
            held.seen.begin_anew(method, desired.profile);
            held
        }
        None => {
            let mut held = Box::new(Held::new(Ledger::new(desired, "McpClient", method, cluster), now));
            held.heed(words);
            held
        }
    }
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
    choose(desired, &metadata, &place).map_err(|detail| NotAsked::new(What::NoEndpoint, detail))
}

/// Its author asks for another method by now: what there is goes first, since that is another registration.
async fn another(
    context: &Context,
    anchor: &Anchor,
    (desired, words): (&Desired, &Words),
    name: &str,
) -> Result<Outcome, Failure> {
    let waits = Waits { stays: Some(words), ..Waits::default() };
    let outcome = remove(context, Ok(anchor), name, waits).await?;
    if !outcome.is_over {
        return Ok(outcome);
    }
    withdraw(context, &desired.owner.uid).await?;
    Ok(Outcome { again: now(), ..outcome })
}

/// What tells one wish from another, as far as trying again is concerned.
fn wish_digest(desired: &Desired, words: &Words) -> String {
    let gateway = desired.gateway.as_deref().unwrap_or_default();
    let methods: Vec<&str> = desired.methods.iter().map(|method| method.as_str()).collect();
    let adopt = words.adopt.as_deref().unwrap_or_default();
    format!("{}/{}/{gateway}/{}/{adopt}", desired.owner.generation, desired.resources.join(" "), methods.join(" "))
}
