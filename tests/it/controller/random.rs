//! A controller that is killed at random points, again and again.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use kube::api::{DeleteParams, Preconditions};
use portcullis::controller::conditions::role_binding;
use serde_json::{Value, json};

use super::identities::authority;
use super::{ACCOUNT, Controller, PUBLIC_URL, VERSION, condition, object, policy, server, trust, try_generated};
use crate::chart::installed_with;
use crate::support::kube::{Cluster, SYSTEM};
use crate::support::runtime;
use crate::support::wait::until;

/// Numbers that look random and are the same each time.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// One below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
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

/// What is in the cluster, as far as it was written by hand.
struct World {
    cluster: Cluster,
    numbers: Numbers,
    wanted: BTreeMap<(&'static str, String), Value>,
    /// Policies that were valid since they were made.
    valid_once: BTreeSet<String>,
    revoked: Value,
}

const NETWORKING: &str = "networking.k8s.io/v1";

impl World {
    fn new(numbers: Numbers) -> Self {
        let cluster = installed_with("upstream-isolation");
        cluster.namespace("team", &[]);
        cluster
            .apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "team", "name": "notes"},
            "spec": {"selector": {"app": "notes"}, "ports": [{"port": 80}]}}));
        let binding = role_binding("portcullis-token-writer", "team", (SYSTEM, ACCOUNT));
        cluster.apply_yaml(binding.split_once("applies:\n").unwrap().1);
        cluster.apply(&trust("corp"));
        cluster.apply(&authority("local", &json!({"local": {}})));
        Self { cluster, numbers, wanted: BTreeMap::new(), valid_once: BTreeSet::new(), revoked: json!([]) }
    }

    /// Somebody makes, edits or deletes something.
    fn edit(&mut self, round: u64) {
        let kind = match self.numbers.below(7) {
            0 | 1 => "McpServer",
            2 | 3 => "McpPolicy",
            4 | 5 => "McpClient",
            _ => {
                let jti = format!("jti-{round}");
                self.revoked = json!([{"Token": {"jti": jti}}]);
                self.cluster.apply(&authority("local", &json!({"local": {}, "revoked": [{"jti": jti}]})));
                return;
            }
        };
        let name = format!("o{}", self.numbers.below(5));
        if self.numbers.below(3) == 0 {
            self.delete(kind, name);
            return;
        }
        let made = match kind {
            "McpServer" => {
                let redact = json!({"redact": [format!("/args/r{round}")]});
                let spec = json!({"audit": redact, "authorization": {"servers": ["corp", "local"]}});
                let mut made = server("team", &name, &spec);
                if self.numbers.below(2) == 0 {
                    let service = json!({"name": "notes", "port": 80, "reachableFrom": "GatewayOnly"});
                    made["spec"]["upstream"] = json!({"service": service, "credentials": {"none": {}}});
                }
                made
            }
            "McpPolicy" => {
                let mut made = policy("team", &name, &name, &format!("tool-{round}"));
                if self.numbers.below(4) == 0 {
                    made["spec"]["rules"][0]["whne"] = json!("x");
                } else {
                    self.valid_once.insert(name.clone());
                }
                made
            }
            _ => {
                let groups = ["a", "b", "c"].map(str::to_owned).into_iter().take(self.numbers.below(4) as usize);
                let token = json!({"subject": "ana", "groups": groups.collect::<Vec<_>>(), "servers": [name]});
                json!({"apiVersion": VERSION, "kind": kind, "metadata": {"namespace": "team", "name": name},
                    "spec": {"authorizationServer": "local", "method": "Token", "token": token}})
            }
        };
        self.cluster.apply(&made);
        self.wanted.insert((kind, name), made);
    }

    fn delete(&mut self, kind: &'static str, name: String) {
        self.cluster.delete(VERSION, kind, Some("team"), &name);
        if kind == "McpPolicy" {
            self.valid_once.remove(&name);
        }
        self.wanted.remove(&(kind, name));
    }

    /// Removes what belongs to objects that are gone, as Kubernetes' garbage collector does: an API server alone has none.
    fn collect_garbage(&self) {
        // What is made after this list has an owner that the list lacks, so what belongs to others is listed first.
        let kinds = [("v1", "Secret"), ("v1", "ConfigMap"), (NETWORKING, "NetworkPolicy")];
        let things = kinds.map(|kind| (kind, self.cluster.list(kind.0, kind.1, Some("team"))));
        let owners = ["McpServer", "McpClient"].map(|kind| self.cluster.list(VERSION, kind, Some("team")));
        let alive: Vec<&Value> = owners.iter().flatten().map(|one| &one["metadata"]["uid"]).collect();
        for ((version, kind), things) in things {
            for one in things {
                let text = |member: &str| one["metadata"][member].as_str().map(str::to_owned);
                let owners = one["metadata"]["ownerReferences"].as_array();
                if owners.is_some_and(|owners| owners.iter().all(|owner| !alive.contains(&&owner["uid"]))) {
                    let params = DeleteParams {
                        // It may have been given to another owner since.
                        preconditions: Some(Preconditions {
                            uid: text("uid"),
                            resource_version: text("resourceVersion"),
                        }),
                        ..DeleteParams::default()
                    };
                    let api = self.cluster.api(version, kind, Some("team"));
                    drop(runtime().block_on(api.delete(&text("name").unwrap(), &params)));
                }
            }
        }
    }

    fn wait_settled(&self) {
        let mut last = String::new();
        until("exactly what there should be to be there", || {
            self.collect_garbage();
            let wrong = self.check();
            if let Err(wrong) = &wrong
                && *wrong != last
            {
                println!("{wrong}");
                last.clone_from(wrong);
            }
            wrong.ok()
        });
    }

    /// Whether there is exactly what there should be; otherwise what is not as it should be.
    fn check(&self) -> Result<(), String> {
        let generated = try_generated(&self.cluster).ok_or("something that was generated cannot be read")?;
        let generated: BTreeMap<String, Value> =
            generated.into_iter().map(|(name, one)| (name, json!(one)["object"].take())).collect();
        let mut expected = BTreeSet::new();
        let mut of = |label: &str, object: &Value| {
            let name = format!("{label}-{}", object["metadata"]["uid"].as_str().unwrap());
            expected.insert(name.clone());
            generated.get(&name).cloned().ok_or(format!("no {name}"))
        };
        let (mut listed, mut documents, mut tokens) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let mut isolated = Vec::new();
        for ((kind, name), made) in &self.wanted {
            let is = object(&self.cluster, kind, Some("team"), name).ok_or(format!("no {kind} {name}"))?;
            condition(&is, "Ready").ok_or(format!("{kind} {name} is not told"))?;
            let wrong = match *kind {
                "McpServer" => {
                    documents.insert(format!("{name}-mcp-metadata"));
                    if made["spec"]["upstream"]["service"].is_object() {
                        isolated.push(is["metadata"]["uid"].as_str().unwrap().to_owned());
                    }
                    wrong_server(&self.cluster, made, &is, &of("server", &is)?)
                }
                "McpPolicy" => wrong_policy(made, &is, &of("policy", &is)?, self.valid_once.contains(name)),
                _ => {
                    let (id, after) = client_of(&is);
                    listed.insert(id, after);
                    let has_server = self.wanted.contains_key(&("McpServer", name.clone()));
                    if has_server {
                        tokens.insert(format!("{name}-token"));
                    }
                    wrong_client(&self.cluster, made, &is, has_server)
                }
            };
            if let Some(wrong) = wrong {
                return Err(format!("{kind} {name}: {wrong}"));
            }
        }
        for name in ["corp", "local"] {
            let is = object(&self.cluster, "McpAuthorizationServer", None, name).unwrap();
            let given = of("authority", &is)?;
            let clients = if name == "local" { json!(listed) } else { Value::Null };
            let revoked = if name == "local" { &self.revoked } else { &json!([]) };
            if given["clients"] != clients || given["revoked"] != *revoked {
                return Err(format!("{name} is given as {given}, with {clients} and {revoked}"));
            }
            condition(&is, "Ready").ok_or(format!("{name} is not told"))?;
        }
        let found: BTreeSet<String> = generated.keys().cloned().collect();
        let owned = |kind: &str| -> BTreeSet<String> {
            let all = self.cluster.list("v1", kind, Some("team")).into_iter();
            all.filter(|one| one["metadata"]["ownerReferences"].is_array())
                .map(|one| one["metadata"]["name"].as_str().unwrap().to_owned())
                .collect()
        };
        // A client that lost its server keeps what it had.
        let kept: BTreeSet<String> = self
            .wanted
            .keys()
            .filter(|(kind, _)| *kind == "McpClient")
            .map(|(_, name)| format!("{name}-token"))
            .collect();
        let secrets = owned("Secret");
        if found != expected
            || owned("ConfigMap") != documents
            || !secrets.is_superset(&tokens)
            || !secrets.is_subset(&kept)
        {
            return Err(format!("strays, or something is missing: {found:?} {expected:?} {documents:?} {secrets:?}"));
        }
        let policies = self.cluster.list(NETWORKING, "NetworkPolicy", Some("team"));
        let owner = |one: &Value| one["metadata"]["ownerReferences"][0]["uid"].as_str().map(str::to_owned);
        let mut closed: Vec<String> = policies.iter().filter_map(owner).collect();
        closed.sort();
        isolated.sort();
        if closed != isolated {
            return Err(format!("isolated are {closed:?}, and not {isolated:?}"));
        }
        let keys = self.cluster.list("v1", "Secret", Some(SYSTEM));
        let keys = keys.iter().filter(|one| one["metadata"]["name"].as_str().unwrap().starts_with("issuer-")).count();
        if keys == 1 { Ok(()) } else { Err(format!("{keys} signing keys")) }
    }
}

fn wrong_server(cluster: &Cluster, made: &Value, is: &Value, given: &Value) -> Option<String> {
    let name = is["metadata"]["name"].as_str().unwrap();
    let Some(document) = cluster.get("v1", "ConfigMap", Some("team"), &format!("{name}-mcp-metadata")) else {
        return Some("no document".to_owned());
    };
    let text = document["data"]["oauth-protected-resource.json"].as_str().unwrap_or_default();
    let resource = format!("{PUBLIC_URL}/team/{name}");
    let good = given["audit"]["redact"] == made["spec"]["audit"]["redact"]
        && given["id"]["generation"] == is["metadata"]["generation"]
        && given["resource"] == *resource
        && document["metadata"]["ownerReferences"][0]["uid"] == is["metadata"]["uid"]
        && text.contains(&resource);
    (!good).then(|| format!("given as {given}, described as {document}"))
}

fn wrong_policy(made: &Value, is: &Value, given: &Value, valid_once: bool) -> Option<String> {
    let wrong = || Some(format!("given as {given}"));
    let is_valid = made["spec"]["rules"][0]["whne"].is_null();
    let accepted = condition(is, "Accepted").map(|(status, _)| status);
    if accepted.as_deref() != Some(if is_valid { "True" } else { "False" }) {
        return Some(format!("Accepted is {accepted:?}"));
    }
    let rules = given["rules"].as_array().unwrap();
    if is_valid {
        let as_made = given["standing"] == "InForce"
            && given["id"]["generation"] == is["metadata"]["generation"]
            && rules.len() == 2
            && rules[0]["tools"][0]["names"] == made["spec"]["rules"][0]["tools"][0]["names"];
        return if as_made { None } else { wrong() };
    }
    let denies_all = given["standing"]["DenyAll"].is_object() && rules.is_empty();
    let still_denies = given["standing"]["NarrowingOnly"].is_object()
        && rules.len() == 1
        && rules[0]["effect"] == "Deny"
        && rules[0]["principals"][0]["any"] == true
        && rules[0]["tools"][0]["names"] == json!(["purge"]);
    // Whether a valid one was ever seen by a controller is chance; one that never was valid cannot have been.
    if denies_all || (valid_once && still_denies) { None } else { wrong() }
}

/// Its client id, and from when on its tokens count.
fn client_of(is: &Value) -> (String, i64) {
    let text = |member: &str| is["metadata"][member].as_str().unwrap();
    let after = is["status"]["validAfter"].as_str().map(|time| time.parse::<jiff::Timestamp>().unwrap().as_second());
    (format!("team/{}/{}", text("name"), &text("uid")[..8]), after.unwrap_or_default())
}

fn wrong_client(cluster: &Cluster, made: &Value, is: &Value, has_server: bool) -> Option<String> {
    let issued = condition(is, "TokenIssued");
    let want = if has_server { ("True", "TokenIssued") } else { ("False", "ServerNotFound") };
    if issued != Some((want.0.to_owned(), want.1.to_owned())) {
        return Some(format!("TokenIssued is {issued:?}, not {want:?}"));
    }
    if !has_server {
        return None;
    }
    let name = is["metadata"]["name"].as_str().unwrap();
    let Some(secret) = cluster.get("v1", "Secret", Some("team"), &format!("{name}-token")) else {
        return Some("no Secret".to_owned());
    };
    let token = String::from_utf8(BASE64_STANDARD.decode(secret["data"]["token"].as_str().unwrap()).unwrap()).unwrap();
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let groups = |claims: &Value| claims["groups"].as_array().cloned().unwrap_or_default();
    let (id, after) = client_of(is);
    let good = secret["metadata"]["ownerReferences"][0]["uid"] == is["metadata"]["uid"]
        && claims["jti"] == is["status"]["token"]["jti"]
        && claims["client_id"] == *id
        && claims["iat"].as_i64().unwrap() >= after
        && groups(&claims) == groups(&made["spec"]["token"]);
    (!good).then(|| format!("its token says {claims}"))
}

#[test]
fn whenever_it_is_killed_it_converges_and_leaves_no_stray() {
    let seed = std::env::var("PORTCULLIS_KILL_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("PORTCULLIS_KILL_SEED={seed}");
    let mut world = World::new(Numbers(seed));
    let mut controller = Controller::start(&world.cluster);
    for round in 0..rounds() {
        for _ in 0..=world.numbers.below(4) {
            world.edit(round);
        }
        world.collect_garbage();
        // Somewhere between before it has seen anything and after it has done everything.
        if world.numbers.below(3) > 0 {
            controller.wait_leading();
        }
        std::thread::sleep(std::time::Duration::from_millis(world.numbers.below(150)));
        controller.process.kill();
        // Now and then the next one has to wait until the dead one's lease is over.
        if world.numbers.below(10) > 0 {
            forget_lease(&world.cluster);
        }
        controller = Controller::start(&world.cluster);
    }
    controller.wait_leading();
    world.wait_settled();
    // It goes on from there: what begins to lead looks at everything once, and at nothing but changes after that.
    for round in rounds()..rounds() + 10 {
        world.edit(round);
    }
    world.wait_settled();
    while let Some((kind, name)) = world.wanted.keys().next().cloned() {
        world.delete(kind, name);
    }
    world.wait_settled();
}
