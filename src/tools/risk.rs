//! A tool's risk class is the highest that anything says of it, and what only the upstream's annotations say is no class
//! at all: an annotation can make a tool look more dangerous, never less.

use serde_json::Value;

use crate::generated::Risk;
use crate::mcp::list::ToolView;

/// Who says that a tool is of a class, the most trustworthy first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// This build's classifier, from the name and the input schema.
    Classifier,
    /// `McpServer.spec.tools.risk`.
    Configured,
    /// The reviewed tool lock, of a definition that is the reviewed one.
    Lock,
    /// The tool lock, of another definition of the same name.
    FormerLock,
    /// The upstream's annotations.
    Annotations,
}

/// One statement about a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Who says so.
    pub source: Source,
    /// The class.
    pub risk: Risk,
    /// For people: `name has the verb "delete"`.
    pub why: String,
}

/// What is known of a tool's risk (design 2, "Risk classes").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownRisk {
    /// The class for policies of the server's own namespace; `None`: unclassified, since nobody can vouch for one.
    pub own: Option<Risk>,
    /// The class for guardrails, which do not believe what only the lock or `tools.risk` asserts: whoever owns the server
    /// writes those.
    pub guardrail: Option<Risk>,
}

impl KnownRisk {
    /// Joins what is said of one tool. Whoever can vouch for a class speaks first; then everything said counts, so that
    /// nothing lowers a class: neither a hint of the upstream's nor a changed definition.
    pub fn of(said: impl IntoIterator<Item = (Source, Risk)>) -> Self {
        let (mut highest, mut own, mut guardrail) = (None, false, false);
        for (source, risk) in said {
            highest = highest.max(Some(risk));
            own |= !matches!(source, Source::Annotations | Source::FormerLock);
            guardrail |= source == Source::Classifier;
        }
        Self { own: highest.filter(|_| own), guardrail: highest.filter(|_| guardrail) }
    }
}

/// What a definition says of its tool's class by itself: all that is kept of it, so that lock and configuration may change
/// without another look at it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    classifier: Option<Risk>,
    annotations: Option<Risk>,
}

impl Said {
    /// What this definition says.
    pub fn of(tool: &ToolView<'_>) -> Self {
        let classifier = classify(&tool.name, tool.input_schema).into_iter().map(|reason| reason.risk).max();
        Self { classifier, annotations: annotations(tool.annotations).map(|reason| reason.risk) }
    }

    /// As statements, for [`KnownRisk::of`].
    pub fn statements(self) -> impl Iterator<Item = (Source, Risk)> {
        let classifier = self.classifier.map(|risk| (Source::Classifier, risk));
        classifier.into_iter().chain(self.annotations.map(|risk| (Source::Annotations, risk)))
    }
}

/// All that is said of a tool's risk, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    /// The class; `None` if nobody but annotations says anything, or nobody at all.
    pub class: Option<Risk>,
    /// What guardrails see: `None` also if nobody but annotations, lock and configuration says anything, since whoever
    /// owns the server writes those.
    pub class_for_guardrails: Option<Risk>,
    /// Everything that was said, highest class first.
    pub reasons: Vec<Reason>,
    /// If all reasons are from one kind of source other than the classifier: that source.
    pub asserted_only_by: Option<Source>,
}

impl Assessment {
    /// Joins all statements about a tool.
    pub fn of(mut reasons: Vec<Reason>) -> Assessment {
        reasons.sort_by_key(|reason| (std::cmp::Reverse(reason.risk), reason.source));
        let asserted_only_by = reasons
            .first()
            .map(|reason| reason.source)
            .filter(|first| *first != Source::Classifier && reasons.iter().all(|reason| reason.source == *first));
        let KnownRisk { own, guardrail } = KnownRisk::of(reasons.iter().map(|reason| (reason.source, reason.risk)));
        Assessment { class: own, class_for_guardrails: guardrail, reasons, asserted_only_by }
    }
}

/// Assesses a tool from its definition, its reviewed class if it is locked, and the classes of the `tools.risk` rules
/// that match its name, each with the rule's name.
pub fn assess<'r>(
    tool: &ToolView<'_>,
    locked: Option<Risk>,
    configured: impl IntoIterator<Item = (&'r str, Risk)>,
) -> Assessment {
    let mut reasons = classify(&tool.name, tool.input_schema);
    reasons.extend(annotations(tool.annotations));
    reasons.extend(locked.map(|risk| Reason { source: Source::Lock, risk, why: "the tool lock says so".to_owned() }));
    reasons.extend(configured.into_iter().map(|(rule, risk)| Reason {
        source: Source::Configured,
        risk,
        why: format!("rule \"{rule}\" of spec.tools.risk matches"),
    }));
    Assessment::of(reasons)
}

/// Verbs that say what cannot be taken back, what runs code, moves money or opens doors.
const DESTRUCTIVE: &str = " abort ban buy cancel chmod chown clear deactivate decommission delete deprovision destroy \
    detach disable drop empty erase eval evict exec execute expire flush grant impersonate invalidate invoke kill nuke \
    overwrite pay prune purge reboot reject remove replace restart restore revert revoke rm rmdir rollback rotate sell \
    shutdown stop suspend terminate truncate uninstall unlink unpublish wipe withdraw ";

/// The same, but they are nouns as well: behind a reading verb (`get_order`) they are what is read.
const DESTRUCTIVE_OR_NOUN: &str = " approve charge deploy force format merge order publish purchase refund release \
    reset run scale send shell transfer trash ";

/// Verbs that create or change.
const WRITE: &str = " accept add annotate append apply assign attach change close configure connect convert create \
    dismiss edit enable enqueue fill insert install invite join leave make mkdir modify move mute notify open \
    provision put react register rename reopen reply save snooze start submit subscribe touch trigger unarchive \
    unassign unlock unpin unsubscribe update upload upsert write ";

/// The same, but nouns as well.
const WRITE_OR_NOUN: &str = " archive book clone comment commit copy draft fork import label link lock log mark new \
    patch pin post push record request schedule set share sign star store sync tag type ";

/// Verbs that read.
const READ: &str = " browse check compare count describe diff download echo explain export fetch find get grep inspect \
    list lookup ls peek ping preview query read retrieve search show summarize validate verify view whoami ";

/// Words behind which the next word is a verb again: `get_or_create`.
const CONJUNCTIONS: &str = " and or then ";

/// Input members that carry code or a command: whoever may fill them may do what the code can. A member that is called
/// `query` alone is search text as often as not, and says nothing.
const CODE: &str = " cmd code command commands script shell sql statement ";

/// Input members that turn a call into a more dangerous one.
const FORCE: &str = " force overwrite purge recursive ";

/// What the name and the input schema say. Empty if they say nothing: an unclassified tool is not a harmless one.
pub fn classify(name: &str, input_schema: Option<&str>) -> Vec<Reason> {
    let mut reasons = by_name(name);
    let schema = input_schema.and_then(|raw| serde_json::from_str::<Value>(raw).ok());
    let properties = schema.as_ref().and_then(|schema| schema.get("properties")).and_then(Value::as_object);
    for (property, schema) in properties.into_iter().flatten() {
        reasons.extend(by_property(property, schema));
    }
    reasons
}

fn by_name(name: &str) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut read = None;
    let mut object = false;
    for word in words(name) {
        let risk = if has(DESTRUCTIVE, &word) || (!object && has(DESTRUCTIVE_OR_NOUN, &word)) {
            Risk::Destructive
        } else if has(WRITE, &word) || (!object && has(WRITE_OR_NOUN, &word)) {
            Risk::Write
        } else {
            object = (object && !has(CONJUNCTIONS, &word)) || has(READ, &word);
            read = read.or_else(|| has(READ, &word).then_some(word));
            continue;
        };
        reasons.push(says(risk, format!("name has the verb \"{word}\"")));
    }
    // A reading verb counts only if no other is there: `get_or_create` writes.
    if let Some(verb) = read.filter(|_| reasons.is_empty()) {
        reasons.push(says(Risk::ReadOnly, format!("name has the verb \"{verb}\" and no other")));
    }
    reasons
}

fn has(list: &str, word: &str) -> bool {
    list.split_ascii_whitespace().any(|listed| listed == word)
}

fn by_property(property: &str, schema: &Value) -> Option<Reason> {
    let words = words(property);
    let any_of = |list: &str| words.iter().any(|word| has(list, word));
    match schema.get("type").and_then(Value::as_str) {
        Some("string") if any_of(CODE) => {
            Some(says(Risk::Destructive, format!("input \"{property}\" carries code or a command")))
        }
        Some("boolean") if any_of(FORCE) => {
            Some(says(Risk::Destructive, format!("input \"{property}\" can force or widen the effect")))
        }
        _ => None,
    }
}

fn annotations(raw: Option<&str>) -> Option<Reason> {
    let hints: Value = serde_json::from_str(raw?).ok()?;
    let hint = |name: &str| hints.get(name).and_then(Value::as_bool);
    let (risk, why) = match (hint("readOnlyHint"), hint("destructiveHint")) {
        (_, Some(true)) => (Risk::Destructive, "annotation destructiveHint is true"),
        (Some(true), _) => (Risk::ReadOnly, "annotation readOnlyHint is true"),
        (_, Some(false)) => (Risk::Write, "annotation destructiveHint is false"),
        // The specification's default for a tool that is not read-only is destructive.
        (Some(false), None) => (Risk::Destructive, "annotation readOnlyHint is false and destructiveHint is absent"),
        (None, None) => return None,
    };
    Some(Reason { source: Source::Annotations, risk, why: why.to_owned() })
}

fn says(risk: Risk, why: String) -> Reason {
    Reason { source: Source::Classifier, risk, why }
}

/// The lower-case words of a name: cut at anything but letters and digits, and where `camelCase` and `HTTPServer` turn.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut previous = ' ';
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        let turns = c.is_uppercase()
            && (previous.is_lowercase()
                || previous.is_numeric()
                || (previous.is_uppercase() && chars.peek().is_some_and(|next| next.is_lowercase())));
        if !c.is_alphanumeric() {
            previous = ' ';
            continue;
        }
        if previous == ' ' || turns {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
        previous = c;
    }
    words
}

#[cfg(test)]
mod tests;
