//! The installed packages (`hack/testbed/install`), once per test run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The folder with `npm/`, `mcp1/` and `mcp2/`. Installs them when they are missing; panics with the installer's own words
/// when that cannot be done, because a skipped test would look like a passed one.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOLDER.get_or_init(install) {
        Ok(folder) => folder,
        Err(why) => panic!("the test bed is not there:\n{why}"),
    }
}

fn install() -> Result<PathBuf, String> {
    run_installer("hack/testbed/install")
}

/// Runs an installer of this repository; the last line that it prints is the folder with what it installed.
pub(crate) fn run_installer(script: &str) -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let run = Command::new(&script).stdin(Stdio::null()).output().map_err(|e| format!("{}: {e}", script.display()))?;
    let said = String::from_utf8_lossy(&run.stdout);
    match said.lines().last() {
        Some(folder) if run.status.success() => Ok(PathBuf::from(folder)),
        _ => Err(String::from_utf8_lossy(&run.stderr).into_owned()),
    }
}

/// A certificate authority that every client started from now on trusts.
static TRUSTED: OnceLock<PathBuf> = OnceLock::new();

/// Lets every client started from now on trust the certificate authority in this PEM file. Once for a test process.
#[allow(dead_code, reason = "the tests on a real cluster speak TLS")]
pub(crate) fn trust(ca: &Path) {
    TRUSTED.set(ca.to_owned()).unwrap();
}

fn trusting(mut command: Command) -> Command {
    if let Some(ca) = TRUSTED.get() {
        command.env("NODE_EXTRA_CA_CERTS", ca).env("SSL_CERT_FILE", ca);
    }
    command
}

/// A command that runs `script` (below `tests/`) with Node.js and the npm packages.
pub(crate) fn node(script: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(tests().join(script)).env("PORTCULLIS_TESTBED", folder());
    trusting(command)
}

/// A command that runs `script` (below `tests/`) with Python and PyPI `mcp` of release line `line` (1 or 2).
pub(crate) fn python(line: u8, script: &str) -> Command {
    let mut command = Command::new(folder().join(format!("mcp{line}/bin/python")));
    command.args(["-B", "-W", "ignore"]).arg(tests().join(script));
    trusting(command)
}

/// A command for npm server-everything, which takes its port from the environment.
pub(crate) fn everything(port: u16) -> Command {
    let mut command = Command::new("node");
    command
        .arg(folder().join("npm/node_modules/@modelcontextprotocol/server-everything/dist/index.js"))
        .arg("streamableHttp")
        .env("PORT", port.to_string());
    command
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}
