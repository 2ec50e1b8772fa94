//! Where authorities get their keys: from their issuer's metadata, or from the gateway's own signing key.
//!
//! Invariant: an authority is served with the keys and revocations that are known now, or with none, and then refuses
//! every token; it is never served with another authority's.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio_util::sync::CancellationToken;

use super::state::StateDir;
use crate::egress::{Egress, TlsOptions};
use crate::generated::Authority;
use crate::generated::authority::{KeySet, KeySource, Revocation};
use crate::generated::codec::{self, Generated};
use crate::issuer::{JwksSource, LocalAuthority, SystemClock, Timing};
use crate::process::Drain;
use crate::proxy::gateway::{Change, Gateway, KeyRefresh};

/// The keys of all authorities.
pub struct Keys {
    egress: Egress,
    state: StateDir,
    drain: Drain,
    gateway: OnceLock<Weak<Gateway>>,
    held: Mutex<BTreeMap<String, Held>>,
}

/// One authority.
struct Held {
    authority: Authority,
    supply: Supply,
    stop: CancellationToken,
}

/// What is known besides the manifest.
enum Supply {
    Remote {
        source: JwksSource,
        key_set: Option<KeySet>,
    },
    Local {
        issuer: Arc<LocalAuthority>,
        revoked: Option<Vec<Revocation>>,
    },
    /// It cannot be had: every token is refused.
    None,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Keys {
    /// Holds no authority yet.
    pub fn new(egress: Egress, state: StateDir, drain: Drain) -> Self {
        Self { egress, state, drain, gateway: OnceLock::new(), held: Mutex::default() }
    }

    /// Says who serves the authorities. Once; before that, nothing that becomes known of keys is served.
    pub fn serve_through(&self, gateway: &Arc<Gateway>) {
        self.gateway.get_or_init(|| Arc::downgrade(gateway));
    }

    /// The local authority of this name.
    pub fn local(&self, name: &str) -> Option<Arc<LocalAuthority>> {
        match &self.held().get(name)?.supply {
            Supply::Local { issuer, .. } => Some(issuer.clone()),
            Supply::Remote { .. } | Supply::None => None,
        }
    }

    /// Takes over the authorities of the manifests, and hands them, with the keys that are known, to `serve`: under
    /// the lock, so that no newer keys are overtaken.
    pub fn replace(self: &Arc<Self>, authorities: Vec<Authority>, serve: impl FnOnce(Vec<Authority>)) {
        let mut held = self.held();
        let mut next = BTreeMap::new();
        for authority in authorities {
            let name = authority.id.name.clone();
            let same = |old: &Held| old.authority.issuer == authority.issuer && old.authority.keys == authority.keys;
            let entry = match held.remove(&name) {
                Some(mut old) if same(&old) => {
                    old.authority = authority;
                    old
                }
                _ => self.hold(authority),
            };
            next.insert(name, entry);
        }
        *held = next;
        serve(held.values().map(Held::complete).collect());
    }

    fn hold(self: &Arc<Self>, authority: Authority) -> Held {
        let stop = self.drain.draining().child_token();
        let name = authority.id.name.clone();
        let supply = match &authority.keys {
            KeySource::Discovery { ca_pem } => self.remote(&authority, ca_pem.clone(), &stop),
            KeySource::Local => match LocalAuthority::open(&self.state.issuer(&name), authority.issuer.clone()) {
                Ok(issuer) => self.local_supply(name, issuer, &stop),
                Err(error) => {
                    tracing::error!(authority = name, reason = error.reason(), %error, "local authority unusable");
                    Supply::None
                }
            },
        };
        Held { authority, supply, stop }
    }

    fn remote(self: &Arc<Self>, authority: &Authority, ca_pem: Option<String>, stop: &CancellationToken) -> Supply {
        let name = authority.id.name.clone();
        let fetcher = match self.egress.fetcher(&TlsOptions { ca_pem, server_name: None }) {
            Ok(fetcher) => fetcher,
            Err(error) => {
                tracing::error!(authority = name, reason = error.reason(), %error, "keys cannot be fetched");
                return Supply::None;
            }
        };
        let clock = Arc::new(SystemClock::default());
        let source = JwksSource::new(authority.issuer.clone(), fetcher, Timing::default(), clock);
        self.drain.spawn(source.clone().run(stop.clone()));
        let (mut state, keys, stop) = (source.subscribe(), Arc::downgrade(self), stop.clone());
        self.drain.spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = state.changed() => if changed.is_err() { return },
                }
                let failure = state.borrow_and_update().failure.clone();
                if let Some(failure) = failure {
                    tracing::warn!(authority = name, reason = failure.reason(), error = %failure, "keys not fetched");
                }
                let Some(keys) = keys.upgrade() else { return };
                keys.apply(&name, |supply| supply.refresh());
            }
        });
        Supply::Remote { source, key_set: None }
    }

    fn local_supply(self: &Arc<Self>, name: String, issuer: LocalAuthority, stop: &CancellationToken) -> Supply {
        let mut revocations = issuer.watch();
        let first = revocations.poll().and_then(Result::ok);
        let (keys, stop) = (Arc::downgrade(self), stop.clone());
        self.drain.spawn(async move {
            loop {
                let list = tokio::select! {
                    () = stop.cancelled() => return,
                    list = revocations.changed() => list,
                };
                if let Err(error) = &list {
                    tracing::error!(authority = name, reason = error.reason(), %error, "revocations unreadable");
                }
                let Some(keys) = keys.upgrade() else { return };
                keys.apply(&name, |supply| {
                    if let Supply::Local { revoked, .. } = supply {
                        *revoked = list.ok();
                    }
                });
            }
        });
        Supply::Local { issuer: Arc::new(issuer), revoked: first }
    }

    /// Changes what is known of an authority, and serves it: under the lock, so that an older state cannot overtake.
    fn apply(&self, name: &str, change: impl FnOnce(&mut Supply)) {
        let mut held = self.held();
        let (Some(entry), Some(gateway)) = (held.get_mut(name), self.gateway.get().and_then(Weak::upgrade)) else {
            return;
        };
        change(&mut entry.supply);
        match codec::encode(&Generated::Authority(entry.complete())) {
            Ok(bytes) => gateway.apply(vec![Change::Put(bytes)]),
            Err(error) => tracing::error!(authority = name, %error, "authority cannot be served"),
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// The authority as it is served now.
    fn complete(&self) -> Authority {
        let mut authority = self.authority.clone();
        match &self.supply {
            Supply::Remote { key_set, .. } => authority.key_set.clone_from(key_set),
            // Without its revocations no token of the authority can be believed.
            Supply::Local { issuer, revoked: Some(revoked) } => {
                authority.key_set = Some(KeySet { jwks: issuer.jwks().to_owned(), valid_until: i64::MAX });
                authority.revoked.extend(revoked.iter().cloned());
            }
            Supply::Local { revoked: None, .. } | Supply::None => {}
        }
        authority
    }
}

impl Supply {
    /// Takes what the source has fetched by now.
    fn refresh(&mut self) {
        if let Supply::Remote { source, key_set } = self {
            key_set.clone_from(&source.subscribe().borrow().key_set);
        }
    }
}

impl KeyRefresh for Keys {
    fn refresh<'a>(&'a self, authority: &'a str, kid: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let source = match self.held().get(authority).map(|held| &held.supply) {
                Some(Supply::Remote { source, .. }) => source.clone(),
                _ => return,
            };
            if source.unknown_kid(kid).await {
                self.apply(authority, Supply::refresh);
            }
        })
    }
}
