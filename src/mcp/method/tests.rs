use std::collections::BTreeSet;

use super::*;
use crate::mcp::revision::{Era, SUPPORTED};

/// Taken from the unions of the specification's schemas.
const SCHEMAS: &str = include_str!("schema_methods.txt");

fn schema() -> BTreeSet<(Revision, String, String, String)> {
    let mut revision = None;
    let mut rows = BTreeSet::new();
    for line in SCHEMAS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            [date] => revision = Some(Revision::parse(date).unwrap()),
            [side, form, method] => {
                rows.insert((revision.unwrap(), side.to_owned(), form.to_owned(), method.to_owned()));
            }
            _ => panic!("{line}"),
        }
    }
    rows
}

fn table() -> BTreeSet<(Revision, String, String, String)> {
    let mut rows = BTreeSet::new();
    for revision in SUPPORTED {
        for row in Method::all(revision) {
            let form = match row.form {
                Form::Request => "request",
                Form::Notification => "notification",
                Form::InputRequest => "input",
            };
            for (side, sender) in [("client", Sender::Client), ("server", Sender::Server)] {
                if row.sender.includes(sender) {
                    rows.insert((revision, side.to_owned(), form.to_owned(), row.name.to_owned()));
                }
            }
        }
    }
    rows
}

#[test]
fn duty_28_the_table_holds_every_method_of_every_schema_and_the_tasks_extension() {
    let extension: BTreeSet<_> = [
        ("client", "request", "tasks/get"),
        ("client", "request", "tasks/update"),
        ("client", "request", "tasks/cancel"),
        ("server", "notification", "notifications/tasks"),
    ]
    .map(|(side, form, name)| (Revision::V2026_07_28, side.to_owned(), form.to_owned(), name.to_owned()))
    .into();
    let expected: BTreeSet<_> = schema().union(&extension).cloned().collect();
    let table = table();
    assert_eq!(expected.difference(&table).collect::<Vec<_>>(), Vec::<&_>::new(), "missing in the table");
    assert_eq!(table.difference(&expected).collect::<Vec<_>>(), Vec::<&_>::new(), "not in any schema");
    assert!(expected.len() > 130, "the checked-in lists were cut");
}

#[test]
fn duty_28_a_revision_has_each_method_once() {
    for revision in SUPPORTED {
        let names: Vec<_> = Method::all(revision).map(|row| row.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{revision}");
    }
}

#[test]
fn duty_28_only_the_listed_methods_are_policed() {
    let policed = |revision: Revision, side: Sender| -> BTreeSet<&str> {
        Method::all(revision).filter(|row| row.is_policed_from(side)).map(|row| row.name).collect()
    };
    let old =
        ["initialize", "notifications/initialized", "ping", "tools/list", "tools/call", "notifications/cancelled"];
    for revision in SUPPORTED.into_iter().filter(|revision| revision.era() == Era::Old) {
        assert_eq!(policed(revision, Sender::Client), BTreeSet::from(old));
    }
    assert_eq!(
        policed(Revision::V2026_07_28, Sender::Client),
        BTreeSet::from(["server/discover", "tools/list", "tools/call"])
    );
    for revision in SUPPORTED {
        assert_eq!(
            policed(revision, Sender::Server),
            BTreeSet::from(["notifications/progress", "notifications/tools/list_changed"])
        );
    }
}

#[test]
fn duty_28_what_is_policed_is_sent_by_that_side_at_all() {
    for revision in SUPPORTED {
        for row in Method::all(revision) {
            assert!(row.policed.is_none_or(|policed| row.sender == Sender::Both || row.sender == policed), "{row:?}");
        }
    }
}

#[test]
fn duty_48_only_tools_may_be_declared() {
    for revision in SUPPORTED {
        for name in ["resources", "prompts", "completions", "logging", "tasks"] {
            assert!(!Capability::of_server(name).unwrap().is_policed(revision), "{name}");
        }
        for name in ["roots", "sampling", "elicitation", "tasks"] {
            assert!(!Capability::of_client(name).unwrap().is_policed(revision), "{name}");
        }
        assert!(Capability::of_server("tools").unwrap().is_policed(revision));
    }
    assert_eq!(Capability::of_server("extensions"), None);
    assert_eq!(Capability::of_client("experimental"), None);
}

#[test]
fn duty_52_the_six_cacheable_results() {
    let cacheable: BTreeSet<_> =
        Method::all(Revision::V2026_07_28).filter(|row| row.cacheable).map(|row| row.name).collect();
    let expected = [
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
    ];
    assert_eq!(cacheable, BTreeSet::from(expected));
}

#[test]
fn duty_82_the_two_designs_of_tasks_do_not_mix() {
    let has = |revision, name| Method::find(revision, name).is_some();
    assert!(has(Revision::V2025_11_25, "tasks/result") && !has(Revision::V2026_07_28, "tasks/result"));
    assert!(!has(Revision::V2025_11_25, "tasks/update") && has(Revision::V2026_07_28, "tasks/update"));
    assert!(has(Revision::V2025_11_25, "tasks/list") && !has(Revision::V2026_07_28, "tasks/list"));
    assert!(!has(Revision::V2025_06_18, "tasks/get"));
}
