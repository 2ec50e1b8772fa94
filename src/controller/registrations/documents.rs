//! Documents of clients, given to the proxies.
//!
//! Invariant: what is written is what proxies serve, and nothing that only the client's owner may have; and a document counts
//! as served only once every proxy that could be asked for it says so.

use crate::controller::Context;
use crate::controller::apply;
use crate::controller::error::Failure;
use crate::controller::object::Wanted;
use crate::controller::proxies::Programming;
use crate::generated::codec::Generated;
use crate::generated::{Client, Kind};

/// Has a document served, and says what proxies make of it.
pub(super) async fn serve(context: &Context, client: Client) -> Result<Programming, Failure> {
    let id = client.id.clone();
    let wanted = Wanted::new(Kind::Client, &id, &Generated::Client(client));
    let wanted = wanted.map_err(|error| Failure::Build(error.reason()))?;
    apply::write(context, &wanted).await?;
    Ok(context.store().programming(Kind::Client, &id.uid).unwrap_or(Programming::Waiting))
}

/// Has nothing served of an object any more.
///
/// # Errors
/// If the API server does not do what it has to; it is to be tried again.
pub(in crate::controller) async fn withdraw(context: &Context, uid: &str) -> Result<(), Failure> {
    apply::remove(context, Kind::Client, uid).await
}
