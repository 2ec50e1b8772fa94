//! Which rights a change needs.
//!
//! Invariant: whatever could let anybody do what nobody could before needs the virtual verb `grant` on each server that it
//! opens, namespace-wide where a selector or a name that nobody has is used; only what is proven to narrow needs nothing.

mod authority;
mod client;
mod need;
mod policy;
mod server;

use self::authority::{authority, issuer_left};
use self::client::client;
use self::need::Needs;
pub use self::need::{BREAK_GLASS, GRANT, Need, Place, Right};
use self::policy::policy;
use self::server::{bare, path_left, server};
use super::review::Review;
use super::world::{Found, World, read};
use crate::api::{Kind, McpPolicy, McpServer, Object};
use crate::generated::Policy;
use crate::resolve::{self, ClientKind, Lookup};

/// What the author of a change needs.
pub(super) fn needs(review: &Review, new: Option<&Object>, world: &World, found: &Found) -> Vec<Need> {
    let old = review.old.as_ref().map(read);
    let mut needs = Needs::default();
    match review.key.kind {
        Kind::McpPolicy => {
            let old = old.map(|old| resolved_policy(old.ok().as_ref(), world, found));
            let new = new.and_then(|new| resolved_policy(Some(new), world, found));
            policy(&review.key.namespace, old, new.as_ref(), (world, found), &mut needs);
        }
        Kind::McpServer => {
            let resolved = |object: &Object| match object {
                Object::Server(object) => world.server(object, found).ok().map(|server| server.object),
                _ => None,
            };
            let old = old.and_then(Result::ok);
            let objects = (old.as_ref().and_then(as_server), new.and_then(as_server));
            let (before, after) = (old.as_ref().and_then(&resolved), new.and_then(&resolved));
            if let Some(after) = &after {
                let bare = bare(review, after);
                server(objects, before.as_ref().ok_or(&bare), after, world, &mut needs);
            }
            if let Some(before) = before.filter(|before| after.is_none_or(|after| after.path != before.path)) {
                path_left(&before, world, &mut needs);
            }
        }
        Kind::McpAuthorizationServer => {
            let resolved = |object: &Object| match object {
                Object::AuthorizationServer(object) => {
                    resolve::authority(object, &world.settings(), &Lookup::default())
                        .ok()
                        .map(|resolved| resolved.object)
                }
                _ => None,
            };
            let old = old.and_then(Result::ok).as_ref().and_then(&resolved);
            match new.and_then(&resolved) {
                Some(new) => authority(old.as_ref(), &new, world, &mut needs),
                None => old.iter().for_each(|old| issuer_left(old, world, &mut needs)),
            }
        }
        // For its token, or its registration, whoever writes an McpClient needs the verb `issue`; a
        // ValidatingAdmissionPolicy asks for it.
        Kind::McpClient => {
            let resolved = |object: &Object| match object {
                Object::Client(object) => {
                    resolve::client(object, &world.settings(), &Lookup::default()).ok().map(|client| client.object)
                }
                _ => None,
            };
            let meant = |client: &ClientKind| (client.authority().to_owned(), client.given_id().map(str::to_owned));
            let old = old.and_then(Result::ok).as_ref().and_then(&resolved);
            if let Some(new) = new.and_then(&resolved).filter(|new| old.as_ref().map(meant) != Some(meant(new))) {
                client(&review.key, &new, world, &mut needs);
            }
        }
        Kind::Secret | Kind::ConfigMap | Kind::Namespace => {}
    }
    needs.into_vec()
}

fn as_server(object: &Object) -> Option<&McpServer> {
    match object {
        Object::Server(server) => Some(server),
        _ => None,
    }
}

fn resolved_policy(object: Option<&Object>, world: &World, found: &Found) -> Option<Policy> {
    let Some(Object::Policy(policy)) = object else { return None };
    let policy: &McpPolicy = policy;
    let names = super::named::named(object?);
    resolve::policy(policy, &world.settings(), &world.lookup(&names, found)).ok().map(|resolved| resolved.object)
}

/// What a policy's change needs, as [`policy`] has it.
#[cfg(test)]
pub(super) fn of_policy(
    namespace: &str,
    old: Option<Option<Policy>>,
    new: Option<&Policy>,
    world: &World,
) -> Vec<Need> {
    let mut needs = Needs::default();
    policy(namespace, old, new, (world, &Found::default()), &mut needs);
    needs.into_vec()
}
