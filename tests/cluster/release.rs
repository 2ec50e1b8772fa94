//! A release from `helm install` to `helm uninstall`, with callers all the while.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::support::client::{Client, Line, Stock};
use crate::support::wait::until;
use crate::world::{GATEWAY, SYSTEM, World};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/portcullis");

/// What the documentation has a newcomer apply.
const FIRST: &str = include_str!("../../examples/cluster/first-server.yaml");

fn values(world: &World) -> Vec<String> {
    let (repository, tag) = world.image.rsplit_once(':').unwrap();
    let text = [
        format!("publicUrl={}", world.url("")),
        format!("image.repository={repository}"),
        format!("image.tag={tag}"),
        "tls.terminatedBy=Proxy".to_owned(),
        "tls.secretName=public-tls".to_owned(),
        format!("proxy.service.clusterIP={}", world.address),
        format!("proxy.journal.storageClassName={}", if world.provisions() { "" } else { "by-hand" }),
        "proxy.journal.size=1Gi".to_owned(),
    ];
    let text = text.into_iter().flat_map(|value| ["--set-string".to_owned(), value]);
    text.chain(["--set".to_owned(), "allowPrivateUpstreams=true".to_owned()]).collect()
}

fn helm(world: &World, verb: &[&str], more: &[&str]) {
    let values = values(world);
    let mut arguments: Vec<&str> = verb.to_vec();
    arguments.extend(["portcullis", CHART, "-n", SYSTEM]);
    arguments.extend(values.iter().map(String::as_str));
    arguments.extend(more);
    world.helm(&arguments);
}

/// Volumes for the journals, where nobody provisions any. Folders of the node are not given to a Pod's group, so anyone may
/// write into these.
fn volumes(world: &World) {
    if world.provisions() {
        return;
    }
    let volumes: Vec<String> = (0..3)
        .map(|number| {
            let folder = world.file(&format!("journal-{number}"));
            std::fs::create_dir(&folder).unwrap();
            std::fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
            let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
                "metadata": {"name": format!("journal-{number}")},
                "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand",
                    "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": folder, "type": "Directory"}}});
            volume.to_string()
        })
        .collect();
    world.apply("volumes.yaml", &volumes.join("\n---\n"));
}

fn token(world: &World, client: &str) -> String {
    let path =
        ["get", "secret", "-n", "demo", &format!("{client}-token"), "-o", "jsonpath={.data.token}"].map(str::to_owned);
    let encoded = until("the token", || {
        let output = world.try_kubectl(&path.iter().map(String::as_str).collect::<Vec<_>>());
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
            .filter(|text| output.status.success() && !text.is_empty())
    });
    use base64::Engine as _;
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(encoded).unwrap()).unwrap()
}

fn connect(world: &World, stock: Stock, token: &str) -> Client {
    Client::connect(stock, &world.url("/demo/notes"), Some(token)).unwrap_or_else(|error| {
        world.tell();
        panic!("{stock:?}: {error:?}")
    })
}

/// Runs a step, and says everything there is to know if it fails.
fn step<T>(world: &World, what: &str, run: impl FnOnce() -> T + std::panic::UnwindSafe) -> T {
    eprintln!("== {what}");
    std::panic::catch_unwind(run).unwrap_or_else(|why| {
        world.tell();
        std::panic::resume_unwind(why)
    })
}

#[test]
fn a_release_is_installed_used_upgraded_and_removed() {
    let world = World::get();
    step(world, "helm install", || install(world));
    step(world, "the first governed call", || first_calls(world));
    step(world, "a tenant is refused, warned and admitted", || tenant(world));
    step(world, "records and questions", || records(world));
    step(world, "a token that is revoked", || revoked(world));
    step(world, "an upgrade with traffic flowing", || upgrade(world));
    step(world, "helm uninstall", || uninstall(world));
}

fn install(world: &World) {
    volumes(world);
    for namespace in [SYSTEM, GATEWAY] {
        let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
        world.apply("namespace.yaml", &made.to_string());
    }
    let (certificate, key) = (world.file("tls.crt"), world.file("tls.key"));
    let (certificate, key) = (format!("--cert={}", certificate.display()), format!("--key={}", key.display()));
    world.kubectl(&["create", "secret", "tls", "public-tls", "-n", GATEWAY, &certificate, &key]);
    helm(world, &["install"], &["--set", "gateway.createNamespace=false", "--wait", "--timeout", "10m"]);
}

fn first_calls(world: &World) {
    world.apply("first.yaml", &FIRST.replace("image: portcullis:0.1.0", &format!("image: {}", world.image)));
    world.kubectl(&["wait", "--for=condition=Available", "deployment/notes", "-n", "demo", "--timeout=10m"]);
    for object in ["mcpserver/notes", "mcppolicy/notes", "mcpclient/alice", "mcpclient/bob"] {
        world.kubectl(&["wait", "--for=condition=Ready", object, "-n", "demo", "--timeout=10m"]);
    }
    let (alice, bob) = (token(world, "alice"), token(world, "bob"));
    for stock in [Stock::NpmSdk1, Stock::Npm2(Line::Y2026), Stock::Pypi2(Line::Y2026)] {
        let mut client = connect(world, stock, &bob);
        assert_eq!(client.tool_names().unwrap(), ["list_notes", "get_note"], "{stock:?}");
        assert!(client.call("list_notes", &json!({})).unwrap()["structuredContent"]["notes"].is_array(), "{stock:?}");
        let hidden = client.call("create_note", &json!({"title": "t", "text": "x"})).unwrap_err();
        assert!(hidden.message.contains("Unknown tool"), "{stock:?}: {hidden:?}");
        client.close();
    }
    let mut client = connect(world, Stock::NpmSdk1, &alice);
    let refused = client.call("delete_note", &json!({"id": "note-1"})).unwrap();
    assert_eq!(refused["isError"], true, "{refused}");
    client.close();
}

/// What a tenant is told who has nothing but kubectl, by the webhook in its Pods.
fn tenant(world: &World) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tenant"}});
    world.apply("tenant.yaml", &namespace.to_string());
    for (user, role) in [("tess", "admin"), ("otto", "edit")] {
        let (role, subject) = (format!("--clusterrole={role}"), format!("--user={user}"));
        world.kubectl(&["create", "rolebinding", user, "-n", "tenant", &role, &subject]);
    }
    // Somebody let Otto write policies too, and not decide who may call.
    world.kubectl(&[
        "create",
        "role",
        "policies",
        "-n",
        "tenant",
        "--verb=get,create,update,patch",
        "--resource=mcppolicies",
    ]);
    world.kubectl(&["create", "rolebinding", "policies", "-n", "tenant", "--role=policies", "--user=otto"]);
    let apply = |user: &str, object: &Value| {
        let file = world.file("tenants-own.yaml");
        std::fs::write(&file, object.to_string()).unwrap();
        let who = format!("--as={user}");
        let output = world.try_kubectl(&["apply", "--server-side", "-f", file.to_str().unwrap(), &who]);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let server = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
        "metadata": {"name": "items", "namespace": "tenant"},
        "spec": {"upstream": {"url": "https://items.example/mcp", "credentials": {"none": {}}},
            "authorization": {"servers": ["local"]}}});
    let policy = |name: &str, server: &str, user: &str| {
        json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
            "metadata": {"name": name, "namespace": "tenant"}, "spec": {"authority": "local",
                "targets": {"servers": [server]}, "rules": [{"name": "reads", "effect": "Allow",
                    "principals": [{"users": [user]}], "tools": [{"names": ["list_items"]}]}]}})
    };
    // Roles are aggregated by a controller, in its own time.
    until("Tess to be let write a server", || apply("tess", &server).0.then_some(()));
    let mut misspelled = policy("readers", "items", "ana");
    misspelled["spec"]["rules"][0]["whne"] = json!("true");
    let (taken, said) = apply("tess", &misspelled);
    assert!(!taken && said.contains("spec.rules[0].whne") && said.contains("did you mean"), "{said}");
    let (taken, said) = apply("otto", &policy("readers", "items", "ana"));
    assert!(!taken && said.contains("GrantMissing"), "{said}");
    let (taken, said) = apply("tess", &policy("early", "not-there", "ana"));
    assert!(taken && said.contains("Warning:") && said.contains("not-there"), "{said}");
    let (taken, said) = apply("tess", &policy("readers", "items", "ana"));
    assert!(
        taken && said.contains("Warning: + user:ana@local: list_items on tenant/items (rule readers/reads)"),
        "{said}"
    );
    // While nobody answers, our kinds cannot be written, and a namespace goes all the same with what is in it.
    let replicas = |number: &str| {
        let to = format!("--replicas={number}");
        world.kubectl(&["scale", "deployment", "portcullis-webhook", "-n", SYSTEM, &to]);
    };
    replicas("0");
    // Each is another one: nobody is asked about what does not change.
    let mut tries = 0;
    until("nobody to answer", || {
        tries += 1;
        let (taken, said) = apply("tess", &policy("readers", "items", &format!("bea-{tries}")));
        (!taken && said.contains("failed calling webhook")).then_some(())
    });
    world.kubectl(&["delete", "namespace", "tenant", "--timeout=10m"]);
    replicas("2");
    world.kubectl(&["rollout", "status", "-n", SYSTEM, "deployment", "portcullis-webhook", "--timeout=10m"]);
}

fn records(world: &World) {
    let output = world.plugin(&["audit", "query", "-o", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let decided = |tool: &str, decision: &str| {
        calls
            .iter()
            .any(|call| call["record"]["gen_ai.tool.name"] == tool && call["record"]["portcullis.decision"] == decision)
    };
    assert!(
        decided("list_notes", "allow") && decided("create_note", "deny") && decided("delete_note", "deny"),
        "{calls:#?}"
    );
    let verified = world.plugin(&["audit", "verify"]);
    assert!(verified.status.success(), "{verified:?}");
    let answer = world.plugin(&["who-can", "--server", "demo/notes", "--only-allowed"]);
    let table = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(answer.status.success() && table.contains("alice") && table.contains("bob"), "{table}");
}

fn revoked(world: &World) {
    let bob = token(world, "bob");
    let mut client = connect(world, Stock::NpmSdk1, &bob);
    world.kubectl(&["delete", "mcpclient", "bob", "-n", "demo"]);
    until("the token to be refused", || client.call("list_notes", &json!({})).err());
}

/// Has others stop when it goes, however it goes.
struct EndsWith<'a>(&'a AtomicBool);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn upgrade(world: &World) {
    let alice = token(world, "alice");
    let (stop, mut calls) = (AtomicBool::new(false), 0);
    thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut client = connect(world, Stock::Npm2(Line::Y2026), &alice);
            while !stop.load(Ordering::SeqCst) {
                let answer =
                    client.call("list_notes", &json!({})).unwrap_or_else(|e| panic!("after {calls} calls: {e:?}"));
                assert!(answer["structuredContent"]["notes"].is_array(), "{answer}");
                calls += 1;
            }
            calls
        });
        // And somebody writes objects all the while: each is asked about, and nothing of it is stored.
        let reviews = scope.spawn(|| {
            let file = world.file("probe.yaml");
            let probe = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
                "metadata": {"name": "probe", "namespace": "demo"},
                "spec": {"upstream": {"url": "https://probe.example/mcp", "credentials": {"none": {}}},
                    "authorization": {"servers": ["local"]}}});
            std::fs::write(&file, probe.to_string()).unwrap();
            let mut reviews = 0;
            while !stop.load(Ordering::SeqCst) {
                world.kubectl(&["apply", "--server-side", "--dry-run=server", "-f", file.to_str().unwrap()]);
                reviews += 1;
            }
            reviews
        });
        // Should something fail here, the others end too.
        let ends = EndsWith(&stop);
        helm(
            world,
            &["upgrade"],
            &[
                "--set",
                "gateway.createNamespace=false",
                "--set",
                "proxy.podAnnotations.upgraded=yes",
                "--set",
                "controller.podAnnotations.upgraded=yes",
                "--set",
                "webhook.podAnnotations.upgraded=yes",
                "--wait",
                "--timeout",
                "10m",
            ],
        );
        world.kubectl(&["rollout", "status", "-n", GATEWAY, "statefulset", "--timeout=10m"]);
        drop(ends);
        let calls = traffic.join().unwrap_or_else(|why| std::panic::resume_unwind(why));
        assert!(calls > 50, "only {calls} calls flowed");
        let reviews: u32 = reviews.join().unwrap_or_else(|why| std::panic::resume_unwind(why));
        assert!(reviews > 20, "only {reviews} reviews were answered");
    });
}

fn uninstall(world: &World) {
    world.helm(&["uninstall", "portcullis", "-n", SYSTEM, "--wait", "--timeout", "10m"]);
    // What people wrote is theirs.
    for (kind, name) in [("mcpserver", "notes"), ("mcppolicy", "notes"), ("mcpclient", "alice")] {
        world.kubectl(&["get", kind, name, "-n", "demo"]);
    }
    let volumes = world.list("persistentvolumeclaims", GATEWAY);
    assert!(!volumes.is_empty(), "the journals are gone");
    // And nothing keeps it from being removed.
    world.kubectl(&["delete", "namespace", "demo", "--timeout=10m"]);
}
