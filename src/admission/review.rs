//! What the API server asks: an `AdmissionReview` (admission.k8s.io/v1), read strictly.
//!
//! Invariant: a [`Review`] is about exactly one create, update or delete of one object of our own kinds, and holds whatever
//! the API server says of it. What is anything else is [`Malformed`], and never an answer.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::api::{GROUP, Key, Kind, VERSION};
use crate::oauth::json::{self, JsonError};

/// The most bytes of a review. The API server takes requests of 3 MiB, and a review of an update holds two objects.
pub const MOST_BYTES: usize = 8 * 1024 * 1024;
/// Deeper than anything that our schemas and `managedFields` bring; rules keep what they do not know, however deep.
const DEEPEST: u8 = 64;
/// The longest text that is taken for a UID.
const LONGEST_UID: usize = 128;

/// One question.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// Its UID, which the answer repeats.
    pub uid: String,
    /// What is about to happen.
    pub operation: Operation,
    /// To which object.
    pub key: Key,
    /// Who does it.
    pub user: User,
    /// The object as it was; `None` if it is new.
    pub old: Option<Value>,
    /// The object as it shall be; `None` if it goes.
    pub new: Option<Value>,
}

/// What is about to happen to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// It is made.
    Create,
    /// It is changed.
    Update,
    /// It is removed.
    Delete,
}

impl Operation {
    /// A word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "Create",
            Operation::Update => "Update",
            Operation::Delete => "Delete",
        }
    }
}

/// Who asks for it, as the API server has authenticated it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct User {
    /// Name.
    pub username: String,
    /// UID, where there is one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// What authentication says besides.
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
}

/// Why a text is no review of ours. The API server then refuses what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not the JSON of an object, or ambiguous.
    #[error("the review is {0}")]
    Json(#[from] JsonError),
    /// Of another kind or version.
    #[error("not an AdmissionReview of admission.k8s.io/v1: {0}")]
    Version(String),
    /// Something that every review has is missing, or of a wrong type.
    #[error("the review's {0} is missing or ill-typed")]
    Member(&'static str),
    /// About an object that this webhook has no say in.
    #[error("this webhook is not asked about {0}; correct the rules of its configuration")]
    Foreign(String),
}

impl Malformed {
    /// A stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Malformed::Json(error) => error.reason(),
            Malformed::Version(_) => "ReviewVersion",
            Malformed::Member(_) => "ReviewMalformed",
            Malformed::Foreign(_) => "ReviewForeign",
        }
    }
}

/// Reads a review.
///
/// # Errors
/// If it is not one, or not about a create, update or delete of one of our objects.
pub fn read(body: &[u8]) -> Result<Review, Malformed> {
    let mut whole = json::object_within(body, DEEPEST)?;
    let text = |map: &Map<String, Value>, name: &str| map.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let (version, kind) = (text(&whole, "apiVersion"), text(&whole, "kind"));
    if version != "admission.k8s.io/v1" || kind != "AdmissionReview" {
        return Err(Malformed::Version(shown(&format!("{version} {kind}"))));
    }
    let Some(Value::Object(mut request)) = whole.remove("request") else { return Err(Malformed::Member("request")) };
    let uid = text(&request, "uid");
    if uid.is_empty() || uid.len() > LONGEST_UID {
        return Err(Malformed::Member("request.uid"));
    }
    let kind = kind_of(&request)?;
    let operation = match text(&request, "operation").as_str() {
        "CREATE" => Operation::Create,
        "UPDATE" => Operation::Update,
        "DELETE" => Operation::Delete,
        other => return Err(Malformed::Foreign(shown(other))),
    };
    let user = request.get("userInfo").and_then(user).ok_or(Malformed::Member("request.userInfo"))?;
    let mut object = |name| request.remove(name).filter(|value| !value.is_null());
    let (old, new) = (object("oldObject"), object("object"));
    let (old, new) = match (operation, old, new) {
        (Operation::Create, _, Some(new)) => (None, Some(new)),
        (Operation::Update, Some(old), Some(new)) => (Some(old), Some(new)),
        (Operation::Delete, Some(old), _) => (Some(old), None),
        (Operation::Create, ..) | (Operation::Update, _, None) => return Err(Malformed::Member("request.object")),
        (Operation::Update | Operation::Delete, None, _) => return Err(Malformed::Member("request.oldObject")),
    };
    // A name that is to be generated is not known to the request, but to the object.
    let metadata = new.as_ref().or(old.as_ref()).and_then(|object| object.get("metadata"));
    let name = metadata.and_then(|metadata| metadata.get("name")).and_then(Value::as_str).unwrap_or_default();
    let key = Key { kind, namespace: text(&request, "namespace"), name: name.to_owned() };
    if key.namespace.is_empty() == kind.is_namespaced() {
        return Err(Malformed::Member("request.namespace"));
    }
    // Who may do what is judged by the one, and what is done by the other.
    if !new.iter().all(|object| is_it(object, &key)) {
        return Err(Malformed::Member("request.object"));
    }
    if !old.iter().all(|object| is_it(object, &key)) {
        return Err(Malformed::Member("request.oldObject"));
    }
    Ok(Review { uid, operation, key, user, old, new })
}

/// The kind, if it is one of ours in the version that is known here, and the request is about the object itself.
fn kind_of(request: &Map<String, Value>) -> Result<Kind, Malformed> {
    let kind = request.get("kind").ok_or(Malformed::Member("request.kind"))?;
    let text = |name: &str| kind.get(name).and_then(Value::as_str).unwrap_or("");
    let known = Kind::OURS.into_iter().find(|known| known.as_str() == text("kind"));
    let part = request.get("subResource").and_then(Value::as_str).unwrap_or("");
    match known {
        Some(known) if text("group") == GROUP && text("version") == VERSION && part.is_empty() => Ok(known),
        _ => {
            let part = if part.is_empty() { String::new() } else { format!(", {part}") };
            Err(Malformed::Foreign(shown(&format!("{}/{} {}{part}", text("group"), text("version"), text("kind")))))
        }
    }
}

/// Whether an object is the one that a review says it is about.
fn is_it(object: &Value, key: &Key) -> bool {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or("");
    let version = text("/apiVersion").split_once('/');
    version == Some((GROUP, VERSION))
        && text("/kind") == key.kind.as_str()
        && text("/metadata/namespace") == key.namespace
        && text("/metadata/name") == key.name
}

fn user(value: &Value) -> Option<User> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let texts = |value: &Value| value.as_array()?.iter().map(|one| one.as_str().map(str::to_owned)).collect();
    let extra = match value.get("extra") {
        None | Some(Value::Null) => Some(Default::default()),
        Some(extra) => extra.as_object()?.iter().map(|(name, list)| Some((name.clone(), texts(list)?))).collect(),
    };
    let groups = match value.get("groups") {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(groups) => texts(groups),
    };
    let username = text("username");
    Some(User { username, uid: text("uid"), groups: groups?, extra: extra? }).filter(|user| !user.username.is_empty())
}

/// What a stranger wrote, as far as it may stand in a message.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}
