//! A disk that hangs: every `fdatasync` of a process waits for as long as a file exists. A library loaded before the
//! program's own stands between it and the system, since no file system hangs on demand.

use std::fs;
use std::path::{Path, PathBuf};

use super::preload;

const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

int fdatasync(int fd) {
    const char *gate = getenv("HANGING_DISK_GATE");
    while (gate && access(gate, F_OK) == 0) usleep(5000);
    int (*system)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return system(fd);
}
"#;

/// The switch, and what a process needs to be under it.
pub(crate) struct HangingDisk {
    gate: PathBuf,
    library: PathBuf,
}

impl HangingDisk {
    /// Its files are in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { gate: folder.join("disk-hangs"), library: preload::library(folder, "hanging_disk", LIBRARY) }
    }

    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let places = [("LD_PRELOAD", &self.library), ("HANGING_DISK_GATE", &self.gate)];
        places.map(|(name, path)| (name.to_owned(), path.to_str().unwrap().to_owned())).into()
    }

    /// From now on, no sync comes back.
    pub(crate) fn hang(&self) {
        fs::write(&self.gate, "").unwrap();
    }

    /// Lets all of them through.
    pub(crate) fn answer(&self) {
        fs::remove_file(&self.gate).unwrap();
    }
}
