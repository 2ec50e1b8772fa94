//! `portcullis standalone`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;

use super::serving::{Guardrails, Serving, ended, runtime, taken};
use super::token::duration;
use crate::process::telemetry::{self, Format};
use crate::roles::standalone::{Options, Standalone};

/// Serve the servers and policies of a folder of manifests, without a cluster
///
/// The folder is watched: a changed policy is enforced within a second, also for sessions that are open. A file that
/// cannot be read, or an object that is refused, is named in the log and on the admin listener's /readyz; meanwhile the
/// last accepted Deny rules stay in force and Allow rules of what is broken stop. SIGTERM and Ctrl-C let calls under way
/// end. Exit code 0: it ended cleanly; 1: calls were cut off at the end; 2: it could not start.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A folder or file of manifests; may be given several times
    #[arg(long, env = "PORTCULLIS_MANIFESTS", value_name = "DIR", required = true, value_delimiter = ',')]
    manifests: Vec<PathBuf>,
    /// The gateway's own folder: keys, journal, issued tokens. Made with mode 0700
    #[arg(long, env = "PORTCULLIS_STATE_DIR", value_name = "DIR")]
    state_dir: PathBuf,
    /// How often each upstream that is called with OAuth tokens is asked whose tokens it takes, such as 1m
    #[arg(long, env = "PORTCULLIS_TRUST_EVERY", value_name = "DURATION", default_value = "1m", value_parser = duration)]
    trust_every: u32,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    guardrails: Guardrails,
}

/// Serves until it is told to stop.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::init(Format::Auto, None)?;
    let missing = |path: &&PathBuf| !path.exists();
    if let Some(path) = args.manifests.iter().find(missing).filter(|_| !args.state_dir.exists()) {
        // Later it is a mistake that must not undo what was accepted; at the very first start it is a wrong path.
        bail!("--manifests {}: there is no such folder or file", path.display());
    }
    runtime()?.block_on(async {
        let state = args.state_dir.clone();
        let egress = args.serving.outbound.clone().policy()?;
        let options = Options {
            manifests: args.manifests,
            system_namespace: args.guardrails.system_namespace,
            trust_every: Duration::from_secs(args.trust_every.into()),
            serving: args.serving.options(args.state_dir, egress)?,
        };
        let gateway = Standalone::start(options).await.map_err(|error| taken(error, &state))?;
        gateway.serving().drain().on_signals()?;
        Ok(ended(gateway.into_serving().finish().await))
    })
}
