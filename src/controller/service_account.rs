//! Tokens of the ServiceAccount as which the gateway calls upstreams in the cluster.
//!
//! Invariant: a token is asked for with the audience of one server, so an upstream that sees it can use it nowhere else;
//! and one that is good for a while is not asked for again, whoever leads.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Deserialize;

use super::error::ApiError;
use crate::resolve::UPSTREAM_ACCOUNT;
use crate::sensitive::Sensitive;

/// How long a token is asked to last. The API server may give it less.
const LIFETIME_SECONDS: i64 = 3600;
/// When it is renewed: after this much of its life.
const RENEWED_AFTER: (i64, i64) = (4, 5);

/// A token for one upstream.
#[derive(Clone, Debug)]
pub struct UpstreamToken {
    /// The token itself.
    pub token: Sensitive,
    /// How long until it should be asked for again.
    pub renew_in: Duration,
}

/// What of a token's claims counts here.
#[derive(Deserialize)]
struct Claims {
    aud: Vec<String>,
    iat: i64,
    exp: i64,
}

/// The token for the upstream of the McpServer `namespace/name`: `earlier`, the one that is in use, while it is good for
/// long enough, else a new one. `now` in Unix seconds.
///
/// # Errors
/// If the API server gives none: it must let the controller create `serviceaccounts/token` of `portcullis-upstream`.
pub async fn upstream_token(
    client: &Client,
    gateway_namespace: &str,
    (namespace, name): (&str, &str),
    earlier: Option<&Sensitive>,
    now: i64,
) -> Result<UpstreamToken, ApiError> {
    let audience = format!("portcullis-upstream:{namespace}/{name}");
    if let Some(token) = earlier
        && let Some(renew_in) = left(token, &audience, now)
    {
        return Ok(UpstreamToken { token: token.clone(), renew_in });
    }
    let token = Sensitive::new(request(client, gateway_namespace, vec![audience.clone()]).await?.0);
    // One whose time cannot be read is asked for again soon.
    let renew_in = left(&token, &audience, now).unwrap_or(Duration::from_secs(60));
    Ok(UpstreamToken { token, renew_in })
}

/// A token of the account for these audiences (none: the API server's own), and the audiences that it was given.
pub(super) async fn request(
    client: &Client,
    gateway_namespace: &str,
    audiences: Vec<String>,
) -> Result<(String, Vec<String>), ApiError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), gateway_namespace);
    let spec =
        TokenRequestSpec { audiences, expiration_seconds: Some(LIFETIME_SECONDS), ..TokenRequestSpec::default() };
    let asked = TokenRequest { spec, ..TokenRequest::default() };
    let what = || format!("a token of ServiceAccount {gateway_namespace}/{UPSTREAM_ACCOUNT}");
    let given = accounts
        .create_token_request(UPSTREAM_ACCOUNT, &PostParams::default(), &asked)
        .await
        .map_err(|error| ApiError::new(what(), &error))?;
    let token = given.status.map(|status| status.token).filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| ApiError::Unreachable { what: what(), cause: "it gave none".to_owned() })?;
    Ok((token, given.spec.audiences))
}

/// How long until a token should be renewed; `None` if that time has come, or it is not for this audience. It is not
/// verified: it comes from the API server, and goes to whoever verifies it.
fn left(token: &Sensitive, audience: &str, now: i64) -> Option<Duration> {
    let claims = URL_SAFE_NO_PAD.decode(token.expose().split('.').nth(1)?).ok()?;
    let Claims { aud, iat, exp } = serde_json::from_slice(&claims).ok()?;
    let (part, whole) = RENEWED_AFTER;
    let due = iat.saturating_add(exp.saturating_sub(iat).saturating_mul(part) / whole);
    let seconds = u64::try_from(due.saturating_sub(now)).ok().filter(|seconds| *seconds > 0)?;
    (aud == [audience]).then_some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_kept_for_four_fifths_of_its_life_and_for_its_server_alone() {
        let token = |aud: &str| {
            let claims = format!(r#"{{"aud":{aud},"iat":1000,"exp":2000}}"#);
            Sensitive::new(format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims)))
        };
        let own = token(r#"["portcullis-upstream:team/a"]"#);
        let audience = "portcullis-upstream:team/a";
        assert_eq!(left(&own, audience, 1000), Some(Duration::from_secs(800)));
        assert_eq!(left(&own, audience, 1799), Some(Duration::from_secs(1)));
        assert_eq!(left(&own, audience, 1800), None);
        assert_eq!(left(&own, "portcullis-upstream:team/b", 1000), None);
        assert_eq!(left(&token(r#"["portcullis-upstream:team/a","x"]"#), audience, 1000), None);
        for broken in ["", "a.b.c", "e30.e30.sig", "presumed"] {
            assert_eq!(left(&Sensitive::new(broken), audience, 1000), None, "{broken}");
        }
    }
}
