//! A disk that is soon full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs; unmounted when dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of `mebibytes` at `path`, which is made. Needs root.
    pub(crate) fn mount(path: &Path, mebibytes: usize) -> Self {
        fs::create_dir(path).unwrap();
        let options = format!("size={mebibytes}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).status().unwrap();
        assert!(mounted.success(), "mounting a tmpfs needs root: run this test as root, or in a container");
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open there must not keep the mount.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}
