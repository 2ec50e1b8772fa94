//! A name that is rebound: `localhost` is one address for a process, and another one for as long as a file exists.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::preload;

/// `localhost` is a name to the gateway like any other, but for plain http, which it allows there.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    typedef int (*look_up)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    look_up system = (look_up)dlsym(RTLD_NEXT, "getaddrinfo");
    if (node && strcmp(node, "localhost") == 0)
        node = access(getenv("REBOUND_SWITCH"), F_OK) == 0 ? "127.0.0.2" : "127.0.0.1";
    return system(node, service, hints, found);
}
"#;

/// The switch, and what a process needs to be under it.
pub(crate) struct Rebound {
    _folder: TempDir,
    switch: PathBuf,
    library: PathBuf,
}

impl Rebound {
    /// The name is 127.0.0.1.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = preload::library(folder.path(), "rebound", LIBRARY);
        Self { switch: folder.path().join("is-rebound"), library, _folder: folder }
    }

    pub(crate) fn environment(&self) -> [(&str, &str); 2] {
        [("LD_PRELOAD", self.library.to_str().unwrap()), ("REBOUND_SWITCH", self.switch.to_str().unwrap())]
    }

    /// From now on it is 127.0.0.2.
    pub(crate) fn rebind(&self) {
        fs::write(&self.switch, "").unwrap();
    }

    /// It is what it was.
    pub(crate) fn restore(&self) {
        fs::remove_file(&self.switch).unwrap();
    }
}
