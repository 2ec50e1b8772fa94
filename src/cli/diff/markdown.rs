//! A comparison as a comment on a pull request (GitHub Flavored Markdown).
//!
//! Invariant: nothing that a manifest holds is read as Markdown or HTML, mentions anybody, or ends a cell; and the page fits
//! into a comment.

use super::{CUT, Direction, Group, Report, groups, said};
use crate::cli::output::printable;

/// How many bytes the tables of gains, and those of losses, may have. A comment on GitHub holds 65536 characters.
const GAINS: usize = 40_000;
const LOSSES: usize = 12_000;

/// How many refused objects, and how many notes, are told.
const LINES: usize = 20;

const HEAD: &str = "| Risk | Server | Target | Who | Before | Now | Rules | Condition | Notes |\n\
                    |---|---|---|---|---|---|---|---|---|\n";

/// The whole comment.
pub(super) fn page(report: &Report) -> String {
    let mut page = format!("### Access: {}\n\n", report.headline());
    let lines = |page: &mut String, title: &str, lines: Vec<String>| {
        if lines.is_empty() {
            return;
        }
        *page += &format!("**{title}**\n\n");
        lines.iter().take(LINES).for_each(|line| *page += &format!("- {line}\n"));
        if lines.len() > LINES {
            *page += &format!("- and {} more\n", lines.len() - LINES);
        }
        page.push('\n');
    };
    let refused = report.refused.iter().map(|refused| {
        let place = if refused.field.is_empty() { String::new() } else { format!(" in {}", code(&refused.field)) };
        format!("{}: {}{place}: {}", code(&refused.object), code(refused.reason), code(&refused.message))
    });
    lines(&mut page, "Refused, so that nobody can say what they would change", refused.collect());
    let all = groups(&report.diff.changes);
    let (lost, gained): (Vec<&Group<'_>>, Vec<&Group<'_>>) =
        all.iter().partition(|group| group.first.direction == Direction::Lost);
    if !gained.is_empty() {
        page += &format!("{HEAD}{}\n", rows(&gained, GAINS));
    }
    if !lost.is_empty() {
        let table = rows(&lost, LOSSES);
        page += &format!("<details><summary>{} lost</summary>\n\n{HEAD}{table}\n</details>\n\n", report.lost);
    }
    lines(&mut page, "Besides", report.diff.notes.iter().map(|note| code(&said(note))).collect());
    if !report.diff.whole {
        page += &format!("**{CUT}**\n");
    }
    page
}

fn rows(groups: &[&Group<'_>], most: usize) -> String {
    let mut table = String::new();
    for (told, group) in groups.iter().enumerate() {
        let row = row(group);
        if table.len() + row.len() > most {
            let more = groups.len() - told;
            table += &format!("\nand {more} more: see `portcullis diff`\n");
            break;
        }
        table += &row;
    }
    table
}

fn row(group: &Group<'_>) -> String {
    let change = group.first;
    let each = |texts: &[String]| texts.iter().map(|text| code(text)).collect::<Vec<_>>().join("<br>");
    let risk = if group.risk.first() == Some(&Some("Destructive")) { "**Destructive**" } else { "" };
    let risk = if risk.is_empty() || group.risk.len() > 1 { group.risk() } else { risk.to_owned() };
    format!(
        "| {risk} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        code(&change.server),
        each(&group.targets),
        code(&group.who()),
        change.before.as_str(),
        change.after.as_str(),
        each(&group.rules()),
        each(&group.conditions()),
        each(&group.notes()),
    )
}

/// Text that is shown as it is. In a code span nothing has a meaning but what ends it, or the cell; where the text has that,
/// every character that is no letter or digit becomes a character reference (GFM 6.2), which is never markup.
fn code(text: &str) -> String {
    let text = printable(text).replace('\n', " ");
    if text.is_empty() {
        return text;
    }
    if !text.contains(['`', '|', '\\']) {
        return format!("`{text}`");
    }
    let harmless = |c: char| c.is_ascii_alphanumeric() || c == ' ';
    let referred: String =
        text.chars().map(|c| if harmless(c) { c.to_string() } else { format!("&#{};", u32::from(c)) }).collect();
    format!("<code>{referred}</code>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_manifest_is_markdown() {
        assert_eq!(code("group:dev@corp"), "`group:dev@corp`");
        assert_eq!(code("<img src=x> **@everyone** [a](b)"), "`<img src=x> **@everyone** [a](b)`");
        assert_eq!(code("a`b @x"), "<code>a&#96;b &#64;x</code>");
        assert_eq!(code("a|b\\"), "<code>a&#124;b&#92;</code>");
        let steered = code("a\n| `b`\r\u{202e}</code><b>");
        assert!(
            steered.starts_with("<code>a &#124; ") && steered.ends_with("&#60;&#47;code&#62;&#60;b&#62;</code>"),
            "{steered}"
        );
        assert!(!steered.contains(['|', '`', '\n', '\r', '\u{202e}']), "{steered}");
        assert_eq!(code(""), "");
    }
}
