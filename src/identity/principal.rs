//! The authenticated caller, always qualified by the configured authority.
//!
//! Invariant: e-mail, `preferred_username`, `clientInfo` and `User-Agent` are not here, so they can never decide.

use aws_lc_rs::digest;

/// An authenticated caller. Its identity is (authority, issuer, tenant, subject); the rest narrows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Name of the McpAuthorizationServer that vouches for it.
    pub authority: Box<str>,
    /// The token's `iss`.
    pub issuer: Box<str>,
    /// The tenant, where the authority has one.
    pub tenant: Option<Box<str>>,
    /// The subject, unique in (authority, issuer, tenant).
    pub subject: Box<str>,
    /// What kind of caller the subject is.
    pub kind: Kind,
    /// The client id through which it presents itself.
    pub client: Option<Box<str>>,
    /// Its groups, as far as they are known.
    pub groups: Groups,
    /// The current actor of a delegated token (RFC 8693 section 4.1).
    pub actor: Option<Actor>,
}

/// What kind of caller a subject is: derived from the authority's rules, never from the subject's looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A person.
    User,
    /// An OAuth client acting for itself.
    Client,
    /// A Kubernetes ServiceAccount; the subject is `system:serviceaccount:<namespace>:<name>`.
    ServiceAccount,
}

impl Kind {
    /// The name used in records and output.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::User => "User",
            Kind::Client => "Client",
            Kind::ServiceAccount => "ServiceAccount",
        }
    }
}

/// Groups, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Groups {
    /// All groups, sorted and without duplicates.
    Known(Box<[Box<str>]>),
    /// The claim is missing, overflowed or ill-typed: whether a group is among them is unknown.
    Unknown,
}

impl Groups {
    /// The groups in which Kubernetes puts every ServiceAccount of a namespace, and no others
    /// (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#service-account-tokens>).
    pub fn of_service_account(namespace: &str) -> Groups {
        let groups = ["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}").into()];
        Groups::Known(Box::new(groups))
    }
}

/// The party that acts on the subject's behalf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `act.sub`.
    pub subject: Box<str>,
    /// `act.iss`; absent: the token's own issuer.
    pub issuer: Option<Box<str>>,
}

impl Principal {
    /// What identifiers handed to this caller are bound to: a digest of everything that makes it this caller, groups
    /// excepted, for they may change while a session lasts. Two callers that differ never have the same binding.
    pub fn binding(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        let actor = self.actor.as_ref();
        let parts = [
            Some(self.kind.as_str()),
            Some(&*self.authority),
            Some(&*self.issuer),
            self.tenant.as_deref(),
            Some(&*self.subject),
            self.client.as_deref(),
            actor.map(|actor| &*actor.subject),
            actor.and_then(|actor| actor.issuer.as_deref()),
        ];
        for part in parts {
            // Presence and length first, so that neighbours cannot lend each other bytes.
            context.update(&[u8::from(part.is_some())]);
            let part = part.unwrap_or_default();
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut binding = [0; 32];
        binding.copy_from_slice(context.finish().as_ref());
        binding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_an_identity_but_its_groups_is_bound() {
        let alice = Principal {
            authority: "corp".into(),
            issuer: "https://as.example".into(),
            tenant: None,
            subject: "alice".into(),
            kind: Kind::User,
            client: Some("ide".into()),
            groups: Groups::Unknown,
            actor: None,
        };
        let actor = |issuer: Option<&str>| Some(Actor { subject: "agent".into(), issuer: issuer.map(Into::into) });
        let others = [
            Principal { authority: "corp2".into(), ..alice.clone() },
            Principal { issuer: "https://as.example/".into(), ..alice.clone() },
            Principal { tenant: Some("".into()), ..alice.clone() },
            Principal { subject: "alic".into(), ..alice.clone() },
            Principal { kind: Kind::Client, ..alice.clone() },
            Principal { client: None, ..alice.clone() },
            Principal { client: Some("".into()), ..alice.clone() },
            Principal { actor: actor(None), ..alice.clone() },
            Principal { actor: actor(Some("")), ..alice.clone() },
        ];
        let mut bindings: Vec<[u8; 32]> = others.iter().map(Principal::binding).collect();
        bindings.push(alice.binding());
        bindings.sort_unstable();
        bindings.dedup();
        assert_eq!(bindings.len(), others.len() + 1);
        let joined = Principal { groups: Groups::Known(["sre".into()].into()), ..alice.clone() };
        assert_eq!(joined.binding(), alice.binding(), "a session outlives a change of groups");
    }
}
