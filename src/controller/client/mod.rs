//! `McpClient`: dereference, validate, plan, apply, status.
//!
//! Invariant: a token is in a Secret that its client owns, and nowhere else: not in a status, an event or a log. What is
//! believed of a client is told by its authority's list, which is made of its spec and its status alone, so its tokens end
//! with it; and what ends tokens is in its status before a new one is in its Secret.

mod apply;
mod audience;
mod dereference;
mod finalizer;
mod leaving;
pub mod next;
mod registered;
mod status;
mod told;
mod validate;

use std::time::Duration;

use self::apply::Outcome;
use super::error::Failure;
use super::queue::{Depth, Subject};
use super::{Context, registrations, speak};
use crate::api;
use crate::api::Key;
use crate::api::v1alpha1::McpClientStatus;
use crate::issuer::{Clock as _, SystemClock};
use crate::resolve::{Client, ClientKind, Resolved};

/// How long a Secret is taken to be as it was written: one that was deleted or edited is mended after that, at the latest.
const REREAD: Duration = Duration::from_secs(60);
/// The same while something is in the way: whoever mends that waits for it.
const REREAD_HINDERED: Duration = Duration::from_secs(10);

/// Looks at one client. Answers when it has to be looked at again.
///
/// # Errors
/// If a step could not be taken; it is to be tried again.
pub async fn reconcile(context: &Context, key: &Key, depth: Depth) -> Result<Option<Duration>, Failure> {
    let Some(raw) = dereference::dereference(context, key) else { return Ok(None) };
    if registered::is_asked_for(&raw.source) {
        context.look_at(vec![(Subject::Registered(key.clone()), depth)]);
        return Ok(None);
    }
    let cluster = context.cluster();
    let (id, last) = (raw.source.id.clone(), raw.source.client_status());
    let validated = validate::validate(&raw, &context.installation.settings(&cluster));
    let mut verdict = status::Verdict { errors: Vec::new(), warnings: Vec::new(), last, outcome: None };
    let again = match validated {
        Err(findings) => {
            verdict.errors = findings;
            None
        }
        // It says what is registered, and then it was handed on.
        Ok(Resolved { object: ClientKind::Registered(_), .. }) => return Ok(None),
        Ok(Resolved { object: ClientKind::Token(client), warnings }) => {
            let now = SystemClock::default().unix();
            verdict.warnings = warnings;
            verdict.last.client_id = Some(client.client_id.clone());
            if registered::has_left(context, &raw.source) {
                context.look_at(vec![(Subject::Registered(key.clone()), depth)]);
            } else if context.registrations.are_known() {
                registrations::remember_left(context, &id.uid, None);
            }
            let outcome = issue(context, key, &client, &raw, &mut verdict.last, now).await?;
            let again = outcome.again(now);
            verdict.outcome = Some(outcome);
            Some(again)
        }
    };
    let account = (context.installation.system_namespace.as_str(), context.installation.service_account.as_str());
    let programming = context.store().client_programming(key);
    let mut statement = status::status(&id, &verdict, programming, account);
    leaving::beside_token(context, &raw.source, &mut statement);
    speak::speak(context, key, &id.uid, &statement).await?;
    Ok(again)
}

/// Looks at one client that is registered at an authorization server, or was. Answers when it has to be looked at again.
///
/// # Errors
/// If a step could not be taken; it is to be tried again.
pub async fn register(context: &Context, key: &Key) -> Result<Option<Duration>, Failure> {
    let Some(mut raw) = dereference::dereference(context, key) else { return Ok(None) };
    let is_asked_for = registered::is_asked_for(&raw.source);
    if !is_asked_for && !registered::has_left(context, &raw.source) {
        // What was left is gone by now, and is told no longer.
        context.look_at(vec![(Subject::Source(key.clone()), Depth::Whole)]);
        return Ok(None);
    }
    if !is_asked_for && raw.source.ending.is_none() && !is_accepted(context, &raw) {
        // What cannot be read may say that it is registered; and what is wrong changes nothing at its server.
        return Ok(None);
    }
    let authority = raw.source.client().map(|client| &client.spec.authorization_server);
    let owner = (key.namespace.as_str(), key.name.as_str());
    let _turn = match registrations::turn(context, &raw.source.id.uid, owner, authority) {
        Ok(turn) => turn,
        Err(wait) => return Ok(Some(wait)),
    };
    if raw.source.ending.is_some() {
        // Somebody else may hold it for longer: nothing is registered for it any more.
        return leaving::end(context, key, &raw).await;
    }
    if !is_asked_for {
        return leaving::leave(context, key, &raw).await;
    }
    dereference::given(context, &mut raw).await?;
    let cluster = context.cluster();
    match validate::validate(&raw, &context.installation.settings(&cluster)) {
        Err(findings) => {
            let id = &raw.source.id;
            speak::speak(context, key, &id.uid, &told::refused(&findings, id.generation, &raw.source.client_status()))
                .await?;
            Ok(None)
        }
        Ok(Resolved { object: ClientKind::Registered(client), warnings }) => {
            registered::look(context, key, &raw, &client, &warnings).await
        }
        Ok(Resolved { object: ClientKind::Token(_), .. }) => Ok(None),
    }
}

/// Whether what its author says can be read, and nothing is wrong with it in itself.
fn is_accepted(context: &Context, raw: &dereference::Raw) -> bool {
    let cluster = context.cluster();
    validate::validate(raw, &context.installation.settings(&cluster)).is_ok()
}

/// Plans, remembers, and applies.
async fn issue(
    context: &Context,
    key: &Key,
    client: &Client,
    raw: &dereference::Raw,
    last: &mut McpClientStatus,
    now: i64,
) -> Result<Outcome, Failure> {
    if client.hindrance.is_some() {
        return Ok(Outcome::Hindered);
    }
    if is_crowded_out(context, client) {
        return Ok(Outcome::Crowded);
    }
    let kept = match dereference::kept(context, client, raw).await? {
        Ok(kept) => kept,
        Err(outcome) => return Ok(outcome),
    };
    let plan = next::plan(client, kept.held.as_ref(), last, now);
    if plan.remember {
        last.valid_after = Some(next::time(plan.valid_after));
        speak::speak(context, key, &client.id.uid, &status::remembering(&client.id, last)).await?;
        let name = client.grant.authority.clone();
        let authority = Key { kind: api::Kind::McpAuthorizationServer, namespace: String::new(), name };
        context.look_at(vec![(Subject::Source(authority), Depth::Whole)]);
    }
    apply::apply(context, client, &kept, &plan.step, last).await
}

/// Whether its authority's list has no room for it: then no token of it would be believed.
fn is_crowded_out(context: &Context, client: &Client) -> bool {
    let store = context.store();
    store.count(api::Kind::McpClient) > next::ALWAYS_LISTED
        && !next::allow_list(store.clients_of(&client.grant.authority)).0.contains_key(&client.client_id)
}

impl Outcome {
    /// When to look again.
    fn again(&self, now: i64) -> Duration {
        let until = |time: i64| Duration::from_secs(u64::try_from(time.saturating_sub(now)).unwrap_or_default().max(1));
        match self {
            Outcome::Holds { renewal } => until(*renewal).min(REREAD),
            Outcome::Later { until: time } => until(*time).min(REREAD),
            Outcome::Hindered | Outcome::Crowded => REREAD,
            Outcome::Foreign | Outcome::Forbidden | Outcome::Unsignable { .. } => REREAD_HINDERED,
        }
    }
}
