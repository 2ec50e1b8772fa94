//! The house stands as `src/lib.rs` draws it: every path in every source file is followed to the folder it names, and an
//! arrow that the page does not show fails with file, line and arrow.
//!
//! Paths are read from the syntax tree, not from `use` lines alone: expressions, types, attributes and the tokens inside
//! macros count too, and `super::` and names brought in by `use` are resolved first.

mod page;
mod rules;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use page::House;

const LONGEST_FILE: usize = 600;

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn house() -> House {
    let page = fs::read_to_string(src().join("lib.rs")).unwrap();
    House::read(&page).unwrap()
}

/// Every `.rs` file below `folder`, as (path from the crate's root, text), in a stable order.
fn files(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                into.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    walk(&root.join(folder), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .map(|p| (p.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&p).unwrap()))
        .collect()
}

fn sources() -> Vec<(String, String)> {
    files("src")
}

/// A file that no `mod` names is not compiled: its code is dead, and its tests never fail.
#[test]
fn every_file_is_part_of_a_binary() {
    let files: Vec<_> = ["src", "tests/it"].into_iter().flat_map(files).collect();
    let named = |path: &str| {
        let path = Path::new(path);
        let (folder, stem) = (path.parent().unwrap(), path.file_stem().unwrap().to_str().unwrap());
        let (folder, name) = match stem {
            "mod" => (folder.parent().unwrap(), folder.file_name().unwrap().to_str().unwrap()),
            _ => (folder, stem),
        };
        let parents = ["lib.rs", "main.rs", "mod.rs"].map(|file| folder.join(file)).into_iter();
        let declared = format!("mod {name};");
        parents.chain([folder.with_extension("rs")]).any(|parent| {
            let text = files.iter().find(|(file, _)| Path::new(file) == parent).map(|(_, text)| text.as_str());
            text.is_some_and(|text| {
                text.lines().any(|line| line.split("//").next().unwrap().trim_end().ends_with(&declared))
            })
        })
    };
    let roots = ["src/lib.rs", "src/main.rs", "tests/it/main.rs"];
    let orphans: Vec<_> = files.iter().map(|(path, _)| &**path).filter(|p| !roots.contains(p) && !named(p)).collect();
    assert!(orphans.is_empty(), "no `mod` names {orphans:?}");
}

#[test]
fn every_path_follows_an_arrow_of_the_page() {
    let house = house();
    let sources = sources();
    assert!(sources.len() > 20, "found only {} files below src/", sources.len());
    let found: Vec<String> = sources.iter().flat_map(|(path, text)| source::check(&house, path, text)).collect();
    assert!(found.is_empty(), "{} broken:\n{}\n", found.len(), found.join("\n"));
}

#[test]
fn the_page_and_the_folders_name_each_other() {
    let house = house();
    let mut folders: Vec<String> = fs::read_dir(src())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir() || p.extension().is_some_and(|e| e == "rs"))
        .map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "lib" && name != "main")
        .collect();
    folders.sort();
    folders.dedup();
    let drawn: Vec<String> = house.folders().map(str::to_owned).collect();
    assert_eq!(folders, drawn, "left: what is below src/; right: what the page in src/lib.rs draws");
}

#[test]
fn no_file_outgrows_what_one_can_hold_in_mind() {
    let long: Vec<String> = sources()
        .iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST_FILE)
        .map(|(path, lines)| format!("{path}: {lines} lines; split it along a seam (at most {LONGEST_FILE})"))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// A small house of its own, so that these cases do not change when the real page does.
const SMALL_PAGE: &str = "\
//! ```text
//! PURE     api policy fleet
//!          no clock
//! EFFECTS  egress upstream
//! PLANES   proxy
//! TOP      roles
//!
//! api egress -> nothing of ours
//! policy -> api    fleet -> policy     upstream -> egress
//! proxy -> pure, effects.   Only roles join planes.
//! ```
pub mod api;
";

/// What the check says about `text` standing at `path`: the findings without their common prefix.
fn judged(path: &str, text: &str) -> Vec<String> {
    let house = House::read(SMALL_PAGE).unwrap();
    source::check(&house, path, text).into_iter().map(|f| f.trim_start_matches(path).to_owned()).collect()
}

#[test]
fn the_page_is_read_as_it_is_meant() {
    let house = House::read(SMALL_PAGE).unwrap();
    assert_eq!(house.folders().collect::<Vec<_>>(), ["api", "egress", "fleet", "policy", "proxy", "roles", "upstream"]);
    assert!(house.allows("policy", "api") && house.allows("proxy", "upstream") && house.allows("roles", "proxy"));
    assert!(!house.allows("fleet", "api") && !house.allows("api", "policy") && !house.allows("upstream", "proxy"));
    assert!(!house.allows("proxy", "roles"), "nothing may reach upwards");
    let orphan = SMALL_PAGE.replace("fleet -> policy", "       ");
    assert!(House::read(&orphan).unwrap_err().contains("fleet"), "a folder without an arrow is a hole in the page");
    let stranger = SMALL_PAGE.replace("policy -> api ", "policy -> apo ");
    assert!(House::read(&stranger).unwrap_err().contains("apo"));
}

#[test]
fn allowed_sources_pass() {
    let fine = "use crate::api::v1::{self, Server as Kind};\nuse Kind as K;\n#[path = \"rule_tests.rs\"]\nmod more;\nuse std::time::Duration;\nuse std::net::IpAddr;\n\
                fn f(x: super::super::api::X) -> Duration { self::g(); format!(\"{}\", crate::api::y()); x }\n\
                #[cfg(test)]\nmod tests { #[path = \"../../../tests/x.rs\"] mod x; use super::*; fn t() { std::fs::read(\"x\"); std::time::Instant::now(); } }";
    assert_eq!(judged("src/policy/rule.rs", fine), Vec::<String>::new());
    assert_eq!(judged("src/egress/mod.rs", "use tokio::net::{TcpStream, lookup_host};"), Vec::<String>::new());
    let accept = "use tokio::net::{TcpListener, TcpStream};";
    assert_eq!(judged("src/proxy/listener.rs", accept), Vec::<String>::new());
}

/// Each forbidden source, where it stands, and the line and word that the finding must name.
const BROKEN: &[(&str, &str, &str, &str)] = &[
    ("a plain import", "src/policy/rule.rs", "use crate::fleet::Snapshot;", ":1: policy -> fleet"),
    ("a nested import", "src/policy/rule.rs", "\nuse crate::{api::X, proxy::{self, Y}};", ":2: policy -> proxy"),
    ("an expression", "src/policy/rule.rs", "fn f() {\n crate::fleet::g()\n}", ":2: policy -> fleet"),
    ("a type in generics", "src/policy/rule.rs", "fn f(x: Vec<Option<crate::fleet::S>>) {}", ":1: policy -> fleet"),
    ("a relative path", "src/policy/rule.rs", "use super::super::fleet::X;", ":1: policy -> fleet"),
    ("relative from an inline module", "src/policy/mod.rs", "mod a { use super::super::fleet::X; }", "policy -> fleet"),
    ("inside a macro", "src/policy/rule.rs", "fn f() {\n assert!(vec![crate::fleet::X].len() > 0)\n}", ":2: policy"),
    (
        "inside a macro's definition",
        "src/policy/rule.rs",
        "macro_rules! m { () => { $crate::fleet::X } }",
        "policy -> fleet",
    ),
    ("an import tree in a macro", "src/policy/rule.rs", "m! { use crate::{fleet::X}; }", "a plain path"),
    (
        "in an attribute's string",
        "src/policy/rule.rs",
        "#[serde(with = \"crate::fleet::w\")]\nstruct S;",
        "policy -> fleet",
    ),
    (
        "a test breaks an arrow",
        "src/policy/rule.rs",
        "#[cfg(test)]\nmod tests { use crate::proxy::X; }",
        "policy -> proxy",
    ),
    ("plane to top", "src/proxy/mod.rs", "use crate::roles::x;", "proxy -> roles"),
    ("the crate's root", "src/policy/rule.rs", "use crate::Thing;", "`Thing` is no folder"),
    ("everything", "src/roles/x.rs", "use crate::*;", "glob"),
    (
        "the crate under another name",
        "src/policy/rule.rs",
        "use crate as c;\nfn f() { c::fleet::g() }",
        ":2: policy -> fleet",
    ),
    ("std under another name", "src/policy/rule.rs", "use std as s;\nfn f() { s::fs::read(x); }", ":2:"),
    ("a re-export", "src/fleet/mod.rs", "pub use crate::policy::Rule;", "re-export"),
    ("a file from elsewhere", "src/policy/mod.rs", "#[path = \"../fleet/x.rs\"]\nmod x;", "path"),
    ("text from elsewhere", "src/policy/mod.rs", "include!(\"../fleet/x.rs\");", "include!"),
    ("tests that are always built", "src/policy/mod.rs", "mod tests;", "cfg(test)"),
    ("a runtime in pure", "src/policy/rule.rs", "fn f() { tokio::spawn(g()); }", "tokio"),
    ("a clock", "src/policy/rule.rs", "use std::time;\nfn f() { time::Instant::now(); }", ":2:"),
    ("another clock", "src/policy/rule.rs", "use jiff::Timestamp;\nfn f() { Timestamp::now(); }", "clock"),
    ("everything of std::time", "src/policy/rule.rs", "use std::time::*;", "glob"),
    ("files", "src/policy/rule.rs", "use std::{collections::HashMap, fs};", "std::fs"),
    ("a socket", "src/policy/rule.rs", "use std::net::TcpListener;", "std::net"),
    ("a thread", "src/policy/rule.rs", "fn f() { std::thread::spawn(g); }", "std::thread"),
    ("a log", "src/policy/rule.rs", "fn f() { tracing::info!(\"x\"); }", "tracing"),
    ("printing", "src/policy/rule.rs", "fn f() { println!(\"x\"); }", "println!"),
    ("async", "src/policy/rule.rs", "async fn f() {}", "async"),
    ("a dialer", "src/upstream/pool.rs", "use tokio::net::TcpStream;", "dial"),
    (
        "a dialer in the listener",
        "src/proxy/listener.rs",
        "use tokio::net as n;\nfn f() { n::TcpStream::connect(x); }",
        ":2:",
    ),
    ("a resolver", "src/proxy/x.rs", "fn f() { tokio::net::lookup_host(x); }", "dial"),
    (
        "a ready-made connector",
        "src/upstream/pool.rs",
        "use hyper_util::client::legacy::connect::HttpConnector;",
        "dial",
    ),
    ("a listener", "src/upstream/pool.rs", "use tokio::net::TcpListener;", "listen"),
    ("a folder nobody drew", "src/shadow/mod.rs", "fn f() {}", "shadow"),
    ("not Rust", "src/policy/rule.rs", "fn f( {", "parse"),
];

#[test]
fn the_check_can_fail() {
    for (what, path, text, expected) in BROKEN {
        let found = judged(path, text);
        assert!(found.iter().any(|f| f.contains(expected)), "{what}: expected `{expected}`, found {found:#?}");
    }
}
