//! Certificates come and go, and nobody notices.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use portcullis::controller::webhook::authority::Authority;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde_json::{Value, json};

use super::house::{House, NAMES, policy, server, trust};
use crate::support::kube::{SYSTEM, Write};
use crate::support::now;
use crate::support::wait::{until, until_within};

/// Believes anybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A connection to a server, whoever it is.
pub(super) fn connect(address: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
    StreamOwned::new(connection, TcpStream::connect(address).unwrap())
}

/// The certificate that is served.
fn served(address: &str) -> CertificateDer<'static> {
    let mut stream = connect(address);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
}

fn secret(house: &House, name: &str) -> Option<Value> {
    house.cluster.get("v1", "Secret", Some(SYSTEM), name)
}

fn text(secret: &Value, name: &str) -> String {
    String::from_utf8(BASE64_STANDARD.decode(secret["data"][name].as_str().unwrap()).unwrap()).unwrap()
}

/// Whom the API server is told to believe.
fn bundle(house: &House, name: &str) -> String {
    let kind = "ValidatingWebhookConfiguration";
    let found = house.cluster.get("admissionregistration.k8s.io/v1", kind, None, name).unwrap();
    let bundle = found["webhooks"][0]["clientConfig"]["caBundle"].as_str().unwrap_or_default().to_owned();
    String::from_utf8(BASE64_STANDARD.decode(bundle).unwrap()).unwrap()
}

#[test]
fn certificates_are_rotated_under_load_and_no_review_is_dropped() {
    let house = House::build();
    house.taken(&trust());
    house.taken(&server("notes"));
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..4 {
            let (house, stop, done) = (&house, &stop, &done);
            scope.spawn(move || {
                let mut turn = 0;
                while !stop.load(Ordering::SeqCst) {
                    let mut object = policy(&format!("readers-{number}"), "notes");
                    object["spec"]["rules"][0]["tools"] = json!([{"names": [format!("tool-{turn}")]}]);
                    house.cluster.apply(&object);
                    turn += 1;
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let calls = |more: usize| {
            let before = done.load(Ordering::SeqCst);
            until("reviews", || (done.load(Ordering::SeqCst) >= before + more).then_some(()));
        };
        // Should something fail, the others end too.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..2 {
                calls(20);
                let before = served(&house.address());
                house.cluster.delete("v1", "Secret", Some(SYSTEM), "portcullis-webhook-tls");
                until("another certificate", || (served(&house.address()) != before).then_some(()));
                calls(20);
            }
            a_new_authority(&house);
            calls(50);
            assert!(house.readyz().0);
        }));
        stop.store(true, Ordering::SeqCst);
        if let Err(why) = result {
            std::panic::resume_unwind(why);
        }
    });
    let metrics = house.metrics();
    let failed: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("portcullis_review_failures_total") && !line.ends_with(" 0"))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// What the controller does when an authority is due, but for the week until the old one leaves: callers are told of both
/// before the new one signs what is served, and then the old one loses its key.
fn a_new_authority(house: &House) {
    let mut ca = secret(house, "portcullis-webhook-ca").unwrap();
    let new = Authority::make(i64::try_from(now()).unwrap()).unwrap();
    let encode = |text: &str| Value::from(BASE64_STANDARD.encode(text));
    let (old, old_key) = (text(&ca, "ca.crt"), text(&ca, "ca.key"));
    ca["data"] = json!({"ca.crt": encode(&new.pem), "ca.key": encode(&new.key_pem().unwrap()),
        "previous.crt": encode(&old), "previous.key": encode(&old_key)});
    ca["metadata"] = json!({"name": "portcullis-webhook-ca", "namespace": SYSTEM});
    let before = served(&house.address());
    house.cluster.apply(&ca);
    for name in ["portcullis-validate", "portcullis-deletions"] {
        until("callers to be told of both", || (bundle(house, name) == format!("{}{old}", new.pem)).then_some(()));
    }
    assert!(served(&house.address()) == before, "what callers may not have heard of is served");
    // After half a minute in which callers hear of it, and a look.
    until_within(Duration::from_secs(180), "a certificate of the new one", || {
        (served(&house.address()) != before).then_some(())
    });
    let issuer = text(&secret(house, "portcullis-webhook-tls").unwrap(), "ca.crt");
    assert_eq!(issuer, new.pem);
    until("the old one to lose its key", || {
        secret(house, "portcullis-webhook-ca").filter(|ca| ca["data"]["previous.key"].is_null())
    });
}

#[test]
fn nothing_is_written_while_nothing_changes_and_what_is_broken_is_mended() {
    let house = House::build();
    let own = |write: &&Write| write.name.starts_with("portcullis-webhook") || write.resource.contains("webhook");
    let count = || house.cluster.writes().iter().filter(own).count();
    let first = count();
    // The next thing that is mended shows that it was looked at since.
    let kind = "ValidatingWebhookConfiguration";
    house.cluster.kubectl(&[
        "patch",
        kind,
        "portcullis-deletions",
        "--type=json",
        "-p",
        r#"[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]"#,
    ]);
    until("callers to be told again", || (!bundle(&house, "portcullis-deletions").is_empty()).then_some(()));
    // What is written comes into the log a moment later.
    until("it to be on record", || (count() >= first + 2).then_some(()));
    assert_eq!(count(), first + 2, "{:?}", house.cluster.writes().iter().filter(own).collect::<Vec<_>>());
    assert_eq!(bundle(&house, "portcullis-deletions"), bundle(&house, "portcullis-validate"));

    // Without an authority there is another one, and all is well again.
    let before = bundle(&house, "portcullis-validate");
    house.cluster.delete("v1", "Secret", Some(SYSTEM), "portcullis-webhook-ca");
    until("another authority", || Some(bundle(&house, "portcullis-validate")).filter(|now| *now != before));
    until("reviews to be answered again", || house.apply(&trust()).status.success().then_some(()));
    house.wait_ready();
    // What the controller writes of them is where to ask and whom to believe, and nothing else.
    let fields = house.cluster.kubectl(&["get", kind, "portcullis-validate", "--show-managed-fields", "-o", "json"]);
    let fields: Value = serde_json::from_str(&fields).unwrap();
    let managers = fields["metadata"]["managedFields"].as_array().unwrap();
    let own: Vec<&Value> = managers.iter().filter(|one| one["manager"] == "portcullis-webhook-ca").collect();
    let [own] = own[..] else { panic!("{managers:#?}") };
    let webhook = &own["fieldsV1"]["f:webhooks"]["k:{\"name\":\"validate.portcullis.dev\"}"];
    assert_eq!(webhook["f:clientConfig"], json!({"f:caBundle": {}, "f:url": {}}), "{own:#}");
}

#[test]
fn an_expired_certificate_is_said_to_be_and_a_new_one_mends_it() {
    let mut house = House::build();
    let ca = secret(&house, "portcullis-webhook-ca").unwrap();
    let authority = Authority::read(&text(&ca, "ca.crt"), Some(&text(&ca, "ca.key"))).unwrap();
    let names = NAMES.map(str::to_owned);
    let old = authority.issue(&names, i64::try_from(now()).unwrap() - 8 * 86_400).unwrap().unwrap();
    house.kill_webhook();
    house.mount(&old.certificate, &old.key);
    house.start_webhook();
    until("the webhook to say that its certificate has run out", || {
        let (ready, report) = house.readyz();
        (!ready && report["checks"]["certificate"]["reason"] == "CertificateExpired").then_some(())
    });
    let said = house.refused(&server("notes"));
    assert!(said.contains("validate.portcullis.dev") && said.contains("expired"), "{said}");
    house.taken(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "team"}}));
    house.start_kubelet();
    house.wait_ready();
    house.taken(&server("notes"));
}
