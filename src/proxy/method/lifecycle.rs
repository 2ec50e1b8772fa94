//! `initialize` and `server/discover`: both sides' declarations lose what is not policed (mcp-obligations 47, 48).

use http::Response;

use super::super::authorize;
use super::super::body::Body;
use super::super::call::Call;
use super::super::filter::Filter;
use super::super::{forward, respond};
use crate::mcp::rewrite;

/// Opens a session (old era). The client gets an id of the gateway's, whether or not the upstream has sessions: it
/// carries what was negotiated.
pub(super) async fn initialize(call: Box<Call>) -> Response<Body> {
    declared(call, Filter::Initialize).await
}

/// Says what the server can do (new era).
pub(super) async fn discover(call: Box<Call>) -> Response<Body> {
    declared(call, Filter::Discover).await
}

async fn declared(call: Box<Call>, filter: Filter) -> Response<Body> {
    let body = match rewrite::request(&call.envelope, call.revision, None) {
        Ok(body) => body,
        Err(malformed) => return call.refuse(malformed.reason(), respond::answer(malformed.answer())),
    };
    match authorize::permit(&call).await {
        Ok(permit) => forward::forward(call, permit, body, filter).await,
        Err(response) => response,
    }
}
