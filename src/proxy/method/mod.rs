//! What each policed method does with a call, one file per family.

mod lifecycle;
mod tools;

use http::{Response, StatusCode};

use super::authorize;
use super::body::Body;
use super::call::Call;
use super::filter::Filter;
use super::{forward, respond};
use crate::audit::Outcome;
use crate::mcp::answer::unknown_method;
use crate::mcp::method::Form;

/// Sends a call to its family. The table has let through only what is policed; a method without a family is denied.
pub(super) async fn dispatch(call: Box<Call>) -> Response<Body> {
    match (call.method.form, call.method.name) {
        (Form::Request, "tools/call") => tools::call(call).await,
        (Form::Request, "tools/list") => tools::list(call).await,
        (Form::Request, "initialize") => lifecycle::initialize(call).await,
        (Form::Request, "server/discover") => lifecycle::discover(call).await,
        (Form::Request, "ping") | (Form::Notification, "notifications/initialized") => plain(call).await,
        (Form::Notification, "notifications/cancelled") => cancelled(call).await,
        (_, name) => {
            call.refuse("UnknownMethod", respond::answer(unknown_method(call.id(), call.revision.era(), name)))
        }
    }
}

/// A cancellation reaches only the sender's own requests (mcp-obligations 65): nobody else shares its upstream session
/// (76), and to a server without sessions, which could take the id for anybody's request, none is sent.
async fn cancelled(call: Box<Call>) -> Response<Body> {
    if call.session.as_ref().is_some_and(|session| session.upstream.is_some()) {
        return plain(call).await;
    }
    match authorize::permit(&call).await {
        Ok(permit) => {
            let mut completion = permit.into_completion();
            completion.ended(Outcome::Result, Some("NoUpstreamSession"), None);
            respond::status(StatusCode::ACCEPTED).map(|body| body.with_completion(completion))
        }
        Err(response) => response,
    }
}

/// Forwards what needs no grant and whose answer needs no filter.
async fn plain(call: Box<Call>) -> Response<Body> {
    match authorize::permit(&call).await {
        Ok(permit) => forward::forward(call, permit, None, Filter::Pass).await,
        Err(response) => response,
    }
}
