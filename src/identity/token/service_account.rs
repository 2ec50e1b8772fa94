//! Tokens of Kubernetes ServiceAccounts, as the API server's TokenRequest makes them.
//!
//! Invariant: no token that is also a credential for the cluster makes a caller: a server or an upstream that sees it
//! could act as its ServiceAccount (<https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/>).

use serde_json::{Map, Value};

use super::super::principal::{Groups, Kind};
use super::claims::{Caller, printable};
use super::error::TokenError;
use crate::generated::ObjectId;

/// The private claim that names the ServiceAccount, and the Pod, Secret or Node that the token is bound to.
const CLAIM: &str = "kubernetes.io";
/// Before `<namespace>/<name>` of an McpServer: the audience that a manifest can name without knowing the public URL.
const AUDIENCE: &str = "portcullis:";

/// Whether an audience is the short name of this server.
pub(super) fn names(audience: &str, server: &ObjectId) -> bool {
    let named = audience.strip_prefix(AUDIENCE).and_then(|name| name.split_once('/'));
    named == Some((&server.namespace, &server.name))
}

/// Who the subject is: the ServiceAccount that both `sub` and the private claim name.
pub(super) fn caller(
    claims: &Map<String, Value>,
    subject: &str,
    audiences: &[Box<str>],
    api_audiences: &[String],
    refused: &[String],
) -> Result<Caller, TokenError> {
    if audiences.iter().any(|audience| api_audiences.iter().any(|api| **api == **audience)) {
        return Err(TokenError::ApiServerAudience);
    }
    let bound = claims.get(CLAIM).ok_or_else(|| TokenError::MissingClaim(CLAIM.into()))?;
    let namespace = bound.get("namespace").and_then(part);
    let name = bound.get("serviceaccount").and_then(|account| account.get("name")).and_then(part);
    let (Some(namespace), Some(name)) = (namespace, name) else {
        return Err(TokenError::MalformedClaim(CLAIM.into()));
    };
    if subject != format!("system:serviceaccount:{namespace}:{name}") {
        return Err(TokenError::ServiceAccountUnclear);
    }
    if refused.iter().any(|own| own == subject) {
        return Err(TokenError::GatewaysOwn);
    }
    Ok(Caller { kind: Kind::ServiceAccount, client: None, groups: Groups::of_service_account(namespace) })
}

/// A name in which no colon can move the border between two.
fn part(claim: &Value) -> Option<&str> {
    printable(claim).filter(|name| !name.contains(':'))
}
