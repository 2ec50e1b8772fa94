//! One tool call, as a client makes it: what a person sees when trying a governed server.

use std::time::Duration;

use serde_json::value::RawValue;

use super::discover::{NEW, open_session, params};
use super::rpc::{Conversation, Outcome};
use super::{DiscoverError, Upstream};

/// How a call was answered.
#[derive(Clone, Debug)]
pub enum Called {
    /// With a result, `isError` or not: raw JSON.
    Result(Box<RawValue>),
    /// With an error.
    Error {
        /// The JSON-RPC code.
        code: i64,
        /// The server's words.
        message: String,
    },
}

/// The most that is read of an answer, in bytes.
const BYTES: usize = 16 << 20;

/// Calls a tool in the given revision, as an [`super::Inventory`] names it.
///
/// # Errors
/// If the server cannot be reached or does not answer properly.
pub async fn call_tool(
    upstream: &Upstream,
    revision: &str,
    name: &str,
    arguments: serde_json::Value,
    patience: Duration,
) -> Result<Called, DiscoverError> {
    let mut conversation = Conversation::new(upstream, BYTES, patience);
    if revision == NEW {
        conversation.revision = Some(NEW);
    } else {
        open_session(&mut conversation).await?;
    }
    let mut asked = params(conversation.revision.unwrap_or_default(), None);
    asked["name"] = name.into();
    asked["arguments"] = arguments;
    let reply = conversation.call("tools/call", asked).await;
    conversation.close().await;
    match reply?.outcome {
        Outcome::Result(result) => Ok(Called::Result(result)),
        Outcome::Error(error) => Ok(Called::Error { code: error.code, message: error.message }),
        Outcome::Bare(status) => Err(DiscoverError::NotMcp { status: status.as_u16() }),
    }
}
