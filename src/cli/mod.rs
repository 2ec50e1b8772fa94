//! The command line: one file per verb.
//!
//! Invariant: exit code 0 means that what was asked for holds, 1 that it does not, 2 that the question was wrong or
//! could not be answered.

pub mod audit;
pub mod crd;
pub mod explain;
pub mod load;
pub mod output;
pub mod place;
pub mod quickstart;
pub mod scan;
pub mod standalone;
pub mod token;
pub mod validate;
pub mod who_can;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Portcullis puts a gate in front of MCP servers: every call is decided per identity before it runs, and recorded.
#[derive(Parser)]
#[command(
    name = "portcullis",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Exit codes: 0 it holds, 1 it does not hold, 2 wrong usage or an I/O error.\n\
                  Every option can be set by an environment variable, shown in brackets.\n\
                  Start with `portcullis quickstart`."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// A governed MCP server in seconds: try this first
    Quickstart(Box<quickstart::Args>),
    /// Serve the servers and policies of a folder of manifests, without a cluster
    Standalone(Box<standalone::Args>),
    /// Ask an MCP server what it offers, with risk classes, and write manifests for it
    Scan(scan::Args),
    /// Say what admission would say of manifests, with file, line and field
    Validate(validate::Args),
    /// Who can call what on a server, and by which rules
    WhoCan(who_can::Args),
    /// One decision, and why
    Explain(explain::Args),
    /// Issue, list and revoke tokens of the gateway's own issuer
    Token(token::Args),
    /// Verify, query and follow the audit journal
    Audit(audit::Args),
    /// Print the CustomResourceDefinitions
    Crd(crd::Args),
}

/// Parses the arguments, runs the verb, and answers with its exit code: 0 holds, 1 does not hold, 2 usage or I/O.
pub fn main() -> ExitCode {
    let run = match Cli::parse().verb {
        Verb::Quickstart(args) => quickstart::run(*args),
        Verb::Scan(args) => scan::run(args),
        Verb::Standalone(args) => standalone::run(*args),
        Verb::Validate(args) => validate::run(args),
        Verb::WhoCan(args) => who_can::answer(&args),
        Verb::Explain(args) => explain::answer(&args),
        Verb::Token(args) => token::run(args),
        Verb::Audit(args) => audit::run(args),
        Verb::Crd(args) => crd::run(args),
    };
    run.unwrap_or_else(|error| {
        eprintln!("error: {}", output::printable(&format!("{error:#}")));
        ExitCode::from(2)
    })
}
