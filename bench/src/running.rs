//! The processes of a measurement, and the load that is put on them.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

const CONNECTIONS: usize = 64;

/// How many tokens are in rotation.
pub const PERSONS: usize = 6;

/// A measured or supporting process; it ends with its guard.
pub struct Running {
    child: Child,
    /// Where it listens, as `host:port`.
    pub address: String,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Starts `command` and waits for its line `.. listening on ADDR ..` on standard output.
pub fn start(command: &mut Command) -> Result<Running> {
    let mut child =
        command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?;
    let stdout = child.stdout.take().context("no stdout")?;
    let address = |line: &str| Some(line.split_once("listening on ")?.1.split_whitespace().next()?.to_owned());
    wait(child, stdout, address)
}

/// Starts the gateway and waits for its log line `serving`.
pub fn start_gateway(command: &mut Command) -> Result<Running> {
    let mut child =
        command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?;
    let stderr = child.stderr.take().context("no stderr")?;
    wait(child, stderr, |line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let fields = if line["fields"].is_object() { &line["fields"] } else { &line };
        (fields["message"] == "serving").then(|| fields["address"].as_str().map(str::to_owned))?
    })
}

fn wait(child: Child, output: impl Read + Send + 'static, address: impl Fn(&str) -> Option<String>) -> Result<Running> {
    let mut running = Running { child, address: String::new() };
    let mut lines = BufReader::new(output).lines();
    for line in lines.by_ref() {
        let line = line?;
        if let Some(address) = address(&line) {
            running.address = address;
            // Whatever it prints later must not fill the pipe.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(running);
        }
        eprintln!("{line}");
    }
    bail!("it ended before it listened")
}

/// The path of the program `name` of this package.
pub fn beside(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    Ok(me.parent().context("no folder")?.join(name))
}

/// What the load generator counted.
pub struct Load {
    pub calls: f64,
    pub seconds: f64,
    pub p99_us: f64,
}

/// Puts load on `address` for `seconds`, with `tokens` in rotation; a refused call is an error.
pub fn put_load(address: &str, seconds: f64, tokens: &[String]) -> Result<Load> {
    let mut load = Command::new(beside("load")?);
    load.arg(address).arg(CONNECTIONS.to_string()).arg(seconds.to_string()).args(tokens);
    let run = load.stderr(Stdio::inherit()).output()?;
    ensure!(run.status.success(), "the load generator failed");
    let report: serde_json::Value = serde_json::from_slice(&run.stdout)?;
    let number = |name: &str| report[name].as_f64().with_context(|| format!("no {name} in {report}"));
    ensure!(number("refused")? == 0.0, "calls were refused: {report}");
    Ok(Load { calls: number("calls")?, seconds: number("seconds")?, p99_us: number("p99_us")? })
}
