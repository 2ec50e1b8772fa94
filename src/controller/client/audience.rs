//! What is said of the audience of a client's tokens, and read again from what was said: the status is the only memory of it, so
//! that a new leader asks for no token that the one before has asked for.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::next::time;
use crate::api::v1alpha1::McpClientStatus;
use crate::controller::conditions::{AUDIENCE_VERIFIED, NO_PROBE, PENDING, RESOURCE_UNKNOWN, Said, Truth};
use crate::controller::registrations::Audiences;
use crate::registration::audience::{Known, Target, Verdict, remedy};
use crate::registration::{Desired, Method, Profile};

/// So many servers are named.
const MOST_NAMED: usize = 10;
/// The longest detail that is kept.
const LONGEST_DETAIL: usize = 1024;

/// What was learned before at this issuer.
pub(super) fn before(status: &McpClientStatus, issuer: &str) -> Vec<Known> {
    let here = status.registration.iter().filter(|registration| registration.issuer == issuer);
    let told = here.flat_map(|registration| &registration.audiences);
    told.filter_map(|one| {
        Some(Known {
            server: one.server.clone(),
            of: one.of.clone(),
            at: one.checked_at.parse::<Timestamp>().ok()?.as_second(),
            verdict: Verdict::of(&one.result)?,
            detail: one.detail.clone().unwrap_or_default(),
        })
    })
    .collect()
}

/// As the status says it.
pub(super) fn member(known: &[Known]) -> Value {
    let one = |one: &Known| {
        let mut said = json!({
            "server": one.server, "result": one.verdict.reason(), "checkedAt": time(one.at), "of": one.of,
        });
        if !one.detail.is_empty() {
            said["detail"] = json!(one.detail.chars().take(LONGEST_DETAIL).collect::<String>());
        }
        said
    };
    Value::Array(known.iter().map(one).collect())
}

/// `AudienceVerified`; `None` of a client that is for no server which takes its issuer's tokens.
pub(super) fn said(
    targets: &[Target],
    desired: &Desired,
    method: Option<Method>,
    audiences: &Audiences,
) -> Option<Said> {
    targets.first()?;
    let said = |truth, reason: &str, message: String| Some(Said::new(AUDIENCE_VERIFIED, truth, reason, message));
    if !audiences.strange.is_empty() {
        let all = audiences.strange.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join("\n");
        let message = format!(
            "a person who logs in with it names the resource, and Keycloak does not know it: {all}\nRemedy: see that the \
             administrative client may manage clients; or make a client by hand whose id, and whose attribute resource_url, are \
             that URL, with all flows off"
        );
        return said(Truth::False, RESOURCE_UNKNOWN, message);
    }
    if !audiences.can_ask {
        return said(Truth::Unknown, NO_PROBE, by_hand(targets, desired));
    }
    let of = |target: &Target| audiences.known.iter().find(|one| one.server == target.server);
    let found = |truth: fn(Verdict) -> bool| -> Vec<(&Target, &Known)> {
        let known = targets.iter().filter_map(|target| Some((target, of(target)?)));
        known.filter(|(_, known)| truth(known.verdict)).collect()
    };
    let method = method.unwrap_or(Method::Preregistered);
    let in_words = |all: &[(&Target, &Known)]| {
        let mut lines: Vec<String> =
            all.iter().take(MOST_NAMED).map(|(target, known)| line(target, known, desired, method)).collect();
        if let Some(more) = all.len().checked_sub(MOST_NAMED).filter(|more| *more > 0) {
            lines.push(format!("and {more} more servers"));
        }
        lines.join("\n")
    };
    let wrong = found(|verdict| matches!(verdict, Verdict::Missing | Verdict::Refused));
    if let Some((_, first)) = wrong.first() {
        return said(Truth::False, first.verdict.reason(), in_words(&wrong));
    }
    let unknown = found(|verdict| matches!(verdict, Verdict::Opaque | Verdict::Unanswered));
    if let Some((_, first)) = unknown.first() {
        return said(Truth::Unknown, first.verdict.reason(), in_words(&unknown));
    }
    if targets.iter().any(|target| of(target).is_none()) {
        return said(Truth::Unknown, PENDING, "a token is asked for once it is registered".to_owned());
    }
    let names: Vec<&str> = targets.iter().take(MOST_NAMED).map(|target| target.server.as_str()).collect();
    let more = if targets.len() > MOST_NAMED { ", …" } else { "" };
    said(Truth::True, AUDIENCE_VERIFIED, format!("tokens of it are for {}{more}", names.join(", ")))
}

fn line(target: &Target, known: &Known, desired: &Desired, method: Method) -> String {
    let (server, detail) = (&target.server, &known.detail);
    let what = match known.verdict {
        Verdict::Verified => "a token is for it".to_owned(),
        Verdict::Missing => format!("a token has {detail}, and it accepts {}", target.accepted.join(", ")),
        Verdict::Refused => format!("there is no token for it: {detail}"),
        Verdict::Opaque => "a token is opaque, so nobody but its issuer knows what it is for".to_owned(),
        Verdict::Unanswered => format!("a token was asked for, and nobody knows what it would be for: {detail}"),
    };
    format!("{server}: {what}. Remedy: {}", remedy(known.verdict, desired.profile, method, target))
}

/// How its author sees what nobody here can.
fn by_hand(targets: &[Target], desired: &Desired) -> String {
    let uses = |grant: &str| desired.metadata.grant_types.iter().any(|one| one == grant);
    let why = if uses("client_credentials") {
        "what proves the client is not here, so no token can be asked for as it"
    } else {
        "a person has to log in before it gets a token, so none can be asked for as it"
    };
    let accepts: Vec<String> = targets
        .iter()
        .take(MOST_NAMED)
        .map(|target| format!("{} accepts {}", target.server, target.accepted.join(", ")))
        .collect();
    let trap = if desired.profile == Profile::Keycloak && uses("authorization_code") && !uses("refresh_token") {
        ". Keycloak answers 500 to a client without refresh tokens that names a resource: add refresh_token to grantTypes"
    } else {
        ""
    };
    format!(
        "{why}. To see for yourself, use it once and look at aud of its access token: {}. The gateway refuses others, and \
         portcullis audit query shows them as AudienceMismatch{trap}",
        accepts.join("; ")
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::{Object, object};
    use crate::resolve::{self, ClientKind, Lookup, PublicUrl, RegisteredClient, Settings};

    /// What is wanted of a client with this registration.
    fn desired(registration: Value) -> Desired {
        client(registration).desired.unwrap()
    }

    /// A client with this registration.
    pub(in crate::controller::client) fn client(registration: Value) -> RegisteredClient {
        let read = |kind: &str, metadata: Value, spec: Value| {
            let whole =
                json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec});
            object::read(&whole).unwrap()
        };
        let spec = json!({"issuer": "https://as.example", "allowedAudiences": ["https://aud"],
            "registration": {"methods": ["DCR"]}});
        let Object::AuthorizationServer(corp) = read("McpAuthorizationServer", json!({"name": "corp"}), spec) else {
            panic!()
        };
        let spec = json!({"authorizationServer": "corp", "method": "DCR", "registration": registration});
        let Object::Client(client) = read("McpClient", json!({"name": "c", "namespace": "team"}), spec) else {
            panic!()
        };
        let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
        let cluster = resolve::Cluster::presumed();
        let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: Some(&cluster) };
        let authority = resolve::authority(&corp, &settings, &Lookup::default()).unwrap().object;
        let registration = resolve::registration(&corp).unwrap().unwrap();
        let lookup = Lookup {
            authorities: [("corp", &authority)].into(),
            registrations: [("corp", &registration)].into(),
            ..Lookup::default()
        };
        match resolve::client(&client, &settings, &lookup).unwrap().object {
            ClientKind::Registered(client) => *client,
            ClientKind::Token(client) => panic!("{client:?}"),
        }
    }

    #[test]
    fn what_was_learned_is_not_unknown_because_nothing_can_be_looked_at() {
        let status: McpClientStatus = serde_json::from_value(json!({"registration": {
            "method": "DCR", "issuer": "https://as.example", "audiences": [
                {"server": "notes", "result": "AudienceVerified", "checkedAt": "2026-01-01T00:00:00Z", "of": "x"}]}}))
        .unwrap();
        let target = Target {
            server: "notes".to_owned(),
            resource: "https://mcp.example.com/team/notes".to_owned(),
            accepted: vec!["https://mcp.example.com/team/notes".to_owned()],
            scopes: Vec::new(),
        };
        let said = |issuer: &str, desired: &Desired| {
            let audiences = Audiences::learned(desired, None, before(&status, issuer));
            let said = super::said(std::slice::from_ref(&target), desired, Some(Method::Dcr), &audiences).unwrap();
            (said.truth, said.reason)
        };
        let agent = desired(json!({}));
        let verified = AUDIENCE_VERIFIED.to_owned();
        assert_eq!(said("https://as.example", &agent), (Truth::True, verified));
        assert_eq!(said("https://other.example", &agent), (Truth::Unknown, PENDING.to_owned()), "it was another's");
        // Of one that a person logs in for, nobody would ever ask.
        let login = desired(json!({"redirectUris": ["https://app.example/cb"]}));
        assert_eq!(said("https://other.example", &login), (Truth::Unknown, NO_PROBE.to_owned()));
    }
}
