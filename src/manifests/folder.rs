//! Folders and files to parsed files.
//!
//! Follows what a mounted ConfigMap looks like: visible names are links into a hidden folder that is swapped at once
//! (`policy.yaml -> ..data/policy.yaml`, `..data -> ..2026_11_23`). Hidden names are passed over, links to files are
//! followed as long as they stay inside, and what cannot be followed is a problem, never silence.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest;

use super::{FileProblem, ParsedFile, parse};

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files in all.
    pub files: usize,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// Folders within folders.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { files: 50_000, file_bytes: 4 << 20, total_bytes: 512 << 20, depth: 16 }
    }
}

/// What was found at some paths.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    files: BTreeMap<PathBuf, ScannedFile>,
    unreadable: Vec<FileProblem>,
}

#[derive(Clone, Debug)]
struct ScannedFile {
    stamp: Stamp,
    digest: [u8; 32],
    content: Arc<Result<ParsedFile, FileProblem>>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// Whether the file was changed so recently that another change could leave the same stamp.
    fn is_fresh(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let newest = self.changed.0.max(self.modified.0);
        i64::try_from(now).is_ok_and(|now| now.saturating_sub(newest) < 2)
    }
}

impl Scan {
    /// What could be read, file by file.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &ParsedFile)> {
        self.files
            .iter()
            .filter_map(|(path, file)| file.content.as_ref().as_ref().ok().map(|parsed| (path.as_path(), parsed)))
    }

    /// What could not be read.
    pub fn problems(&self) -> impl Iterator<Item = &FileProblem> {
        self.unreadable.iter().chain(self.files.values().filter_map(|file| file.content.as_ref().as_ref().err()))
    }

    /// Whether two scans found the same content.
    pub fn same_content(&self, other: &Scan) -> bool {
        let content = |scan: &Scan| scan.files.iter().map(|(p, f)| (p.clone(), f.digest)).collect::<Vec<_>>();
        self.unreadable == other.unreadable && content(self) == content(other)
    }
}

/// Reads every `*.yaml`, `*.yml` and `*.json` at or below the given paths, in order of their names. What `previous`
/// already holds and has not changed is not read again. Never fails: what cannot be read is a [`FileProblem`].
pub fn scan(paths: &[PathBuf], limits: &Limits, previous: Option<&Scan>) -> Scan {
    let mut walk = Walk { limits, previous, bytes: 0, out: Scan::default() };
    for path in paths {
        match path.canonicalize().and_then(|real| Ok((fs::metadata(&real)?, real))) {
            Ok((metadata, _)) if metadata.is_file() => walk.file(path),
            Ok((_, real)) => walk.folder(path, &real, 0),
            Err(e) => walk.problem(path, io_message(&e)),
        }
    }
    walk.out
}

struct Walk<'a> {
    limits: &'a Limits,
    previous: Option<&'a Scan>,
    bytes: u64,
    out: Scan,
}

impl Walk<'_> {
    fn problem(&mut self, path: &Path, message: impl Into<String>) {
        let problem = FileProblem { file: shown(path), position: None, message: message.into(), objects: Vec::new() };
        self.out.unreadable.push(problem);
    }

    fn folder(&mut self, folder: &Path, root: &Path, depth: usize) {
        if depth > self.limits.depth {
            return self.problem(folder, format!("folders are nested deeper than {}", self.limits.depth));
        }
        let mut names: Vec<PathBuf> = match fs::read_dir(folder).and_then(|all| all.map(|e| Ok(e?.path())).collect()) {
            Ok(names) => names,
            Err(e) => return self.problem(folder, io_message(&e)),
        };
        names.sort();
        for path in names {
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden {
                continue;
            }
            self.entry(&path, root, depth);
        }
    }

    fn entry(&mut self, path: &Path, root: &Path, depth: usize) {
        let kind = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata.file_type(),
            // Gone since the folder was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(e) => return self.problem(path, io_message(&e)),
        };
        if kind.is_dir() {
            return self.folder(path, root, depth + 1);
        }
        if kind.is_symlink() {
            match path.canonicalize() {
                Ok(real) if real.is_dir() => {
                    return self.problem(path, "a link to a folder is not followed; give the folder itself");
                }
                Ok(real) if has_manifest_name(path) && !real.starts_with(root) => {
                    return self
                        .problem(path, "the link leads outside the folder; copy the file, or give its folder too");
                }
                Err(e) if has_manifest_name(path) => return self.problem(path, io_message(&e)),
                _ => {}
            }
        }
        if has_manifest_name(path) {
            self.file(path);
        }
    }

    fn file(&mut self, path: &Path) {
        if self.out.files.contains_key(path) {
            return;
        }
        // What was read from a file is remembered by its name, which must not be another's.
        if path.to_str().is_none() {
            return self.problem(path, "the path is not UTF-8; rename it");
        }
        if self.out.files.len() >= self.limits.files {
            return self.problem(path, format!("more than {} files", self.limits.files));
        }
        match self.read(path) {
            Ok(file) => {
                self.out.files.insert(path.to_owned(), file);
            }
            Err(e) => self.problem(path, io_message(&e)),
        }
    }

    fn read(&mut self, path: &Path) -> io::Result<ScannedFile> {
        // What is opened is what is judged: a name can be swapped between two looks at it.
        let file = open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let stamp = Stamp::of(&metadata);
        let bytes = self.bytes.saturating_add(stamp.size);
        if stamp.size > self.limits.file_bytes || bytes > self.limits.total_bytes {
            return Err(io::Error::other(format!(
                "too large: at most {} bytes in one file and {} in all are read",
                self.limits.file_bytes, self.limits.total_bytes
            )));
        }
        // What is passed over takes no room from the others.
        self.bytes = bytes;
        let known = self.previous.and_then(|scan| scan.files.get(path));
        if let Some(known) = known.filter(|known| known.stamp == stamp && !stamp.is_fresh()) {
            return Ok(known.clone());
        }
        let mut bytes = Vec::new();
        file.take(self.limits.file_bytes + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > self.limits.file_bytes {
            return Err(io::Error::other("grew while it was read"));
        }
        let mut sum = [0u8; 32];
        for (to, from) in sum.iter_mut().zip(digest::digest(&digest::SHA256, &bytes).as_ref()) {
            *to = *from;
        }
        if let Some(known) = known.filter(|known| known.digest == sum) {
            return Ok(ScannedFile { stamp, ..known.clone() });
        }
        Ok(ScannedFile { stamp, digest: sum, content: Arc::new(parse(&shown(path), &bytes)) })
    }
}

/// Opens without waiting: a FIFO named like a manifest must not stop the gateway.
fn open(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    File::open(path)
}

fn has_manifest_name(path: &Path) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| matches!(e, "yaml" | "yml" | "json"))
}

fn shown(path: &Path) -> Arc<str> {
    path.to_string_lossy().as_ref().into()
}

fn io_message(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}
