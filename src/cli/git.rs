//! Manifests as a revision of a Git repository has them: `REV:PATH`, as `git show` writes it.
//!
//! Invariant: nothing of the repository is changed or run. Objects are read by their ids, so no hook, filter or attribute has
//! a say; and what is written for a while is in a folder of one's own, never outside of it.

use std::fs::{self, DirBuilder};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail};

use super::output::printable;
use crate::manifests::Limits;

/// A revision's files, until this goes.
pub(super) struct Revision {
    folder: PathBuf,
}

impl Revision {
    /// Reads `REV:PATH` from the repository that one is in.
    ///
    /// # Errors
    /// If there is no git, no repository, no such revision or path, or if it is too large.
    pub(super) fn read(name: &str) -> anyhow::Result<Self> {
        git(&["rev-parse", "--git-dir"]).with_context(|| format!("{name} is neither here nor in a Git repository"))?;
        let Ok(id) = git(&["rev-parse", "--verify", "--quiet", "--end-of-options", name]) else {
            bail!(
                "there is no {name} in the Git repository: REV must be there (in a pipeline, fetch it), and PATH goes from \
                 the top of the repository, or from here as ./PATH"
            )
        };
        let kind = git(&["cat-file", "-t", &id])?;
        let path = name.split_once(':').map(|(_, path)| path).unwrap_or_default();
        let files = match kind.as_str() {
            "tree" => entries(&git(&["ls-tree", "-r", "-z", "--full-tree", &id])?)?,
            "blob" => {
                let file = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or("manifest.yaml");
                vec![Entry { is_link: false, id, path: file.into() }]
            }
            other => bail!("{name} is a {other}, and no folder or file: write REV:PATH, or REV:./ for all of it"),
        };
        let folder = std::env::temp_dir().join(format!("portcullis-{}", uuid::Uuid::now_v7()));
        // For us alone: what is in a repository is not everybody's.
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.with_context(|| format!("cannot make a folder in {}", std::env::temp_dir().display()))?;
        let revision = Self { folder };
        revision.write(&files).with_context(|| format!("cannot read {name}"))?;
        Ok(revision)
    }

    /// Where its files are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Links last: so that no file is ever written through one.
    fn write(&self, entries: &[Entry]) -> anyhow::Result<()> {
        let limits = Limits::default();
        if entries.len() > limits.files {
            bail!("it has more than {} files", limits.files);
        }
        let mut batch = Batch::start()?;
        let mut bytes = 0;
        let (links, files): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|entry| entry.is_link);
        for entry in files.into_iter().chain(links) {
            let content = batch.read(&entry.id, limits.file_bytes)?;
            bytes += content.len() as u64;
            if bytes > limits.total_bytes {
                bail!("it has more than {} bytes of manifests", limits.total_bytes);
            }
            let path = self.folder.join(&entry.path);
            let parent = path.parent().unwrap_or(&self.folder);
            fs::create_dir_all(parent).with_context(|| format!("cannot write {}", entry.path.display()))?;
            let written = match entry.is_link {
                true => symlink(String::from_utf8_lossy(&content).as_ref(), &path),
                false => fs::write(&path, &content),
            };
            written.with_context(|| format!("cannot write {}", entry.path.display()))?;
        }
        Ok(())
    }
}

impl Drop for Revision {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("warning: {} stays behind: {error}", self.folder.display());
        }
    }
}

/// A file of a tree.
struct Entry {
    is_link: bool,
    id: String,
    path: PathBuf,
}

/// The entries that could be manifests.
fn entries(listing: &str) -> anyhow::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for line in listing.split('\0').filter(|line| !line.is_empty()) {
        let (about, path) = line.split_once('\t').context("git ls-tree answers in another form than is known")?;
        let [mode, kind, id] = about.split(' ').collect::<Vec<_>>()[..] else {
            bail!("git ls-tree answers in another form than is known");
        };
        let path = PathBuf::from(path);
        let ends = path.extension().and_then(|end| end.to_str());
        if kind != "blob" || !ends.is_some_and(|end| ["yaml", "yml", "json"].contains(&end)) {
            continue;
        }
        if !path.components().all(|part| matches!(part, Component::Normal(_))) {
            bail!("{} is no path inside of the folder", printable(&path.display().to_string()));
        }
        found.push(Entry { is_link: mode == "120000", id: id.to_owned(), path });
    }
    Ok(found)
}

/// What git prints, without its last line break.
fn git(arguments: &[&str]) -> anyhow::Result<String> {
    let output = command(arguments).output().map_err(no_git)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it fails without a word");
        bail!("git: {}", printable(line.trim_start_matches("fatal: ")));
    }
    let text = String::from_utf8(output.stdout).context("a name in the repository is not UTF-8")?;
    Ok(text.trim_end_matches('\n').to_owned())
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(arguments).stdin(Stdio::null());
    command
}

fn no_git(error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            anyhow::anyhow!("revisions are read by git, which is not on the path: install it")
        }
        _ => anyhow::Error::new(error).context("git cannot be run"),
    }
}

/// One process that reads many objects.
struct Batch {
    child: std::process::Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Batch {
    fn start() -> anyhow::Result<Self> {
        let mut child = command(&["cat-file", "--batch"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(no_git)?;
        let questions = child.stdin.take().context("git takes no questions")?;
        let answers = child.stdout.take().context("git gives no answers")?;
        Ok(Self { child, questions, answers: BufReader::new(answers) })
    }

    /// One object of at most `most` bytes.
    fn read(&mut self, id: &str, most: u64) -> anyhow::Result<Vec<u8>> {
        writeln!(self.questions, "{id}").context("git has ended")?;
        let mut head = String::new();
        self.answers.read_line(&mut head).context("git has ended")?;
        let size = head.trim_end().rsplit(' ').next().and_then(|size| size.parse::<u64>().ok());
        let Some(size) = size else { bail!("git cannot read the object {id}: {}", printable(head.trim_end())) };
        if size > most {
            bail!("a file of {size} bytes is larger than the {most} that manifests may have");
        }
        let mut content = Vec::new();
        // And the line break behind it.
        self.answers.by_ref().take(size + 1).read_to_end(&mut content)?;
        if content.pop() != Some(b'\n') || content.len() as u64 != size {
            bail!("git has ended in the middle of the object {id}");
        }
        Ok(content)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // It has nothing to lose: it only reads.
        if self.child.kill().and_then(|()| self.child.wait()).is_err() {
            eprintln!("warning: git cannot be ended");
        }
    }
}
