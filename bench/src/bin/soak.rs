//! Puts an hour of load on one gateway with `Durable` audit and watches its memory.
//!
//! `soak GATEWAY-BINARY [SECONDS]` prints resident memory after each of twenty slices, then `rss_growth_mib = x`: from the end
//! of the fifth slice, when pools and caches are warm, to the end. More than a tenth and 2 MiB fails.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use portcullis_bench::gateway::start_gateway;
use portcullis_bench::resident_mib;
use portcullis_bench::running::{beside, put_load, start};

const SLICES: usize = 20;
const WARM: usize = 5;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let binary = PathBuf::from(arguments.next().context("usage: soak GATEWAY-BINARY [SECONDS]")?);
    let seconds: f64 = arguments.next().map_or(Ok(3600.0), |n| n.parse())?;
    let folder = tempfile::tempdir_in(".")?;
    let upstream = start(&mut Command::new(beside("upstream")?))?;
    let (gateway, tokens) = start_gateway(&binary, "Durable", &upstream.address, folder.path())?;
    println!("idle: {:.1} MiB", resident_mib(gateway.pid())?);
    let mut resident = Vec::new();
    for slice in 1..=SLICES {
        let load = put_load(&gateway.address, seconds / SLICES as f64, &tokens)?;
        let now = resident_mib(gateway.pid())?;
        println!("{slice:>3} of {SLICES}: {now:.1} MiB after {:.0} calls/s", load.calls / load.seconds);
        resident.push(now);
    }
    let (warm, end) = (resident[WARM - 1], resident[SLICES - 1]);
    println!("rss_growth_mib = {:.1}", end - warm);
    ensure!(end - warm <= warm / 10.0 + 2.0, "memory grew from {warm:.1} to {end:.1} MiB under steady load");
    Ok(())
}
