//! `portcullis validate`: what admission would say of a folder of manifests, offline.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use serde::Serialize;

use super::outbound::InCluster;
use super::output::{self, Format, counted, printable};
use super::{boolish, load, sarif};
use crate::{
    api::{Key, Kind},
    manifests::{self, FileProblem, Limits, Merged, Position, Remembered},
    resolve::{self, Accepted, Cluster, Finding, Observed, PublicUrl, Settings, Severity},
};

/// Say what admission would say of manifests, with file, line and field
///
/// Works offline, as if nothing had been served before. Exit code 0: nothing is wrong; 1: something is; 2: the arguments or
/// the files are unusable.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files and folders (*.yaml, *.yml, *.json), judged together
    #[arg(required = true, value_name = "PATH", env = "PORTCULLIS_MANIFESTS", value_delimiter = ',')]
    pub paths: Vec<PathBuf>,
    /// Fail on warnings too: on what depends on objects that are not among the manifests, and on rules that change nothing
    #[arg(long, env = "PORTCULLIS_STRICT", value_parser = boolish())]
    pub strict: bool,
    /// The URL under which callers will reach the gateway
    #[arg(long, value_name = "URL", default_value = "https://mcp.invalid", env = "PORTCULLIS_PUBLIC_URL")]
    pub public_url: String,
    /// The namespace whose policies are guardrails for all others
    #[arg(long, value_name = "NAME", default_value = "portcullis-system", env = "PORTCULLIS_SYSTEM_NAMESPACE")]
    pub system_namespace: String,
    #[command(flatten)]
    in_cluster: InCluster,
    /// Judge as `portcullis standalone` does, which has no cluster: no ServiceAccounts, Services and McpClients
    #[arg(long, env = "PORTCULLIS_STANDALONE", value_parser = boolish())]
    pub standalone: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table", env = "PORTCULLIS_OUTPUT")]
    pub output: ReportFormat,
}

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReportFormat {
    /// For people.
    Table,
    /// For scripts.
    Json,
    /// For files.
    Yaml,
    /// For code scanning (SARIF 2.1.0).
    Sarif,
}

/// Everything there is to say about some manifests.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Findings, by file and position.
    pub findings: Vec<Line>,
    /// What was passed over.
    pub notes: Vec<String>,
    /// How many objects of our own kinds were judged.
    pub objects: usize,
    /// How many findings are errors.
    pub errors: usize,
    /// How many findings are warnings.
    pub warnings: usize,
}

/// One finding, where it was made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: Option<u64>,
    /// Column, from 1.
    pub column: Option<u64>,
    /// `Error` or `Warning`.
    pub severity: &'static str,
    /// The finding's stable word.
    pub reason: &'static str,
    /// The object, as `Kind namespace/name`; absent for files that cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Where in the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// Whether the line may be shown: it is not if it could hold a secret.
    #[serde(skip)]
    showable: bool,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let public_url = PublicUrl::parse(&args.public_url).with_context(|| format!("--public-url {}", args.public_url))?;
    load::check(&args.paths)?;
    let cluster = Cluster { dns_domain: args.in_cluster.cluster_domain, ..Cluster::presumed() };
    let settings = Settings {
        public_url: &public_url,
        system_namespace: &args.system_namespace,
        cluster: (!args.standalone).then_some(&cluster),
    };
    let report = report(&args.paths, &settings);
    if report.objects == 0 && report.findings.is_empty() {
        let paths: Vec<String> = args.paths.iter().map(|path| path.display().to_string()).collect();
        eprintln!("warning: no object found in {}", paths.join(", "));
    }
    match args.output {
        ReportFormat::Table => output::print(Format::Table, &report, for_people)?,
        ReportFormat::Json => output::print(Format::Json, &report, for_people)?,
        ReportFormat::Yaml => output::print(Format::Yaml, &report, for_people)?,
        ReportFormat::Sarif => {
            let log = sarif::log(&report, &std::env::current_dir()?);
            output::print(Format::Json, &log, |_| String::new())?;
        }
    }
    let fails = report.errors > 0 || (args.strict && report.warnings > 0);
    Ok(if fails { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Judges manifests together, as if nothing had been there before.
pub fn report(paths: &[PathBuf], settings: &Settings<'_>) -> Report {
    let scan = manifests::scan(paths, &Limits::default(), None);
    let merged = manifests::merge(&Remembered::default(), &scan);
    let nothing = Accepted::default();
    let resolution =
        resolve::tree(settings, &merged.objects, &merged.invalid, merged.unreadable, &nothing, Observed::default());
    let mut findings: Vec<Line> = merged.problems.iter().map(unreadable).collect();
    for found in &resolution.findings {
        findings.extend(lines(&merged, &found.key, &found.finding));
    }
    findings.sort_by(|a, b| (&a.file, a.line, a.column, &a.field).cmp(&(&b.file, b.line, b.column, &b.field)));
    let count = |severity: Severity| findings.iter().filter(|line| line.severity == severity.as_str()).count();
    Report {
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        notes: merged.notes.iter().map(|note| format!("{}: {}", note.file, note.message)).collect(),
        objects: merged.sources.keys().filter(|key| Kind::OURS.contains(&key.kind)).count(),
        findings,
    }
}

fn unreadable(problem: &FileProblem) -> Line {
    Line {
        file: problem.file.to_string(),
        line: problem.position.map(|p| p.line),
        column: problem.position.map(|p| p.column),
        severity: Severity::Error.as_str(),
        reason: resolve::Reason::FileUnreadable.as_str(),
        object: None,
        field: String::new(),
        message: problem.message.clone(),
        remedy: "mend the file; until then its objects count as invalid, and if it was never read every server denies"
            .to_owned(),
        // What cannot be parsed could be a Secret.
        showable: false,
    }
}

/// One line for every place that claims to be the object.
fn lines<'a>(merged: &'a Merged, key: &'a Key, finding: &'a Finding) -> impl Iterator<Item = Line> + 'a {
    let sources = merged.sources.get(key).map(Vec::as_slice).unwrap_or_default();
    sources.iter().map(move |source| {
        let Position { line, column } = source.locate(&finding.field);
        Line {
            file: source.file.to_string(),
            line: Some(line),
            column: Some(column),
            severity: finding.severity.as_str(),
            reason: finding.reason.as_str(),
            object: Some(key.to_string()),
            field: finding.field.to_string(),
            message: finding.message.clone(),
            remedy: finding.remedy.to_string(),
            showable: key.kind != Kind::Secret,
        }
    })
}

fn for_people(report: &Report) -> String {
    let mut out = String::new();
    let mut files: BTreeMap<&str, Arc<[String]>> = BTreeMap::new();
    for line in &report.findings {
        let snippet = line.line.filter(|_| line.showable).and_then(|number| {
            let text = files.entry(&line.file).or_insert_with(|| text_of(&line.file));
            text.get(usize::try_from(number).ok()?.checked_sub(1)?).cloned()
        });
        describe(&mut out, line, snippet.as_deref());
    }
    for note in &report.notes {
        add(&mut out, format_args!("note: {note}\n"));
    }
    let (objects, errors) = (counted(report.objects, "object"), counted(report.errors, "error"));
    add(&mut out, format_args!("{objects}, {errors}, {}\n", counted(report.warnings, "warning")));
    printable(&out)
}

fn describe(out: &mut String, line: &Line, snippet: Option<&str>) {
    let place = match (line.line, line.column) {
        (Some(number), Some(column)) => format!("{}:{number}:{column}", line.file),
        _ => line.file.clone(),
    };
    let field = if line.field.is_empty() { String::new() } else { format!("{}: ", line.field) };
    let severity = line.severity.to_lowercase();
    add(out, format_args!("{severity}[{}]: {field}{}\n", line.reason, line.message));
    let object = line.object.as_deref().map(|o| format!("  ({o})")).unwrap_or_default();
    add(out, format_args!("  --> {place}{object}\n"));
    if let (Some(snippet), Some(number), Some(column)) = (snippet, line.line, line.column) {
        let margin = number.to_string();
        let blank = " ".repeat(margin.len());
        let indent = " ".repeat(usize::try_from(column).unwrap_or(1).saturating_sub(1).min(200));
        add(out, format_args!("  {blank} |\n  {margin} | {snippet}\n  {blank} | {indent}^\n"));
    }
    add(out, format_args!("  remedy: {}\n\n", line.remedy));
}

fn text_of(file: &str) -> Arc<[String]> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    // What people wrote must not steer their terminal.
    let clean = |line: &str| line.chars().filter(|c| !c.is_control()).take(160).collect();
    text.lines().map(clean).collect()
}

fn add(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    out.write_fmt(text).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn judged(paths: &[PathBuf]) -> Report {
        let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
        let cluster = Cluster::presumed();
        let settings =
            Settings { public_url: &public_url, system_namespace: "portcullis-system", cluster: Some(&cluster) };
        report(paths, &settings)
    }

    fn judged_text(text: &str) -> (Report, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("all.yaml"), text).unwrap();
        (judged(&[dir.path().to_owned()]), dir)
    }

    #[test]
    fn the_examples_hold_without_a_warning() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let mut folders = 0;
        for folder in std::fs::read_dir(examples).unwrap() {
            folders += 1;
            let folder = folder.unwrap().path();
            let report = judged(std::slice::from_ref(&folder));
            // The one for a cluster brings workloads, which are none of our business.
            let notes = folder.ends_with("cluster") || report.notes.is_empty();
            assert!(report.findings.is_empty() && notes, "{}", for_people(&report));
            assert!(report.objects >= 3);
        }
        assert!(folders >= 2);
    }

    #[test]
    fn a_finding_names_file_line_field_and_remedy_and_shows_the_line() {
        let (report, dir) = judged_text(
            "apiVersion: portcullis.dev/v1alpha1\nkind: McpPolicy\nmetadata: {name: p}\nspec:\n  authority: a\n  targets:\n    \
             selector: {}\n  rules:\n  - name: r\n    effect: Allow\n    principals: [{groups: [g]}]\n    tools: [{names: \
             [t]}]\n    whne: args.a == 1\n",
        );
        let [line] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
        assert_eq!((line.line, line.column, line.reason), (Some(13), Some(5), "UnknownField"));
        assert_eq!((line.field.as_str(), report.errors), ("spec.rules[0].whne", 1));
        let text = for_people(&report);
        assert!(text.contains("did you mean \"when\"?"), "{text}");
        assert!(text.contains(&format!("{}/all.yaml:13:5", dir.path().display())), "{text}");
        assert!(text.contains("13 |     whne: args.a == 1\n     |     ^"), "{text}");
    }

    const POLICY: &str = "apiVersion: portcullis.dev/v1alpha1\nkind: McpPolicy\nmetadata: {name: p}\nspec:\n  \
                          authority: a\n  targets: {selector: {}}\n  rules:\n  - name: r\n    effect: Deny\n    \
                          principals: [{any: true}]\n    tools: [{names: [t]}]\n";

    /// What people get wrong: what is written instead of what, the reason, line and field, and words of the message or
    /// the remedy.
    #[test]
    fn whatever_people_get_wrong_is_shown_with_its_place_and_remedy() {
        let name = "metadata: {name: p}";
        for (from, to, reason, line, field, words) in [
            // Text.
            ("spec:", "spec:\n\tmode: Shadow", "FileUnreadable", 5, "", "indentation"),
            ("effect: Deny", "effect: Deny\n    effect: Allow", "FileUnreadable", 10, "", "\"effect\" is given twice"),
            ("effect: Deny", "effect: *nowhere", "FileUnreadable", 9, "", "not valid YAML"),
            ("kind: McpPolicy", "? [a, b]\n: c", "FileUnreadable", 2, "", "not valid YAML"),
            // Which object.
            ("kind: McpPolicy", "kind: mcppolicy", "FileUnreadable", 2, "", "did you mean McpPolicy?"),
            ("portcullis.dev/v1alpha1", "v1", "FileUnreadable", 1, "", "did you mean portcullis.dev/v1alpha1?"),
            ("portcullis.dev/v1alpha1", "portcullis.dev/v1beta1", "FileUnreadable", 1, "", "v1alpha1 only"),
            ("kind: McpPolicy", "kind: McpPolicyList", "FileUnreadable", 2, "", "no such kind"),
            (
                "portcullis.dev/v1alpha1\nkind: McpPolicy",
                "v1\nkind: Namspace",
                "FileUnreadable",
                2,
                "",
                "did you mean Namespace?",
            ),
            (
                "portcullis.dev/v1alpha1\nkind: McpPolicy",
                "v1\nkind: SecretList",
                "FileUnreadable",
                2,
                "",
                "a List is not read",
            ),
            (name, "metadata: {generateName: p-}", "FileUnreadable", 3, "", "metadata.name is missing"),
            (name, "metadata: {name: p_1}", "FileUnreadable", 3, "", "not a valid name"),
            (name, "metadata: {name: p, namespace: a.b}", "FileUnreadable", 3, "", "not a valid namespace"),
            (name, "metadata: {name: p, namespce: a}", "FileUnreadable", 3, "", "did you mean \"namespace\"?"),
            (name, "metadata: [name, p]", "FileUnreadable", 3, "", "metadata.name is missing"),
            // Metadata.
            (name, "metadata: {name: p, lables: {}}", "UnknownField", 3, "metadata.lables", "did you mean \"labels\"?"),
            (name, "metadata: {name: p, labels: {a: 1}}", "TypeMismatch", 3, "metadata.labels.a", "in quotes"),
            (
                name,
                "metadata: {name: p, labels: {a: b c}}",
                "ValueInvalid",
                3,
                "metadata.labels.a",
                "not a label's value",
            ),
            (
                name,
                "metadata: {name: p, labels: {a b: c}}",
                "ValueInvalid",
                3,
                "metadata.labels[\"a b\"]",
                "not a label's key",
            ),
            (name, "metadata: {name: p, annotations: [x]}", "TypeMismatch", 3, "metadata.annotations", "a mapping"),
            (name, "metadata: {name: p, generation: x}", "TypeMismatch", 3, "metadata", "ill-typed"),
            // The rest.
            ("spec:", "spek:", "UnknownField", 4, "spek", "did you mean \"spec\"?"),
            ("authority: a", "authority: a\n  mode: Shadw", "ValueInvalid", 6, "spec.mode", "did you mean Shadow?"),
            ("authority: a", "authority: [a]", "TypeMismatch", 5, "spec.authority", "expected text"),
            ("authority: a", "authority: on", "TypeMismatch", 5, "spec.authority", "YAML reads bare yes"),
            ("effect: Deny", "effect: deny", "ValueInvalid", 9, "spec.rules[0].effect", "did you mean Deny?"),
            ("effect: Deny", "efect: Deny", "UnknownField", 9, "spec.rules[0].efect", "did you mean \"effect\"?"),
            ("names: [t]", "names: [t, t]", "DuplicateEntry", 11, "spec.rules[0].tools[0].names[1]", "already has"),
            (
                "{selector: {}}",
                "{selector: {matchLabels: {tier: b c}}}",
                "SelectorInvalid",
                6,
                "spec.targets.selector.matchLabels.tier",
                "not a label's value",
            ),
            (
                "tools: [{names: [t]}]",
                "tools: [{names: [t]}]\n    when: args.",
                "ConditionInvalid",
                12,
                "spec.rules[0].when",
                "line 1, column",
            ),
        ] {
            assert!(POLICY.contains(from), "{from}");
            let (report, _dir) = judged_text(&POLICY.replace(from, to));
            let found =
                report.findings.iter().find(|f| f.severity == "Error" && f.reason == reason && f.field == field);
            let Some(found) = found else { panic!("{to:?}: {}", for_people(&report)) };
            assert_eq!(found.line, Some(line), "{to:?}: {}", for_people(&report));
            let said = format!("{} {}", found.message, found.remedy);
            assert!(said.contains(words) && !found.remedy.is_empty(), "{to:?}: {said}");
        }
    }

    #[test]
    fn what_only_looks_odd_is_read() {
        let authority = "apiVersion: portcullis.dev/v1alpha1\nkind: McpAuthorizationServer\nmetadata: {name: a}\nspec: {local: {}}\n";
        let sound = format!("{authority}---\n{POLICY}");
        for (odd, text) in [
            ("a byte order mark", format!("\u{feff}{sound}")),
            ("lines that end in CRLF", sound.replace('\n', "\r\n")),
            ("empty documents and comments", format!("---\n# x\n---\n{sound}---\n...\n---\n")),
            ("a directive", format!("%YAML 1.2\n---\n{sound}")),
            ("anchors", sound.replace("any: true}]", "any: &t true}]").replace("effect: Deny", "effect: &e Deny")),
            ("a status", format!("{sound}status: {{conditions: []}}\n")),
            ("an empty field", sound.replace("  authority: a", "  authority: a\n  mode:")),
            (
                "what kubectl prints",
                sound.replace("{name: p}", "{name: p, uid: x, resourceVersion: \"7\", generation: 3}"),
            ),
        ] {
            let (report, _dir) = judged_text(&text);
            assert!(report.findings.is_empty() && report.objects == 2, "{odd}: {}", for_people(&report));
        }
    }

    #[test]
    fn what_is_no_readable_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let utf16: Vec<u8> = POLICY.encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(path("utf16.yaml"), utf16).unwrap();
        std::fs::write(path("latin1.yaml"), b"# caf\xe9\n").unwrap();
        std::fs::write(path("nul.yaml"), b"a: \0\n").unwrap();
        assert!(std::process::Command::new("mkfifo").arg(path("fifo.yaml")).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(path("socket.yaml")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("device.yaml")).unwrap();
        let report = judged(&[dir.path().to_owned()]);
        let named: Vec<_> = report.findings.iter().map(|f| f.file.rsplit('/').next().unwrap()).collect();
        let all = ["device.yaml", "fifo.yaml", "latin1.yaml", "nul.yaml", "socket.yaml", "utf16.yaml"];
        assert_eq!(named, all, "{}", for_people(&report));
    }

    #[test]
    fn no_line_of_a_secret_or_of_a_broken_file_is_shown() {
        for text in [
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata:\n  key: hunter2!\n",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData:\n  key: hunter2: x\n",
        ] {
            let (report, _dir) = judged_text(text);
            assert_eq!(report.errors, 1);
            let text = for_people(&report) + &serde_json::to_string(&report).unwrap();
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn what_people_wrote_does_not_steer_their_terminal() {
        let named = POLICY.replace("any: true", "groups: [g]").replace("authority: a", "authority: \"a\\e[2J\"");
        let (report, _dir) = judged_text(&named);
        assert!(report.findings.iter().any(|f| f.message.contains('\u{1b}')), "the name is quoted");
        assert!(!for_people(&report).contains('\u{1b}'), "{}", for_people(&report));
        let (report, _dir) = judged_text(&POLICY.replace("effect: Deny", "\"\\e[2J\": x"));
        assert!(report.errors > 0 && !for_people(&report).contains('\u{1b}'), "{}", for_people(&report));
    }

    #[test]
    fn objects_that_are_claimed_twice_are_named_in_both_places() {
        let one = "apiVersion: portcullis.dev/v1alpha1\nkind: McpAuthorizationServer\nmetadata: {name: a}\nspec: {local: {}}\n";
        let (report, _dir) = judged_text(&format!("{one}---\n{one}"));
        let lines: Vec<_> = report.findings.iter().map(|f| (f.reason, f.line)).collect();
        assert_eq!(lines, [("DuplicateObject", Some(1)), ("DuplicateObject", Some(6))]);
    }
}
