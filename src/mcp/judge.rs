//! A client's message passes only if the table knows its method for this revision, this build polices it, and it has
//! the form and the parameters that a decision needs. What passes here is not yet authorized.

use http::StatusCode;

use super::answer::{self, Answer};
use super::envelope::{Envelope, Kind};
use super::method::{Form, Method, Sender, Subject};
use super::revision::{Era, Revision};

/// Why a well-formed message of a client is refused without asking policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such method in this revision, or not one that clients send, or not policed by this build.
    #[error("this method is not offered")]
    UnknownMethod,
    /// A notification that the protocol knows and this build does not police: dropped in silence.
    #[error("this notification is not forwarded")]
    UnpolicedNotification,
    /// A request without id, or a notification with one.
    #[error("this method needs an `id` if it is a request, and must not have one if it is a notification")]
    WrongForm,
    /// A response to a request that the gateway never let through.
    #[error("no request of the server is waiting for this response")]
    UnexpectedResponse,
    /// A request of the new era lacks `clientCapabilities`.
    #[error("`_meta` lacks \"io.modelcontextprotocol/clientCapabilities\", which every request must have")]
    MissingMeta,
    /// A parameter without which nothing can be decided is absent.
    #[error("`params` lacks a required member")]
    MissingParam,
    /// `params.arguments` is not an object.
    #[error("`params.arguments` must be an object")]
    BadArguments,
    /// `inputResponses` or `requestState`, although no request for input was let through.
    #[error("`inputResponses` and `requestState` answer no request of this server")]
    UnexpectedRetry,
}

impl Refusal {
    /// A stable CamelCase word.
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::UnknownMethod => "UnknownMethod",
            Refusal::UnpolicedNotification => "UnpolicedNotification",
            Refusal::WrongForm => "WrongForm",
            Refusal::UnexpectedResponse => "UnexpectedResponse",
            Refusal::MissingMeta => "MetaMissing",
            Refusal::MissingParam => "ParamMissing",
            Refusal::BadArguments => "BadArguments",
            Refusal::UnexpectedRetry => "UnexpectedRetry",
        }
    }

    /// The JSON-RPC code.
    pub fn code(self) -> i32 {
        match self {
            Refusal::UnknownMethod | Refusal::UnpolicedNotification => answer::METHOD_NOT_FOUND,
            Refusal::WrongForm | Refusal::UnexpectedResponse => answer::INVALID_REQUEST,
            Refusal::MissingMeta | Refusal::MissingParam | Refusal::BadArguments | Refusal::UnexpectedRetry => {
                answer::INVALID_PARAMS
            }
        }
    }

    /// The answer to `envelope`. A notification is never answered with a result or in a way that would break a client
    /// of the old era: it is dropped with HTTP 202, unless its form is wrong.
    pub fn answer(self, envelope: &Envelope, era: Era) -> Answer {
        let id = envelope.id_raw();
        match self {
            Refusal::UnpolicedNotification => Answer::accepted(),
            Refusal::UnknownMethod if envelope.kind() == Kind::Notification && era == Era::Old => Answer::accepted(),
            Refusal::UnknownMethod => answer::unknown_method(id, era, envelope.method().unwrap_or_default()),
            // The id of a response is the server's: echoed, it would look like an answer to the client's own request.
            Refusal::UnexpectedResponse => self.bad_request(None),
            _ => self.bad_request(id),
        }
    }

    fn bad_request(self, id: Option<&[u8]>) -> Answer {
        Answer { status: StatusCode::BAD_REQUEST, body: answer::error(id, self.code(), &self.to_string(), None) }
    }
}

/// Holds a client's message to the table. The row says what to decide about.
pub fn judge(envelope: &Envelope, revision: Revision) -> Result<&'static Method, Refusal> {
    // Requests of servers are not policed in any revision, so no response can be awaited (duty 29).
    let name = envelope.method().ok_or(Refusal::UnexpectedResponse)?;
    let method = Method::find(revision, name).ok_or(Refusal::UnknownMethod)?;
    match (method.form, envelope.kind()) {
        (Form::Request, Kind::Request) | (Form::Notification, Kind::Notification) => {}
        (Form::InputRequest, _) => return Err(Refusal::UnknownMethod),
        _ => return Err(Refusal::WrongForm),
    }
    if !method.is_policed_from(Sender::Client) {
        let notification = method.form == Form::Notification;
        return Err(if notification { Refusal::UnpolicedNotification } else { Refusal::UnknownMethod });
    }
    if revision.era() == Era::New {
        new_era(envelope)?;
    }
    params(envelope, method)?;
    Ok(method)
}

fn new_era(envelope: &Envelope) -> Result<(), Refusal> {
    if envelope.kind() == Kind::Request && envelope.meta().client_capabilities_raw().is_none() {
        return Err(Refusal::MissingMeta);
    }
    if envelope.is_retry() { Err(Refusal::UnexpectedRetry) } else { Ok(()) }
}

fn params(envelope: &Envelope, method: &Method) -> Result<(), Refusal> {
    let complete = match (method.name, method.subject) {
        ("initialize", _) => envelope.protocol_version().is_some(),
        ("notifications/cancelled", _) => envelope.request_id_raw().is_some(),
        (_, Subject::Tool | Subject::Prompt) => envelope.name().is_some(),
        (_, Subject::Resource) => envelope.uri().is_some(),
        (_, Subject::Task) => envelope.task_id().is_some(),
        (_, Subject::None | Subject::Completion | Subject::Subscription) => true,
    };
    if !complete {
        return Err(Refusal::MissingParam);
    }
    let object = envelope.arguments_raw().is_none_or(|raw| raw.starts_with(b"{"));
    if object { Ok(()) } else { Err(Refusal::BadArguments) }
}

#[cfg(test)]
mod tests;
