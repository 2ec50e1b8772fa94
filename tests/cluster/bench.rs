//! Controller and proxies at 10,000 servers and 10,000 policies, over a real API server: `make bench-cluster` prints what
//! design 11 asks for. Ratios are of one run; absolute figures are of the machine. PORTCULLIS_BENCH_OBJECTS says another
//! number of servers, and of policies.

mod bare;
mod fleet;
mod reviews;

use std::time::{Duration, Instant};

use fleet::{Controller, Proxy, Seed};

use crate::support::issuer::Issuer;
use crate::support::kube::Cluster;
use crate::support::upstream::{Sdk, Upstream};

/// Rounds of changing one policy.
const ROUNDS: usize = 100;
/// For how long nothing may be written.
const IDLE: Duration = Duration::from_secs(60);
/// Until when somebody leads again after the leader died: its Lease lasts 15 s, and is looked at in between.
const HANDOVER: Duration = Duration::from_secs(20);

fn objects() -> usize {
    std::env::var("PORTCULLIS_BENCH_OBJECTS").map_or(10_000, |text| text.parse().expect("a number"))
}

/// Milliseconds, from the usual to the worst.
fn spread(mut took: Vec<Duration>) -> String {
    took.sort();
    let at = |part: usize| took[(took.len() * part / 100).min(took.len() - 1)].as_secs_f64() * 1000.0;
    format!("p50 {:.1} p99 {:.1} max {:.1}", at(50), at(99), at(100))
}

#[test]
fn ten_thousand_servers_and_policies() {
    let (issuer, upstream) = (Issuer::start(), Upstream::start(Sdk::Rmcp));
    let seed = Seed { count: objects(), issuer: issuer.url().to_owned(), upstream: upstream.url().to_owned() };
    let cluster = Cluster::acquire();
    seed.plant(&cluster);

    let began = Instant::now();
    let controller = Controller::start(&cluster);
    controller.wait_settled(&seed);
    let cold = began.elapsed();
    println!("cold_reconcile_seconds = {:.1}", cold.as_secs_f64());
    println!("controller_mib = {}", controller.memory());

    let proxies: Vec<Proxy> = (0..3).map(|number| Proxy::start(&cluster, number)).collect();
    proxies.iter().for_each(Proxy::wait_ready);
    seed.wait_enforced(&cluster);
    println!("proxy_mib = {}", proxies.iter().map(Proxy::memory).max().unwrap());
    println!("controller_with_proxies_mib = {}", controller.memory());

    let before = cluster.writes().len();
    std::thread::sleep(IDLE);
    let written = cluster.writes().split_off(before);
    let beside_leases: Vec<_> = written.iter().filter(|write| write.resource != "leases").collect();
    println!(
        "idle_writes = {} (and {} of Leases, in {} s)",
        beside_leases.len(),
        written.len() - beside_leases.len(),
        IDLE.as_secs()
    );
    assert!(beside_leases.is_empty(), "{beside_leases:?}");

    let changes = (0..ROUNDS).flat_map(|round| seed.change_one(&cluster, &issuer, &proxies, round));
    println!("enforced_ms = {} ({ROUNDS} changes, 3 proxies)", spread(changes.collect()));
    let revocations = (0..ROUNDS).flat_map(|round| seed.revoke_one(&cluster, &issuer, &proxies, round));
    println!("stream_told_ms = {} ({ROUNDS} policies taken away, 3 proxies)", spread(revocations.collect()));
    println!("proxy_after_changes_mib = {}", proxies.iter().map(Proxy::memory).max().unwrap());

    reviews::measure(&cluster, spread);

    let standby = Controller::start(&cluster);
    standby.wait_ready();
    let handover = controller.hand_over(&standby);
    println!("handover_seconds = {:.1} (kill -9 of the leader; {HANDOVER:?} allowed)", handover.as_secs_f64());
    assert!(handover <= HANDOVER);
    // One that was neither changed nor taken away yet, at the size that is meant.
    let after = seed.change_one(&cluster, &issuer, &proxies, ROUNDS);
    println!("enforced_after_handover_ms = {}", spread(after));

    let work = bare::gather(&cluster);
    drop((proxies, standby, cluster));
    let other = Cluster::acquire();
    seed.plant(&other);
    let bare = bare::write(&other, work);
    println!("bare_client_seconds = {:.1}", bare.as_secs_f64());
    println!("cold_reconcile_ratio = {:.2}", cold.as_secs_f64() / bare.as_secs_f64());
}
