//! Whom the gateway calls, and whom it does not, whatever manifests, issuers and its environment say.

use std::net::TcpListener;

use serde_json::json;

use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http;
use crate::support::issuer::{Document, Fault, Issuer};
use crate::support::upstream::{Sdk, Upstream};
use crate::support::wait::until;

const RULES: &str =
    "  - name: all\n    effect: Allow\n    principals: [{any: true}]\n    tools: [{patterns: [\"*\"]}]\n";

/// A port where nobody should call.
fn canary() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn call(gateway: &Gateway, token: &str) -> http::Response {
    let call = json!({"name": "echo", "arguments": {"message": "a"}});
    http::post_2026(&gateway.url("echo"), Some(token), "tools/call", &call)
}

fn trust(issuer: &str) -> String {
    format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpAuthorizationServer\nmetadata: {{name: local}}\nspec: {{issuer: {issuer:?}}}\n"
    )
}

#[test]
fn proxies_of_the_environment_see_no_call() {
    let (canary, address) = canary();
    let upstream = Upstream::start_with(Sdk::Rmcp, &json!({"json": true, "stateless": true}));
    let issuer = Issuer::start();
    let proxy = format!("http://{address}");
    let names = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
    let environment: Vec<_> = names.iter().map(|name| (*name, proxy.as_str())).collect();
    let gateway = Gateway::start_in(
        &environment,
        &[
            ("trust.yaml", &trust(issuer.url())),
            ("server.yaml", &server("echo", upstream.url())),
            ("policy.yaml", &policy("all", "echo", RULES)),
        ],
    );
    let token = issuer.token("ana", &gateway.url("echo"), "mcp:use", &[]);
    until("the call", || (call(&gateway, &token).status == 200).then_some(()));
    assert!(canary.accept().is_err(), "a proxy of the environment was used");
}

#[test]
fn an_issuer_cannot_point_the_gateway_at_its_inside() {
    let (canary, address) = canary();
    let port = address.rsplit_once(':').unwrap().1;
    let upstream = Upstream::start_with(Sdk::Rmcp, &json!({"json": true, "stateless": true}));
    // Loopback is open to the gateway here, plain http to loopback only, and nothing else inside.
    let places = [
        format!("http://10.0.0.1:{port}/jwks"),
        format!("https://10.0.0.1:{port}/jwks"),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "https://[::ffff:169.254.169.254]/jwks".to_owned(),
        "https://[64:ff9b::a9fe:a9fe]/jwks".to_owned(),
        "https://[fd00:ec2::254]/jwks".to_owned(),
        "https://0xa9fea9fe/jwks".to_owned(),
        "https://2852039166/jwks".to_owned(),
        format!("http://user:pass@{address}/jwks"),
        format!("http://127.0.0.1:{port}@{address}/jwks"),
        "file:///etc/passwd".to_owned(),
        format!("gopher://{address}/jwks"),
    ];
    let issuers: Vec<_> = places.iter().map(|place| (Issuer::start(), place)).collect();
    let mut files = Vec::new();
    for (n, (issuer, place)) in issuers.iter().enumerate() {
        issuer.set_metadata("jwks_uri", json!(place));
        let trust = trust(issuer.url()).replace("{name: local}", &format!("{{name: i{n}}}"));
        let server = server(&format!("s{n}"), upstream.url()).replace("[local]", &format!("[i{n}]"));
        files.push((format!("{n}.yaml"), format!("{trust}---\n{server}")));
    }
    // And one that redirects there.
    let moved = Issuer::start();
    moved.fail(Document::Metadata, Fault::Redirect(format!("http://{address}/metadata")));
    let server = server("moved", upstream.url()).replace("[local]", "[moved]");
    let trusted = trust(moved.url()).replace("{name: local}", "{name: moved}");
    files.push(("moved.yaml".to_owned(), format!("{trusted}---\n{server}")));
    let files: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
    let gateway = Gateway::launch(&files, &[]);
    let asked =
        |issuer: &Issuer| until("its metadata to be read", || (issuer.hits(Document::Metadata) > 0).then_some(()));
    let names = (0..issuers.len()).map(|n| format!("s{n}")).chain(["moved".to_owned()]);
    for (issuer, name) in issuers.iter().map(|(issuer, _)| issuer).chain([&moved]).zip(names) {
        asked(issuer);
        let token = issuer.token("ana", &gateway.url(&name), "mcp:use", &[]);
        let listed = || http::post_2026(&gateway.url(&name), Some(&token), "tools/list", &json!({})).status;
        assert_eq!(listed(), 503, "{name}: without keys, nobody is let in");
        assert_eq!(issuer.hits(Document::Jwks), 0, "{name}");
    }
    assert!(canary.accept().is_err(), "the gateway called where an issuer pointed");
}

#[test]
fn an_upstream_inside_is_not_called_unless_it_was_opened() {
    let (canary, address) = canary();
    let port = address.rsplit_once(':').unwrap().1;
    let places = [
        format!("http://10.0.0.1:{port}/mcp"),
        format!("http://0.0.0.0:{port}/mcp"),
        format!("http://[::1]:{port}/mcp"),
        format!("http://[::ffff:127.0.0.1]:{port}/mcp"),
        format!("http://0x7f.1:{port}/mcp"),
        format!("http://localhost:{port}/mcp"),
        format!("http://localhost.:{port}/mcp"),
        format!("http://{address}/mcp"),
        "http://169.254.169.254/mcp".to_owned(),
        "http://100.100.100.200/mcp".to_owned(),
    ];
    let mut files = vec![("trust.yaml".to_owned(), TRUST.to_owned())];
    for (n, place) in places.iter().enumerate() {
        let (name, policy) = (format!("s{n}"), policy(&format!("p{n}"), &format!("s{n}"), RULES));
        files.push((format!("{n}.yaml"), format!("{}---\n{policy}", server(&name, place))));
    }
    let files: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
    let gateway = Gateway::start_with(&files, &["--allow-private-upstreams=false"]);
    for (n, place) in places.iter().enumerate() {
        let token = gateway.token("ana", &format!("s{n}"));
        let call = json!({"name": "echo", "arguments": {}});
        let answer = http::post_2026(&gateway.url(&format!("s{n}")), Some(&token), "tools/call", &call);
        assert_eq!(answer.status, 502, "{place}: {answer:?}");
        assert!(!answer.text().contains("10.0.0.1") && !answer.text().contains("169.254"), "{place}: {answer:?}");
    }
    assert!(canary.accept().is_err(), "an internal address was called");
}
