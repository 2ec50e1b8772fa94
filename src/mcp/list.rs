//! A filtered list holds the kept tools byte for byte and in their order, names no other tool, and is private to the
//! caller it was filtered for.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::answer::push_string;
use super::envelope::Envelope;
use super::revision::{Era, Revision};
use super::rewrite::{Edit, Hostile, cap_ttl, check_result_type, members, result};
use super::scan::{Limits, Scanner};

const RESULT: [&str; 6] = ["tools", "nextCursor", "ttlMs", "cacheScope", "resultType", "_meta"];

/// The members of a tool definition. A definition with a case variant of one of them is dropped: clients that fold
/// case would show its users another tool than the one that was judged.
const TOOL: [&str; 10] = [
    "name",
    "title",
    "description",
    "icons",
    "inputSchema",
    "outputSchema",
    "annotations",
    "execution",
    "_meta",
    "x-mcp-header",
];

/// One tool definition of a list. Everything in it is the upstream's word.
#[derive(Debug, Clone)]
pub struct ToolView<'a> {
    /// `name`, decoded; neither trimmed nor normalized.
    pub name: Cow<'a, str>,
    /// The whole definition as it came.
    pub raw: &'a str,
    /// `title`, as raw JSON.
    pub title: Option<&'a str>,
    /// `description`, as raw JSON.
    pub description: Option<&'a str>,
    /// `inputSchema`, as raw JSON.
    pub input_schema: Option<&'a str>,
    /// `outputSchema`, as raw JSON.
    pub output_schema: Option<&'a str>,
    /// `annotations`, as raw JSON: hints that nobody vouches for (duty 59).
    pub annotations: Option<&'a str>,
}

impl<'a> ToolView<'a> {
    /// Reads one definition strictly; `None` if it has no usable name or two readers could differ about it.
    pub fn read(raw: &'a str) -> Option<ToolView<'a>> {
        let mut tool = ToolView {
            name: Cow::Borrowed(""),
            raw,
            title: None,
            description: None,
            input_schema: None,
            output_schema: None,
            annotations: None,
        };
        for member in members(raw.as_bytes(), &TOOL).ok()? {
            let value = Some(member.value);
            match &*member.name {
                "name" => tool.name = Cow::Owned(serde_json::from_str::<String>(member.value).ok()?),
                "title" => tool.title = value,
                "description" => tool.description = value,
                "inputSchema" => tool.input_schema = value,
                "outputSchema" => tool.output_schema = value,
                "annotations" => tool.annotations = value,
                _ => {}
            }
        }
        let usable =
            !tool.name.is_empty() && tool.name.len() <= Limits::CLIENT.name && !tool.name.contains(char::is_control);
        usable.then_some(tool)
    }
}

/// Whether a name is one of `[A-Za-z0-9_.-]{1,128}`; only an exact grant reaches any other (duty 30).
pub fn is_safe_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// A list as one caller may see it, and what was found in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filtered {
    /// The whole response.
    pub body: Bytes,
    /// How many tools are left.
    pub kept: usize,
    /// How many were hidden by `keep`.
    pub hidden: usize,
    /// Names that occur more than once; all their tools are gone.
    pub duplicates: Vec<String>,
    /// How many entries were no readable definition; they are gone.
    pub unreadable: usize,
}

/// The readable tools of a `tools/list` response, duplicates included.
pub fn tools(response: &Envelope) -> Result<Vec<ToolView<'_>>, Hostile> {
    let raw = response.result_raw().ok_or(Hostile::NoResult)?;
    let list = members(raw, &RESULT)?.into_iter().find(|member| member.name == "tools").ok_or(Hostile::BadResult)?;
    Ok(elements(list.value)?.into_iter().filter_map(ToolView::read).collect())
}

/// The cursor of the next page of any list, decoded.
pub fn next_cursor(response: &Envelope) -> Result<Option<String>, Hostile> {
    let raw = response.result_raw().ok_or(Hostile::NoResult)?;
    match members(raw, &["nextCursor"])?.into_iter().find(|member| member.name == "nextCursor") {
        Some(member) => serde_json::from_str(member.value).map_err(|_| Hostile::BadResult),
        None => Ok(None),
    }
}

/// Writes a `tools/list` response anew with the tools that `keep` keeps; `map_cursor` makes the upstream's cursor one
/// of the gateway's. `max_ttl_ms` is the promised revocation delay. Other members keep their bytes. An error response
/// is [`Hostile::NoResult`], and passes as it came.
pub fn filter_tools(
    response: &Envelope,
    revision: Revision,
    max_ttl_ms: u64,
    mut keep: impl FnMut(&ToolView<'_>) -> bool,
    mut map_cursor: impl FnMut(&str) -> String,
) -> Result<Filtered, Hostile> {
    check_result_type(response, revision)?;
    let new_era = revision.era() == Era::New;
    let mut found = None;
    let mut ttl = 0;
    let mut body = result(response, &RESULT, |name, value| {
        Ok(match name {
            "tools" => {
                let (written, counts) = write_tools(value, &mut keep)?;
                found = Some(counts);
                Edit::Replace(written)
            }
            "nextCursor" => match serde_json::from_str::<Option<String>>(value).map_err(|_| Hostile::BadResult)? {
                Some(cursor) => {
                    let mut mapped = Vec::new();
                    push_string(&mut mapped, &map_cursor(&cursor));
                    Edit::Replace(mapped)
                }
                None => Edit::Remove,
            },
            "ttlMs" if new_era => {
                ttl = cap_ttl(value, max_ttl_ms);
                Edit::Remove
            }
            "cacheScope" if new_era => Edit::Remove,
            _ => Edit::Keep,
        })
    })?;
    if new_era {
        body.push_caching(ttl);
    }
    let found = found.ok_or(Hostile::BadResult)?;
    Ok(Filtered { body: body.finish(), ..found })
}

fn write_tools(list: &str, keep: &mut impl FnMut(&ToolView<'_>) -> bool) -> Result<(Vec<u8>, Filtered), Hostile> {
    let entries = elements(list)?;
    let tools: Vec<ToolView<'_>> = entries.iter().filter_map(|raw| ToolView::read(raw)).collect();
    let twice = duplicates(&tools);
    let mut found = Filtered {
        body: Bytes::new(),
        kept: 0,
        hidden: 0,
        duplicates: Vec::new(),
        unreadable: entries.len() - tools.len(),
    };
    let mut out = vec![b'['];
    for tool in tools.iter().filter(|tool| !twice.contains(&*tool.name)) {
        if !keep(tool) {
            found.hidden += 1;
            continue;
        }
        if found.kept > 0 {
            out.push(b',');
        }
        out.extend_from_slice(tool.raw.as_bytes());
        found.kept += 1;
    }
    out.push(b']');
    found.duplicates = twice.into_iter().map(str::to_owned).collect();
    found.duplicates.sort();
    Ok((out, found))
}

/// Names that more than one tool has.
fn duplicates<'t>(tools: &'t [ToolView<'_>]) -> HashSet<&'t str> {
    let mut once = HashSet::new();
    tools.iter().map(|tool| &*tool.name).filter(|name| !once.insert(*name)).collect()
}

/// Groups of different names that a reader could take for one another: same letters but for case, `0` and `O`, `1`,
/// `l` and `I`, and the separators `-`, `_` and `.` (duty 30). Names with other letters than ASCII are always alone.
pub fn look_alikes<'t>(names: impl IntoIterator<Item = &'t str>) -> Vec<Vec<&'t str>> {
    let mut groups: HashMap<String, Vec<&str>> = HashMap::new();
    for name in names {
        let group = groups.entry(name.chars().map(skeleton).collect()).or_default();
        if !group.contains(&name) {
            group.push(name);
        }
    }
    let mut alike: Vec<Vec<&str>> = groups.into_values().filter(|group| group.len() > 1).collect();
    alike.iter_mut().for_each(|group| group.sort_unstable());
    alike.sort();
    alike
}

fn skeleton(c: char) -> char {
    match c.to_ascii_lowercase() {
        '0' => 'o',
        '1' | 'i' => 'l',
        '-' | '.' => '_',
        other => other,
    }
}

fn elements(array: &str) -> Result<Vec<&str>, Hostile> {
    let mut scanner = Scanner::new(array.as_bytes(), &Limits::SERVER)?;
    let mut elements = Vec::new();
    if scanner.peek() != Some(b'[') {
        return Err(Hostile::BadResult);
    }
    scanner.array(|scanner| {
        let span = scanner.value()?;
        elements.push(array.get(span.range()).unwrap_or_default());
        Ok(())
    })?;
    Ok(elements)
}

#[cfg(test)]
mod tests;
