//! What a storey may take from outside the crate, judged on absolute paths (`["std", "fs", "read"]`).

use super::page::Storey;

/// A pure folder names none of these, nor anything below them.
const NOT_PURE: &[&[&str]] = &[
    &["tokio"],
    &["tokio_util"],
    &["tokio_rustls"],
    &["hyper"],
    &["hyper_util"],
    &["hyper_rustls"],
    &["tracing"],
    &["tracing_subscriber"],
    &["std", "env"],
    &["std", "fs"],
    &["std", "io", "stdin"],
    &["std", "io", "stdout"],
    &["std", "io", "stderr"],
    &["std", "net"],
    &["std", "os"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
];

/// Values, not sockets: judging an address is pure.
const ADDRESSES: &[&str] =
    &["AddrParseError", "IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6"];

/// Names that open a connection or resolve a name; `egress` alone may use them.
const DIALS: &[&str] =
    &["GaiResolver", "HttpConnector", "TcpSocket", "ToSocketAddrs", "UdpSocket", "UnixStream", "lookup_host"];

/// Who may hold a connection that was accepted.
const ACCEPTS: &[&str] = &["admission", "cli", "egress", "process", "proxy", "roles"];

const PRINTS: &[&str] = &["print", "println", "eprint", "eprintln"];

/// What is wrong with naming `path` in a pure folder. `glob`: the path was imported with `::*`.
pub(super) fn impure(path: &[String], glob: bool) -> Option<String> {
    let is_address = path.len() > 2 && path[1] == "net" && ADDRESSES.contains(&path[2].as_str());
    let path: Vec<&str> = path.iter().map(|s| if s == "core" { "std" } else { s.as_str() }).collect();
    for forbidden in NOT_PURE {
        if path.starts_with(forbidden) && !is_address {
            return Some(format!("is pure and may not name `{}`", forbidden.join("::")));
        }
        if glob && forbidden.starts_with(&path) {
            return Some(format!("is pure: the glob `{}::*` brings in `{}`", path.join("::"), forbidden.join("::")));
        }
    }
    match path.last() {
        Some(&"now" | &"now_v7" | &"now_v6") if path.len() > 1 => {
            Some(format!("is pure and may not ask the clock (`{}`)", path.join("::")))
        }
        _ => None,
    }
}

/// What is wrong with calling the macro `name` in a pure folder.
pub(super) fn impure_macro(name: &str) -> Option<String> {
    PRINTS.contains(&name).then(|| format!("is pure and may not print (`{name}!`)"))
}

/// What is wrong with naming `path` in `folder`, as far as sockets go.
pub(super) fn dials(folder: &str, path: &[String]) -> Option<String> {
    if folder == "egress" {
        return None;
    }
    let named = |name: &str| path.iter().any(|s| s == name);
    if let Some(name) = DIALS.iter().find(|name| named(name)) {
        return Some(format!("may not dial: `{name}` belongs to egress, which resolves, checks and pins"));
    }
    if named("TcpStream") && (!ACCEPTS.contains(&folder) || path.last().is_some_and(|s| s.starts_with("connect"))) {
        return Some("may not dial: `TcpStream` belongs to egress, which resolves, checks and pins".to_owned());
    }
    if named("TcpListener") && !ACCEPTS.contains(&folder) {
        return Some("may not listen: listeners belong to admission, proxy, process and roles".to_owned());
    }
    None
}

/// Everything that `storey` forbids about an outside path.
pub(super) fn outside(storey: Storey, folder: &str, path: &[String], glob: bool) -> Option<String> {
    let impure = if storey == Storey::Pure { impure(path, glob) } else { None };
    impure.or_else(|| dials(folder, path))
}
