//! Measures what a governed call costs over the bare forwarder: CPU per call, in turns, as ratios of medians.
//!
//! `compare GATEWAY-BINARY [ROUNDS] [SECONDS]`; without `GATEWAY-BINARY` (or with `-`) it measures the floor alone. The other
//! programs are taken from the folder that this one lies in; the journal goes to a temporary folder below the current one,
//! which must be on a real disk.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use portcullis_bench::{PATH, cpu_time, median, sync_cost};

const CONNECTIONS: usize = 64;
const PERSONS: usize = 6;

/// A measured or supporting process; it ends with its guard.
struct Running {
    child: Child,
    address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Starts `command` and waits for its line `.. listening on ADDR ..`.
fn start(command: &mut Command) -> Result<Running> {
    let mut child =
        command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?;
    let stdout = child.stdout.take().context("no stdout")?;
    let mut running = Running { child, address: String::new() };
    let mut lines = BufReader::new(stdout).lines();
    for line in lines.by_ref() {
        if let Some((_, address)) = line?.split_once("listening on ") {
            running.address = address.split_whitespace().next().context("no address")?.to_owned();
            // Whatever it prints later must not fill the pipe.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(running);
        }
    }
    bail!("{command:?} ended before it listened")
}

fn beside(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    Ok(me.parent().context("no folder")?.join(name))
}

/// One thing to measure.
struct Variant {
    name: &'static str,
    process: Running,
    tokens: Vec<String>,
    cpu_us: Vec<f64>,
    calls_per_second: Vec<f64>,
    p99_us: Vec<f64>,
}

impl Variant {
    fn new(name: &'static str, process: Running, tokens: Vec<String>) -> Self {
        Self { name, process, tokens, cpu_us: Vec::new(), calls_per_second: Vec::new(), p99_us: Vec::new() }
    }

    /// Puts load on it for `seconds`; keeps the result unless it is only to warm up.
    fn measure(&mut self, seconds: f64, keep: bool) -> Result<()> {
        let pid = self.process.child.id();
        let before = cpu_time(pid)?;
        let mut load = Command::new(beside("load")?);
        load.arg(&self.process.address).arg(CONNECTIONS.to_string()).arg(seconds.to_string()).args(&self.tokens);
        let run = load.stderr(Stdio::inherit()).output()?;
        let used = cpu_time(pid)? - before;
        ensure!(run.status.success(), "{}: the load generator failed", self.name);
        let report: serde_json::Value = serde_json::from_slice(&run.stdout)?;
        let number = |name: &str| report[name].as_f64().with_context(|| format!("no {name} in {report}"));
        ensure!(number("refused")? == 0.0, "{}: calls were refused: {report}", self.name);
        if keep {
            self.cpu_us.push(used.as_secs_f64() * 1e6 / number("calls")?);
            self.calls_per_second.push(number("calls")? / number("seconds")?);
            self.p99_us.push(number("p99_us")?);
        }
        Ok(())
    }
}

/// Starts the gateway before `upstream` with audit delivery `delivery`, state and manifests below `folder`, and issues one
/// token per person. This is the one place that knows the gateway's command line.
fn start_gateway(binary: &Path, delivery: &str, upstream: &str, folder: &Path) -> Result<(Running, Vec<String>)> {
    let (manifests, state) = (folder.join("manifests"), folder.join("state"));
    fs::create_dir_all(&manifests)?;
    let name = PATH.rsplit('/').next().unwrap_or_default();
    let namespace = PATH.split('/').nth(1).unwrap_or_default();
    let text = include_str!("../gateway.yaml")
        .replace("NAMESPACE", namespace)
        .replace("NAME", name)
        .replace("DELIVERY", delivery)
        .replace("UPSTREAM", &format!("http://{upstream}{PATH}"));
    fs::write(manifests.join("bench.yaml"), text)?;
    let common = |command: &mut Command| {
        command.arg("--manifests").arg(&manifests).arg("--state-dir").arg(&state);
    };
    let mut serve = Command::new(binary);
    serve.arg("standalone").args(["--listen", "127.0.0.1:0"]);
    common(&mut serve);
    let running = start(&mut serve)?;
    let mut tokens = Vec::new();
    for person in 0..PERSONS {
        let mut issue = Command::new(binary);
        issue.args(["token", "issue", "--subject", &format!("person-{person}"), "--group", "engineers"]);
        issue.args(["--server", &format!("{namespace}/{name}"), "-o", "json"]);
        common(&mut issue);
        let issued = issue.stderr(Stdio::inherit()).output()?;
        ensure!(issued.status.success(), "{issue:?} failed");
        let issued: serde_json::Value = serde_json::from_slice(&issued.stdout)?;
        tokens.push(issued["token"].as_str().context("no token was issued")?.to_owned());
    }
    Ok((running, tokens))
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let binary = arguments.next().filter(|path| path != "-").map(PathBuf::from);
    let rounds: usize = arguments.next().map_or(Ok(7), |n| n.parse())?;
    let seconds: f64 = arguments.next().map_or(Ok(4.0), |n| n.parse())?;
    let folder = tempfile::tempdir_in(".")?;
    let (sync_median, sync_p99) = sync_cost(folder.path())?;

    let upstream = start(&mut Command::new(beside("upstream")?))?;
    let floor = start(Command::new(beside("floor")?).arg(&upstream.address))?;
    // The forwarder carries a token of a usual size as well: what is compared is what is done with it.
    let mut variants = vec![Variant::new("floor", floor, vec!["x".repeat(600); PERSONS])];
    if let Some(binary) = &binary {
        for (name, delivery) in [("best_effort", "BestEffort"), ("durable", "Durable")] {
            let (gateway, tokens) = start_gateway(binary, delivery, &upstream.address, &folder.path().join(name))?;
            variants.push(Variant::new(name, gateway, tokens));
        }
    }
    for variant in &mut variants {
        variant.measure(1.0, false)?;
    }
    for round in 1..=rounds {
        for variant in &mut variants {
            eprintln!("round {round} of {rounds}: {}", variant.name);
            variant.measure(seconds, true)?;
        }
    }
    print_report(&variants, sync_median, sync_p99);
    Ok(())
}

fn print_report(variants: &[Variant], sync_median: f64, sync_p99: f64) {
    println!("{:<12} {:>12} {:>12} {:>12}", "", "CPU us/call", "calls/s", "p99 us");
    for v in variants {
        let (cpu, rate, p99) = (median(&v.cpu_us), median(&v.calls_per_second), median(&v.p99_us));
        println!("{:<12} {cpu:>12.1} {rate:>12.0} {p99:>12.0}", v.name);
    }
    println!("fdatasync of 4 KiB here: {sync_median:.0} us (p99 {sync_p99:.0} us)");
    if Duration::from_secs_f64(sync_median / 1e6) < Duration::from_micros(20) {
        println!("warning: a sync this cheap is no disk; run in a folder on a real one (a tmpfs sync is free)");
    }
    let [floor, governed @ ..] = variants else { return };
    for v in governed {
        println!("cpu_ratio_{} = {:.2}", v.name, median(&v.cpu_us) / median(&floor.cpu_us));
    }
}
