//! The command line: one file per verb.

pub mod crd;
pub mod validate;

use std::process::ExitCode;

/// Parses the arguments, runs the verb, and answers with its exit code: 0 holds, 1 does not hold, 2 usage or I/O.
pub fn main() -> ExitCode {
    ExitCode::from(2)
}
