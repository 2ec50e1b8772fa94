//! A plain listener before the API server, for one ServiceAccount: it passes requests on, counts PATCHes, can put them off,
//! can strike at a write, and can cut every connection.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Cluster;
use crate::support::fault::Call;
use crate::support::runtime;

/// Dropping it cuts every connection.
pub(crate) struct Front {
    shared: Arc<Shared>,
    kubeconfig: PathBuf,
}

struct Shared {
    client: Client,
    patches: AtomicUsize,
    puts_off: AtomicBool,
    put_off: Mutex<Vec<String>>,
    strike: Mutex<Option<Strike>>,
    open: Mutex<CancellationToken>,
}

/// What is called at a write.
#[derive(Clone)]
struct Strike {
    about: fn(&str) -> bool,
    /// So many writes come before, and this one.
    left: usize,
    is_after: bool,
    call: Call,
    fired: Fired,
}

/// Whether it comes to that write.
#[derive(Clone, Default)]
pub(crate) struct Fired(Arc<AtomicBool>);

impl Fired {
    /// Whether it was called, or is about to be.
    pub(crate) fn is_certain(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Front {
    /// Begins to listen. Whoever comes is the ServiceAccount `account`, with its rights.
    pub(crate) fn start(cluster: &Cluster, namespace: &str, account: &str) -> Self {
        let user = format!("system:serviceaccount:{namespace}:{account}");
        let of_namespace = format!("system:serviceaccounts:{namespace}");
        let groups = ["system:serviceaccounts", &of_namespace, "system:authenticated"];
        let shared = Arc::new(Shared {
            client: cluster.as_user(&user, &groups),
            patches: AtomicUsize::default(),
            puts_off: AtomicBool::default(),
            put_off: Mutex::default(),
            strike: Mutex::default(),
            open: Mutex::default(),
        });
        let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime().spawn(serve(listener, Arc::downgrade(&shared)));
        let kubeconfig = cluster.kubeconfig().with_file_name(format!("{namespace}.{account}.front.kubeconfig"));
        std::fs::write(&kubeconfig, config(address, namespace)).unwrap();
        Self { shared, kubeconfig }
    }

    /// A kubeconfig that leads here.
    pub(crate) fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }

    /// From now on every PATCH is answered with 429, to be repeated after three seconds.
    pub(crate) fn put_off_patches(&self) {
        self.shared.puts_off.store(true, Ordering::SeqCst);
    }

    /// How many PATCHes were put off of paths that end in this.
    pub(crate) fn put_off(&self, end: &str) -> usize {
        self.shared.put_off.lock().unwrap().iter().filter(|path| path.ends_with(end)).count()
    }

    /// Calls this at the `nth` write from now on of a path that is one of `about`: before the API server hears of it, which it
    /// then never does, or after it has answered, which then nobody hears of.
    pub(crate) fn strike(&self, about: fn(&str) -> bool, nth: usize, is_after: bool, call: Call) -> Fired {
        let fired = Fired::default();
        let strike = Strike { about, left: nth, is_after, call, fired: fired.clone() };
        *self.shared.strike.lock().unwrap() = Some(strike);
        fired
    }

    /// Calls nothing any more.
    pub(crate) fn no_strike(&self) {
        *self.shared.strike.lock().unwrap() = None;
    }

    /// How many PATCHes came.
    pub(crate) fn patches(&self) -> usize {
        self.shared.patches.load(Ordering::SeqCst)
    }

    /// Cuts every connection. Whoever comes again is served.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.shared.open.lock().unwrap()).cancel();
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Shared {
    /// Counts a write, and answers what is to be called at it.
    fn struck(&self, method: &Method, path: &str) -> Option<Strike> {
        let mut strike = self.strike.lock().unwrap();
        let waiting = strike.as_mut().filter(|strike| method != Method::GET && (strike.about)(path))?;
        waiting.left -= 1;
        if waiting.left > 0 {
            return None;
        }
        waiting.fired.0.store(true, Ordering::SeqCst);
        strike.take()
    }
}

fn config(address: SocketAddr, namespace: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "front",
        "clusters": [{"name": "front", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "front", "user": {}}],
        "contexts": [{"name": "front", "context": {"cluster": "front", "user": "front", "namespace": namespace}}]})
    .to_string()
}

/// Until the front is dropped.
async fn serve(listener: tokio::net::TcpListener, shared: std::sync::Weak<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let Some(shared) = shared.upgrade() else { return };
        let open = shared.open.lock().unwrap().clone();
        let answer = hyper::service::service_fn(move |request| pass_on(shared.clone(), request));
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(async move {
            tokio::select! {
                () = open.cancelled() => {}
                _ = connection => {}
            }
        });
    }
}

async fn pass_on(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    if request.method() == Method::PATCH {
        shared.patches.fetch_add(1, Ordering::SeqCst);
        if shared.puts_off.load(Ordering::SeqCst) {
            shared.put_off.lock().unwrap().push(request.uri().path().to_owned());
            let refused = Response::builder().status(StatusCode::TOO_MANY_REQUESTS).header(header::RETRY_AFTER, "3");
            return Ok(refused.body(Body::empty()).unwrap());
        }
    }
    let strike = shared.struck(request.method(), request.uri().path());
    if let Some(strike) = strike.as_ref().filter(|strike| !strike.is_after) {
        (strike.call)();
        return Ok(bad_gateway());
    }
    let (mut parts, body) = request.into_parts();
    // They are about this connection.
    parts.headers.remove(header::HOST);
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::TRANSFER_ENCODING);
    let Ok(body) = body.collect().await else { return Ok(bad_gateway()) };
    let request = Request::from_parts(parts, Body::from(body.to_bytes()));
    let answer = shared.client.send(request).await.unwrap_or_else(|_| bad_gateway());
    Ok(match strike {
        Some(strike) => {
            (strike.call)();
            bad_gateway()
        }
        None => answer,
    })
}

fn bad_gateway() -> Response<Body> {
    Response::builder().status(StatusCode::BAD_GATEWAY).body(Body::empty()).unwrap()
}
