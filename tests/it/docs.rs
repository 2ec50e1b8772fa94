//! The documentation is held to the code: what it names exists, and what is generated is current.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use portcullis::cli::validate;
use portcullis::controller::conditions;
use portcullis::mcp::method::{Form, Method, Sender};
use portcullis::mcp::revision::SUPPORTED;
use portcullis::resolve::{Cluster, PublicUrl, Reason, Settings};

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
fn the_page_of_conditions_is_current() {
    let mut page = String::from(
        "# Conditions\n\nWhat the controller says in the status of our kinds, generated from the code. Each condition is about the \
         generation in its `observedGeneration`. Besides the reasons below, those of findings ([reasons.md](reasons.md)) and of \
         keys that cannot be fetched are used; a condition that holds has its own type as its reason.\n\n\
         | type | meaning |\n|---|---|\n",
    );
    let row = |page: &mut String, (word, doc): &(&str, &str)| {
        let doc = doc.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(page, "| `{word}` | {doc} |").unwrap();
    };
    conditions::TYPES.iter().for_each(|one| row(&mut page, one));
    page += "\n| reason | meaning |\n|---|---|\n";
    conditions::REASONS.iter().for_each(|one| row(&mut page, one));
    generated("docs/reference/conditions.md", &page);
}

#[test]
fn the_page_of_compatibility_is_current() {
    generated("docs/compatibility.md", &crate::compatibility::page::page());
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

/// Every verb that does something, by its words, with its options.
fn verbs() -> Vec<(String, clap::Command)> {
    fn walk(words: &str, command: &clap::Command, found: &mut Vec<(String, clap::Command)>) {
        for verb in command.get_subcommands() {
            let words = format!("{words} {}", verb.get_name());
            if verb.has_subcommands() {
                walk(&words, verb, found);
            } else {
                found.push((words, verb.clone()));
            }
        }
    }
    let mut found = Vec::new();
    walk("portcullis", &portcullis::cli::command(), &mut found);
    found
}

/// As it is typed: `-o, --output <OUTPUT>`, `--strict`, `<URL>`.
fn typed(option: &clap::Arg) -> String {
    let values = option.get_action().takes_values();
    let names = option.get_value_names().map_or_else(
        || option.get_id().as_str().to_uppercase(),
        |names| names.iter().map(|name| name.to_string()).collect::<Vec<_>>().join(" "),
    );
    let value = if values { format!("<{names}>") } else { String::new() };
    let long = option.get_long().map(|long| format!("--{long} {value}"));
    let short = option.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    long.map_or(value, |long| format!("{short}{}", long.trim()))
}

fn variable(option: &clap::Arg) -> Option<String> {
    option.get_env().map(|name| name.to_str().unwrap().to_owned())
}

#[test]
fn every_option_has_an_environment_variable_that_means_one_thing() {
    let mut meanings: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut options = 0;
    for (verb, command) in verbs() {
        let mut here = HashSet::new();
        for option in command.get_arguments() {
            let name = variable(option).unwrap_or_else(|| panic!("{verb}: {} has no variable", typed(option)));
            assert!(here.insert(name.clone()), "{verb}: {name} sets two options");
            let bare = name.strip_prefix("PORTCULLIS_").unwrap_or_else(|| panic!("{verb}: {name}"));
            let long = option.get_long().map(|long| long.replace('-', "_").to_uppercase());
            let meant = match bare {
                // Where manifests are, for those who serve them and those who ask about them.
                "MANIFESTS" => "manifests".to_owned(),
                // The McpClient that is repaired.
                "MCP_CLIENT" => "McpClient".to_owned(),
                // The Secret that tells of a registration.
                "LEDGER" => "ledger".to_owned(),
                // The server that is scanned is the one that would be governed.
                "UPSTREAM" => "upstream".to_owned(),
                // The controller's own ServiceAccount is another one than that which is asked about.
                "CRD_DIR" | "DIFF_OLD" | "DIFF_NEW" | "WHAT_CAN_SERVICE_ACCOUNT" => format!("{verb} {}", typed(option)),
                _ => {
                    let long = long.unwrap_or_else(|| panic!("{verb}: {name} sets {}", typed(option)));
                    assert!(bare == long || bare == format!("{long}S"), "{verb}: {name} sets --{long}");
                    typed(option)
                }
            };
            meanings.entry(name).or_default().insert(meant);
            options += 1;
        }
    }
    assert!(options > 80, "{options}");
    for (name, meant) in meanings {
        assert_eq!(meant.len(), 1, "{name} means {meant:?}");
    }
}

/// Authorization servers give ids that are random text, and persons, groups and tools are named elsewhere: some begin with a hyphen.
#[test]
fn what_is_named_elsewhere_may_begin_with_a_hyphen() {
    let named_elsewhere = ["ID", "SUBJECT", "PERSON", "GROUP", "SCOPE", "TOOL", "PROMPT", "MARK|none", "TEXT"];
    let mut options = 0;
    for (verb, command) in verbs() {
        for option in command.get_arguments() {
            let is_value = |name: &str| named_elsewhere.contains(&name);
            if option.get_value_names().is_some_and(|names| names.iter().any(|name| is_value(name.as_str()))) {
                assert!(option.is_allow_hyphen_values_set(), "{verb} {}", typed(option));
                options += 1;
            }
        }
    }
    assert!(options > 15, "{options}");
    let words = ["portcullis", "clients", "adopt", "team/reports", "--client-id", "-4xk", "--mark", "-none"];
    let found = portcullis::cli::command().try_get_matches_from(words).unwrap();
    let (_, adopt) = found.subcommand().unwrap().1.subcommand().unwrap();
    assert_eq!(adopt.get_one::<String>("client_id").unwrap(), "-4xk");
}

/// Text for a table's cell.
fn in_cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn meaning(option: &clap::Arg) -> String {
    let mut text = option.get_help().unwrap_or_else(|| panic!("{} says nothing", typed(option))).to_string();
    let values: Vec<String> =
        option.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if option.get_action().takes_values() && !values.is_empty() {
        text += &format!("; one of {}", values.join(", "));
    }
    let defaults: Vec<String> =
        option.get_default_values().iter().map(|value| format!("`{}`", value.to_str().unwrap())).collect();
    if option.get_action().takes_values() && !defaults.is_empty() {
        text += &format!(" [default: {}]", defaults.join(", "));
    }
    in_cell(&text)
}

#[test]
fn the_page_of_the_command_line_is_current() {
    let mut page = String::from(
        "# Command line\n\nEvery verb and every option, generated from the program. What is typed counts over the \
         environment, and that over the default. Lists are separated by commas in a variable; flags are `1`, `true`, \
         `yes`, `on`, or `0`, `false`, `no`, `off` there.\n\n\
         Exit codes, everywhere: **0** what was asked for holds, **1** it does not, **2** wrong usage, or something that \
         cannot be read, reached or written.\n",
    );
    for (verb, command) in verbs() {
        let about = command.get_long_about().or(command.get_about()).unwrap_or_else(|| panic!("{verb} says nothing"));
        write!(page, "\n## {verb}\n\n{about}\n\n| option | variable | meaning |\n|---|---|---|\n").unwrap();
        for option in command.get_arguments() {
            let (name, required) =
                (variable(option).unwrap(), if option.is_required_set() { " (required)" } else { "" });
            writeln!(page, "| `{}`{required} | `{name}` | {} |", in_cell(&typed(option)), meaning(option)).unwrap();
        }
    }
    generated("docs/reference/command-line.md", &page);
}

#[test]
fn the_page_of_environment_variables_is_current() {
    let mut users: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for (verb, command) in verbs() {
        for option in command.get_arguments() {
            let options = users.entry(variable(option).unwrap()).or_default();
            options.entry(typed(option)).or_default().push(verb.trim_start_matches("portcullis ").to_owned());
        }
    }
    let mut page = String::from(
        "# Environment variables\n\nGenerated from the program. Each sets the option beside it, unless that is typed; \
         [command-line.md](command-line.md) says what they mean.\n\n| variable | option | of |\n|---|---|---|\n",
    );
    for (name, options) in users {
        for (option, verbs) in options {
            writeln!(page, "| `{name}` | `{}` | {} |", in_cell(&option), verbs.join(", ")).unwrap();
        }
    }
    page += "\nBesides these:\n\n| variable | meaning |\n|---|---|\n\
             | `PORTCULLIS_LOG` | what is logged, such as `debug` or `info,portcullis::proxy=debug`; default `info`, for \
             `quickstart` `warn` |\n\
             | `NO_COLOR` | no colours, also on a terminal |\n\
             | `SSL_CERT_FILE`, `SSL_CERT_DIR` | the certificates to trust instead of the system's |\n";
    generated("docs/reference/environment.md", &page);
}

/// The name that is registered, of what stands behind `register(`.
fn registered(call: &str) -> Option<&str> {
    let first = call.trim_start();
    let named =
        ["registry,", "&mut registry,"].iter().find_map(|registry| first.strip_prefix(registry)).unwrap_or(first);
    named.trim_start().strip_prefix('"')?.split('"').next()
}

#[test]
fn every_metric_stands_in_the_documentation() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let calls = files.iter().flat_map(|(_, text)| text.split("register(").skip(1));
    let metrics: BTreeSet<&str> = calls.filter_map(registered).collect();
    assert!(metrics.len() > 30 && metrics.contains("registration_events"), "{metrics:?}");
    let pages = ["docs", "docs/cluster"].map(|folder| fs::read_dir(root().join(folder)).unwrap());
    let pages = pages.into_iter().flatten().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let pages: String = pages.map(|page| fs::read_to_string(page).unwrap()).collect();
    let missing: Vec<_> = metrics.iter().filter(|name| !pages.contains(&format!("portcullis_{name}"))).collect();
    assert!(missing.is_empty(), "no page says what {missing:?} counts");
}

/// Whether each YAML block of the documentation is what a user may paste: a manifest, or rules or a condition of one.
#[test]
fn the_manifests_in_the_documentation_are_valid() {
    let mut pages = vec![root().join("README.md")];
    for folder in ["docs", "docs/cluster"] {
        let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
    let cluster = Cluster::presumed();
    let settings = Settings { public_url: &public_url, system_namespace: "portcullis-system", cluster: Some(&cluster) };
    let mut checked = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for block in text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("block.yaml");
            fs::write(&file, whole_manifest(block)).unwrap();
            let report = validate::report(&[file], &settings);
            let errors: Vec<_> = report.findings.iter().filter(|line| line.severity == "Error").collect();
            assert!(
                errors.is_empty() && report.notes.is_empty() && report.objects > 0,
                "{page:?}\n{block}\n{errors:#?}"
            );
            checked += 1;
        }
    }
    assert!(checked >= 10, "{checked}");
}

fn whole_manifest(block: &str) -> String {
    let policy = "apiVersion: portcullis.dev/v1alpha1\nkind: McpPolicy\nmetadata: {name: p}\nspec:\n  authority: corp\n  \
                  targets: {servers: [notes]}\n";
    let indented = |text: &str, by: &str| text.lines().map(|line| format!("{by}{line}\n")).collect::<String>();
    let rule =
        "  rules:\n  - name: r\n    effect: Allow\n    principals: [{any: true}]\n    tools: [{patterns: [\"*\"]}]\n";
    let first = block.lines().find(|line| !line.starts_with('#')).unwrap_or_default();
    match first.split(':').next().unwrap_or_default() {
        // A Secret or Namespace alone is nothing that is judged.
        "apiVersion" if block.contains("portcullis.dev/v1alpha1") => block.to_owned(),
        "apiVersion" => format!("{block}\n---\n{policy}{rule}"),
        "rules" => format!("{policy}{}", indented(block, "  ")),
        "when" => format!("{policy}{rule}{}", indented(block, "    ")),
        other => panic!("a YAML block begins with {other:?}: write a manifest, or rules: or when: of one\n{block}"),
    }
}
