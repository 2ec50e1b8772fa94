//! What the bench's programs share: the call that is measured, the cost of a process, and of a disk.
//!
//! Method (hot-path measurements need all of it): the bare forwarder and the gateway take turns, so that a machine that gets
//! slower or faster meanwhile does so for both; medians are compared; CPU time is read from the kernel for the measured
//! process alone, since load generator and upstream share the cores; and the journal lies on a real disk.

pub mod gateway;
pub mod running;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The path that every program serves the measured endpoint at.
pub const PATH: &str = "/bench/calls";

/// The body of the measured `tools/call`, of revision 2026-07-28.
pub const CALL: &str = concat!(
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_issue","arguments":{"repo":"acme/widgets","#,
    r#""number":4711,"fields":["title","state","labels"],"comment":"Please have a look at the widget's left side."},"#,
    r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
    r#""io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1.0.0"},"#,
    r#""io.modelcontextprotocol/clientCapabilities":{}}}}"#
);

/// The headers that mirror [`CALL`], and those that every MCP client sends.
pub const HEADERS: &str = concat!(
    "Content-Type: application/json\r\n",
    "Accept: application/json, text/event-stream\r\n",
    "MCP-Protocol-Version: 2026-07-28\r\n",
    "Mcp-Method: tools/call\r\n",
    "Mcp-Name: get_issue\r\n",
);

/// What the upstream answers.
pub const ANSWER: &str = concat!(
    r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","isError":false,"content":[{"type":"text","text":"#,
    r#""{\"number\":4711,\"title\":\"The left side is askew\",\"state\":\"open\",\"labels\":[\"bug\",\"widgets\"]}"}]}}"#
);

/// CPU time (user and system) that process `pid` has used, in all its threads.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    // The second field is the program's name in parentheses, which may hold spaces; the CPU times are fields 14 and 15.
    let after_name = stat.rsplit_once(')').context("no name in /proc/<pid>/stat")?.1;
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    // USER_HZ is 100 on every Linux that Rust runs on.
    Ok(Duration::from_millis(ticks * 10))
}

/// Resident memory of process `pid`, in MiB.
pub fn resident_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// The median; the mean of the two middle values when there is no single one.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The value below which `share` of the values lie.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// What one `fdatasync` after a write of 4 KiB takes in `folder`, in microseconds: median and 99th percentile.
pub fn sync_cost(folder: &Path) -> Result<(f64, f64)> {
    const BLOCK: usize = 4096;
    const TIMES: u64 = 300;
    let path = folder.join("sync-cost");
    let mut file = File::create(&path)?;
    // Written and synced once before: what is measured is the sync, not the allocation of space.
    file.write_all(&vec![0; BLOCK * TIMES as usize])?;
    file.sync_all()?;
    let mut costs = Vec::new();
    for n in 0..TIMES {
        file.seek(SeekFrom::Start(n * BLOCK as u64))?;
        file.write_all(&[1; BLOCK])?;
        let start = Instant::now();
        file.sync_data()?;
        costs.push(start.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(&path)?;
    Ok((median(&costs), quantile(&mut costs, 0.99)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(quantile(&mut [5.0, 1.0, 3.0], 1.0), 5.0);
    }

    #[test]
    fn work_shows_in_cpu_time() {
        let pid = std::process::id();
        let before = cpu_time(pid).unwrap();
        let start = Instant::now();
        let mut sum = 0_u64;
        while start.elapsed() < Duration::from_millis(200) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_time(pid).unwrap() > before);
        assert!(cpu_time(u32::MAX).is_err());
        assert!(resident_mib(pid).unwrap() > 0.5);
    }

    #[test]
    fn the_measured_bodies_are_json() {
        let call: serde_json::Value = serde_json::from_str(CALL).unwrap();
        assert_eq!(call["params"]["name"], "get_issue");
        let answer: serde_json::Value = serde_json::from_str(ANSWER).unwrap();
        assert_eq!(answer["id"], call["id"]);
    }
}
