//! What a review takes, beside one that is answered without being read.

use std::convert::Infallible;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use portcullis::cluster::secret_path::{Asked, Key};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::fleet::{Seed, memory, patiently};
use crate::support::http2::Http2;
use crate::support::kube::{Cluster, SYSTEM};
use crate::support::ports::free_port;
use crate::support::process::{Process, portcullis};
use crate::support::runtime;

/// Reviews of each kind.
const ROUNDS: usize = 300;
const NAME: &str = "localhost";
/// What says under which path it is called.
const CONFIGURATION: &str = "bench-webhook";

/// A webhook that says yes to everything.
fn empty(made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> String {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    runtime().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let service = service_fn(async |request: http::Request<hyper::body::Incoming>| {
                    drop(request.into_body().collect().await);
                    let yes = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                        "response": {"uid": "1", "allowed": true}});
                    Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(yes.to_string()))))
                });
                drop(auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    address
}

fn start(cluster: &Cluster, folder: &Path, address: &str) -> Process {
    let mut command: Command = portcullis();
    command.args(["webhook", "--public-url", "https://mcp.example", "--system-namespace", SYSTEM, "--listen", address]);
    command.arg("--tls-dir").arg(folder).arg("--path-key-file").arg(folder.join("key"));
    command.args(["--configuration", CONFIGURATION]).env("KUBECONFIG", cluster.kubeconfig());
    Process::start(command)
}

fn review(operation: &str, old: Option<&Value>, new: Option<&Value>) -> String {
    let object = new.or(old).unwrap();
    let kind = json!({"group": "portcullis.dev", "version": "v1alpha1", "kind": object["kind"]});
    let request = json!({"uid": "1", "kind": kind, "namespace": object["metadata"]["namespace"],
        "name": object["metadata"]["name"], "operation": operation, "object": new, "oldObject": old,
        "userInfo": {"username": "admin", "groups": ["system:masters"]}});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
}

/// How much longer than an empty webhook's the 99th of a hundred answers may take: without what a change does, and with it.
const MOST: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];
/// Reviews of which nothing is told.
const UNTOLD: [&str; 3] = ["idle", "refused", "client"];

/// The kinds of reviews: their names, and the `n`th of each.
fn reviews(n: usize) -> [(&'static str, String); 7] {
    let server = Seed::server_of("https://upstream.example/mcp", n);
    let old = Seed::policy(n, &["echo"]);
    let mut touched = old.clone();
    touched["metadata"]["annotations"] = json!({"touched": n.to_string()});
    let mut wrong = old.clone();
    wrong["spec"]["rules"][0]["whne"] = "args.a".into();
    let wider = Seed::policy(n, &["echo", "get_item", "delete_item"]);
    let mut selecting = wider.clone();
    selecting["metadata"]["name"] = "of-the-whole-namespace".into();
    selecting["spec"]["targets"] = json!({"selector": {}});
    let mut guardrail = selecting.clone();
    guardrail["metadata"]["namespace"] = SYSTEM.into();
    guardrail["spec"]["targets"] = json!({"selector": {}, "namespaceSelector": {}});
    guardrail["spec"]["rules"][0]["effect"] = "Deny".into();
    let client = json!({"apiVersion": server["apiVersion"], "kind": "McpClient",
        "metadata": {"name": "bench", "namespace": server["metadata"]["namespace"]},
        "spec": {"authorizationServer": "local", "method": "Token",
            "token": {"subject": "ana", "servers": [server["metadata"]["name"]]}}});
    [
        ("client", review("CREATE", None, Some(&client))),
        ("idle", review("UPDATE", Some(&old), Some(&touched))),
        ("refused", review("UPDATE", Some(&old), Some(&wrong))),
        ("server", review("UPDATE", Some(&server), Some(&server_with_scope(&server)))),
        ("policy", review("UPDATE", Some(&old), Some(&wider))),
        ("policy_of_namespace", review("CREATE", None, Some(&selecting))),
        ("guardrail", review("CREATE", None, Some(&guardrail))),
    ]
}

fn server_with_scope(server: &Value) -> Value {
    let mut changed = server.clone();
    changed["spec"]["authorization"]["scopes"] = json!({"baseline": ["mcp:use"]});
    changed
}

fn timed(connection: &mut Http2, path: &str, body: &str) -> (Duration, Value) {
    let began = Instant::now();
    let answer = connection.send("POST", path, &[("content-type", "application/json")], body);
    let status = answer.status;
    let said = if status == 200 { answer.json() } else { Value::Null };
    (began.elapsed(), said)
}

/// Prints what each kind of review takes, beside an empty webhook in the same run.
pub(super) fn measure(cluster: &Cluster, spread: impl Fn(Vec<Duration>) -> String) {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    std::fs::write(folder.path().join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    let key = Key::make().unwrap();
    std::fs::write(folder.path().join("key"), key.as_bytes()).unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let path = key.path(Asked::Changes, 1);
    // It asks about nothing, and says where one would ask.
    cluster.apply(&json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": CONFIGURATION}, "webhooks": [{"name": "reviews.bench.invalid", "rules": [],
            "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": format!("https://{address}{path}")}}]}));
    let webhook = start(cluster, folder.path(), &address);
    patiently("the webhook to listen", || std::net::TcpStream::connect(&address).ok());
    let (mut ours, mut other) =
        (Http2::tls(&address, NAME, &made.cert.pem()), Http2::tls(&empty(&made), NAME, &made.cert.pem()));
    let began = Instant::now();
    patiently("the webhook to know everything", || {
        timed(&mut ours, &path, &reviews(0)[0].1).1.is_object().then_some(())
    });
    println!("webhook_knows_everything_seconds = {:.1}", began.elapsed().as_secs_f64());
    println!("webhook_mib = {}", memory(&webhook));
    let mut took: Vec<(&str, Vec<Duration>)> = Vec::new();
    let mut beside = Vec::new();
    for round in 0..ROUNDS {
        for (index, (kind, body)) in reviews(round * 31).into_iter().enumerate() {
            beside.push(timed(&mut other, &path, &body).0);
            let (time, said) = timed(&mut ours, &path, &body);
            assert_eq!(said["response"]["allowed"], kind != "refused", "{said}");
            match took.get_mut(index) {
                Some((_, times)) => times.push(time),
                None => took.push((kind, vec![time])),
            }
        }
    }
    println!("review_ms.empty = {}", spread(beside.clone()));
    for (kind, times) in &took {
        println!("review_ms.{kind} = {}", spread(times.clone()));
    }
    println!("webhook_after_reviews_mib = {}", memory(&webhook));
    let empty = p99(beside);
    for (kind, times) in took {
        let (more, most) = (p99(times).saturating_sub(empty), MOST[usize::from(!UNTOLD.contains(&kind))]);
        assert!(more <= most, "{kind}: {more:?} more than an empty webhook, and {most:?} are allowed");
    }
}

fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() * 99 / 100]
}
