//! `portcullis proxy`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::outbound::InCluster;
use super::serving::{Serving, ended, runtime, taken};
use super::token::duration;
use crate::cluster;
use crate::process::telemetry::{self, Format};
use crate::roles::proxy::lease::Pod;
use crate::roles::proxy::{self, Options};

/// The longest `--token-review-window`, in seconds.
const MOST_REVIEW_WINDOW: u32 = 300;

/// Serve what the controller generated, in a cluster
///
/// Reads nothing but generated objects and the controller's heartbeat, all in the gateway namespace, and writes nothing but
/// a Lease of its own that says what it runs. It serves once it has read everything, enforces each change within a second,
/// goes on while the API server is away, and denies every call when its configuration may be older than --max-staleness.
/// Outside of a Pod the cluster is the current one of KUBECONFIG. SIGTERM lets calls under way end. Exit code 0: it ended
/// cleanly; 1: calls were cut off at the end; 2: it could not start.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The namespace of generated objects, in which the proxies run
    #[arg(long, env = "PORTCULLIS_GATEWAY_NAMESPACE", value_name = "NAME", default_value = "portcullis-gateway")]
    gateway_namespace: String,
    /// The name of this proxy's Pod [default: the host's name]
    #[arg(long, env = "PORTCULLIS_POD_NAME", value_name = "NAME")]
    pod_name: Option<String>,
    /// The UID of this proxy's Pod, so that what it reports goes when the Pod goes
    #[arg(long, env = "PORTCULLIS_POD_UID", value_name = "UID")]
    pod_uid: Option<String>,
    /// The proxy's own folder, with its journal. Made with mode 0700
    #[arg(long, env = "PORTCULLIS_STATE_DIR", value_name = "DIR")]
    state_dir: PathBuf,
    /// How old the configuration may be before every call is denied, such as 1h or 90s
    #[arg(long, env = "PORTCULLIS_MAX_STALENESS", value_name = "DURATION", default_value = "1h", value_parser = duration)]
    max_staleness: u32,
    /// For how long the API server's answer about a ServiceAccount's token counts, where an authority asks for that: 1s to 5m
    #[arg(
        long,
        env = "PORTCULLIS_TOKEN_REVIEW_WINDOW",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = review_window
    )]
    token_review_window: u32,
    #[command(flatten)]
    in_cluster: InCluster,
    #[command(flatten)]
    serving: Serving,
}

/// Serves until it is told to stop.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::init(Format::Auto, None)?;
    let name = args.pod_name.map_or_else(host_name, Ok)?;
    // What RFC 1123 allows, and Kubernetes with it.
    if name.is_empty()
        || !name.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
        || name.len() > 200
    {
        bail!("{name:?} cannot be the name of a Pod: give another with --pod-name");
    }
    runtime()?.block_on(async {
        let client = cluster::connect().await?;
        let state = args.state_dir.clone();
        let egress = args.serving.outbound.clone().policy_in_cluster(args.in_cluster)?;
        let mut serving = args.serving.options(args.state_dir, egress)?;
        serving.limits.token_review_window = Duration::from_secs(args.token_review_window.into());
        let options = Options {
            gateway_namespace: args.gateway_namespace,
            pod: Pod { name, uid: args.pod_uid },
            max_staleness: Duration::from_secs(args.max_staleness.into()),
            serving,
        };
        Ok(ended(proxy::run(options, client).await.map_err(|error| taken(error, &state))?))
    })
}

/// A caller is believed for so long after its ServiceAccount or Pod is gone.
fn review_window(text: &str) -> Result<u32, String> {
    let seconds = duration(text)?;
    if seconds <= MOST_REVIEW_WINDOW { Ok(seconds) } else { Err(format!("{text}: at most 5m")) }
}

fn host_name() -> anyhow::Result<String> {
    let path = "/proc/sys/kernel/hostname";
    let name = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}: give --pod-name"))?;
    Ok(name.trim().to_ascii_lowercase())
}
