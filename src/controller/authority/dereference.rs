//! Everything that a trust anchor refers to. A client is needed.

use std::sync::Arc;

use crate::api::Key;
use crate::api::core::ConfigMap;
use crate::controller::Context;
use crate::controller::client::next::Listed;
use crate::controller::error::Failure;
use crate::controller::fetch::{self, Fetched};
use crate::controller::store::Source;
use crate::generated::Authority;

/// A trust anchor, and what was found of what it refers to.
pub(super) struct Raw {
    pub(super) source: Arc<Source>,
    /// As it was last written, with its keys.
    pub(super) previous: Option<Authority>,
    pub(super) certificates: Option<(String, ConfigMap)>,
    /// Its clients.
    pub(super) clients: Vec<Listed>,
    refers: bool,
}

impl Raw {
    /// Whether it refers to objects that are read again from time to time.
    pub(super) fn refers(&self) -> bool {
        self.refers
    }
}

/// Fetches what a trust anchor refers to; `None` if it is gone.
pub(super) async fn dereference(context: &Context, key: &Key) -> Result<Option<Raw>, Failure> {
    let known = {
        let store = context.store();
        store.source(key).map(|source| (store.last_authority(&source.id.uid), store.clients_of(&key.name), source))
    };
    let Some((previous, clients, source)) = known else { return Ok(None) };
    let reference = source.authorization_server().and_then(|server| server.spec.ca_ref.clone());
    let mut raw = Raw { source, previous, certificates: None, clients, refers: reference.is_some() };
    if let Some(reference) = reference {
        let (client, name) = (&context.client, reference.config_map_name);
        if let Fetched::Found(map) = fetch::config_map(client, &context.installation.system_namespace, &name).await? {
            raw.certificates = Some((name, map));
        }
    }
    Ok(Some(raw))
}
