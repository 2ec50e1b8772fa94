//! `Mcp-Param-*` headers are held to the arguments that they mirror, wherever the tool's schema is known (duty 36);
//! elsewhere they are forwarded as they are.

use http::{HeaderMap, HeaderName};
use serde_json::{Map, Value};

use super::mirror::{Mismatch, PARAM_PREFIX, decode, single};

/// A parameter that a tool's schema mirrors into a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamHeader {
    /// `mcp-param-<name>`.
    pub header: HeaderName,
    /// Member names from the arguments' root to the value.
    pub path: Vec<String>,
}

/// An `x-mcp-header` annotation that makes the whole tool definition invalid for clients (2026-07-28, "Custom Headers
/// from Tool Parameters").
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAnnotation {
    /// The value is no header name token.
    #[error("an `x-mcp-header` is not a header name")]
    Name,
    /// Two annotations have the same name, case aside.
    #[error("two `x-mcp-header` have the same name")]
    Repeated,
    /// The parameter is neither a string, an integer nor a boolean.
    #[error("an `x-mcp-header` stands on a parameter that is no string, integer or boolean")]
    Type,
    /// The parameter cannot be reached through `properties` alone.
    #[error("an `x-mcp-header` stands where no chain of `properties` leads")]
    Place,
    /// The schema is not a JSON object.
    #[error("the input schema is not an object")]
    Schema,
}

/// The member of a parameter's schema that says so.
pub const ANNOTATION: &str = "x-mcp-header";

/// The mirrored parameters of an input schema, in the order of the schema.
pub fn param_headers(input_schema: &str) -> Result<Vec<ParamHeader>, BadAnnotation> {
    let schema: Map<String, Value> = serde_json::from_str(input_schema).map_err(|_| BadAnnotation::Schema)?;
    if schema.contains_key(ANNOTATION) {
        return Err(BadAnnotation::Place);
    }
    let mut found = Vec::new();
    walk(&schema, &mut Vec::new(), &mut found)?;
    Ok(found)
}

fn walk(
    schema: &Map<String, Value>,
    path: &mut Vec<String>,
    found: &mut Vec<ParamHeader>,
) -> Result<(), BadAnnotation> {
    for (keyword, value) in schema {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                for (name, property) in properties {
                    let Value::Object(property) = property else { continue };
                    path.push(name.clone());
                    if let Some(annotation) = property.get(ANNOTATION) {
                        found.push(binding(annotation, property, path, found)?);
                    }
                    walk(property, path, found)?;
                    path.pop();
                }
            }
            // Instances, not schemas: a member of this name in them says nothing.
            ("const" | "enum" | "default" | "examples" | ANNOTATION, _) => {}
            (_, value) if mentions(value) => return Err(BadAnnotation::Place),
            _ => {}
        }
    }
    Ok(())
}

fn mentions(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.contains_key(ANNOTATION) || members.values().any(mentions),
        Value::Array(elements) => elements.iter().any(mentions),
        _ => false,
    }
}

fn binding(
    annotation: &Value,
    property: &Map<String, Value>,
    path: &[String],
    found: &[ParamHeader],
) -> Result<ParamHeader, BadAnnotation> {
    let name = annotation.as_str().filter(|name| !name.is_empty()).ok_or(BadAnnotation::Name)?;
    let header = HeaderName::from_bytes(format!("{PARAM_PREFIX}{name}").as_bytes());
    let header = header.map_err(|_| BadAnnotation::Name)?;
    if found.iter().any(|other| other.header == header) {
        return Err(BadAnnotation::Repeated);
    }
    match property.get("type").and_then(Value::as_str) {
        Some("string" | "integer" | "boolean") => Ok(ParamHeader { header, path: path.to_vec() }),
        _ => Err(BadAnnotation::Type),
    }
}

/// Holds the headers to the arguments: equal after decoding, integers by value, and absent where the argument is absent
/// or null.
pub fn check_params(headers: &HeaderMap, arguments: Option<&[u8]>, params: &[ParamHeader]) -> Result<(), Mismatch> {
    if params.is_empty() {
        return Ok(());
    }
    let arguments: Option<Value> = arguments.and_then(|raw| serde_json::from_slice(raw).ok());
    for param in params {
        let value = arguments.as_ref().and_then(|root| param.path.iter().try_fold(root, |value, name| value.get(name)));
        check_one(headers, param, value.filter(|value| !value.is_null()))?;
    }
    Ok(())
}

fn check_one(headers: &HeaderMap, param: &ParamHeader, value: Option<&Value>) -> Result<(), Mismatch> {
    let header = || param.header.to_string();
    match (single(headers, &param.header)?, value) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Mismatch::Missing { header: header() }),
        (Some(_), None) => Err(Mismatch::Differs { header: header() }),
        (Some(text), Some(value)) => {
            let text = decode(&param.header, text)?;
            if equal(&text, value) { Ok(()) } else { Err(Mismatch::Differs { header: header() }) }
        }
    }
}

/// Integers beyond 2^53 have no agreed value in JSON readers, and equal nothing (the specification forbids them).
fn equal(text: &str, value: &Value) -> bool {
    const SAFE: f64 = 9_007_199_254_740_991.0;
    match value {
        Value::String(string) => text == string,
        Value::Bool(flag) => text == if *flag { "true" } else { "false" },
        Value::Number(number) => {
            // The grammar is JSON's, the value Rust's: serde_json's own may be off by the last bit.
            let json = serde_json::from_str::<serde_json::Number>(text).is_ok();
            let header = text.parse::<f64>().ok().filter(|_| json);
            header.zip(number.as_f64()).is_some_and(|(header, body)| header == body && body.abs() <= SAFE)
        }
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests;
