//! What each policed method does with a call, one file per family.

mod lifecycle;
mod tools;

use http::Response;

use super::authorize;
use super::body::Body;
use super::call::Call;
use super::filter::Filter;
use super::{forward, respond};
use crate::mcp::answer::unknown_method;
use crate::mcp::method::Form;

/// Sends a call to its family. The table has let through only what is policed; a method without a family is denied.
pub(super) async fn dispatch(call: Call) -> Response<Body> {
    match (call.method.form, call.method.name) {
        (Form::Request, "tools/call") => tools::call(call).await,
        (Form::Request, "tools/list") => tools::list(call).await,
        (Form::Request, "initialize") => lifecycle::initialize(call).await,
        (Form::Request, "server/discover") => lifecycle::discover(call).await,
        (Form::Request, "ping") | (Form::Notification, "notifications/initialized" | "notifications/cancelled") => {
            plain(call).await
        }
        (_, name) => respond::answer(unknown_method(call.id(), call.revision.era(), name)),
    }
}

/// Forwards what needs no grant and whose answer needs no filter. A cancellation reaches only the sender's own
/// requests, since nobody else shares its upstream session (mcp-obligations 65, 76).
async fn plain(call: Call) -> Response<Body> {
    match authorize::permit(&call).await {
        Ok(permit) => forward::forward(call, permit, None, Filter::Pass).await,
        Err(response) => response,
    }
}
