//! Clients that stand for servers at Keycloak, for the sake of those that persons log in with
//! ([`crate::registration::profile::resource`]).
//!
//! Invariant: several registrations may need the same one. What a registration needs is noted before that is looked for, and one is
//! deleted only under its issuer's lock, while it is known of every registration there that it does not need it. So one that was
//! just found is not deleted by whoever did not know. What nobody remembers (a controller that ended between the last
//! registration and the look that would have deleted it) stays: it bears our mark, and does nothing.

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
    issuers: Mutex<BTreeMap<String, Arc<AsyncMutex<Issuer>>>>,
}

/// Whether a client stands for a resource, and until when that counts (Unix seconds).
type Stands = (Result<(), String>, i64);

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

/// Sees to it that a client stands for each resource that a registration needs. Answers for which there is none, and why.
///
/// # Errors
/// If this process does not lead any more.
pub(super) async fn ensure(
    context: &Context,
    server: &Server,
    name: &str,
    (desired, ledger): (&Desired, &Ledger),
) -> Result<Vec<String>, Failure> {
    let resources = &context.registrations.resources;
    let needed: BTreeSet<String> = resource::needed(desired, ledger).iter().cloned().collect();
    resources.needs().insert(name.to_owned(), needed.clone());
    if needed.is_empty() {
        return Ok(Vec::new());
    }
    let issuer = resources.issuer(ledger);
    let mut issuer = issuer.lock().await;
    let mut missing = Vec::new();
    for wanted in needed {
        let now = now();
        let is_known = issuer.known.get(&wanted).is_some_and(|(_, until)| (now..=now + CHECK_SECONDS).contains(until));
        if !is_known {
            let owner = (ledger.owner.namespace.as_str(), ledger.owner.name.as_str());
            context.registrations.turns.spend(owner, &ledger.authority, context.start.elapsed());
            let found = stand(context, server, &wanted, &issuer.mark).await?;
            let seconds = if found.is_ok() { CHECK_SECONDS } else { RETRY_SECONDS };
            issuer.known.insert(wanted.clone(), (found, now.saturating_add(seconds)));
        }
        if let Some((Err(why), _)) = issuer.known.get(&wanted) {
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

/// Deletes what no registration needs any more.
///
/// # Errors
/// If this process does not lead any more.
pub(in crate::controller) async fn tidy(context: &Context) -> Result<(), Failure> {
    let resources = &context.registrations.resources;
    let names = context.registrations.index().names();
    resources.needs().retain(|name, _| names.contains(name));
    let issuers: Vec<_> = resources.issuers().iter().map(|(name, issuer)| (name.clone(), issuer.clone())).collect();
    for (name, issuer) in issuers {
        let mut issuer = issuer.lock().await;
        // Those that were looked for while this waited are among the needs.
        let there = context.registrations.index().at(&name);
        let unneeded = unneeded(&issuer.known, &resources.needs(), &there);
        if unneeded.is_empty() {
            continue;
        }
        let Ok(anchor) = anchor(context, &issuer.authority) else { continue };
        if anchor.registration.issuer != name {
            continue;
        }
        let Ok(server) = context.registrations.servers.of(&anchor, &context.egress) else { continue };
        for one in unneeded {
            match fall(context, &server, &one, &issuer.mark).await? {
                Ok(()) => drop(issuer.known.remove(&one)),
                Err(why) => {
                    tracing::warn!(
                        resource = one,
                        why,
                        "a client that stands for it is not needed, and not deleted yet"
                    );
                    // It may be gone all the same: whoever needs it next looks.
                    issuer.known.insert(one, (Err(why), i64::MIN));
                }
            }
        }
    }
    Ok(())
}

/// Of what is known to stand, what no registration at that issuer needs. `there`: their ledgers' names.
fn unneeded(
    known: &BTreeMap<String, Stands>,
    needs: &HashMap<String, BTreeSet<String>>,
    there: &[String],
) -> Vec<String> {
    let needed: Option<Vec<_>> = there.iter().map(|name| needs.get(name)).collect();
    // Of one of them, nobody has looked yet at what it needs.
    let Some(needed) = needed else { return Vec::new() };
    known.keys().filter(|resource| !needed.iter().any(|needs| needs.contains(*resource))).cloned().collect()
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
    use super::*;

    #[test]
    fn one_goes_only_once_it_is_known_of_everybody_there_that_nobody_needs_it() {
        let known: BTreeMap<String, Stands> = ["a", "b"].map(|one| (one.to_owned(), (Ok(()), 1))).into();
        let set = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<BTreeSet<_>>();
        let mut needs = HashMap::from([("one".to_owned(), set(&["a", "b"])), ("gone".to_owned(), set(&["b"]))]);
        let there = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let unneeded = |names: &[&str], needs: &HashMap<_, _>| super::unneeded(&known, needs, &there(names));
        assert!(unneeded(&["one"], &needs).is_empty());
        assert!(unneeded(&["one", "unseen"], &needs).is_empty());
        needs.insert("one".to_owned(), set(&["a"]));
        assert_eq!(unneeded(&["one"], &needs), ["b"], "whoever is gone needs nothing");
        assert!(unneeded(&["one", "unseen"], &needs).is_empty(), "it may need it");
        needs.insert("unseen".to_owned(), set(&["b"]));
        assert!(unneeded(&["one", "unseen"], &needs).is_empty());
        assert_eq!(unneeded(&[], &needs), ["a", "b"]);
    }
}
