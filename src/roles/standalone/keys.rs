//! Where authorities get their keys: from their issuer's metadata, or from the gateway's own signing key.
//!
//! Invariant: an authority is served with the keys and revocations that are known now, or with none, and then refuses
//! every token; it is never served with another authority's. Serving it compiles what trusts it: that, and whatever
//! waits for it, happens on a blocking thread; a request looks up and waits without a lock.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::egress::{Egress, TlsOptions};
use crate::generated::Authority;
use crate::generated::authority::{KeySet, KeySource, Revocation};
use crate::generated::codec::Generated;
use crate::issuer::{JwksSource, KeyState, LocalAuthority, SystemClock, Timing};
use crate::process::Drain;
use crate::proxy::gateway::{Change, Gateway, KeyRefresh};
use crate::roles::serving::StateDir;

/// The keys of all authorities.
pub struct Keys {
    egress: Egress,
    state: StateDir,
    drain: Drain,
    gateway: OnceLock<Weak<Gateway>>,
    /// Locked while it is served, so that an older state cannot overtake a newer one. Never on a request's thread.
    held: Mutex<BTreeMap<String, Held>>,
    /// Those of `held` whose keys are fetched: what a request looks up.
    remotes: ArcSwap<BTreeMap<String, Remote>>,
}

/// One authority.
struct Held {
    authority: Authority,
    supply: Supply,
    stop: CancellationToken,
}

/// What is known besides the manifest.
enum Supply {
    Remote(Remote),
    Local {
        issuer: Arc<LocalAuthority>,
        revoked: Option<Vec<Revocation>>,
    },
    /// It cannot be had: every token is refused.
    None,
}

/// Keys that are fetched.
#[derive(Clone)]
struct Remote {
    source: JwksSource,
    /// What the source has fetched is served up to this attempt. Closed when nobody follows the source any more.
    served: watch::Receiver<u64>,
}

impl Remote {
    /// Ends when what has been fetched by now is served.
    async fn served(&mut self) {
        let attempts = self.source.subscribe().borrow().attempts;
        // An error says that the authority is gone, or that the gateway ends: nothing is to come.
        self.served.wait_for(|served| *served >= attempts).await.ok();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Keys {
    /// Holds no authority yet.
    pub fn new(egress: Egress, state: StateDir, drain: Drain) -> Self {
        Self { egress, state, drain, gateway: OnceLock::new(), held: Mutex::default(), remotes: ArcSwap::default() }
    }

    /// Says who serves the authorities. Once; before that, nothing that becomes known of keys is served.
    pub fn serve_through(&self, gateway: &Arc<Gateway>) {
        self.gateway.get_or_init(|| Arc::downgrade(gateway));
    }

    /// The local authority of this name.
    pub fn local(&self, name: &str) -> Option<Arc<LocalAuthority>> {
        match &self.held().get(name)?.supply {
            Supply::Local { issuer, .. } => Some(issuer.clone()),
            Supply::Remote(_) | Supply::None => None,
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
        let remotes = held.iter().filter_map(|(name, held)| match &held.supply {
            Supply::Remote(remote) => Some((name.clone(), remote.clone())),
            Supply::Local { .. } | Supply::None => None,
        });
        self.remotes.store(Arc::new(remotes.collect()));
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
            // A gateway that stands alone resolves none.
            KeySource::Kubernetes => Supply::None,
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
        let (mut state, keys) = (source.subscribe(), Arc::downgrade(self));
        self.drain.spawn(source.clone().run(stop.clone()));
        let (stop, (tell, served)) = (stop.clone(), watch::channel(0));
        self.drain.spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = state.changed() => if changed.is_err() { return },
                }
                let KeyState { failure, attempts, .. } = state.borrow_and_update().clone();
                if let Some(failure) = failure {
                    tracing::warn!(authority = name, reason = failure.reason(), error = %failure, "keys not fetched");
                }
                let Some(keys) = keys.upgrade() else { return };
                keys.apply(name.clone(), |_| ()).await;
                tell.send_replace(attempts);
            }
        });
        Supply::Remote(Remote { source, served })
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
                let change = |supply: &mut Supply| {
                    if let Supply::Local { revoked, .. } = supply {
                        *revoked = list.ok();
                    }
                };
                keys.apply(name.clone(), change).await;
            }
        });
        Supply::Local { issuer: Arc::new(issuer), revoked: first }
    }

    /// Changes what is known of an authority, and serves it, where waiting holds up nobody.
    async fn apply(self: Arc<Self>, name: String, change: impl FnOnce(&mut Supply) + Send + 'static) {
        let applied = tokio::task::spawn_blocking(move || self.apply_now(&name, change));
        if let Err(error) = applied.await {
            tracing::error!(%error, "keys could not be applied");
        }
    }

    /// Under the lock, so that an older state cannot overtake.
    fn apply_now(&self, name: &str, change: impl FnOnce(&mut Supply)) {
        let mut held = self.held();
        let (Some(entry), Some(gateway)) = (held.get_mut(name), self.gateway.get().and_then(Weak::upgrade)) else {
            return;
        };
        change(&mut entry.supply);
        match Change::put(&Generated::Authority(entry.complete())) {
            Ok(change) => gateway.apply(vec![change]),
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
            Supply::Remote(remote) => authority.key_set.clone_from(&remote.source.subscribe().borrow().key_set),
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

impl KeyRefresh for Keys {
    fn refresh<'a>(&'a self, authority: &'a str, kid: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let remote = self.remotes.load().get(authority).cloned();
            let Some(mut remote) = remote else { return };
            if remote.source.unknown_kid(kid).await {
                remote.served().await;
            }
        })
    }

    fn first_keys<'a>(&'a self, authority: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let remote = self.remotes.load().get(authority).cloned();
            let Some(mut remote) = remote else { return };
            remote.source.attempted().await;
            remote.served().await;
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::egress::testing::{Seen, json, open_egress, serve};

    /// One that has the key `a`, as soon as it was asked.
    async fn trusted() -> Authority {
        let server = serve(|asked: &Seen| {
            let origin = format!("http://{}", asked.headers["host"].to_str().unwrap());
            json(match asked.path.as_str() {
                "/jwks" => r#"{"keys":[{"kty":"EC","kid":"a"}]}"#.to_owned(),
                _ => format!(r#"{{"issuer":"{origin}","jwks_uri":"{origin}/jwks"}}"#),
            })
        })
        .await;
        Authority::plain("trusted", &server.url(""))
    }

    #[tokio::test]
    async fn a_request_waits_for_its_keys_to_be_served_and_holds_up_nobody_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let (state, drain) = (StateDir::open(dir.path()).unwrap(), Drain::new());
        let keys = Arc::new(Keys::new(open_egress(), state, drain));
        let authority = trusted().await;
        keys.replace(vec![authority.clone()], |_| ());

        // Something is served all the while.
        let (begun, (release, released)) = (Arc::new(tokio::sync::Notify::new()), mpsc::channel());
        let serving = tokio::task::spawn_blocking({
            let (keys, begun) = (keys.clone(), begun.clone());
            move || {
                let mut in_time = false;
                keys.replace(vec![authority], |_| {
                    begun.notify_one();
                    in_time = released.recv_timeout(Duration::from_secs(20)).is_ok();
                });
                in_time
            }
        });
        begun.notified().await;
        // Whoever asks for a refresh waits for so long, and a fetch on a busy machine may take longer: it is over already.
        let mut state = keys.remotes.load()["trusted"].source.subscribe();
        state.wait_for(|state| state.attempts > 0).await.unwrap();
        let mut refresh = keys.refresh("trusted", "a");
        tokio::select! {
            biased;
            () = &mut refresh => panic!("ended before its keys were served"),
            () = std::future::ready(()) => {}
        }
        release.send(()).unwrap();
        assert!(serving.await.unwrap(), "who looks up keys waited for what is being served");
        refresh.await;
    }
}
