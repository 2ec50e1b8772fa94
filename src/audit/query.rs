//! Questions to the audit log: calls by who, what, where and how they ended; and the log as it grows.
//!
//! A decision and its completion are one [`Call`]: a question about the outcome finds the decision too.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use super::entry::{Entry, Fields};
use super::record::{COMPLETION, DECISION};
use crate::journal::{Kind, ReadError, Reader, list};

/// What is asked for: every field that is set must match.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The subject, or `authority:subject`.
    pub principal: Option<String>,
    /// The client id.
    pub client: Option<String>,
    /// Tool, resource or prompt, exactly.
    pub target: Option<String>,
    /// `namespace/name` of the server, or its name.
    pub server: Option<String>,
    /// `allow`, `deny` or `require_approval`.
    pub decision: Option<String>,
    /// The word of an [`super::Outcome`], or `none` for calls without completion.
    pub outcome: Option<String>,
    /// One of the event names, such as [`super::DECISION`]. Unset, all events but completions are answered with theirs.
    pub event: Option<String>,
    /// Not before, in milliseconds since 1970.
    pub since_unix_ms: Option<u64>,
    /// Before this.
    pub until_unix_ms: Option<u64>,
}

impl Filter {
    /// Whether the event itself matches; the outcome is asked of its call.
    fn matches(&self, fields: &Fields) -> bool {
        let same = |asked: &Option<String>, found: &Option<String>| asked.is_none() || asked == found;
        let target = || [&fields.tool, &fields.resource, &fields.prompt].into_iter().any(|t| same(&self.target, t));
        same(&self.client, &fields.client)
            && same(&self.decision, &fields.decision)
            && self.event.as_ref().is_none_or(|event| *event == fields.event)
            && (self.target.is_none() || target())
            && self.principal.as_ref().is_none_or(|asked| is_principal(asked, fields))
            && self.server.as_ref().is_none_or(|asked| is_server(asked, fields))
            && self.in_time(fields)
    }

    fn in_time(&self, fields: &Fields) -> bool {
        if self.since_unix_ms.is_none() && self.until_unix_ms.is_none() {
            return true;
        }
        let Some(at) = fields.unix_ms() else { return false };
        self.since_unix_ms.is_none_or(|since| at >= since) && self.until_unix_ms.is_none_or(|until| at < until)
    }

    fn outcome_matches(&self, call: &Call) -> bool {
        let found = call.completion.as_ref().and_then(|completion| completion.fields.outcome.as_deref());
        self.outcome.as_deref().is_none_or(|asked| asked == found.unwrap_or("none"))
    }
}

fn is_principal(asked: &str, fields: &Fields) -> bool {
    let Some(subject) = &fields.subject else { return false };
    let qualified = fields.authority.as_ref().and_then(|authority| asked.strip_prefix(authority.as_str()));
    asked == subject || qualified.and_then(|rest| rest.strip_prefix(':')) == Some(subject)
}

fn is_server(asked: &str, fields: &Fields) -> bool {
    let (Some(namespace), Some(name)) = (&fields.server_namespace, &fields.server_name) else { return false };
    asked.split_once('/').map_or(asked == name, |(in_namespace, named)| in_namespace == namespace && named == name)
}

/// One event, and its end if it is a decision that has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The decision, or another event.
    pub entry: Entry,
    /// Its completion.
    pub completion: Option<Entry>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The calls, oldest first.
    pub calls: Vec<Call>,
    /// Whether older ones match too and were left out because of the limit.
    pub truncated: bool,
    /// Places that could not be read. A question to a damaged log is answered with what is left.
    pub unreadable: Vec<String>,
}

/// Calls that are held besides the limit while the log has not yet said how they ended.
const UNDECIDED: usize = 10_000;

/// Answers a question with the newest `limit` calls. Memory is bounded by the limit, whatever the log's length.
pub fn query(dir: &Path, filter: &Filter, limit: usize) -> Result<Answer, ReadError> {
    let mut found = Found { filter, limit, calls: BTreeMap::new(), places: HashMap::new(), truncated: false };
    let mut unreadable = Vec::new();
    let mut reader = Reader::open(dir, 0);
    loop {
        match reader.next() {
            Ok(Some(record)) if record.kind == Kind::Data => {
                if let Some(entry) = Entry::read(record.payload) {
                    found.observe(record.seq, entry);
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                unreadable.extend(reader.obstacle()?.map(|at| ReadError::Record(at).to_string()));
                return Ok(found.answer(unreadable));
            }
            Err(error @ ReadError::Io { .. }) => return Err(error),
            Err(error) => unreadable.push(error.to_string()),
        }
    }
}

struct Found<'a> {
    filter: &'a Filter,
    limit: usize,
    /// By the number of the first record.
    calls: BTreeMap<u64, Call>,
    /// Audit id to that number.
    places: HashMap<String, u64>,
    truncated: bool,
}

impl Found<'_> {
    fn observe(&mut self, seq: u64, entry: Entry) {
        if entry.fields.event == COMPLETION && self.filter.event.as_deref() != Some(COMPLETION) {
            return self.complete(entry);
        }
        if !self.filter.matches(&entry.fields) {
            return;
        }
        if let Some(id) = entry.fields.id.clone().filter(|_| entry.fields.event == DECISION) {
            self.places.insert(id, seq);
        }
        self.calls.insert(seq, Call { entry, completion: None });
        let undecided = if self.filter.outcome.is_some() { UNDECIDED } else { 0 };
        if self.calls.len() > self.limit.saturating_add(undecided) {
            self.forget_oldest();
        }
    }

    fn complete(&mut self, entry: Entry) {
        let Some(seq) = entry.fields.id.as_ref().and_then(|id| self.places.remove(id)) else { return };
        let Some(call) = self.calls.get_mut(&seq) else { return };
        call.completion = Some(entry);
        if !self.filter.outcome_matches(call) {
            self.calls.remove(&seq);
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.calls.pop_first().map(|(_, call)| call);
        if let Some(id) = oldest.and_then(|call| call.entry.fields.id) {
            self.places.remove(&id);
        }
        self.truncated = true;
    }

    fn answer(mut self, unreadable: Vec<String>) -> Answer {
        self.calls.retain(|_, call| self.filter.outcome_matches(call));
        while self.calls.len() > self.limit {
            self.forget_oldest();
        }
        Answer { calls: self.calls.into_values().collect(), truncated: self.truncated, unreadable }
    }
}

/// Completions are matched to this many of the latest matching decisions.
const REMEMBERED: usize = 10_000;

/// Follows the log as it grows.
#[derive(Debug)]
pub struct Tail {
    reader: Reader,
    filter: Filter,
    remembered: VecDeque<String>,
}

impl Tail {
    /// Follows the journal in `dir`: from its end, or from the oldest record on. A filter's outcome lets completions
    /// through that have it, and no decisions.
    pub fn open(dir: &Path, filter: Filter, from_start: bool) -> Result<Self, ReadError> {
        let files = list(dir).map_err(|error| ReadError::Io { path: dir.to_owned(), error })?;
        let first = files.last().filter(|_| !from_start).map_or(0, |file| file.number);
        let mut tail = Self { reader: Reader::open(dir, first), filter, remembered: VecDeque::new() };
        if !from_start {
            while tail.reader.next()?.is_some() {}
        }
        Ok(tail)
    }

    /// The next matching record that is there by now; ask again after a while.
    pub fn poll(&mut self) -> Result<Option<Entry>, ReadError> {
        while let Some(record) = self.reader.next()? {
            if record.kind != Kind::Data {
                continue;
            }
            let Some(entry) = Entry::read(record.payload) else { continue };
            if self.wants(&entry.fields) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// What keeps it from reading on, if something does: it waits there.
    pub fn obstacle(&mut self) -> Result<Option<String>, ReadError> {
        Ok(self.reader.obstacle()?.map(|at| ReadError::Record(at).to_string()))
    }

    fn wants(&mut self, fields: &Fields) -> bool {
        if fields.event == COMPLETION {
            let known = fields.id.as_ref().and_then(|id| self.remembered.iter().rposition(|known| known == id));
            let ours = known.and_then(|at| self.remembered.remove(at)).is_some();
            let asked = self.filter.event.as_ref().is_none_or(|event| event == COMPLETION);
            let outcome = self.filter.outcome.is_none() || self.filter.outcome == fields.outcome;
            return ours && asked && outcome;
        }
        let decision = fields.event == DECISION;
        let by_event = self.filter.event.as_ref().is_none_or(|event| *event == fields.event || event == COMPLETION);
        let any_event = Filter { event: None, ..self.filter.clone() };
        if !by_event || !any_event.matches(fields) {
            return false;
        }
        if let Some(id) = fields.id.clone().filter(|_| decision) {
            if self.remembered.len() == REMEMBERED {
                self.remembered.pop_front();
            }
            self.remembered.push_back(id);
        }
        self.filter.outcome.is_none() && self.filter.event.as_ref().is_none_or(|event| *event == fields.event)
    }
}
