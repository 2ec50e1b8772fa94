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
use crate::proxy::gateway::Gateway;
use crate::proxy::snapshot::Site;
use crate::upstream::{Bounds, DiscoverError, UpstreamError, inventory};

/// How long after a failure an inventory is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// How long one server is left alone after an inventory, however often it says that its list has changed.
const FLOOR: Duration = Duration::from_secs(1);

/// How many inventories are under way at once.
const AT_ONCE: usize = 16;

/// Learns the tools of every server that is served, until the drain.
pub fn follow(gateway: &Arc<Gateway>, drain: &Drain) {
    let (gateway, follower, stop) = (gateway.clone(), drain.clone(), drain.draining().clone());
    drain.spawn(async move {
        let mut changes = gateway.changes();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut followed: HashMap<String, (Arc<Site>, DropGuard)> = HashMap::new();
        loop {
            let snapshot = gateway.snapshot();
            followed.retain(|_, (site, _)| snapshot.same(site).is_some_and(|now| same_tools(now, site)));
            for site in snapshot.sites().filter(|site| site.upstream.is_some()) {
                if !followed.contains_key(&site.server.id.uid) {
                    let ended = stop.child_token();
                    followed.insert(site.server.id.uid.clone(), (site.clone(), ended.clone().drop_guard()));
                    follower.spawn(follow_one(site.clone(), gateway.config().limits.inventory_age, turns.clone(), ended));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    });
}

/// Whether two states of a server share one catalogue.
fn same_tools(a: &Site, b: &Site) -> bool {
    Arc::ptr_eq(&a.catalogue, &b.catalogue)
}

async fn follow_one(site: Arc<Site>, age: Duration, turns: Arc<Semaphore>, ended: CancellationToken) {
    tokio::select! {
        () = ended.cancelled() => {}
        () = keep_known(&site, age, &turns) => {}
    }
}

/// Takes a server's inventory, trying until it answers; of a server with a lock, again when it is old or outdated.
async fn keep_known(site: &Site, age: Duration, turns: &Semaphore) {
    let (first, longest) = RETRY;
    let mut after_failure = first;
    loop {
        let turn = turns.acquire().await;
        // In a box: most of the time this task only waits, and there may be one for each of many servers.
        let found = Box::pin(take(site)).await;
        drop(turn);
        let pause = match found {
            Ok(listed) => {
                site.take_stock(listed.iter().map(|raw| raw.get()));
                if site.server.lock.is_none() {
                    return;
                }
                after_failure = first;
                spread(age, &site.server.id.uid)
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
    }
}

async fn take(site: &Site) -> Result<Vec<Box<RawValue>>, DiscoverError> {
    let upstream = site.upstream.as_ref().ok_or(UpstreamError::Url)?;
    Ok(inventory(upstream, &Bounds::default()).await?.tools)
}

/// Somewhat less than `age`, and not the same for all servers, so that they are not asked all at once.
fn spread(age: Duration, uid: &str) -> Duration {
    let sum = uid.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    age.mul_f64(1.0 - f64::from(sum) / 1024.0)
}
