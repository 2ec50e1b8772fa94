//! Under which paths the API server asks the admission webhook: `/validate/<time>-<code>` and `/deletions/<time>-<code>`.
//!
//! Invariant: only who has the key makes a path that opens; key and code are in no output of ours; and comparing takes as long
//! whatever is compared.
//!
//! API servers show webhooks no credential unless each of them was set up for that, but they call exactly what a
//! ValidatingWebhookConfiguration says. So a path that others are not told keeps them from asking. Others can come to see one:
//! Kubernetes puts the URL into what it says of a call that failed. That is why a path has a time, and is another one soon.

use std::fmt;

use aws_lc_rs::hmac;
use k8s_openapi::api::admissionregistration::v1::WebhookClientConfig;
use url::Url;

/// Bytes of a key.
const BYTES: usize = 32;

/// What the API server asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// What is made and changed.
    Changes,
    /// What goes.
    Deletions,
}

impl Asked {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Changes, Self::Deletions];

    /// What a path begins with. Nothing is answered there without the rest.
    pub const fn place(self) -> &'static str {
        match self {
            Asked::Changes => "/validate",
            Asked::Deletions => "/deletions",
        }
    }
}

/// What paths are made and known by.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; BYTES]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// A new one. `None`: there are no random bytes.
    pub fn make() -> Option<Self> {
        let mut bytes = [0; BYTES];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// One that was made before. `None`: it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// As it is kept.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Where the API server is to ask from this time on, in seconds since 1970. In lower case: a segment of `service.path` has to
    /// be a DNS subdomain.
    pub fn path(&self, asked: Asked, since: i64) -> String {
        let head = format!("{}/{since}", asked.place());
        let code = hmac::sign(&self.hmac(), head.as_bytes());
        let code: String = code.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{head}-{code}")
    }

    /// What is asked at a path, and since when one is to ask there. `None`: it was not made with this key.
    pub fn opens(&self, path: &str) -> Option<(Asked, i64)> {
        let asked = Asked::ALL.into_iter().find(|asked| path.starts_with(asked.place()))?;
        let (head, code) = path.rsplit_once('-')?;
        hmac::verify(&self.hmac(), head.as_bytes(), &unhex(code)?).ok()?;
        let since = head.strip_prefix(asked.place())?.strip_prefix('/')?.parse().ok()?;
        Some((asked, since))
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

/// Where a webhook's caller was told to ask. `None`: nobody could tell it.
pub fn told_path(config: &WebhookClientConfig) -> Option<String> {
    match &config.service {
        Some(service) => Some(service.path.clone().unwrap_or_default()),
        None => Some(Url::parse(config.url.as_deref()?).ok()?.path().to_owned()),
    }
}

/// The bytes of 64 lower-case hexadecimal digits.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    bytes.filter(|bytes| bytes.len() == BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_path_opens_what_it_was_made_for_and_no_other_opens() {
        let key = Key::make().unwrap();
        for asked in Asked::ALL {
            let path = key.path(asked, NOW);
            assert_eq!(key.opens(&path), Some((asked, NOW)));
            let (head, code) = path.rsplit_once('-').unwrap();
            let other = Asked::ALL.into_iter().find(|other| *other != asked).unwrap();
            let place = asked.place();
            for wrong in [
                String::new(),
                "/".to_owned(),
                "-".to_owned(),
                place.to_owned(),
                format!("{place}/"),
                format!("{place}/wrong"),
                format!("{place}/-"),
                format!("{head}-"),
                format!("{place}/{}-{code}", NOW + 1),
                format!("{place}//{NOW}-{code}"),
                format!("{place}/+{NOW}-{code}"),
                format!("{}/{NOW}-{code}", other.place()),
                format!("/{NOW}-{code}"),
                format!("{path}/"),
                format!("{path}0"),
                format!("{path}\n"),
                format!("{head}-{}", code.to_uppercase()),
                path.chars().take(path.len() - 1).collect(),
                path.chars().take(path.len() - 2).collect(),
                path.replacen('/', "//", 1),
                Key::make().unwrap().path(asked, NOW),
            ] {
                assert_eq!(key.opens(&wrong), None, "{wrong}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_read_again_and_is_in_no_output() {
        let key = Key::make().unwrap();
        let again = Key::read(key.as_bytes()).unwrap();
        assert_eq!(again.opens(&key.path(Asked::Changes, NOW)), Some((Asked::Changes, NOW)));
        assert!(Key::read(b"").is_none() && Key::read(&[0; 31]).is_none() && Key::read(&[0; 33]).is_none());
        assert_eq!(format!("{key:?}"), "Key");
        assert_ne!(key, Key::make().unwrap());
    }
}
