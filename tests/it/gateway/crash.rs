//! SIGKILL under load: what the server saw is on record, and the record holds.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use portcullis::audit::query::{Filter, query};
use portcullis::audit::verify::{Completeness, Expectation, verify};
use portcullis::journal::Checkpoint;
use serde_json::json;

use super::house::House;
use crate::support::http;
use crate::support::wait::until;

const ROUNDS: u64 = 20;
/// The record is verified each so many rounds, and after the last one.
const VERIFIED: u64 = 5;
const _: () = assert!(ROUNDS.is_multiple_of(VERIFIED), "the last round is verified");
const CALLERS: usize = 4;

#[test]
fn every_call_that_the_server_saw_has_a_decision_after_sigkill() {
    let mut house = House::build();
    let number = Arc::new(AtomicU64::new(0));
    for round in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..CALLERS).map(|_| caller(&house, &number, &stop)).collect();
        let enough = number.load(Ordering::SeqCst) + 10 + round;
        until("some calls", || (number.load(Ordering::SeqCst) > enough).then_some(()));
        house.gateway.kill();
        stop.store(true, Ordering::SeqCst);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        house.gateway.restart();
        // What a round has broken stays broken, and the record of all rounds is read each time.
        if (round + 1) % VERIFIED != 0 {
            continue;
        }
        let report = verify(&house.gateway.journal(), &Expectation::default()).unwrap();
        assert!(report.holds(), "round {round}: {:?}", report.findings);
        assert_eq!(report.completeness, Completeness::NotProven);
    }
    let answer =
        query(&house.gateway.journal(), &Filter { target: Some("wait".to_owned()), ..Filter::default() }, 1_000_000)
            .unwrap();
    assert!(answer.unreadable.is_empty() && !answer.truncated);
    let ids = |call: &portcullis::audit::query::Call| {
        let record: serde_json::Value = serde_json::from_str(&call.entry.json).unwrap();
        record["jsonrpc.request.id"].as_str().unwrap().to_owned()
    };
    let decided: HashSet<String> = answer.calls.iter().map(ids).collect();
    let seen = house.upstream.seen().calls();
    assert!(seen.len() as u64 > ROUNDS, "{}", seen.len());
    for call in &seen {
        let id = call.arguments["number"].to_string();
        assert!(decided.contains(&id), "call {id} ran without a record");
    }
    let outcomes: HashSet<_> =
        answer.calls.iter().filter_map(|call| call.completion.as_ref()?.fields.outcome.clone()).collect();
    assert!(outcomes.contains("unknown") && outcomes.contains("result"), "{outcomes:?}");
    tamper(&house);
}

fn caller(house: &House, number: &Arc<AtomicU64>, stop: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let (url, token, number, stop) = (house.url(), house.ana.clone(), number.clone(), stop.clone());
    thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            let id = number.fetch_add(1, Ordering::SeqCst);
            // Whatever becomes of it: the gateway may die under it.
            call(&url, &token, id).ok();
        }
    })
}

fn call(url: &str, token: &str, id: u64) -> std::io::Result<()> {
    let params = json!({"name": "wait", "arguments": {"ms": 1, "number": id}, "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}}});
    let body = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).to_string();
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "wait")];
    let mut stream = TcpStream::connect(http::split(url).0)?;
    stream.write_all(&http::mcp_request(url, Some(token), &headers, body.as_bytes()))?;
    stream.read(&mut [0; 1024]).map(drop)
}

/// What is done to a copy of the journal is named.
fn tamper(house: &House) {
    let anchor = until("a checkpoint", || std::fs::read(house.gateway.journal().join("anchor.json")).ok());
    let anchor = Checkpoint::parse(&anchor).unwrap();
    let anchored = Expectation { anchor: Some(anchor.clone()), ..Expectation::default() };
    let report = verify(&house.gateway.journal(), &anchored).unwrap();
    assert!(report.holds() && report.completeness == Completeness::UpToAnchor { seq: anchor.seq }, "{report:?}");

    let segments = || {
        let mut files: Vec<_> =
            std::fs::read_dir(house.gateway.journal()).unwrap().map(|file| file.unwrap().path()).collect();
        files.retain(|path| path.is_file() && path.metadata().unwrap().len() > 4096);
        files.sort();
        files
    };
    let copy = |change: &dyn Fn(&std::path::Path, &[std::path::PathBuf])| {
        let folder = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(house.gateway.journal()).unwrap().map(|file| file.unwrap().path()) {
            if file.is_file() {
                std::fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
            }
        }
        let files: Vec<_> = segments().iter().map(|file| folder.path().join(file.file_name().unwrap())).collect();
        change(folder.path(), &files);
        verify(folder.path(), &anchored).unwrap()
    };
    assert!(copy(&|_, _| {}).holds());
    let flipped = copy(&|_, files| {
        let mut bytes = std::fs::read(&files[1]).unwrap();
        bytes[2000] ^= 1;
        std::fs::write(&files[1], bytes).unwrap();
    });
    assert!(!flipped.holds());
    let swapped = copy(&|folder, files| {
        std::fs::rename(&files[1], folder.join("x")).unwrap();
        std::fs::rename(&files[2], &files[1]).unwrap();
        std::fs::rename(folder.join("x"), &files[2]).unwrap();
    });
    assert!(!swapped.holds());
    let deleted = copy(&|_, files| std::fs::remove_file(&files[2]).unwrap());
    assert!(!deleted.holds());
    let replayed = copy(&|_, files| assert!(std::fs::copy(&files[1], &files[3]).unwrap() > 0));
    assert!(!replayed.holds());
    let cut = copy(&|_, files| files.iter().rev().take(3).for_each(|file| std::fs::remove_file(file).unwrap()));
    assert!(
        cut.findings.iter().any(|finding| ["TailCut", "RecordsLost", "SegmentsMissing"].contains(&finding.reason())),
        "{cut:?}"
    );
}
