//! Real MCP servers to put behind the gate.

use std::sync::Arc;

use serde_json::{Value, json};

use super::process::Process;
use super::rmcp_server::RmcpServer;
use super::seen::Seen;
use super::testbed;

/// The SDK that a server is built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sdk {
    /// npm `@modelcontextprotocol/sdk` 1.x: 2025 line.
    NpmSdk1,
    /// npm `@modelcontextprotocol/server` 2.x: both lines, no sessions.
    Npm2,
    /// PyPI `mcp` 1.x: 2025 line.
    Pypi1,
    /// PyPI `mcp` 2.x: both lines.
    Pypi2,
    /// The `rmcp` crate: both lines.
    Rmcp,
}

impl Sdk {
    pub(crate) const ALL: [Self; 5] = [Self::NpmSdk1, Self::Npm2, Self::Pypi1, Self::Pypi2, Self::Rmcp];

    /// Whether servers on it speak revision 2026-07-28.
    pub(crate) fn speaks_2026(self) -> bool {
        matches!(self, Self::Npm2 | Self::Pypi2 | Self::Rmcp)
    }
}

enum Running {
    Process(Process),
    InProcess(RmcpServer),
}

/// A server with the tools of `tests/servers/tools.json` on a loopback port of its own; it ends when dropped.
pub(crate) struct Upstream {
    url: String,
    seen: Arc<Seen>,
    running: Running,
}

impl Upstream {
    /// A server that keeps sessions where its SDK has them and answers in SSE where it can choose.
    pub(crate) fn start(sdk: Sdk) -> Self {
        Self::start_with(sdk, &json!({}))
    }

    /// `options`: `{"json": bool, "stateless": bool}`, see `tests/servers/README.md`.
    pub(crate) fn start_with(sdk: Sdk, options: &Value) -> Self {
        let mut command = match sdk {
            Sdk::NpmSdk1 => testbed::node("servers/sdk1.mjs"),
            Sdk::Npm2 => testbed::node("servers/npm2.mjs"),
            Sdk::Pypi1 => testbed::python(1, "servers/pypi1.py"),
            Sdk::Pypi2 => testbed::python(2, "servers/pypi2.py"),
            Sdk::Rmcp => return Self::start_rmcp(options),
        };
        command.arg(options.to_string());
        let process = Process::start(command);
        let ready = |line: &str| serde_json::from_str::<Value>(line).ok()?["ready"].as_u64();
        let port = process.wait_stdout("its port", 0, ready);
        let seen = Arc::new(Seen::new(process.shared_stdout()));
        Self { url: format!("http://127.0.0.1:{port}/mcp"), seen, running: Running::Process(process) }
    }

    fn start_rmcp(options: &Value) -> Self {
        let seen = Arc::new(Seen::new(Arc::default()));
        let server = RmcpServer::start(seen.clone(), options);
        Self { url: format!("http://{}/mcp", server.address()), seen, running: Running::InProcess(server) }
    }

    /// npm server-everything, which reports nothing: [`Self::seen`] stays empty.
    pub(crate) fn everything() -> Self {
        let ready = |process: &Process, port| process.stderr().contains(&format!("listening on port {port}"));
        let (process, port) = Process::retrying(testbed::everything, ready);
        let seen = Arc::new(Seen::new(Arc::default()));
        Self { url: format!("http://127.0.0.1:{port}/mcp"), seen, running: Running::Process(process) }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Lists these tools from now on, instead of those of `tests/servers/tools.json`; for [`Sdk::Rmcp`].
    pub(crate) fn set_tools(&self, tools: &Value) {
        match &self.running {
            Running::InProcess(server) => server.set_tools(tools),
            Running::Process(_) => panic!("its tools are in a file"),
        }
    }

    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Ends the server at once: its port then refuses connections.
    pub(crate) fn stop(&mut self) {
        match &mut self.running {
            Running::Process(process) => process.kill(),
            Running::InProcess(server) => server.stop(),
        }
    }
}
