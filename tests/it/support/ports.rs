//! A port is given to one test only, and to nobody else by the kernel: it stays that test's while its server is down.
//!
//! The kernel gives ports to whoever connects, or listens at port 0, from a range of its own. What must listen at the same port
//! again after it was gone, or is told its port by its command line, takes one from below that range.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, Socket, Type};

/// Above what services of a machine have by custom.
const FIRST: u32 = 12_000;
/// Where the ports begin that Kubernetes gives to Services of type `NodePort`.
const END: u32 = 30_000;

/// A loopback port that nobody listens at, and that this process gives to nobody else.
pub(crate) fn free_port() -> u16 {
    // It is bound, and never listens: a process that another test starts just now has a copy of the socket for a moment, and
    // nobody who binds as servers do is kept out by that.
    free(|port| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).ok().map(|()| port)
    })
}

/// A listener at such a port.
pub(crate) fn listener() -> TcpListener {
    free(|port| TcpListener::bind(("127.0.0.1", port)).ok())
}

/// What can be made of the first such port of which it can be made.
fn free<T>(make: impl Fn(u16) -> Option<T>) -> T {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let all = end().saturating_sub(FIRST);
    // Tests of other processes begin elsewhere, so that they seldom meet.
    let offset = std::process::id().wrapping_mul(613);
    let candidates = std::iter::repeat_with(|| TAKEN.fetch_add(1, Ordering::SeqCst)).take(all as usize);
    let mut ports = candidates.map(|next| FIRST + offset.wrapping_add(next) % all);
    ports
        .find_map(|port| make(u16::try_from(port).unwrap()))
        .unwrap_or_else(|| panic!("no port is free between {FIRST} and {}", end()))
}

fn end() -> u32 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).map_or(END, |first: u32| first.min(END))
}
