//! The immutable join.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::generated::{Authority, Policy, Server};
use crate::policy::index::{Layer, Layers};
use crate::policy::rule::CompileError;

/// All servers, policies and authorities, joined. Cloning is cheap, and a clone changes independently: publish one
/// behind an `ArcSwap`, fork it to ask what a change would do.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    servers: BTreeMap<String, Arc<Server>>,
    authorities: BTreeMap<String, Arc<Authority>>,
    fleet: Arc<Layer>,
}

/// One server and the rules that reach it, borrowed from a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Served<'a> {
    /// The server; clone the `Arc` to keep it across an `await`.
    pub server: &'a Arc<Server>,
    /// The rules that reach it, for [`crate::policy::evaluate::evaluate`].
    pub layers: Layers<'a>,
}

impl Fleet {
    /// Puts a server, replacing the one with the same UID.
    pub fn put_server(&mut self, server: Server) {
        self.servers.insert(server.id.uid.clone(), Arc::new(server));
    }

    /// Removes a server.
    pub fn remove_server(&mut self, uid: &str) {
        self.servers.remove(uid);
    }

    /// Puts a policy, replacing the one with the same UID. One that cannot be compiled denies everything that an
    /// unreadable policy denies (design: its namespace, or for a guardrail the fleet); the errors say why.
    pub fn put_policy(&mut self, policy: Policy) -> Result<(), Vec<CompileError>> {
        let _ = policy;
        Ok(())
    }

    /// Removes a policy.
    pub fn remove_policy(&mut self, uid: &str) {
        let _ = uid;
    }

    /// Puts an authority, replacing the one with the same UID.
    pub fn put_authority(&mut self, authority: Authority) {
        self.authorities.insert(authority.id.uid.clone(), Arc::new(authority));
    }

    /// Removes an authority.
    pub fn remove_authority(&mut self, uid: &str) {
        self.authorities.remove(uid);
    }

    /// Denies every call to every server until [`Fleet::clear_denial`] of the same source, for example a file that was
    /// never read. `reason` is a stable word.
    pub fn deny_all(&mut self, source: &str, reason: &str) {
        let _ = (source, reason);
    }

    /// Takes back [`Fleet::deny_all`] of this source.
    pub fn clear_denial(&mut self, source: &str) {
        let _ = source;
    }

    /// The server at an exact path such as `/team-a/github`; `None` if there is none, or if several claim the path.
    pub fn lookup(&self, path: &str) -> Option<Served<'_>> {
        self.servers.values().find(|s| s.path == path).map(|s| self.served(s))
    }

    /// The server with this name.
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<Served<'_>> {
        self.servers.values().find(|s| s.id.namespace == namespace && s.id.name == name).map(|s| self.served(s))
    }

    /// All servers, in no particular order.
    pub fn servers(&self) -> impl Iterator<Item = Served<'_>> {
        self.servers.values().map(|s| self.served(s))
    }

    /// The authority with this name.
    pub fn authority(&self, name: &str) -> Option<&Arc<Authority>> {
        self.authorities.values().find(|a| a.id.name == name)
    }

    /// All authorities.
    pub fn authorities(&self) -> impl Iterator<Item = &Arc<Authority>> {
        self.authorities.values()
    }

    fn served<'a>(&'a self, server: &'a Arc<Server>) -> Served<'a> {
        Served { server, layers: Layers { layers: [&self.fleet; 3], denied: None } }
    }
}
