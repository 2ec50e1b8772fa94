//! A full disk: no call is made that cannot be recorded, and service comes back with the space.

use std::fs;

use serde_json::json;

use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http::{self, Response};
use crate::support::upstream::{Sdk, Upstream};
use crate::support::wait::until;

const RULES: &str =
    "  - name: all\n    effect: Allow\n    principals: [{users: [ana]}]\n    tools: [{patterns: [\"*\"]}]\n";
const MEBIBYTES: usize = 14;
/// What a call is recorded with, at least (bytes); and so many calls no disk of that size holds.
const CALL: usize = 30_000;
const MOST_CALLS: usize = (MEBIBYTES << 20) / CALL;
const AUDIT: &str = "  audit: {level: Arguments, delivery: Durable}\n";

#[test]
fn calls_are_refused_while_the_disk_is_full() {
    let upstream = Upstream::start_with(Sdk::Rmcp, &json!({"json": true, "stateless": true}));
    let spec = format!("{}{AUDIT}", server("echo", upstream.url()));
    let gateway = Gateway::start_on_small_disk(
        &[("trust.yaml", TRUST), ("server.yaml", &spec), ("policy.yaml", &policy("all", "echo", RULES))],
        // Raised to the smallest that a segment may have, 4 MiB: one is written, one is ready.
        &["--audit-segment-bytes=1"],
        MEBIBYTES,
    );
    let token = gateway.token("ana", "echo");
    let filling = vec![1; MEBIBYTES << 20];
    let call = || -> Response {
        let arguments = json!({"message": "x".repeat(CALL)});
        let params = json!({"name": "echo", "arguments": arguments});
        http::post_2026(&gateway.url("echo"), Some(&token), "tools/call", &params)
    };
    let filler = gateway.state().join("filler");
    let answers = (0..MOST_CALLS).map(|_| {
        // Whatever is free is taken, so that what rotation needs is not there.
        drop(fs::write(&filler, &filling));
        call()
    });
    let mut allowed = 0;
    let refused =
        answers.inspect(|answer| allowed += usize::from(answer.status == 200)).find(|answer| answer.status != 200);
    let refused = refused.expect("the disk to be full");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(upstream.seen().calls().len(), allowed, "a call was made without its record");
    let report = until("/readyz to say so", || Some(gateway.readyz()).filter(|(ready, _)| !ready)).1;
    assert!(report.to_string().contains("JournalFull"), "{report}");
    assert_eq!(call().status, 503);
    assert_eq!(upstream.seen().calls().len(), allowed);

    fs::remove_file(&filler).unwrap();
    until("calls to be taken again", || (call().status == 200).then_some(()));
    gateway.wait_ready();
    let verify = gateway.verb(&["audit", "verify"]).output().unwrap();
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
}
