//! The `portcullis` binary: install the crypto provider, parse the command line, run it, exit with its code.

use std::process::ExitCode;

/// Calls make and drop buffers of a few kilobytes: with the system's allocator that is a tenth of what they cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // One provider for the whole process, chosen here and not by whoever links in first.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("error: a TLS provider was already installed");
        return ExitCode::from(2);
    }
    portcullis::cli::main()
}
