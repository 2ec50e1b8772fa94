//! `tools/list` and `tools/call`.

use http::{Response, StatusCode};

use super::super::authorize;
use super::super::body::Body;
use super::super::call::Call;
use super::super::filter::{self, Filter, ListFilter};
use super::super::{forward, respond};
use crate::mcp::answer::{self, Own};
use crate::mcp::rewrite;

/// Decides a call and, with a permit, forwards the judged bytes.
pub(super) async fn call(call: Box<Call>) -> Response<Body> {
    let Some(name) = call.envelope.name() else {
        let answer = Own::BadRequest.answer(call.id(), "params.name is missing");
        return call.refuse("ParamMissing", respond::answer(answer));
    };
    // Before the decision: what cannot be sent is not first recorded as allowed.
    let body = match rewrite::request(&call.envelope, call.revision, None) {
        Ok(body) => body,
        Err(malformed) => return call.refuse(malformed.reason(), respond::answer(malformed.answer())),
    };
    match authorize::permit_tool(&call, name).await {
        Ok(permit) => forward::forward(call, permit, body, Filter::Pass).await,
        Err(response) => response,
    }
}

/// Forwards a list request and filters the answer with the evaluator that decides calls.
pub(super) async fn list(call: Box<Call>) -> Response<Body> {
    let cursor = match call.envelope.cursor().map(|cursor| filter::open_cursor(&call, cursor)).transpose() {
        Ok(cursor) => cursor,
        Err(filter::UnknownCursor) => {
            let message = "unknown cursor: list from the beginning";
            let body = answer::error(call.id(), answer::INVALID_PARAMS, message, None);
            return call.refuse("UnknownCursor", respond::json(StatusCode::OK, body));
        }
    };
    let body = match rewrite::request(&call.envelope, call.revision, cursor.as_deref()) {
        Ok(body) => body,
        Err(malformed) => return call.refuse(malformed.reason(), respond::answer(malformed.answer())),
    };
    match authorize::permit(&call).await {
        Ok(permit) => {
            let filter = Filter::Tools(Box::new(ListFilter::of(&call)));
            forward::forward(call, permit, body, filter).await
        }
        Err(response) => response,
    }
}
