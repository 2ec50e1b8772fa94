//! `kill -9` under load loses no decision, and what is done to a journal afterwards is named.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;

use portcullis::audit::DECISION;
use portcullis::audit::query::{Filter, query};
use portcullis::audit::verify::{Completeness, Expectation, Report, verify};
use portcullis::journal::{Checkpoint, SegmentReader, Step, list};
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http::mcp_request;
use crate::support::upstream::{Sdk, Upstream};
use crate::support::wait::until;

const ROUNDS: usize = 20;
const RULES: &str =
    "  - name: all\n    effect: Allow\n    principals: [{users: [ana]}]\n    tools: [{patterns: [\"*\"]}]\n";
const AUDIT: &str = "  audit: {level: Arguments, delivery: Durable}\n";

fn tool_call(url: &str, token: &str, tool: &str, arguments: &Value) -> Vec<u8> {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "load", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({"name": tool, "arguments": arguments, "_meta": meta});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", tool)];
    mcp_request(url, Some(token), &headers, body.as_bytes())
}

/// Sends and reads one answer; nothing once the gateway is gone.
fn exchange(stream: &mut TcpStream, request: &[u8]) -> Option<()> {
    stream.write_all(request).ok()?;
    let mut answer = Vec::new();
    let mut piece = [0; 8192];
    loop {
        let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
        answer.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        let Some(head) = text.find("\r\n\r\n") else { continue };
        let length = text[..head].lines().find_map(|line| line.strip_prefix("content-length: "));
        match length.map(|length| length.parse::<usize>().unwrap()) {
            Some(length) if answer.len() >= head + 4 + length => return Some(()),
            None if text.ends_with("0\r\n\r\n") => return Some(()),
            _ => {}
        }
    }
}

fn load(address: SocketAddr, url: String, token: String, round: usize, worker: usize) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    // One call of each round is open when the end comes.
    let (tool, ms) = if worker == 0 { ("wait", 600_000) } else { ("echo", 0) };
    for number in 0.. {
        let arguments = json!({"message": format!("<{round}/{worker}/{number}>"), "ms": ms});
        if exchange(&mut stream, &tool_call(&url, &token, tool, &arguments)).is_none() {
            return;
        }
    }
}

fn message(arguments: &Value) -> String {
    arguments["message"].as_str().unwrap_or_default().to_owned()
}

/// The messages of all recorded decisions, and of those calls whose outcome is unknown.
fn recorded(journal: &Path) -> (HashSet<String>, HashSet<String>) {
    let filter = Filter { event: Some(DECISION.to_owned()), ..Filter::default() };
    let answer = query(journal, &filter, 1_000_000).unwrap();
    assert!(answer.unreadable.is_empty(), "{:?}", answer.unreadable);
    let (mut decided, mut unknown) = (HashSet::new(), HashSet::new());
    for call in answer.calls {
        let record: Value = serde_json::from_str(&call.entry.json).unwrap();
        let message = message(&record["gen_ai.tool.call.arguments"]);
        if call.completion.is_some_and(|end| end.fields.outcome.as_deref() == Some("unknown")) {
            unknown.insert(message.clone());
        }
        decided.insert(message);
    }
    (decided, unknown)
}

#[test]
fn no_call_is_made_without_its_record() {
    let upstream = Upstream::start_with(Sdk::Rmcp, &json!({"json": true, "stateless": true}));
    let spec = format!("{}{AUDIT}", server("echo", upstream.url()));
    let mut gateway = Gateway::start_with(
        &[("trust.yaml", TRUST), ("server.yaml", &spec), ("policy.yaml", &policy("all", "echo", RULES))],
        &["--audit-segment-bytes=1"],
    );
    let token = gateway.token("ana", "echo");
    for round in 0..ROUNDS {
        upstream.seen().clear();
        let (address, url) = (gateway.address(), gateway.url("echo"));
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (url, token) = (url.clone(), token.clone());
                thread::spawn(move || load(address, url, token, round, worker))
            })
            .collect();
        let open = format!("<{round}/0/0>");
        until("calls under way", || {
            let calls = upstream.seen().calls();
            (calls.len() > 10 + 7 * round && calls.iter().any(|call| message(&call.arguments) == open)).then_some(())
        });
        gateway.kill();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        gateway.restart();
        let (decided, unknown) = recorded(&gateway.journal());
        for call in upstream.seen().calls() {
            assert!(decided.contains(&message(&call.arguments)), "round {round}: {call:?} has no decision record");
        }
        assert!(unknown.contains(&open), "round {round}: the open call has no unknown outcome");
        let report = verify(&gateway.journal(), &Expectation::default()).unwrap();
        assert!(report.holds(), "round {round}: {:?}", report.findings);
        assert_eq!(report.decisions_without_completion, 0, "round {round}");
    }
    gateway.process().signal("TERM");
    gateway.process_mut().wait_exit();
    tampering_is_named(&gateway.journal());
    let verify = gateway.verb(&["audit", "verify"]).output().unwrap();
    let text = String::from_utf8_lossy(&verify.stdout);
    assert!(text.contains("not proven"), "{text}");
}

fn copy(journal: &Path) -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    for file in list(journal).unwrap() {
        fs::copy(&file.path, folder.path().join(file.path.file_name().unwrap())).unwrap();
    }
    let files = list(folder.path()).unwrap().into_iter().map(|file| file.path).collect();
    (folder, files)
}

/// What is found after `change`, with the anchor that was kept elsewhere, and without.
fn after(journal: &Path, anchor: &Checkpoint, change: impl Fn(&Path, &[PathBuf])) -> (Report, Report) {
    let (folder, files) = copy(journal);
    change(folder.path(), &files);
    let anchored = Expectation { anchor: Some(anchor.clone()), public_key: None };
    (verify(folder.path(), &anchored).unwrap(), verify(folder.path(), &Expectation::default()).unwrap())
}

fn names(report: &Report, reason: &str) -> bool {
    report.findings.iter().any(|finding| finding.reason() == reason)
}

fn tampering_is_named(journal: &Path) {
    let anchor = Checkpoint::parse(&fs::read(journal.join("anchor.json")).unwrap()).unwrap();
    let (anchored, alone) = after(journal, &anchor, |_, _| {});
    assert!(anchored.holds() && alone.holds(), "{anchored:?}\n{alone:?}");
    assert_eq!(anchored.completeness, Completeness::UpToAnchor { seq: anchor.seq });
    assert_eq!(alone.completeness.to_string(), "completeness not proven");

    let swap = |_: &Path, files: &[PathBuf]| {
        let (one, other) = (fs::read(&files[3]).unwrap(), fs::read(&files[4]).unwrap());
        fs::write(&files[3], other).unwrap();
        fs::write(&files[4], one).unwrap();
    };
    let flip = |_: &Path, files: &[PathBuf]| {
        let mut bytes = fs::read(&files[5]).unwrap();
        bytes[200] ^= 1;
        fs::write(&files[5], bytes).unwrap();
    };
    let delete = |_: &Path, files: &[PathBuf]| fs::remove_file(&files[6]).unwrap();
    let replay = |_: &Path, files: &[PathBuf]| drop(fs::copy(&files[2], &files[7]).unwrap());
    let changes: [(&str, &dyn Fn(&Path, &[PathBuf])); 4] = [
        ("SegmentMisplaced", &swap),
        ("RecordDamaged", &flip),
        ("SegmentsMissing", &delete),
        ("SegmentMisplaced", &replay),
    ];
    for (reason, change) in changes {
        let (anchored, alone) = after(journal, &anchor, change);
        assert!(names(&anchored, reason), "{reason}: {:?}", anchored.findings);
        assert!(names(&alone, reason), "{reason}: {:?}", alone.findings);
    }
    let (anchored, alone) = after(journal, &anchor, |_, files| cut(files.last().unwrap()));
    assert!(names(&anchored, "TailCut"), "{:?}", anchored.findings);
    assert!(alone.holds(), "a cut between two records looks whole: {:?}", alone.findings);
    assert_eq!(alone.completeness, Completeness::NotProven);
}

/// Leaves one record of a segment.
fn cut(segment: &Path) {
    let mut reader = SegmentReader::open(segment).unwrap();
    assert!(matches!(reader.step().unwrap(), Step::Record(_)));
    File::options().write(true).open(segment).unwrap().set_len(reader.offset()).unwrap();
}
