//! A client that is registered at an authorization server: one look, and what is said of it.
//!
//! Invariant: the finalizer is there before anything is registered that would have to be taken back, and goes as soon as that
//! is taken back, is given up, or has been waited for long enough; a status speaks of credentials only once they are written.

use std::time::Duration;

use kube::Api;
use kube::api::{DynamicObject, PatchParams};
use serde_json::{Value, json};

use super::audience;
use super::dereference::Raw;
use super::next::time;
use super::validate::validate;
use crate::api::v1alpha1::McpClientStatus;
use crate::api::{GROUP, Key, VERSION};
use crate::cluster;
use crate::controller::conditions::{
    self, ADOPTION_REFUSED, AS_GIVEN, CLIENT_DRIFTED, CREDENTIAL_EXPIRING, DOCUMENT_SERVED, ISSUER_CHANGED,
    LEFT_BEHIND, NOT_ACCEPTED, ORPHANED, REGISTERED, SECRET_CONFLICT, SECRET_FORBIDDEN, Said, Statement, Truth,
};
use crate::controller::error::{ApiError, Failure, code};
use crate::controller::proxies::Programming;
use crate::controller::queue::{Depth, Subject};
use crate::controller::registrations::{
    self, ABANDON, ADOPT, Audiences, FORGET, ISSUER_ANNOTATION, Left, Outcome, Publication, Standing, Waits, Words,
};
use crate::controller::store::Source;
use crate::controller::{Context, owned_secret, speak};
use crate::generated::ObjectId;
use crate::issuer::{Clock as _, SystemClock};
use crate::registration::desired::{Deletion, DeletionPolicy, OnUnavailable};
use crate::registration::{Desired, Method, Trouble, What};
use crate::resolve::{ClientKind, Findings, RegisteredClient};

/// What keeps an object until its registration is taken back.
pub(in crate::controller) const FINALIZER: &str = "portcullis.dev/registration";
/// Finalizers are applied by a name of their own, so that nothing else of the object is.
const FINALIZER_MANAGER: &str = "portcullis-registration";
/// How long credentials are taken to be as they were written.
const REREAD_SECONDS: i64 = 60;

/// Whether an authorization server is asked for what a client says, or for what is left of what it said.
pub(super) fn is_asked_for(source: &Source) -> bool {
    let says = source.client().is_some_and(|client| client.spec.registration.is_some());
    says || (source.ending.is_some() && source.has_finalizer(FINALIZER))
}

/// Whether something is left of what it was registered as, though it is not registered any more.
pub(super) fn has_left(context: &Context, source: &Source) -> bool {
    source.has_finalizer(FINALIZER) || registrations::has_any(context, &source.id.uid)
}

/// Looks at a client that is registered. Answers when to look again.
pub(super) async fn look(
    context: &Context,
    key: &Key,
    raw: &Raw,
    client: &RegisteredClient,
    warnings: &Findings,
) -> Result<Option<Duration>, Failure> {
    if !context.registrations.are_known() {
        // Nothing better is known yet than what is said already.
        return Ok(Some(Duration::from_secs(1)));
    }
    let now = SystemClock::default().unix();
    let account = (context.installation.system_namespace.as_str(), context.installation.service_account.as_str());
    let warnings = &conditions::with_role_binding(warnings.clone(), &client.id.namespace, account);
    let mut said = Told {
        warnings,
        last: raw.source.client_status(),
        outcome: None,
        audiences: Audiences::default(),
        moved: None,
        secret_name: None,
    };
    let again = match &client.desired {
        Err(_) => now.saturating_add(REREAD_SECONDS),
        Ok(desired) => {
            let annotation = |name: &str| raw.source.annotation(name);
            match registrations::moved(context, desired, annotation(ISSUER_ANNOTATION).as_deref()) {
                Some(before) => {
                    said.moved = Some((before, desired.issuer.clone()));
                    now.saturating_add(REREAD_SECONDS)
                }
                None => {
                    let outcome = registered(context, key, raw, client, desired).await?;
                    let earlier = said.last.registration.as_ref().and_then(|last| last.secret_name.clone());
                    said.secret_name = settle_secret(context, desired, &outcome, earlier).await?;
                    said.audiences = audiences(context, client, desired, &outcome, &said.last).await?;
                    let again = outcome.again.min(said.audiences.again).min(now.saturating_add(REREAD_SECONDS));
                    said.outcome = Some(outcome);
                    again
                }
            }
        }
    };
    speak::speak(context, key, &client.id.uid, &said.statement(client, account, now)).await?;
    Ok(Some(until(again, now)))
}

/// How long it is to this time, and never no time at all.
fn until(at: i64, now: i64) -> Duration {
    Duration::from_secs(u64::try_from(at.saturating_sub(now)).unwrap_or_default().max(1))
}

async fn registered(
    context: &Context,
    key: &Key,
    raw: &Raw,
    client: &RegisteredClient,
    desired: &Desired,
) -> Result<Outcome, Failure> {
    let anchor = match registrations::anchor(context, &desired.authority) {
        Ok(anchor) => anchor,
        Err(not) => return Ok(Outcome::not_asked(not, SystemClock::default().unix())),
    };
    // What somebody else registered is not taken back.
    let is_ours = desired.client_id.is_none() && desired.deletion.policy == DeletionPolicy::Delete;
    if is_ours && !raw.source.has_finalizer(FINALIZER) {
        hold(context, key, &desired.owner.uid, true).await?;
    }
    registrations::keep(context, &anchor, desired, client.given.as_ref(), &words(raw)).await
}

/// What its author says beside what is wanted.
fn words(raw: &Raw) -> Words {
    Words { forget: raw.source.annotation(FORGET), adopt: raw.source.annotation(ADOPT) }
}

/// The name of the Secret that holds the credentials. One of another name, that held them before, goes once this one does.
async fn settle_secret(
    context: &Context,
    desired: &Desired,
    outcome: &Outcome,
    earlier: Option<String>,
) -> Result<Option<String>, Failure> {
    if outcome.publication != Publication::Written {
        return Ok(earlier);
    }
    if let Some(earlier) = earlier.filter(|earlier| *earlier != desired.secret_name) {
        let removal = owned_secret::remove(&context.client, &desired.owner, &earlier);
        context.while_leading(removal).await?.map_err(Failure::Apply)?;
    }
    Ok(Some(desired.secret_name.clone()))
}

/// What is known of the tokens that it gets for its servers.
async fn audiences(
    context: &Context,
    client: &RegisteredClient,
    desired: &Desired,
    outcome: &Outcome,
    last: &McpClientStatus,
) -> Result<Audiences, Failure> {
    let before = audience::before(last, &desired.issuer);
    match registrations::anchor(context, &desired.authority) {
        Ok(anchor) => registrations::verify(context, &anchor, (desired, &client.targets), outcome, before).await,
        Err(_) => Ok(Audiences::as_before(context, desired, before)),
    }
}

/// Goes on with an object that is being deleted: its registration is taken back, and then it is let go.
///
/// # Errors
/// If a step could not be taken; it is to be tried again.
pub(super) async fn end(context: &Context, key: &Key, raw: &Raw) -> Result<Option<Duration>, Failure> {
    let (uid, now) = (raw.source.id.uid.clone(), SystemClock::default().unix());
    // Whoever goes is told of it here, and beside no token.
    registrations::remember_left(context, &uid, None);
    if !raw.source.has_finalizer(FINALIZER) {
        return Ok(None);
    }
    if raw.source.annotation(ABANDON).is_some() {
        registrations::abandon(context, &uid).await?;
        let_go(context, key, raw).await?;
        return Ok(None);
    }
    let since = raw.source.ending.unwrap_or(now);
    let issuers = registrations::issuers(context, &uid);
    let waits = Waits { since: Some(since), deletion: deletion(context, raw), stays: None };
    let (again, left) = registrations::take_back(context, &uid, waits, |_| true).await?;
    match again.filter(|again| !again.is_released) {
        None => {
            // Not before: until then somebody may use what is registered.
            registrations::tidy(context, |issuer| issuers.contains(issuer)).await?;
            let_go(context, key, raw).await?;
            Ok(None)
        }
        Some(again) => {
            if let Some((issuer, trouble)) = &left.behind {
                speak::speak(context, key, &uid, &leaving(raw, (since, waits.deletion), issuer, trouble)).await?;
            }
            Ok(Some(until(again.at.min(now.saturating_add(REREAD_SECONDS)), now)))
        }
    }
}

/// Takes back what a client was registered as that is registered no more. Answers when to go on, if something is left.
///
/// # Errors
/// If a step could not be taken; it is to be tried again.
pub(super) async fn leave(context: &Context, key: &Key, raw: &Raw) -> Result<Option<Duration>, Failure> {
    if !context.registrations.are_known() {
        return Ok(Some(Duration::from_secs(1)));
    }
    let (uid, now) = (&raw.source.id.uid, SystemClock::default().unix());
    let words = words(raw);
    let waits = Waits { stays: Some(&words), ..Waits::default() };
    let (again, left) = registrations::take_back(context, uid, waits, |_| true).await?;
    drop_credentials(context, raw).await?;
    let is_let_go = again.is_none() && raw.source.has_finalizer(FINALIZER);
    if is_let_go {
        // Whoever no longer wants to be registered says so no longer either.
        registrations::withdraw_request(context, uid).await?;
        let_go(context, key, raw).await?;
    }
    // It is said beside what is said of its token, by whoever says that.
    if registrations::remember_left(context, uid, Some(left).filter(|left| again.is_some() || !left.is_none())) {
        context.look_at(vec![(Subject::Source(key.clone()), Depth::Whole)]);
    }
    if is_let_go {
        // Before this process has heard of that, whoever speaks of its token takes it for one that has something left.
        return Ok(Some(Duration::from_secs(1)));
    }
    Ok(again.map(|again| until(again.at.min(now.saturating_add(REREAD_SECONDS)), now)))
}

/// Nothing is left to be taken back: the object may go, and nobody asks for anything on its behalf any more.
async fn let_go(context: &Context, key: &Key, raw: &Raw) -> Result<(), Failure> {
    let uid = &raw.source.id.uid;
    registrations::withdraw(context, uid).await?;
    if raw.source.annotation(ADOPT).is_some() {
        registrations::withdraw_request(context, uid).await?;
    }
    hold(context, key, uid, false).await
}

/// What it had as a client that is registered no more, unless its token is there by now.
async fn drop_credentials(context: &Context, raw: &Raw) -> Result<(), Failure> {
    let last = raw.source.client_status();
    let Some(name) = last.registration.and_then(|last| last.secret_name) else { return Ok(()) };
    let cluster = context.cluster();
    let is_tokens = match validate(raw, &context.installation.settings(&cluster)).map(|resolved| resolved.object) {
        Ok(ClientKind::Token(client)) => client.secret_name == name,
        Ok(ClientKind::Registered(_)) | Err(_) => true,
    };
    if is_tokens {
        return Ok(());
    }
    let removal = owned_secret::remove(&context.client, &raw.source.id, &name);
    context.while_leading(removal).await?.map_err(Failure::Apply)
}

/// Says, beside what is said of its token, what is left of what a client was registered as.
pub(super) fn beside_token(context: &Context, source: &Source, statement: &mut Statement) {
    let id = &source.id;
    match registrations::left(context, &id.uid) {
        Some(left) => left_over(&left, id).into_iter().for_each(|said| statement.beside(said)),
        // Nobody knows yet: what was said stays, and so does where its credentials are.
        None if has_left(context, source) || !context.registrations.are_known() => {
            let last = source.client_status();
            still_left(&last).into_iter().for_each(|said| statement.beside(said));
            if let Some(registration) = last.registration {
                statement.tell("registration", json!(registration));
            }
        }
        None => {}
    }
}

/// What is left where it is not to be: conditions that are there only while they hold.
fn left_over(left: &Left, id: &ObjectId) -> Vec<Said> {
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

/// What its author says is to become of the registration, if that can be read: they may have another mind while they wait.
fn deletion(context: &Context, raw: &Raw) -> Option<Deletion> {
    let cluster = context.cluster();
    match validate(raw, &context.installation.settings(&cluster)).ok()?.object {
        ClientKind::Registered(client) => Some(client.deletion),
        ClientKind::Token(_) => None,
    }
}

/// Why an object that is being deleted is still there.
fn leaving(raw: &Raw, (since, deletion): (i64, Option<Deletion>), issuer: &str, trouble: &Trouble) -> Statement {
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

/// Puts the finalizer on an object, or takes it away.
async fn hold(context: &Context, key: &Key, uid: &str, holds: bool) -> Result<(), Failure> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), &key.namespace, &speak::resource(key.kind));
    let finalizers: Vec<&str> = if holds { vec![FINALIZER] } else { Vec::new() };
    // The UID makes it a precondition: an object of the same name is another one.
    let patch = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": key.kind.as_str(),
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid, "finalizers": finalizers},
    });
    let params = PatchParams::apply(FINALIZER_MANAGER).force();
    match context.while_leading(cluster::apply(&api, &key.name, &params, &patch)).await? {
        Ok(_) => Ok(()),
        Err(error) if matches!(code(&error), Some(404 | 409)) && !holds => Ok(()),
        Err(error) => Err(Failure::Apply(ApiError::new(format!("finalizer of {key}"), &error))),
    }
}

/// What there is to be said.
struct Told<'t> {
    warnings: &'t Findings,
    last: McpClientStatus,
    outcome: Option<Outcome>,
    audiences: Audiences,
    /// The issuer at which it is registered, and the one that its McpAuthorizationServer has by now.
    moved: Option<(String, String)>,
    secret_name: Option<String>,
}

impl Told<'_> {
    fn statement(&self, client: &RegisteredClient, account: (&str, &str), now: i64) -> Statement {
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
        if outcome.method.is_none() {
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
fn still_left(last: &McpClientStatus) -> Vec<Said> {
    let said = |type_| last.conditions.iter().find(|one| one.type_ == type_);
    let again = |type_| said(type_).and_then(|one| conditions::said_again(type_, one));
    [LEFT_BEHIND, ORPHANED].into_iter().filter_map(again).collect()
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
