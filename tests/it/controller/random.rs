//! A controller that is killed at random points, again and again.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Controller, VERSION, condition, generated, object, policy, server, trust, wait_condition};
use crate::chart::installed_with;
use crate::support::kube::{Cluster, SYSTEM};
use crate::support::wait::until;

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// So many rounds: `make soak` asks for more.
fn rounds() -> u64 {
    std::env::var("PORTCULLIS_KILL_ROUNDS").map_or(50, |rounds| rounds.parse().unwrap())
}

/// The dead leader's lease would be waited for; that it is waited for is another test's matter.
fn forget_lease(cluster: &Cluster) {
    cluster.delete("coordination.k8s.io/v1", "Lease", Some(SYSTEM), "portcullis-leader");
}

#[test]
fn whenever_it_is_killed_it_converges_and_leaves_no_stray() {
    let seed = std::env::var("PORTCULLIS_KILL_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("PORTCULLIS_KILL_SEED={seed}");
    let mut numbers = Numbers(seed);
    let cluster = installed_with("upstream-isolation");
    cluster.namespace("team", &[]);
    cluster.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "team", "name": "notes"},
        "spec": {"selector": {"app": "notes"}, "ports": [{"port": 80}]}}));
    cluster.apply(&trust("corp"));
    let mut wanted: BTreeMap<(&str, String), Value> = BTreeMap::new();
    let mut controller = Controller::start(&cluster);
    for round in 0..rounds() {
        for _ in 0..=numbers.below(4) {
            let name = format!("o{}", numbers.below(5));
            let is_server = numbers.below(2) == 0;
            let kind = if is_server { "McpServer" } else { "McpPolicy" };
            if numbers.below(3) == 0 {
                cluster.delete(VERSION, kind, Some("team"), &name);
                wanted.remove(&(kind, name));
                continue;
            }
            let mut made = if is_server {
                let mut made = server("team", &name, &json!({"audit": {"redact": [format!("/args/r{round}")]}}));
                if numbers.below(2) == 0 {
                    let service = json!({"name": "notes", "port": 80, "reachableFrom": "GatewayOnly"});
                    made["spec"]["upstream"] = json!({"service": service, "credentials": {"none": {}}});
                }
                made
            } else {
                policy("team", &name, &name, &format!("tool-{round}"))
            };
            if !is_server && numbers.below(4) == 0 {
                made["spec"]["rules"][0]["whne"] = json!("x");
            }
            wanted.insert((kind, name), cluster.apply(&made).data);
        }
        // Somewhere between before it has seen anything and after it has done everything.
        if numbers.below(3) > 0 {
            controller.wait_leading();
        }
        std::thread::sleep(std::time::Duration::from_millis(numbers.below(150)));
        controller.process.kill();
        forget_lease(&cluster);
        controller = Controller::start(&cluster);
    }
    controller.wait_leading();
    until("everything to be told", || {
        let told =
            |(kind, name): &(&str, String)| condition(&object(&cluster, kind, Some("team"), name)?, "Ready").map(drop);
        wanted.keys().all(|key| told(key).is_some()).then_some(())
    });
    until("exactly what there should be to be there", || {
        let mut expected: Vec<String> = wanted
            .keys()
            .map(|(kind, name)| {
                let uid =
                    object(&cluster, kind, Some("team"), name).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
                format!("{}-{uid}", if *kind == "McpServer" { "server" } else { "policy" })
            })
            .collect();
        let corp = object(&cluster, "McpAuthorizationServer", None, "corp").unwrap();
        expected.push(format!("authority-{}", corp["metadata"]["uid"].as_str().unwrap()));
        expected.sort();
        (generated(&cluster).into_keys().collect::<Vec<_>>() == expected).then_some(())
    });
    until("those to be isolated that ask for it, and no others", || {
        let servers = cluster.list(VERSION, "McpServer", Some("team"));
        let policies = cluster.list("networking.k8s.io/v1", "NetworkPolicy", Some("team"));
        // Those of servers that are gone are for Kubernetes' garbage collector, which does not run here.
        let is_of = |uid: &Value| policies.iter().any(|one| one["metadata"]["ownerReferences"][0]["uid"] == *uid);
        let asks = |server: &Value| server["spec"]["upstream"]["service"].is_object();
        servers.iter().all(|server| is_of(&server["metadata"]["uid"]) == asks(server)).then_some(())
    });
    for (kind, name) in wanted.keys() {
        let accepted = object(&cluster, kind, Some("team"), name).unwrap();
        let resolved = condition(&accepted, "Accepted").unwrap();
        let one =
            super::generated_of(&cluster, if *kind == "McpServer" { "server" } else { "policy" }, &accepted).unwrap();
        let generation = match &one {
            portcullis::generated::codec::Generated::Server(server) => server.id.generation,
            portcullis::generated::codec::Generated::Policy(policy) => policy.id.generation,
            portcullis::generated::codec::Generated::Authority(_) => panic!("{one:?}"),
        };
        if resolved.0 == "True" {
            assert_eq!(accepted["metadata"]["generation"], generation, "{kind} {name}");
        }
    }
    wait_condition(&cluster, ("McpAuthorizationServer", None, "corp"), ("Accepted", "True", "Accepted"));
}
