//! Two definitions have one digest exactly if a reviewer would read the same tool in them: member order, whitespace and
//! ways to write a string or number do not count, everything that a model or a client acts upon does.

use std::collections::HashMap;
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::value::RawValue;

use crate::generated::Digest;
use crate::mcp::list::ToolView;
use crate::mcp::scan::{Limits, check};

/// The members that a digest covers: what a model or a person is told, what may be sent and what is promised. `icons` and
/// `_meta` are decoration and transport, and `execution` is about tasks, which no call is let through for.
const COVERED: [&str; 6] = ["annotations", "description", "inputSchema", "name", "outputSchema", "title"];

/// The digest of a tool definition: over the RFC 8785 form of an object with those of `annotations`, `description`,
/// `inputSchema`, `name`, `outputSchema` and `title` that the definition has. `None` if a number in it cannot be written
/// canonically (beyond a double's range): such a definition matches no lock.
pub fn tool_digest(tool: &ToolView<'_>) -> Option<Digest> {
    let mut canonical = String::with_capacity(tool.raw.len());
    canonical.push('{');
    for name in COVERED {
        let raw = match name {
            "annotations" => tool.annotations,
            "description" => tool.description,
            "inputSchema" => tool.input_schema,
            "outputSchema" => tool.output_schema,
            "title" => tool.title,
            _ => None,
        };
        if raw.is_none() && name != "name" {
            continue;
        }
        if canonical.len() > 1 {
            canonical.push(',');
        }
        push_string(&mut canonical, name);
        canonical.push(':');
        match raw {
            Some(raw) => push_value(&mut canonical, raw)?,
            None => push_string(&mut canonical, &tool.name),
        }
    }
    canonical.push('}');
    Some(sha256(canonical.as_bytes()))
}

/// The RFC 8785 (JCS) form of a JSON text; `None` if it is not strict JSON or has a number that a double cannot hold.
pub fn canonical(json: &[u8]) -> Option<String> {
    check(json, &Limits::SERVER).ok()?;
    let mut canonical = String::with_capacity(json.len());
    push_value(&mut canonical, std::str::from_utf8(json).ok()?)?;
    Some(canonical)
}

/// The SHA-256 digest of bytes.
pub fn sha256(bytes: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.iter_mut().zip(digest(&SHA256, bytes).as_ref()).for_each(|(to, from)| *to = *from);
    Digest(out)
}

/// Writes a strict JSON value. It is read level by level from its text, since the values that serde_json makes of
/// numbers may be off by the last bit.
fn push_value(out: &mut String, json: &str) -> Option<()> {
    let json = json.trim_matches([' ', '\n', '\r', '\t']);
    match json.as_bytes().first()? {
        b'{' => push_object(out, serde_json::from_str(json).ok()?),
        b'[' => push_array(out, &serde_json::from_str::<Vec<&RawValue>>(json).ok()?),
        b'"' => {
            push_string(out, &serde_json::from_str::<String>(json).ok()?);
            Some(())
        }
        b'-' | b'0'..=b'9' => push_number(out, json.parse().ok()?),
        _ => {
            out.push_str(json);
            Some(())
        }
    }
}

fn push_object(out: &mut String, members: HashMap<String, &RawValue>) -> Option<()> {
    // RFC 8785 section 3.2.3: by UTF-16 code units, which differs from UTF-8 order beyond the basic plane.
    let mut sorted: Vec<_> = members.into_iter().collect();
    sorted.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
    out.push('{');
    for (n, (name, member)) in sorted.into_iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        push_string(out, &name);
        out.push(':');
        push_value(out, member.get())?;
    }
    out.push('}');
    Some(())
}

fn push_array(out: &mut String, elements: &[&RawValue]) -> Option<()> {
    out.push('[');
    for (n, element) in elements.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        push_value(out, element.get())?;
    }
    out.push(']');
    Some(())
}

/// ECMAScript's `Number::toString` (RFC 8785 section 3.2.2.3): the shortest digits that read back, of two equally near
/// ones the even one. serde_json finds those digits (Rust's own formatting rounds such ties up); only where the exponent
/// form begins differs.
fn push_number(out: &mut String, number: f64) -> Option<()> {
    if number == 0.0 {
        out.push('0');
        return Some(());
    }
    if number < 0.0 {
        out.push('-');
    }
    let shortest = serde_json::to_string(&number.abs()).ok().filter(|_| number.is_finite())?;
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0');
    // The decimal point stands behind this many digits.
    let leading = all.len() - digits.len();
    let point = exponent.parse::<i32>().ok()? + i32::try_from(whole.len()).ok()? - i32::try_from(leading).ok()?;
    push_digits(out, digits.trim_end_matches('0'), point);
    Some(())
}

fn push_digits(out: &mut String, digits: &str, point: i32) {
    let len = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    match point {
        _ if len <= point && point <= 21 => out.extend([digits, &zeros(point - len)]),
        1..=21 => {
            let (whole, fraction) = digits.split_at(usize::try_from(point).unwrap_or(0));
            out.extend([whole, ".", fraction]);
        }
        -5..=0 => out.extend(["0.", &zeros(-point), digits]),
        _ => {
            let (first, rest) = digits.split_at(1);
            let dot = if rest.is_empty() { "" } else { "." };
            let sign = if point > 0 { "+" } else { "-" };
            out.extend([first, dot, rest, "e", sign, &(point - 1).unsigned_abs().to_string()]);
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
