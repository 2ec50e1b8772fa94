//! Everything that a server refers to. A client is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::isolation;
use crate::api::core::{ConfigMap, Secret};
use crate::api::v1alpha1::McpServerSpec;
use crate::api::{self, Key, McpClient, McpServer};
use crate::controller::Context;
use crate::controller::error::{ApiError, Failure};
use crate::controller::fetch::{self, Fetched};
use crate::controller::registrations::ISSUER_ANNOTATION;
use crate::controller::service_account::{self, UpstreamToken};
use crate::controller::store::{Reference, Source};
use crate::generated::server::Credentials;
use crate::generated::{Authority, Labels, Server};
use crate::issuer::{Clock as _, SystemClock};
use crate::oauth::upstream_trust::Known;
use crate::resolve::{self, Registration};

/// A server, and what was found of what it refers to.
pub(super) struct Raw {
    pub(super) source: Arc<Source>,
    pub(super) previous: Option<Server>,
    pub(super) namespace: Option<Labels>,
    pub(super) authorities: Vec<Arc<Authority>>,
    /// All servers that claim its path, itself among them, if they are several.
    pub(super) claimants: Vec<Key>,
    pub(super) secrets: BTreeMap<String, Secret>,
    pub(super) forbidden: BTreeSet<String>,
    pub(super) config_maps: BTreeMap<String, ConfigMap>,
    /// The client that the gateway is at the issuer of its upstream, if it names one that is there.
    pub(super) client: Option<RawClient>,
    /// What is known of whom its upstream trusts.
    pub(super) trust: Option<Known>,
    /// The token that identifies the gateway to its upstream, if it asks for one and there is one.
    pub(super) upstream_token: Option<UpstreamToken>,
    /// What its isolation depends on.
    pub(super) isolation: isolation::Found,
    /// To how many Secrets and ConfigMaps it refers.
    refers: usize,
}

/// A client, and how clients are registered at its issuer.
pub(super) struct RawClient {
    pub(super) source: Arc<Source>,
    pub(super) registration: Option<Arc<Registration>>,
}

impl RawClient {
    /// The issuers to which what proves it may be sent, if it is known to be registered.
    pub(super) fn issuers(&self) -> Option<BTreeSet<String>> {
        let registered = self.source.client_status().registration?.issuer;
        Some(self.source.annotation(ISSUER_ANNOTATION).into_iter().chain([registered]).collect())
    }
}

impl Raw {
    /// Whether it refers to objects that are read again from time to time.
    pub(super) fn refers(&self) -> bool {
        self.refers > 0
    }

    /// Whether all of them were found.
    pub(super) fn is_complete(&self) -> bool {
        self.secrets.len() + self.config_maps.len() == self.refers
    }

    pub(super) fn server(&self) -> Option<&McpServer> {
        self.source.server()
    }
}

/// Fetches what a server refers to; `None` if it is gone.
pub(super) async fn dereference(context: &Context, key: &Key) -> Result<Option<Raw>, Failure> {
    let Some(mut raw) = known(context, key) else { return Ok(None) };
    let client = raw.client.as_ref().and_then(|client| client.source.client());
    let names = raw.source.server().map(|server| Names::of(&server.spec, client)).unwrap_or_default();
    raw.refers = names.secrets.len() + names.config_maps.len();
    for name in names.secrets {
        match fetch::secret(&context.client, &key.namespace, &name).await? {
            Fetched::Found(secret) => drop(raw.secrets.insert(name, secret)),
            Fetched::Forbidden => drop(raw.forbidden.insert(name)),
            Fetched::Absent => {}
        }
    }
    for name in names.config_maps {
        if let Fetched::Found(map) = fetch::config_map(&context.client, &key.namespace, &name).await? {
            raw.config_maps.insert(name, map);
        }
    }
    if raw.server().is_some_and(asks_for_token) {
        raw.upstream_token = upstream_token(context, key, raw.previous.as_ref()).await?;
        raw.refers += usize::from(raw.upstream_token.is_none());
    }
    raw.isolation = isolation(context, &raw.source).await?;
    Ok(Some(raw))
}

/// Of a server that asks to be isolated, or was: its Service, and what has the name of its NetworkPolicy. Others cost nothing.
async fn isolation(context: &Context, source: &Source) -> Result<isolation::Found, Failure> {
    let namespace = source.key.namespace.as_str();
    let mut found = isolation::Found { is_noted: isolation::is_noted(&source.status), ..isolation::Found::default() };
    let asked = source.server().and_then(|server| isolation::asks(&server.spec));
    if let Some(service) = asked {
        found.service = Some(fetch::service(&context.client, namespace, &service.name).await?);
    }
    if asked.is_some() || found.is_noted {
        let name = isolation::name(&source.id);
        found.policy = Some(fetch::network_policy(&context.client, namespace, &name).await?);
    }
    Ok(found)
}

/// A token is for a Service only: that is what `resolve` holds every server to.
fn asks_for_token(server: &McpServer) -> bool {
    server.spec.upstream.credentials.service_account.is_some() && server.spec.upstream.service.is_some()
}

/// The token in use, or a new one; `None` if the controller may not ask for it.
async fn upstream_token(
    context: &Context,
    key: &Key,
    previous: Option<&Server>,
) -> Result<Option<UpstreamToken>, Failure> {
    let earlier = match previous.map(|server| &server.upstream.credentials) {
        Some(Credentials::ServiceAccount { token }) => Some(token),
        _ => None,
    };
    let (gateway, server) = (&context.installation.gateway_namespace, (key.namespace.as_str(), key.name.as_str()));
    let now = SystemClock::default().unix();
    match service_account::upstream_token(&context.client, gateway, server, earlier, now).await {
        Ok(token) => Ok(Some(token)),
        Err(error @ ApiError::Refused { code: 403 | 404, .. }) => {
            tracing::warn!(object = %key, reason = error.reason(), %error, "no token for the upstream");
            Ok(None)
        }
        Err(error) => Err(Failure::Dereference(error)),
    }
}

/// What the store knows, and the wish to hear of changes to it: in one go, so that none is missed between.
fn known(context: &Context, key: &Key) -> Option<Raw> {
    let mut store = context.store();
    let source = store.source(key)?;
    let mut references = BTreeSet::from([Reference::Namespace(key.namespace.clone())]);
    let authorities = source.server().map(|server| server.spec.authorization.servers.clone()).unwrap_or_default();
    references.extend(authorities.iter().cloned().map(Reference::Authority));
    let oauth = source.server().and_then(|server| server.spec.upstream.credentials.oauth.as_ref());
    let client = oauth.and_then(|oauth| {
        let (namespace, name) = (key.namespace.clone(), oauth.client.clone());
        references.insert(Reference::Client(namespace.clone(), name.clone()));
        store.source(&Key { kind: api::Kind::McpClient, namespace, name })
    });
    let its = client.as_ref().and_then(|source| Some(source.client()?.spec.authorization_server.clone()));
    references.extend(its.iter().cloned().map(Reference::Authority));
    store.follow(key, references);
    let previous = store.last_server(&source.id.uid);
    Some(Raw {
        trust: oauth.and_then(|_| context.trusts.known(&source.id.uid, previous.as_ref())),
        client: client
            .map(|source| RawClient { source, registration: its.as_ref().and_then(|name| store.registration(name)) }),
        previous,
        namespace: store.labels_of(&key.namespace),
        authorities: authorities.iter().chain(&its).filter_map(|name| store.authority(name)).collect(),
        claimants: store.claimants(key),
        source,
        secrets: BTreeMap::new(),
        forbidden: BTreeSet::new(),
        config_maps: BTreeMap::new(),
        upstream_token: None,
        isolation: isolation::Found::default(),
        refers: 0,
    })
}

/// Names of objects in the server's namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    secrets: BTreeSet<String>,
    config_maps: BTreeSet<String>,
}

impl Names {
    fn of(spec: &McpServerSpec, client: Option<&McpClient>) -> Self {
        let headers = spec.upstream.credentials.headers.iter().flatten();
        let credentials = client.into_iter().flat_map(|client| resolve::secrets_of(spec, client));
        let ca = spec.upstream.tls.as_ref().and_then(|tls| tls.ca_ref.as_ref()).map(|ca| &ca.config_map_name);
        let lock = spec.tools.as_ref().and_then(|tools| tools.lock.as_ref()).map(|lock| &lock.config_map_name);
        Self {
            secrets: headers.map(|header| header.secret_key_ref.name.clone()).chain(credentials).collect(),
            config_maps: ca.into_iter().chain(lock).cloned().collect(),
        }
    }
}
