//! What an upstream may send on a response stream: the answer to the request, and notifications about it. Everything
//! else is dropped, and the drop has a name for the record (duties 29, 63, 64).

use super::envelope::{Envelope, Kind, same_id};
use super::method::{Form, Method, Sender};
use super::revision::{Era, Revision};
use super::rewrite::{Hostile, check_result_type};

/// Which stream a message came on.
#[derive(Debug, Clone, Copy)]
pub enum Stream<'a> {
    /// The answer to this request, as an event stream or as one JSON body.
    Request(&'a Envelope),
    /// The stream of a GET (old era), which belongs to a session and to no request.
    Standalone,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The request's own answer. If it has a result, it is still to be filtered where the method has a filter.
    Answer,
    /// A notification that passes as it came.
    Forward,
    /// Not for this client.
    Drop(Dropped),
    /// The answer, but one that the gateway cannot vouch for: the client gets an error instead.
    Refuse(Hostile),
}

/// Why a message is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// A request of the server: illegal in the new era, not policed in the old one.
    ServerRequest,
    /// A response to something else.
    ForeignResponse,
    /// A notification that is unknown or not policed.
    UnpolicedNotification,
    /// A notification about another request, or one that this stream does not carry.
    ForeignNotification,
}

impl Dropped {
    /// A stable CamelCase word.
    pub fn reason(self) -> &'static str {
        match self {
            Dropped::ServerRequest => "ServerRequest",
            Dropped::ForeignResponse => "ForeignResponse",
            Dropped::UnpolicedNotification => "UnpolicedNotification",
            Dropped::ForeignNotification => "ForeignNotification",
        }
    }
}

/// Judges one message of an upstream.
pub fn classify(message: &Envelope, stream: Stream<'_>, revision: Revision) -> Verdict {
    match message.kind() {
        Kind::Request => Verdict::Drop(Dropped::ServerRequest),
        Kind::Response => response(message, stream, revision),
        Kind::Notification => notification(message, stream, revision),
    }
}

fn response(message: &Envelope, stream: Stream<'_>, revision: Revision) -> Verdict {
    let Stream::Request(request) = stream else { return Verdict::Drop(Dropped::ForeignResponse) };
    // An error without id is the answer of an upstream that could not read the request.
    if !message.answers(request) && message.id_raw().is_some() {
        return Verdict::Drop(Dropped::ForeignResponse);
    }
    match check_result_type(message, revision) {
        Ok(()) => Verdict::Answer,
        Err(hostile) => Verdict::Refuse(hostile),
    }
}

fn notification(message: &Envelope, stream: Stream<'_>, revision: Revision) -> Verdict {
    let method = message.method().and_then(|name| Method::find(revision, name));
    let Some(method) =
        method.filter(|method| method.form == Form::Notification && method.is_policed_from(Sender::Server))
    else {
        return Verdict::Drop(Dropped::UnpolicedNotification);
    };
    let belongs = match (method.name, stream, revision.era()) {
        ("notifications/progress", Stream::Request(request), _) => {
            same_id(message.progress_token_raw(), request.meta().progress_token_raw())
        }
        ("notifications/progress", Stream::Standalone, _) => false,
        // The new era sends changes on `subscriptions/listen` only, which is not policed.
        (_, _, Era::New) => false,
        (_, _, Era::Old) => true,
    };
    if belongs { Verdict::Forward } else { Verdict::Drop(Dropped::ForeignNotification) }
}

#[cfg(test)]
mod tests;
