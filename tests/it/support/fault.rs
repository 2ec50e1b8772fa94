//! A hop over HTTP/1.1 in front of an authorization server, which fails as a test tells it to: between a client that holds
//! credentials and a server that has made them, every place where an answer can be lost.
//!
//! `Host` is passed on as it came, so that a server that derives its URLs from it has the hop's, and nobody finds a way
//! around. Faults are rules for requests of a method below a path; the last rule that applies to a request decides.

mod message;

use std::collections::BTreeMap;
use std::io::{self, BufReader};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::SockRef;

use super::wait::until;
use message::Message;

/// What happens to a request.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The connection is reset, and the server hears nothing.
    Reset,
    /// The server does what it is asked, and its answer is lost: the connection is reset.
    LoseAnswer,
    /// This is answered, and the server hears nothing.
    Instead(Answer),
    /// This status and an OAuth error are answered that repeat every credential of the request, and the server hears nothing.
    Repeated(u16),
    /// The server does what it is asked, and this is answered.
    Replaced(Answer),
    /// The server is asked after this long.
    Slow(Duration),
    /// This is called before the server is asked.
    Before(Call),
    /// This is called, the connection is reset, and the server hears nothing.
    BeforeReset(Call),
    /// This is called once the server has answered, before the client hears of it.
    After(Call),
}

/// What a test does in the middle of a request.
pub(crate) type Call = Arc<dyn Fn() + Send + Sync>;

/// An answer that no server gave.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    /// A status, and an OAuth error as its body.
    pub(crate) fn status(status: u16) -> Self {
        Self::json(status, r#"{"error":"temporarily_unavailable"}"#)
    }

    /// A status and a body that calls itself JSON.
    pub(crate) fn json(status: u16, body: &str) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self { status, headers, body: body.to_owned() }
    }

    /// A JSON object of at least so many bytes.
    pub(crate) fn huge(bytes: usize) -> Self {
        Self::json(200, &format!(r#"{{"padding":"{}"}}"#, "x".repeat(bytes)))
    }

    /// 302 to this URL.
    pub(crate) fn redirect(to: &str) -> Self {
        Self::status(302).with("location", to)
    }

    /// 429, to be tried again after some seconds.
    pub(crate) fn too_many(seconds: u32) -> Self {
        Self::status(429).with("retry-after", &seconds.to_string())
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Which requests a fault is for.
#[derive(Clone, Debug)]
pub(crate) struct Matching {
    method: &'static str,
    prefix: String,
    /// What stands in it, if that matters.
    text: Option<String>,
    nth: Option<usize>,
}

impl Matching {
    /// Every request of `method` (empty: of any) whose path starts with `prefix`.
    pub(crate) fn every(method: &'static str, prefix: &str) -> Self {
        Self { method, prefix: prefix.to_owned(), text: None, nth: None }
    }

    /// Of those, the `nth` from now on, counted from 1.
    pub(crate) fn nth(method: &'static str, prefix: &str, nth: usize) -> Self {
        Self { nth: Some(nth), ..Self::every(method, prefix) }
    }

    /// Of those, the ones in which this stands.
    pub(crate) fn with(self, text: &str) -> Self {
        Self { text: Some(text.to_owned()), ..self }
    }

    fn is_about(&self, method: &str, path: &str) -> bool {
        // A search for what many clients have in common (at Keycloak) is about none of them.
        let is_below = path.strip_prefix(&self.prefix).is_some_and(|below| !below.starts_with("?search="));
        (self.method.is_empty() || self.method == method) && is_below
    }
}

struct Rule {
    matching: Matching,
    matched: usize,
    fault: Fault,
    fired: Arc<AtomicUsize>,
}

/// A request that came to the hop.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    pub(crate) at: Instant,
    /// As the server answered; nothing if it was not asked, or did not answer.
    pub(crate) status: Option<u16>,
}

/// Rules, and what they were applied to.
#[derive(Default)]
struct State {
    /// `host:port` of the server, once it is there.
    server: Mutex<Option<String>>,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    /// Every request and every answer, whole.
    passed: Mutex<Vec<String>>,
    /// Connections of clients, to be shut when the hop goes down.
    open: Mutex<BTreeMap<u64, TcpStream>>,
}

/// How often a rule was applied.
pub(crate) struct Fired(Arc<AtomicUsize>);

impl Fired {
    pub(crate) fn times(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// The running hop. Dropping it ends it.
pub(crate) struct Hop {
    port: u16,
    state: Arc<State>,
    accepting: Mutex<Option<Accepting>>,
}

struct Accepting {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Hop {
    /// A hop that resets every connection until [`Self::lead_to`]: its URL is known before its server starts.
    pub(crate) fn start() -> Self {
        let listener = super::ports::listener();
        let port = listener.local_addr().unwrap().port();
        let hop = Self { port, state: Arc::default(), accepting: Mutex::default() };
        hop.accept(listener);
        hop
    }

    /// Leads to the server at `address` (`host:port`) from now on.
    pub(crate) fn lead_to(&self, address: &str) {
        *self.state.server.lock().unwrap() = Some(address.to_owned());
    }

    /// Its origin, `http://127.0.0.1:port`.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on, this happens to those requests.
    pub(crate) fn fault(&self, matching: Matching, fault: Fault) -> Fired {
        let fired = Arc::new(AtomicUsize::new(0));
        let rule = Rule { matching, matched: 0, fault, fired: fired.clone() };
        self.state.rules.lock().unwrap().push(rule);
        Fired(fired)
    }

    /// Forgets every fault.
    pub(crate) fn heal(&self) {
        self.state.rules.lock().unwrap().clear();
    }

    /// Every request so far, in the order in which they came.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Every request and every answer so far, whole: what a test looks for secrets in.
    pub(crate) fn passed(&self) -> Vec<String> {
        self.state.passed.lock().unwrap().clone()
    }

    /// How many requests of `method` (empty: of any) came whose path starts with `prefix`.
    pub(crate) fn count(&self, method: &'static str, prefix: &str) -> usize {
        let matching = Matching::every(method, prefix);
        self.seen().iter().filter(|seen| matching.is_about(&seen.method, &seen.path)).count()
    }

    /// Refuses connections from now on, and closes those that there are.
    pub(crate) fn down(&self) {
        let Some(Accepting { stop, thread }) = self.accepting.lock().unwrap().take() else { return };
        stop.store(true, Ordering::SeqCst);
        // Wakes it from waiting.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        thread.join().unwrap();
        for (_, stream) in std::mem::take(&mut *self.state.open.lock().unwrap()) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Listens again, at the same address.
    pub(crate) fn up(&self) {
        let bind = || TcpListener::bind(("127.0.0.1", self.port)).ok();
        self.accept(until("the hop's port to be free", bind));
    }

    fn accept(&self, listener: TcpListener) {
        let (stop, state) = (Arc::new(AtomicBool::new(false)), self.state.clone());
        let stopping = stop.clone();
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let state = state.clone();
                thread::spawn(move || serve(&state, stream));
            }
        });
        *self.accepting.lock().unwrap() = Some(Accepting { stop, thread });
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.down();
    }
}

/// How a connection ends.
enum End {
    Closed,
    Reset,
}

fn serve(state: &State, stream: TcpStream) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let open = Open { state, id: NEXT.fetch_add(1, Ordering::Relaxed) };
    if let Ok(shut) = stream.try_clone() {
        state.open.lock().unwrap().insert(open.id, shut);
    }
    if let Ok(End::Reset) = converse(state, &stream) {
        drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
    }
}

/// A connection's second descriptor, which must not outlive the first: the connection ends with the last of them.
struct Open<'a> {
    state: &'a State,
    id: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.state.open.lock().unwrap().remove(&self.id);
    }
}

/// Requests and answers, until one side has enough.
fn converse(state: &State, stream: &TcpStream) -> io::Result<End> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = Message::read(&mut reader, None)? {
        let answer = match state.treat(&request) {
            Some(answer) => answer,
            None => return Ok(End::Reset),
        };
        answer.write(&mut &*stream, &[])?;
    }
    Ok(End::Closed)
}

impl State {
    /// What a request is answered with; nothing if its connection is to be reset.
    fn treat(&self, request: &Message) -> Option<Message> {
        let (method, path) = request.asks_for()?;
        let (method, path) = (method.to_owned(), path.to_owned());
        let place = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(Seen { method: method.clone(), path: path.clone(), at: Instant::now(), status: None });
            seen.len() - 1
        };
        match self.decide(&method, &path, request) {
            None => self.ask(request, place),
            Some(Fault::Reset) => None,
            Some(Fault::LoseAnswer) => {
                self.ask(request, place);
                None
            }
            Some(Fault::Instead(answer)) => Some(answer.into()),
            Some(Fault::Repeated(status)) => {
                let said = json!({"error": "invalid_client", "error_description": request.credentials().join(" ")});
                let answer: Message = Answer::json(status, &said.to_string()).into();
                self.passed.lock().unwrap().extend([request.text(), answer.text()]);
                Some(answer)
            }
            Some(Fault::Replaced(answer)) => self.ask(request, place).map(|_| answer.into()),
            Some(Fault::Slow(pause)) => {
                thread::sleep(pause);
                self.ask(request, place)
            }
            Some(Fault::Before(call)) => {
                call();
                self.ask(request, place)
            }
            Some(Fault::BeforeReset(call)) => {
                call();
                None
            }
            Some(Fault::After(call)) => {
                let answer = self.ask(request, place);
                call();
                answer
            }
        }
    }

    fn decide(&self, method: &str, path: &str, request: &Message) -> Option<Fault> {
        let mut decided = None;
        let is_meant = |matching: &Matching| {
            matching.is_about(method, path) && matching.text.as_ref().is_none_or(|text| request.text().contains(text))
        };
        for rule in self.rules.lock().unwrap().iter_mut().filter(|rule| is_meant(&rule.matching)) {
            rule.matched += 1;
            if rule.matching.nth.is_none_or(|nth| nth == rule.matched) {
                decided = Some((rule.fault.clone(), rule.fired.clone()));
            }
        }
        let (fault, fired) = decided?;
        fired.fetch_add(1, Ordering::SeqCst);
        Some(fault)
    }

    /// The server's own answer, if it gives one.
    fn ask(&self, request: &Message, place: usize) -> Option<Message> {
        let server = self.server.lock().unwrap().clone()?;
        let exchange = || -> io::Result<Option<Message>> {
            let stream = TcpStream::connect(server)?;
            request.write(&mut &stream, &[("connection", "close")])?;
            Message::read(&mut BufReader::new(&stream), Some(request))
        };
        let answer = exchange().ok()??;
        self.passed.lock().unwrap().extend([request.text(), answer.text()]);
        self.seen.lock().unwrap()[place].status = answer.status();
        Some(answer)
    }
}

impl From<Answer> for Message {
    fn from(answer: Answer) -> Self {
        Self::answer(answer.status, answer.headers, answer.body.into_bytes())
    }
}
