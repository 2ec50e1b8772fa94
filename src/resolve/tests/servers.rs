use super::*;
use crate::generated::server::{Audit, AuditLevel, Credentials, Delivery, Lock, LockedTool, OnChange, State};
use crate::generated::{Digest, Risk};
use crate::tools::digest::sha256;
use crate::tools::lock;

fn with_server(spec: Value) -> Resolution {
    resolve(&[authority_named("corp"), server_with(spec)])
}

fn unserved_because(resolution: &Resolution) -> Option<String> {
    match &servers_of(resolution).first()?.state {
        State::Unserved { reason, .. } => Some(reason.clone()),
        State::Enabled | State::Disabled => None,
    }
}

#[test]
fn defaults_are_filled_in() {
    let resolution = with_server(json!({}));
    assert_eq!(found(&resolution), []);
    let server = servers_of(&resolution)[0];
    assert_eq!((server.path.as_str(), server.resource.as_str()), ("/team/s", "https://mcp.example.com/team/s"));
    assert_eq!(server.state, State::Enabled);
    assert_eq!(server.audit, Audit { level: AuditLevel::Metadata, delivery: Delivery::Durable, redact: Vec::new() });
    assert_eq!(server.namespace_labels, None, "without a Namespace nobody knows them");
    let document: Value = serde_json::from_str(&server.metadata).unwrap();
    let want = json!({
        "resource": "https://mcp.example.com/team/s",
        "authorization_servers": ["https://corp.example.com"],
        "bearer_methods_supported": ["header"]
    });
    assert_eq!(document, want);
}

#[test]
fn paths_stay_inside_the_namespace_and_have_one_spelling() {
    for path in ["/team/s", "/team/a/b.c", "/team/A_~-9"] {
        assert_eq!(found(&with_server(json!({"path": path}))), [], "{path}");
    }
    for path in [
        "/other/s",
        "/team",
        "/team/",
        "/team/s/",
        "/team//s",
        "/team/../other",
        "/team/.",
        "/team/.hidden",
        "team/s",
        "/team/%2e%2e/x",
        "/team/a b",
        "/team/a?b",
        "/team/a#b",
        "/team/a\\b",
        "/teams/x",
        "/-/x",
        "/-/clients/0123",
        "/.well-known/x",
        "/team/\u{e9}",
        "//team/s",
    ] {
        assert_eq!(found(&with_server(json!({"path": path}))), [("PathInvalid", "spec.path".into())], "{path}");
    }
}

#[test]
fn what_this_build_does_not_enforce_is_refused() {
    for (field, spec) in [
        ("spec.gateway", json!({"gateway": "edge"})),
        ("spec.upstream.tls.clientCertRef", json!({"upstream": {"tls": {"clientCertRef": {"secretName": "x"}}}})),
        ("spec.clientFeatures.sampling", json!({"clientFeatures": {"sampling": "Allow"}})),
        ("spec.clientFeatures.roots", json!({"clientFeatures": {"roots": "Allow"}})),
        ("spec.clientFeatures.elicitation", json!({"clientFeatures": {"elicitation": "Allow"}})),
        ("spec.audit.level", json!({"audit": {"level": "Full"}})),
        ("spec.audit.delivery", json!({"audit": {"delivery": "Strict"}})),
    ] {
        let resolution = with_server(spec);
        assert_eq!(found(&resolution), [("NotYetEnforced", field.to_owned())]);
        assert!(servers_of(&resolution).is_empty());
    }
}

#[test]
fn what_is_wrong_in_itself_is_named_where_it_stands() {
    let credentials = |c: Value| json!({"upstream": {"credentials": c}});
    let header = |name: &str| {
        credentials(json!({"none": null, "headers": [{"name": name, "secretKeyRef": {"name": "k", "key": "k"}}]}))
    };
    for (reason, field, spec) in [
        ("ChoiceInvalid", "spec.upstream", json!({"upstream": {"url": null}})),
        ("ChoiceInvalid", "spec.upstream.credentials", credentials(json!({"none": null}))),
        ("FieldMissing", "spec.upstream.credentials", json!({"upstream": {"credentials": null}})),
        ("UpstreamInvalid", "spec.upstream.url", json!({"upstream": {"url": "vendor.example/mcp"}})),
        ("UpstreamInvalid", "spec.upstream.url", json!({"upstream": {"url": "file:///etc/passwd"}})),
        ("UpstreamInvalid", "spec.upstream.url", json!({"upstream": {"url": "https://u:p@vendor.example/"}})),
        ("UpstreamInvalid", "spec.upstream.url", json!({"upstream": {"url": "https://vendor.example/#x"}})),
        ("CredentialsInvalid", "spec.upstream.credentials.headers[0].name", header("Host")),
        ("CredentialsInvalid", "spec.upstream.credentials.headers[0].name", header("Mcp-Session-Id")),
        ("CredentialsInvalid", "spec.upstream.credentials.headers[0].name", header("a b")),
        ("CredentialsInvalid", "spec.upstream.credentials.headers[0].name", header("Transfer-Encoding")),
        (
            "ScopeInvalid",
            "spec.authorization.scopes.baseline[0]",
            json!({"authorization": {"scopes": {"baseline": ["a b"]}}}),
        ),
        (
            "ScopeInvalid",
            "spec.authorization.scopes.baseline[0]",
            json!({"authorization": {"scopes": {"baseline": ["offline_access"]}}}),
        ),
        ("AudienceInvalid", "spec.authorization.audiences[0]", json!({"authorization": {"audiences": ["a b"]}})),
        ("RedactInvalid", "spec.audit.redact[0]", json!({"audit": {"redact": ["/password"]}})),
        ("RedactInvalid", "spec.audit.redact[0]", json!({"audit": {"redact": ["/args"]}})),
        ("RedactInvalid", "spec.audit.redact[0]", json!({"audit": {"redact": ["/args/a~2b"]}})),
        ("RedactInvalid", "spec.audit.redact[0]", json!({"audit": {"redact": ["/argsx/a"]}})),
        (
            "PatternInvalid",
            "spec.tools.risk[0].match[0]",
            json!({"tools": {"risk": [{"name": "x", "match": ["a?"], "class": "Write"}]}}),
        ),
        ("BoundsExceeded", "spec.authorization.servers", json!({"authorization": {"servers": []}})),
        ("DuplicateEntry", "spec.authorization.servers[1]", json!({"authorization": {"servers": ["corp", "corp"]}})),
        ("TypeMismatch", "spec.state", json!({"state": true})),
        ("ValueInvalid", "spec.state", json!({"state": "disabled"})),
        ("UnknownField", "spec.upstream.pasthrough", json!({"upstream": {"pasthrough": true}})),
    ] {
        let resolution = with_server(spec);
        assert_eq!(found(&resolution), [(reason, field.to_owned())]);
        assert!(servers_of(&resolution).is_empty(), "{reason} {field}");
    }
}

#[test]
fn redaction_pointers_keep_their_root() {
    let resolution = with_server(json!({"audit": {"redact": ["/args/a/0/b~1c"]}}));
    assert_eq!(servers_of(&resolution)[0].audit.redact, ["/args/a/0/b~1c"]);
}

fn with_secret(url: &str, hosts: Option<&str>, value: &str) -> Resolution {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "stringData": {"token": value},
        "metadata": {"name": "key", "namespace": "team", "annotations": hosts.map(|h| json!({"portcullis.dev/allowed-hosts": h}))}
    });
    let headers =
        json!([{"name": "Authorization", "prefix": "Bearer ", "secretKeyRef": {"name": "key", "key": "token"}}]);
    let server = server_with(json!({"upstream": {"url": url, "credentials": {"none": null, "headers": headers}}}));
    resolve(&[authority_named("corp"), secret, server])
}

#[test]
fn a_secret_goes_only_to_hosts_that_it_names() {
    for (url, hosts, sent) in [
        ("https://vendor.example/mcp", Some("vendor.example"), true),
        ("https://vendor.example/mcp", Some("other.example, Vendor.Example"), true),
        ("https://vendor.example:443/mcp", Some("vendor.example"), true),
        ("https://vendor.example/mcp", Some("vendor.example:443"), true),
        ("http://vendor.example/mcp", Some("vendor.example:443"), false),
        // In the clear only if that is what the Secret's owner wrote.
        ("http://vendor.example/mcp", Some("vendor.example"), false),
        ("http://vendor.example/mcp", Some("vendor.example:80"), true),
        ("https://vendor.example:8443/mcp", Some("vendor.example:8443"), true),
        ("https://[::1]:8443/mcp", Some("[::1]:8443"), true),
        ("https://vendor.example:8443/mcp", Some("vendor.example"), false),
        ("https://vendor.example/mcp", Some("vendor.example:8443"), false),
        ("https://evil.example/mcp", Some("vendor.example"), false),
        ("https://vendor.example.evil.example/mcp", Some("vendor.example"), false),
        ("https://evil-vendor.example/mcp", Some("vendor.example"), false),
        ("https://sub.vendor.example/mcp", Some("*.vendor.example"), false),
        ("https://vendor.example/mcp", Some(""), false),
        ("https://vendor.example/mcp", None, false),
    ] {
        let resolution = with_secret(url, hosts, "hunter2");
        let server = servers_of(&resolution)[0];
        let Credentials::Headers(headers) = &server.upstream.credentials else { panic!() };
        if sent {
            assert_eq!(headers[0].value.expose(), "Bearer hunter2", "{url}");
            assert_eq!((headers[0].name.as_str(), &server.state), ("authorization", &State::Enabled));
        } else {
            assert!(headers.is_empty(), "{url}");
            assert_eq!(unserved_because(&resolution).as_deref(), Some("SecretHostNotAllowed"), "{url} {hosts:?}");
        }
        assert!(!format!("{resolution:?}").contains("hunter2"));
    }
}

#[test]
fn a_secret_that_cannot_be_sent_leaves_the_server_unserved() {
    let long = "hunter2".repeat(2000);
    for value in ["", "hunter2\n", "hun\u{0}ter2", &long] {
        let resolution = with_secret("https://vendor.example/mcp", Some("vendor.example"), value);
        assert_eq!(unserved_because(&resolution).as_deref(), Some("SecretInvalid"), "{value:?}");
        assert!(!format!("{resolution:?}").contains("hunter2"));
    }
}

#[test]
fn what_is_missing_elsewhere_leaves_the_server_unserved() {
    let headers = json!([{"name": "X-Key", "secretKeyRef": {"name": "none", "key": "k"}}]);
    for (reason, spec) in [
        ("AuthorityNotFound", json!({"authorization": {"servers": ["nobody"]}})),
        ("SecretNotFound", json!({"upstream": {"credentials": {"none": null, "headers": headers}}})),
        ("ConfigMapNotFound", json!({"upstream": {"tls": {"caRef": {"configMapName": "none"}}}})),
    ] {
        let resolution = with_server(spec);
        assert_eq!(unserved_because(&resolution).as_deref(), Some(reason));
        let [finding] = resolution.findings.as_slice() else { panic!("{:?}", resolution.findings) };
        assert_eq!((finding.finding.reason.as_str(), finding.finding.severity), (reason, Severity::Warning));
    }
    // One of two authorities is enough.
    let resolution = with_server(json!({"authorization": {"servers": ["nobody", "corp"]}}));
    assert_eq!(found(&resolution), [("AuthorityNotFound", "spec.authorization.servers[0]".into())]);
    assert_eq!((unserved_because(&resolution), &servers_of(&resolution)[0].authorities), (None, &vec!["corp".into()]));
}

#[test]
fn two_authorities_with_one_issuer_leave_the_server_unserved() {
    let mut twin = authority_named("twin");
    patch(&mut twin, json!({"spec": {"issuer": "https://corp.example.com"}}));
    let server = server_with(json!({"authorization": {"servers": ["corp", "twin"]}}));
    let resolution = resolve(&[authority_named("corp"), twin, server]);
    assert_eq!(unserved_because(&resolution).as_deref(), Some("AuthorityAmbiguous"));
}

#[test]
fn audiences_count_only_if_an_authority_allows_them() {
    let resolution = with_server(json!({"authorization": {"audiences": ["https://aud", "https://other"]}}));
    assert_eq!(servers_of(&resolution)[0].audiences, ["https://aud"]);
    assert_eq!(found(&resolution), [("AudienceNotAllowed", "spec.authorization.audiences[1]".into())]);
}

#[test]
fn certificates_are_read_or_the_server_is_unserved() {
    let certificate = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap().cert.pem();
    for (pem, want) in [(certificate.as_str(), None), ("junk", Some("CaInvalid"))] {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca", "namespace": "team"}, "data": {"ca.crt": pem}
        });
        let server = server_with(json!({"upstream": {"tls": {"caRef": {"configMapName": "ca"}}}}));
        let resolution = resolve(&[authority_named("corp"), map, server]);
        assert_eq!(unserved_because(&resolution).as_deref(), want);
        let kept = servers_of(&resolution)[0].upstream.tls.ca_pem.is_some();
        assert_eq!(kept, want.is_none());
    }
}

/// A lock of two tools, as it is written.
fn lock_text() -> String {
    let listed = [r#"{"name":"get_x"}"#, r#"{"name":"delete_x","description":"d"}"#];
    let found = lock::lockable(listed);
    let reviewed =
        found.values().map(|(tool, digest)| lock::Reviewed { tool: tool.clone(), digest: *digest, risk: None });
    lock::write(reviewed).unwrap().text
}

fn with_lock(spec: Value, data: Value) -> Resolution {
    let mut whole = json!({"configMapName": "tools", "sha256": sha256(lock_text().as_bytes()).hex()});
    patch(&mut whole, spec);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "tools", "namespace": "team"}, "data": data});
    resolve(&[authority_named("corp"), map, server_with(json!({"tools": {"lock": whole}}))])
}

#[test]
fn duty_59_a_lock_is_read_by_its_digest() {
    let lock_of = |resolution: &Resolution| servers_of(resolution)[0].lock.clone().unwrap();
    let resolution = with_lock(json!({}), json!({"tools-lock.json": lock_text()}));
    assert_eq!(found(&resolution), []);
    let lock = lock_of(&resolution);
    assert_eq!(
        (lock.on_change, lock.tools.len()),
        (OnChange::Deny, 2),
        "what is not said is the strictest that is seen"
    );
    for (word, on_change) in [("Warn", OnChange::Warn), ("Hide", OnChange::Hide), ("Deny", OnChange::Deny)] {
        let spec = json!({"onChange": word, "key": "other"});
        assert_eq!(lock_of(&with_lock(spec, json!({"other": lock_text()}))).on_change, on_change);
    }
    assert_eq!(found(&with_lock(json!({"sha256": "A".repeat(64)}), json!({}))).len(), 1, "hex in small letters");
}

#[test]
fn duty_59_a_lock_that_cannot_be_used_is_one_in_which_nothing_was_reviewed() {
    let edited = lock_text().replacen("\"d\"", "\"e\"", 1);
    let invalid = json!({"sha256": sha256(edited.as_bytes()).hex()});
    for (reason, field, spec, data) in [
        ("LockNotFound", "configMapName", json!({"configMapName": "none"}), json!({"tools-lock.json": lock_text()})),
        ("LockNotFound", "configMapName", json!({"key": "none"}), json!({"tools-lock.json": lock_text()})),
        ("LockMismatch", "sha256", json!({}), json!({"tools-lock.json": lock_text() + "\n"})),
        ("LockMismatch", "sha256", json!({}), json!({"tools-lock.json": edited})),
        ("LockInvalid", "configMapName", invalid, json!({"tools-lock.json": edited})),
    ] {
        let resolution = with_lock(spec, data);
        assert_eq!(found(&resolution), [(reason, format!("spec.tools.lock.{field}"))]);
        assert_eq!(resolution.findings[0].finding.severity, Severity::Warning, "{reason}");
        let server = servers_of(&resolution)[0];
        assert_eq!(server.state, State::Enabled, "{reason}: its other duties go on");
        assert!(server.lock.as_ref().unwrap().tools.is_empty(), "{reason}");
    }
    // Whoever has reviewed it can take the digest from there.
    let resolution = with_lock(json!({"sha256": "0".repeat(64)}), json!({"tools-lock.json": lock_text()}));
    let message = &resolution.findings[0].finding.message;
    assert!(message.contains(&sha256(lock_text().as_bytes()).hex()), "{message}");
}

#[test]
fn what_is_too_large_for_kubernetes_is_unserved_and_written_without_what_is_large() {
    let certificate = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap().cert.pem();
    let many = certificate.repeat(1_100_000 / certificate.len());
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca", "namespace": "team"}, "data": {"ca.crt": many}});
    let server = server_with(json!({"upstream": {"tls": {"caRef": {"configMapName": "ca"}}}}));
    let resolution = resolve(&[authority_named("corp"), map, server]);
    assert_eq!(found(&resolution), [("ServerTooLarge", "spec".into())]);
    assert_eq!(unserved_because(&resolution).as_deref(), Some("ServerTooLarge"));
    assert!(crate::generated::codec::encode(&resolution.generated[0]).unwrap().len() < 10_000);
}

#[test]
fn ten_thousand_locked_tools_fit_into_one_object() {
    let tools = (0..10_000)
        .map(|n| (format!("vendor-tool-with-a-name-{n:0>6}"), LockedTool(Digest([7; 32]), Some(Risk::Destructive))));
    let mut server = servers_of(&with_server(json!({})))[0].clone();
    server.lock = Some(Lock { on_change: OnChange::Deny, tools: tools.collect() });
    let bytes = crate::generated::codec::encode(&Generated::Server(server)).unwrap().len();
    assert!(bytes < 1_000_000, "{bytes}");
}

#[test]
fn authorities_are_judged() {
    let with = |spec: Value| {
        let document = json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpAuthorizationServer", "metadata": {"name": "a"}, "spec": spec
        });
        let resolution = resolve(&[document]);
        let authority = resolution
            .generated
            .iter()
            .find_map(|g| if let Generated::Authority(authority) = g { Some(authority.clone()) } else { None });
        (found(&resolution), authority)
    };
    let issuer = "https://a.example.com/realm";
    let (findings, authority) = with(json!({"issuer": issuer, "validation": {"skew": "1m", "maxLifetime": "1h"}}));
    let authority = authority.unwrap();
    assert_eq!((findings, authority.issuer.as_str()), (vec![], issuer));
    assert_eq!((authority.rules.skew_seconds, authority.rules.max_lifetime_seconds), (60, Some(3600)));
    let (_, local) = with(json!({"local": {}}));
    assert_eq!(local.unwrap().issuer, "https://mcp.example.com/-/issuer/a");

    for (reason, field, spec) in [
        ("ChoiceInvalid", "spec", json!({})),
        ("ChoiceInvalid", "spec", json!({"issuer": issuer, "local": {}})),
        ("ChoiceInvalid", "spec.validation", json!({"local": {}, "validation": {}})),
        (
            "RegistrationInvalid",
            "spec.registration.methods",
            json!({"issuer": issuer, "registration": {
                "methods": ["Admin"], "adminCredentialRef": {"name": "admin"}
            }}),
        ),
        ("NotYetEnforced", "spec.profile", json!({"issuer": issuer, "profile": "Okta"})),
        ("IssuerInvalid", "spec.issuer", json!({"issuer": "http://a.example.com"})),
        ("IssuerInvalid", "spec.issuer", json!({"issuer": "https://a.example.com/?x"})),
        ("IssuerInvalid", "spec.issuer", json!({"issuer": " https://a.example.com"})),
        ("BoundsExceeded", "spec.validation.skew", json!({"issuer": issuer, "validation": {"skew": "61s"}})),
        (
            "BoundsExceeded",
            "spec.validation.maxLifetime",
            json!({"issuer": issuer, "validation": {"maxLifetime": "0s"}}),
        ),
        ("DurationInvalid", "spec.validation.skew", json!({"issuer": issuer, "validation": {"skew": "soon"}})),
        (
            "ValueInvalid",
            "spec.validation.algorithms[0]",
            json!({"issuer": issuer, "validation": {"algorithms": ["HS256"]}}),
        ),
        ("RevocationInvalid", "spec.revoked[0]", json!({"local": {}, "revoked": [{"subject": "x"}]})),
        ("RevocationInvalid", "spec.revoked[0]", json!({"local": {}, "revoked": [{}]})),
        (
            "TimeInvalid",
            "spec.revoked[0].issuedBefore",
            json!({"local": {}, "revoked": [{"subject": "x", "issuedBefore": "now"}]}),
        ),
        ("UnknownField", "spec.revoked[0].jit", json!({"local": {}, "revoked": [{"jit": "x"}]})),
    ] {
        let (findings, authority) = with(spec.clone());
        assert_eq!(findings, [(reason, field.to_owned())], "{spec}");
        assert!(authority.is_none(), "{spec}");
    }
}
