//! What a server behind the gate saw, as its reports say (`tests/servers/README.md`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::wait::until;

/// A `tools/call` as the server's SDK decoded it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) tool: String,
    /// Null when the call had none.
    pub(crate) arguments: Value,
}

/// One HTTP request as it arrived; header names are in lower case.
#[derive(Clone, Debug)]
pub(crate) struct HttpSeen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl HttpSeen {
    /// Every value of the header `name`.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }
}

/// The reports so far, in order: lines of JSON that a server's stdout, or an in-process server, appends to.
pub(crate) struct Seen {
    lines: Arc<Mutex<Vec<String>>>,
    forgotten: AtomicUsize,
}

impl Seen {
    pub(crate) fn new(lines: Arc<Mutex<Vec<String>>>) -> Self {
        Self { lines, forgotten: AtomicUsize::new(0) }
    }

    pub(crate) fn push(&self, report: &Value) {
        self.lines.lock().unwrap().push(report.to_string());
    }

    /// Every report since the last [`Self::clear`].
    pub(crate) fn all(&self) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        let fresh = lines.iter().skip(self.forgotten.load(Ordering::Relaxed));
        fresh.filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Forgets what was reported so far.
    pub(crate) fn clear(&self) {
        self.forgotten.store(self.lines.lock().unwrap().len(), Ordering::Relaxed);
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        let call = |c: &Value| Call { tool: c["tool"].as_str().unwrap().to_owned(), arguments: c["arguments"].clone() };
        self.all().iter().filter_map(|r| r.get("call")).map(call).collect()
    }

    pub(crate) fn requests(&self) -> Vec<HttpSeen> {
        self.all().iter().filter_map(|r| r.get("http")).map(http_seen).collect()
    }

    /// Waits until `count` calls of `tool` have been cancelled.
    pub(crate) fn wait_cancelled(&self, tool: &str, count: usize) {
        until(&format!("{count} cancelled calls of {tool}"), || {
            let cancelled = self.all().iter().filter(|r| r["cancelled"]["tool"] == tool).count();
            (cancelled >= count).then_some(())
        });
    }

    /// Waits until the server has seen `count` calls, and gives them all.
    pub(crate) fn wait_calls(&self, count: usize) -> Vec<Call> {
        until(&format!("{count} calls at the server"), || Some(self.calls()).filter(|calls| calls.len() >= count))
    }
}

fn http_seen(report: &Value) -> HttpSeen {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let headers = report["headers"].as_array().unwrap();
    HttpSeen {
        method: text(&report["method"]),
        target: text(&report["target"]),
        headers: headers.iter().map(|h| (text(&h[0]), text(&h[1]))).collect(),
    }
}
