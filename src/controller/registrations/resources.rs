//! Clients that stand for servers at Keycloak, for the sake of those that persons log in with
//! ([`crate::registration::profile::resource`]).
//!
//! Invariant: several registrations may need the same one. What a registration needs is noted before that is looked for, and one is
//! deleted only under its issuer's lock, while it is known of every registration there that it does not need it, and of every one
//! that was left at its server that it did not. So one that was just found is not deleted by whoever did not know. Nobody waits
//! to delete one: whoever holds the lock, or the next sweep, will do. What nobody remembers (a controller that ended between the
//! last registration and the look that would have deleted it) stays: it bears our mark, and does nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use super::servers::Server;
use super::{CHECK_SECONDS, anchor, now};
use crate::controller::Context;
use crate::controller::error::Failure;
use crate::registration::call::{Answer, Call, Heard, Place, Purpose};
use crate::registration::profile::resource::{self, Standing};
use crate::registration::{Desired, Ledger};

/// What did not work is tried again after this (seconds).
const RETRY_SECONDS: i64 = 60;

/// What this process knows of them.
#[derive(Default)]
pub(super) struct Resources {
    /// What each registration needs, by its ledger's name.
    needs: Mutex<HashMap<String, BTreeSet<String>>>,
    /// By issuer, what registrations needed that were left there: it stays. `None`: of one of them nobody knows.
    kept: Mutex<BTreeMap<String, Option<BTreeSet<String>>>>,
    issuers: Mutex<BTreeMap<String, Arc<AsyncMutex<Issuer>>>>,
}

/// What is known of the client that stands for a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stands {
    /// Whether one does.
    found: Result<(), String>,
    /// Until when that counts (Unix seconds).
    until: i64,
    /// When it was not needed, and could not be deleted (Unix seconds).
    undeleted: Option<i64>,
}

/// What is known of an issuer's.
#[derive(Debug)]
struct Issuer {
    /// The McpAuthorizationServer.
    authority: String,
    /// What says that one is ours.
    mark: String,
    /// By resource.
    known: BTreeMap<String, Stands>,
}

impl Resources {
    fn needs(&self) -> MutexGuard<'_, HashMap<String, BTreeSet<String>>> {
        self.needs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Option<BTreeSet<String>>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a registration needs stays at its issuer: nothing is taken back there, and the client goes on without us.
    pub(super) fn stay(&self, name: &str, issuer: &str) {
        let needed = self.needs().get(name).cloned();
        let mut kept = self.kept();
        let kept = kept.entry(issuer.to_owned()).or_insert_with(|| Some(BTreeSet::new()));
        *kept = kept.take().zip(needed).map(|(before, needed)| before.into_iter().chain(needed).collect());
    }

    fn issuers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<AsyncMutex<Issuer>>>> {
        self.issuers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issuer(&self, ledger: &Ledger) -> Arc<AsyncMutex<Issuer>> {
        let mut issuers = self.issuers();
        let begun = || {
            let (authority, mark) = (ledger.authority.clone(), resource::mark(ledger));
            Arc::new(AsyncMutex::new(Issuer { authority, mark, known: BTreeMap::new() }))
        };
        issuers.entry(ledger.issuer.clone()).or_insert_with(begun).clone()
    }
}

/// Notes what a registration needs, and answers it.
pub(super) fn need(context: &Context, name: &str, (desired, ledger): (&Desired, &Ledger)) -> BTreeSet<String> {
    let needed: BTreeSet<String> = resource::needed(desired, ledger).iter().cloned().collect();
    context.registrations.resources.needs().insert(name.to_owned(), needed.clone());
    needed
}

/// Sees to it that a client stands for each resource that a registration needs. Answers for which there is none, and why.
///
/// # Errors
/// If this process does not lead any more.
pub(super) async fn ensure(
    context: &Context,
    server: &Server,
    ledger: &Ledger,
    needed: BTreeSet<String>,
) -> Result<Vec<String>, Failure> {
    if needed.is_empty() {
        return Ok(Vec::new());
    }
    let issuer = context.registrations.resources.issuer(ledger);
    let mut issuer = issuer.lock().await;
    // The one of before may have another issuer by now, or be gone.
    issuer.authority.clone_from(&ledger.authority);
    let mut missing = Vec::new();
    for wanted in needed {
        let now = now();
        let is_known =
            issuer.known.get(&wanted).is_some_and(|stands| (now..=now + CHECK_SECONDS).contains(&stands.until));
        if !is_known {
            let owner = (ledger.owner.namespace.as_str(), ledger.owner.name.as_str());
            context.registrations.turns.spend(owner, &ledger.authority, context.start.elapsed());
            let found = stand(context, server, &wanted, &issuer.mark).await?;
            let seconds = if found.is_ok() { CHECK_SECONDS } else { RETRY_SECONDS };
            let until = now.saturating_add(seconds);
            issuer.known.insert(wanted.clone(), Stands { found, until, undeleted: None });
        }
        if let Some(Stands { found: Err(why), .. }) = issuer.known.get(&wanted) {
            missing.push(format!("{wanted}: {why}"));
        }
    }
    Ok(missing)
}

/// Finds the client that stands for a resource, or makes it.
async fn stand(context: &Context, server: &Server, wanted: &str, mark: &str) -> Result<Result<(), String>, Failure> {
    let place = match server.place(now()).await {
        Ok((place, _)) => place,
        Err(not) => return Ok(Err(not.detail)),
    };
    let standing = match find(context, server, wanted, mark, &place).await? {
        Ok(standing) => standing,
        Err(why) => return Ok(Err(why)),
    };
    match standing {
        Standing::Ours { .. } | Standing::Theirs => Ok(Ok(())),
        Standing::Unfit => {
            Ok(Err("there is a client of that id without the attribute resource_url of the same value".to_owned()))
        }
        Standing::Absent => {
            let made = ask(context, server, resource::create(wanted, mark, &place)).await?;
            let made = resource::done(Purpose::Create, made.as_ref());
            if made.is_ok() {
                tracing::info!(resource = wanted, "a client stands for it at its authorization server");
            }
            Ok(made)
        }
    }
}

/// The issuers at which the owner with this UID has something.
pub(in crate::controller) fn issuers(context: &Context, uid: &str) -> BTreeSet<String> {
    context.registrations.index().of(uid).into_values().map(|entry| entry.issuer).collect()
}

/// Deletes what no registration needs any more, at the issuers that `which` chooses.
///
/// # Errors
/// If this process does not lead any more.
pub(in crate::controller) async fn tidy(context: &Context, which: impl Fn(&str) -> bool) -> Result<(), Failure> {
    let resources = &context.registrations.resources;
    let names = context.registrations.index().names();
    resources.needs().retain(|name, _| names.contains(name));
    let issuers: Vec<_> = resources.issuers().iter().map(|(name, issuer)| (name.clone(), issuer.clone())).collect();
    for (name, issuer) in issuers.into_iter().filter(|(name, _)| which(name)) {
        if let Ok(mut issuer) = issuer.try_lock() {
            tidy_at(context, &name, &mut issuer).await?;
        }
    }
    Ok(())
}

/// The same at one issuer. What fails there fails once: a server that hangs is not asked for the next one.
async fn tidy_at(context: &Context, name: &str, issuer: &mut Issuer) -> Result<(), Failure> {
    let unneeded = {
        let resources = &context.registrations.resources;
        let there = context.registrations.index().at(name);
        let (needs, kept) = (resources.needs(), resources.kept());
        unneeded(&issuer.known, &needs, &there, kept.get(name), now())
    };
    if unneeded.is_empty() {
        return Ok(());
    }
    let Ok(anchor) = anchor(context, &issuer.authority) else { return Ok(()) };
    if anchor.registration.issuer != name {
        return Ok(());
    }
    let Ok(server) = context.registrations.servers.of(&anchor, &context.egress) else { return Ok(()) };
    for one in unneeded {
        context.registrations.turns.spend_at(&issuer.authority, context.start.elapsed());
        if let Err(why) = fall(context, &server, &one, &issuer.mark).await? {
            tracing::warn!(resource = one, why, "a client that stands for it is not needed, and not deleted yet");
            // It may be gone all the same: whoever needs it next looks.
            issuer.known.insert(one, Stands { found: Err(why), until: i64::MIN, undeleted: Some(now()) });
            break;
        }
        issuer.known.remove(&one);
    }
    Ok(())
}

/// Of what is known to stand, what no registration at that issuer needs, and what was not tried just now. What could not be
/// deleted comes last. `there`: their ledgers' names; `kept`: what those needed that were left there.
fn unneeded(
    known: &BTreeMap<String, Stands>,
    needs: &HashMap<String, BTreeSet<String>>,
    there: &[String],
    kept: Option<&Option<BTreeSet<String>>>,
    now: i64,
) -> Vec<String> {
    let needed: Option<Vec<_>> = there.iter().map(|name| needs.get(name)).chain(kept.map(Option::as_ref)).collect();
    // Of one of them, nobody has looked yet at what it needs.
    let Some(needed) = needed else { return Vec::new() };
    // A clock may be set back.
    let is_due = |stands: &Stands| {
        stands.undeleted.is_none_or(|at| !(now.saturating_sub(RETRY_SECONDS) + 1..=now).contains(&at))
    };
    let is_needed = |resource: &String| needed.iter().any(|needs| needs.contains(resource));
    let mut all: Vec<_> = known.iter().filter(|(resource, stands)| !is_needed(resource) && is_due(stands)).collect();
    all.sort_by_key(|(_, stands)| stands.undeleted);
    all.into_iter().map(|(resource, _)| resource.clone()).collect()
}

/// Deletes the client that stands for a resource, if it is ours.
async fn fall(context: &Context, server: &Server, unneeded: &str, mark: &str) -> Result<Result<(), String>, Failure> {
    let place = match server.place(now()).await {
        Ok((place, _)) => place,
        Err(not) => return Ok(Err(not.detail)),
    };
    match find(context, server, unneeded, mark, &place).await? {
        Ok(Standing::Ours { id }) => {
            let deleted = ask(context, server, resource::delete(&id, &place)).await?;
            let deleted = resource::done(Purpose::Delete, deleted.as_ref());
            if deleted.is_ok() {
                tracing::info!(resource = unneeded, "no client stands for it any more: nobody needs it");
            }
            Ok(deleted)
        }
        Ok(Standing::Theirs | Standing::Absent | Standing::Unfit) => Ok(Ok(())),
        Err(why) => Ok(Err(why)),
    }
}

async fn find(
    context: &Context,
    server: &Server,
    wanted: &str,
    mark: &str,
    place: &Place,
) -> Result<Result<Standing, String>, Failure> {
    let heard = ask(context, server, resource::find(wanted, place)).await?;
    Ok(match &heard {
        Ok(answer) => resource::hear(answer, wanted, mark),
        Err(_) => Err(resource::done(Purpose::Find, heard.as_ref()).err().unwrap_or_default()),
    })
}

async fn ask(context: &Context, server: &Server, call: Option<Call>) -> Result<Result<Answer, Heard>, Failure> {
    let Some(call) = call else {
        return Ok(Err(Heard::Unsent("there are no credentials for its administrative API".to_owned())));
    };
    let heard = server.send(context, &call, None, now()).await?;
    context.metrics.registration_request(call.purpose, &heard.as_ref().map_or_else(Clone::clone, |_| Heard::Alive));
    Ok(heard)
}

#[cfg(test)]
mod tests {
    use super::super::index::{Entry, Index};
    use super::super::ledgers;
    use super::*;

    const NOW: i64 = 1000;

    fn stands(undeleted: Option<i64>) -> Stands {
        Stands { found: Ok(()), until: 1, undeleted }
    }

    fn set(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|one| (*one).to_owned()).collect()
    }

    #[test]
    fn one_goes_only_once_it_is_known_of_everybody_there_that_nobody_needs_it() {
        let known = BTreeMap::from(["a", "b"].map(|one| (one.to_owned(), stands(None))));
        let mut needs = HashMap::from([("one".to_owned(), set(&["a", "b"])), ("gone".to_owned(), set(&["b"]))]);
        let there = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let unneeded = |names: &[&str], needs: &HashMap<_, _>| super::unneeded(&known, needs, &there(names), None, NOW);
        assert!(unneeded(&["one"], &needs).is_empty());
        assert!(unneeded(&["one", "unseen"], &needs).is_empty());
        needs.insert("one".to_owned(), set(&["a"]));
        assert_eq!(unneeded(&["one"], &needs), ["b"], "whoever is gone needs nothing");
        assert!(unneeded(&["one", "unseen"], &needs).is_empty(), "it may need it");
        needs.insert("unseen".to_owned(), set(&["b"]));
        assert!(unneeded(&["one", "unseen"], &needs).is_empty());
        assert_eq!(unneeded(&[], &needs), ["a", "b"]);
    }

    #[test]
    fn what_a_client_needs_that_was_left_at_its_server_stays_there() {
        let resources = Resources::default();
        let known = BTreeMap::from(["a", "b"].map(|one| (one.to_owned(), stands(None))));
        let unneeded = |issuer: &str| super::unneeded(&known, &HashMap::new(), &[], resources.kept().get(issuer), NOW);
        assert_eq!(unneeded("i"), ["a", "b"]);
        resources.needs().insert("left".to_owned(), set(&["b"]));
        resources.stay("left", "i");
        assert_eq!(unneeded("i"), ["a"]);
        resources.needs().insert("also".to_owned(), BTreeSet::new());
        resources.stay("also", "i");
        assert_eq!(unneeded("i"), ["a"], "what one does not need, the other does");
        assert_eq!(unneeded("other"), ["a", "b"]);
        resources.stay("unseen", "i");
        resources.stay("left", "i");
        assert!(unneeded("i").is_empty(), "one of them may need it");
    }

    #[test]
    fn what_could_not_be_deleted_waits_and_keeps_nothing_else_waiting() {
        let tried = [("a", Some(NOW - RETRY_SECONDS)), ("b", Some(NOW - 1)), ("c", None), ("d", Some(NOW + 5))];
        let known = BTreeMap::from(tried.map(|(one, at)| (one.to_owned(), stands(at))));
        assert_eq!(unneeded(&known, &HashMap::new(), &[], None, NOW), ["c", "a", "d"]);
    }

    #[test]
    fn a_ledger_that_is_kept_for_what_was_lost_alone_keeps_nothing_there() {
        let ledger = ledgers::tests::ledger();
        let mut index = Index::default();
        let mut entry = Entry::of(&ledger);
        entry.is_over = false;
        index.know("u-1", "one", entry.clone());
        assert_eq!((index.at(&ledger.issuer), index.at("https://other.example")), (vec!["one".to_owned()], vec![]));
        entry.is_over = true;
        index.know("u-1", "one", entry);
        assert!(index.at(&ledger.issuer).is_empty());
    }
}
