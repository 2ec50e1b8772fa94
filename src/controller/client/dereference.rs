//! Everything that a client refers to: what is known of servers and authorities, then the signing key and the Secret.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::apply::Outcome;
use crate::api::Key;
use crate::api::core::Secret;
use crate::controller::Context;
use crate::controller::error::Failure;
use crate::controller::fetch::{self, Fetched};
use crate::controller::owned_secret::{self, Found};
use crate::controller::signing::{self, SigningError};
use crate::controller::store::{Reference, Source};
use crate::generated::Authority;
use crate::issuer::{Signer, TokenRecord};
use crate::resolve::{Client, Registration};

/// The key, in its Secret, of a token.
pub(super) const TOKEN: &str = "token";

/// A client, and what is known of what it refers to.
pub(super) struct Raw {
    pub(super) source: Arc<Source>,
    /// Servers of its namespace that it names.
    pub(super) servers: Vec<Arc<Source>>,
    /// Its own authority, and those that its servers trust.
    pub(super) authorities: Vec<Arc<Authority>>,
    /// How clients are registered at its own.
    pub(super) registration: Option<Arc<Registration>>,
    /// The Secret that its author gives it, by its name, if it names one.
    pub(super) given: Option<(String, Fetched<Secret>)>,
}

/// What its token is made with, and what is there of it.
pub(super) struct Kept {
    pub(super) signer: Signer,
    pub(super) found: Found,
    /// The token in the Secret, if this authority signed it.
    pub(super) held: Option<TokenRecord>,
}

/// Looks up what a client refers to, and asks to hear of changes to it: in one go, so that none is missed between.
pub(super) fn dereference(context: &Context, key: &Key) -> Option<Raw> {
    let mut store = context.store();
    let source = store.source(key)?;
    let named: BTreeSet<String> =
        source.client().into_iter().flat_map(|client| client.spec.servers().cloned()).collect();
    let server = |name: &String| {
        let (namespace, name) = (key.namespace.clone(), name.clone());
        store.source(&Key { kind: crate::api::Kind::McpServer, namespace, name })
    };
    let servers: Vec<Arc<Source>> = named.iter().filter_map(server).collect();
    let own = source.client().map(|client| client.spec.authorization_server.clone());
    let registration = own.as_ref().and_then(|name| store.registration(name));
    let mut authorities: BTreeSet<String> = own.into_iter().collect();
    for server in servers.iter().filter_map(|source| source.server()) {
        authorities.extend(server.spec.authorization.servers.iter().cloned());
    }
    let itself = |name: &String| Reference::ServerItself(key.namespace.clone(), name.clone());
    let references = authorities.iter().cloned().map(Reference::Authority).chain(named.iter().map(itself));
    store.follow(key, references.collect());
    let authorities = authorities.iter().filter_map(|name| store.authority(name)).collect();
    Some(Raw { source, servers, authorities, registration, given: None })
}

/// Fetches the Secret that its author gives it.
pub(super) async fn given(context: &Context, raw: &mut Raw) -> Result<(), Failure> {
    let registration = raw.source.client().and_then(|client| client.spec.registration.as_ref());
    let named = registration.and_then(|registration| registration.client_secret_ref.as_ref());
    let Some(name) = named.map(|named| named.name.clone()) else { return Ok(()) };
    let found = fetch::secret(&context.client, &raw.source.key.namespace, &name).await?;
    raw.given = Some((name, found));
    Ok(())
}

/// Fetches the signing key and the Secret; or says what is in the way.
pub(super) async fn kept(context: &Context, client: &Client, raw: &Raw) -> Result<Result<Kept, Outcome>, Failure> {
    let authority = raw.authorities.iter().find(|authority| authority.id.name == client.grant.authority);
    let Some(authority) = authority else { return Ok(Err(Outcome::Hindered)) };
    let system = &context.installation.system_namespace;
    let signer = match signing::signer(&context.client, system, authority, &context.fence).await {
        Ok(signer) => signer,
        Err(SigningError::Fenced) => return Err(Failure::NotLeading),
        Err(SigningError::Api(error)) => return Err(Failure::Dereference(error)),
        Err(error) => {
            return Ok(Err(Outcome::Unsignable { reason: error.reason(), message: error.to_string() }));
        }
    };
    let found =
        owned_secret::find(&context.client, &client.id, &client.secret_name).await.map_err(Failure::Dereference)?;
    let held = match &found {
        Found::Own { data, .. } => data.get(TOKEN).and_then(|token| signer.read(token.expose())),
        Found::Foreign => return Ok(Err(Outcome::Foreign)),
        Found::Forbidden => return Ok(Err(Outcome::Forbidden)),
        Found::Absent => None,
    };
    Ok(Ok(Kept { signer, found, held }))
}
