//! Measures what a governed call costs over the bare forwarder: CPU per call, in turns, as ratios of medians.
//!
//! `compare GATEWAY-BINARY [ROUNDS] [SECONDS]`; without `GATEWAY-BINARY` (or with `-`) it measures the floor alone. The other
//! programs are taken from the folder that this one lies in; the journal goes to a temporary folder below the current one,
//! which must be on a real disk.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use portcullis_bench::gateway::start_gateway;
use portcullis_bench::running::{PERSONS, Running, beside, put_load, start};
use portcullis_bench::{cpu_time, median, sync_cost};

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
        let pid = self.process.pid();
        let before = cpu_time(pid)?;
        let load = put_load(&self.process.address, seconds, &self.tokens).context(self.name)?;
        let used = cpu_time(pid)? - before;
        if keep {
            self.cpu_us.push(used.as_secs_f64() * 1e6 / load.calls);
            self.calls_per_second.push(load.calls / load.seconds);
            self.p99_us.push(load.p99_us);
        }
        Ok(())
    }
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
