//! What is said of which client at which authorization server: `tests/clients/compatibility.yaml`, from which
//! `docs/compatibility.md` is made, and which the tests hold to what happens.

use serde::Deserialize;

use crate::support::client::{Line, Stock};

/// A released client, as the table names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Client {
    #[serde(rename = "npm 1")]
    Npm1,
    #[serde(rename = "npm 2")]
    Npm2,
    #[serde(rename = "PyPI 1")]
    Pypi1,
    #[serde(rename = "PyPI 2")]
    Pypi2,
    #[serde(rename = "rmcp")]
    Rmcp,
}

impl Client {
    pub(crate) const ALL: [Self; 5] = [Self::Npm1, Self::Npm2, Self::Pypi1, Self::Pypi2, Self::Rmcp];

    /// Its name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Npm1 => "npm `@modelcontextprotocol/sdk`",
            Self::Npm2 => "npm `@modelcontextprotocol/client`",
            Self::Pypi1 => "PyPI `mcp`, line 1",
            Self::Pypi2 => "PyPI `mcp`, line 2",
            Self::Rmcp => "crate `rmcp`",
        }
    }

    /// The client in the newest line that it speaks.
    pub(crate) fn stock(self) -> Stock {
        match self {
            Self::Npm1 => Stock::NpmSdk1,
            Self::Npm2 => Stock::Npm2(Line::Y2026),
            Self::Pypi1 => Stock::Pypi1,
            Self::Pypi2 => Stock::Pypi2(Line::Y2026),
            Self::Rmcp => Stock::Rmcp(Line::Y2026),
        }
    }
}

/// An authorization server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Server {
    Keycloak,
    #[serde(rename = "oidc-provider")]
    OidcProvider,
}

impl Server {
    pub(crate) const ALL: [Self; 2] = [Self::Keycloak, Self::OidcProvider];

    /// Its name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Keycloak => "Keycloak",
            Self::OidcProvider => "npm `oidc-provider`",
        }
    }
}

/// How a client comes by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It registers itself (RFC 7591).
    Dynamic,
    /// Its id is the URL of a document of its own.
    Document,
    /// An administrator has registered it.
    Given,
}

/// Whether a client has a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refresh {
    IfTheServerLikes,
    Never,
}

/// What becomes of something.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(crate) enum Outcome {
    Works(Works),
    Fails {
        /// What the client says, or a part of it.
        error: String,
        /// What that means.
        why: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Works {
    #[serde(rename = "works")]
    Works,
}

/// One client at one server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) client: Client,
    pub(crate) server: Server,
    /// From 401 to a governed call, by [`Way::Dynamic`].
    pub(crate) dynamic: Outcome,
    /// The same by [`Way::Document`].
    pub(crate) document: Outcome,
    /// The same by [`Way::Given`].
    pub(crate) given: Outcome,
    /// [`Way::Dynamic`], at a server that asks for no scope.
    pub(crate) no_scopes: Outcome,
    /// Scopes that are missing are got by one authorization request each, and none is asked for twice: by [`Way::Given`],
    /// with a refresh token.
    pub(crate) step_up: Outcome,
    /// The same by [`Way::Document`].
    pub(crate) step_up_document: Outcome,
    /// The same by [`Way::Document`], without a refresh token.
    pub(crate) step_up_without_refresh: Outcome,
    /// The same by [`Way::Dynamic`], with one.
    pub(crate) step_up_dynamic: Outcome,
    /// What becomes of a call whose scope the person does not get.
    pub(crate) withheld: Withheld,
}

/// The end of a client whose person does not get a scope.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Withheld {
    /// What the client says, or a part of it.
    pub(crate) error: String,
    /// How many authorization requests the call made.
    pub(crate) asks: usize,
    /// The client can make no further call.
    #[serde(default)]
    pub(crate) ends: bool,
}

/// Every row.
pub(crate) fn table() -> Vec<Row> {
    serde_saphyr::from_str(include_str!("../../clients/compatibility.yaml")).unwrap()
}

/// What is said of a client at a server.
pub(crate) fn row(client: Client, server: Server) -> Row {
    table().into_iter().find(|row| (row.client, row.server) == (client, server)).expect("a row")
}
