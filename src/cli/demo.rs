//! `portcullis demo`: a small MCP server, for trying out what stands before it.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::{address, serving};
use crate::process::{Drain, telemetry};
use crate::roles::demo;

/// A small MCP server to try things with: notes in memory
///
/// It serves /mcp over http and authenticates nobody: let nobody but a gateway reach it. Ends on SIGTERM or Ctrl-C.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen; in a Pod 0.0.0.0:8080, behind a NetworkPolicy
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8425", value_parser = address, env = "PORTCULLIS_LISTEN")]
    pub listen: SocketAddr,
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    telemetry::init(telemetry::Format::default(), None)?;
    serving::runtime()?.block_on(async {
        let listener = TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("cannot listen on {}: choose another address with --listen", args.listen))?;
        let address = listener.local_addr()?;
        let drain = Drain::new();
        drain.on_signals()?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "this server authenticates nobody: let nobody but a gateway reach it");
        }
        tracing::info!(url = format!("http://{address}{}", demo::PATH), "serving");
        demo::serve(listener, drain.draining().clone()).await?;
        Ok(ExitCode::SUCCESS)
    })
}
