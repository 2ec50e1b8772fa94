//! The load generator: connections that each send the next call as soon as the last one is answered, with the tokens in
//! rotation. Requests are rendered once, so that most of the machine is left to what is measured.
//!
//! `load HOST:PORT CONNECTIONS SECONDS [TOKEN..]` prints `{"calls", "refused", "seconds", "p50_us", "p99_us"}`. Calls that
//! were not answered with a result count as refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use portcullis_bench::{CALL, HEADERS, PATH, quantile};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Default)]
struct Tally {
    calls: u64,
    refused: u64,
    latencies: Vec<f64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: load HOST:PORT CONNECTIONS SECONDS [TOKEN..]";
    let address = arguments.next().context(usage)?;
    let connections: usize = arguments.next().context(usage)?.parse()?;
    let seconds: f64 = arguments.next().context(usage)?.parse()?;
    let tokens: Vec<String> = arguments.collect();
    let requests: Arc<Vec<Vec<u8>>> = Arc::new(render(&address, &tokens));

    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds);
    let mut tasks = Vec::new();
    for n in 0..connections {
        tasks.push(tokio::spawn(drive(address.clone(), requests.clone(), n, end)));
    }
    let mut total = Tally::default();
    for task in tasks {
        let tally = task.await??;
        total.calls += tally.calls;
        total.refused += tally.refused;
        total.latencies.extend(tally.latencies);
    }
    let report = serde_json::json!({
        "calls": total.calls,
        "refused": total.refused,
        "seconds": start.elapsed().as_secs_f64(),
        "p50_us": quantile(&mut total.latencies, 0.5),
        "p99_us": quantile(&mut total.latencies, 0.99),
    });
    println!("{report}");
    Ok(())
}

fn render(address: &str, tokens: &[String]) -> Vec<Vec<u8>> {
    let length = CALL.len();
    let render = |authorization: String| {
        let head = format!("POST {PATH} HTTP/1.1\r\nHost: {address}\r\n{authorization}{HEADERS}");
        format!("{head}Content-Length: {length}\r\n\r\n{CALL}").into_bytes()
    };
    match tokens {
        [] => vec![render(String::new())],
        some => some.iter().map(|token| render(format!("Authorization: Bearer {token}\r\n"))).collect(),
    }
}

async fn drive(address: String, requests: Arc<Vec<Vec<u8>>>, first: usize, end: Instant) -> Result<Tally> {
    let mut stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
    let mut tally = Tally::default();
    let mut buffer = Vec::with_capacity(16 * 1024);
    for request in requests.iter().cycle().skip(first) {
        let start = Instant::now();
        if start >= end {
            break;
        }
        stream.write_all(request).await?;
        let good = read_answer(&mut stream, &mut buffer).await?;
        tally.calls += 1;
        tally.refused += u64::from(!good);
        tally.latencies.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(tally)
}

/// Reads one response; whether it carries a result.
async fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<bool> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            bail!("the connection was closed after {:?}", String::from_utf8_lossy(buffer));
        }
        let Some(head) = find(buffer, b"\r\n\r\n").map(|at| at + 4) else { continue };
        let (headers, body) = buffer.split_at(head);
        if is_whole(headers, body)? {
            return Ok(headers.starts_with(b"HTTP/1.1 200") && find(body, br#""isError":false"#).is_some());
        }
    }
}

fn is_whole(headers: &[u8], body: &[u8]) -> Result<bool> {
    let headers = std::str::from_utf8(headers)?.to_ascii_lowercase();
    if let Some(length) = headers.split("\r\n").find_map(|line| line.strip_prefix("content-length:")) {
        return Ok(body.len() >= length.trim().parse::<usize>()?);
    }
    Ok(body.ends_with(b"0\r\n\r\n"))
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
