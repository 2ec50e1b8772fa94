//! `portcullis controller`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use super::outbound::{InCluster, Outbound};
use super::serving::{ended, runtime};
use super::token::duration;
use super::{address, boolish};
use crate::controller::Installation;
use crate::process::telemetry::{self, Format};
use crate::resolve::PublicUrl;
use crate::roles::controller::{End, Options, run as serve};

/// Turn the McpServers, McpPolicies and McpAuthorizationServers of a cluster into what its proxies serve
///
/// Runs in the system namespace, reached through the Pod's ServiceAccount or KUBECONFIG. Several may run: one leads and
/// writes, the others know everything and take over when it goes. Each object's status says what is wrong with it, what is
/// enforced meanwhile, and whether every proxy runs it. Exit code 0: it was told to stop; 1: it lost the lead, and another
/// takes over; 2: it could not start.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The URL under which callers reach the gateway
    #[arg(long, env = "PORTCULLIS_PUBLIC_URL", value_name = "URL")]
    public_url: String,
    /// The namespace whose policies are guardrails for all others
    #[arg(long, env = "PORTCULLIS_SYSTEM_NAMESPACE", value_name = "NAME", default_value = "portcullis-system")]
    system_namespace: String,
    /// The namespace of the proxies and of what they serve, and of nothing else
    #[arg(long, env = "PORTCULLIS_GATEWAY_NAMESPACE", value_name = "NAME", default_value = "portcullis-gateway")]
    gateway_namespace: String,
    /// The controller's ServiceAccount: whoever has to let it read a Secret is shown a RoleBinding for it
    #[arg(long, env = "PORTCULLIS_SERVICE_ACCOUNT", value_name = "NAME", default_value = "portcullis-controller")]
    service_account: String,
    /// How old the configuration of a proxy may be before it denies every call, such as 1h or 90s: what the proxies have
    #[arg(long, env = "PORTCULLIS_MAX_STALENESS", value_name = "DURATION", default_value = "1h", value_parser = duration)]
    max_staleness: u32,
    /// How often each upstream is asked for its tools, such as 10m: for the status, and for those who review them
    #[arg(long, env = "PORTCULLIS_INVENTORY_EVERY", value_name = "DURATION", default_value = "10m", value_parser = duration)]
    inventory_every: u32,
    /// Never ask upstreams for their tools: for a controller that must not reach them, or may not use their credentials
    #[arg(long, env = "PORTCULLIS_NO_INVENTORY", value_parser = boolish())]
    no_inventory: bool,
    /// How often each upstream that is called with OAuth tokens is asked whose tokens it takes, such as 1m
    #[arg(long, env = "PORTCULLIS_TRUST_EVERY", value_name = "DURATION", default_value = "1m", value_parser = duration)]
    trust_every: u32,
    /// There is an admission webhook: make the secret paths by which it knows the API server, anew each hour
    #[arg(long, env = "PORTCULLIS_WEBHOOK", value_parser = boolish())]
    webhook: bool,
    /// A name or address under which the API server calls the admission webhook, such as
    /// portcullis-webhook.portcullis-system.svc: the webhook is given certificates for it, of an authority that is made here,
    /// and that the API server is told of; with --webhook [default: none, others make its certificates]
    #[arg(
        long = "webhook-name",
        env = "PORTCULLIS_WEBHOOK_NAMES",
        value_name = "NAME",
        value_delimiter = ',',
        requires = "webhook"
    )]
    webhook_names: Vec<String>,
    /// Where operators look: /livez, /readyz, /metrics [default: nowhere]
    #[arg(long, env = "PORTCULLIS_ADMIN_LISTEN", value_name = "ADDR", value_parser = address)]
    admin_listen: Option<SocketAddr>,
    /// A host name, besides loopback ones, under which the admin listener may be called
    #[arg(long = "admin-host", env = "PORTCULLIS_ADMIN_HOSTS", value_name = "HOST", value_delimiter = ',')]
    admin_hosts: Vec<String>,
    #[command(flatten)]
    in_cluster: InCluster,
    #[command(flatten)]
    outbound: Outbound,
}

/// Runs until it is told to stop, or has lost the lead.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::init(Format::Auto, None)?;
    let url = &args.public_url;
    let public_url = PublicUrl::parse(url).map_err(|error| anyhow::anyhow!("--public-url {url}: {error}"))?;
    let options = Options {
        installation: Installation {
            public_url,
            system_namespace: args.system_namespace,
            gateway_namespace: args.gateway_namespace,
            cluster_domain: args.in_cluster.cluster_domain.clone(),
            service_account: args.service_account,
            max_staleness: Duration::from_secs(args.max_staleness.into()),
            webhook: args.webhook.then_some(args.webhook_names),
        },
        admin_listen: args.admin_listen,
        admin_hosts: args.admin_hosts,
        egress: args.outbound.policy_in_cluster(args.in_cluster)?,
        trust_every: Duration::from_secs(args.trust_every.into()),
        inventory_every: (!args.no_inventory).then(|| Duration::from_secs(args.inventory_every.into())),
    };
    let runtime = runtime()?;
    let end = runtime.block_on(serve(options))?;
    // Nothing that still runs may write any more.
    runtime.shutdown_background();
    Ok(match end {
        End::Told(finish) => ended(finish),
        End::Lost(lost) => {
            tracing::error!("{lost}");
            ExitCode::from(1)
        }
    })
}
