//! Stock MCP clients, driven step by step so that a test can act between two calls.
//!
//! A process whose session was closed is kept for the next one, since an SDK takes a second of a core to load.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::login::Login;
use super::process::Process;
use super::rmcp_client::RmcpClient;
use super::testbed;

/// A protocol line: the revisions with a handshake, or 2026-07-28.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Y2025,
    Y2026,
}

/// A released client and the line that it is told to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stock {
    /// npm `@modelcontextprotocol/sdk` 1.x.
    NpmSdk1,
    /// npm `@modelcontextprotocol/client` 2.x.
    Npm2(Line),
    /// PyPI `mcp` 1.x.
    Pypi1,
    /// PyPI `mcp` 2.x.
    Pypi2(Line),
    /// The `rmcp` crate.
    Rmcp(Line),
}

impl Stock {
    pub(crate) const ALL: [Self; 8] = [
        Self::NpmSdk1,
        Self::Npm2(Line::Y2025),
        Self::Npm2(Line::Y2026),
        Self::Pypi1,
        Self::Pypi2(Line::Y2025),
        Self::Pypi2(Line::Y2026),
        Self::Rmcp(Line::Y2025),
        Self::Rmcp(Line::Y2026),
    ];

    pub(crate) fn line(self) -> Line {
        match self {
            Self::NpmSdk1 | Self::Pypi1 => Line::Y2025,
            Self::Npm2(line) | Self::Pypi2(line) | Self::Rmcp(line) => line,
        }
    }
}

/// What a client says went wrong, as far as its SDK tells.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The JSON-RPC error code, or for some SDKs the HTTP status.
    pub(crate) code: Option<i64>,
    pub(crate) message: String,
}

enum Driven {
    Process(Box<Driver>),
    Rmcp(Box<RmcpClient>),
}

/// Processes that wait for another session. They end with their stdin, so with this process.
static IDLE: Mutex<Vec<Driver>> = Mutex::new(Vec::new());

struct Driver {
    script: &'static str,
    process: Process,
    /// Lines that were read.
    answered: usize,
    login: Option<Login>,
}

/// A connected client; dropping it ends it.
pub(crate) struct Client {
    driven: Driven,
    about: Value,
}

impl Client {
    /// Connects to `url`, with `token` as bearer when there is one.
    pub(crate) fn connect(stock: Stock, url: &str, token: Option<&str>) -> Result<Self, Failure> {
        Self::start(stock, url, token, None)
    }

    /// Connects to `url` without a token: the client finds out what to do about that.
    pub(crate) fn log_in(stock: Stock, url: &str, login: Login) -> Result<Self, Failure> {
        Self::start(stock, url, None, Some(login))
    }

    fn start(stock: Stock, url: &str, token: Option<&str>, login: Option<Login>) -> Result<Self, Failure> {
        if let Stock::Rmcp(line) = stock {
            let (client, about) = match login {
                None => RmcpClient::connect(url, token, line)?,
                Some(login) => RmcpClient::log_in(url, line, login)?,
            };
            return Ok(Self { driven: Driven::Rmcp(Box::new(client)), about });
        }
        let line = if stock.line() == Line::Y2025 { "2025" } else { "2026" };
        let mut first = json!({"url": url, "token": token, "line": line});
        if let Some(login) = &login {
            first["login"] = login.told();
        }
        let mut driven = Driven::Process(Box::new(Driver::of(stock, login)));
        let about = driven.ask(&first)?["ok"].take();
        Ok(Self { driven, about })
    }

    /// `protocolVersion`, `serverInfo`, `capabilities` as the SDK tells them.
    pub(crate) fn about(&self) -> &Value {
        &self.about
    }

    /// The definitions of all tools that the client is shown, over all pages.
    pub(crate) fn tools(&mut self) -> Result<Vec<Value>, Failure> {
        let tools = match &mut self.driven {
            Driven::Rmcp(client) => client.list()?,
            process @ Driven::Process(..) => process.ask(&json!({"op": "list"}))?["ok"]["tools"].take(),
        };
        Ok(tools.as_array().unwrap().clone())
    }

    /// The names of all tools that the client is shown, in order.
    pub(crate) fn tool_names(&mut self) -> Result<Vec<String>, Failure> {
        Ok(self.tools()?.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect())
    }

    /// The result of `tools/call`, `isError` results included.
    pub(crate) fn call(&mut self, name: &str, arguments: &Value) -> Result<Value, Failure> {
        match &mut self.driven {
            Driven::Rmcp(client) => client.call(name, arguments),
            process @ Driven::Process(..) => {
                Ok(process.ask(&json!({"op": "call", "name": name, "arguments": arguments}))?["ok"].take())
            }
        }
    }

    /// A call that asks for progress: the result, and the progress values that came before it. Not for `rmcp`.
    pub(crate) fn call_with_progress(&mut self, name: &str, arguments: &Value) -> Result<(Value, Vec<f64>), Failure> {
        let mut answer =
            self.driven.ask(&json!({"op": "call", "name": name, "arguments": arguments, "progress": true}))?;
        let progress = answer["progress"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect();
        Ok((answer["ok"].take(), progress))
    }

    /// `ping`, which only the 2025 line has.
    pub(crate) fn ping(&mut self) -> Result<(), Failure> {
        match &mut self.driven {
            Driven::Rmcp(client) => client.ping(),
            process @ Driven::Process(..) => process.ask(&json!({"op": "ping"})).map(drop),
        }
    }

    /// Ends the session as the SDK does when its user is done, and waits for that.
    pub(crate) fn close(self) {
        if let Driven::Process(mut driver) = self.driven {
            let ended = driver.exchange(&json!({"op": "end"}));
            assert_eq!(ended, json!({"ok": null}), "the client failed while closing: {}", driver.process.stderr());
            IDLE.lock().unwrap().push(*driver);
        }
    }
}

impl Driven {
    fn ask(&mut self, message: &Value) -> Result<Value, Failure> {
        let Self::Process(driver) = self else { panic!("rmcp has no driver to ask") };
        let mut answer = driver.exchange(message);
        while let Some(url) = answer["authorize"].as_str() {
            let login = driver.login.as_mut().unwrap_or_else(|| panic!("nobody is there to log in at {url}"));
            let back = match login.open(url) {
                Ok(callback) => json!({"callback": callback}),
                Err(page) => json!({"page": page}),
            };
            answer = driver.exchange(&back);
        }
        match answer.get("error") {
            None => Ok(answer),
            Some(error) => Err(Failure {
                code: error["code"].as_i64(),
                message: error["message"].as_str().unwrap_or_default().to_owned(),
            }),
        }
    }
}

impl Driver {
    /// A process that has no session.
    fn of(stock: Stock, login: Option<Login>) -> Self {
        let script = match stock {
            Stock::NpmSdk1 => "clients/sdk1.mjs",
            Stock::Npm2(_) => "clients/npm2.mjs",
            Stock::Pypi1 => "clients/pypi1.py",
            Stock::Pypi2(_) => "clients/pypi2.py",
            Stock::Rmcp(_) => unreachable!("rmcp is driven in this process"),
        };
        let idle = {
            let mut idle = IDLE.lock().unwrap();
            idle.iter().position(|driver| driver.script == script).map(|at| idle.swap_remove(at))
        };
        let start = || {
            let command = match stock {
                Stock::Pypi1 => testbed::python(1, script),
                Stock::Pypi2(_) => testbed::python(2, script),
                _ => testbed::node(script),
            };
            Self { script, process: Process::start(command), answered: 0, login: None }
        };
        Self { login, ..idle.unwrap_or_else(start) }
    }

    /// A line, and the line that follows it.
    fn exchange(&mut self, message: &Value) -> Value {
        let process = &mut self.process;
        assert!(process.write_line(&message.to_string()), "the client has ended: {}", process.stderr());
        let next = |line: &str| serde_json::from_str(line).ok();
        let answer: Value = process.wait_stdout("an answer", self.answered, next);
        self.answered = process.stdout_lines().len();
        answer
    }
}

/// The `{"tool", "arguments"}` that a test-bed tool answered with.
pub(crate) fn echoed(result: &Value) -> Value {
    let text = result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text in {result}"));
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}
