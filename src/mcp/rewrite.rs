//! The few messages that are written anew, so that neither side declares or accepts what is not policed (duties 47,
//! 48). Members that stay keep their bytes and their order.

use std::ops::Range;

use bytes::Bytes;

use super::answer::{UNSUPPORTED_VERSION, push_string};
use super::envelope::{Envelope, Parts};
use super::malformed::{Fault, Malformed, Slip};
use super::method::{Capability, Method};
use super::revision::{Era, Revision};
use super::scan::{Limits, Scanner, member_of};

/// Why an upstream's answer cannot be vouched for. The client gets [`super::answer::Own::UpstreamInvalid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Hostile {
    /// Not readable alike by all.
    #[error("the upstream's answer was refused: {0}")]
    Malformed(Fault),
    /// An error, or no response at all: there is nothing to write anew.
    #[error("the upstream's answer has no result")]
    NoResult,
    /// A required member of the result is absent or has the wrong type.
    #[error("the upstream's result lacks a member or has it with a wrong type")]
    BadResult,
    /// The upstream chose a protocol version that this build cannot police.
    #[error("the upstream speaks no protocol version that the gateway can police")]
    Version,
    /// The result asks for input, stands for a task, or is of an unknown type.
    #[error("the upstream's result is of a type that the gateway does not police")]
    ResultType,
}

impl Hostile {
    /// A stable CamelCase word.
    pub fn reason(self) -> &'static str {
        match self {
            Hostile::Malformed(fault) => fault.reason(),
            Hostile::NoResult => "NoResult",
            Hostile::BadResult => "BadResult",
            Hostile::Version => "UpstreamVersion",
            Hostile::ResultType => "UnpolicedResultType",
        }
    }
}

impl From<Slip> for Hostile {
    fn from(slip: Slip) -> Hostile {
        Hostile::Malformed(slip.fault)
    }
}

/// How long a client may keep a list, and whether it may read the upstream's `instructions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultRules {
    /// The longest `ttlMs`, in milliseconds: the promised revocation delay (duty 52).
    pub max_ttl_ms: u64,
    /// Whether `instructions` pass: they may name tools that this caller may not see (duty 49).
    pub keep_instructions: bool,
}

/// A client's request as the upstream may see it; `None` if that is the very body that came.
///
/// Capabilities that are not policed leave `initialize` and the new era's `_meta`; `initialize` asks for the newest
/// version with a handshake if it asked for one that cannot be had; `params.task` leaves `tools/call` (a receiver
/// without the capability ignores it, 2025-11-25 "Tasks"); `cursor` replaces `params.cursor`, if both are there.
pub fn request(envelope: &Envelope, revision: Revision, cursor: Option<&str>) -> Result<Option<Bytes>, Malformed> {
    let mut edits: Vec<(Range<usize>, Vec<u8>)> = Vec::new();
    let declared = match revision.era() {
        Era::New => envelope.span_of(Parts::meta_capabilities),
        Era::Old => envelope.span_of(Parts::capabilities).filter(|_| envelope.method() == Some("initialize")),
    };
    if let Some(range) = declared
        && let Some(kept) = client_capabilities(raw(envelope, &range), revision)?
    {
        edits.push((range, kept));
    }
    if envelope.method() == Some("initialize")
        && let Some(range) = envelope.span_of(Parts::protocol_version)
        && envelope.protocol_version() != Some(revision.as_str())
    {
        edits.push((range, quoted(revision.as_str())));
    }
    if let Some(cursor) = cursor
        && let Some(range) = envelope.span_of(Parts::cursor)
    {
        edits.push((range, quoted(cursor)));
    }
    if envelope.asks_for_task()
        && let Some(params) = envelope.span_of(Parts::params)
        && let Some(range) = removal(raw(envelope, &params), "task")?
    {
        edits.push((range.start + params.start..range.end + params.start, Vec::new()));
    }
    Ok((!edits.is_empty()).then(|| splice(envelope.body(), edits)))
}

/// What an answer to `initialize` settles for its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// The revision.
    pub revision: Revision,
    /// `tools.listChanged`: the client is promised to be told of changes (duty 58).
    pub tells_changes: bool,
}

/// The answer to `initialize` as the client may see it, and what was negotiated.
pub fn initialize_result(response: &Envelope, rules: ResultRules) -> Result<(Bytes, Negotiated), Hostile> {
    let mut revision = None;
    let mut tells_changes = None;
    let body = result(response, &["protocolVersion", "capabilities", "serverInfo", "instructions"], |name, value| {
        Ok(match name {
            "protocolVersion" => {
                let chosen: String = serde_json::from_str(value).map_err(|_| Hostile::BadResult)?;
                let known = Revision::parse(&chosen).filter(|revision| revision.era() == Era::Old);
                revision = Some(known.ok_or(Hostile::Version)?);
                Edit::Keep
            }
            "capabilities" => {
                tells_changes = Some(declares_list_changed(value)?);
                server_capabilities(value, Revision::NEWEST_OLD)?
            }
            "instructions" if !rules.keep_instructions => Edit::Remove,
            _ => Edit::Keep,
        })
    })?;
    let (Some(revision), Some(tells_changes)) = (revision, tells_changes) else { return Err(Hostile::BadResult) };
    Ok((body.finish(), Negotiated { revision, tells_changes }))
}

/// The answer to `server/discover` as the client may see it: versions and capabilities that are policed, and private
/// to this caller (duty 51).
pub fn discover_result(response: &Envelope, rules: ResultRules) -> Result<Bytes, Hostile> {
    check_result_type(response, Revision::V2026_07_28)?;
    let mut seen = (false, false);
    let known = ["supportedVersions", "capabilities", "instructions", "ttlMs", "cacheScope", "resultType"];
    let mut ttl = 0;
    let mut body = result(response, &known, |name, value| {
        Ok(match name {
            "supportedVersions" => {
                seen.0 = true;
                let kept = versions(value)?;
                if kept.is_empty() {
                    return Err(Hostile::Version);
                }
                Edit::Replace(list(&kept))
            }
            "capabilities" => {
                seen.1 = true;
                server_capabilities(value, Revision::V2026_07_28)?
            }
            "instructions" if !rules.keep_instructions => Edit::Remove,
            "ttlMs" => {
                ttl = cap_ttl(value, rules.max_ttl_ms);
                Edit::Remove
            }
            "cacheScope" => Edit::Remove,
            _ => Edit::Keep,
        })
    })?;
    if seen != (true, true) {
        return Err(Hostile::BadResult);
    }
    body.push_caching(ttl);
    Ok(body.finish())
}

/// An error response as the client may see it, or `None` if that is what came: of the versions that an upstream offers
/// instead of one that it does not know, those that can be policed (duty 47).
pub fn error(response: &Envelope) -> Result<Option<Bytes>, Hostile> {
    let unsupported = response.error_code() == Some(i64::from(UNSUPPORTED_VERSION));
    let Some(range) = response.span_of(Parts::error).filter(|_| unsupported) else { return Ok(None) };
    let supported = |name: &str, value: &str| {
        Ok(if name == "supported" { Edit::Replace(list(&versions(value)?)) } else { Edit::Keep })
    };
    let error = rebuild::<Hostile>(raw(response, &range), &["code", "message", "data"], |name, value| {
        Ok(match name {
            "data" => Edit::Replace(rebuild::<Hostile>(value.as_bytes(), &["supported", "requested"], supported)?),
            _ => Edit::Keep,
        })
    })?;
    Ok(Some(splice(response.body(), vec![(range, error)])))
}

/// Refuses results of the new era that ask for input, stand for a task, or are of a type that is not known. Absent is
/// `complete` (duty 81). The old era has no such member.
pub fn check_result_type(response: &Envelope, revision: Revision) -> Result<(), Hostile> {
    match (revision.era(), response.result_type()) {
        (Era::Old, _) | (Era::New, None | Some("complete")) => Ok(()),
        (Era::New, Some(_)) => Err(Hostile::ResultType),
    }
}

/// `ttlMs` within `max`; what is no such number is 0, immediately stale.
pub(super) fn cap_ttl(value: &str, max: u64) -> u64 {
    serde_json::from_str::<u64>(value).unwrap_or(0).min(max)
}

/// What becomes of one member.
pub(super) enum Edit {
    Keep,
    Remove,
    Replace(Vec<u8>),
}

/// A response whose `result` is being written anew.
pub(super) struct Body<'e> {
    response: &'e Envelope,
    range: Range<usize>,
    object: Vec<u8>,
}

impl Body<'_> {
    /// Adds the two members of a cacheable result: private, and fresh for so many milliseconds.
    pub(super) fn push_caching(&mut self, ttl_ms: u64) {
        self.object.pop();
        if self.object.len() > 1 {
            self.object.push(b',');
        }
        self.object.extend_from_slice(format!("\"ttlMs\":{ttl_ms},\"cacheScope\":\"private\"}}").as_bytes());
    }

    pub(super) fn finish(self) -> Bytes {
        splice(self.response.body(), vec![(self.range, self.object)])
    }
}

/// Writes `result` anew, member by member. A member that differs from a known one by case is refused.
pub(super) fn result<'e>(
    response: &'e Envelope,
    known: &[&'static str],
    edit: impl FnMut(&str, &str) -> Result<Edit, Hostile>,
) -> Result<Body<'e>, Hostile> {
    let range = response.span_of(Parts::result).ok_or(Hostile::NoResult)?;
    let object = rebuild(raw(response, &range), known, edit)?;
    Ok(Body { response, range, object })
}

/// Writes an object anew: kept members with their bytes, in their order.
fn rebuild<E: From<Slip>>(
    object: &[u8],
    known: &[&'static str],
    mut edit: impl FnMut(&str, &str) -> Result<Edit, E>,
) -> Result<Vec<u8>, E> {
    let mut out = Vec::with_capacity(object.len() + 64);
    out.push(b'{');
    for member in members(object, known)? {
        let value = match edit(&member.name, member.value)? {
            Edit::Keep => member.value.as_bytes().to_vec(),
            Edit::Replace(value) => value,
            Edit::Remove => continue,
        };
        if out.len() > 1 {
            out.push(b',');
        }
        push_string(&mut out, &member.name);
        out.push(b':');
        out.extend_from_slice(&value);
    }
    out.push(b'}');
    Ok(out)
}

/// One member of an object.
pub(super) struct Member<'a> {
    pub(super) name: std::borrow::Cow<'a, str>,
    pub(super) value: &'a str,
    /// From the name's quote to the value's end, in the object's text.
    range: Range<usize>,
}

/// The members of an object, which is read strictly once more: cheap, and right whoever calls.
pub(super) fn members<'a>(object: &'a [u8], known: &[&'static str]) -> Result<Vec<Member<'a>>, Slip> {
    let mut scanner = Scanner::new(object, &Limits::SERVER)?;
    let mut members = Vec::new();
    scanner.object(|scanner, name| {
        member_of(scanner.text(), name, known)?;
        let value = scanner.value()?;
        members.push(Member {
            name: name.decode(scanner.text()),
            value: scanner.text().get(value.range()).unwrap_or_default(),
            range: name.span.start as usize - 1..value.end as usize,
        });
        Ok(())
    })?;
    scanner.end()?;
    Ok(members)
}

/// The capabilities that stay, or `None` if all do.
fn client_capabilities(declared: &[u8], revision: Revision) -> Result<Option<Vec<u8>>, Slip> {
    let policed = |name: &str| Capability::of_client(name).is_some_and(|capability| capability.is_policed(revision));
    if members(declared, &[])?.iter().all(|member| policed(&member.name)) {
        return Ok(None);
    }
    rebuild(declared, &[], |name, _| Ok(if policed(name) { Edit::Keep } else { Edit::Remove })).map(Some)
}

fn server_capabilities(declared: &str, revision: Revision) -> Result<Edit, Hostile> {
    let known = ["tools", "resources", "prompts", "completions", "logging", "tasks", "experimental", "extensions"];
    let policed = |name: &str| Capability::of_server(name).is_some_and(|capability| capability.is_policed(revision));
    let kept = rebuild::<Slip>(declared.as_bytes(), &known, |name, value| {
        Ok(match name {
            "tools" if !carries_changes(revision) => Edit::Replace(without_list_changed(value)?),
            name if policed(name) => Edit::Keep,
            _ => Edit::Remove,
        })
    })?;
    Ok(Edit::Replace(kept))
}

/// Whether notifications of changes can reach a client: the new era sends them on `subscriptions/listen` only.
fn carries_changes(revision: Revision) -> bool {
    Method::find(revision, "subscriptions/listen").is_none_or(|row| row.policed.is_some())
}

fn without_list_changed(tools: &str) -> Result<Vec<u8>, Slip> {
    let edit = |name: &str, _: &str| Ok(if name == "listChanged" { Edit::Remove } else { Edit::Keep });
    rebuild(tools.as_bytes(), &["listChanged"], edit)
}

fn declares_list_changed(declared: &str) -> Result<bool, Slip> {
    let Some(tools) = members(declared.as_bytes(), &[])?.into_iter().find(|member| member.name == "tools") else {
        return Ok(false);
    };
    let tools = members(tools.value.as_bytes(), &["listChanged"])?;
    Ok(tools.iter().any(|member| member.name == "listChanged" && member.value == "true"))
}

/// Those of the upstream's versions that can be policed, in its order.
fn versions(offered: &str) -> Result<Vec<Revision>, Hostile> {
    let offered: Vec<String> = serde_json::from_str(offered).map_err(|_| Hostile::BadResult)?;
    Ok(offered.iter().filter_map(|text| Revision::parse(text)).collect())
}

fn list(versions: &[Revision]) -> Vec<u8> {
    let quoted: Vec<String> = versions.iter().map(|revision| format!("\"{}\"", revision.as_str())).collect();
    format!("[{}]", quoted.join(",")).into_bytes()
}

/// The bytes that must go for a member to be gone, with one comma.
fn removal(object: &[u8], name: &str) -> Result<Option<Range<usize>>, Slip> {
    let members = members(object, &[])?;
    let Some(at) = members.iter().position(|member| member.name == name) else { return Ok(None) };
    let (before, from) = members.split_at(at);
    Ok(match (before.last(), from) {
        (_, [member, next, ..]) => Some(member.range.start..next.range.start),
        (Some(last), [member]) => Some(last.range.end..member.range.end),
        (None, [member]) => Some(member.range.clone()),
        (_, []) => None,
    })
}

fn raw<'e>(envelope: &'e Envelope, range: &Range<usize>) -> &'e [u8] {
    envelope.body().get(range.clone()).unwrap_or_default()
}

fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    out
}

/// `body` with these ranges, which do not overlap, replaced.
fn splice(body: &[u8], mut edits: Vec<(Range<usize>, Vec<u8>)>) -> Bytes {
    edits.sort_by_key(|(range, _)| range.start);
    let mut out = Vec::with_capacity(body.len() + edits.iter().map(|(_, new)| new.len()).sum::<usize>());
    let mut at = 0;
    for (range, new) in edits {
        out.extend_from_slice(body.get(at..range.start).unwrap_or_default());
        out.extend_from_slice(&new);
        at = range.end;
    }
    out.extend_from_slice(body.get(at..).unwrap_or_default());
    out.into()
}

#[cfg(test)]
mod tests;
