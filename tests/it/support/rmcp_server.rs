//! A server on the `rmcp` crate, in this process: both lines, the tools and reports of `tests/servers/README.md`.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, ListToolsResult,
    PaginatedRequestParams, ProgressNotificationParam, ProtocolVersion, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, ServerHandler};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::seen::Seen;

const TOOLS: &str = include_str!("../../servers/tools.json");

#[derive(Clone)]
struct Handler {
    seen: Arc<Seen>,
    tools: Arc<Mutex<Vec<Tool>>>,
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().enable_tool_list_changed().build())
            .with_server_info(Implementation::new("testbed-rmcp", "1.0.0"))
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(ProtocolVersion::KNOWN_VERSIONS)
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools.lock().unwrap().clone()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let tool = request.name.as_ref();
        let arguments = request.arguments.clone().map_or(Value::Null, Value::Object);
        self.seen.push(&json!({"call": {"tool": tool, "arguments": arguments}}));
        match tool {
            "announce" => drop(context.peer.notify_tool_list_changed().await),
            "progress" => report_progress(&context, arguments["steps"].as_u64().unwrap_or(3)).await,
            "wait" => {
                let pause = Duration::from_millis(arguments["ms"].as_u64().unwrap_or(0));
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = context.ct.cancelled() => {
                        self.seen.push(&json!({"cancelled": {"tool": tool}}));
                        return Err(ErrorData::internal_error("cancelled", None));
                    }
                }
            }
            _ => {}
        }
        let content = vec![ContentBlock::text(json!({"tool": tool, "arguments": arguments}).to_string())];
        let failed = tool == "fail";
        Ok(if failed { CallToolResult::error(content) } else { CallToolResult::success(content) }.into())
    }
}

async fn report_progress(context: &RequestContext<RoleServer>, steps: u64) {
    let Some(token) = context.meta.get_progress_token() else { return };
    for n in 1..=steps {
        let step = ProgressNotificationParam::new(token.clone(), n as f64).with_total(steps as f64);
        drop(context.peer.notify_progress(step).await);
    }
}

/// The running server; dropping it ends it.
pub(crate) struct RmcpServer {
    address: SocketAddr,
    tools: Arc<Mutex<Vec<Tool>>>,
    stop: CancellationToken,
}

type Service = StreamableHttpService<Handler, LocalSessionManager>;

impl RmcpServer {
    /// `options`: `{"json": bool, "stateless": bool}`.
    pub(crate) fn start(seen: Arc<Seen>, options: &Value) -> Self {
        let stop = CancellationToken::new();
        let config = StreamableHttpServerConfig::default()
            .with_json_response(options["json"] == true)
            .with_legacy_session_mode(options["stateless"] != true && options["json"] != true)
            .with_cancellation_token(stop.clone());
        let tools = Arc::new(Mutex::new(serde_json::from_str(TOOLS).unwrap()));
        let handler = Handler { seen: seen.clone(), tools: tools.clone() };
        let service = StreamableHttpService::new(move || Ok(handler.clone()), Arc::default(), config);
        let listener = super::runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        super::runtime().spawn(stop.clone().run_until_cancelled_owned(accept(listener, service, seen, stop.clone())));
        Self { address, tools, stop }
    }

    /// Lists other tools from now on. Whatever is called is answered, listed or not; `announce` also tells the session.
    pub(crate) fn set_tools(&self, tools: &Value) {
        *self.tools.lock().unwrap() = serde_json::from_value(tools.clone()).unwrap();
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for RmcpServer {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept(listener: tokio::net::TcpListener, service: Service, seen: Arc<Seen>, stop: CancellationToken) {
    while let Ok((stream, _)) = listener.accept().await {
        let (service, seen) = (service.clone(), seen.clone());
        let answer = hyper::service::service_fn(move |request| handle(service.clone(), seen.clone(), request));
        let serve = async move {
            drop(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await);
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve));
    }
}

async fn handle(
    service: Service,
    seen: Arc<Seen>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, std::convert::Infallible>>, std::convert::Infallible> {
    let text = |v: &hyper::header::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    let headers: Vec<(String, String)> = request.headers().iter().map(|(n, v)| (n.to_string(), text(v))).collect();
    let target = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    seen.push(&json!({"http": {"method": request.method().as_str(), "target": target, "headers": headers}}));
    if request.uri().path() != "/mcp" {
        let mut response = Response::new(BoxBody::default());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    Ok(service.handle(request).await)
}
