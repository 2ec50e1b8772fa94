//! How answers are printed: one contract for people (tables), scripts (JSON) and files (YAML).

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, TableStyle};
use serde::Serialize;

use crate::audit::is_harmful;

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

/// Colours that carry meaning; they appear on a terminal only.
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

/// A table in the house's style: columns and no lines.
pub fn table<const N: usize>(head: [&str; N]) -> Table {
    columns(&head)
}

/// [`table`] of rows; a column in which every cell is empty is left out.
pub fn filled(head: &[&str], rows: &[Vec<(String, Tone)>]) -> Table {
    let said = |column: &usize| rows.iter().any(|row| row.get(*column).is_some_and(|(text, _)| !text.is_empty()));
    let kept: Vec<usize> = (0..head.len()).filter(said).collect();
    let mut table = columns(&kept.iter().filter_map(|column| head.get(*column).copied()).collect::<Vec<_>>());
    for row in rows {
        table.add_row(kept.iter().filter_map(|column| row.get(*column)).map(|(text, tone)| cell(text, *tone)));
    }
    table
}

fn columns(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Dynamic);
    if !io::stdout().is_terminal() {
        // A script or a file must get whole lines, whatever the width of some terminal.
        table.set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    }
    table.set_header(head.iter().map(|title| Cell::new(title.to_uppercase()).add_attribute(Attribute::Bold)));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// A table of many columns, whose lines the terminal may break: squeezed to its width, columns would be a few letters
/// wide, and an id could not be copied from them.
pub fn wide_table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = table(head);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// A cell with a meaning.
pub fn cell(text: impl ToString, tone: Tone) -> Cell {
    let cell = Cell::new(printable(&text.to_string()));
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

fn rendered<T: Serialize>(format: Format, answer: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<String> {
    Ok(match format {
        Format::Table => table(answer),
        Format::Json => json(answer)?,
        Format::Yaml => {
            let text = serde_saphyr::to_string(answer)?;
            // JSON is YAML too, and has an escape for all of them.
            if text.chars().any(|c| is_harmful(c) && c != '\n') { json(answer)? } else { text }
        }
    })
}

/// Prints `answer` as JSON or YAML, or what `table` draws of it.
pub fn print<T: Serialize>(format: Format, answer: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    let text = rendered(format, answer, table)?;
    let mut out = io::stdout().lock();
    // A closed pipe (`| head`) is the reader's choice and no failure.
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
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

#[cfg(test)]
mod tests {
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
            let text = rendered(format, &answer, |_| String::new()).unwrap();
            assert_eq!(printable(&text), text, "{format:?}");
            let read: std::collections::BTreeMap<String, String> = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(read["k\u{202e}"], answer["k\u{202e}"], "{format:?}: {text}");
        }
    }
}
