//! What the journal says of itself under its own key: how far it reached, and what it removed on purpose.
//!
//! A chain proves order, not length: its end can be cut off and what is left still holds. A checkpoint kept elsewhere
//! (an *anchor*) closes that: the journal must contain record `seq` with hash `head`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::chain::Head;
use super::storage::sync_parent;

/// The key that signs checkpoints. Its file is the journal's identity: keep it out of reach of tenants.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Reads the key (PKCS#8), or makes one with mode 0600 if the file does not exist.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        let document = match fs::read(path) {
            Ok(document) => {
                refuse_shared(path)?;
                document
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                    .map_err(|_| io::Error::other("no key could be made"))?;
                write_private(path, made.as_ref())?;
                made.as_ref().to_vec()
            }
            Err(error) => return Err(error),
        };
        let pair = Ed25519KeyPair::from_pkcs8(&document)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not an Ed25519 key in PKCS#8"))?;
        let public = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        Ok(Self { pair, public })
    }

    /// The public key, base64url without padding.
    pub fn public(&self) -> &str {
        &self.public
    }

    fn sign(&self, text: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes()).as_ref())
    }
}

/// Writes a new file that only its owner may read, whole or not at all, and there to stay.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// A key that everybody may read or write is not a key. Rights of the group are taken away instead: Kubernetes gives
/// them to every file on a volume of a Pod with an `fsGroup`, each time it is mounted.
pub(crate) fn refuse_shared(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    if mode & 0o007 == 0 {
        return fs::set_permissions(path, fs::Permissions::from_mode(0o600));
    }
    let what =
        format!("mode {:o} lets others at the key; make it 0600, and replace it if they may have it", mode & 0o777);
    Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
}

/// The journal reached record `seq` with chain hash `head`, at `time`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Whose journal.
    pub instance: String,
    /// The writer's start count.
    pub epoch: u64,
    /// The segment that holds record `seq`.
    pub segment: u64,
    /// The last record that it covers; 0 is an empty journal.
    pub seq: u64,
    /// Chain hash after that record, hexadecimal.
    pub head: String,
    /// The writer's clock, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Public key, base64url.
    pub key: String,
    /// Ed25519 signature, base64url.
    pub signature: String,
}

impl Checkpoint {
    pub(super) fn sign(
        key: &SigningKey,
        instance: uuid::Uuid,
        (epoch, segment, seq): (u64, u64, u64),
        head: Head,
        unix_ms: u64,
    ) -> Self {
        let mut unsigned = Self {
            instance: instance.to_string(),
            epoch,
            segment,
            seq,
            head: head.to_string(),
            unix_ms,
            key: key.public.clone(),
            signature: String::new(),
        };
        unsigned.signature = key.sign(&unsigned.text());
        unsigned
    }

    fn text(&self) -> String {
        let Self { instance, epoch, segment, seq, head, unix_ms, .. } = self;
        format!("portcullis journal checkpoint v1\n{instance}\n{epoch}\n{segment}\n{seq}\n{head}\n{unix_ms}\n")
    }

    /// Whether the signature is the named key's. Whether that key is the journal's is the caller's to know.
    pub fn is_signed(&self) -> bool {
        is_signed(&self.key, &self.text(), &self.signature)
    }

    /// Reads the JSON form; nothing is verified.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The JSON form: one line.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Every segment up to `through_segment` was removed because of its age or size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionNote {
    /// Whose journal.
    pub instance: String,
    /// The last removed segment.
    pub through_segment: u64,
    /// The last removed record.
    pub through_seq: u64,
    /// Chain hash after that record, hexadecimal.
    pub head: String,
    /// The writer's clock, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Public key, base64url.
    pub key: String,
    /// Ed25519 signature, base64url.
    pub signature: String,
}

impl RetentionNote {
    pub(super) fn sign(
        key: &SigningKey,
        instance: uuid::Uuid,
        (through_segment, through_seq): (u64, u64),
        head: Head,
        unix_ms: u64,
    ) -> Self {
        let mut unsigned = Self {
            instance: instance.to_string(),
            through_segment,
            through_seq,
            head: head.to_string(),
            unix_ms,
            key: key.public.clone(),
            signature: String::new(),
        };
        unsigned.signature = key.sign(&unsigned.text());
        unsigned
    }

    fn text(&self) -> String {
        let Self { instance, through_segment, through_seq, head, unix_ms, .. } = self;
        format!("portcullis journal retention v1\n{instance}\n{through_segment}\n{through_seq}\n{head}\n{unix_ms}\n")
    }

    /// Whether the signature is the named key's.
    pub fn is_signed(&self) -> bool {
        is_signed(&self.key, &self.text(), &self.signature)
    }

    /// Reads the JSON form; nothing is verified.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn is_signed(key: &str, text: &str, signature: &str) -> bool {
    let (Ok(key), Ok(signature)) = (BASE64_URL_SAFE_NO_PAD.decode(key), BASE64_URL_SAFE_NO_PAD.decode(signature))
    else {
        return false;
    };
    UnparsedPublicKey::new(&ED25519, key).verify(text.as_bytes(), &signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_signed_over_every_field() {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::load_or_create(&dir.path().join("key")).unwrap();
        let signed = Checkpoint::sign(&key, uuid::Uuid::nil(), (1, 2, 3), Head([4; 32]), 5);
        assert!(signed.is_signed());
        assert_eq!(Checkpoint::parse(&signed.to_json()).unwrap(), signed);
        let other = SigningKey::load_or_create(&dir.path().join("other")).unwrap();
        let changes: [fn(&mut Checkpoint); 6] = [
            |c| c.instance.push('x'),
            |c| c.epoch += 1,
            |c| c.segment += 1,
            |c| c.seq += 1,
            |c| c.head = Head([5; 32]).to_string(),
            |c| c.unix_ms += 1,
        ];
        for change in changes {
            let mut changed = signed.clone();
            change(&mut changed);
            assert!(!changed.is_signed(), "{changed:?}");
        }
        assert!(!Checkpoint { key: other.public().to_owned(), ..signed }.is_signed());
    }

    #[test]
    fn the_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let made = SigningKey::load_or_create(&path).unwrap();
        assert_eq!(SigningKey::load_or_create(&path).unwrap().public(), made.public());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        assert_eq!(SigningKey::load_or_create(&path).unwrap().public(), made.public());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        assert_eq!(SigningKey::load_or_create(&path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(!format!("{made:?}").contains("pair"));
    }
}
