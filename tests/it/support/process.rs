//! Child processes that cannot outlive their test, with all they wrote kept for assertions and failure messages.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::wait::until;

/// A running program. Dropping it kills it (SIGKILL) and waits for it.
pub(crate) struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Output,
    stderr: Output,
}

/// The lines of one stream so far, and whether it has ended.
struct Output {
    lines: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
}

/// A command for the `portcullis` binary under test.
pub(crate) fn portcullis() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.env_remove("RUST_LOG");
    command
}

fn collect(from: impl Read + Send + 'static) -> Output {
    let output = Output { lines: Arc::default(), ended: Arc::default() };
    let (lines, ended) = (output.lines.clone(), output.ended.clone());
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { break };
            lines.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
        }
        ended.store(true, Ordering::SeqCst);
    });
    output
}

impl Process {
    /// Starts `command` with its three streams piped.
    pub(crate) fn start(mut command: Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        let stdin = child.stdin.take();
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Self { name, child, stdin, stdout, stderr }
    }

    /// Starts a program that needs a port of its own, anew on another port while it ends before it is `ready`.
    pub(crate) fn retrying(command: impl Fn(u16) -> Command, ready: impl Fn(&Self, u16) -> bool) -> (Self, u16) {
        for _ in 0..5 {
            let port = super::ports::free_port();
            let mut process = Self::start(command(port));
            let up = until(&format!("{} to be ready", process.name), || {
                if ready(&process, port) { Some(true) } else { process.exit_status().map(|_| false) }
            });
            if up {
                return (process, port);
            }
            eprintln!("{} on port {port} ended early: {}", process.name, process.stderr());
        }
        panic!("no free port in five tries");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The growing list of lines on stdout.
    pub(crate) fn shared_stdout(&self) -> Arc<Mutex<Vec<String>>> {
        self.stdout.lines.clone()
    }

    /// All lines written to stdout so far.
    pub(crate) fn stdout_lines(&self) -> Vec<String> {
        self.stdout.lines.lock().unwrap().clone()
    }

    /// All of stdout so far.
    pub(crate) fn stdout(&self) -> String {
        self.stdout_lines().join("\n")
    }

    /// All of stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lines.lock().unwrap().join("\n")
    }

    /// Waits for the first stdout line, from line `from` on, that `pick` accepts. Fails early when the program has ended.
    pub(crate) fn wait_stdout<T>(&self, what: &str, from: usize, pick: impl Fn(&str) -> Option<T>) -> T {
        until(&format!("{} to print {what}", self.name), || {
            // Asked in this order: once the stream has ended, no line is on its way any more.
            let ended = self.stdout.ended.load(Ordering::SeqCst);
            let found = self.stdout_lines().iter().skip(from).find_map(|line| pick(line));
            assert!(found.is_some() || !ended, "{} ended without {what}: {}", self.name, self.stderr());
            found
        })
    }

    /// Writes one line to stdin; false when the program no longer reads.
    pub(crate) fn write_line(&mut self, line: &str) -> bool {
        self.stdin.as_mut().is_some_and(|stdin| writeln!(stdin, "{line}").and_then(|()| stdin.flush()).is_ok())
    }

    /// Ends stdin.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The exit status, if the program has ended.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the program to end by itself.
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let status = until(&format!("{} to end", self.name), || self.exit_status());
        // What it said last may still be on its way.
        let ended = |output: &Output| output.ended.load(Ordering::SeqCst);
        until(&format!("all that {} said", self.name), || (ended(&self.stdout) && ended(&self.stderr)).then_some(()));
        status
    }

    /// Sends a signal by name (`TERM`, `INT`, `HUP`, `STOP`, `CONT`).
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(sent.success(), "kill -{name} {}", self.pid());
    }

    /// Kills it as `kill -9` would, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            eprintln!("--- stdout of {}\n{}\n--- stderr\n{}", self.name, self.stdout(), self.stderr());
        }
    }
}
