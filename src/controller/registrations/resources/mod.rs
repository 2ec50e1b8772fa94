//! Clients that stand for servers at Keycloak, for the sake of those that persons log in with
//! ([`crate::registration::profile::resource`]).
//!
//! Invariant: several registrations may need the same one. What a registration needs is noted before that is looked for, and one is
//! deleted only under its issuer's lock, while it is known of every registration there that it does not need it, and of every one
//! that was left at its server that it did not. So one that was just found is not deleted by whoever did not know. Nobody waits
//! to delete one: whoever holds the lock, or the next sweep, will do. What a process has made that ended since, the next one finds
//! by its mark; and what a client needs that is to stay at its server bears another, by which nobody deletes it.

mod requests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use self::requests::{Marks, No, fall, listed, stand};
use super::servers::Server;
use super::{CHECK_SECONDS, LASTING_WAIT, anchor, now};
use crate::controller::Context;
use crate::controller::error::Failure;
use crate::registration::desired::{DeletionPolicy, Profile};
use crate::registration::profile::resource;
use crate::registration::{Desired, Ledger, Method};

/// What did not work is tried again after this (seconds).
const RETRY_SECONDS: i64 = 60;

/// What this process knows of them.
#[derive(Default)]
pub(super) struct Resources {
    /// What each registration needs, by its ledger's name.
    needs: Mutex<HashMap<String, Need>>,
    /// By issuer, what registrations needed that were left there: it stays. `None`: of one of them nobody knows.
    kept: Mutex<BTreeMap<String, Option<BTreeSet<String>>>>,
    issuers: Mutex<BTreeMap<String, Arc<AsyncMutex<Issuer>>>>,
}

/// What a registration needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Need {
    /// The resources that a client is to stand for.
    resources: BTreeSet<String>,
    /// For which of them none did, when that was last looked at, and why.
    missing: Vec<String>,
}

/// What is known of the client that stands for a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stands {
    /// Whether one does, and that it goes once nobody needs it.
    found: Result<Goes, String>,
    /// Until when that counts (Unix seconds).
    until: i64,
    /// When it was not needed, and could not be deleted (Unix seconds).
    undeleted: Option<i64>,
}

/// Whether a client that stands for a resource goes with the last that needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    /// It is ours, and does.
    Ours,
    /// It is somebody else's, or needed by a client that stays there.
    Not,
}

/// What is known of an issuer's.
#[derive(Debug)]
struct Issuer {
    /// The McpAuthorizationServer.
    authority: String,
    /// By resource.
    known: BTreeMap<String, Stands>,
    /// When those are looked for that a process before this one has made (Unix seconds): once that was done, never again.
    list_at: i64,
}

impl Resources {
    fn needs(&self) -> MutexGuard<'_, HashMap<String, Need>> {
        self.needs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Option<BTreeSet<String>>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a registration needs stays at its issuer: nothing is taken back there, and the client goes on without us.
    pub(super) fn stay(&self, name: &str, ledger: &Ledger) {
        // Whoever has no client there needs nothing there.
        if !resource::may_need(ledger) || ledger.current.is_none() {
            return;
        }
        let needed = self.needs().get(name).map(|need| need.resources.clone());
        let mut kept = self.kept();
        let kept = kept.entry(ledger.issuer.clone()).or_insert_with(|| Some(BTreeSet::new()));
        *kept = kept.take().zip(needed).map(|(before, needed)| before.into_iter().chain(needed).collect());
    }

    fn issuers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<AsyncMutex<Issuer>>>> {
        self.issuers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issuer(&self, issuer: &str, authority: &str) -> Arc<AsyncMutex<Issuer>> {
        let begun = || {
            let authority = authority.to_owned();
            Arc::new(AsyncMutex::new(Issuer { authority, known: BTreeMap::new(), list_at: i64::MIN }))
        };
        self.issuers().entry(issuer.to_owned()).or_insert_with(begun).clone()
    }
}

/// Notes what a registration needs, and answers it.
pub(super) fn need(context: &Context, name: &str, (desired, ledger): (&Desired, &Ledger)) -> BTreeSet<String> {
    let needed: BTreeSet<String> = resource::needed(desired, ledger).iter().cloned().collect();
    let mut needs = context.registrations.resources.needs();
    let need = needs.entry(name.to_owned()).or_default();
    need.resources.clone_from(&needed);
    need.missing.retain(|_| !needed.is_empty());
    needed
}

/// For which resources that a registration needs there was no client, when that was last looked at, and why.
pub(super) fn missing(context: &Context, name: &str) -> Vec<String> {
    context.registrations.resources.needs().get(name).map(|need| need.missing.clone()).unwrap_or_default()
}

/// Sees to it that a client stands for each resource that a registration needs. Answers for which there is none, and why. Of a
/// server that does not answer, one thing is asked.
///
/// # Errors
/// If this process does not lead any more.
pub(super) async fn ensure(
    context: &Context,
    server: &Server,
    (name, ledger): (&str, &Ledger),
    needed: BTreeSet<String>,
) -> Result<Vec<String>, Failure> {
    if needed.is_empty() {
        return Ok(Vec::new());
    }
    let resources = &context.registrations.resources;
    let marks = Marks::of(&context.registrations.cluster()?, ledger.deletion.policy == DeletionPolicy::Retain);
    let issuer = resources.issuer(&ledger.issuer, &ledger.authority);
    let mut issuer = issuer.lock().await;
    // The one of before may have another issuer by now, or be gone.
    issuer.authority.clone_from(&ledger.authority);
    let (mut missing, mut is_away) = (Vec::new(), None);
    for wanted in needed {
        let now = now();
        if !issuer.known.get(&wanted).is_some_and(|stands| stands.is_enough(&marks, now)) {
            let found = match &is_away {
                Some(why) => Err(No::There(String::clone(why))),
                None => {
                    let owner = (ledger.owner.namespace.as_str(), ledger.owner.name.as_str());
                    context.registrations.turns.spend(owner, &ledger.authority, context.start.elapsed());
                    stand(context, server, &wanted, &marks).await?
                }
            };
            if let Err(No::There(why)) = &found {
                is_away.get_or_insert_with(|| why.clone());
            }
            let seconds = if found.is_ok() { CHECK_SECONDS } else { RETRY_SECONDS };
            let stands = Stands { found: found.map_err(No::words), until: now + seconds, undeleted: None };
            issuer.known.insert(wanted.clone(), stands);
        }
        if let Some(Stands { found: Err(why), .. }) = issuer.known.get(&wanted) {
            missing.push(format!("{wanted}: {why}"));
        }
    }
    if let Some(need) = resources.needs().get_mut(name) {
        need.missing.clone_from(&missing);
    }
    Ok(missing)
}

impl Stands {
    /// Whether nothing is to be asked. A clock may be set back.
    fn is_enough(&self, marks: &Marks, now: i64) -> bool {
        let counts = (now..=now.saturating_add(CHECK_SECONDS)).contains(&self.until);
        counts && !(marks.stays && self.found == Ok(Goes::Ours))
    }
}

/// A registration ends whose client is to stay: what that needs is to stay as well. Where this cannot be said to the server now, this
/// process alone knows it.
///
/// # Errors
/// If this process does not lead any more.
pub(super) async fn leave(
    context: &Context,
    server: Option<&Server>,
    (name, ledger): (&str, &Ledger),
) -> Result<(), Failure> {
    let resources = &context.registrations.resources;
    resources.stay(name, ledger);
    let needed = resources.needs().get(name).map(|need| need.resources.clone()).unwrap_or_default();
    let Some(server) = server.filter(|_| resource::may_need(ledger) && ledger.current.is_some()) else { return Ok(()) };
    let missing = ensure(context, server, (name, ledger), needed).await?;
    if !missing.is_empty() {
        let (issuer, missing) = (&ledger.issuer, missing.join(", "));
        tracing::warn!(
            issuer,
            missing,
            "a client stays at its server, and what it needs there could not be marked to stay too"
        );
    }
    Ok(())
}

/// The issuers at which the owner with this UID has something.
pub(in crate::controller) fn issuers(context: &Context, uid: &str) -> BTreeSet<String> {
    context.registrations.index().of(uid).into_values().map(|entry| entry.issuer).collect()
}

/// Deletes what no registration needs any more, wherever clients are registered by an administrative API.
///
/// # Errors
/// If this process does not lead any more.
pub(super) async fn sweep(context: &Context) -> Result<(), Failure> {
    let administered = context.store().registrations();
    for (authority, registration) in administered {
        if registration.methods.contains(&Method::Admin) && registration.profile == Profile::Keycloak {
            let issuer = context.registrations.resources.issuer(&registration.issuer, &authority);
            // The one of before may have another issuer by now, or be gone. Whoever holds the lock knows a better one.
            if let Ok(mut issuer) = issuer.try_lock() {
                issuer.authority = authority;
            }
        }
    }
    tidy(context, |_| true).await
}

/// The same at the issuers that `which` chooses.
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
    let unneeded = |issuer: &Issuer| {
        let resources = &context.registrations.resources;
        let there = context.registrations.index().at(name);
        let (needs, kept) = (resources.needs(), resources.kept());
        unneeded(&issuer.known, &needs, &there, kept.get(name), now())
    };
    let is_unlisted = issuer.list_at <= now();
    if unneeded(issuer).is_empty() && !is_unlisted {
        return Ok(());
    }
    let Ok(anchor) = anchor(context, &issuer.authority) else { return Ok(()) };
    if anchor.registration.issuer != name {
        return Ok(());
    }
    let Ok(server) = context.registrations.servers.of(&anchor, &context.egress) else { return Ok(()) };
    let marks = Marks::of(&context.registrations.cluster()?, false);
    if is_unlisted {
        context.registrations.turns.spend_at(&issuer.authority, context.start.elapsed());
        list(context, &server, &marks, issuer).await?;
    }
    for one in unneeded(issuer) {
        context.registrations.turns.spend_at(&issuer.authority, context.start.elapsed());
        if let Err(why) = fall(context, &server, &one, &marks).await?.map_err(No::words) {
            tracing::warn!(resource = one, why, "a client that stands for it is not needed, and not deleted yet");
            // It may be gone all the same: whoever needs it next looks.
            issuer.known.insert(one, Stands { found: Err(why), until: i64::MIN, undeleted: Some(now()) });
            break;
        }
        issuer.known.remove(&one);
    }
    Ok(())
}

/// Learns which there are that a process before this one has made.
async fn list(context: &Context, server: &Server, marks: &Marks, issuer: &mut Issuer) -> Result<(), Failure> {
    match listed(context, server, marks).await?.map_err(No::words) {
        Ok((all, is_whole)) => {
            for one in all {
                // Whoever needs it looks.
                let stands = Stands { found: Ok(Goes::Ours), until: i64::MIN, undeleted: None };
                issuer.known.entry(one).or_insert(stands);
            }
            issuer.list_at = if is_whole { i64::MAX } else { now().saturating_add(LASTING_WAIT) };
        }
        Err(why) => {
            let authority = &issuer.authority;
            tracing::info!(authority, why, "which clients stand for resources there could not be listed yet");
            issuer.list_at = now().saturating_add(LASTING_WAIT);
        }
    }
    Ok(())
}

/// Of what is known to stand, what no registration at that issuer needs, and what was not tried just now. What could not be
/// deleted comes last. `there`: their ledgers' names; `kept`: what those needed that were left there.
fn unneeded(
    known: &BTreeMap<String, Stands>,
    needs: &HashMap<String, Need>,
    there: &[String],
    kept: Option<&Option<BTreeSet<String>>>,
    now: i64,
) -> Vec<String> {
    let there = there.iter().map(|name| needs.get(name).map(|need| &need.resources));
    let needed: Option<Vec<_>> = there.chain(kept.map(Option::as_ref)).collect();
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::index::{Entry, Index};
    use super::super::ledgers;
    use super::*;

    const NOW: i64 = 1000;

    fn stands(undeleted: Option<i64>) -> Stands {
        Stands { found: Ok(Goes::Ours), until: 1, undeleted }
    }

    fn needs(all: &[&str]) -> Need {
        Need { resources: all.iter().map(|one| (*one).to_owned()).collect(), missing: Vec::new() }
    }

    /// Of a registration that may need one.
    fn registered() -> Ledger {
        let current = json!({"client_id": "c", "client_secret": null, "secret_expires_at": null, "secret_since": 0,
            "registered_at": 0, "updated_at": 0, "handle": {"Admin": {"id": "1"}}, "digest": "", "kids": [],
            "substituted": []});
        let mut ledger = ledgers::tests::ledger();
        (ledger.method, ledger.profile, ledger.issuer) = (Method::Admin, Profile::Keycloak, "i".to_owned());
        ledger.current = Some(serde_json::from_value(current).unwrap());
        ledger
    }

    #[test]
    fn one_goes_only_once_it_is_known_of_everybody_there_that_nobody_needs_it() {
        let known = BTreeMap::from(["a", "b"].map(|one| (one.to_owned(), stands(None))));
        let mut all = HashMap::from([("one".to_owned(), needs(&["a", "b"])), ("gone".to_owned(), needs(&["b"]))]);
        let there = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let unneeded = |names: &[&str], all: &HashMap<_, _>| super::unneeded(&known, all, &there(names), None, NOW);
        assert!(unneeded(&["one"], &all).is_empty());
        assert!(unneeded(&["one", "unseen"], &all).is_empty());
        all.insert("one".to_owned(), needs(&["a"]));
        assert_eq!(unneeded(&["one"], &all), ["b"], "whoever is gone needs nothing");
        assert!(unneeded(&["one", "unseen"], &all).is_empty(), "it may need it");
        all.insert("unseen".to_owned(), needs(&["b"]));
        assert!(unneeded(&["one", "unseen"], &all).is_empty());
        assert_eq!(unneeded(&[], &all), ["a", "b"]);
    }

    #[test]
    fn what_a_client_needs_that_was_left_at_its_server_stays_there() {
        let (resources, ledger) = (Resources::default(), registered());
        let known = BTreeMap::from(["a", "b"].map(|one| (one.to_owned(), stands(None))));
        let unneeded = |issuer: &str| super::unneeded(&known, &HashMap::new(), &[], resources.kept().get(issuer), NOW);
        assert_eq!(unneeded("i"), ["a", "b"]);
        resources.needs().insert("left".to_owned(), needs(&["b"]));
        resources.stay("left", &ledger);
        assert_eq!(unneeded("i"), ["a"]);
        resources.needs().insert("also".to_owned(), Need::default());
        resources.stay("also", &ledger);
        assert_eq!(unneeded("i"), ["a"], "what one does not need, the other does");
        assert_eq!(unneeded("other"), ["a", "b"]);
        // Whoever can need none keeps none, whether it was looked at or not.
        let (mut by_itself, mut clientless) = (registered(), registered());
        by_itself.method = Method::Dcr;
        clientless.current = None;
        resources.stay("unseen", &by_itself);
        resources.stay("unseen", &clientless);
        assert_eq!(unneeded("i"), ["a"]);
        resources.stay("unseen", &ledger);
        resources.stay("left", &ledger);
        assert!(unneeded("i").is_empty(), "one of them may need it");
    }

    #[test]
    fn one_that_is_to_stay_is_asked_for_again_as_long_as_it_would_go() {
        let marks = |stays| Marks::of("0123abcd", stays);
        let stands = |found| Stands { found, until: NOW + 10, undeleted: None };
        for (found, stays, is_enough) in [
            (Ok(Goes::Ours), false, true),
            (Ok(Goes::Ours), true, false),
            (Ok(Goes::Not), true, true),
            (Err(String::new()), true, true),
        ] {
            assert_eq!(stands(found.clone()).is_enough(&marks(stays), NOW), is_enough, "{found:?} {stays}");
        }
        let old = stands(Ok(Goes::Not));
        assert!(!old.is_enough(&marks(false), NOW + 11) && !old.is_enough(&marks(false), NOW - CHECK_SECONDS));
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
