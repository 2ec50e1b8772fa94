//! What is known of the cluster that a gateway runs in.

/// The ServiceAccount of the gateway namespace as which the gateway calls upstreams. It has no rights, and is no caller.
pub const UPSTREAM_ACCOUNT: &str = "portcullis-upstream";

/// The cluster that a gateway runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The namespace of the proxies, and of [`UPSTREAM_ACCOUNT`].
    pub gateway_namespace: String,
    /// Its DNS domain: `<service>.<namespace>.svc` is also a name in it.
    pub dns_domain: String,
    /// Who issues tokens of ServiceAccounts; `None`: the API server has not been asked, or does not say.
    pub service_accounts: Option<ServiceAccounts>,
}

/// The issuer of a cluster's ServiceAccount tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccounts {
    /// The exact `iss` of the tokens.
    pub issuer: String,
    /// Audiences that the API server itself accepts: tokens with one of them are credentials for the cluster.
    pub api_audiences: Vec<String>,
}

impl Cluster {
    /// For questions that are answered without a cluster, about manifests that are meant for one: who may do what does
    /// not depend on its issuer.
    pub fn presumed() -> Cluster {
        let issuer = "https://kubernetes.invalid".to_owned();
        let service_accounts = ServiceAccounts { api_audiences: vec![issuer.clone()], issuer };
        Cluster {
            gateway_namespace: "portcullis-gateway".to_owned(),
            dns_domain: "cluster.local".to_owned(),
            service_accounts: Some(service_accounts),
        }
    }

    /// The subject of [`UPSTREAM_ACCOUNT`]'s tokens.
    pub(super) fn upstream_subject(&self) -> String {
        format!("system:serviceaccount:{}:{UPSTREAM_ACCOUNT}", self.gateway_namespace)
    }
}
