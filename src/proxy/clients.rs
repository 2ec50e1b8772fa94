//! Documents of clients (draft-ietf-oauth-client-id-metadata-document), as authorization servers fetch them.
//!
//! Invariant: what is served at a path names exactly the URL of that path as its client, and is what the strictest reader
//! takes; so whoever reaches the gateway by another name, or reads a path in another way, gets nothing that means somebody.

use std::sync::Arc;

use bytes::Bytes;

use crate::fleet::ShardMap;
use crate::generated::{Client, ObjectId, client};
use crate::oauth::client_metadata_document::{self, ClientDocumentError};

/// By UID. Cloning is cheap, and a clone changes independently.
#[derive(Clone, Default)]
pub(super) struct Clients(ShardMap<Arc<Served>>);

struct Served {
    document: Bytes,
    keys: Option<Bytes>,
}

impl Clients {
    /// What an exact path has.
    pub(super) fn get(&self, path: &str) -> Option<&Bytes> {
        let (uid, keys) = client::of_path(path)?;
        let served = self.0.get(uid)?;
        if keys { served.keys.as_ref() } else { Some(&served.document) }
    }

    /// Puts a client, instead of the one with its UID.
    ///
    /// # Errors
    /// If its document is not one about the URL at which it would be served; then nothing is served there.
    pub(super) fn put(&mut self, source: Client, public_url: &str) -> Result<(), (ObjectId, ClientDocumentError)> {
        let url = format!("{public_url}{}", client::path(&source.id.uid));
        if let Err(error) = client_metadata_document::parse(source.document.as_bytes(), &url) {
            self.remove(&source.id.uid);
            return Err((source.id, error));
        }
        let (document, keys) = (Bytes::from(source.document), source.key_set.map(Bytes::from));
        self.0.insert(&source.id.uid, Arc::new(Served { document, keys }));
        Ok(())
    }

    /// Removes a client.
    pub(super) fn remove(&mut self, uid: &str) {
        self.0.remove(uid);
    }
}
