//! Whether the tokens that a client gets are for the servers that it is for, learned by asking for one as it.
//!
//! Invariant: of a token nothing is kept but what it says it is for; it is used nowhere, and gone when it was read. It is asked for
//! again only if something changed that it depends on, or once what was learned has grown old.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::call::{Answer, Heard};
use super::desired::{Desired, Method, Profile};
use super::ledger::Ledger;
use super::probe::has_proof;
use super::profile::told;

use crate::oauth::token_request::{self, Access};
use crate::oauth::{RefusalKind, json};

/// What was found as it should be is looked at again after this (seconds).
const VERIFIED_SECONDS: i64 = 6 * 3600;
/// And anything else: whoever mends it waits for it (seconds).
const UNVERIFIED_SECONDS: i64 = 1800;
/// So many audiences of a token are told, and so much of each.
const MOST_TOLD: usize = 5;
const LONGEST_TOLD: usize = 200;

/// A server that a client is for, and what it wants of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The server's name, in the client's namespace.
    pub server: String,
    /// Its resource identifier (RFC 8707).
    pub resource: String,
    /// The audiences that it accepts, its resource identifier first.
    pub accepted: Vec<String>,
    /// The scopes that clients ask for at first.
    pub scopes: Vec<String>,
}

/// What was learned of tokens for a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The server's name.
    pub server: String,
    /// Of what: another word as soon as anything is another that tokens depend on.
    pub of: String,
    /// When (Unix seconds).
    pub at: i64,
    /// What.
    pub verdict: Verdict,
    /// More about it, in words.
    pub detail: String,
}

/// Whether a token is for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Verified,
    /// It is for something else; the detail says what.
    Missing,
    /// The authorization server gives none; the detail says why.
    Refused,
    /// It says nothing to anybody but its issuer.
    Opaque,
    /// Nobody knows: there was no answer; the detail says why.
    Unanswered,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Verified, Self::Missing, Self::Refused, Self::Opaque, Self::Unanswered];

    /// A stable word, as conditions have it.
    pub fn reason(self) -> &'static str {
        match self {
            Verdict::Verified => "AudienceVerified",
            Verdict::Missing => "AudienceMissing",
            Verdict::Refused => "TokenRefused",
            Verdict::Opaque => "TokenOpaque",
            Verdict::Unanswered => "TokenUnanswered",
        }
    }

    /// The verdict with this word.
    pub fn of(reason: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.reason() == reason)
    }
}

impl Target {
    /// What is asked for: what a client would.
    pub fn access(&self, profile: Profile) -> Access<'_> {
        let resources = match profile {
            Profile::Generic => std::slice::from_ref(&self.resource),
            // Keycloak answers 500 to a client that speaks for itself and names a resource, since it would keep that in the
            // refresh token, which such a client has none of.
            Profile::Keycloak => &[],
        };
        Access { resources, scopes: &self.scopes }
    }

    /// What its tokens depend on, in short.
    fn digest(&self, ledger: &Ledger) -> String {
        let current = ledger.current.as_ref();
        let client = current.map(|current| (&current.client_id, &current.digest, current.updated_at));
        let text = json!([ledger.issuer, client, self.resource, self.accepted, self.scopes]).to_string();
        let hash = digest(&SHA256, text.as_bytes());
        hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whether it gets tokens without anybody who logs in.
pub fn speaks_for_itself(desired: &Desired) -> bool {
    desired.metadata.grant_types.iter().any(|grant| grant == "client_credentials")
}

/// Whether a token can be asked for as the client: it speaks for itself, and what proves it is here.
pub fn can_ask(desired: &Desired, ledger: &Ledger) -> bool {
    speaks_for_itself(desired) && ledger.current.as_ref().is_some_and(|current| has_proof(ledger, current))
}

/// What is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due<'t> {
    /// For which server a token is to be asked for now.
    pub now: Option<&'t Target>,
    /// When there is another one to be asked for (Unix seconds).
    pub next: i64,
}

/// What is to be asked, by what is known. What does not count any more is taken out of that.
pub fn due<'t>(targets: &'t [Target], ledger: &Ledger, known: &mut Vec<Known>, now: i64) -> Due<'t> {
    let is_of = |one: &Known, target: &Target| one.server == target.server && one.of == target.digest(ledger);
    known.retain(|one| targets.iter().any(|target| is_of(one, target)));
    let until = |one: &Known| {
        let seconds = if one.verdict == Verdict::Verified { VERIFIED_SECONDS } else { UNVERIFIED_SECONDS };
        // A clock may be set back.
        if one.at > now { now } else { one.at.saturating_add(seconds) }
    };
    let mut waiting: Vec<(i64, &Target)> = targets
        .iter()
        .map(|target| (known.iter().find(|one| is_of(one, target)).map_or(i64::MIN, until), target))
        .collect();
    waiting.sort_by_key(|(at, _)| *at);
    let is_over = |at: i64| at <= now;
    let first = waiting.first().filter(|(at, _)| is_over(*at)).map(|(_, target)| *target);
    let next = waiting.get(usize::from(first.is_some())).map_or(i64::MAX, |(at, _)| *at);
    let next = if first.is_some() { next.min(now.saturating_add(UNVERIFIED_SECONDS)) } else { next };
    Due { now: first, next }
}

/// Takes in what came of asking for a token for `target`.
pub fn learn(known: &mut Vec<Known>, target: &Target, ledger: &Ledger, heard: Result<&Answer, &Heard>, now: i64) {
    let (verdict, detail) = match heard {
        Ok(answer) => judge(answer, &target.accepted, now),
        Err(Heard::Unsent(detail) | Heard::Lacking(detail) | Heard::Unknown(detail) | Heard::Refused(detail)) => {
            (Verdict::Unanswered, detail.clone())
        }
        Err(_) => (Verdict::Unanswered, "it was not asked".to_owned()),
    };
    known.retain(|one| one.server != target.server);
    known.push(Known { server: target.server.clone(), of: target.digest(ledger), at: now, verdict, detail });
    known.sort_by(|one, other| one.server.cmp(&other.server));
}

fn judge(answer: &Answer, accepted: &[String], now: i64) -> (Verdict, String) {
    if answer.status != 200 {
        let sent: Vec<_> = answer.sent.iter().collect();
        let refusal = token_request::refusal(answer.status, &answer.body, &sent);
        // Whether the client is believed is told elsewhere.
        let is_final = matches!(answer.status, 400 | 403) && refusal.kind == RefusalKind::Terminal;
        let verdict = if is_final { Verdict::Refused } else { Verdict::Unanswered };
        return (verdict, told(&refusal, answer.status));
    }
    let token = match token_request::parse_token(&answer.body, now) {
        Ok(token) => token.access_token,
        Err(error) => return (Verdict::Unanswered, error.to_string()),
    };
    match audiences(token.expose()) {
        None => (Verdict::Opaque, String::new()),
        Some(all) if all.iter().any(|one| accepted.contains(one)) => (Verdict::Verified, String::new()),
        Some(all) if all.is_empty() => (Verdict::Missing, "no aud at all".to_owned()),
        Some(all) => (Verdict::Missing, format!("aud {}", shown(&all))),
    }
}

/// What a token says that it is for (RFC 7519 section 4.1.3), unverified: it came from its issuer just now. `None`: it is no
/// JWT that anybody can read.
fn audiences(token: &str) -> Option<Vec<String>> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let claims = json::object(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    Some(match claims.get("aud") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    })
}

/// As people are told it: a stranger's texts, on one line.
fn shown(all: &[String]) -> String {
    let plain = |text: &String| text.chars().filter(char::is_ascii_graphic).take(LONGEST_TOLD).collect::<String>();
    let mut told: Vec<String> = all.iter().take(MOST_TOLD).map(plain).collect();
    if let Some(more) = all.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
        told.push(format!("and {more} more"));
    }
    told.join(", ")
}

/// How the tokens of a client come to be for a server, where they are not.
pub fn remedy(verdict: Verdict, profile: Profile, method: Method, target: &Target) -> String {
    let resource = &target.resource;
    let scopes = if target.scopes.is_empty() {
        String::new()
    } else {
        format!(", with the scopes {} that the McpServer has as its baseline", target.scopes.join(" "))
    };
    match (verdict, profile) {
        (Verdict::Verified, _) => String::new(),
        (Verdict::Missing, Profile::Keycloak) if method == Method::Admin => format!(
            "the client has an audience mapper for {resource}, which is put back where it is missing: see whether something else \
             in the realm takes it out"
        ),
        (Verdict::Missing, Profile::Keycloak) => format!(
            "add a mapper of type Audience to the client, or to a client scope that it has, with Included Custom Audience \
             {resource} and Add to access token on; or let it be registered by the method Admin, which does that"
        ),
        (Verdict::Missing, Profile::Generic) => format!(
            "configure the authorization server so that a token for the resource {resource} (RFC 8707) has that as its aud; or, \
             if it has another name for this server alone, list that name in allowedAudiences of the McpAuthorizationServer and \
             in authorization.audiences of the McpServer"
        ),
        (Verdict::Refused, Profile::Keycloak) => {
            format!("see whether the client may use client_credentials{scopes}")
        }
        (Verdict::Refused, Profile::Generic) => format!(
            "let the authorization server know the resource {resource}, and let the client ask for tokens for it{scopes}"
        ),
        (Verdict::Opaque, _) => format!(
            "configure the authorization server so that tokens for {resource} are JWTs (RFC 9068): the gateway takes no others"
        ),
        (Verdict::Unanswered, _) => "it is asked again".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::Ledger;
    use crate::registration::tests::desired;
    use crate::sensitive::Sensitive;

    const NOW: i64 = 1_800_000_000;

    fn target(server: &str) -> Target {
        let resource = format!("https://gw.example/team/{server}");
        let accepted = vec![resource.clone(), "other-name".to_owned()];
        Target { server: server.to_owned(), resource, accepted, scopes: vec!["mcp:use".to_owned()] }
    }

    fn ledger() -> Ledger {
        Ledger::new(&desired(), "McpClient", Method::Dcr, "cluster")
    }

    fn answer(status: u16, body: &Value) -> Answer {
        let sent = vec![Sensitive::new("the-clients-secret-0123")];
        Answer { status, body: body.to_string().into_bytes(), retry_after: None, denies_token: false, sent }
    }

    fn token(claims: &Value) -> Answer {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let jwt = format!("{}.{}.c2ln", part(&json!({"alg": "ES256"})), part(claims));
        answer(200, &json!({"access_token": jwt, "token_type": "Bearer"}))
    }

    fn verdict(answer: &Answer) -> (Verdict, String) {
        let mut known = Vec::new();
        learn(&mut known, &target("notes"), &ledger(), Ok(answer), NOW);
        let [one] = known.as_slice() else { panic!("{known:?}") };
        (one.verdict, one.detail.clone())
    }

    #[test]
    fn a_token_is_for_a_server_by_exact_membership_alone() {
        let resource = "https://gw.example/team/notes";
        for aud in [json!(resource), json!(["account", resource]), json!("other-name"), json!([5, "other-name"])] {
            assert_eq!(verdict(&token(&json!({ "aud": aud }))), (Verdict::Verified, String::new()), "{aud}");
        }
        for aud in [json!(format!("{resource}/")), json!("https://gw.example/team/notes2"), json!(["account"])] {
            assert_eq!(verdict(&token(&json!({ "aud": aud }))).0, Verdict::Missing, "{aud}");
        }
        for claims in [json!({}), json!({"aud": []}), json!({"aud": {"a": resource}}), json!({"aud": null})] {
            assert_eq!(verdict(&token(&claims)), (Verdict::Missing, "no aud at all".to_owned()), "{claims}");
        }
    }

    #[test]
    fn what_is_told_of_a_strangers_audiences_is_short_and_plain() {
        let many: Vec<String> = (0..30).map(|i| format!("a{i}\n\u{202e}{}", "x".repeat(300))).collect();
        let (verdict, detail) = verdict(&token(&json!({ "aud": many })));
        assert_eq!(verdict, Verdict::Missing);
        assert!(detail.len() < 1100 && detail.ends_with("and 25 more"), "{detail}");
        assert!(detail.chars().all(|c| c.is_ascii_graphic() || c == ' '), "{detail}");
    }

    #[test]
    fn what_is_no_jwt_is_opaque() {
        for text in ["opaque", "a.b", "a.b.c", "..", "a.e30.c.d", "a.b.c.d.e", "a.W10.c"] {
            let opaque = answer(200, &json!({"access_token": text, "token_type": "Bearer"}));
            assert_eq!(verdict(&opaque).0, Verdict::Opaque, "{text}");
        }
    }

    #[test]
    fn a_refusal_is_told_from_no_answer_and_nothing_of_what_was_sent_is() {
        let refused = |status, error: &str| {
            let body = json!({"error": error, "error_description": "because of the-clients-secret-0123"});
            verdict(&answer(status, &body))
        };
        for error in ["invalid_target", "invalid_scope", "unauthorized_client"] {
            let (verdict, detail) = refused(400, error);
            assert_eq!(verdict, Verdict::Refused, "{error}");
            assert!(detail.contains(error) && !detail.contains("the-clients-secret"), "{detail}");
        }
        for (status, error) in
            [(401, "invalid_client"), (401, "unauthorized_client"), (500, "server_error"), (429, "x")]
        {
            assert_eq!(refused(status, error).0, Verdict::Unanswered, "{status} {error}");
        }
        for body in [json!({}), json!({"access_token": "t", "token_type": "DPoP"})] {
            assert_eq!(verdict(&answer(200, &body)).0, Verdict::Unanswered, "{body}");
        }
    }

    #[test]
    fn one_token_is_asked_for_at_a_time_and_again_only_if_something_changed_or_is_old() {
        let (mut ledger, mut known) = (ledger(), Vec::new());
        let mut targets = vec![target("files"), target("notes")];
        let good = token(&json!({"aud": "other-name"}));
        for server in ["files", "notes"] {
            let due = due(&targets, &ledger, &mut known, NOW);
            assert_eq!(due.now.map(|target| target.server.as_str()), Some(server));
            learn(&mut known, due.now.unwrap(), &ledger, Ok(&good), NOW);
        }
        let asks = |targets: &[Target], ledger: &Ledger, known: &[Known], now| {
            due(targets, ledger, &mut known.to_vec(), now).now.map(|target| target.server.clone())
        };
        let rest = due(&targets, &ledger, &mut known, NOW);
        assert_eq!(rest, Due { now: None, next: NOW + VERIFIED_SECONDS });
        assert_eq!(asks(&targets, &ledger, &known, NOW + VERIFIED_SECONDS - 1), None);
        assert_eq!(asks(&targets, &ledger, &known, NOW + VERIFIED_SECONDS).as_deref(), Some("files"));
        assert_eq!(asks(&targets, &ledger, &known, NOW - 1).as_deref(), Some("files"), "the clock was set back");

        // What does not work is looked at sooner, and what changed at once.
        learn(&mut known, &targets[1], &ledger, Ok(&answer(400, &json!({"error": "invalid_target"}))), NOW);
        assert_eq!(due(&targets, &ledger, &mut known, NOW), Due { now: None, next: NOW + UNVERIFIED_SECONDS });
        targets[0].accepted.pop();
        assert_eq!(asks(&targets, &ledger, &known, NOW).as_deref(), Some("files"));
        targets.pop();
        let due_now = due(&targets, &ledger, &mut known, NOW);
        assert!(
            due_now.now.is_some() && known.is_empty(),
            "of a server that it is not for, nothing is kept: {known:?}"
        );
        learn(&mut known, &targets[0], &ledger, Ok(&good), NOW);
        ledger.issuer.push('2');
        assert_eq!(asks(&targets, &ledger, &known, NOW).as_deref(), Some("files"));
    }

    #[test]
    fn keycloak_is_not_told_the_resource() {
        let target = target("notes");
        assert_eq!(target.access(Profile::Generic).resources, std::slice::from_ref(&target.resource));
        assert!(target.access(Profile::Keycloak).resources.is_empty());
        assert_eq!(target.access(Profile::Keycloak).scopes, ["mcp:use"]);
    }

    #[test]
    fn each_verdict_has_a_word_and_a_remedy_that_names_the_resource() {
        for verdict in Verdict::ALL {
            assert_eq!(Verdict::of(verdict.reason()), Some(verdict));
            for profile in [Profile::Generic, Profile::Keycloak] {
                let remedy = remedy(verdict, profile, Method::Dcr, &target("notes"));
                let names = matches!(verdict, Verdict::Missing | Verdict::Opaque)
                    || (verdict, profile) == (Verdict::Refused, Profile::Generic);
                assert!(!names || remedy.contains("https://gw.example/team/notes"), "{remedy}");
            }
        }
        let by_admin = remedy(Verdict::Missing, Profile::Keycloak, Method::Admin, &target("notes"));
        assert!(!by_admin.contains("method Admin"), "{by_admin}");
    }
}
