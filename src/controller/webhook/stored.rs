//! How authorities, the webhook's certificate and the key of its secret paths lie in Secrets.
//!
//! Invariant: what cannot be read counts as not there, and is made anew; nothing of these Secrets is in any output.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;

use super::authority::{Authority, Pair, belong_together};
use super::next::{Held, Leaf, Which};
use crate::cluster::secret_path::Key;
use crate::process::certificate::{believed, certificates, validity};

/// The Secret with the authorities.
pub const CA: &str = "portcullis-webhook-ca";
/// The Secret that the webhook mounts.
pub const TLS: &str = "portcullis-webhook-tls";
/// The Secret with the key of the paths, which the webhook mounts too.
pub const PATH: &str = "portcullis-webhook-path";
/// When the authority before lost its key.
const RETIRED: &str = "portcullis.dev/retired-at";

/// The authorities that there are.
#[derive(Default)]
pub struct Kept {
    /// The one that was made last.
    pub newest: Option<Authority>,
    /// The one before.
    pub previous: Option<Authority>,
    /// Since when the one before has no key.
    pub retired_at: Option<i64>,
}

impl Kept {
    /// What a Secret holds.
    pub fn read(secret: &Secret) -> Self {
        let authority = |certificate: &str, key: &str| Authority::read(text(secret, certificate)?, text(secret, key));
        let retired = secret.metadata.annotations.as_ref().and_then(|all| all.get(RETIRED));
        Self {
            newest: authority("ca.crt", "ca.key"),
            previous: authority("previous.crt", "previous.key"),
            retired_at: retired.and_then(|at| at.parse::<Timestamp>().ok()).map(Timestamp::as_second),
        }
    }

    /// The Secret that holds them, in place of what is there.
    pub fn write(&self, found: Option<Secret>) -> Secret {
        let mut data = BTreeMap::new();
        let mut put = |name: &str, text: Option<String>| {
            data.extend(text.map(|text| (name.to_owned(), ByteString(text.into_bytes()))));
        };
        for (certificate, key, authority) in
            [("ca.crt", "ca.key", &self.newest), ("previous.crt", "previous.key", &self.previous)]
        {
            put(certificate, authority.as_ref().map(|authority| authority.pem.clone()));
            put(key, authority.as_ref().and_then(Authority::key_pem));
        }
        let mut secret = named(CA, found, data);
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.remove(RETIRED);
        let retired = self.retired_at.and_then(|at| Timestamp::from_second(at).ok());
        annotations.extend(retired.map(|at| (RETIRED.to_owned(), at.to_string())));
        secret
    }

    /// One of them.
    pub fn get(&self, which: Which) -> Option<&Authority> {
        match which {
            Which::Newest => self.newest.as_ref(),
            Which::Previous => self.previous.as_ref(),
        }
    }

    /// A new one is the newest from now on. Of two that were there, the one goes by which nothing is served.
    pub fn found(&mut self, authority: Authority, leaf: Option<Leaf>) {
        let newest = self.newest.replace(authority);
        let previous = self.previous.take();
        self.previous = match leaf.map(|leaf| leaf.by) {
            Some(Which::Previous) => previous.or(newest),
            _ => newest.or(previous),
        };
        self.retired_at = None;
    }

    /// What callers are told.
    pub fn bundle(&self) -> Vec<u8> {
        let pem = |authority: &Option<Authority>| authority.as_ref().map(|one| one.pem.clone()).unwrap_or_default();
        (pem(&self.newest) + &pem(&self.previous)).into_bytes()
    }

    /// An authority as it is judged; `told`: what each caller was told.
    pub fn held(&self, which: Which, told: &[Vec<u8>]) -> Option<Held> {
        let authority = self.get(which)?;
        let names = |bundle: &Vec<u8>| certificates(bundle).is_some_and(|all| all.contains(&authority.certificate));
        Some(Held { validity: authority.validity, signs: authority.signs(), believed: told.iter().all(names) })
    }

    /// The webhook's certificate, if it is good for all these names.
    pub fn leaf(&self, secret: &Secret, names: &[String], now: i64) -> Option<Leaf> {
        let chain = certificates(text(secret, "tls.crt")?.as_bytes())?;
        if !belong_together(&chain, text(secret, "tls.key")?) {
            return None;
        }
        let by = [Which::Newest, Which::Previous].into_iter().find(|which| {
            let Some(authority) = self.get(*which) else { return false };
            let anchor = std::slice::from_ref(&authority.certificate);
            names.iter().all(|name| believed(&chain, anchor, name, now).is_ok())
        })?;
        Some(Leaf { validity: validity(chain.first()?)?, by })
    }
}

/// The Secret that the webhook mounts, in place of what is there.
pub fn mounted(pair: Pair, authority: &Authority, found: Option<Secret>) -> Secret {
    let data = [("tls.crt", pair.certificate), ("tls.key", pair.key), ("ca.crt", authority.pem.clone())];
    let data = data.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
    Secret { type_: Some("kubernetes.io/tls".to_owned()), ..named(TLS, found, data.into()) }
}

/// The key of the paths.
pub fn key(secret: &Secret) -> Option<Key> {
    Key::read(&secret.data.as_ref()?.get("key")?.0)
}

/// The Secret that has it, in place of what is there.
pub fn hidden(key: &Key, found: Option<Secret>) -> Secret {
    let data = BTreeMap::from([("key".to_owned(), ByteString(key.as_bytes().to_vec()))]);
    named(PATH, found, data)
}

fn named(name: &str, found: Option<Secret>, data: BTreeMap<String, ByteString>) -> Secret {
    let found = found.unwrap_or_default();
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..found.metadata };
    Secret { metadata, data: Some(data), ..found }
}

fn text<'a>(secret: &'a Secret, name: &str) -> Option<&'a str> {
    std::str::from_utf8(&secret.data.as_ref()?.get(name)?.0).ok()
}

#[cfg(test)]
mod tests {
    use super::super::next::{AUTHORITY, DAY, LEAF};
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn names() -> Vec<String> {
        vec!["portcullis-webhook.portcullis-system.svc".to_owned(), "127.0.0.1".to_owned()]
    }

    fn kept(newest: Authority) -> Kept {
        Kept { newest: Some(newest), ..Kept::default() }
    }

    #[test]
    fn what_is_kept_is_read_again_and_signs_what_was_asked_for() {
        let mut kept = kept(Authority::make(NOW).unwrap());
        let first = kept.get(Which::Newest).unwrap().issue(&names(), NOW).unwrap().unwrap();
        let tls = mounted(first, kept.get(Which::Newest).unwrap(), None);
        let leaf = kept.leaf(&tls, &names(), NOW).unwrap();
        assert_eq!((leaf.by, leaf.validity.not_after), (Which::Newest, NOW + LEAF));
        assert!(kept.leaf(&tls, &names(), NOW + LEAF + 1).is_none());
        assert!(kept.leaf(&tls, &["other.example".to_owned()], NOW).is_none());

        kept.found(Authority::make(NOW + DAY).unwrap(), Some(leaf));
        let again = Kept::read(&kept.write(None));
        assert_eq!(again.bundle(), kept.bundle());
        // Both can sign, and each is told from the other.
        assert_eq!(again.leaf(&tls, &names(), NOW + DAY).unwrap().by, Which::Previous);
        let second = again.get(Which::Newest).unwrap().issue(&names(), NOW + DAY).unwrap().unwrap();
        let tls = mounted(second, again.get(Which::Newest).unwrap(), Some(tls));
        assert_eq!(again.leaf(&tls, &names(), NOW + DAY).unwrap().by, Which::Newest);
        let third = again.get(Which::Previous).unwrap().issue(&names(), NOW + DAY).unwrap().unwrap();
        let tls = mounted(third, again.get(Which::Previous).unwrap(), Some(tls));
        assert_eq!(again.leaf(&tls, &names(), NOW + DAY).unwrap().by, Which::Previous);
        assert_eq!(again.held(Which::Newest, &[]).unwrap().validity.not_after, NOW + DAY + AUTHORITY);
    }

    #[test]
    fn an_authority_is_retired_by_its_key_and_believed_by_who_was_told() {
        let mut kept = kept(Authority::make(NOW).unwrap());
        kept.found(Authority::make(NOW).unwrap(), None);
        kept.previous.as_mut().unwrap().retire();
        kept.retired_at = Some(NOW);
        let secret = kept.write(None);
        assert!(!secret.data.as_ref().unwrap().contains_key("previous.key"));
        let again = Kept::read(&secret);
        assert_eq!(again.retired_at, Some(NOW));
        let (bundle, alone) = (again.bundle(), again.get(Which::Newest).unwrap().pem.clone().into_bytes());
        let believed = |which, told: &[Vec<u8>]| again.held(which, told).unwrap().believed;
        assert!(believed(Which::Previous, std::slice::from_ref(&bundle)) && believed(Which::Previous, &[]));
        assert!(
            !believed(Which::Previous, &[bundle.clone(), alone.clone()]) && believed(Which::Newest, &[bundle, alone])
        );
        assert!(!believed(Which::Newest, &[Vec::new()]) && !again.held(Which::Previous, &[]).unwrap().signs);
    }

    #[test]
    fn a_key_is_kept_and_one_that_is_none_is_not_there() {
        let made = Key::make().unwrap();
        let mut secret = hidden(&made, None);
        assert_eq!(key(&secret), Some(made));
        secret.data = Some([("key".to_owned(), ByteString(b"short".to_vec()))].into());
        assert!(key(&secret).is_none() && key(&Secret::default()).is_none());
    }

    #[test]
    fn what_is_broken_or_does_not_belong_together_is_not_there() {
        let whole = kept(Authority::make(NOW).unwrap()).write(None);
        let other = Authority::make(NOW).unwrap();
        let with = |name: &str, text: &str| {
            let mut secret = whole.clone();
            secret.data.as_mut().unwrap().insert(name.to_owned(), ByteString(text.into()));
            Kept::read(&secret)
        };
        assert!(with("ca.crt", "nothing").newest.is_none());
        assert!(!with("ca.key", "nothing").newest.unwrap().signs());
        assert!(!with("ca.key", &other.key_pem().unwrap()).newest.unwrap().signs());
        assert!(with("ca.crt", &format!("{0}{0}", other.pem)).newest.is_none());
    }
}
