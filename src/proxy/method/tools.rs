//! `tools/list` and `tools/call`.

use http::Response;

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
        return respond::answer(Own::BadRequest.answer(call.id(), "params.name is missing"));
    };
    let permit = match authorize::permit_tool(&call, name).await {
        Ok(permit) => permit,
        Err(response) => return response,
    };
    match rewrite::request(&call.envelope, call.revision, None) {
        Ok(body) => forward::forward(call, permit, body, Filter::Pass).await,
        Err(hostile) => respond::answer(Own::BadRequest.answer(call.id(), hostile.reason())),
    }
}

/// Forwards a list request and filters the answer with the evaluator that decides calls.
pub(super) async fn list(call: Box<Call>) -> Response<Body> {
    let cursor = match call.envelope.cursor().map(|cursor| filter::open_cursor(&call, cursor)).transpose() {
        Ok(cursor) => cursor,
        Err(filter::UnknownCursor) => {
            let body =
                answer::error(call.id(), answer::INVALID_PARAMS, "unknown cursor: list from the beginning", None);
            return respond::json(http::StatusCode::OK, body);
        }
    };
    let permit = match authorize::permit(&call).await {
        Ok(permit) => permit,
        Err(response) => return response,
    };
    match rewrite::request(&call.envelope, call.revision, cursor.as_deref()) {
        Ok(body) => {
            let filter = Filter::Tools(Box::new(ListFilter::of(&call)));
            forward::forward(call, permit, body, filter).await
        }
        Err(hostile) => respond::answer(Own::BadRequest.answer(call.id(), hostile.reason())),
    }
}
