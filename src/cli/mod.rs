//! The command line: one file per verb.
//!
//! Invariant: exit code 0 means that what was asked for holds, 1 that it does not, 2 that the question was wrong or
//! could not be answered; and every option has an environment variable, which an option on the command line overrides.

mod adopt;
pub mod audit;
pub mod clients;
pub mod cluster;
pub mod controller;
pub mod crd;
pub mod demo;
pub mod diff;
pub mod explain;
mod git;
pub mod load;
mod meant;
mod named;
pub mod outbound;
pub mod output;
pub mod place;
pub mod proxy;
pub mod quickstart;
mod sarif;
pub mod scaffold;
pub mod scan;
pub mod serving;
pub mod source;
pub mod standalone;
pub mod token;
mod tool_lock;
pub mod validate;
pub mod webhook;
pub mod what_can;
pub mod who_can;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

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

// Without comments of their own: they would hide what the arguments' types say of each verb.
#[derive(Subcommand)]
enum Verb {
    Quickstart(Box<quickstart::Args>),
    Standalone(Box<standalone::Args>),
    Proxy(Box<proxy::Args>),
    Scan(scan::Args),
    Validate(validate::Args),
    WhoCan(who_can::Args),
    WhatCan(what_can::Args),
    Explain(explain::Args),
    Diff(diff::Args),
    Token(token::Args),
    Clients(clients::Args),
    Audit(audit::Args),
    Controller(controller::Args),
    Webhook(webhook::Args),
    Demo(demo::Args),
    Crd(crd::Args),
}

/// Parses the arguments, runs the verb, and answers with its exit code: 0 holds, 1 does not hold, 2 usage or I/O.
pub fn main() -> ExitCode {
    let matches = meant::taught(command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command()).exit());
    let run = match cli.verb {
        Verb::Quickstart(args) => quickstart::run(*args),
        Verb::Scan(args) => scan::run(args),
        Verb::Standalone(args) => standalone::run(*args),
        Verb::Proxy(args) => proxy::run(*args),
        Verb::Validate(args) => validate::run(args),
        Verb::WhoCan(args) => who_can::answer(&args),
        Verb::WhatCan(args) => what_can::answer(&args),
        Verb::Explain(args) => explain::answer(&args),
        Verb::Diff(args) => diff::answer(&args),
        Verb::Token(args) => token::run(args),
        Verb::Clients(args) => clients::run(args),
        Verb::Audit(args) => audit::run(args),
        Verb::Controller(args) => controller::run(args),
        Verb::Webhook(args) => webhook::run(args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Crd(args) => crd::run(args),
    };
    run.unwrap_or_else(|error| {
        eprintln!("error: {}", output::complaint(&error));
        ExitCode::from(2)
    })
}

/// Every verb with its options: for the reference pages, and the tests that hold them.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The parser of flags: their variables may say 1, true, yes or on, and 0, false, no or off.
fn boolish() -> clap::builder::BoolishValueParser {
    clap::builder::BoolishValueParser::new()
}

/// Reads an address to listen on.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write an IP address and a port, such as 127.0.0.1:8420 or [::1]:8420; port 0 takes a free one".to_owned()
    })
}
