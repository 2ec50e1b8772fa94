//! The only dialer: resolve, check, pin, connect.
//!
//! Invariant: a connection is only ever opened to an address that was checked a moment before, in the same attempt and
//! without a second look-up in between; if any address of a name is internal, none of them is used. Redirects are
//! never followed. What is internal is a fact about addresses ([`address`]); which of those the administrator opened
//! is [`Policy`], and no manifest can widen it.

pub mod address;
mod connect;
mod error;
mod exchange;
mod fetch;
mod resolve;
mod send;
mod tls;

#[cfg(test)]
pub(crate) mod testing;

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use connect::{Connector, PlainHttp, Stream};
pub use error::EgressError;
pub use exchange::{Answer, Content, ExchangeError, Exchanger, Message};
pub use fetch::{FetchError, Fetched, Fetcher};
pub use resolve::{Lookup, Resolve, SystemResolver};
pub use send::Limits;
pub(crate) use send::{egress_cause, root_cause};
pub use tls::TlsOptions;

pub use address::Cidr;
use address::Internal;
use std::borrow::Cow;

/// Which addresses that are not public may be dialed: the administrator's `--allow-private-upstreams`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowPrivate {
    /// None.
    #[default]
    Never,
    /// Loopback, RFC 1918, shared (RFC 6598) and unique local (RFC 4193) addresses; not link-local ones, where clouds
    /// serve instance credentials: those need their range named.
    Private,
    /// The same without loopback, where what listens is a neighbour in the gateway's own Pod.
    Network,
    /// Whatever lies in one of these ranges; addresses where clouds serve instance credentials only if named alone.
    Ranges(Vec<Cidr>),
}

impl AllowPrivate {
    /// Exactly the addresses that a URL's host has now, for a URL that an administrator typed: whoever names a host on
    /// the command line means it, and nothing beside it.
    ///
    /// # Errors
    /// If the URL has no host, or the host no address.
    pub async fn exactly(url: &url::Url) -> Result<Self, EgressError> {
        let addresses: Vec<IpAddr> = match url.host() {
            Some(url::Host::Ipv4(ip)) => vec![ip.into()],
            Some(url::Host::Ipv6(ip)) => vec![ip.into()],
            Some(url::Host::Domain(name)) => {
                let port = url.port_or_known_default().unwrap_or(443);
                let found = tokio::net::lookup_host((name, port)).await;
                found
                    .map_err(|error| EgressError::Resolve { host: name.to_owned(), detail: error.to_string() })?
                    .map(|at| at.ip())
                    .collect()
            }
            None => Vec::new(),
        };
        // A name may come to point to where clouds keep credentials: nobody who typed it meant that.
        let private = addresses.into_iter().filter(|ip| address::classify(*ip).is_some_and(|kind| kind.is_private()));
        let ranges = private.map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }));
        ranges.collect::<Vec<_>>().join(",").parse()
    }
}

impl FromStr for AllowPrivate {
    type Err = EgressError;

    /// Reads a flag's value: `true`, `false`, or ranges separated by commas (`10.0.0.0/8,fd00::/8`).
    fn from_str(text: &str) -> Result<Self, EgressError> {
        match text {
            "true" => Ok(AllowPrivate::Private),
            "false" | "" => Ok(AllowPrivate::Never),
            ranges => ranges
                .split(',')
                .map(|range| range.trim().parse())
                .collect::<Result<_, _>>()
                .map(AllowPrivate::Ranges)
                .map_err(|_| EgressError::Range { text: ranges.chars().take(200).collect() }),
        }
    }
}

/// Why an address may not be dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// It is not public, and the administrator did not open it.
    Internal(Internal),
    /// The administrator closed it.
    Closed,
}

/// What may be dialed, and how patiently.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Which internal addresses are open.
    pub allow_private: AllowPrivate,
    /// Ranges that are never dialed, for example a cluster's nodes or the operator's own NAT64 prefix. Wins over
    /// `allow_private`.
    pub denied: Vec<Cidr>,
    /// In a cluster: its DNS domain. Names then mean what the public DNS says, since no search domain completes them, by which
    /// a Pod's `a.b` becomes the Service `a` of somebody's namespace `b`. Those that end in `.svc` are of this domain, and
    /// `localhost` is what it is.
    pub cluster_domain: Option<String>,
    /// For name look-up, TCP connect and TLS handshake together.
    pub connect_timeout: Duration,
    /// PEM certificates trusted besides the system's.
    pub extra_roots_pem: Option<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            allow_private: AllowPrivate::Never,
            denied: Vec::new(),
            cluster_domain: None,
            connect_timeout: Duration::from_secs(10),
            extra_roots_pem: None,
        }
    }
}

impl Policy {
    /// What the resolver is asked for a host.
    fn asked<'h>(&self, host: &'h str) -> Cow<'h, str> {
        match &self.cluster_domain {
            None => host.into(),
            Some(_) if host.ends_with(['.', ']']) || host == "localhost" => host.into(),
            Some(domain) if host.ends_with(".svc") => format!("{host}.{domain}.").into(),
            Some(_) => format!("{host}.").into(),
        }
    }

    /// Whether `ip` may be dialed.
    ///
    /// # Errors
    /// If it may not, why.
    pub fn check(&self, ip: IpAddr) -> Result<(), Forbidden> {
        let embedded = address::embedded_v4(ip).map(IpAddr::V4);
        let holds = |range: &Cidr| range.contains(ip) || embedded.is_some_and(|ip| range.contains(ip));
        let within = |ranges: &[Cidr]| ranges.iter().any(holds);
        if within(&self.denied) {
            return Err(Forbidden::Closed);
        }
        let Some(internal) = address::classify(ip) else { return Ok(()) };
        let open = match &self.allow_private {
            AllowPrivate::Never => false,
            AllowPrivate::Private => internal.is_private(),
            AllowPrivate::Network => internal.is_private() && internal != Internal::Loopback,
            // Some lie inside ranges that are opened for other reasons: nobody who opened those meant them.
            AllowPrivate::Ranges(ranges) if internal == Internal::Metadata => {
                ranges.iter().any(|range| range.is_one_address() && holds(range))
            }
            AllowPrivate::Ranges(ranges) => within(ranges),
        };
        if open { Ok(()) } else { Err(Forbidden::Internal(internal)) }
    }
}

/// The dialer. Cheap to clone; clones share trust roots and resolver.
#[derive(Clone)]
pub struct Egress {
    inner: Arc<Inner>,
}

struct Inner {
    policy: Policy,
    resolver: Arc<dyn Resolve>,
    trust: tls::Trust,
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress").field("policy", &self.inner.policy).finish_non_exhaustive()
    }
}

impl Egress {
    /// A dialer with the system's resolver and trust roots.
    ///
    /// # Errors
    /// If `extra_roots_pem` holds no readable certificate.
    pub fn new(policy: Policy) -> Result<Self, EgressError> {
        Self::with_resolver(policy, Arc::new(SystemResolver))
    }

    /// A dialer with another resolver.
    ///
    /// # Errors
    /// If `extra_roots_pem` holds no readable certificate.
    pub fn with_resolver(policy: Policy, resolver: Arc<dyn Resolve>) -> Result<Self, EgressError> {
        let trust = tls::Trust::new(policy.extra_roots_pem.as_deref())?;
        Ok(Self { inner: Arc::new(Inner { policy, resolver, trust }) })
    }

    /// The policy that it was built with.
    pub fn policy(&self) -> &Policy {
        &self.inner.policy
    }

    /// A connector for an HTTP client pool, speaking HTTP/1.1 or HTTP/2 as the peer prefers.
    ///
    /// # Errors
    /// If `tls` holds an unreadable certificate or server name.
    pub fn connector(&self, tls: &TlsOptions, plain: PlainHttp) -> Result<Connector, EgressError> {
        Connector::new(self.clone(), tls, plain)
    }

    /// A client for small JSON documents of authorization servers.
    ///
    /// # Errors
    /// If `tls` holds an unreadable certificate or server name.
    pub fn fetcher(&self, tls: &TlsOptions) -> Result<Fetcher, EgressError> {
        Ok(Fetcher::new(self.connector(tls, PlainHttp::Loopback)?))
    }

    /// A client for messages to authorization servers.
    ///
    /// # Errors
    /// If `tls` holds an unreadable certificate or server name.
    pub fn exchanger(&self, tls: &TlsOptions) -> Result<Exchanger, EgressError> {
        Ok(Exchanger::new(self.connector(tls, PlainHttp::Loopback)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &str) -> Policy {
        Policy { allow_private: allow.parse().unwrap(), ..Policy::default() }
    }

    #[test]
    fn the_flag_opens_private_ranges_but_not_where_clouds_keep_credentials() {
        let open = policy("true");
        for ip in ["127.0.0.1", "10.1.2.3", "192.168.0.1", "100.64.1.1", "::1", "fd12::1", "::ffff:10.0.0.1", "8.8.8.8"]
        {
            assert_eq!(open.check(ip.parse().unwrap()), Ok(()), "{ip}");
        }
        for ip in ["169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200", "224.0.0.1", "0.0.0.0"] {
            assert!(open.check(ip.parse().unwrap()).is_err(), "{ip}");
        }
    }

    #[test]
    fn in_a_cluster_the_pods_own_loopback_stays_closed() {
        let open = Policy { allow_private: AllowPrivate::Network, ..Policy::default() };
        for ip in ["10.1.2.3", "fd12::9", "1.1.1.1"] {
            assert_eq!(open.check(ip.parse().unwrap()), Ok(()), "{ip}");
        }
        for ip in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(open.check(ip.parse().unwrap()), Err(Forbidden::Internal(Internal::Loopback)), "{ip}");
        }
    }

    #[test]
    fn in_a_cluster_no_search_domain_completes_a_name() {
        let policy = Policy { cluster_domain: Some("cluster.local".into()), ..Policy::default() };
        for (host, asked) in [
            ("notes.other", "notes.other."),
            ("notes", "notes."),
            ("mcp.vendor.example", "mcp.vendor.example."),
            ("mcp.vendor.example.", "mcp.vendor.example."),
            ("notes.team.svc", "notes.team.svc.cluster.local."),
            ("notes.team.svc.cluster.local", "notes.team.svc.cluster.local."),
            ("[::1]", "[::1]"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(policy.asked(host), asked);
            assert_eq!(Policy::default().asked(host), host);
        }
    }

    #[test]
    fn ranges_open_exactly_themselves_however_the_address_is_written() {
        let open = policy("10.0.0.0/8, fd12::/16,169.254.169.254/32");
        for ip in ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd12::9", "169.254.169.254", "1.1.1.1"] {
            assert_eq!(open.check(ip.parse().unwrap()), Ok(()), "{ip}");
        }
        for ip in ["127.0.0.1", "192.168.0.1", "11.0.0.0", "fd13::9", "169.254.169.253"] {
            assert_eq!(open.check(ip.parse().unwrap()).is_ok(), ip == "11.0.0.0", "{ip}");
        }
    }

    #[test]
    fn a_range_never_opens_a_metadata_service_by_the_way() {
        let open = policy("10.0.0.0/8,fd00::/8,100.64.0.0/10,169.254.0.0/16,168.63.0.0/16");
        for ip in ["10.1.2.3", "fd12::9", "100.64.1.1", "169.254.1.1"] {
            assert_eq!(open.check(ip.parse().unwrap()), Ok(()), "{ip}");
        }
        let metadata =
            ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "::ffff:169.254.169.254"];
        for ip in metadata {
            assert_eq!(open.check(ip.parse().unwrap()), Err(Forbidden::Internal(Internal::Metadata)), "{ip}");
        }
        assert_eq!(policy("fd00:ec2::254/128").check("fd00:ec2::254".parse().unwrap()), Ok(()), "named itself");
    }

    #[test]
    fn closed_ranges_win() {
        let policy =
            Policy { denied: vec!["10.2.0.0/16".parse().unwrap(), "8.8.8.0/24".parse().unwrap()], ..policy("true") };
        assert!(policy.check("10.1.0.1".parse().unwrap()).is_ok());
        for ip in ["10.2.0.1", "8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808"] {
            assert_eq!(policy.check(ip.parse().unwrap()), Err(Forbidden::Closed), "{ip}");
        }
    }

    #[test]
    fn a_bad_range_is_an_error_not_an_empty_list() {
        for text in ["yes", "10.0.0.0/33", "10.0.0.0", "10.0.0.0/8,,", "::/129", "10.0.0.1/8"] {
            assert!(text.parse::<AllowPrivate>().is_err(), "{text}");
        }
    }
}
