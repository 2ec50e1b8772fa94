//! The documentation is held to the code: what it names exists, and what is generated is current.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use portcullis::mcp::method::{Form, Method, Sender};
use portcullis::mcp::revision::SUPPORTED;
use portcullis::resolve::Reason;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&entry).unwrap();
            found.push((entry, text));
        }
    }
}

/// Every source file of the crate and of this binary.
fn all_sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    sources(&root().join("src"), &mut found);
    sources(&root().join("tests/it"), &mut found);
    found
}

/// The names of the functions in a file that are tests.
fn tests(text: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    text.lines().map(str::trim_start).filter_map(move |line| {
        if line.starts_with("#[") || line.starts_with("//") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            return None;
        }
        let name = line.trim_start_matches("async ").strip_prefix("fn ").and_then(|rest| rest.split('(').next());
        name.filter(|_| std::mem::take(&mut is_test))
    })
}

/// A file that no module names would hold tests that never run.
#[test]
fn every_source_file_is_built() {
    let files = all_sources();
    let text = |path: PathBuf| files.iter().find(|(known, _)| *known == path).map_or("", |(_, text)| text.as_str());
    for (path, _) in &files {
        let (folder, stem) = (path.parent().unwrap(), path.file_stem().unwrap().to_str().unwrap());
        let (folder, stem) = match stem {
            "main" | "lib" => continue,
            "mod" => (folder.parent().unwrap(), folder.file_name().unwrap().to_str().unwrap()),
            stem => (folder, stem),
        };
        let parents =
            [folder.join("mod.rs"), folder.with_extension("rs"), folder.join("lib.rs"), folder.join("main.rs")];
        let declared = format!("mod {stem};");
        let named = parents.into_iter().any(|parent| text(parent).lines().any(|line| line.ends_with(&declared)));
        assert!(named, "{} is part of nothing", path.display());
    }
}

#[test]
fn every_test_that_the_obligations_name_exists() {
    let page = fs::read_to_string(root().join("docs/obligations.md")).unwrap();
    let files = all_sources();
    let defined: HashSet<&str> = files.iter().flat_map(|(_, text)| tests(text)).collect();
    let rows: Vec<Vec<&str>> =
        page.lines().filter(|line| line.starts_with("| ")).map(|line| line.split(" | ").collect()).collect();
    let mut numbers = Vec::new();
    for row in rows.iter().filter(|row| row[0].trim_start_matches("| ").parse::<u32>().is_ok()) {
        numbers.push(row[0].trim_start_matches("| ").parse::<u32>().unwrap());
        let named: Vec<&str> = row[3].split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty() || row[2] != "held", "{row:?}");
        for name in named {
            assert!(defined.contains(name), "duty {}: there is no test {name}", row[0]);
        }
    }
    assert_eq!(numbers, (1..=99).collect::<Vec<u32>>());
}

/// Compares a generated page; `BLESS=1 cargo test docs` writes it.
fn generated(page: &str, text: &str) {
    let path = root().join(page);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{page} is not what the code says: run make docs");
}

#[test]
fn the_page_of_reasons_is_current() {
    let mut page = String::from(
        "# Reasons\n\nThe stable words of findings about manifests, generated from the code. An error refuses the object; a \
         warning says what depends on something else, while the safe choice is enforced.\n\n\
         | reason | severity | meaning | remedy |\n|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let doc = reason.doc().split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(page, "| `{}` | {} | {doc} | {} |", reason.as_str(), reason.severity().as_str(), reason.remedy())
            .unwrap();
    }
    generated("docs/reference/reasons.md", &page);
}

#[test]
fn the_page_of_methods_is_current() {
    let mut page = String::from(
        "# Methods\n\nEvery method of every supported revision, generated from the table that the gateway decides by. \
         *Passes* says from whom this build accepts it; everything else is denied.\n",
    );
    for revision in SUPPORTED {
        write!(page, "\n## {revision}\n\n| method | form | sent by | about | passes |\n|---|---|---|---|---|\n")
            .unwrap();
        for row in Method::all(revision) {
            let form = match row.form {
                Form::Request => "request",
                Form::Notification => "notification",
                Form::InputRequest => "input request",
            };
            let side = |sender: Sender| format!("{sender:?}").to_lowercase();
            let passes = row.policed.map_or_else(|| "no".to_owned(), |from| format!("from the {}", side(from)));
            let about = format!("{:?}", row.subject).to_lowercase();
            writeln!(page, "| `{}` | {form} | {} | {about} | {passes} |", row.name, side(row.sender)).unwrap();
        }
    }
    generated("docs/reference/methods.md", &page);
}
