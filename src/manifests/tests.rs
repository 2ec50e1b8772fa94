//! Folders as people, editors and kubelets write them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;
use crate::api::{Invalidity, Key, Kind};

fn policy(name: &str, mode: &str) -> String {
    format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpPolicy\nmetadata: {{name: {name}}}\nspec: {{mode: {mode}, targets: \
         {{selector: {{}}}}, rules: []}}\n---\n"
    )
}

fn key(name: &str) -> Key {
    Key { kind: Kind::McpPolicy, namespace: "default".into(), name: name.into() }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.0.path().to_owned()]
    }

    fn scan(&self) -> Scan {
        scan(&self.paths(), &Limits::default(), None)
    }

    fn merge(&self, previous: &Remembered) -> Merged {
        merge(previous, &self.scan())
    }
}

fn names(merged: &Merged) -> Vec<String> {
    merged.objects.iter().map(|o| o.key().name).collect()
}

fn generation(merged: &Merged, name: &str) -> i64 {
    merged.objects.iter().find(|o| o.key().name == name).unwrap().metadata().generation.unwrap()
}

fn problems(scan: &Scan) -> Vec<String> {
    scan.problems().map(|p| Path::new(&*p.file).file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn manifests_are_found_by_their_names() {
    let folder = Folder::new();
    folder.write("b.yml", &policy("b", "Enforce"));
    folder.write("deep/er/a.yaml", &policy("a", "Enforce"));
    let json = r#"{"apiVersion":"portcullis.dev/v1alpha1","kind":"McpPolicy","metadata":{"name":"j"},
        "spec":{"targets":{"selector":{}},"rules":[]}}"#;
    folder.write("c.json", json);
    for passed_over in [".hidden.yaml", ".git/x.yaml", "notes.txt", "b.yml~", ".b.yml.swp", "README"] {
        folder.write(passed_over, "a: [not yaml");
    }
    folder.write("d.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n---\n# nothing\n");
    let merged = folder.merge(&Remembered::default());
    assert_eq!(names(&merged), ["a", "b", "j"]);
    assert!(merged.problems.is_empty() && !merged.unreadable);
    let [note] = merged.notes.as_slice() else { panic!("{:?}", merged.notes) };
    assert!(note.message.contains("apps/v1 Deployment"));
}

#[test]
fn a_document_that_could_be_anything_breaks_its_file() {
    let sound = policy("sound", "Enforce");
    for (text, line, hint) in [
        ("apiVersion: portcullis.dev/v1alpha1\nkind: McpPolcy\nmetadata: {name: x}\n", 2, "did you mean McpPolicy?"),
        (
            "apiVersion: portculis.dev/v1alpha1\nkind: McpPolicy\nmetadata: {name: x}\n",
            1,
            "did you mean portcullis.dev",
        ),
        ("apiVersion: portcullis.dev/v1\nkind: McpPolicy\nmetadata: {name: x}\n", 1, "v1alpha1 only"),
        ("kind: McpPolicy\nmetadata: {name: x}\n", 1, "apiVersion is missing"),
        ("apiVersion: portcullis.dev/v1alpha1\nmetadata: {name: x}\n", 1, "kind is missing"),
        ("apiVersion: portcullis.dev/v1alpha1\nkind: McpPolicy\nmetadata:\n  nam: x\n", 3, "metadata.name is missing"),
        ("apiVersion: portcullis.dev/v1alpha1\nkind: McpPolicy\nmetadata:\n  name: Upper\n", 4, "not a valid name"),
        ("apiVersion: portcullis.dev/v1alpha1\nkind: McpPolicy\nmetadata:\n  name: on\n", 4, "expected text"),
        ("apiVersion: v1\nkind: List\nitems: []\n", 2, "separate its items"),
        ("- a\n- b\n", 1, "not a Kubernetes object"),
        ("just text\n", 1, "not a Kubernetes object"),
        ("a: 1\na: 2\n", 2, "given twice"),
    ] {
        let broken = parse(&"f.yaml".into(), format!("{sound}{text}").as_bytes()).unwrap_err();
        let before = sound.lines().count() as u64;
        assert!(broken.message.contains(hint), "{hint}: {}", broken.message);
        assert_eq!(broken.position.map(|p| p.line), Some(before + line), "{text}");
    }
    assert!(parse(&"f.yaml".into(), b"\xff\xfe").is_err());
    assert!(parse(&"f.yaml".into(), b"").unwrap().objects.is_empty());
}

#[test]
fn an_object_that_is_wrong_in_itself_breaks_only_itself() {
    let folder = Folder::new();
    folder.write("a.yaml", &(policy("a", "Enforce") + &policy("b", "Enforced")));
    let merged = folder.merge(&Remembered::default());
    assert_eq!(names(&merged), ["a"]);
    assert!(matches!(&merged.invalid[&key("b")], Invalidity::Problems(p) if p.len() == 1));
    assert!(!merged.unreadable);
}

#[test]
fn a_broken_file_is_an_invalid_edit_of_what_was_read_from_it_over_a_restart() {
    let folder = Folder::new();
    folder.write("a.yaml", &(policy("a", "Enforce") + &policy("b", "Enforce")));
    folder.write("c.yaml", &policy("c", "Enforce"));
    let first = folder.merge(&Remembered::default());
    folder.write("a.yaml", "kind: [");
    let text = serde_json::to_string(&first.remembered).unwrap();
    let mut remembered: Remembered = serde_json::from_str(&text).unwrap();
    for _ in 0..2 {
        let merged = folder.merge(&remembered);
        assert_eq!(names(&merged), ["c"]);
        assert_eq!(merged.invalid, BTreeMap::from([key("a"), key("b")].map(|k| (k, Invalidity::Unreadable))));
        assert!(!merged.unreadable);
        assert_eq!(merged.problems[0].objects, [key("a"), key("b")]);
        remembered = merged.remembered;
    }
    folder.write("a.yaml", &policy("a", "Enforce"));
    let mended = folder.merge(&remembered);
    assert_eq!(names(&mended), ["a", "c"]);
    assert!(mended.invalid.is_empty() && mended.problems.is_empty());
}

#[test]
fn a_file_that_was_never_read_denies_everything() {
    let folder = Folder::new();
    folder.write("a.yaml", &policy("a", "Enforce"));
    let first = folder.merge(&Remembered::default());
    folder.write("new.yaml", "kind: [");
    let merged = folder.merge(&first.remembered);
    assert!(merged.unreadable && merged.invalid.is_empty());
    assert_eq!(names(&merged), ["a"]);
    fs::remove_file(folder.path("new.yaml")).unwrap();
    assert!(!folder.merge(&merged.remembered).unreadable);
}

#[test]
fn a_folder_that_is_gone_is_not_an_empty_one() {
    let folder = Folder::new();
    folder.write("sub/a.yaml", &policy("a", "Enforce"));
    let paths = [folder.path("sub")];
    let first = merge(&Remembered::default(), &scan(&paths, &Limits::default(), None));
    fs::rename(folder.path("sub"), folder.path("elsewhere")).unwrap();
    let gone = merge(&first.remembered, &scan(&paths, &Limits::default(), None));
    assert_eq!(gone.invalid, BTreeMap::from([(key("a"), Invalidity::Unreadable)]));
    let never = merge(&Remembered::default(), &scan(&paths, &Limits::default(), None));
    assert!(never.unreadable);
    // A file that was removed is a deletion.
    fs::rename(folder.path("elsewhere"), folder.path("sub")).unwrap();
    fs::remove_file(folder.path("sub/a.yaml")).unwrap();
    let deleted = merge(&gone.remembered, &scan(&paths, &Limits::default(), None));
    assert!(deleted.invalid.is_empty() && deleted.objects.is_empty() && !deleted.unreadable);
}

#[test]
fn one_object_in_two_places_is_neither() {
    let folder = Folder::new();
    folder.write("a.yaml", &policy("a", "Enforce"));
    folder.write("b.yaml", &policy("a", "Shadow"));
    let merged = folder.merge(&Remembered::default());
    assert!(merged.objects.is_empty());
    assert_eq!(merged.invalid[&key("a")], Invalidity::Duplicate);
    assert_eq!(merged.sources[&key("a")].len(), 2);
}

#[test]
fn generations_grow_with_changes_and_follow_an_object_between_files() {
    let folder = Folder::new();
    folder.write("a.yaml", &policy("a", "Enforce"));
    let first = folder.merge(&Remembered::default());
    assert_eq!(generation(&first, "a"), 1);
    folder.write("a.yaml", &format!("# a comment is no change\n{}", policy("a", "Enforce")));
    let same = folder.merge(&first.remembered);
    assert_eq!(generation(&same, "a"), 1);
    folder.write("a.yaml", &policy("a", "Shadow"));
    let changed = folder.merge(&same.remembered);
    assert_eq!(generation(&changed, "a"), 2);
    fs::rename(folder.path("a.yaml"), folder.path("b.yaml")).unwrap();
    let moved = folder.merge(&changed.remembered);
    assert_eq!(generation(&moved, "a"), 2);
    let uid = |merged: &Merged| merged.objects[0].metadata().uid.clone();
    assert_eq!(uid(&moved), Some(key("a").stable_uid()));
}

#[test]
fn what_is_remembered_holds_nothing_of_a_secret() {
    let folder = Folder::new();
    folder.write("s.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: hunter2}\n");
    let merged = folder.merge(&Remembered::default());
    assert!(merged.remembered.files.values().flatten().all(|o| o.digest.is_none()));
    let text = serde_json::to_string(&merged.remembered).unwrap() + &format!("{merged:?}");
    assert!(!text.contains("hunter2"));
}

#[test]
fn links_are_followed_inside_and_named_otherwise() {
    let outside = Folder::new();
    outside.write("secret.yaml", &policy("outside", "Enforce"));
    let folder = Folder::new();
    folder.write("real/a.yaml", &policy("a", "Enforce"));
    symlink("real/a.yaml", folder.path("fine.yaml")).unwrap();
    symlink(outside.path("secret.yaml"), folder.path("out.yaml")).unwrap();
    symlink("nowhere", folder.path("dangling.yaml")).unwrap();
    symlink("real", folder.path("dir")).unwrap();
    symlink(".", folder.path("loop.yaml")).unwrap();
    let found = folder.scan();
    let read: Vec<_> = found.files().map(|(p, _)| p.strip_prefix(folder.0.path()).unwrap().to_owned()).collect();
    assert_eq!(read, [PathBuf::from("fine.yaml"), PathBuf::from("real/a.yaml")]);
    assert_eq!(problems(&found), ["dangling.yaml", "dir", "loop.yaml", "out.yaml"]);
}

#[test]
fn names_that_are_no_text_are_named() {
    let folder = Folder::new();
    for name in [&b"\xfe.yaml"[..], b"\xff.yaml"] {
        fs::write(folder.0.path().join(std::ffi::OsStr::from_bytes(name)), policy("a", "Enforce")).unwrap();
    }
    let found = folder.scan();
    assert_eq!((found.files().count(), found.problems().count()), (0, 2));
}

#[test]
fn limits_are_problems_and_never_silence() {
    let folder = Folder::new();
    for i in 0..4 {
        folder.write(&format!("{i}.yaml"), &policy("a", "Enforce"));
    }
    folder.write("big.yaml", &"#".repeat(2000));
    folder.write("1/2/3/deep.yaml", &policy("b", "Enforce"));
    let limits = Limits { files: 3, file_bytes: 1000, total_bytes: 1 << 20, depth: 2 };
    assert_eq!(problems(&scan(&folder.paths(), &limits, None)), ["3", "3.yaml", "big.yaml"]);
    let limits = Limits { total_bytes: 300, ..Limits::default() };
    assert!(!problems(&scan(&folder.paths(), &limits, None)).is_empty());
    // One that is too large takes no room from the others.
    let limits = Limits { total_bytes: 1500, ..Limits::default() };
    assert_eq!(problems(&scan(&folder.paths(), &limits, None)), ["big.yaml"]);
}

#[test]
fn a_scan_takes_over_what_has_not_changed_and_sees_what_has() {
    let folder = Folder::new();
    folder.write("a.yaml", &policy("a", "Enforce"));
    let first = folder.scan();
    let again = scan(&folder.paths(), &Limits::default(), Some(&first));
    assert!(again.same_content(&first));
    // Same size, and perhaps the same tick of the clock.
    folder.write("a.yaml", &policy("b", "Enforce"));
    let changed = scan(&folder.paths(), &Limits::default(), Some(&again));
    assert!(!changed.same_content(&first));
    assert_eq!(names(&merge(&Remembered::default(), &changed)), ["b"]);
}

async fn next(watcher: &mut Watcher) -> Vec<String> {
    let change = tokio::time::timeout(Duration::from_secs(30), watcher.changed()).await.unwrap();
    names(&merge(&Remembered::default(), &change))
}

#[tokio::test]
async fn the_link_swap_of_a_mounted_config_map_is_seen() {
    let folder = Folder::new();
    folder.write("..1/p.yaml", &policy("one", "Enforce"));
    symlink("..1", folder.path("..data")).unwrap();
    symlink("..data/p.yaml", folder.path("p.yaml")).unwrap();
    let before = folder.scan();
    assert_eq!(names(&merge(&Remembered::default(), &before)), ["one"]);
    let mut watcher = Watcher::new(folder.paths(), Limits::default(), before);
    folder.write("..2/p.yaml", &policy("two", "Enforce"));
    symlink("..2", folder.path("..data_tmp")).unwrap();
    fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
    assert_eq!(next(&mut watcher).await, ["two"]);
    // Replaced as editors do, added, removed.
    folder.write("q.tmp", &policy("q", "Enforce"));
    fs::rename(folder.path("q.tmp"), folder.path("q.yaml")).unwrap();
    assert_eq!(next(&mut watcher).await, ["q", "two"]);
    fs::remove_file(folder.path("q.yaml")).unwrap();
    assert_eq!(next(&mut watcher).await, ["two"]);
}
