//! The one encoding of generated objects, with one version number.
//!
//! Invariant: `decode(encode(x)) == x`, and a document of another version, with an unknown member or without a known
//! one is refused whole. The writer writes a version that every live proxy reads.

use serde::{Deserialize, Serialize};

use super::{Authority, Policy, Server};

/// The version that this build writes and reads.
pub const VERSION: u32 = 1;

/// One generated object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "object")]
pub enum Generated {
    /// A governed server.
    Server(Server),
    /// A policy.
    Policy(Policy),
    /// A trust anchor.
    Authority(Authority),
}

#[derive(Serialize)]
struct Writing<'a> {
    version: u32,
    #[serde(flatten)]
    object: &'a Generated,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize)]
struct Reading {
    #[serde(flatten)]
    object: Generated,
}

/// Why a document could not be read. Never holds any of its content: it may hold credentials.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not JSON, or not of the expected shape.
    #[error("generated object is malformed at line {line}, column {column}")]
    Malformed {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// Written by a build that this one does not understand.
    #[error("generated object has version {found}, this build reads {VERSION}")]
    Version {
        /// The document's version.
        found: u32,
    },
    /// Could not be written.
    #[error("generated object cannot be encoded")]
    Encode,
}

impl CodecError {
    /// A stable word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            CodecError::Malformed { .. } => "GeneratedMalformed",
            CodecError::Version { .. } => "GeneratedVersion",
            CodecError::Encode => "GeneratedEncode",
        }
    }
}

impl From<serde_json::Error> for CodecError {
    fn from(e: serde_json::Error) -> Self {
        CodecError::Malformed { line: e.line(), column: e.column() }
    }
}

/// Encodes an object as JSON.
pub fn encode(object: &Generated) -> Result<Vec<u8>, CodecError> {
    serde_json::to_vec(&Writing { version: VERSION, object }).map_err(|_| CodecError::Encode)
}

/// Decodes what [`encode`] wrote.
pub fn decode(bytes: &[u8]) -> Result<Generated, CodecError> {
    let Version { version } = serde_json::from_slice(bytes)?;
    if version != VERSION {
        return Err(CodecError::Version { found: version });
    }
    let Reading { object } = serde_json::from_slice(bytes)?;
    Ok(object)
}
