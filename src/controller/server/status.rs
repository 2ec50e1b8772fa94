//! What is said of a server, made of what was applied.

use serde_json::Value;

use super::build::Verdict;
use super::isolation;
use crate::controller::apply::Applied;
use crate::controller::conditions::{
    self, DISABLED, NO_PROXIES, PENDING, PROGRAMMED, READY, Said, Statement, Truth, UPSTREAM_AUTHORIZED,
    UPSTREAM_TOKEN_WANTED,
};
use crate::controller::inventory::told::{self, Basis, Heard};
use crate::controller::proxies::Programming;

/// What is to be done where an issuer refuses tokens with this code (RFC 6749 section 5.2, RFC 8707 section 2).
fn remedy(code: &str) -> &'static str {
    match code {
        "invalid_client" => "are the id and the Secret of its McpClient those that the issuer knows?",
        // Keycloak says this to a wrong secret too.
        "unauthorized_client" => {
            "is the Secret of its McpClient right, and may that client use this grant at the issuer?"
        }
        "unsupported_grant_type" => "the issuer does not offer this grant to anybody",
        "invalid_scope" => "let the client have spec.upstream.credentials.oauth.scopes at the issuer",
        "invalid_target" => "let the issuer know the upstream's resource",
        _ => "see docs/upstreams.md, and the log of the proxy",
    }
}

/// Whether its upstream is called with the tokens that it wants, by what proxies say. Before all of them run what was written,
/// nobody knows.
fn authorized(programming: Option<&Programming>, trouble: Option<(String, String)>) -> Said {
    let said = |truth, reason, message: &str| Said::new(UPSTREAM_AUTHORIZED, truth, reason, message);
    let Some((reason, words)) = trouble else {
        return match programming {
            Some(Programming::Everywhere(_)) => {
                said(Truth::True, UPSTREAM_AUTHORIZED, "no proxy is kept from calling the upstream for want of a token")
            }
            Some(Programming::NoProxies) => {
                said(Truth::Unknown, NO_PROXIES, "no proxy runs that could call the upstream")
            }
            None | Some(Programming::Waiting | Programming::Silent(_) | Programming::Refused { .. }) => {
                said(Truth::Unknown, PENDING, "not every proxy runs this generation")
            }
        };
    };
    let message = match (reason.as_str(), words.as_str()) {
        ("UpstreamScopesLacking", scopes) => format!(
            "{reason}: the upstream asks for the scopes {scopes}, and no token has them: add them to \
             spec.upstream.credentials.oauth.scopes, and let the client have them at the issuer"
        ),
        ("UpstreamTokenRefused", code) => format!("{reason}: the issuer refuses a token ({code}): {}", remedy(code)),
        _ => format!(
            "{reason}: a proxy gets no token for the upstream, or the upstream does not take it: see docs/upstreams.md"
        ),
    };
    said(Truth::False, UPSTREAM_TOKEN_WANTED, &message)
}

/// What is said of a server. `programming` is what proxies make of what was written, if they were told of it; `trouble` what they
/// say of how the upstream is called; `heard` what
/// is known of its tools, if it is asked; `before` its status.
pub fn status(
    applied: &Applied<Verdict>,
    (programming, trouble): (Option<Programming>, Option<(String, String)>),
    heard: Option<&(Basis, Heard)>,
    before: &Value,
) -> Statement {
    let Verdict { errors, warnings, resource, disabled, reviewed: _, basis: _, oauth, isolation } = &applied.verdict;
    let meanwhile = match applied.generated {
        Some(_) => "it takes no calls.",
        None => "it is not served.",
    };
    let accepted = conditions::accepted(errors, warnings, meanwhile);
    let resolved = conditions::resolved_refs(accepted.truth == Truth::True, warnings);
    let authorized = oauth.then(|| authorized(programming.as_ref(), trouble));
    let programmed = match applied.generated {
        Some(_) => conditions::programming(PROGRAMMED, programming),
        None => Said::new(PROGRAMMED, Truth::False, accepted.reason.clone(), "nothing is served of it."),
    };
    let isolated = isolation.as_ref().map(|told| told.said.clone());
    let said = [accepted, resolved, programmed].into_iter().chain(isolated).collect();
    let mut statement = Statement::new(applied.id.generation, said);
    if *disabled {
        let ready = statement.conditions.iter_mut().find(|said| said.type_ == READY && said.truth == Truth::True);
        if let Some(said) = ready {
            DISABLED.clone_into(&mut said.reason);
            "spec.state is Disabled: every call is refused.".clone_into(&mut said.message);
        }
    }
    authorized.into_iter().for_each(|said| statement.beside(said));
    if let Some((basis, heard)) = heard {
        let (tools, said) = told::told(*basis, heard, before, applied.id.generation);
        said.into_iter().for_each(|said| statement.beside(said));
        statement.members.extend(tools.map(|tools| (told::TOOLS.to_owned(), tools)));
    }
    if isolation.as_ref().is_some_and(|told| told.may_be_there) {
        statement = statement.member(isolation::NOTED, isolation::name(&applied.id));
    }
    match resource {
        Some(resource) => statement.member("resource", resource.as_str()),
        None => statement,
    }
}
