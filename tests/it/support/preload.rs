//! Libraries that are loaded before a program's own, and stand between it and the system: what no system does on demand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds a library of this C source in `folder`. Needs the C compiler that the crate's own build needs.
pub(crate) fn library(folder: &Path, name: &str, source: &str) -> PathBuf {
    let (text, library) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
    fs::write(&text, source).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &text]).arg("-ldl").status();
    assert!(built.expect("a C compiler, named cc").success());
    library
}
