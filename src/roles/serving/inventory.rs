//! Inventories: what tools each server has, asked by the gateway itself.
//!
//! Invariant: every server is asked as soon as it is served, so that risk is known before the first list passes, and one
//! with a tool lock again and again: what changes behind the gateway is noticed after [`Limits::inventory_age`] at the
//! latest, and at once where the server says so or anybody lists its tools.
//!
//! [`Limits::inventory_age`]: crate::proxy::config::Limits::inventory_age

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::process::Drain;
use crate::proxy::catalogue::Catalogue;
use crate::proxy::gateway::Gateway;
use crate::proxy::snapshot::{Site, Snapshot};
use crate::upstream::{Bounds, DiscoverError, UpstreamError, inventory};

/// How long after a failure an inventory is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// How long one server is left alone after an inventory, however often it says that its list has changed.
const FLOOR: Duration = Duration::from_secs(1);

/// How many servers are asked at once: there may be thousands.
const AT_ONCE: usize = 32;

/// Whose tools are followed, by UID of the server: what is known of them, and what ends when they are followed no more.
type Followed = HashMap<String, (Arc<Catalogue>, DropGuard)>;

/// Learns the tools of every server that is served, until the drain.
pub fn follow(gateway: &Arc<Gateway>, drain: &Drain) {
    let (gateway, follower, stop) = (gateway.clone(), drain.clone(), drain.draining().clone());
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    drain.spawn(async move {
        let mut changes = gateway.changes();
        let mut snapshot = gateway.snapshot();
        let mut followed = Followed::new();
        loop {
            for (site, ended) in not_followed(&snapshot, &mut followed, &stop) {
                let (gateway, at_once) = (gateway.clone(), at_once.clone());
                follower.spawn(async move {
                    tokio::select! {
                        () = ended.cancelled() => {}
                        () = keep_known(&gateway, site, &at_once) => {}
                    }
                });
            }
            // A policy changes nothing here.
            let before = snapshot;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                }
                snapshot = gateway.snapshot();
                if !snapshot.serves_alike(&before) {
                    break;
                }
            }
        }
    });
}

/// The servers whose tools nobody follows as they are now; from here on, somebody does. Whoever followed what is served no
/// more as it was ends.
fn not_followed(
    snapshot: &Snapshot,
    followed: &mut Followed,
    stop: &CancellationToken,
) -> Vec<(Arc<Site>, CancellationToken)> {
    let served: HashMap<&str, &Arc<Site>> = snapshot
        .sites()
        // One that is called for callers alone lists its tools to them.
        .filter(|site| site.upstream.as_ref().is_some_and(|upstream| !upstream.needs_callers()))
        .map(|site| (site.server.id.uid.as_str(), site))
        .collect();
    let same =
        |uid: &str, known: &Arc<Catalogue>| served.get(uid).is_some_and(|site| Arc::ptr_eq(known, &site.catalogue));
    followed.retain(|uid, (known, _)| same(uid, known));
    let mut begun = Vec::new();
    for (uid, site) in served {
        if !followed.contains_key(uid) {
            let ended = stop.child_token();
            followed.insert(uid.to_owned(), (site.catalogue.clone(), ended.clone().drop_guard()));
            begun.push((site.clone(), ended));
        }
    }
    begun
}

/// Takes a server's inventory, trying until it answers; of a server with a lock, again when it is old or outdated. Ends
/// when its tools are followed by somebody else, or by nobody.
async fn keep_known(gateway: &Gateway, mut site: Arc<Site>, at_once: &Semaphore) {
    let (first, longest) = RETRY;
    let mut after_failure = first;
    loop {
        let turn = at_once.acquire().await;
        // In a box: most of the time this task only waits, and there may be one for each of many servers.
        let found = Box::pin(take(&site)).await;
        drop(turn);
        let pause = match found {
            Ok(listed) => {
                site.take_stock(listed.iter().map(|raw| raw.get()));
                if site.server.lock.is_none() {
                    return;
                }
                after_failure = first;
                spread(gateway.config().limits.inventory_age, &site.server.id.uid)
            }
            Err(error) => {
                let server = site.server.id.display_name();
                tracing::warn!(server, reason = error.reason(), %error, "no inventory: what was not seen is unclassified");
                let pause = after_failure;
                after_failure = (pause * 2).min(longest);
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = site.catalogue.wait_outdated() => tokio::time::sleep(FLOOR).await,
        }
        // As it is reached now: a token is renewed many times a day, and the tools stay what they are.
        match gateway.snapshot().same(&site).filter(|now| Arc::ptr_eq(&now.catalogue, &site.catalogue)) {
            Some(now) => site = now.clone(),
            None => return,
        }
    }
}

async fn take(site: &Site) -> Result<Vec<Box<RawValue>>, DiscoverError> {
    let upstream = site.upstream.as_ref().ok_or(UpstreamError::Url)?;
    Ok(inventory(&upstream.apart(), &Bounds::default()).await?.tools)
}

/// Somewhat less than `age`, and not the same for all servers, so that they are not asked all at once.
fn spread(age: Duration, uid: &str) -> Duration {
    let sum = uid.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    age.mul_f64(1.0 - f64::from(sum) / 1024.0)
}
