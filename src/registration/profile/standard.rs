//! Anything that speaks the standards: RFC 7591 to register, RFC 7592 to manage.
//!
//! Invariant: a registration has no key that would make it safe to send twice (RFC 7591 knows none), so it is never repeated
//! without its first answer; and a management request goes to the URL that came with the token, and to no other.

use serde_json::{Map, Value};

use super::Adapter;
use crate::oauth::client_registration::{Difference, RegistrationError, parse_registered, registered_id};
use crate::oauth::{Refusal, RefusalKind};
use crate::registration::call::{Answer, Auth, Body, Call, Client, Heard, Place, Purpose, Verb};
use crate::registration::claim::{Claim, Means, shown};
use crate::registration::ledger::{Handle, Registration};
use crate::registration::wanted::{Marks, Wanted};
use crate::sensitive::Sensitive;

/// The standards alone.
pub struct Standard;

impl Adapter for Standard {
    fn is_repeatable(&self) -> bool {
        false
    }

    fn create(&self, wanted: &Wanted, place: &Place) -> Option<Call> {
        Some(Call {
            purpose: Purpose::Create,
            verb: Verb::Post,
            url: place.registration_endpoint.clone()?,
            auth: Auth::Initial,
            body: Body::Json(Sensitive::new(wanted.metadata.create_body().to_string())),
            says: None,
        })
    }

    fn find(&self, _: &Marks, _: &Place) -> Option<Call> {
        None
    }

    fn adopt(&self, claim: &Claim, _: &Place) -> Option<Call> {
        let Means::Protocol { uri, token } = &claim.means else { return None };
        let auth = Auth::Registration(token.clone());
        Some(Call { purpose: Purpose::Adopt, verb: Verb::Get, url: uri.clone(), auth, body: Body::None, says: None })
    }

    fn read(&self, registration: &Registration, _: &Place) -> Option<Call> {
        managed(registration, Purpose::Read, Verb::Get, Body::None)
    }

    fn reads_before_updating(&self) -> bool {
        false
    }

    fn update(
        &self,
        registration: &Registration,
        wanted: &Wanted,
        _: Option<&Map<String, Value>>,
        _: &Place,
    ) -> Option<Call> {
        // A client that is to have none any more is not given the one that it had.
        let secret = registration.client_secret.clone().filter(|_| wanted.metadata.auth_method.shares_secret());
        let body = wanted.metadata.update_body(&registration.client_id, secret.as_ref());
        let call = managed(registration, Purpose::Update, Verb::Put, Body::Json(body))?;
        // Some servers repeat what they were sent.
        Some(Call { says: secret, ..call })
    }

    fn renew(&self, _: &Registration, _: &Place) -> Option<Call> {
        None
    }

    fn delete(&self, registration: &Registration, _: &Place) -> Option<Call> {
        managed(registration, Purpose::Delete, Verb::Delete, Body::None)
    }

    fn hear(&self, purpose: Purpose, answer: &Answer, marks: &Marks, wanted: Option<&Wanted>) -> Heard {
        match (purpose, answer.status) {
            (Purpose::Delete | Purpose::DeleteRetired, 200..=299) => Heard::Absent,
            (Purpose::Create | Purpose::Adopt | Purpose::Read | Purpose::Update, 200..=299) => {
                described(purpose, answer, marks, wanted)
            }
            (Purpose::Create, 401 | 403) => Heard::Denied(told(&answer.refusal(), answer.status)),
            // Whoever stands before the server may have asked it already, and says so where nothing was done.
            (Purpose::Create, 503) if answer.retry_after.is_none() => {
                Heard::Unknown("it answered with status 503, and does not say that nothing was done".to_owned())
            }
            // The client is gone, or the token is dead: servers do not say which (RFC 7592 section 2.1).
            (_, 401 | 403) if answer.denies_token || answer.refusal().error.is_some() => Heard::Unmanageable,
            // That is nobody's word who knows tokens (RFC 6750 section 3.1): somebody stands before the server.
            (_, 401 | 403) => Heard::Later { retry_after: answer.retry_after, status: answer.status },
            // RFC 7592 section 2.1 has another answer for a client that is gone, and some servers this one.
            (Purpose::Adopt, 404 | 410) => Heard::Absent,
            (Purpose::Delete | Purpose::DeleteRetired | Purpose::Read | Purpose::Update, 404 | 410) => Heard::Missing,
            // RFC 7592 section 2.3: a server need not delete clients.
            (Purpose::Delete | Purpose::DeleteRetired, 405 | 501) => {
                Heard::NotDeleted(told(&answer.refusal(), answer.status))
            }
            (_, 400..=499) if answer.status != 429 => {
                let refusal = answer.refusal();
                let told = told(&refusal, answer.status);
                match refusal.kind {
                    RefusalKind::Terminal => Heard::Refused(told),
                    RefusalKind::Credential => Heard::Denied(told),
                    RefusalKind::Later => Heard::neither(answer),
                }
            }
            _ => Heard::neither(answer),
        }
    }
}

fn managed(registration: &Registration, purpose: Purpose, verb: Verb, body: Body) -> Option<Call> {
    match &registration.handle {
        Handle::Protocol { uri, token } => {
            let auth = Auth::Registration(token.clone());
            Some(Call { purpose, verb, url: uri.clone(), auth, body, says: None })
        }
        Handle::Admin { .. } | Handle::Document { .. } | Handle::Given { .. } | Handle::Unmanaged => None,
    }
}

fn described(purpose: Purpose, answer: &Answer, marks: &Marks, wanted: Option<&Wanted>) -> Heard {
    let issuer = wanted.map(|wanted| wanted.issuer.as_str()).unwrap_or_default();
    let registered = match parse_registered(&answer.body, issuer) {
        Ok(registered) => registered,
        Err(error) if purpose == Purpose::Adopt => return Heard::Refused(error.to_string()),
        // Something was done, and what it came to is not known; or it is no answer of the server's, which is asked again.
        Err(error @ (RegistrationError::Json(_) | RegistrationError::TooLarge)) => {
            return Heard::Unknown(error.to_string());
        }
        // It would be answered again.
        Err(error) if purpose == Purpose::Create => {
            return Heard::Unusable { client_id: registered_id(&answer.body), detail: error.to_string() };
        }
        Err(error) if purpose == Purpose::Read => return Heard::Refused(error.to_string()),
        Err(error) => return Heard::Unknown(error.to_string()),
    };
    // Many servers drop the mark. One that is there, and is not ours, is to be meant.
    let mark = registered.metadata.get("software_id").and_then(Value::as_str);
    if purpose == Purpose::Adopt && mark.is_some() && !marks.are_of(mark) {
        return Heard::Refused(format!("its software_id is {}, which is not ours: say so if it is meant", shown(mark)));
    }
    let auth_method = registered.metadata.get("token_endpoint_auth_method").and_then(Value::as_str);
    let handle = registered.management.map(|m| Handle::Protocol { uri: m.uri, token: m.token });
    Heard::Client(Box::new(Client {
        client_id: registered.client_id,
        client_secret: registered.client_secret,
        secret_expires_at: registered.secret_expires_at,
        handle,
        auth_method: auth_method.and_then(|method| method.parse().ok()),
        is_disabled: false,
        differences: wanted.map(|wanted| differences(wanted, &registered.metadata)).unwrap_or_default(),
        found: None,
    }))
}

/// Where the client is not what is wanted. Our marks do not count: most servers drop what they do not use.
fn differences(wanted: &Wanted, got: &Map<String, Value>) -> Vec<Difference> {
    let mut all = wanted.metadata.drift(got);
    all.retain(|one| !matches!(one.field, "software_id" | "software_version"));
    all
}

/// What a server said, as people are told it.
pub(in crate::registration) fn told(refusal: &Refusal, status: u16) -> String {
    let error = refusal.error.unwrap_or("no reason");
    match &refusal.description {
        Some(description) => format!("it answered with status {status}, {error}: {description}"),
        None => format!("it answered with status {status}, {error}"),
    }
}
