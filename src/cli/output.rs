//! How answers are printed: one contract for people (tables), scripts (JSON) and files (YAML).

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, TableStyle};
use serde::Serialize;

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

/// Text as it may reach a terminal: control and bidirectional formatting characters, which an upstream or a caller may
/// have chosen, are shown escaped.
pub fn printable(text: &str) -> String {
    let hostile = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().flat_map(|c| if hostile(c) { c.escape_unicode().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// Prints `answer` as JSON or YAML, or what `table` draws of it.
pub fn print<T: Serialize>(format: Format, answer: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => table(answer),
        Format::Json => serde_json::to_string_pretty(answer)?,
        Format::Yaml => serde_saphyr::to_string(answer)?,
    };
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
    }
}
