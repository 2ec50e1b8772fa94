//! Many clients from cold: what each asks of its server, and what the controller holds of it.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use kube::api::{DynamicObject, PostParams};
use serde_json::json;

use super::place::{Place, Way};
use crate::controller::{VERSION, condition};
use crate::support::kube::SYSTEM;
use crate::support::runtime;
use crate::support::wait::until_within;

/// So many; `make soak` asks for a thousand, and shows the figures.
fn clients() -> usize {
    std::env::var("PORTCULLIS_REGISTRATIONS").map_or(40, |text| text.parse().unwrap())
}

/// Resident memory in MiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// RFC 7591 has no request for several clients, so one each is the least; nothing else is asked, but for where things are.
#[test]
fn each_client_from_cold_takes_one_request() {
    let (place, count) = (Place::new(Way::ProviderDcr), clients());
    let provider = place.house.of_npm();
    let names = (0..count).map(|number| format!("client-{number}"));
    let writes = names.map(|name| place.client(&name, &json!({}))).map(|client| {
        let api = place.cluster.api(VERSION, "McpClient", Some("team"));
        async move {
            let client: DynamicObject = serde_json::from_value(client).unwrap();
            api.create(&PostParams::default(), &client).await.unwrap();
        }
    });
    runtime().block_on(futures_util::stream::iter(writes).buffer_unordered(16).for_each(|()| async {}));

    let (before, discovered) = (place.cluster.writes().len(), provider.count("discovery"));
    let began = Instant::now();
    let controller = place.controller();
    until_within(Duration::from_secs(1800), "every client to be ready", || {
        let all = place.cluster.list(VERSION, "McpClient", Some("team"));
        let is_ready =
            |client: &&serde_json::Value| condition(client, "Ready").is_some_and(|(status, _)| status == "True");
        let ready = all.iter().filter(is_ready).count();
        // Listing them is work for the API server too.
        std::thread::sleep(Duration::from_millis(if count > 100 { 1000 } else { 50 }));
        (ready == count).then_some(())
    });
    let took = began.elapsed();
    let written = place.cluster.writes().split_off(before);
    let of = |resource: &str, namespace: &str| {
        let all = written.iter().filter(|write| write.resource == resource && write.namespace == namespace);
        all.count() as f64 / count as f64
    };
    println!("registered_seconds = {:.1} ({count} clients)", took.as_secs_f64());
    println!("controller_mib = {}", memory(controller.process.pid()));
    println!(
        "writes_per_client = {:.2} ledger, {:.2} credentials, {:.2} finalizer, {:.2} status",
        of("secrets", SYSTEM),
        of("secrets", "team"),
        of("mcpclients", "team"),
        of("mcpclients/status", "team")
    );
    let asked = ["registration", "client", "client_update", "client_delete", "token"].map(|kind| provider.count(kind));
    println!("requests = {asked:?} (registrations, reads, updates, deletions, tokens)");
    println!("discoveries = {}", provider.count("discovery") - discovered);
    assert_eq!(asked, [count as u64, 0, 0, 0, 0]);
    assert_eq!(place.ours().len(), count);
    // Once for the keys of its tokens, and once for its clients.
    assert!(provider.count("discovery") - discovered <= 2);
}
