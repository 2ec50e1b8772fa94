//! Any text as a condition, any text as arguments: refused, or an answer, soon; never a panic.
//! Input: the condition, a NUL, the arguments.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::identity::principal::{Groups, Kind, Principal};
use portcullis::policy::condition::Condition;

fuzz_target!(|input: &str| {
    let (text, arguments) = input.split_once('\0').unwrap_or((input, "{}"));
    let Ok(condition) = Condition::compile(text) else { return };
    let principal = Principal {
        authority: "corp".into(),
        issuer: "https://corp".into(),
        tenant: None,
        subject: "alice".into(),
        kind: Kind::User,
        client: None,
        groups: Groups::Known(Box::new(["dev".into()])),
        actor: None,
    };
    // An answer and none are equally good.
    condition.answer(&principal, Some(arguments)).ok();
});
