//! `portcullis webhook`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use super::address;
use super::outbound::InCluster;
use super::serving::{ended, runtime};
use crate::admission::world::Installation;
use crate::controller::webhook::told::CONFIGURATIONS;
use crate::process::telemetry::{self, Format};
use crate::resolve::PublicUrl;
use crate::roles::webhook::{Options, run as serve};

/// Answer the API server before it stores an McpServer, McpPolicy, McpAuthorizationServer or McpClient
///
/// Refuses what is wrong in itself or beyond its author's rights, with the field and the remedy, and warns of what depends on
/// other objects. It reads our own kinds, Namespaces, and ConfigMaps that are named; no Secret; and writes nothing. Only who
/// was told a secret path is answered. It is ready once it knows the cluster, and the ValidatingWebhookConfigurations verify its
/// certificate and name its path, which are read again when they change. SIGTERM lets reviews under way end. Exit code 0: it
/// ended cleanly; 1: reviews were cut off at the end; 2: it could not start.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The URL under which callers reach the gateway
    #[arg(long, env = "PORTCULLIS_PUBLIC_URL", value_name = "URL")]
    public_url: String,
    /// The namespace whose policies are guardrails for all others
    #[arg(long, env = "PORTCULLIS_SYSTEM_NAMESPACE", value_name = "NAME", default_value = "portcullis-system")]
    system_namespace: String,
    /// The namespace of the proxies
    #[arg(long, env = "PORTCULLIS_GATEWAY_NAMESPACE", value_name = "NAME", default_value = "portcullis-gateway")]
    gateway_namespace: String,
    /// Where the API server calls, by https
    #[arg(long, env = "PORTCULLIS_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8443", value_parser = address)]
    listen: SocketAddr,
    /// The folder with its certificate chain and key: tls.crt and tls.key (PEM), read again when they change
    #[arg(long, env = "PORTCULLIS_TLS_DIR", value_name = "DIR")]
    tls_dir: PathBuf,
    /// The file with the key of secret paths that the controller made, read again when it changes: what comes by any other path
    /// is not answered
    #[arg(long, env = "PORTCULLIS_PATH_KEY_FILE", value_name = "FILE")]
    path_key_file: PathBuf,
    /// The ValidatingWebhookConfigurations that lead here: it is ready once they verify its certificate and name a path of it
    #[arg(
        long = "configuration",
        env = "PORTCULLIS_CONFIGURATIONS",
        value_name = "NAME",
        value_delimiter = ',',
        default_values = CONFIGURATIONS
    )]
    configurations: Vec<String>,
    /// Where operators look: /livez, /readyz, /metrics [default: nowhere]
    #[arg(long, env = "PORTCULLIS_ADMIN_LISTEN", value_name = "ADDR", value_parser = address)]
    admin_listen: Option<SocketAddr>,
    /// A host name, besides loopback ones, under which the admin listener may be called
    #[arg(long = "admin-host", env = "PORTCULLIS_ADMIN_HOSTS", value_name = "HOST", value_delimiter = ',')]
    admin_hosts: Vec<String>,
    #[command(flatten)]
    in_cluster: InCluster,
}

/// Runs until it is told to stop.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::init(Format::Auto, None)?;
    let url = &args.public_url;
    let public_url = PublicUrl::parse(url).map_err(|error| anyhow::anyhow!("--public-url {url}: {error}"))?;
    let options = Options {
        installation: Installation {
            public_url,
            system_namespace: args.system_namespace,
            gateway_namespace: args.gateway_namespace,
            cluster_domain: args.in_cluster.cluster_domain,
        },
        listen: args.listen,
        tls: args.tls_dir,
        path_key: args.path_key_file,
        configurations: args.configurations,
        admin_listen: args.admin_listen,
        admin_hosts: args.admin_hosts,
    };
    let runtime = runtime()?;
    let finish = runtime.block_on(serve(options))?;
    // A review that was given up may still be computing.
    runtime.shutdown_background();
    Ok(ended(finish))
}
