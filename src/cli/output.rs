//! How answers are printed: one contract for people (tables), scripts (JSON) and files (YAML).
//!
//! Invariant: what a stranger wrote cannot steer a terminal, colours appear on a terminal only and never with `NO_COLOR`,
//! and lines in a pipe or a file are whole, whatever the width of some terminal.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, TableStyle, Width};
use serde::Serialize;

use crate::audit::is_harmful;
use crate::cluster::client::in_words;

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For scripts.
    Json,
    /// For files.
    Yaml,
}

/// Colours that carry meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// Granted, healthy.
    Good,
    /// Conditional, unknown, worth a look.
    Caution,
    /// Refused, broken.
    Bad,
    /// Less important.
    Faint,
}

/// A cell's text and its meaning.
pub type Said = (String, Tone);

/// A flowing column is squeezed to no less: narrower, words are cut to pieces.
const NARROWEST: u16 = 17;

/// A table of rows in the house's style: columns and no lines. A column in which every cell is empty is left out. Where
/// the terminal is too narrow, the `flowing` columns break their text over several lines, and all columns if none is.
pub fn filled(head: &[&str], flowing: &[&str], rows: &[Vec<Said>]) -> Table {
    let said = |column: &usize| rows.iter().any(|row| row.get(*column).is_some_and(|(text, _)| !text.is_empty()));
    let kept: Vec<usize> = (0..head.len()).filter(said).collect();
    let titles: Vec<&str> = kept.iter().filter_map(|column| head.get(*column).copied()).collect();
    let mut table = columns(&titles);
    for row in rows {
        table.add_row(kept.iter().filter_map(|column| row.get(*column)).map(|(text, tone)| cell(text, *tone)));
    }
    let natural = table.column_max_content_widths();
    for ((column, title), natural) in table.column_iter_mut().zip(&titles).zip(natural) {
        if flowing.contains(title) {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(
                natural.saturating_add(2).min(NARROWEST),
            )));
        } else if !flowing.is_empty() {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table
}

/// The width of the terminal that the answer goes to; nothing if it goes elsewhere.
pub fn terminal_width() -> Option<u16> {
    Table::new().width()
}

/// [`filled`] for rows whose lines the terminal may break: squeezed to its width, columns would be a few letters wide,
/// and an id could not be copied from them.
pub fn wide(head: &[&str], rows: &[Vec<Said>]) -> Table {
    let mut table = filled(head, &[], rows);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn columns(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Dynamic);
    // The terminal's; in a pipe there is none.
    match table.width() {
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
        }
        Some(width) if !colours(&io::stdout()) => {
            table.force_no_tty().set_width(width);
        }
        Some(_) => {}
    }
    table.set_header(head.iter().map(|title| Cell::new(title.to_uppercase()).add_attribute(Attribute::Bold)));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Whether what goes to `stream` may have colours: on a terminal, unless `NO_COLOR` (https://no-color.org) says no.
fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn cell(text: &str, tone: Tone) -> Cell {
    let cell = Cell::new(printable(text));
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Caution => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Faint => cell.fg(Color::DarkGrey),
    }
}

/// Text as it may reach a terminal: control, formatting and hidden characters, which an upstream or a caller may have
/// chosen, are shown escaped.
pub fn printable(text: &str) -> String {
    let hostile = |c: char| is_harmful(c) && c != '\n';
    text.chars().flat_map(|c| if hostile(c) { c.escape_unicode().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// JSON whose strings hold none of those characters as they are: it reads back the same, and may be looked at.
fn json<T: Serialize>(answer: &T) -> Result<String, serde_json::Error> {
    use std::fmt::Write as _;
    let text = serde_json::to_string_pretty(answer)?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // What is left of them stands in strings, and in the basic plane: four digits. Writing to a string cannot fail.
        match is_harmful(c) && c != '\n' {
            true => write!(out, "\\u{:04x}", u32::from(c)).unwrap_or_default(),
            false => out.push(c),
        }
    }
    Ok(out)
}

/// `answer` as JSON or YAML, or what `table` draws of it.
///
/// # Errors
/// If the answer cannot be written in that form.
pub fn render<T: Serialize>(format: Format, answer: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<String> {
    Ok(match format {
        // The last column's padding is nothing to read.
        Format::Table => table(answer).lines().map(str::trim_end).collect::<Vec<_>>().join("\n"),
        Format::Json => json(answer)?,
        Format::Yaml => {
            let text = serde_saphyr::to_string(answer)?;
            // JSON is YAML too, and has an escape for all of them.
            if text.chars().any(|c| is_harmful(c) && c != '\n') { json(answer)? } else { text }
        }
    })
}

/// Prints what [`render`] makes of `answer`.
///
/// # Errors
/// As [`render`] and [`say`].
pub fn print<T: Serialize>(format: Format, answer: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    Ok(say(&render(format, answer, table)?)?)
}

/// Prints text on lines of its own. A closed pipe (`| head`) is the reader's choice and no failure.
///
/// # Errors
/// If standard output cannot be written for another reason.
pub fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// An error and its causes on one line. A cause that the text before it tells already is not told again; and of what came of
/// asking an API server, which shows whole answers, no more than its words.
pub fn complaint(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let asked = cause.downcast_ref::<kube::Error>();
        let said = asked.map_or_else(|| cause.to_string(), in_words);
        if !text.contains(&said) {
            text += if text.is_empty() { "" } else { ": " };
            text += &said;
        }
        if asked.is_some() {
            break;
        }
    }
    printable(&text)
}

/// `1 tool`, `2 tools`.
pub fn counted(n: usize, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// Awaits `work`; if that takes more than a second and somebody is watching, says so on standard error.
pub async fn progress<T>(what: String, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if !io::stderr().is_terminal() {
        return work.await;
    }
    let started = std::time::Instant::now();
    let mut told = false;
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {
                told = true;
                eprint!("\r{} … {} s", printable(&what), started.elapsed().as_secs());
            }
        }
    };
    if told {
        eprint!("\r\u{1b}[K");
    }
    done
}

/// [`progress`] of what reads files and does not wait for anybody.
///
/// # Errors
/// If no thread can be had for it.
pub fn progress_of<T: Send + 'static>(what: String, work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    super::serving::runtime()?.block_on(async { Ok(progress(what, tokio::task::spawn_blocking(work)).await?) })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn hostile_text_cannot_move_the_cursor_or_turn_the_line() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c"), "a\\u{1b}[2Jb\\u{202e}c");
        assert_eq!(printable("prénom 名前"), "prénom 名前");
        assert_eq!(printable("a\u{9b}31m\u{200b}\u{2028}"), "a\\u{9b}31m\\u{200b}\\u{2028}");
    }

    #[test]
    fn hostile_text_reads_back_from_what_scripts_get_and_cannot_mislead_who_looks_at_it() {
        let answer =
            std::collections::BTreeMap::from([("k\u{202e}", "\u{9b}2J\u{7f}\u{202e}\u{2066}\u{feff} \u{1b} é \n \\")]);
        for format in [Format::Json, Format::Yaml] {
            let text = render(format, &answer, |_| String::new()).unwrap();
            assert_eq!(printable(&text), text, "{format:?}");
            let read: std::collections::BTreeMap<String, String> = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(read["k\u{202e}"], answer["k\u{202e}"], "{format:?}: {text}");
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = Err::<(), _>(anyhow::anyhow!("disk full")).context("cannot write x: disk full").context("no token");
        assert_eq!(complaint(&error.unwrap_err()), "no token: cannot write x: disk full");
    }

    #[test]
    fn of_what_an_api_server_answered_its_words_are_told() {
        let status: kube::core::Status = serde_json::from_value(serde_json::json!({"status": "Failure", "code": 404,
            "reason": "NotFound", "message": "mcpclients.portcullis.dev \"nope\" not found"}))
        .unwrap();
        let error = Err::<(), _>(kube::Error::Api(Box::new(status))).context("cannot read McpClient team/nope");
        let said = complaint(&error.unwrap_err());
        assert_eq!(said, "cannot read McpClient team/nope: mcpclients.portcullis.dev \"nope\" not found (404)");
        // What cannot be read may be a Secret.
        let secret =
            serde_json::from_str::<std::collections::BTreeMap<String, u8>>(r#"{"key": "hunter2"}"#).unwrap_err();
        let error = Err::<(), _>(kube::Error::SerdeError(secret)).context("cannot read Secret team/s");
        assert_eq!(complaint(&error.unwrap_err()), "cannot read Secret team/s: an answer could not be read");
    }

    #[test]
    fn a_column_in_which_nothing_stands_is_left_out_and_lines_are_whole() {
        let row = |a: &str, b: &str| {
            vec![(a.to_owned(), Tone::Good), (b.to_owned(), Tone::Plain), (String::new(), Tone::Bad)]
        };
        let table = filled(&["one", "two", "three"], &["two"], &[row("a", &"x".repeat(300)), row("b", "y")]);
        let text = render(Format::Table, &(), |()| table.to_string()).unwrap();
        assert_eq!(text, format!("ONE  TWO\na    {}\nb    y", "x".repeat(300)));
    }
}
