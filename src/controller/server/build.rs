//! From what a server means to everything that there should be for it. No client is needed.

use std::sync::Arc;

use super::isolation::{self, Asked, Isolation, Told};
use super::validate::{Reviewed, Validated};
use crate::controller::Installation;
use crate::controller::apply::Prepared;
use crate::controller::conditions::with_role_binding;
use crate::controller::document::Document;
use crate::controller::error::Failure;
use crate::controller::inventory::told::Basis;
use crate::controller::object::Wanted;
use crate::generated::codec::Generated;
use crate::generated::server::{Credentials, State};
use crate::generated::{Kind, ObjectId, Server};
use crate::resolve::{self, Findings};

/// What the author of a server is to be told.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What is wrong with it in itself.
    pub errors: Findings,
    /// What depends on others.
    pub warnings: Findings,
    /// Where callers reach it, if it has a place.
    pub resource: Option<String>,
    /// Its owner switched it off.
    pub disabled: bool,
    /// What was reviewed of its tools, if it has a lock.
    pub reviewed: Option<Arc<Reviewed>>,
    /// What its tools are listed by; `None`: it takes no calls.
    pub basis: Option<Basis>,
    /// It is called with OAuth tokens.
    pub oauth: bool,
    /// Whether its upstream is closed to others; `None`: nobody asked for it.
    pub isolation: Option<Told>,
}

/// What there should be for a server, and for its isolation. One whose last edit is invalid keeps its place and takes no
/// calls; one that was never valid has none.
pub(super) fn build(
    validated: Validated,
    installation: &Installation,
) -> Result<(Prepared<Verdict>, Isolation), Failure> {
    let Validated { key, id, outcome, previous, reviewed, claimants, closes, isolation, question: _, trust: _ } =
        validated;
    let (mut errors, mut warnings) = (Findings::new(), Findings::new());
    let mut server = match outcome {
        Ok(resolved) => {
            warnings = resolved.warnings;
            Some(resolved.object)
        }
        Err(findings) => {
            let standing = previous.map(|last| resolve::unserved(&last, &findings));
            errors = findings;
            standing
        }
    };
    if let Some(server) = server.as_mut().filter(|_| !claimants.is_empty()) {
        let path = server.path.clone();
        warnings.push(resolve::conflicted(server, &path, &claimants));
    }
    let generated = match &server {
        None => None,
        Some(server) => Some(encoded(&id, server)?),
    };
    let account = (installation.system_namespace.as_str(), installation.service_account.as_str());
    let content = server.as_ref().map(|server| server.metadata.clone()).filter(|metadata| !metadata.is_empty());
    let document = Document { server: id.clone(), content: content.filter(|_| errors.is_empty()) };
    let asked = match &closes {
        _ if !errors.is_empty() => Asked::Unknown,
        Some(service) => Asked::GatewayOnly(service),
        None => Asked::Anyone,
    };
    let isolation = isolation::plan(&id, asked, isolation, installation);
    let verdict = Verdict {
        warnings: with_role_binding(warnings, &key.namespace, account),
        errors,
        reviewed: reviewed.map(Arc::new),
        resource: server.as_ref().map(|server| server.resource.clone()),
        basis: server.as_ref().and_then(Basis::of),
        oauth: server.as_ref().is_some_and(|server| matches!(server.upstream.credentials, Credentials::Oauth(_))),
        disabled: server.is_some_and(|server| server.state == State::Disabled),
        isolation: isolation.before.clone(),
    };
    Ok((Prepared { key, id, kind: Kind::Server, generated, document: Some(document), verdict }, isolation))
}

fn encoded(id: &ObjectId, server: &Server) -> Result<Wanted, Failure> {
    Wanted::new(Kind::Server, id, &Generated::Server(server.clone())).map_err(|error| Failure::Build(error.reason()))
}
