//! What there is in a cluster only: ServiceAccounts, Services, and clients that are given tokens.

use super::*;
use crate::{
    api::McpClient,
    generated::{
        authority::{Authority, KeySource, TypRule},
        policy::{PrincipalMatch, ServiceAccount},
        server::Credentials,
    },
};

fn authority(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpAuthorizationServer", "metadata": {"name": name}, "spec": spec
    })
}

fn cluster_authority() -> Value {
    authority("cluster", json!({"kubernetes": {}}))
}

fn client_in(namespace: &str, spec: Value) -> Value {
    let mut whole = json!({
        "authorizationServer": "local", "method": "Token", "token": {"subject": "ana", "servers": ["s"]}
    });
    patch(&mut whole, spec);
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpClient",
        "metadata": {"name": "c", "namespace": namespace, "uid": "0123456789"}, "spec": whole
    })
}

fn authorities_of(resolution: &Resolution) -> Vec<&Authority> {
    let generated = resolution.generated.iter();
    generated.filter_map(|g| if let Generated::Authority(authority) = g { Some(authority) } else { None }).collect()
}

fn principals_of(resolution: &Resolution) -> &[PrincipalMatch] {
    &policies_of(resolution)[0].rules[0].principals
}

#[test]
fn the_cluster_is_an_authority_whose_own_audiences_are_refused() {
    let resolution = resolve(&[cluster_authority()]);
    assert_eq!(found(&resolution), []);
    let [authority] = authorities_of(&resolution)[..] else { panic!() };
    assert_eq!((&*authority.issuer, &authority.keys), ("https://kubernetes.invalid", &KeySource::Kubernetes));
    let TypRule::ServiceAccount { api_audiences, refused, token_review } = &authority.rules.typ else { panic!() };
    assert_eq!(*api_audiences, ["https://kubernetes.invalid"]);
    assert_eq!(*refused, ["system:serviceaccount:portcullis-gateway:portcullis-upstream"]);
    assert!(!token_review);
}

#[test]
fn whether_the_api_server_is_asked_about_tokens_is_for_the_authority_to_say() {
    let mut asking = cluster_authority();
    asking["spec"]["kubernetes"] = json!({"tokenReview": true});
    let resolution = resolve(&[asking.clone()]);
    assert_eq!(found(&resolution), []);
    let [authority] = authorities_of(&resolution)[..] else { panic!() };
    assert!(matches!(authority.rules.typ, TypRule::ServiceAccount { token_review: true, .. }));
    let alone = resolve_alone(&[asking]);
    assert_eq!(found(&alone), [("ClusterNeeded", "spec.kubernetes".to_owned())]);
}

#[test]
fn a_cluster_without_a_usable_issuer_makes_no_authority() {
    let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
    let issued_by = |issuer: Option<&str>| {
        let service_accounts =
            issuer.map(|issuer| ServiceAccounts { issuer: issuer.to_owned(), api_audiences: vec![issuer.to_owned()] });
        let cluster = Cluster { service_accounts, ..Cluster::presumed() };
        let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: Some(&cluster) };
        let resolution = resolved(&[cluster_authority()], &settings, &Accepted::default());
        assert_eq!(authorities_of(&resolution).len(), usize::from(resolution.findings.is_empty()));
        resolution.findings.first().map(|found| found.finding.to_string())
    };
    assert_eq!(issued_by(Some("https://kubernetes.default.svc.cluster.local")), None);
    assert!(issued_by(None).unwrap().contains("ClusterIssuerUnknown"));
    let plain = issued_by(Some("kubernetes/serviceaccount")).unwrap();
    assert!(plain.contains("IssuerInvalid") && plain.contains("--service-account-issuer"), "{plain}");
}

#[test]
fn a_gateway_that_stands_alone_says_what_needs_a_cluster() {
    let service = json!({"upstream": {"url": null, "service": {"name": "x", "port": 80}}});
    for (field, documents) in [
        ("spec.kubernetes", vec![cluster_authority()]),
        ("spec.upstream.service", vec![authority_named("corp"), server_with(service)]),
        ("spec.method", vec![client_in("team", json!({}))]),
    ] {
        let resolution = resolve_alone(&documents);
        assert_eq!(found(&resolution), [("ClusterNeeded", field.to_owned())]);
        assert!(servers_of(&resolution).is_empty() && !resolution.findings[0].finding.remedy.is_empty());
    }
}

#[test]
fn metadata_names_the_cluster_only_where_there_is_no_other_issuer() {
    let named = |servers: &[&str]| {
        let server = server_with(json!({"authorization": {"servers": servers}}));
        let resolution = resolve(&[authority_named("corp"), cluster_authority(), server]);
        let metadata: Value = serde_json::from_str(&servers_of(&resolution)[0].metadata).unwrap();
        metadata["authorization_servers"].clone()
    };
    assert_eq!(named(&["cluster"]), json!(["https://kubernetes.invalid"]));
    assert_eq!(named(&["cluster", "corp"]), json!(["https://corp.example.com"]));
}

/// RFC 9728 leaves the choice to the client, and stock clients take the first.
#[test]
fn metadata_names_first_who_logs_persons_in() {
    let local = authority("local", json!({"local": {}}));
    let named = |servers: &[&str]| {
        let server = server_with(json!({"authorization": {"servers": servers}}));
        let resolution = resolve(&[authority_named("corp"), authority_named("partner"), local.clone(), server]);
        let metadata: Value = serde_json::from_str(&servers_of(&resolution)[0].metadata).unwrap();
        let issuers = metadata["authorization_servers"].as_array().unwrap().clone();
        issuers.iter().map(|issuer| issuer.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = named(&["local", "partner", "corp"]);
    assert_eq!(all[..2], ["https://partner.example.com", "https://corp.example.com"]);
    assert_eq!(all[2..], named(&["local"]));
}

#[test]
fn whoever_asks_service_accounts_for_scopes_is_told_that_they_have_none() {
    let of = |baseline: Value| {
        let authorization = json!({"servers": ["cluster"], "scopes": {"baseline": baseline}});
        found(&resolve(&[cluster_authority(), server_with(json!({"authorization": authorization}))]))
    };
    assert_eq!(of(json!([])), []);
    assert_eq!(of(json!(["mcp:use"])), [("ScopesNotCarried", "spec.authorization.scopes.baseline".to_owned())]);
}

#[test]
fn a_service_is_called_by_its_name_in_the_cluster() {
    let with = |service: Value, credentials: Value| {
        let mut server = json!({"upstream": {"url": null, "service": {"name": "notes", "port": 8080}}});
        patch(&mut server, json!({"upstream": {"service": service, "credentials": credentials}}));
        let resolution = resolve(&[authority_named("corp"), server_with(server)]);
        let upstream = servers_of(&resolution).first().map(|server| server.upstream.clone());
        (found(&resolution), upstream)
    };
    let none = || json!({"none": {}});
    for (service, url) in [
        (json!({}), "http://notes.team.svc:8080/mcp"),
        (json!({"path": "/"}), "http://notes.team.svc:8080/"),
        (json!({"scheme": "https", "port": 443}), "https://notes.team.svc/mcp"),
        (json!({"scheme": "https", "path": "/a/b%20c"}), "https://notes.team.svc:8080/a/b%20c"),
    ] {
        let (findings, upstream) = with(service, none());
        assert_eq!((findings, upstream.unwrap().url.as_str()), (vec![], url));
    }
    for (field, service) in [
        ("name", json!({"name": "notes.evil.example/"})),
        ("name", json!({"name": "Notes"})),
        ("path", json!({"path": "mcp"})),
        ("path", json!({"path": "/../admin"})),
        ("path", json!({"path": "/mcp?x=1"})),
        ("path", json!({"path": "/mcp#x"})),
        ("path", json!({"path": "/a b"})),
    ] {
        let (findings, upstream) = with(service.clone(), none());
        assert_eq!(findings, [("UpstreamInvalid", format!("spec.upstream.service.{field}"))], "{service}");
        assert!(upstream.is_none());
    }
    let account = json!({"none": null, "serviceAccount": {}});
    let (findings, upstream) = with(json!({"scheme": "https"}), account.clone());
    assert_eq!(findings, []);
    assert!(matches!(upstream.unwrap().credentials, Credentials::ServiceAccount { .. }));
    let (findings, _) = with(json!({}), account);
    assert_eq!(findings, [("PlaintextUpstream", "spec.upstream.service.scheme".to_owned())]);
}

#[test]
fn a_url_does_not_name_services_and_pods_of_other_namespaces() {
    let with = |url: &str| found(&resolve(&[authority_named("corp"), server_with(json!({"upstream": {"url": url}}))]));
    for url in [
        "https://notes.other.svc/mcp",
        "https://notes.other.svc./mcp",
        "https://notes.OTHER.svc.cluster.local:8443/mcp",
        "https://notes-0.notes.other.svc.cluster.local./mcp",
        "https://10-0-0-1.other.pod.cluster.local/mcp",
    ] {
        assert_eq!(with(url), [("UpstreamInvalid", "spec.upstream.url".to_owned())], "{url}");
    }
    for url in ["https://notes.team.svc/mcp", "https://svc.other.example/mcp", "https://a.b.svc.example/mcp"] {
        assert_eq!(with(url), [], "{url}");
    }
    // In a cluster whose DNS domain is another one, these are in that.
    let cluster = Cluster { dns_domain: "corp.local".into(), ..Cluster::presumed() };
    let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
    let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: Some(&cluster) };
    let with = |url: &str| {
        let documents = [authority_named("corp"), server_with(json!({"upstream": {"url": url}}))];
        found(&resolved(&documents, &settings, &Accepted::default()))
    };
    for url in [
        "https://notes.other.svc/mcp",
        "https://notes.other.svc.corp.local/mcp",
        "https://notes-0.notes.other.SVC.corp.local.:8443/mcp",
        "https://10-0-0-1.other.pod.corp.local/mcp",
    ] {
        assert_eq!(with(url), [("UpstreamInvalid", "spec.upstream.url".to_owned())], "{url}");
    }
    for url in ["https://notes.team.svc.corp.local/mcp", "https://notes.other.svc.mycorp.local/mcp"] {
        assert_eq!(with(url), [], "{url}");
    }
}

#[test]
fn a_token_for_upstreams_goes_to_services_only_and_is_waited_for() {
    let account = json!({"upstream": {"credentials": {"none": null, "serviceAccount": {}}}});
    let resolution = resolve(&[authority_named("corp"), server_with(account)]);
    let field = "spec.upstream.credentials.serviceAccount".to_owned();
    assert_eq!(found(&resolution), [("CredentialsInvalid", field)]);

    let spec = json!({"upstream": {
        "url": null, "service": {"name": "n", "port": 1, "scheme": "https"},
        "credentials": {"none": null, "serviceAccount": {}}
    }});
    let Ok(Object::Server(object)) = object::read(&server_with(spec)) else { panic!() };
    let (public_url, cluster) = (PublicUrl::parse("https://mcp.example.com").unwrap(), Cluster::presumed());
    let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: Some(&cluster) };
    let corp = Authority::clone(authorities_of(&resolve(&[authority_named("corp")]))[0]);
    let mut lookup = Lookup { authorities: [("corp", &corp)].into(), ..Lookup::default() };
    let waiting = server(&object, &settings, &lookup).unwrap();
    assert_eq!(waiting.warnings[0].reason, Reason::UpstreamTokenMissing);
    assert!(matches!(waiting.object.state, crate::generated::server::State::Unserved { .. }));
    lookup.upstream_tokens.insert(("team", "s"), Sensitive::new("of-this-server"));
    let served = server(&object, &settings, &lookup).unwrap();
    assert_eq!(served.object.state, crate::generated::server::State::Enabled);
    let Credentials::ServiceAccount { token } = served.object.upstream.credentials else { panic!() };
    assert_eq!(token.expose(), "of-this-server");
}

/// Resolves a client beside what a folder holds.
fn given(spec: Value, namespace: &str, documents: &[Value]) -> Result<Resolved<Client>, Findings> {
    let resolution = resolve(documents);
    let Ok(Object::Client(object)) = object::read(&client_in(namespace, spec)) else { panic!() };
    let (public_url, cluster) = (PublicUrl::parse("https://mcp.example.com").unwrap(), Cluster::presumed());
    let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: Some(&cluster) };
    let authorities = authorities_of(&resolution).into_iter().map(|a| (a.id.name.as_str(), a)).collect();
    let servers = servers_of(&resolution).into_iter();
    let resolved = servers.map(|s| ((s.id.namespace.as_str(), s.id.name.as_str()), s)).collect();
    let lookup = Lookup { authorities, resolved, ..Lookup::default() };
    client(&McpClient::clone(&object), &settings, &lookup).map(|client| match client.object {
        ClientKind::Token(object) => Resolved { object: *object, warnings: client.warnings },
        ClientKind::Registered(client) => panic!("{client:?}"),
    })
}

fn world() -> [Value; 3] {
    let scopes = json!({"servers": ["local"], "scopes": {"baseline": ["mcp:use"]}});
    [
        authority_named("corp"),
        authority("local", json!({"local": {}})),
        server_with(json!({"path": "/team/notes", "authorization": scopes})),
    ]
}

#[test]
fn a_client_is_given_a_token_for_servers_of_its_namespace() {
    let resolved = given(json!({"token": {"groups": ["b", "a"], "scopes": ["x"]}}), "team", &world()).unwrap();
    assert_eq!(resolved.warnings, []);
    let client = resolved.object;
    assert_eq!((&*client.client_id, &*client.secret_name), ("team/c/01234567", "c-token"));
    assert_eq!((client.lifetime_seconds, client.valid_after, client.hindrance), (28_800, 0, None));
    let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        client.grant,
        Grant {
            authority: "local".into(),
            subject: "ana".into(),
            groups: strings(&["a", "b"]),
            scopes: strings(&["mcp:use", "x"]),
            audiences: strings(&["https://mcp.example.com/team/notes"]),
        }
    );
    let settled = json!({"validAfter": "1970-01-01T00:01:00Z", "token": {"lifetime": "24h", "secretName": "mine"}});
    let client = given(settled, "team", &world()).unwrap().object;
    assert_eq!((client.valid_after, client.lifetime_seconds, &*client.secret_name), (60, 86_400, "mine"));
}

#[test]
fn a_client_reaches_no_other_namespace_unless_it_is_the_systems() {
    let foreign = |audience: &str| json!({"token": {"servers": null, "audiences": [audience]}});
    for (audience, own) in [
        ("https://mcp.example.com/team/notes", true),
        ("https://mcp.example.com/team2/notes", false),
        ("https://mcp.example.com/other/notes", false),
        ("https://mcp.example.com/team", false),
        ("https://evil.example/team/notes", false),
        ("api://shared", false),
    ] {
        let team = given(foreign(audience), "team", &world());
        assert_eq!(team.is_ok(), own, "{audience}");
        let reasons: Vec<_> = team.err().into_iter().flatten().map(|finding| finding.reason).collect();
        assert!(own || reasons == [Reason::AudienceForeign], "{audience} {reasons:?}");
        assert!(given(foreign(audience), "sys", &world()).is_ok(), "{audience}");
    }
}

#[test]
fn what_hinders_a_clients_token_is_named() {
    let reasons = |spec: Value| {
        let resolved = given(spec, "team", &world()).unwrap();
        let warnings: Vec<_> = resolved.warnings.iter().map(|warning| warning.reason.as_str()).collect();
        (warnings, resolved.object.hindrance.map(|finding| finding.reason.as_str()))
    };
    assert_eq!(reasons(json!({"token": {"servers": ["s", "x"]}})), (vec!["ServerNotFound"], None));
    let (nowhere, why) = reasons(json!({"token": {"servers": ["x"]}}));
    assert_eq!((nowhere, why), (vec!["ServerNotFound"], Some("ServerNotFound")));
    let (other, why) = reasons(json!({"authorizationServer": "corp"}));
    assert_eq!((other, why), (vec!["AuthorityNotTrusted", "AuthorityNotLocal"], Some("AuthorityNotLocal")));
    let (none, why) = reasons(json!({"authorizationServer": "nobody"}));
    assert_eq!((none, why), (vec!["AuthorityNotTrusted", "AuthorityNotFound"], Some("AuthorityNotFound")));
}

#[test]
fn what_is_wrong_in_a_client_is_named_where_it_stands() {
    for (reason, field, spec) in [
        ("ChoiceInvalid", "spec.registration", json!({"registration": {}})),
        ("ChoiceInvalid", "spec.token", json!({"method": null, "registration": {}})),
        ("ChoiceInvalid", "spec.token", json!({"token": null})),
        ("ChoiceInvalid", "spec.token", json!({"token": {"servers": null}})),
        ("BoundsExceeded", "spec.token.lifetime", json!({"token": {"lifetime": "9m"}})),
        ("BoundsExceeded", "spec.token.lifetime", json!({"token": {"lifetime": "2161h"}})),
        ("DurationInvalid", "spec.token.lifetime", json!({"token": {"lifetime": "8 h"}})),
        ("ValueInvalid", "spec.token.subject", json!({"token": {"subject": "a\nb"}})),
        ("ScopeInvalid", "spec.token.scopes[0]", json!({"token": {"scopes": ["a b"]}})),
        ("ValueInvalid", "spec.token.secretName", json!({"token": {"secretName": "No"}})),
        ("TimeInvalid", "spec.validAfter", json!({"validAfter": "yesterday"})),
    ] {
        let findings = given(spec.clone(), "team", &world()).unwrap_err();
        let found: Vec<_> = findings.iter().map(|f| (f.reason.as_str(), f.field.to_string())).collect();
        assert_eq!(found, [(reason, field.to_owned())], "{spec}");
    }
}

#[test]
fn a_grant_covers_what_says_no_more() {
    let grant = |groups: &[&str], audiences: &[&str]| Grant {
        authority: "local".into(),
        subject: "ana".into(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        scopes: vec![],
        audiences: audiences.iter().map(|a| (*a).to_owned()).collect(),
    };
    let earlier = grant(&["a"], &["u:1"]);
    assert!(grant(&["a", "b"], &["u:1", "u:2"]).covers(&earlier));
    assert!(!grant(&[], &["u:1"]).covers(&earlier));
    assert!(!grant(&["a"], &["u:2"]).covers(&earlier));
    assert!(!Grant { subject: "bob".into(), ..earlier.clone() }.covers(&earlier));
    assert!(!Grant { authority: "other".into(), ..earlier.clone() }.covers(&earlier));
}

fn ruled(effect: &str, authority: &str, principal: Value) -> Resolution {
    let mut documents = world().to_vec();
    let mut policy = policy_with(effect, json!({"principals": [principal]}));
    patch(&mut policy, json!({"spec": {"authority": authority}}));
    documents.extend([cluster_authority(), client_in("team", json!({})), policy]);
    resolve(&documents)
}

#[test]
fn service_accounts_are_principals_of_the_cluster_only() {
    let bot = json!({"serviceAccount": {"namespace": "ci", "name": "bot"}, "groups": ["system:serviceaccounts:ci"]});
    let resolution = ruled("Allow", "cluster", bot.clone());
    assert_eq!(found(&resolution), []);
    let account = Some(ServiceAccount { namespace: "ci".into(), name: "bot".into() });
    assert_eq!(principals_of(&resolution)[0].service_account, account);
    let elsewhere = found(&ruled("Allow", "corp", bot));
    assert_eq!(elsewhere, [("ServiceAccountUnknown", "spec.rules[0].principals[0].serviceAccount".to_owned())]);
}

#[test]
fn clients_are_named_by_their_name_and_a_missing_one_never_widens() {
    let via = |effect: &str, authority: &str, names: Value| {
        let resolution = ruled(effect, authority, json!({"mcpClients": names}));
        let entry = principals_of(&resolution)[0].clone();
        let warned = found(&resolution).iter().any(|(reason, _)| *reason == "ClientNotFound");
        let policy = std::sync::Arc::new(Policy::clone(policies_of(&resolution)[0]));
        assert!(crate::policy::rule::compile(policy).is_ok());
        (entry.any, entry.via, warned)
    };
    let known = "team/c/01234567".to_owned();
    assert_eq!(via("Allow", "local", json!(["c"])), (false, vec![known.clone()], false));
    let missing = "\u{7f}McpClient team/x".to_owned();
    assert_eq!(via("Allow", "local", json!(["c", "x"])), (false, vec![known.clone(), missing], true));
    assert_eq!(via("Deny", "local", json!(["c"])), (false, vec![known], false));
    assert_eq!(via("Deny", "local", json!(["c", "x"])), (true, vec![], true));
    for (authority, names) in [("local", json!(["x"])), ("corp", json!(["c"]))] {
        let (any, ids, warned) = via("Allow", authority, names);
        assert!(!any && warned && ids.iter().all(|id| id.contains('\u{7f}')) && ids.len() == 1, "{ids:?}");
    }
}
