//! The tool lock: the definitions that were reviewed, as one file that people read and Git compares.
//!
//! Invariant: what a reviewer reads is what is locked. Each entry's digest is the digest of the definition that stands
//! beside it, every character that could mislead a reader is escaped, and a file in which anything else stands is
//! refused whole. Where definitions had to be left out for their size, the file says so.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::digest::{canonical, tool_digest};
use crate::generated::server::{Lock, LockedTool};
use crate::generated::{Digest, Risk};
use crate::mcp::list::ToolView;
use crate::mcp::scan::{Limits, check};

/// The version of the file's form that this build writes and reads.
const FORMAT: u64 = 1;
/// How many bytes a lock may have: a ConfigMap holds a mebibyte.
pub const MOST_BYTES: usize = 1 << 20;
/// How many bytes are written with definitions in them, and at most: there is to be room for labels and annotations.
pub const FILLED: usize = 900_000;
/// How many tools a lock may have: as many as the proxy remembers of one server.
pub const MOST_TOOLS: usize = 10_000;

/// The reviewed tools, by exact name.
pub type Tools = BTreeMap<String, LockedTool>;

/// What is not as it was reviewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Drift {
    /// The definition is another than the reviewed one.
    Changed,
    /// No definition of this name was reviewed.
    New,
    /// A definition was reviewed, and the server does not list it any more.
    Gone,
}

impl Drift {
    /// A stable word for records and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Drift::Changed => "ToolChanged",
            Drift::New => "ToolNotReviewed",
            Drift::Gone => "ToolGone",
        }
    }
}

/// Holds a definition against the reviewed one. Without a digest it equals nothing.
pub fn drift(tools: &Tools, name: &str, digest: Option<Digest>) -> Option<Drift> {
    match tools.get(name) {
        None => Some(Drift::New),
        Some(LockedTool(reviewed, _)) if digest != Some(*reviewed) => Some(Drift::Changed),
        Some(_) => None,
    }
}

/// Holds all that a server lists against the reviewed definitions: what differs, by name.
pub fn drifts<'a>(tools: &'a Tools, listed: &BTreeMap<&'a str, Option<Digest>>) -> BTreeMap<&'a str, Drift> {
    let gone = tools.keys().map(String::as_str).filter(|name| !listed.contains_key(name));
    let differs = listed.iter().filter_map(|(name, digest)| Some((*name, drift(tools, name, *digest)?)));
    differs.chain(gone.map(|name| (name, Drift::Gone))).collect()
}

impl Lock {
    /// The class that the review gave a tool of this name.
    pub fn class(&self, name: &str) -> Option<Risk> {
        self.tools.get(name).and_then(|LockedTool(_, class)| *class)
    }
}

/// Why a lock cannot be used, or cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Not JSON of the lock's form, or not readable alike by all.
    #[error("it is no tool lock: {0}")]
    Malformed(String),
    /// Of another version.
    #[error("it has format {0}, and this build reads format {FORMAT}")]
    Format(u64),
    /// An entry whose digest is not that of what a reader sees.
    #[error("the digest of {0:?} is not the digest of the definition that stands there")]
    Digest(String),
    /// Two entries have one name.
    #[error("there are two entries for {0:?}")]
    Twice(String),
    /// Too large.
    #[error("{tools} tools need {bytes} bytes, and a lock may have {MOST_TOOLS} tools and {FILLED} bytes")]
    TooLarge {
        /// How many tools.
        tools: usize,
        /// How many bytes, without definitions.
        bytes: usize,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    format: u64,
    definitions: bool,
    #[serde(borrow)]
    tools: Vec<&'a RawValue>,
}

/// An entry without its definition.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bare {
    name: String,
    digest: String,
    #[serde(deserialize_with = "present")]
    risk: Option<Risk>,
}

/// An entry with it; the members of the definition are read by [`ToolView`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Whole {
    name: String,
    digest: String,
    #[serde(deserialize_with = "present")]
    risk: Option<Risk>,
    #[serde(default, rename = "title")]
    _title: serde::de::IgnoredAny,
    #[serde(default, rename = "description")]
    _description: serde::de::IgnoredAny,
    #[serde(default, rename = "inputSchema")]
    _input_schema: serde::de::IgnoredAny,
    #[serde(default, rename = "outputSchema")]
    _output_schema: serde::de::IgnoredAny,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
}

/// A class that is not written is forgotten, one that is null was not known.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Risk>, D::Error> {
    Option::deserialize(deserializer)
}

/// Reads a lock.
///
/// # Errors
/// If any of it is not as [`write()`] writes it: then none of it counts as reviewed.
pub fn read(text: &str) -> Result<Tools, LockError> {
    let malformed = |what: String| LockError::Malformed(what);
    let limits = Limits { body: MOST_BYTES, ..Limits::SERVER };
    check(text.as_bytes(), &limits).map_err(|fault| malformed(fault.to_string()))?;
    let document: Document<'_> = serde_json::from_str(text).map_err(|e| malformed(e.to_string()))?;
    if document.format != FORMAT {
        return Err(LockError::Format(document.format));
    }
    if document.tools.len() > MOST_TOOLS {
        return Err(malformed(format!("it has more than {MOST_TOOLS} tools")));
    }
    let mut tools = Tools::new();
    for (n, entry) in document.tools.into_iter().map(RawValue::get).enumerate() {
        let (name, locked) =
            if document.definitions { whole(entry) } else { bare(entry) }.map_err(|what| match what {
                LockError::Malformed(what) => malformed(format!("entry {n}: {what}")),
                other => other,
            })?;
        if tools.insert(name.clone(), locked).is_some() {
            return Err(LockError::Twice(name));
        }
    }
    Ok(tools)
}

/// By tool, what its definition requires of calls.
pub type Required = BTreeMap<String, Requirement>;

/// What a definition requires of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    /// The arguments that every call must have.
    pub arguments: BTreeSet<String>,
    /// Of what type an argument must be, where that is said for certain.
    pub types: BTreeMap<String, BTreeSet<JsonType>>,
}

/// A type of JSON values, as a condition tells them apart: numbers are of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JsonType {
    /// An array.
    Array,
    /// `true` or `false`.
    Boolean,
    /// `null`.
    Null,
    /// A number, integer or not.
    Number,
    /// An object.
    Object,
    /// A string.
    String,
}

impl JsonType {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            JsonType::Array => "array",
            JsonType::Boolean => "boolean",
            JsonType::Null => "null",
            JsonType::Number => "number",
            JsonType::Object => "object",
            JsonType::String => "string",
        }
    }

    /// The types that a schema's `type` names (JSON Schema Validation 6.1.1); `None`, if one of them is not known.
    fn named(value: &Value) -> Option<BTreeSet<Self>> {
        let one = |word: &Value| match word.as_str()? {
            "array" => Some(JsonType::Array),
            "boolean" => Some(JsonType::Boolean),
            "null" => Some(JsonType::Null),
            "number" | "integer" => Some(JsonType::Number),
            "object" => Some(JsonType::Object),
            "string" => Some(JsonType::String),
            _ => None,
        };
        match value {
            Value::Array(words) => words.iter().map(one).collect(),
            word => one(word).map(|one| BTreeSet::from([one])),
        }
    }
}

/// The types of the arguments for which a schema has one. Drafts up to 7 read nothing beside a `$ref`, so nothing is said there.
fn types(schema: &Value) -> BTreeMap<String, BTreeSet<JsonType>> {
    let plain = |schema: &Value| schema.is_object() && schema.get("$ref").is_none();
    let properties = schema.get("properties").filter(|_| plain(schema)).and_then(Value::as_object);
    let typed = |(name, property): (&String, &Value)| {
        let types = JsonType::named(property.get("type")?).filter(|types| !types.is_empty() && plain(property))?;
        Some((name.clone(), types))
    };
    properties.into_iter().flatten().filter_map(typed).collect()
}

/// What the definitions in a lock require of calls; nothing of tools whose schema is left out or says it otherwise.
pub fn required(text: &str) -> Required {
    #[derive(Deserialize)]
    struct Schema {
        #[serde(default)]
        required: BTreeSet<String>,
    }
    let entries = serde_json::from_str::<Document<'_>>(text).map(|document| document.tools).unwrap_or_default();
    let tools = entries.into_iter().filter_map(|entry| ToolView::read(entry.get()));
    let required = tools.filter_map(|tool| {
        let text = tool.input_schema?;
        let schema: Schema = serde_json::from_str(text).ok()?;
        let types = serde_json::from_str(text).map(|schema| types(&schema)).unwrap_or_default();
        Some((tool.name.into_owned(), Requirement { arguments: schema.required, types }))
    });
    required.collect()
}

fn bare(entry: &str) -> Result<(String, LockedTool), LockError> {
    let malformed = |what: &str| LockError::Malformed(what.to_owned());
    let Bare { name, digest, risk } = serde_json::from_str(entry).map_err(|e| malformed(&e.to_string()))?;
    ToolView::read(entry).ok_or_else(|| malformed("its name is none that a tool can have"))?;
    let digest = Digest::parse(&digest).ok_or_else(|| malformed("its digest is not sha256: and 64 hex digits"))?;
    Ok((name, LockedTool(digest, risk)))
}

fn whole(entry: &str) -> Result<(String, LockedTool), LockError> {
    let malformed = |what: &str| LockError::Malformed(what.to_owned());
    let Whole { name, digest, risk, .. } = serde_json::from_str(entry).map_err(|e| malformed(&e.to_string()))?;
    let tool = ToolView::read(entry).ok_or_else(|| malformed("its name is none that a tool can have"))?;
    let digest = Digest::parse(&digest).ok_or_else(|| malformed("its digest is not sha256: and 64 hex digits"))?;
    if tool_digest(&tool) != Some(digest) {
        return Err(LockError::Digest(name));
    }
    Ok((name, LockedTool(digest, risk)))
}

/// A definition that is to be locked.
#[derive(Clone, Debug)]
pub struct Reviewed<'a> {
    /// The definition.
    pub tool: ToolView<'a>,
    /// Its digest.
    pub digest: Digest,
    /// Its class; `None`: nobody can say.
    pub risk: Option<Risk>,
}

/// A lock as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The file's content.
    pub text: String,
    /// Whether it holds the definitions; if not, they were too large.
    pub definitions: bool,
}

/// The definitions among those listed that can be locked, by name: those that can be read and have a digest, and whose
/// name no other has.
pub fn lockable<'a>(listed: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, (ToolView<'a>, Digest)> {
    let mut found: BTreeMap<String, Option<(ToolView<'a>, Digest)>> = BTreeMap::new();
    for tool in listed.into_iter().filter_map(ToolView::read) {
        let locked = tool_digest(&tool).map(|digest| (tool.clone(), digest));
        found.entry(tool.name.into_owned()).and_modify(|twice| *twice = None).or_insert(locked);
    }
    found.into_iter().filter_map(|(name, tool)| Some((name, tool?))).collect()
}

/// Writes a lock: entries by name, one form for one content.
///
/// # Errors
/// If it is too large even without definitions.
pub fn write<'a>(tools: impl IntoIterator<Item = Reviewed<'a>>) -> Result<Written, LockError> {
    let tools: BTreeMap<String, Reviewed<'a>> =
        tools.into_iter().map(|reviewed| (reviewed.tool.name.clone().into_owned(), reviewed)).collect();
    let whole = document(&tools, true);
    if whole.len() <= FILLED && tools.len() <= MOST_TOOLS {
        return Ok(Written { text: whole, definitions: true });
    }
    let text = document(&tools, false);
    if text.len() > FILLED || tools.len() > MOST_TOOLS {
        return Err(LockError::TooLarge { tools: tools.len(), bytes: text.len() });
    }
    Ok(Written { text, definitions: false })
}

/// Writes definitions as several locks, each small enough for a ConfigMap and `most` at most; and how many found no room.
pub fn write_parts<'a>(tools: impl IntoIterator<Item = Reviewed<'a>>, most: usize) -> (Vec<String>, usize) {
    let (mut parts, mut left_out): (Vec<Vec<String>>, usize) = (Vec::new(), 0);
    let mut room = 0;
    for reviewed in tools {
        let entry = entry(&reviewed, true);
        // What stands around and between entries is short.
        let needed = entry.len() + 8;
        if needed > FILLED - 100 || needed > room && parts.len() == most {
            left_out += 1;
            continue;
        }
        if needed > room {
            parts.push(Vec::new());
            room = FILLED - 100;
        }
        room -= needed;
        if let Some(part) = parts.last_mut() {
            part.push(entry);
        }
    }
    // Where nothing found room, there is still a place to say so.
    if parts.is_empty() && left_out > 0 && most > 0 {
        parts.push(Vec::new());
    }
    (parts.into_iter().map(|part| around(&part, true)).collect(), left_out)
}

fn document(tools: &BTreeMap<String, Reviewed<'_>>, definitions: bool) -> String {
    let entries: Vec<String> = tools.values().map(|reviewed| entry(reviewed, definitions)).collect();
    around(&entries, definitions)
}

fn around(entries: &[String], definitions: bool) -> String {
    let open = format!("{{\n  \"format\": {FORMAT},\n  \"definitions\": {definitions},\n  \"tools\": [");
    match entries {
        [] => format!("{open}]\n}}\n"),
        entries => format!("{open}\n    {}\n  ]\n}}\n", entries.join(",\n    ")),
    }
}

/// One entry: on one line, or with the definition on lines of its own.
fn entry(reviewed: &Reviewed<'_>, definitions: bool) -> String {
    let mut out = String::with_capacity(if definitions { reviewed.tool.raw.len() * 2 } else { 128 });
    let Reviewed { tool, digest, risk } = reviewed;
    let (open, between, close) = if definitions { ("{\n      ", ",\n      ", "\n    }") } else { ("{", ", ", "}") };
    let name = serde_json::Value::from(&*tool.name).to_string();
    out.push_str(open);
    out.push_str("\"name\": ");
    indented(&mut out, &name, 3);
    let risk = risk.map_or_else(|| "null".to_owned(), |risk| format!("\"{risk}\""));
    out.push_str(&format!("{between}\"digest\": \"{digest}\"{between}\"risk\": {risk}"));
    let members = [
        ("title", tool.title),
        ("description", tool.description),
        ("inputSchema", tool.input_schema),
        ("outputSchema", tool.output_schema),
        ("annotations", tool.annotations),
    ];
    for (member, raw) in members.into_iter().filter(|_| definitions) {
        // What has a digest has a canonical form.
        if let Some(canonical) = raw.and_then(|raw| canonical(raw.as_bytes())) {
            out.push_str(&format!("{between}\"{member}\": "));
            indented(&mut out, &canonical, 3);
        }
    }
    out.push_str(close);
    out
}

/// Writes compact JSON on several lines, with everything escaped that a reader could not see or could take for something
/// else. The value stays the same.
fn indented(out: &mut String, compact: &str, mut depth: usize) {
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    let (mut in_string, mut escaped) = (false, false);
    let mut chars = compact.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            _ if in_string => {
                push_visible(out, c);
                in_string = escaped || c != '"';
                escaped = !escaped && c == '\\';
            }
            '{' | '[' if chars.peek().is_some_and(|next| matches!(next, '}' | ']')) => {
                out.push(c);
                out.extend(chars.next());
            }
            '{' | '[' => {
                out.push(c);
                depth += 1;
                newline(out, depth);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(out, depth);
            }
            ':' => out.push_str(": "),
            c => {
                out.push(c);
                in_string = c == '"';
            }
        }
    }
}

/// Letters, digits and visible punctuation stand as they are; everything else as `\uXXXX`: what turns, hides or joins
/// text, spaces of other widths, and fillers that are letters by name only.
fn push_visible(out: &mut String, c: char) {
    let visible = match c {
        ' '..='~' => true,
        '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' => false,
        '\u{a1}'..='\u{ff}' => c != '\u{ad}',
        '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}' | '\u{3001}'..='\u{3030}' | '\u{ff01}'..='\u{ff5e}' => true,
        c => c.is_alphanumeric(),
    };
    if visible {
        return out.push(c);
    }
    for unit in c.encode_utf16(&mut [0; 2]) {
        out.push_str(&format!("\\u{unit:04x}"));
    }
}

#[cfg(test)]
mod tests;
