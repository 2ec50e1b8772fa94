//! The `rmcp` crate as a client, in this process.

use std::sync::Arc;

use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientConfig, ClientRequest, PingRequest, ProtocolVersion, ServerResult,
};
use rmcp::service::{RoleClient, RunningService, ServiceError};
use rmcp::transport::auth::{
    AuthClient, AuthorizationCallback, AuthorizationManager, OAuthState, WWWAuthenticateParams,
};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::transport::{AuthorizationRequest, StreamableHttpClientTransport};
use rmcp::{ClientLifecycleMode, ClientServiceExt};
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use super::client::{Failure, Line};
use super::login::{Login, REDIRECT};
use super::runtime;

/// A connected client.
pub(crate) struct RmcpClient {
    service: Option<RunningService<RoleClient, ClientConfig>>,
    authorized: Option<Authorized>,
}

/// What a program keeps of rmcp's OAuth beside the connection, for when a scope is missing.
struct Authorized {
    manager: Arc<Mutex<AuthorizationManager>>,
    login: Login,
    url: Url,
}

fn failure(error: &ServiceError) -> Failure {
    let (code, message) = match error {
        ServiceError::McpError(e) => (Some(i64::from(e.code.0)), e.message.to_string()),
        other => (None, format!("{other:?}")),
    };
    Failure { code, message }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure { code: None, message: error.to_string() }
}

fn lifecycle(line: Line) -> ClientLifecycleMode {
    match line {
        Line::Y2025 => ClientLifecycleMode::Initialize,
        Line::Y2026 => ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] },
    }
}

impl RmcpClient {
    pub(crate) fn connect(url: &str, token: Option<&str>, line: Line) -> Result<(Self, Value), Failure> {
        let mut config = StreamableHttpClientTransportConfig::with_uri(url);
        if let Some(token) = token {
            config = config.auth_header(token);
        }
        let connecting = async {
            let transport = StreamableHttpClientTransport::from_config(config);
            ClientConfig::default().serve_with_lifecycle(transport, lifecycle(line)).await
        };
        match runtime().block_on(connecting) {
            Ok(service) => Ok(Self::connected(service, None)),
            Err(e) => Err(Failure { code: None, message: format!("{e:?}") }),
        }
    }

    /// As rmcp's documentation has it: connect without a token, authorize with the challenge that came, connect again.
    pub(crate) fn log_in(url: &str, line: Line, mut login: Login) -> Result<(Self, Value), Failure> {
        let manager = authorize(url, &challenge(url, line)?, &mut login)?;
        let client = AuthClient::new(reqwest::Client::default(), manager);
        let manager = client.auth_manager.clone();
        let connecting = async {
            let config = StreamableHttpClientTransportConfig::with_uri(url);
            let transport = StreamableHttpClientTransport::with_client(client, config);
            ClientConfig::default().serve_with_lifecycle(transport, lifecycle(line)).await
        };
        let service = runtime().block_on(connecting).map_err(|e| failed(format!("{e:?}")))?;
        Ok(Self::connected(service, Some(Authorized { manager, login, url: Url::parse(url).unwrap() })))
    }

    fn connected(service: RunningService<RoleClient, ClientConfig>, authorized: Option<Authorized>) -> (Self, Value) {
        let about = service.peer().peer_info().map_or(Value::Null, |info| serde_json::to_value(info).unwrap());
        (Self { service: Some(service), authorized }, about)
    }

    fn service(&self) -> &RunningService<RoleClient, ClientConfig> {
        self.service.as_ref().unwrap()
    }

    pub(crate) fn list(&self) -> Result<Value, Failure> {
        let tools = runtime().block_on(self.service().list_all_tools()).map_err(|e| failure(&e))?;
        Ok(serde_json::to_value(tools).unwrap())
    }

    pub(crate) fn call(&mut self, name: &str, arguments: &Value) -> Result<Value, Failure> {
        let mut called = self.send(name, arguments);
        // rmcp leaves it to the program to authorize again, with the scopes that it has put together.
        if let (Err(error), Some(authorized)) = (&called, &mut self.authorized)
            && authorized.steps_up(error)?
        {
            called = self.send(name, arguments);
        }
        match called.map_err(|e| failure(&e))? {
            ServerResult::CallToolResult(result) => Ok(serde_json::to_value(result).unwrap()),
            other => Err(Failure { code: None, message: format!("unexpected {other:?}") }),
        }
    }

    fn send(&self, name: &str, arguments: &Value) -> Result<ServerResult, ServiceError> {
        let mut params = CallToolRequestParams::new(name.to_owned());
        params.arguments = arguments.as_object().cloned();
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
        runtime().block_on(self.service().send_request(request))
    }

    pub(crate) fn ping(&self) -> Result<(), Failure> {
        let request = ClientRequest::PingRequest(PingRequest::default());
        runtime().block_on(self.service().send_request(request)).map(drop).map_err(|e| failure(&e))
    }
}

/// What a server says to a client without a token.
fn challenge(url: &str, line: Line) -> Result<String, Failure> {
    let connecting = async {
        let transport = StreamableHttpClientTransport::from_uri(url);
        ClientConfig::default().serve_with_lifecycle(transport, lifecycle(line)).await
    };
    let refused = runtime().block_on(connecting).err().ok_or_else(|| failed("no token was asked for"))?;
    refused.auth_challenge().map(str::to_owned).ok_or_else(|| failed(&refused))
}

/// Discovery, registration, and the person's login.
fn authorize(url: &str, challenge: &str, login: &mut Login) -> Result<AuthorizationManager, Failure> {
    let mut request = AuthorizationRequest::new(REDIRECT).with_client_name("Test bed").with_challenge(challenge);
    if let Some(client) = &login.client {
        request = request.with_preregistered_client(client["client_id"].as_str().unwrap());
        if let Some(secret) = client["client_secret"].as_str() {
            request = request.with_client_secret(secret);
        }
    }
    if let Some(document) = &login.document {
        request = request.with_client_metadata_url(document);
    }
    let (mut state, page) = runtime().block_on(async {
        let mut state = OAuthState::new(url, None).await.map_err(failed)?;
        state.start_authorization(request).await.map_err(failed)?;
        let page = state.get_authorization_url().await.map_err(failed)?;
        Ok::<_, Failure>((state, page))
    })?;
    let back = login.open(&page).map_err(|page| failed(format!("the person is shown: {page}")))?;
    runtime().block_on(state.handle_callback_url(&back)).map_err(failed)?;
    state.into_authorization_manager().ok_or_else(|| failed("not authorized"))
}

impl Authorized {
    /// Authorizes again if it is a scope that is missing; whether it was.
    fn steps_up(&mut self, error: &ServiceError) -> Result<bool, Failure> {
        let Some(challenge) = error.auth_challenge() else { return Ok(false) };
        let challenge = WWWAuthenticateParams::parse(challenge, &self.url);
        let Some(scope) = challenge.scope.as_deref().filter(|_| challenge.is_insufficient_scope()) else {
            return Ok(false);
        };
        let page = runtime().block_on(async { self.manager.lock().await.request_scope_upgrade(scope).await });
        let back = self.login.open(&page.map_err(failed)?);
        let back = back.map_err(|page| failed(format!("the person is shown: {page}")))?;
        let back = AuthorizationCallback::from_redirect_url(&back).map_err(failed)?;
        let (code, state, issuer) = (&back.code, &back.csrf_token, back.issuer.as_deref());
        let exchanging =
            async { self.manager.lock().await.exchange_code_for_token_with_issuer(code, state, issuer).await };
        runtime().block_on(exchanging).map(|_| true).map_err(failed)
    }
}

impl Drop for RmcpClient {
    fn drop(&mut self) {
        if let Some(service) = self.service.take() {
            drop(runtime().block_on(service.cancel()));
        }
    }
}
