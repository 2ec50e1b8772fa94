//! Clients, and the authorities that list them.

use std::collections::HashSet;
use std::sync::Arc;

use super::source::{self, Outline, Source};
use super::{Reference, Store, Touched, whole};
use crate::api;
use crate::api::Key;
use crate::controller::client::next::{Listed, remembered};
use crate::controller::proxies::Programming;
use crate::controller::queue::{Depth, Subject};
use crate::generated::Kind;
use crate::generated::authority::KeySource;
use crate::resolve::ClientKind;

/// How its authority lists a client that it gives a token: by what its spec and its status say, so that whoever leads next lists it alike.
pub(super) fn listed(source: &Source) -> Option<(String, Listed)> {
    let Outline::Client(client, _) = &source.outline else { return None };
    let ClientKind::Token(client) = client.as_ref() else { return None };
    let created = source.created().unwrap_or_default();
    let valid_after = client.valid_after.max(remembered(&source.client_status()));
    Some((client.grant.authority.clone(), Listed { created, client_id: client.client_id.clone(), valid_after }))
}

/// The McpClient that has this id.
fn key_of(client_id: &str) -> Option<Key> {
    let mut parts = client_id.split('/').map(str::to_owned);
    Some(Key { kind: api::Kind::McpClient, namespace: parts.next()?, name: parts.next()? })
}

fn authority_key(name: &str) -> Key {
    Key { kind: api::Kind::McpAuthorizationServer, namespace: String::new(), name: name.to_owned() }
}

impl Store {
    /// The clients of an authority.
    pub fn clients_of(&self, authority: &str) -> Vec<Listed> {
        let clients = self.sources.values().filter(|source| source.key.kind == api::Kind::McpClient);
        clients
            .filter_map(|source| listed(source))
            .filter(|(of, _)| of == authority)
            .map(|(_, listed)| listed)
            .collect()
    }

    /// The UIDs of clients that are registered at authorization servers, or may be: what cannot be read may say so.
    pub fn registered_clients(&self) -> HashSet<String> {
        let clients = self.sources.values().filter(|source| source.key.kind == api::Kind::McpClient);
        let registered = clients.filter(|source| source.client().is_none_or(|it| it.spec.registration.is_some()));
        registered.map(|source| source.id.uid.clone()).collect()
    }

    /// A client that is valid in itself, with the id that policies name it by: that by which it is registered at the issuer that
    /// its authority is now.
    pub fn client(&self, namespace: &str, name: &str) -> Option<Arc<ClientKind>> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let source = self.sources.get(&Key { kind: api::Kind::McpClient, namespace, name })?;
        let Outline::Client(client, known) = &source.outline else { return None };
        let registration = self.registration(client.authority());
        let issuer = registration.as_ref().map(|registration| registration.issuer.as_str());
        Some(client.known_as(known.as_ref(), issuer).map_or_else(|| client.clone(), Arc::new))
    }

    /// What proxies make of what their authority's list says of a client; `None` if there is no such list.
    pub fn client_programming(&self, key: &Key) -> Option<Programming> {
        let (authority, listed) = listed(self.sources.get(key)?)?;
        let authority = self.authority(&authority).filter(|authority| authority.keys == KeySource::Local)?;
        let uid = &authority.id.uid;
        // What is not written yet is applied by nobody.
        let version = self.told.lists(uid, &listed).unwrap_or(u64::MAX);
        Some(self.proxies.programming(uid, Kind::Authority, version))
    }

    /// Touches the clients that were listed, or listed otherwise, in these versions.
    pub(super) fn listed_between(&self, after: u64, upto: u64, touched: &mut Touched) {
        let keys = self.told.listed_since(after, upto).filter_map(|id| key_of(id));
        let there = keys.filter(|key| self.sources.contains_key(key));
        touched.extend(there.map(|key| (Subject::Source(key), Depth::Status)));
    }

    /// Touches the clients that a list has, or has otherwise, since it was last written: proxies may have applied it by now.
    pub(super) fn newly_listed(&self, at: &(Kind, String), touched: &mut Touched) {
        if let Some(present) = self.present.get(at).filter(|_| at.0 == Kind::Authority) {
            self.listed_between(present.seen.version.saturating_sub(1), present.seen.version, touched);
        }
    }

    /// Touches the authorities whose list changes with a client.
    pub(super) fn relist(&self, key: &Key, was: Option<(String, Listed)>, touched: &mut Touched) {
        let is = self.sources.get(key).and_then(|source| listed(source));
        if was != is {
            touched.extend(was.into_iter().chain(is).map(|(authority, _)| whole(&authority_key(&authority))));
        }
    }

    /// What is known of the cluster's issuer has changed, or was confirmed: trust anchors that depend on it are judged anew.
    pub fn issuer_changed(&mut self) -> Touched {
        let cluster = self.issuer.cluster(&self.installation);
        let settings = self.installation.settings(&cluster);
        let mut touched = Touched::new();
        for (key, source) in &mut self.sources {
            if source.authorization_server().is_none_or(|server| server.spec.kubernetes.is_none()) {
                continue;
            }
            let outline = source::outline_of(source, &settings);
            if outline != source.outline {
                Arc::make_mut(source).outline = outline;
                touched.extend(self.interest.followers(&Reference::Authority(key.name.clone())).map(whole));
            }
            touched.push(whole(key));
        }
        touched
    }
}
