//! The local authority's state folder: key, issued tokens, revocations.
//!
//! Invariant: the folder is 0700 and its files 0600; every write is whole or absent after a crash; whoever changes
//! anything holds the folder's lock, so command line and gateway cannot lose each other's changes. The key is made
//! last: where there is a key there are lists, and a list that is missing is damage, not emptiness. This does not
//! protect against the operating-system user that it runs as.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::mint;
use super::revoke::Revoked;
use super::signer::Signer;

const KEY: &str = "signing-key.p8";
const ISSUED: &str = "issued.json";
pub(super) const REVOKED: &str = "revoked.json";
const LOCK: &str = "lock";
const VERSION: u32 = 1;

/// Why the local authority could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IssuerError {
    /// A file could not be read or written.
    #[error("{path}: {detail}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        detail: String,
    },
    /// A file is missing or not what this build writes.
    #[error(
        "{path} is missing or damaged: restore it from a backup, or remove the whole folder, which makes all tokens \
         issued so far invalid",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The request for a token or revocation is not acceptable.
    #[error("{field} {why}")]
    Request {
        /// Which part of it.
        field: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// Too many tokens or revocations are on record.
    #[error("more than {limit} {what} are on record; wait until some have expired")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// The cryptographic library failed.
    #[error("the signing key could not be made or used")]
    Crypto,
}

impl IssuerError {
    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            IssuerError::Io { .. } => "IssuerStateUnreadable",
            IssuerError::Damaged { .. } => "IssuerStateDamaged",
            IssuerError::Request { .. } => "TokenRequestInvalid",
            IssuerError::Full { .. } => "IssuerFull",
            IssuerError::Crypto => "IssuerCrypto",
        }
    }
}

/// What is kept about a token that was issued: never the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// The token's id.
    pub jti: String,
    /// For whom it speaks.
    pub subject: String,
    /// Where it is accepted.
    pub audiences: Vec<String>,
    /// The client that it is given to.
    pub client_id: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// Unix seconds.
    pub issued_at: i64,
    /// Unix seconds.
    pub expires_at: i64,
    /// A person's note.
    pub label: Option<String>,
}

/// The gateway's own issuer of tokens. Its methods read and sync files and may wait for another process's lock: call
/// those that change something off the async threads.
pub struct LocalAuthority {
    pub(super) folder: Folder,
    pub(super) signer: Signer,
}

impl std::fmt::Debug for LocalAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalAuthority").field("issuer", &self.issuer()).finish_non_exhaustive()
    }
}

impl LocalAuthority {
    /// Opens the authority that lives in `folder`, making folder and key at first use. `issuer` becomes the `iss` of
    /// its tokens.
    ///
    /// # Errors
    /// If the folder cannot be used or its contents are damaged.
    pub fn open(folder: &Path, issuer: impl Into<String>) -> Result<Self, IssuerError> {
        let folder = Folder::open(folder)?;
        let lock = folder.lock()?;
        let key_path = folder.path(KEY);
        let pkcs8 = match fs::read(&key_path) {
            Ok(pkcs8) => pkcs8,
            Err(e) if e.kind() == io::ErrorKind::NotFound => folder.first_use()?,
            Err(e) => return Err(io_error(&key_path, &e)),
        };
        let signer = Signer::new(&pkcs8, issuer).map_err(|_| IssuerError::Damaged { path: key_path })?;
        drop(lock);
        let authority = Self { folder, signer };
        // Damage shows at start and not at the first revocation.
        authority.list()?;
        authority.revocations()?;
        Ok(authority)
    }

    /// The `iss` of its tokens.
    pub fn issuer(&self) -> &str {
        self.signer.issuer()
    }

    /// Its public key as a JSON Web Key Set (RFC 7517 section 5).
    pub fn jwks(&self) -> &str {
        self.signer.jwks()
    }

    /// The tokens on record, oldest first: those that have not expired, and for a month those that have.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn list(&self) -> Result<Vec<TokenRecord>, IssuerError> {
        self.folder.read_list(ISSUED)
    }

    /// Adds a record before its token leaves the house.
    pub(super) fn record(&self, record: &TokenRecord, now: i64) -> Result<(), IssuerError> {
        let _lock = self.folder.lock()?;
        let mut records: Vec<TokenRecord> = self.folder.read_list(ISSUED)?;
        records.retain(|old| old.expires_at + mint::KEEP_EXPIRED_SECONDS > now);
        if records.len() >= mint::MAX_RECORDS {
            return Err(IssuerError::Full { what: "tokens", limit: mint::MAX_RECORDS });
        }
        records.push(record.clone());
        self.folder.write_list(ISSUED, &records)
    }
}

/// The folder itself.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List<T> {
    version: u32,
    entries: Vec<T>,
}

impl Folder {
    fn open(path: &Path) -> Result<Self, IssuerError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|e| io_error(path, &e))?;
        tighten(path, 0o700)?;
        let folder = Self(path.to_owned());
        for name in [KEY, ISSUED, REVOKED, LOCK] {
            let file = folder.path(name);
            if file.exists() {
                tighten(&file, 0o600)?;
            }
        }
        Ok(folder)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Waits for and holds the folder's lock until the file is dropped.
    pub(super) fn lock(&self) -> Result<File, IssuerError> {
        let path = self.path(LOCK);
        let lock = || -> io::Result<File> {
            let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(|e| io_error(&path, &e))
    }

    /// Makes the lists and then the key; with the lock held.
    fn first_use(&self) -> Result<Vec<u8>, IssuerError> {
        for name in [ISSUED, REVOKED] {
            self.write_list::<()>(name, &[])?;
        }
        let pkcs8 = Signer::generate()?;
        self.write(KEY, &pkcs8)?;
        Ok(pkcs8)
    }

    pub(super) fn read_list<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>, IssuerError> {
        let path = self.path(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(IssuerError::Damaged { path }),
            Err(e) => return Err(io_error(&path, &e)),
        };
        match serde_json::from_slice::<List<T>>(&bytes) {
            Ok(list) if list.version == VERSION => Ok(list.entries),
            _ => Err(IssuerError::Damaged { path }),
        }
    }

    pub(super) fn write_list<T: Serialize>(&self, name: &str, entries: &[T]) -> Result<(), IssuerError> {
        #[derive(Serialize)]
        struct Writing<'a, T> {
            version: u32,
            entries: &'a [T],
        }
        let bytes = serde_json::to_vec_pretty(&Writing { version: VERSION, entries })
            .map_err(|e| IssuerError::Io { path: self.path(name), detail: e.to_string() })?;
        self.write(name, &bytes)
    }

    /// Replaces a file whole: synced under another name, renamed, the rename synced. With the lock held.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), IssuerError> {
        let (path, new) = (self.path(name), self.path(&format!("{name}.new")));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.0)?.sync_all()
        };
        write().map_err(|e| io_error(&path, &e))
    }
}

/// Takes away what group and others may do. Volumes mounted with a group of their own come back with its bits set, so
/// this mends and warns instead of refusing to start.
fn tighten(path: &Path, mode: u32) -> Result<(), IssuerError> {
    let found = fs::metadata(path).map_err(|e| io_error(path, &e))?.permissions().mode();
    if found & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|e| io_error(path, &e))?;
    tracing::warn!(path = %path.display(), "was open to other users; now it is not");
    Ok(())
}

pub(super) fn io_error(path: &Path, error: &io::Error) -> IssuerError {
    IssuerError::Io { path: path.to_owned(), detail: error.kind().to_string() }
}

impl LocalAuthority {
    /// The entries of the revocation list, with the lock not held.
    pub(super) fn revoked(&self) -> Result<Vec<Revoked>, IssuerError> {
        self.folder.read_list(REVOKED)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::mint::tests::request;
    use super::*;

    pub(in super::super) fn authority(dir: &Path) -> LocalAuthority {
        LocalAuthority::open(&dir.join("issuer"), "https://gw.example/-/issuer").unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn key_and_records_survive_a_restart_and_are_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = authority(dir.path());
        first.issue(&request("ada"), 1_800_000_000).unwrap();
        let folder = dir.path().join("issuer");
        fs::set_permissions(folder.join(KEY), Permissions::from_mode(0o660)).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o750)).unwrap();
        let second = authority(dir.path());
        assert_eq!(first.jwks(), second.jwks());
        assert_eq!(second.list().unwrap().len(), 1);
        assert_eq!(mode(&folder), 0o700);
        for name in [KEY, ISSUED, REVOKED, LOCK] {
            assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn a_crash_before_the_key_was_made_starts_over_and_one_in_a_write_leaves_the_old_list() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("issuer");
        authority(dir.path());
        fs::remove_file(folder.join(KEY)).unwrap();
        let again = authority(dir.path());
        again.issue(&request("ada"), 1_800_000_000).unwrap();
        fs::write(folder.join("issued.json.new"), "{\"vers").unwrap();
        assert_eq!(authority(dir.path()).list().unwrap().len(), 1);
        again.issue(&request("bob"), 1_800_000_000).unwrap();
        assert_eq!(authority(dir.path()).list().unwrap().len(), 2);
    }

    #[test]
    fn racing_first_uses_agree_on_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<String> = std::thread::scope(|scope| {
            let open = || authority(dir.path()).jwks().to_owned();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn a_damaged_key_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        authority(dir.path());
        let key = dir.path().join("issuer").join(KEY);
        fs::write(&key, "not a key").unwrap();
        let error = LocalAuthority::open(&dir.path().join("issuer"), "i").unwrap_err();
        assert_eq!(error.reason(), "IssuerStateDamaged");
        assert_eq!(fs::read(&key).unwrap(), b"not a key");
    }
}
