//! One file to objects.

use std::sync::Arc;

use aws_lc_rs::digest;
use serde_json::Value;

use super::{
    FileProblem, Source,
    yaml::{Document, YamlError, documents},
};
use crate::api::{
    FieldPath, Invalidity, Key, Kind, Object, Rejected,
    object::{self},
};

/// What a file holds, if it can be read at all.
#[derive(Clone, Debug, Default)]
pub struct ParsedFile {
    /// Its objects, in the file's order.
    pub objects: Vec<ParsedObject>,
    /// What was passed over.
    pub notes: Vec<Note>,
}

/// An object of a file, valid or not.
#[derive(Clone, Debug)]
pub struct ParsedObject {
    /// Which object.
    pub key: Key,
    /// The object, or why the document is not one.
    pub object: Result<Object, Invalidity>,
    /// Where it was read.
    pub source: Source,
    /// SHA-256 of the document, in hex: another one is another generation. Absent for Secrets.
    pub digest: Option<String>,
}

/// Something that was passed over and need not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The file, as it is shown.
    pub file: Arc<str>,
    /// What was passed over.
    pub message: String,
}

/// Reads the text of a file. A single document of which it cannot be told which object it is makes the whole file
/// unreadable, since it could be any.
pub fn parse(file: &Arc<str>, bytes: &[u8]) -> Result<ParsedFile, FileProblem> {
    let problem =
        |position, message: String| FileProblem { file: file.clone(), position, message, objects: Vec::new() };
    let text = std::str::from_utf8(bytes).map_err(|_| problem(None, "not UTF-8 text; save it as UTF-8".to_owned()))?;
    let documents = documents(text).map_err(|YamlError { position, message }| problem(position, message))?;
    let mut parsed = ParsedFile::default();
    for Document { value, positions } in documents {
        let source = Source { file: file.clone(), positions: Arc::new(positions) };
        let (key, object) = match object::read(&value) {
            Ok(object) => (object.key(), Ok(object)),
            Err(Rejected::Invalid { key, problems }) => (key, Err(Invalidity::Problems(problems))),
            Err(Rejected::Foreign { what }) => {
                let line = source.locate(&FieldPath::root()).line;
                let message = format!("line {line}: {what} is none of our kinds and was passed over");
                parsed.notes.push(Note { file: file.clone(), message });
                continue;
            }
            Err(Rejected::Unidentified(p)) => {
                let place = if value.is_object() { p.message } else { "not a Kubernetes object".to_owned() };
                return Err(problem(Some(source.locate(&p.path)), place));
            }
        };
        let digest = (key.kind != Kind::Secret).then(|| digest_of(&value));
        parsed.objects.push(ParsedObject { key, object, source, digest });
    }
    Ok(parsed)
}

fn digest_of(value: &Value) -> String {
    let hash = digest::digest(&digest::SHA256, value.to_string().as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
