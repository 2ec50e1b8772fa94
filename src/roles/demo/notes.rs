//! The demo's tools over notes in memory. What is stored is bounded, so that no caller can fill the machine.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

const MOST_NOTES: usize = 1000;
const LONGEST_TITLE: usize = 200;
const LONGEST_TEXT: usize = 10_000;

#[derive(Clone)]
struct Note {
    title: String,
    text: String,
}

struct State {
    next: u64,
    notes: BTreeMap<String, Note>,
}

impl State {
    /// Stores a note under a new id, which it gives.
    fn add(&mut self, title: String, text: String) -> String {
        let id = format!("note-{}", self.next);
        self.next += 1;
        self.notes.insert(id.clone(), Note { title, text });
        id
    }
}

/// The notes of one server.
pub(super) struct Notes(Mutex<State>);

impl Notes {
    /// A store that has something to show.
    pub(super) fn with_examples() -> Self {
        let notes = Self(Mutex::new(State { next: 1, notes: BTreeMap::new() }));
        for (title, text) in [
            ("Release checklist", "Tag, build, sign, announce."),
            ("On-call handover", "Nothing is on fire. The disk alert on db-2 is being looked at."),
            ("Retention", "Incident notes may be deleted after a year, by their owner."),
        ] {
            notes.with(|state| state.add(title.to_owned(), text.to_owned()));
        }
        notes
    }

    /// The result of `tools/call` with `params`; an error is a protocol error's message (no such tool).
    pub(super) fn call(&self, params: &Value) -> Result<Value, String> {
        let arguments = &params["arguments"];
        let outcome = match params["name"].as_str() {
            Some("list_notes") => Ok(self.list()),
            Some("get_note") => text(arguments, "id", LONGEST_TITLE).and_then(|id| self.get(&id)),
            Some("create_note") => text(arguments, "title", LONGEST_TITLE)
                .and_then(|title| Ok((title, text(arguments, "text", LONGEST_TEXT)?)))
                .and_then(|(title, text)| self.create(title, text)),
            Some("delete_note") => text(arguments, "id", LONGEST_TITLE).and_then(|id| self.delete(&id)),
            Some(name) => return Err(format!("Unknown tool: {name}")),
            None => return Err("params.name must be a string".to_owned()),
        };
        Ok(match outcome {
            Ok(value) => json!({
                "content": [{"type": "text", "text": value.to_string()}],
                "structuredContent": value,
                "isError": false,
            }),
            Err(message) => json!({"content": [{"type": "text", "text": message}], "isError": true}),
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        // Every change is one map operation, so a panic elsewhere cannot have left the notes half changed.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn list(&self) -> Value {
        self.with(|state| {
            let notes: Vec<Value> =
                state.notes.iter().map(|(id, note)| json!({"id": id, "title": note.title})).collect();
            json!({"notes": notes})
        })
    }

    fn get(&self, id: &str) -> Result<Value, String> {
        let note = self.with(|state| state.notes.get(id).cloned()).ok_or_else(|| absent(id))?;
        Ok(json!({"id": id, "title": note.title, "text": note.text}))
    }

    fn create(&self, title: String, text: String) -> Result<Value, String> {
        self.with(|state| match state.notes.len() {
            MOST_NOTES.. => Err(format!("there are already {MOST_NOTES} notes; delete some first")),
            _ => Ok(json!({"id": state.add(title, text)})),
        })
    }

    fn delete(&self, id: &str) -> Result<Value, String> {
        self.with(|state| state.notes.remove(id)).map(|_| json!({"deleted": id})).ok_or_else(|| absent(id))
    }
}

fn absent(id: &str) -> String {
    format!("there is no note {id:?}")
}

fn text(arguments: &Value, name: &str, longest: usize) -> Result<String, String> {
    match arguments[name].as_str() {
        Some(text) if text.len() <= longest => Ok(text.to_owned()),
        Some(_) => Err(format!("`{name}` is longer than {longest} bytes")),
        None => Err(format!("`{name}` must be a string")),
    }
}

/// The tool definitions, in the order in which they are listed.
pub(super) fn definitions() -> Value {
    let id = json!({"type": "string", "description": "A note's id, as list_notes gives it."});
    let reads = json!({"readOnlyHint": true, "openWorldHint": false});
    json!([
        {
            "name": "list_notes",
            "title": "List notes",
            "description": "Lists the id and title of every note.",
            "inputSchema": {"type": "object", "properties": {}, "additionalProperties": false},
            "annotations": reads,
        },
        {
            "name": "get_note",
            "title": "Read a note",
            "description": "Reads one note.",
            "inputSchema": {
                "type": "object",
                "properties": {"id": id},
                "required": ["id"],
                "additionalProperties": false,
            },
            "annotations": reads,
        },
        {
            "name": "create_note",
            "title": "Create a note",
            "description": "Creates a note and gives its id.",
            "inputSchema": {
                "type": "object",
                "properties": {
                    "title": {"type": "string", "maxLength": LONGEST_TITLE},
                    "text": {"type": "string", "maxLength": LONGEST_TEXT},
                },
                "required": ["title", "text"],
                "additionalProperties": false,
            },
            "annotations": {
                "readOnlyHint": false,
                "destructiveHint": false,
                "idempotentHint": false,
                "openWorldHint": false,
            },
        },
        {
            "name": "delete_note",
            "title": "Delete a note",
            "description": "Deletes one note for good.",
            "inputSchema": {
                "type": "object",
                "properties": {"id": id},
                "required": ["id"],
                "additionalProperties": false,
            },
            "annotations": {
                "readOnlyHint": false,
                "destructiveHint": true,
                "idempotentHint": true,
                "openWorldHint": false,
            },
        },
    ])
}
