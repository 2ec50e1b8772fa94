//! Two definitions have one digest exactly if a reviewer would read the same tool in them: member order, whitespace and
//! ways to write a string or number do not count, everything that a model or a client acts upon does.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;

use crate::mcp::list::ToolView;

/// The members that a digest covers. `title` and `_meta` are display and transport; the rest decides what a model is
/// told, what it may send and what it is promised.
const COVERED: [&str; 5] = ["annotations", "description", "inputSchema", "name", "outputSchema"];

/// The digest of a tool definition: `sha256:` and 64 hex digits, over the RFC 8785 form of an object with those of
/// `annotations`, `description`, `inputSchema`, `name` and `outputSchema` that the definition has. `None` if a number in
/// it cannot be written canonically (beyond a double's range): such a definition matches no lock.
pub fn tool_digest(tool: &ToolView<'_>) -> Option<String> {
    let mut canonical = String::with_capacity(tool.raw.len());
    canonical.push('{');
    for name in COVERED {
        let raw = match name {
            "annotations" => tool.annotations,
            "description" => tool.description,
            "inputSchema" => tool.input_schema,
            "outputSchema" => tool.output_schema,
            _ => None,
        };
        let value = match name {
            "name" => Value::String(tool.name.to_string()),
            _ => match raw {
                Some(raw) => serde_json::from_str(raw).ok()?,
                None => continue,
            },
        };
        if canonical.len() > 1 {
            canonical.push(',');
        }
        push_string(&mut canonical, name);
        canonical.push(':');
        push_value(&mut canonical, &value)?;
    }
    canonical.push('}');
    Some(sha256(canonical.as_bytes()))
}

/// The RFC 8785 (JCS) form of any JSON text; `None` if it is no JSON or has a number that a double cannot hold.
pub fn canonical(json: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let mut canonical = String::with_capacity(json.len());
    push_value(&mut canonical, &value)?;
    Some(canonical)
}

/// `sha256:` and 64 lower-case hex digits.
pub fn sha256(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in digest(&SHA256, bytes).as_ref() {
        for nibble in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(nibble), 16));
        }
    }
    text
}

fn push_value(out: &mut String, value: &Value) -> Option<()> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => push_number(out, number.as_f64()?),
        Value::String(string) => push_string(out, string),
        Value::Array(elements) => {
            out.push('[');
            for (n, element) in elements.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                push_value(out, element)?;
            }
            out.push(']');
        }
        Value::Object(members) => {
            // RFC 8785 section 3.2.3: by UTF-16 code units, which differs from UTF-8 order beyond the basic plane.
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
            out.push('{');
            for (n, (name, member)) in sorted.into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                push_string(out, name);
                out.push(':');
                push_value(out, member)?;
            }
            out.push('}');
        }
    }
    Some(())
}

/// ECMAScript's `Number::toString` (RFC 8785 section 3.2.2.3). Rust prints the same shortest digits; only where the
/// exponent form begins differs.
fn push_number(out: &mut String, number: f64) {
    if number == 0.0 {
        return out.push('0');
    }
    if number < 0.0 {
        out.push('-');
    }
    let scientific = format!("{:e}", number.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    // The decimal point stands behind this many digits.
    let point = exponent.parse::<i32>().unwrap_or(0) + 1;
    let len = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    match point {
        _ if len <= point && point <= 21 => {
            out.push_str(&digits);
            out.push_str(&zeros(point - len));
        }
        1..=21 => {
            let (whole, fraction) = digits.split_at(usize::try_from(point).unwrap_or(0));
            out.extend([whole, ".", fraction]);
        }
        -5..=0 => out.extend(["0.", &zeros(-point), &digits]),
        _ => {
            let (first, rest) = digits.split_at(1);
            out.push_str(first);
            if !rest.is_empty() {
                out.extend([".", rest]);
            }
            let sign = if point > 0 { '+' } else { '-' };
            out.extend(['e', sign]);
            out.push_str(&(point - 1).unsigned_abs().to_string());
        }
    }
}

/// RFC 8785 section 3.2.2.2: the two-character escapes where there are some, `\u00xx` for other control characters.
fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests;
