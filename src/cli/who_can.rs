//! `portcullis who-can`: every principal and every tool of a server, with the rules that decide, as an auditor reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use super::explain::least_risk;
use super::output::{self, Format, Said, Tone, filled};
use super::source::Source;
use super::{boolish, load};
use crate::access::Answer;
use crate::access::except::Except;
use crate::access::targets::{Tool, refusing_lock};
use crate::access::who_can::{Dormant, Row, Table, Window, anybody_can, who_can};
use crate::fleet::Fleet;
use crate::policy::request::Facts;

/// Who can call what on a server, and by which rules
///
/// Lists every principal and every tool that the manifests name. Exit code 0: somebody can; 1: nobody can; 2: the
/// arguments or the files are unusable.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[arg(long, value_name = "NAMESPACE/NAME", env = "PORTCULLIS_SERVER")]
    pub server: String,
    /// Only this tool, by its exact name
    #[arg(long, value_name = "TOOL", allow_hyphen_values = true, env = "PORTCULLIS_TOOL")]
    pub tool: Option<String>,
    /// Where the answer comes from.
    #[command(flatten)]
    pub source: Source,
    /// Leave out those who can do nothing
    #[arg(long, env = "PORTCULLIS_ONLY_ALLOWED", value_parser = boolish())]
    pub only_allowed: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    pub output: Format,
}

/// The columns; the first three say who.
const HEAD: [&str; 9] = ["principal", "via", "actor", "target", "risk", "answer", "rules", "condition", "notes"];

/// Answers from manifests or cluster.
pub fn answer(args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = args.source.about(&args.server)?;
    let inventory = loaded.inventories.get(&args.server).map(Vec::as_slice);
    let (text, code) = run(args, &loaded.fleet, inventory, jiff::Timestamp::now().as_second())?;
    output::say(&text)?;
    Ok(code)
}

/// The table of one server, ready to be printed. `inventory`: the tools that the server is known to have; `now` in Unix
/// seconds.
///
/// # Errors
/// If the server is not there.
pub fn run(args: &Args, fleet: &Fleet, inventory: Option<&[Tool]>, now: i64) -> anyhow::Result<(String, ExitCode)> {
    let served = load::server(fleet, &args.server)?;
    let one: Option<Vec<Tool>> = args.tool.as_ref().map(|name| {
        let known = inventory.into_iter().flatten().find(|tool| tool.name == *name);
        // The guardrails' class is known only where the own one is: then no other is possible.
        let least = Some(least_risk(served.server, name)).filter(|risk| risk.guardrail.is_some());
        vec![known.cloned().unwrap_or_else(|| Tool { name: name.clone(), risk: least })]
    });
    let mut answers = who_can(served, one.as_deref().or(inventory), &Facts { now });
    if args.tool.is_some() {
        answers.rows.retain(|row| row.kind == "Tool");
    }
    let somebody = anybody_can(&answers);
    if args.only_allowed {
        answers.rows.retain(|row| row.answer != Answer::Deny);
    }
    let tools_are_known = inventory.is_some() || args.tool.is_some() || refusing_lock(served.server).is_some();
    let text =
        output::render(args.output, &answers, |answers| for_people(answers, tools_are_known, args.only_allowed))?;
    Ok((text, ExitCode::from(if somebody { 0 } else { 1 })))
}

fn for_people(answers: &Table, tools_are_known: bool, only_allowed: bool) -> String {
    let server = &answers.server;
    // Of a whole table, other lines say what is an exception.
    let except = |row: &Row| if only_allowed { row.except.clone() } else { Except::default() };
    let rows: Vec<Row> = answers.rows.iter().map(|row| Row { except: except(row), ..row.clone() }).collect();
    let mut parts = match &answers.refused {
        Some(why) => vec![format!("{server} refuses every call: {why}")],
        None if answers.rows.is_empty() => vec!["nobody can do anything".to_owned()],
        None => vec![introduction(answers, tools_are_known || only_allowed), table(&rows, output::terminal_width())],
    };
    parts.extend(answers.dormant.iter().map(describe));
    parts.extend(answers.strangers.iter().map(|authority| {
        format!("Tokens of {authority} are not accepted by {server}: rules about its principals are left out")
    }));
    parts.extend(answers.doubts.iter().map(|doubt| output::printable(doubt)));
    parts.join("\n")
}

/// What the table is, for somebody who did not ask for it.
fn introduction(answers: &Table, tools_are_known: bool) -> String {
    let mut text = format!("Who may call what at {}, and by which rules. All else is denied.", answers.server);
    if !tools_are_known {
        text.push_str(
            "\nThe manifests do not say which tools the server has: a pattern stands for every tool that it matches and \
             that no other line of the same principal names.",
        );
    }
    if lines(&answers.rows).keys().any(|line| !line.risk.is_empty()) {
        text.push_str("\nA line without a risk class holds for tools of every class.");
    }
    text + "\n"
}

/// One line: what is answered alike of one principal. Compared in the order in which lines are printed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    principal: String,
    via: Option<String>,
    actor: Option<String>,
    answer: Answer,
    /// The classes that the answer is about; none: every class.
    risk: Vec<Option<&'static str>>,
    rules: Vec<String>,
    conditions: Vec<String>,
    notes: String,
}

/// The lines as one table; where the terminal is too narrow for that, as one for each principal.
fn table(rows: &[Row], width: Option<u16>) -> String {
    let every: BTreeSet<String> = rows.iter().map(target).collect();
    let cells: Vec<Vec<Said>> =
        lines(rows).iter().map(|(line, targets)| cells(line, &in_short(targets, &every))).collect();
    let all = filled(&HEAD, &[], &cells);
    let natural: u16 = all.column_max_content_widths().iter().map(|column| column.saturating_add(2)).sum();
    if width.is_none_or(|width| natural <= width) {
        return all.to_string();
    }
    let mut parts = Vec::new();
    for group in cells.chunk_by(|one, next| one[..3] == next[..3]) {
        let who = group.first().into_iter().flat_map(|row| &row[..3]).zip(["", "via ", "actor "]);
        let who = who.filter(|((text, _), _)| !text.is_empty()).map(|((text, _), word)| format!("{word}{text}"));
        let rows: Vec<Vec<Said>> = group.iter().map(|row| row[3..].to_vec()).collect();
        let table = filled(&HEAD[3..], &["rules", "condition", "notes"], &rows).to_string();
        let table = table.lines().map(|line| format!("  {}\n", line.trim_end())).collect::<String>();
        parts.push(format!("{}\n{table}", output::printable(&who.collect::<Vec<_>>().join(", "))));
    }
    parts.join("\n")
}

/// Risk classes that are answered alike together, then targets that are.
fn lines(rows: &[Row]) -> BTreeMap<Line, BTreeSet<String>> {
    let mut by_risk: BTreeMap<(String, Line), Vec<Option<&'static str>>> = BTreeMap::new();
    let mut classes: BTreeMap<String, BTreeSet<Option<&'static str>>> = BTreeMap::new();
    for row in rows {
        by_risk.entry((target(row), line(row))).or_default().push(row.risk);
        classes.entry(target(row)).or_default().insert(row.risk);
    }
    let mut lines: BTreeMap<Line, BTreeSet<String>> = BTreeMap::new();
    for ((target, line), risk) in by_risk {
        let all = classes.get(&target).is_some_and(|classes| classes.len() == risk.len());
        let line = Line { risk: if all { Vec::new() } else { risk }, ..line };
        lines.entry(line).or_default().insert(target);
    }
    lines
}

fn line(row: &Row) -> Line {
    // Where no rule allows anything, those that would refuse besides are no news.
    let (rules, conditions) = if row.listed {
        (row.rules.clone(), row.conditions.clone())
    } else {
        (vec!["no rule allows it".to_owned()], Vec::new())
    };
    Line {
        principal: row.principal.clone(),
        via: row.via.clone(),
        actor: row.actor.clone(),
        answer: row.answer,
        risk: Vec::new(),
        rules,
        conditions,
        notes: notes(row),
    }
}

fn target(row: &Row) -> String {
    with_exceptions(row.kind, &row.target, &row.except)
}

/// Exceptions of a pattern that are told by name.
const MOST_EXCEPTIONS: usize = 32;

/// A target in words, with what of a pattern the answer does not hold for.
pub(super) fn with_exceptions(kind: &str, target: &str, except: &Except) -> String {
    let target = except.of(target, MOST_EXCEPTIONS, true);
    if kind == "Tool" { target } else { format!("{kind} {target}") }
}

/// The targets of a line in words: `*` alone, or among others, means what is left.
fn in_short(targets: &BTreeSet<String>, every: &BTreeSet<String>) -> String {
    if targets.contains("*") && targets.len() == every.len() {
        return "every tool".to_owned();
    }
    let named = targets.iter().filter(|target| *target != "*").map(String::as_str);
    named.chain(targets.contains("*").then_some("every other tool")).collect::<Vec<_>>().join("\n")
}

fn cells(line: &Line, targets: &str) -> Vec<(String, Tone)> {
    let tone = match line.answer {
        Answer::Allow => Tone::Good,
        Answer::Deny => Tone::Bad,
        _ => Tone::Caution,
    };
    let risk = line.risk.iter().map(|class| class.unwrap_or("unclassified")).collect::<Vec<_>>();
    vec![
        (line.principal.clone(), Tone::Plain),
        (line.via.clone().unwrap_or_default(), Tone::Plain),
        (line.actor.clone().unwrap_or_default(), Tone::Plain),
        (targets.to_owned(), Tone::Plain),
        (risk.join("\n"), Tone::Plain),
        (line.answer.as_str().to_owned(), tone),
        (line.rules.join("\n"), Tone::Plain),
        (line.conditions.join("\n"), Tone::Plain),
        (line.notes.clone(), Tone::Faint),
    ]
}

pub(super) fn notes(row: &Row) -> String {
    let mut notes: Vec<String> = row.windows.iter().map(in_words).collect();
    if !row.unless.is_empty() {
        notes.push(format!("unless also in a group of {}", row.unless.join(", ")));
    }
    notes.extend(row.shadow.map(|shadow| format!("with Shadow enforced: {}", shadow.as_str())));
    notes.join("\n")
}

fn describe(dormant: &Dormant) -> String {
    format!("{} ({}) does not hold now: {}", dormant.rule, dormant.effect.as_str(), in_words(&dormant.window))
}

pub(super) fn in_words(window: &Window) -> String {
    let from = window.not_before.map(|at| format!("from {}", instant(at)));
    let until = window.not_after.map(|at| format!("until {}", instant(at)));
    from.into_iter().chain(until).collect::<Vec<_>>().join(" ")
}

pub(super) fn instant(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| format!("second {seconds}"), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::tests::example;

    fn args(text: &[&str]) -> Args {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        <Line as clap::Parser>::parse_from([&["who-can"], text].concat()).args
    }

    fn printed(text: &[&str], inventory: Option<&[Tool]>) -> (String, ExitCode) {
        run(&args(text), &example(), inventory, 0).unwrap()
    }

    #[test]
    fn the_table_is_for_people() {
        let (text, code) = printed(&["--server", "team/a", "--only-allowed"], None);
        assert_eq!(code, ExitCode::from(0));
        for word in ["PRINCIPAL", "user:alice@corp", "create_issue", "under a condition", "until 1970-01-01T00:16:40Z"]
        {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
        assert!(!text.contains("group:interns@corp"), "{text}");
        assert!(text.contains("team/policy/freeze (Deny) does not hold now: from 1970-01-01T00:08:20Z"), "{text}");
    }

    #[test]
    fn what_is_answered_alike_is_one_line() {
        let row = |target: &str, risk, answer, rule: Option<&str>| Row {
            principal: "user:ana@corp".into(),
            via: None,
            actor: None,
            kind: "Tool",
            target: target.into(),
            except: Except::default(),
            risk,
            answer,
            listed: answer != Answer::Deny,
            rules: rule.map(str::to_owned).into_iter().collect(),
            conditions: vec![],
            windows: vec![],
            unless: vec![],
            shadow: None,
        };
        let mut rows = Vec::new();
        for target in ["*", "get_*", "list_*"] {
            let denied = target == "*";
            for risk in [None, Some("Destructive"), Some("ReadOnly"), Some("Write")] {
                let allows = !denied && matches!(risk, Some("ReadOnly" | "Write"));
                let (answer, rule) = if allows { (Answer::Allow, "reads") } else { (Answer::Deny, "guardrail") };
                rows.push(row(target, risk, answer, Some(rule)));
            }
        }
        let printed: Vec<Vec<String>> = lines(&rows)
            .iter()
            .map(|(line, targets)| {
                let every = rows.iter().map(target).collect();
                let cells = cells(line, &in_short(targets, &every));
                cells.into_iter().map(|(text, _)| text).filter(|text| !text.is_empty()).collect()
            })
            .collect();
        assert_eq!(
            printed,
            [
                vec!["user:ana@corp", "get_*\nlist_*", "ReadOnly\nWrite", "Allow", "reads"],
                vec!["user:ana@corp", "every other tool", "Deny", "no rule allows it"],
                vec!["user:ana@corp", "get_*\nlist_*", "unclassified\nDestructive", "Deny", "no rule allows it"],
            ]
        );
    }

    #[test]
    fn a_narrow_terminal_gets_a_table_for_each_principal() {
        let fleet = example();
        let rows = who_can(load::server(&fleet, "team/a").unwrap(), None, &Facts { now: 0 }).rows;
        let (wide, narrow) = (table(&rows, None), table(&rows, Some(60)));
        assert_eq!((wide.matches("TARGET").count(), wide), (1, table(&rows, Some(1000))));
        assert!(narrow.starts_with(&format!("{}\n  TARGET", rows[0].principal)), "{narrow}");
        let principals: std::collections::BTreeSet<_> =
            rows.iter().map(|row| (&row.principal, &row.via, &row.actor)).collect();
        assert_eq!(narrow.matches("TARGET").count(), principals.len(), "{narrow}");
    }

    #[test]
    fn one_tool_is_asked_for_by_name() {
        let (text, code) = printed(&["--server", "team/a", "--tool", "get_x", "-o", "json"], None);
        let table: serde_json::Value = serde_json::from_str(&text).unwrap();
        let rows = table["rows"].as_array().unwrap();
        assert!(rows.iter().all(|row| row["target"] == "get_x"), "{text}");
        let dev = rows.iter().find(|row| row["principal"] == "group:dev@corp").unwrap();
        assert_eq!((&dev["answer"], &dev["rules"][0]), (&"Allow".into(), &"team/policy/read".into()));
        assert_eq!(code, ExitCode::from(0));
        let (_, code) = printed(&["--server", "team/a", "--tool", "nobody_may", "-o", "yaml"], None);
        assert_eq!(code, ExitCode::from(1));
    }

    #[test]
    fn a_server_that_is_not_there_is_a_usage_error() {
        for name in ["team/b", "a"] {
            assert!(run(&args(&["--server", name]), &example(), None, 0).is_err());
        }
    }
}
