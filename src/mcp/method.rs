//! THE table: every method of every revision, who may send it, what it acts upon, and whether this build polices it.
//!
//! What is not policed is denied, and the capability it belongs to is removed from what both sides declare. A test
//! holds the table to the lists of methods that were taken from the specification's schemas.

use super::revision::Revision;

/// How a method is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// With an id, for an answer.
    Request,
    /// Without an id.
    Notification,
    /// Never as a message of its own: inside `inputRequests` of a result (2026-07-28, multi round-trip requests).
    InputRequest,
}

/// Which sides send a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The client.
    Client,
    /// The server.
    Server,
    /// Either.
    Both,
}

impl Sender {
    /// Whether messages of `side` are meant.
    pub fn includes(self, side: Sender) -> bool {
        self == Sender::Both || self == side
    }
}

/// What a request acts upon, and so which grant it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Nothing but the server: a valid token is enough.
    None,
    /// The tool `params.name`.
    Tool,
    /// The resource `params.uri`.
    Resource,
    /// The prompt `params.name`.
    Prompt,
    /// The prompt or resource template `params.ref`.
    Completion,
    /// The task `params.taskId`.
    Task,
    /// The resources and lists in `params.notifications`.
    Subscription,
}

/// Which list a result holds, to be filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum List {
    /// `tools`.
    Tools,
    /// `resources`.
    Resources,
    /// `resourceTemplates`.
    ResourceTemplates,
    /// `prompts`.
    Prompts,
    /// `tasks`.
    Tasks,
}

/// The capability that a method belongs to, of whichever side declares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capability {
    /// Part of every implementation.
    Base,
    /// Server: `tools`.
    Tools,
    /// Server: `resources`.
    Resources,
    /// Server: `prompts`.
    Prompts,
    /// Server: `completions`.
    Completions,
    /// Server: `logging`.
    Logging,
    /// Client: `roots`.
    Roots,
    /// Client: `sampling`.
    Sampling,
    /// Client: `elicitation`.
    Elicitation,
    /// Both: `tasks` (2025-11-25), or the extension `io.modelcontextprotocol/tasks` (2026-07-28).
    Tasks,
}

/// One row: a method in a range of revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// The method's name on the wire.
    pub name: &'static str,
    /// The first revision with this row.
    pub since: Revision,
    /// The last revision with this row.
    pub until: Revision,
    /// How it is sent.
    pub form: Form,
    /// Who sends it.
    pub sender: Sender,
    /// What it acts upon.
    pub subject: Subject,
    /// The list in its result.
    pub list: Option<List>,
    /// Whether its result has `ttlMs` and `cacheScope` (2026-07-28, "Caching").
    pub cacheable: bool,
    /// The capability that it belongs to.
    pub capability: Capability,
    /// From whom this build accepts it; from nobody if `None`.
    pub policed: Option<Sender>,
}

impl Method {
    /// The row for this method in this revision. Names are exact and case-sensitive.
    pub fn find(revision: Revision, name: &str) -> Option<&'static Method> {
        TABLE.iter().find(|row| row.name == name && row.is_in(revision))
    }

    /// Every row of a revision.
    pub fn all(revision: Revision) -> impl Iterator<Item = &'static Method> {
        TABLE.iter().filter(move |row| row.is_in(revision))
    }

    /// Whether this build accepts the method from this side.
    pub fn is_policed_from(&self, side: Sender) -> bool {
        self.policed.is_some_and(|policed| policed.includes(side))
    }

    fn is_in(&self, revision: Revision) -> bool {
        (self.since..=self.until).contains(&revision)
    }
}

impl Capability {
    /// The capability that a server declares under this name.
    pub fn of_server(name: &str) -> Option<Capability> {
        match name {
            "tools" => Some(Capability::Tools),
            "resources" => Some(Capability::Resources),
            "prompts" => Some(Capability::Prompts),
            "completions" => Some(Capability::Completions),
            "logging" => Some(Capability::Logging),
            "tasks" => Some(Capability::Tasks),
            _ => None,
        }
    }

    /// The capability that a client declares under this name.
    pub fn of_client(name: &str) -> Option<Capability> {
        match name {
            "roots" => Some(Capability::Roots),
            "sampling" => Some(Capability::Sampling),
            "elicitation" => Some(Capability::Elicitation),
            "tasks" => Some(Capability::Tasks),
            _ => None,
        }
    }

    /// Whether any method of this capability is policed in this revision: else neither side may declare it (duty 48).
    pub fn is_policed(self, revision: Revision) -> bool {
        Method::all(revision).any(|row| row.capability == self && row.policed.is_some())
    }
}

const ROW: Method = Method {
    name: "",
    since: Revision::V2024_11_05,
    until: Revision::V2026_07_28,
    form: Form::Request,
    sender: Sender::Client,
    subject: Subject::None,
    list: None,
    cacheable: false,
    capability: Capability::Base,
    policed: None,
};

/// A method of the revisions with `initialize` only.
const OLD: Method = Method { until: Revision::V2025_11_25, ..ROW };
/// A method of 2026-07-28 only.
const NEW: Method = Method { since: Revision::V2026_07_28, ..ROW };
/// A notification from the server.
const NOTICE: Method = Method { form: Form::Notification, sender: Sender::Server, ..ROW };
/// Tasks as 2025-11-25 has them: either side may hold them.
const OLD_TASKS: Method = Method {
    since: Revision::V2025_11_25,
    sender: Sender::Both,
    subject: Subject::Task,
    capability: Capability::Tasks,
    ..OLD
};
/// Tasks as the extension of 2026-07-28 has them.
const NEW_TASKS: Method = Method { subject: Subject::Task, capability: Capability::Tasks, ..NEW };

/// Ordered by how often a row is looked for. Decisions that are not obvious:
/// - `ping` from a server is dropped: its answer would be a client's response, which needs a session to belong to.
/// - `notifications/progress` and `notifications/cancelled` from the other side concern requests that are not policed.
/// - `notifications/cancelled` is not defined over HTTP in 2026-07-28: closing the stream cancels (duty 65).
/// - `notifications/message` is dropped from both eras' streams: log messages can leak what a filtered list hides, and
///   a server that logs process-wide sends one caller's messages to another (duty 92).
const TABLE: &[Method] = &[
    Method {
        name: "tools/call",
        subject: Subject::Tool,
        capability: Capability::Tools,
        policed: Some(Sender::Client),
        ..ROW
    },
    Method { name: "notifications/progress", since: Revision::V2026_07_28, policed: Some(Sender::Server), ..NOTICE },
    Method {
        name: "notifications/progress",
        until: Revision::V2025_11_25,
        sender: Sender::Both,
        policed: Some(Sender::Server),
        ..NOTICE
    },
    Method {
        name: "tools/list",
        list: Some(List::Tools),
        cacheable: true,
        capability: Capability::Tools,
        policed: Some(Sender::Client),
        ..ROW
    },
    Method {
        name: "notifications/tools/list_changed",
        capability: Capability::Tools,
        policed: Some(Sender::Server),
        ..NOTICE
    },
    Method { name: "ping", sender: Sender::Both, policed: Some(Sender::Client), ..OLD },
    Method { name: "initialize", policed: Some(Sender::Client), ..OLD },
    Method { name: "notifications/initialized", form: Form::Notification, policed: Some(Sender::Client), ..OLD },
    Method { name: "server/discover", cacheable: true, policed: Some(Sender::Client), ..NEW },
    Method {
        name: "notifications/cancelled",
        form: Form::Notification,
        sender: Sender::Both,
        policed: Some(Sender::Client),
        ..OLD
    },
    Method { name: "notifications/cancelled", form: Form::Notification, sender: Sender::Both, ..NEW },
    Method {
        name: "resources/list",
        list: Some(List::Resources),
        cacheable: true,
        capability: Capability::Resources,
        ..ROW
    },
    Method {
        name: "resources/templates/list",
        list: Some(List::ResourceTemplates),
        cacheable: true,
        capability: Capability::Resources,
        ..ROW
    },
    Method {
        name: "resources/read",
        subject: Subject::Resource,
        cacheable: true,
        capability: Capability::Resources,
        ..ROW
    },
    Method { name: "resources/subscribe", subject: Subject::Resource, capability: Capability::Resources, ..OLD },
    Method { name: "resources/unsubscribe", subject: Subject::Resource, capability: Capability::Resources, ..OLD },
    Method { name: "notifications/resources/list_changed", capability: Capability::Resources, ..NOTICE },
    Method {
        name: "notifications/resources/updated",
        subject: Subject::Resource,
        capability: Capability::Resources,
        ..NOTICE
    },
    Method { name: "prompts/list", list: Some(List::Prompts), cacheable: true, capability: Capability::Prompts, ..ROW },
    Method { name: "prompts/get", subject: Subject::Prompt, capability: Capability::Prompts, ..ROW },
    Method { name: "notifications/prompts/list_changed", capability: Capability::Prompts, ..NOTICE },
    Method { name: "completion/complete", subject: Subject::Completion, capability: Capability::Completions, ..ROW },
    Method { name: "logging/setLevel", capability: Capability::Logging, ..OLD },
    Method { name: "notifications/message", capability: Capability::Logging, ..NOTICE },
    Method { name: "subscriptions/listen", subject: Subject::Subscription, ..NEW },
    Method {
        name: "notifications/subscriptions/acknowledged",
        subject: Subject::Subscription,
        since: Revision::V2026_07_28,
        ..NOTICE
    },
    Method { name: "sampling/createMessage", sender: Sender::Server, capability: Capability::Sampling, ..OLD },
    Method {
        name: "sampling/createMessage",
        form: Form::InputRequest,
        sender: Sender::Server,
        capability: Capability::Sampling,
        ..NEW
    },
    Method { name: "roots/list", sender: Sender::Server, capability: Capability::Roots, ..OLD },
    Method {
        name: "roots/list",
        form: Form::InputRequest,
        sender: Sender::Server,
        capability: Capability::Roots,
        ..NEW
    },
    Method { name: "notifications/roots/list_changed", form: Form::Notification, capability: Capability::Roots, ..OLD },
    Method {
        name: "elicitation/create",
        since: Revision::V2025_06_18,
        sender: Sender::Server,
        capability: Capability::Elicitation,
        ..OLD
    },
    Method {
        name: "elicitation/create",
        form: Form::InputRequest,
        sender: Sender::Server,
        capability: Capability::Elicitation,
        ..NEW
    },
    Method {
        name: "notifications/elicitation/complete",
        since: Revision::V2025_11_25,
        until: Revision::V2025_11_25,
        capability: Capability::Elicitation,
        ..NOTICE
    },
    Method { name: "tasks/get", ..OLD_TASKS },
    Method { name: "tasks/result", ..OLD_TASKS },
    Method { name: "tasks/cancel", ..OLD_TASKS },
    Method { name: "tasks/list", subject: Subject::None, list: Some(List::Tasks), ..OLD_TASKS },
    Method { name: "notifications/tasks/status", form: Form::Notification, ..OLD_TASKS },
    Method { name: "tasks/get", ..NEW_TASKS },
    Method { name: "tasks/update", ..NEW_TASKS },
    Method { name: "tasks/cancel", ..NEW_TASKS },
    Method { name: "notifications/tasks", form: Form::Notification, sender: Sender::Server, ..NEW_TASKS },
];

#[cfg(test)]
mod tests;
