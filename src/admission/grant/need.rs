//! The rights that a change can take, and where.
//!
//! Invariant: of two rights at one place the one that takes more counts; and the words name the verb and a role that gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::generated::Server;

/// The verb by which somebody may open a server to callers.
pub const GRANT: &str = "grant";
/// The verb by which somebody may open a server for a day at most, and say why.
pub const BREAK_GLASS: &str = "break-glass";

/// A right that the author of a change needs, for a SubjectAccessReview.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Which.
    pub right: Right,
    /// Where.
    pub place: Place,
    /// What makes it needed, in words.
    pub why: String,
}

/// What somebody may need to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To open McpServers to callers: without it, the change is refused.
    Grant,
    /// To open them by an exception alone, which whoever may grant can write too: without it, the change is refused.
    BreakGlass,
    /// To see McpPolicies: without it, the author is not told what the change does.
    See,
}

impl Right {
    /// Verbs, of which one is enough, and resource, as a SubjectAccessReview has them.
    pub fn attributes(self) -> (&'static [&'static str], &'static str) {
        match self {
            Right::Grant => (&[GRANT], "mcpservers"),
            Right::BreakGlass => (&[BREAK_GLASS, GRANT], "mcpservers"),
            Right::See => (&["list"], "mcppolicies"),
        }
    }
}

impl Need {
    /// The right to see what a change does.
    pub(in crate::admission) fn sight(place: Place) -> Self {
        Self { right: Right::See, place, why: "to be told what the change does".to_owned() }
    }
}

/// The servers that a right is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Those of all namespaces.
    Everywhere,
    /// Those of a namespace.
    Namespace(String),
    /// One.
    Server {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// More servers of one namespace than these are asked about as all of them.
const MOST_SERVERS: usize = 16;

impl Place {
    /// The namespace of the one server that it is.
    fn of_server(&self) -> Option<&String> {
        match self {
            Place::Server { namespace, .. } => Some(namespace),
            Place::Everywhere | Place::Namespace(_) => None,
        }
    }

    /// Namespace and name, as a SubjectAccessReview has them: empty means all.
    pub fn attributes(&self) -> (&str, &str) {
        match self {
            Place::Everywhere => ("", ""),
            Place::Namespace(namespace) => (namespace, ""),
            Place::Server { namespace, name } => (namespace, name),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, role) = match &self.place {
            Place::Server { namespace, name } => {
                (format!("McpServer {namespace}/{name}"), format!(", resourceNames [{name}]"))
            }
            Place::Namespace(namespace) => (format!("the McpServers of namespace {namespace}"), String::new()),
            Place::Everywhere => ("the McpServers of all namespaces".to_owned(), String::new()),
        };
        let (verbs, resource) = self.right.attributes();
        let verb = verbs.first().copied().unwrap_or_default();
        write!(
            f,
            "{} (GrantMissing): the verb {} on {place} is needed; whoever has it may give it by a role with apiGroups \
             [portcullis.dev], resources [{resource}], verbs [{verb}]{role}",
            self.why,
            verbs.join(" or ")
        )
    }
}

/// By place, each with the first thing that makes it needed.
#[derive(Default)]
pub(super) struct Needs(BTreeMap<Place, Opened>);

/// What opens something, and the right that it takes.
pub(super) struct Opened {
    pub(super) right: Right,
    pub(super) why: String,
}

impl Opened {
    pub(super) fn for_good(why: String) -> Self {
        Self { right: Right::Grant, why }
    }

    /// The one of two that takes more.
    pub(super) fn or(self, other: Self) -> Self {
        if self.right == Right::BreakGlass { other } else { self }
    }
}

impl Needs {
    pub(super) fn into_vec(mut self) -> Vec<Need> {
        let several: BTreeSet<&String> = self.0.keys().filter_map(Place::of_server).collect();
        for namespace in several.into_iter().cloned().collect::<Vec<_>>() {
            let is_of = |place: &Place| place.of_server() == Some(&namespace);
            if self.0.keys().filter(|place| is_of(place)).count() > MOST_SERVERS {
                let together: Vec<Opened> =
                    self.0.extract_if(.., |place, _| is_of(place)).map(|(_, opened)| opened).collect();
                for opened in together {
                    self.opened(Place::Namespace(namespace.clone()), opened);
                }
            }
        }
        self.0.into_iter().map(|(place, Opened { right, why })| Need { right, place, why }).collect()
    }

    pub(super) fn add(&mut self, place: Place, why: String) {
        self.opened(place, Opened::for_good(why));
    }

    pub(super) fn opened(&mut self, place: Place, opened: Opened) {
        let opened = match self.0.remove(&place) {
            Some(earlier) => earlier.or(opened),
            None => opened,
        };
        self.0.insert(place, opened);
    }

    pub(super) fn server(&mut self, server: &Server, why: String) {
        self.opened(place_of(server), Opened::for_good(why));
    }
}

pub(super) fn place_of(server: &Server) -> Place {
    Place::Server { namespace: server.id.namespace.clone(), name: server.id.name.clone() }
}
