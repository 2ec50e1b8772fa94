//! What a role may dial, as an administrator sets it: the same options wherever something is dialed on behalf of manifests.
//!
//! Invariant: internal addresses are opened here and nowhere else; no manifest can.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::api::object::is_dns_subdomain;
use crate::egress::{self, AllowPrivate, Cidr};

/// Where upstreams and issuers may be, and whose certificates are believed of them.
#[derive(clap::Args, Clone, Debug)]
pub struct Outbound {
    /// Upstreams and issuers may have private addresses: `true`, or only these ranges (10.0.0.0/8,fd00::/8). In a cluster
    /// `true` leaves out the Pod's own loopback
    #[arg(
        long,
        env = "PORTCULLIS_ALLOW_PRIVATE_UPSTREAMS",
        value_name = "true|CIDR,...",
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true
    )]
    pub allow_private_upstreams: Option<AllowPrivate>,
    /// Ranges in which no upstream and no issuer may be, public or private, such as those of the nodes and the API server;
    /// counts over --allow-private-upstreams
    #[arg(long = "deny-upstreams", env = "PORTCULLIS_DENY_UPSTREAMS", value_name = "CIDR", value_delimiter = ',')]
    pub denied: Vec<Cidr>,
    /// PEM certificates trusted for upstreams and issuers besides the system's
    #[arg(long, env = "PORTCULLIS_EXTRA_CA", value_name = "FILE")]
    pub extra_ca: Option<PathBuf>,
}

/// Where names of Services are found.
#[derive(clap::Args, Clone, Debug)]
pub struct InCluster {
    /// The cluster's DNS domain
    #[arg(long, env = "PORTCULLIS_CLUSTER_DOMAIN", value_name = "NAME", default_value = "cluster.local", value_parser = domain)]
    pub cluster_domain: String,
}

fn domain(text: &str) -> Result<String, String> {
    let name = text.trim_matches('.');
    if is_dns_subdomain(name) { Ok(name.to_owned()) } else { Err("not a DNS name such as cluster.local".to_owned()) }
}

impl Outbound {
    /// What the dialer is told.
    ///
    /// # Errors
    /// If the certificates cannot be read.
    pub fn policy(self) -> anyhow::Result<egress::Policy> {
        let extra_roots_pem = pem(self.extra_ca.as_deref())?;
        let allow_private = self.allow_private_upstreams.unwrap_or_default();
        Ok(egress::Policy { allow_private, denied: self.denied, extra_roots_pem, ..egress::Policy::default() })
    }

    /// The same for a role in a cluster, where whoever writes a manifest is not who runs the Pod: what listens on the Pod's
    /// own loopback, as sidecars do, is opened by naming its range, and not by `true`; and the Pod's search domains complete no
    /// name of a manifest.
    ///
    /// # Errors
    /// If the certificates cannot be read.
    pub fn policy_in_cluster(self, place: InCluster) -> anyhow::Result<egress::Policy> {
        let mut policy = self.policy()?;
        policy.cluster_domain = Some(place.cluster_domain);
        if policy.allow_private == AllowPrivate::Private {
            policy.allow_private = AllowPrivate::Network;
        }
        Ok(policy)
    }
}

/// The certificates of `--extra-ca`.
///
/// # Errors
/// If the file cannot be read, or holds none.
pub fn pem(path: Option<&Path>) -> anyhow::Result<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read --extra-ca {}", path.display()))?;
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        bail!("--extra-ca {} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)", path.display());
    }
    Ok(Some(text))
}
