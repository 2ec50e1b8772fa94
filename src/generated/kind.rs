//! What is generated, and where it lies in the gateway namespace.
//!
//! Invariant: an object's name is made of its kind and the UID of what it was resolved from, so two objects of one name,
//! one after the other, are never taken for each other, and whoever deletes or re-creates the source is seen.

use serde::{Deserialize, Serialize};

/// The kind of a generated object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A governed server.
    Server,
    /// A policy.
    Policy,
    /// A trust anchor.
    Authority,
    /// A client whose document is served.
    Client,
}

/// The kinds of Kubernetes objects that hold generated ones, each watched as one collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Collection {
    /// What may hold credentials.
    Secrets,
    /// What holds none.
    ConfigMaps,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 4] = [Kind::Server, Kind::Policy, Kind::Authority, Kind::Client];

    /// As manifests write it.
    pub fn api_kind(self) -> &'static str {
        match self {
            Kind::Server => "McpServer",
            Kind::Policy => "McpPolicy",
            Kind::Authority => "McpAuthorizationServer",
            Kind::Client => "McpClient",
        }
    }

    /// The value of [`GENERATED`] on its objects.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Server => "server",
            Kind::Policy => "policy",
            Kind::Authority => "authority",
            Kind::Client => "client",
        }
    }

    /// Which Kubernetes objects hold it. Servers may hold credentials.
    pub fn collection(self) -> Collection {
        match self {
            Kind::Server => Collection::Secrets,
            Kind::Policy | Kind::Authority | Kind::Client => Collection::ConfigMaps,
        }
    }

    /// The version of the encoding in which it is written: that in which it came. So whoever reads an earlier one reads
    /// everything that it knows, and never sees the rest.
    pub fn version(self) -> u32 {
        match self {
            Kind::Server | Kind::Policy | Kind::Authority => 1,
            Kind::Client => 2,
        }
    }

    /// The name of the object that holds what was resolved from the source with this UID.
    pub fn object_name(self, uid: &str) -> String {
        format!("{}-{uid}", self.label())
    }

    /// Kind and UID of what an object of this name holds.
    pub fn of_object(name: &str) -> Option<(Kind, &str)> {
        let (label, uid) = name.split_once('-')?;
        Kind::ALL
            .into_iter()
            .find(|kind| kind.label() == label)
            .map(|kind| (kind, uid))
            .filter(|(_, uid)| !uid.is_empty())
    }
}

/// The label that every generated object carries: what it holds. Collections are watched by it.
pub const GENERATED: &str = "portcullis.dev/generated";
/// The label that says for which source an object was generated: its UID.
pub const SOURCE_UID: &str = "portcullis.dev/source-uid";
/// The annotation that says the same for people: `namespace/name`.
pub const SOURCE: &str = "portcullis.dev/source";
/// The key, in `data`, of the encoded object.
pub const OBJECT_KEY: &str = "object.json";
/// The Secret of the gateway namespace that holds the keys which seal ids that leave the gateway; labelled [`GENERATED`]
/// with [`SEALING_LABEL`].
pub const SEALING: &str = "portcullis-sealing";
/// See [`SEALING`].
pub const SEALING_LABEL: &str = "sealing";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for kind in Kind::ALL {
            let uid = "8a1c-1";
            assert_eq!(Kind::of_object(&kind.object_name(uid)), Some((kind, uid)));
        }
        for other in [SEALING, "server", "server-", "servers-1", ""] {
            assert_eq!(Kind::of_object(other), None, "{other}");
        }
    }
}
