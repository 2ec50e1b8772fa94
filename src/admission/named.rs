//! What an object refers to by name.
//!
//! Invariant: every reference by which resolving an object can depend on another one is named here, Secrets apart, which the
//! webhook never sees.

use std::collections::BTreeSet;

use crate::api::v1alpha1::{McpPolicySpec, McpServerSpec};
use crate::api::{Key, Kind, McpServer, Object};

/// The objects that it refers to.
pub(super) fn named(object: &Object) -> BTreeSet<Key> {
    let own = object.key().namespace;
    let mut keys = BTreeSet::new();
    let mut add = |kind: Kind, name: &str| {
        let namespace = if kind.is_namespaced() { own.clone() } else { String::new() };
        keys.insert(Key { kind, namespace, name: name.to_owned() });
    };
    match object {
        Object::Policy(policy) => by_policy(&policy.spec, &mut add),
        Object::Server(server) => by_server(&server.spec, &mut add),
        Object::Client(client) => {
            add(Kind::McpAuthorizationServer, &client.spec.authorization_server);
            client.spec.servers().for_each(|name| add(Kind::McpServer, name));
        }
        Object::AuthorizationServer(_) | Object::Secret(_) | Object::ConfigMap(_) | Object::Namespace(_) => {}
    }
    keys
}

fn by_policy(spec: &McpPolicySpec, add: &mut impl FnMut(Kind, &str)) {
    spec.authority.iter().for_each(|name| add(Kind::McpAuthorizationServer, name));
    if spec.targets.namespace_selector.is_none() {
        spec.targets.servers.iter().flatten().for_each(|name| add(Kind::McpServer, name));
    }
    for entry in spec.rules.iter().flat_map(|rule| rule.principals.iter().chain(&rule.except)) {
        entry.authority.iter().for_each(|name| add(Kind::McpAuthorizationServer, name));
        entry.mcp_clients.iter().flatten().for_each(|name| add(Kind::McpClient, name));
    }
}

fn by_server(spec: &McpServerSpec, add: &mut impl FnMut(Kind, &str)) {
    spec.authorization.servers.iter().for_each(|name| add(Kind::McpAuthorizationServer, name));
    let lock = spec.tools.iter().filter_map(|tools| tools.lock.as_ref()).map(|lock| &lock.config_map_name);
    let ca = spec.upstream.tls.iter().filter_map(|tls| tls.ca_ref.as_ref()).map(|ca| &ca.config_map_name);
    lock.chain(ca).for_each(|name| add(Kind::ConfigMap, name));
    spec.upstream.credentials.oauth.iter().for_each(|oauth| add(Kind::McpClient, &oauth.client));
}

/// The McpClient that the gateway is to be at a server's upstream.
pub(super) fn upstream_client(server: &McpServer) -> Option<Key> {
    let oauth = server.spec.upstream.credentials.oauth.as_ref()?;
    let namespace = server.metadata.namespace.clone().unwrap_or_default();
    Some(Key { kind: Kind::McpClient, namespace, name: oauth.client.clone() })
}
