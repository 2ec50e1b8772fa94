use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;

use super::super::authenticate::Caller;
use super::super::config::{Config, Limits};
use super::super::gateway::{Change, Gateway, KeyRefresh, Parts, now};
use super::super::metrics::Metrics;
use super::super::review::TokenReviewer;
use super::*;
use crate::audit::Recorder;
use crate::audit::query::{self, Filter, query};
use crate::audit::{AuditConfig, DECISION};
use crate::egress::{self, Egress};
use crate::fleet::tests::{allow_all, server};
use crate::generated::Kind;
use crate::generated::authority::{KeySet, KeySource, Revocation, TokenRules, TypRule};
use crate::generated::codec::Generated;
use crate::generated::{Authority, Labels, ObjectId};
use crate::identity::token;
use crate::issuer::{LocalAuthority, TokenRequest};
use crate::journal::SystemClock;
use crate::mcp::envelope::Envelope;
use crate::mcp::method::Method;
use crate::mcp::revision::Revision;
use crate::mcp::scan;
use crate::resolve::PublicUrl;
use crate::seal::{KEY_BYTES, KeyRing, SealKey, Sealer};

async fn recorder(dir: &Path) -> Recorder {
    let config = AuditConfig::in_state_dir(dir);
    let opened = tokio::task::spawn_blocking(move || Recorder::open(config, Arc::new(SystemClock)));
    opened.await.unwrap().unwrap().0
}

/// The only decision on record, after the recorder was closed.
async fn only_call(recorder: Recorder, dir: &Path) -> query::Call {
    tokio::task::spawn_blocking(move || recorder.close()).await.unwrap();
    let filter = Filter { event: Some(DECISION.to_owned()), ..Filter::default() };
    let mut calls = query(&AuditConfig::in_state_dir(dir).journal.dir, &filter, 10).unwrap().calls;
    assert_eq!(calls.len(), 1, "{calls:?}");
    calls.remove(0)
}

fn outcome(call: &query::Call) -> Option<(&str, &str)> {
    let end = &call.completion.as_ref()?.fields;
    Some((end.outcome.as_deref()?, end.error.as_deref().unwrap_or_default()))
}

/// Nobody who fetches keys.
struct NoKeys;

impl KeyRefresh for NoKeys {
    fn first_keys<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }

    fn refresh<'a>(&'a self, _: &'a str, _: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }
}

pub(in crate::proxy) fn authority(issuer: &LocalAuthority, revoked: Vec<Revocation>) -> Change {
    let rules = TokenRules {
        typ: TypRule::AccessTokenJwt,
        algorithms: vec!["ES256".into()],
        skew_seconds: 30,
        max_lifetime_seconds: None,
        subject_claim: "sub".into(),
        tenant_claim: None,
        client_claims: vec!["client_id".into()],
        groups_claim: Some("groups".into()),
        allowed_audiences: vec![],
    };
    let id = ObjectId { uid: "uid-corp".into(), namespace: String::new(), name: "corp".into(), generation: 1 };
    let key_set = Some(KeySet { jwks: issuer.jwks().to_owned(), valid_until: i64::MAX });
    put(Generated::Authority(Authority {
        id,
        issuer: issuer.issuer().to_owned(),
        rules,
        keys: KeySource::Local,
        key_set,
        revoked,
        clients: None,
    }))
}

fn put(object: Generated) -> Change {
    Change::put(&object).unwrap()
}

/// A call of ann's that is allowed, at the moment that it came, and her token's id.
pub(in crate::proxy) async fn allowed_call(
    dir: &Path,
    issuer: &LocalAuthority,
    reviewer: Option<Arc<dyn TokenReviewer>>,
) -> (Call, String) {
    let gateway = Gateway::new(Parts {
        config: Config {
            public_url: PublicUrl::parse("https://mcp.example").unwrap(),
            allowed_origins: vec![],
            limits: Limits::default(),
        },
        recorder: recorder(dir).await,
        egress: Egress::new(egress::Policy::default()).unwrap(),
        sealer: Sealer::new(KeyRing::new(SealKey::new(&[7; KEY_BYTES]).unwrap(), None)),
        keys: Arc::new(NoKeys),
        reviewer,
        metrics: Metrics::default(),
    });
    let server = server("team", "s", Labels::new(), Some(Labels::new()));
    let request = TokenRequest {
        subject: "ann".into(),
        audiences: vec![server.resource.clone()],
        client_id: "test".into(),
        groups: vec![],
        scopes: vec![],
        lifetime_seconds: 600,
        label: None,
    };
    let issued = issuer.issue(&request, now()).unwrap();
    gateway.apply(vec![
        authority(issuer, vec![]),
        put(Generated::Server(server)),
        put(Generated::Policy(allow_all("team"))),
    ]);
    let snapshot = gateway.snapshot();
    let site = snapshot.site("/team/s").unwrap().clone();
    let verified = token::verify(issued.token.expose(), site.anchors(), now()).unwrap();
    let caller = Caller::of(&gateway, verified, None);
    let text = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;
    let call = Call {
        gateway,
        snapshot,
        site,
        caller,
        headers: HeaderMap::new(),
        envelope: Envelope::parse(Bytes::from_static(text), &scan::Limits::CLIENT).unwrap(),
        revision: Revision::V2025_11_25,
        method: Method::find(Revision::V2025_11_25, "tools/call").unwrap(),
        session: None,
        peer: [127, 0, 0, 1].into(),
        started: Instant::now(),
    };
    (call, issued.record.jti)
}

#[tokio::test]
async fn a_call_is_not_made_if_what_allowed_it_is_gone_when_its_record_is_kept() {
    type Changes = Box<dyn Fn(&LocalAuthority, String) -> Vec<Change>>;
    type End = (&'static str, &'static str);
    let now = |change: fn(&mut crate::generated::Server)| {
        let mut server = server("team", "s", Labels::new(), Some(Labels::new()));
        change(&mut server);
        vec![put(Generated::Server(server))]
    };
    let scopes = now(|server| server.scopes.baseline = vec!["mcp:use".into()]);
    let upstream = now(|server| server.upstream.url = "https://elsewhere.example/mcp".into());
    let changes: [(&str, Changes, Option<u16>, End); 6] = [
        (
            "another server",
            Box::new(|_, _| vec![put(Generated::Server(server("team", "u", Labels::new(), Some(Labels::new()))))]),
            None,
            ("disconnected", ""),
        ),
        (
            "the policy",
            Box::new(|_, _| vec![Change::Remove(Kind::Policy, "allow-team".into())]),
            Some(200),
            ("denied", "NoMatchingAllow"),
        ),
        (
            "the token",
            Box::new(|issuer, jti| vec![authority(issuer, vec![Revocation::Token { jti }])]),
            Some(401),
            ("denied", "TokenRevoked"),
        ),
        ("the scopes", Box::new(move |_, _| scopes.clone()), Some(403), ("denied", "InsufficientScope")),
        ("where its server is", Box::new(move |_, _| upstream.clone()), Some(503), ("denied", "ServerMoved")),
        (
            "the server",
            Box::new(|_, _| vec![Change::Remove(Kind::Server, "uid-team-s".into())]),
            Some(404),
            ("denied", "ServerGone"),
        ),
    ];
    for (what, changes, refused, end) in changes {
        let dir = tempfile::tempdir().unwrap();
        let issuer = LocalAuthority::open(&dir.path().join("issuer"), "https://mcp.example/-/issuer/corp").unwrap();
        let (call, jti) = allowed_call(dir.path(), &issuer, None).await;
        // The call has its snapshot: as if this happened while the disk is slow.
        call.gateway.apply(changes(&issuer, jti));
        let permit = permit_tool(&call, "t").await;
        assert_eq!(permit.as_ref().err().map(|response| response.status().as_u16()), refused, "{what}");
        drop(permit);
        let found = only_call(call.gateway.recorder().clone(), dir.path()).await;
        assert_eq!(found.entry.fields.decision.as_deref(), Some("allow"), "{what}");
        assert_eq!(outcome(&found), Some(end), "{what}: {found:?}");
    }
}
