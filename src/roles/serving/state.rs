//! The state folder: keys, journal, issued tokens, and what was last accepted.
//!
//! Invariant: nobody else can read it (0700), and a file in it is either whole or as it was before. It does not protect
//! against the gateway's own operating-system user.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use aws_lc_rs::rand;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::WHERE;
use crate::seal::{KEY_BYTES, KeyRing, SealKey, Sealer};

/// The folder that is the gateway's own.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Opens the folder, making it at first use. One that is there and empty, or that a gateway made, is closed to
    /// others; any other folder that they may enter is not taken over: it could be `/tmp` or somebody's home.
    ///
    /// # Errors
    /// If it cannot be made, or others may enter it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if path.exists() && !path.is_dir() {
            bail!("{} is no folder: name a folder of the gateway's own as its state folder", path.display());
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make the state folder {}", path.display()))?;
        let mode = fs::metadata(path)?.permissions().mode();
        if mode & 0o077 != 0 {
            if !path.join(WHERE).exists() && fs::read_dir(path)?.next().is_some() {
                bail!(
                    "others can enter {}, and no gateway made it: name a folder of the gateway's own as its state folder, \
                     or run chmod 700 on this one",
                    path.display()
                );
            }
            fs::set_permissions(path, Permissions::from_mode(0o700)).with_context(|| {
                format!("others can enter the state folder {}: run chmod 700 on it", path.display())
            })?;
        }
        Ok(Self(path.to_owned()))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of a local authority.
    pub fn issuer(&self, name: &str) -> PathBuf {
        self.0.join("issuers").join(name)
    }

    /// What seals ids that leave the gateway; its key outlives restarts, so sessions do.
    pub fn sealer(&self) -> anyhow::Result<Sealer> {
        let path = self.0.join("seal.key");
        let material = match fs::read(&path) {
            Ok(material) => material,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut material = vec![0; KEY_BYTES];
                rand::fill(&mut material).map_err(|_| anyhow::anyhow!("no random bytes for the sealing key"))?;
                self.write("seal.key", &material)?;
                material
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let key = SealKey::new(&material)
            .with_context(|| format!("{} is damaged: remove it (open sessions end)", path.display()))?;
        Ok(Sealer::new(KeyRing::new(key, None)))
    }

    /// What was kept under this name; the default if nothing was.
    ///
    /// # Errors
    /// If it cannot be read: starting as if nothing had been kept would drop what is in force.
    pub fn load<T: DeserializeOwned + Default>(&self, name: &str) -> anyhow::Result<T> {
        let path = self.0.join(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is damaged: restore it, or remove it to start afresh", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Keeps a value under this name.
    ///
    /// # Errors
    /// If it cannot be written; what was kept before then stays.
    pub fn save<T: Serialize>(&self, name: &str, value: &T) -> anyhow::Result<()> {
        self.write(name, &serde_json::to_vec(value)?)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.0.join(name);
        let new = self.0.join(format!("{name}.new"));
        let written = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(&self.0)?.sync_all()
        };
        written().with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn folder(mode: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        folder
    }

    #[test]
    fn a_folder_of_somebody_else_is_not_taken_over() {
        let theirs = folder(0o755);
        fs::write(theirs.path().join("notes.txt"), "x").unwrap();
        let error = StateDir::open(theirs.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 700") && error.contains(&theirs.path().display().to_string()), "{error}");
        assert_eq!(mode(theirs.path()), 0o755);
    }

    #[test]
    fn an_empty_folder_and_its_own_are_closed_to_others() {
        let own = folder(0o755);
        StateDir::open(own.path()).unwrap().save(WHERE, &1).unwrap();
        assert_eq!(mode(own.path()), 0o700);
        // systemd's StateDirectory= opens it again at each start.
        fs::set_permissions(own.path(), Permissions::from_mode(0o755)).unwrap();
        StateDir::open(own.path()).unwrap();
        assert_eq!(mode(own.path()), 0o700);
    }
}
