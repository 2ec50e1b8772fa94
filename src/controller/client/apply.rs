//! The step that writes: a token into its Secret, if the one that is there is not right.

use super::dereference::{Kept, TOKEN};
use super::next::{self, Step};
use crate::api::v1alpha1::McpClientStatus;
use crate::controller::Context;
use crate::controller::error::{ApiError, Failure};
use crate::controller::owned_secret::{self, Data};
use crate::resolve::Client;

/// What came of a client's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The Secret holds it.
    Holds {
        /// When it is to be replaced.
        renewal: i64,
    },
    /// No token would be believed yet.
    Later {
        /// From this time on one would.
        until: i64,
    },
    /// What it refers to is missing: a finding says so.
    Hindered,
    /// There are too many clients.
    Crowded,
    /// There is a Secret of that name, and it is not the client's.
    Foreign,
    /// The controller may not write Secrets of the namespace.
    Forbidden,
    /// It cannot be signed.
    Unsignable {
        /// A stable word.
        reason: &'static str,
        /// In words.
        message: String,
    },
}

/// Does what was planned, and notes in `last` which token there is.
pub(super) async fn apply(
    context: &Context,
    client: &Client,
    kept: &Kept,
    step: &Step,
    last: &mut McpClientStatus,
) -> Result<Outcome, Failure> {
    let earlier = last.token.as_ref().map(|token| token.secret_name.clone());
    let token = match step {
        Step::Wait { until } => return Ok(Outcome::Later { until: *until }),
        Step::Keep { until } => {
            last.token = kept.held.as_ref().map(|held| next::told(client, held));
            return tidy(context, client, earlier).await.map(|()| Outcome::Holds { renewal: *until });
        }
        Step::Mint { request, issued_at } => match kept.signer.mint(request, *issued_at) {
            Ok(issued) => issued,
            Err(error) => return Ok(Outcome::Unsignable { reason: error.reason(), message: error.to_string() }),
        },
    };
    let (api, name) = (&context.client, &client.secret_name);
    let data = Data::from([(TOKEN.to_owned(), token.token)]);
    match context.while_leading(owned_secret::write(api, &client.id, name, &kept.found, &data)).await? {
        Ok(true) => {}
        // It is not as it was found any more.
        Ok(false) => return Ok(Outcome::Foreign),
        Err(ApiError::Refused { code: 403, .. }) => return Ok(Outcome::Forbidden),
        Err(error) => return Err(Failure::Apply(error)),
    }
    last.token = Some(next::told(client, &token.record));
    tidy(context, client, earlier).await?;
    Ok(Outcome::Holds { renewal: next::renewal(&token.record) })
}

/// Removes the Secret that held the token before, if it had another name.
async fn tidy(context: &Context, client: &Client, earlier: Option<String>) -> Result<(), Failure> {
    let Some(earlier) = earlier.filter(|earlier| *earlier != client.secret_name) else { return Ok(()) };
    let removal = owned_secret::remove(&context.client, &client.id, &earlier);
    context.while_leading(removal).await?.map(drop).map_err(Failure::Apply)
}
