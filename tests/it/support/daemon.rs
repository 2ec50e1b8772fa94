//! A program that ends with the test process, even if that is killed and nothing is dropped.
//!
//! A shell stands between: it holds the reading end of a pipe, and kills the program when the writing end, which only the
//! test process has, is closed by whatever ends it.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const KEEPER: &str = r#"
remove=$1; shift
"$@" </dev/null &
child=$!
echo $child >&3
exec 3>&-
while kill -0 $child 2>/dev/null; do
    read -r -t 1 _
    # More than 128: nothing was said for a second. Else the pipe is closed.
    [ $? -gt 128 ] || break
done
kill -9 $child 2>/dev/null
wait $child 2>/dev/null
[ -z "$remove" ] || rm -rf "$remove"
"#;

/// A running program. Dropping it kills it.
pub(crate) struct Daemon {
    keeper: Child,
    pid: u32,
}

impl Daemon {
    /// Starts `command`, whose words go to `log`; when it ends, `remove` is removed.
    pub(crate) fn start(command: Command, log: &Path, remove: Option<&Path>) -> Self {
        let pid_file = log.with_extension("pid");
        let mut keeper = Command::new("bash");
        keeper.args(["-c", &format!("exec 3>{:?}\n{KEEPER}", pid_file.display().to_string()), "keeper"]);
        keeper.arg(remove.unwrap_or(Path::new(""))).arg(command.get_program()).args(command.get_args());
        let log = File::options().create(true).append(true).open(log).unwrap();
        keeper.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        let keeper = keeper.spawn().unwrap();
        let pid = super::wait::until("the program to start", || {
            std::fs::read_to_string(&pid_file).ok()?.trim().parse::<u32>().ok()
        });
        std::fs::remove_file(pid_file).unwrap();
        Self { keeper, pid }
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.keeper.try_wait().unwrap().is_some()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()).status().unwrap();
        assert!(sent.success(), "kill -{name} {}", self.pid);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}
