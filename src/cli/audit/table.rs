//! Records as tables and lines.

use std::collections::{BTreeMap, BTreeSet};

use crate::audit::query::Call;
use crate::audit::{DECISION, Entry};
use crate::cli::output::{self, Format, Said, Tone, filled, printable};

/// Prints calls: as a table, or as whole records.
pub(super) fn print(found: &[Call], format: Format) -> anyhow::Result<()> {
    if format == Format::Table {
        return output::print(format, &(), |()| calls(found));
    }
    let records: Vec<BTreeMap<&str, serde_json::Value>> = found
        .iter()
        .map(|call| {
            let parts = [("record", Some(&call.entry)), ("completion", call.completion.as_ref())];
            parts.into_iter().filter_map(|(name, entry)| Some((name, whole(entry?)))).collect()
        })
        .collect();
    output::print(format, &records, |_| String::new())
}

/// One record as it is followed: a line, or the whole of it.
pub(super) fn one(entry: &Entry, format: Format) -> anyhow::Result<String> {
    Ok(match format {
        Format::Table => line(entry),
        Format::Json => entry.json.clone(),
        Format::Yaml => format!("---\n{}", serde_saphyr::to_string(&whole(entry))?.trim_end()),
    })
}

/// A record as JSON.
fn whole(entry: &Entry) -> serde_json::Value {
    serde_json::from_str(&entry.json).unwrap_or_else(|_| serde_json::Value::String(entry.json.clone()))
}

/// Calls as a table: who, what, what was decided by which rule, and how it ended.
fn calls(calls: &[Call]) -> String {
    if calls.is_empty() {
        return "no records match".to_owned();
    }
    // One server, or one day, for all is no news on every line.
    let days: BTreeSet<&str> = calls.iter().filter_map(|call| call.entry.fields.time.get(..10)).collect();
    let day = days.first().copied().filter(|_| days.len() == 1);
    let servers: BTreeSet<String> = calls.iter().map(|call| server(&call.entry)).collect();
    let rows: Vec<Vec<Said>> = calls
        .iter()
        .map(|Call { entry, completion }| {
            let end = completion.as_ref().map(|end| &end.fields);
            let outcome = end.and_then(|end| end.outcome.clone()).unwrap_or_default();
            let ms = end.and_then(|end| end.duration_us).map(|us| format!("{}.{}", us / 1000, us % 1000 / 100));
            vec![
                (to_the_second(&entry.fields.time, day), Tone::Faint),
                (who(entry), Tone::Plain),
                (asked(entry), Tone::Plain),
                (if servers.len() > 1 { server(entry) } else { String::new() }, Tone::Plain),
                decided(entry),
                (by(entry), Tone::Plain),
                (outcome, Tone::Plain),
                (ms.unwrap_or_default(), Tone::Faint),
            ]
        })
        .collect();
    let head = [day.unwrap_or("time"), "who", "what", "server", "decision", "by", "outcome", "ms"];
    filled(&head, &["server", "by"], &rows).to_string()
}

/// The same in fewer columns, for calls of one server and one moment.
pub fn calls_in_brief(calls: &[Call]) -> String {
    let rows: Vec<Vec<Said>> = calls
        .iter()
        .map(|Call { entry, completion }| {
            let outcome = completion.as_ref().and_then(|end| end.fields.outcome.clone()).unwrap_or_default();
            vec![
                (to_the_second(&entry.fields.time, entry.fields.time.get(..10)), Tone::Faint),
                (who(entry), Tone::Plain),
                (target(entry), Tone::Plain),
                decided(entry),
                (by(entry), Tone::Plain),
                (outcome, Tone::Plain),
            ]
        })
        .collect();
    filled(&["time", "who", "tool", "decision", "by", "outcome"], &["by"], &rows).to_string()
}

/// RFC 3339 without fractions, and without the day that all have in common.
fn to_the_second(time: &str, day: Option<&str>) -> String {
    let from = day.map_or(0, |day| day.len() + 1);
    time.get(from..19).map_or_else(|| time.to_owned(), |seconds| format!("{seconds}Z"))
}

fn decided(entry: &Entry) -> Said {
    let decision = entry.fields.decision.as_deref().unwrap_or_default();
    let tone = match decision {
        "allow" => Tone::Good,
        "deny" => Tone::Bad,
        _ => Tone::Caution,
    };
    (decision.to_owned(), tone)
}

/// The tool of a call; for other requests, the method.
fn asked(entry: &Entry) -> String {
    let target = target(entry);
    match entry.fields.method.as_deref() {
        Some("tools/call") | None => target,
        Some(method) => format!("{method} {target}").trim().to_owned(),
    }
}

fn server(entry: &Entry) -> String {
    let fields = &entry.fields;
    let parts = [&fields.server_namespace, &fields.server_name].map(|part| part.as_deref().unwrap_or_default());
    let name = parts.join("/").trim_matches('/').to_owned();
    if name.is_empty() { member(&whole(entry), "portcullis.server") } else { name }
}

/// The caller; of failed authentications, where they came from.
fn who(entry: &Entry) -> String {
    entry.fields.subject.clone().unwrap_or_else(|| member(&whole(entry), "client.address.prefix"))
}

fn member(record: &serde_json::Value, name: &str) -> String {
    record.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

/// What was asked for, or what changed; else what kind of event it is, and how often it happened.
fn target(entry: &Entry) -> String {
    let fields = &entry.fields;
    if let Some(asked) = fields.tool.as_ref().or(fields.resource.as_ref()).or(fields.prompt.as_ref()) {
        return asked.clone();
    }
    if fields.event == DECISION {
        return String::new();
    }
    let record = whole(entry);
    let [kind, namespace, name] =
        ["kind", "namespace", "name"].map(|part| member(&record, &format!("portcullis.object.{part}")));
    if kind.is_empty() {
        let event = fields.event.strip_prefix("mcp.gateway.").unwrap_or(&fields.event);
        let times = record.get("portcullis.count").and_then(serde_json::Value::as_u64).filter(|times| *times > 1);
        return times.map_or_else(|| event.to_owned(), |times| format!("{event} ×{times}"));
    }
    let change = member(&record, "portcullis.change");
    format!("{kind} {} {change}", [namespace, name].join("/").trim_matches('/')).trim().to_owned()
}

/// The rule that decided, else the reason.
fn by(entry: &Entry) -> String {
    let fields = &entry.fields;
    match (&fields.policy, &fields.rule) {
        (Some(policy), Some(rule)) => format!("{policy} / {rule}"),
        _ => fields.reason.clone().or_else(|| fields.error.clone()).unwrap_or_default(),
    }
}

/// One record, on one line.
fn line(entry: &Entry) -> String {
    let fields = &entry.fields;
    let what = fields.decision.as_deref().or(fields.outcome.as_deref()).unwrap_or_default();
    let words = [fields.time.clone(), what.to_owned(), who(entry), asked(entry), by(entry)];
    let text: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    printable(&text.join("  "))
}
