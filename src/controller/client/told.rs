//! What is said of a client that is registered at an authorization server, made of what came of looking at it: never a credential.

use serde_json::{Value, json};

use super::audience;
use super::dereference::Raw;
use super::next::time;
use crate::api::Key;
use crate::api::v1alpha1::McpClientStatus;
use crate::controller::conditions::{
    self, ADOPTION_REFUSED, AS_GIVEN, CLIENT_DRIFTED, CREDENTIAL_EXPIRING, DOCUMENT_SERVED, ISSUER_CHANGED,
    LEFT_BEHIND, NOT_ACCEPTED, ORPHANED, REGISTERED, SECRET_CONFLICT, SECRET_FORBIDDEN, Said, Statement, Truth,
};
use crate::controller::proxies::Programming;
use crate::controller::registrations::{self, Audiences, ISSUER_ANNOTATION, Left, Outcome, Publication, Standing};
use crate::generated::ObjectId;
use crate::registration::desired::{Deletion, OnUnavailable};
use crate::registration::{Method, Trouble, What};
use crate::resolve::{Findings, RegisteredClient};

/// What there is to be said.
pub(super) struct Told<'t> {
    pub(super) warnings: &'t Findings,
    pub(super) last: McpClientStatus,
    pub(super) outcome: Option<Outcome>,
    /// Whether all that is left of it is in there.
    pub(super) tells_left: bool,
    pub(super) audiences: Audiences,
    /// The issuer at which it is registered, and the one that its McpAuthorizationServer has by now.
    pub(super) moved: Option<(String, String)>,
    pub(super) secret_name: Option<String>,
}

impl Told<'_> {
    pub(super) fn statement(&self, client: &RegisteredClient, account: (&str, &str), now: i64) -> Statement {
        let accepted = conditions::accepted(&[], self.warnings, "");
        let resolved = conditions::resolved_refs(accepted.truth == Truth::True, self.warnings);
        let registered = self.registered(client, account, &resolved);
        let mut statement = Statement::new(client.id.generation, vec![accepted, resolved, registered]);
        let audience = client.desired.as_ref().ok().zip(self.outcome.as_ref());
        let audience = audience
            .and_then(|(desired, outcome)| audience::said(&client.targets, desired, outcome.method, &self.audiences));
        for said in audience.into_iter().chain(self.troubles(&client.id, now)) {
            statement.beside(said);
        }
        self.with_members(statement)
    }

    fn registered(&self, client: &RegisteredClient, account: (&str, &str), resolved: &Said) -> Said {
        let not = |reason: &str, message: String| Said::new(REGISTERED, Truth::False, reason, message);
        if let Some((before, now)) = &self.moved {
            return not(ISSUER_CHANGED, changed(before, now));
        }
        let Some(outcome) = &self.outcome else {
            return Said { type_: REGISTERED, truth: Truth::False, ..resolved.clone() };
        };
        let id = &client.id;
        match (&outcome.publication, &outcome.trouble, &outcome.client) {
            (Publication::Foreign, ..) => {
                let message = "there is a Secret of that name that is not the client's, and it is left alone: delete it, \
                               or set spec.registration.secretName";
                not(SECRET_CONFLICT, message.to_owned())
            }
            (Publication::Forbidden, ..) => {
                let binding = conditions::role_binding("portcullis-token-writer", &id.namespace, account);
                not(SECRET_FORBIDDEN, format!("the controller may not write Secrets of this namespace; {binding}"))
            }
            // Nobody sees a new document late who can use the one before.
            (Publication::Written, ..) if outcome.unserved == Some(Programming::Waiting) => Said::new(
                REGISTERED,
                Truth::True,
                REGISTERED,
                "what changed of its document is on its way to the proxies",
            ),
            _ if outcome.unserved.is_some() => conditions::programming(REGISTERED, outcome.unserved.clone()),
            (_, Some(trouble), Some(client)) if trouble.what == What::Unbelieved => {
                not(trouble.what.reason(), unbelieved(&client.client_id, trouble, outcome.method))
            }
            (_, Some(trouble), _) => match self.works(client, outcome, trouble) {
                Some(reason) => {
                    let message = format!("not looked after just now: {}", in_words(trouble));
                    Said::new(REGISTERED, Truth::True, reason, message)
                }
                None => not(trouble.what.reason(), in_words(trouble)),
            },
            (Publication::Written, None, Some(client)) => {
                let (reason, message) = standing(client);
                Said::new(REGISTERED, Truth::True, reason, message)
            }
            _ => not(conditions::PENDING, "it is being registered".to_owned()),
        }
    }

    /// As what it works, if it does: what works goes on working while it cannot be looked after, and nobody has looked at its
    /// Secret meanwhile either.
    fn works(&self, client: &RegisteredClient, outcome: &Outcome, trouble: &Trouble) -> Option<String> {
        if trouble.what.is_lasting() {
            return None;
        }
        if let (Publication::Written, Some(client)) = (outcome.publication, &outcome.client) {
            return Some(standing(client).0.to_owned());
        }
        let issuer = &client.desired.as_ref().ok()?.issuer;
        let last = self.last.registration.as_ref().filter(|last| last.issuer == *issuer)?;
        let is_same = outcome.client.as_ref().is_none_or(|now| last.client_id.as_ref() == Some(&now.client_id));
        let said = self.last.conditions.iter().find(|one| one.type_ == REGISTERED)?;
        (is_same && said.status == Truth::True.as_str()).then(|| said.reason.clone())
    }

    /// What is wrong, or about to be: conditions that are there only while they hold.
    fn troubles(&self, id: &ObjectId, now: i64) -> Vec<Said> {
        let mut all = Vec::new();
        if let Some((before, now)) = &self.moved {
            all.push(Said::new(ISSUER_CHANGED, Truth::True, ISSUER_CHANGED, changed(before, now)));
        }
        let Some(outcome) = &self.outcome else {
            all.extend(self.left_before(&[]));
            return all;
        };
        if !outcome.drift.is_empty() {
            let message =
                format!("changed at the authorization server, and not reverted yet: {}", outcome.drift.join(", "));
            all.push(Said::new(CLIENT_DRIFTED, Truth::True, CLIENT_DRIFTED, message));
        }
        let secret = outcome.client.as_ref().and_then(|client| client.secret);
        // It is replaced after two thirds of its life; by now, that has not worked for a while.
        let late = |(since, expires): &(i64, i64)| now >= since.saturating_add(expires.saturating_sub(*since) / 6 * 5);
        if let Some((_, expires)) = secret.filter(late) {
            let message = format!("its client secret expires at {} and could not be replaced yet", time(expires));
            all.push(Said::new(CREDENTIAL_EXPIRING, Truth::True, CREDENTIAL_EXPIRING, message));
        }
        if let Some(why) = &outcome.adoption {
            all.push(Said::new(ADOPTION_REFUSED, Truth::True, ADOPTION_REFUSED, why.clone()));
        }
        all.extend(left_over(&outcome.left, id));
        if !self.tells_left {
            all.extend(self.left_before(&all));
        }
        all
    }

    /// What was said to be left, where nobody has looked since and `said` says nothing of it.
    fn left_before(&self, said: &[Said]) -> Vec<Said> {
        let known = still_left(&self.last);
        known.into_iter().filter(|one| said.iter().all(|other| other.type_ != one.type_)).collect()
    }

    fn with_members(&self, statement: Statement) -> Statement {
        let outcome = self.outcome.as_ref();
        let Some((outcome, client)) = outcome.and_then(|outcome| Some((outcome, outcome.client.as_ref()?))) else {
            return as_known(statement, &self.last);
        };
        // Another process may have asked.
        let last = self.last.registration.as_ref().filter(|last| last.client_id.as_ref() == Some(&client.client_id));
        let checked_at = client.checked_at.map(time).or_else(|| last.and_then(|last| last.checked_at.clone()));
        let mut registration = json!({
            "method": outcome.method.map(crate::registration::Method::as_str),
            "issuer": client.issuer,
            "clientId": client.client_id,
        });
        for (name, at) in [("registeredAt", client.registered_at.map(time)), ("checkedAt", checked_at)] {
            if let Some(at) = at {
                registration[name] = json!(at);
            }
        }
        if let Some(name) = &self.secret_name {
            registration["secretName"] = json!(name);
        }
        if let Some((_, expires)) = client.secret {
            registration["secretExpiresAt"] = json!(time(expires));
        }
        let substituted: Vec<Value> = client
            .substituted
            .iter()
            .map(|one| json!({"field": one.field, "wanted": one.wanted, "got": one.got}))
            .collect();
        if !substituted.is_empty() {
            registration["substituted"] = Value::Array(substituted);
        }
        if !self.audiences.known.is_empty() {
            registration["audiences"] = audience::member(&self.audiences.known);
        }
        statement.member("clientId", client.client_id.as_str()).member("registration", registration)
    }
}

/// What is known of a client that nothing is wrong with.
fn standing(client: &registrations::Client) -> (&'static str, String) {
    let (id, issuer) = (&client.client_id, &client.issuer);
    match client.standing {
        Standing::Known => (REGISTERED, String::new()),
        Standing::Served => (
            DOCUMENT_SERVED,
            format!("its document is served at {id}; {issuer} fetches it when it is first asked for it"),
        ),
        Standing::Given => {
            (AS_GIVEN, format!("its Secret holds what its author gives; nobody asked {issuer} whether it knows it"))
        }
    }
}

/// Why a client is not believed, as far as that can be told.
fn unbelieved(id: &str, trouble: &Trouble, method: Option<Method>) -> String {
    let remedy = match method {
        Some(Method::Cimd) => {
            format!("see whether it takes documents of this gateway, and can fetch {id} from where it runs")
        }
        _ => "correct clientId, or the Secret that clientSecretRef names; and see whether the client may use \
              client_credentials"
            .to_owned(),
    };
    format!("the authorization server does not believe client {id}: {}. {remedy}", trouble.detail)
}

fn changed(before: &str, now: &str) -> String {
    format!(
        "it is registered at {before}, and its McpAuthorizationServer names {now} by now: nothing is sent there. If that is \
         meant, annotate the McpClient with {ISSUER_ANNOTATION}={now}"
    )
}

fn in_words(trouble: &Trouble) -> String {
    match trouble.during {
        Some(during) => format!("{}: {}", during.as_str().replace('_', " "), trouble.detail),
        None => trouble.detail.clone(),
    }
}

/// What was said to be left, said again.
pub(super) fn still_left(last: &McpClientStatus) -> Vec<Said> {
    let said = |type_| last.conditions.iter().find(|one| one.type_ == type_);
    let again = |type_| said(type_).and_then(|one| conditions::said_again(type_, one));
    [LEFT_BEHIND, ORPHANED].into_iter().filter_map(again).collect()
}

/// What is left where it is not to be: conditions that are there only while they hold.
pub(super) fn left_over(left: &Left, id: &ObjectId) -> Vec<Said> {
    let mut all = Vec::new();
    if let Some((issuer, trouble)) = &left.behind {
        let message =
            format!("it is registered at {issuer} as well, and could not be removed there yet: {}", in_words(trouble));
        all.push(Said::new(LEFT_BEHIND, Truth::True, trouble.what.reason(), message));
    }
    if left.losses > 0 {
        let message = format!(
            "{} of its clients may be left at the authorization server, and cannot be removed from here: {}. Remove them \
             there, then run: portcullis clients forget {namespace}/{name}",
            left.losses,
            left.lost.join(", "),
            namespace = id.namespace,
            name = id.name
        );
        all.push(Said::new(ORPHANED, Truth::True, ORPHANED, message));
    }
    all
}

/// Why an object that is being deleted is still there.
pub(super) fn leaving(
    raw: &Raw,
    (since, deletion): (i64, Option<Deletion>),
    issuer: &str,
    trouble: &Trouble,
) -> Statement {
    let Key { namespace, name, .. } = &raw.source.key;
    let end = deletion.filter(|deletion| deletion.on_unavailable == OnUnavailable::Orphan).map_or_else(
        || "it stays until that is done".to_owned(),
        |deletion| {
            let end = time(since.saturating_add(i64::from(deletion.timeout_seconds)));
            format!("it goes at {end} all the same, and what is left is kept on record")
        },
    );
    let message = format!(
        "it is being deleted, and could not be removed at {issuer} yet: {}; {end}. To give up what is there, run: portcullis \
         clients abandon {namespace}/{name}",
        in_words(trouble)
    );
    let known = conditions::conditions(&raw.source.status);
    let again = |type_| known.iter().find(|one| one.type_ == type_).and_then(|one| conditions::said_again(type_, one));
    let mut all: Vec<Said> = [conditions::ACCEPTED, conditions::RESOLVED_REFS].into_iter().filter_map(again).collect();
    all.push(Said::new(REGISTERED, Truth::False, trouble.what.reason(), message));
    as_known(Statement::new(raw.source.id.generation, all), &raw.source.client_status())
}

/// What is known of a client is not unknown because nobody could be asked.
fn as_known(mut statement: Statement, last: &McpClientStatus) -> Statement {
    let last = [("clientId", json!(last.client_id)), ("registration", json!(last.registration))];
    for (name, value) in last.into_iter().filter(|(_, value)| !value.is_null()) {
        statement = statement.member(name, value);
    }
    statement
}

/// What is said of one that is not accepted.
pub(super) fn refused(errors: &Findings, generation: i64, last: &McpClientStatus) -> Statement {
    let accepted = conditions::accepted(errors, &[], "nothing is changed at its authorization server.");
    let resolved = conditions::resolved_refs(false, &[]);
    let registered = Said::new(REGISTERED, Truth::Unknown, NOT_ACCEPTED, "it is registered once it is accepted");
    let mut statement = Statement::new(generation, vec![accepted, resolved, registered]);
    still_left(last).into_iter().for_each(|said| statement.beside(said));
    as_known(statement, last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::client::audience::tests::client;

    /// Nothing is registered, and nothing can be.
    fn hindered() -> Outcome {
        let trouble = Trouble { what: What::NoEndpoint, during: None, detail: "no".into(), retry_after: None };
        Outcome { again: 0, trouble: Some(trouble), ..Outcome::nothing() }
    }

    #[test]
    fn what_was_left_is_told_until_somebody_has_looked_and_it_is_gone() {
        let condition = |type_: &str| {
            json!({"type": type_, "status": "True", "reason": "R", "message": "m", "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let status = json!({"conditions": [condition(LEFT_BEHIND), condition(ORPHANED)]});
        let client = client(json!({}));
        let told = |tells_left: bool, left: Left| {
            let told = Told {
                warnings: &Findings::new(),
                last: serde_json::from_value(status.clone()).unwrap(),
                outcome: Some(Outcome { left, ..hindered() }),
                tells_left,
                audiences: Audiences::default(),
                moved: None,
                secret_name: None,
            };
            let statement = told.statement(&client, ("sys", "controller"), 0);
            [LEFT_BEHIND, ORPHANED].map(|type_| statement.said(type_).map(|said| said.reason.clone()))
        };
        let before = Some("R".to_owned());
        assert_eq!(told(false, Left::default()), [before.clone(), before.clone()], "nobody has looked");
        assert_eq!(told(true, Left::default()), [None, None]);
        let lost = || Left { lost: vec!["c".into()], losses: 1, behind: None };
        let now = Some(ORPHANED.to_owned());
        assert_eq!(told(true, lost()), [None, now.clone()]);
        assert_eq!(told(false, lost()), [before, now]);
    }
}
