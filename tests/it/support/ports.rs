//! A port is given to one test only, and to nobody else by the kernel: it stays that test's while its server is down.
//!
//! The kernel gives ports to whoever connects, or listens at port 0, from a range of its own. What must listen at the same port
//! again after it was gone, or is told its port by its command line, takes one from below that range.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Above what services of a machine have by custom.
const FIRST: u32 = 12_000;
/// Where the ports begin that Kubernetes gives to Services of type `NodePort`.
const END: u32 = 30_000;

/// A loopback port that nobody listens at, and that this process gives to nobody else.
pub(crate) fn free_port() -> u16 {
    listener().local_addr().unwrap().port()
}

/// A listener at such a port.
pub(crate) fn listener() -> TcpListener {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let all = end().saturating_sub(FIRST);
    // Tests of other processes begin elsewhere, so that they seldom meet.
    let offset = std::process::id().wrapping_mul(613);
    let candidates = std::iter::repeat_with(|| TAKEN.fetch_add(1, Ordering::SeqCst)).take(all as usize);
    let mut ports = candidates.map(|next| FIRST + offset.wrapping_add(next) % all);
    ports
        .find_map(|port| TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())).ok())
        .unwrap_or_else(|| panic!("no port is free between {FIRST} and {}", end()))
}

fn end() -> u32 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).map_or(END, |first: u32| first.min(END))
}
