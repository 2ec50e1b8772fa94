//! The few things that the writer asks of a disk, so that tests can make each of them fail.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// A segment file open for writing.
pub(super) trait Slab: Send {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes everything written so far survive a power cut.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the zeros off.
    fn trim(&self, len: u64) -> io::Result<()>;
}

/// A folder that segments lie in.
pub(super) trait Storage: Send + Sync {
    /// Makes a synced file of `len` zeros.
    fn prepare(&self, path: &Path, len: u64) -> io::Result<Box<dyn Slab>>;
    /// Gives a file its final name, durably.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Deletes a segment.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The real one.
pub(super) struct Disk;

impl Storage for Disk {
    fn prepare(&self, path: &Path, len: u64) -> io::Result<Box<dyn Slab>> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let zeros = [0; 64 << 10];
        let mut offset = 0;
        while offset < len {
            let step = usize::try_from(len - offset).unwrap_or(usize::MAX).min(zeros.len());
            file.write_all_at(zeros.get(..step).unwrap_or(&zeros), offset)?;
            offset += step as u64;
        }
        file.sync_all()?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        sync_parent(to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

impl Slab for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn trim(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

/// A rename lasts only when its folder is synced.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        // A bare name lies in the working directory.
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
