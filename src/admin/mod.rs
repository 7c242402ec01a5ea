//! The operators' listener: metrics, health, readiness, what the gateway does now, signing keys. It shares nothing with the listeners that serve traffic, so no
//! path there can reach it.

mod revocation;
mod status;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

use crate::clock::{Clock, UnixSeconds};
use crate::gateway::Gateway;
use crate::net::is_loopback_host;
use crate::routing::canonical_host;
use crate::secret::Secret;
use crate::telemetry::metrics::Metrics;
use crate::tls::{Certificates, TlsError};

use status::Status;

/// `[admin]`.
#[derive(Debug)]
pub struct Settings {
    pub address: SocketAddr,
    pub token: Option<Secret<String>>,
    pub tls: Option<crate::tls::ServerSettings>,
}

/// Connections at a time; more wait.
const CONNECTIONS: usize = 64;
/// Wishes for a reload that wait.
const RELOADS: usize = 8;
/// For a TLS handshake and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a whole connection: scrapers come back.
const LONGEST: Duration = Duration::from_secs(300);

/// What the operators' listener shows and moves.
#[derive(Debug)]
pub struct Control {
    pub metrics: Metrics,
    started_at: UnixSeconds,
    gateway: ArcSwap<Gateway>,
    /// Set when the process was asked to stop.
    pub draining: AtomicBool,
    reloads: mpsc::Sender<ReloadRequest>,
    configuration: Mutex<Configuration>,
}

/// Which configuration is in force, and what came of the last one.
#[derive(Clone, Debug, Serialize)]
pub struct Configuration {
    /// Counts from 1, with each that was taken up.
    pub generation: u64,
    /// When the last one was read again, in seconds since 1970; absent: never since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reloaded_at: Option<UnixSeconds>,
    /// What was wrong with it, so that the one from before is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problems: Option<String>,
}

/// An operator's wish that the configuration be read again.
#[derive(Debug)]
pub struct ReloadRequest(oneshot::Sender<Result<u64, String>>);

impl ReloadRequest {
    /// Tells the operator the new generation, or what is wrong.
    pub fn answer(self, result: Result<u64, String>) {
        // Nobody may be waiting any more.
        let _ = self.0.send(result);
    }
}

impl Control {
    /// For a gateway that is about to serve; with it come the wishes for a reload.
    pub fn new(metrics: Metrics, gateway: Arc<Gateway>) -> (Arc<Self>, mpsc::Receiver<ReloadRequest>) {
        let (reloads, requests) = mpsc::channel(RELOADS);
        let configuration = Configuration { generation: 1, reloaded_at: None, problems: None };
        metrics.config_generation.set(1);
        metrics.config_last_reload_successful.set(1);
        let control = Self {
            metrics,
            started_at: Clock::system().now(),
            gateway: ArcSwap::new(gateway),
            draining: AtomicBool::new(false),
            reloads,
            configuration: Mutex::new(configuration),
        };
        (Arc::new(control), requests)
    }

    /// What serves now.
    pub fn gateway(&self) -> Arc<Gateway> {
        self.gateway.load_full()
    }

    pub fn replace(&self, gateway: Arc<Gateway>) {
        self.gateway.store(gateway);
    }

    /// Notes what came of a reload; `problems` if nothing changed. Gives the generation that is in force.
    pub fn reloaded(&self, at: UnixSeconds, problems: Option<String>) -> u64 {
        let mut configuration = self.configuration.lock().unwrap_or_else(PoisonError::into_inner);
        let (result, successful) = if problems.is_some() { ("failure", 0) } else { ("success", 1) };
        configuration.generation += u64::from(problems.is_none());
        (configuration.reloaded_at, configuration.problems) = (Some(at), problems);
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.metrics.config_reloads.with_label_values(&[result]).inc();
        self.metrics.config_last_reload_successful.set(successful);
        self.metrics.config_last_reload.set(number(at));
        self.metrics.config_generation.set(number(configuration.generation));
        configuration.generation
    }

    pub fn configuration(&self) -> Configuration {
        self.configuration.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why no traffic should be sent here; empty when it should.
    fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining.load(Ordering::Relaxed) {
            reasons.push("draining".to_owned());
        }
        for issuer in self.gateway().verifier().issuers() {
            if issuer.keys.as_ref().is_some_and(|keys| !keys.state().loaded) {
                reasons.push(format!("issuer {}: no keys yet", issuer.settings.name));
            }
        }
        reasons
    }
}

/// The operators' listener, bound.
#[derive(Debug)]
pub struct Admin {
    socket: Option<TcpListener>,
    token: Option<Secret<String>>,
    tls: Option<Arc<rustls::ServerConfig>>,
    certificates: Option<Arc<Certificates>>,
    control: Arc<Control>,
}

impl Admin {
    pub fn new(settings: Settings, socket: TcpListener, control: Arc<Control>) -> Result<Self, TlsError> {
        let (certificates, tls) = match &settings.tls {
            None => (None, None),
            Some(tls) => {
                let certificates = Arc::new(Certificates::load(tls)?);
                (Some(Arc::clone(&certificates)), Some(tls.build(certificates, &[b"http/1.1"])?))
            }
        };
        Ok(Self { socket: Some(socket), token: settings.token, tls, certificates, control })
    }

    /// What it shows of itself, for whoever looks after replaced files.
    pub fn certificates(&self) -> Option<Arc<Certificates>> {
        self.certificates.clone()
    }

    /// Serves until dropped.
    pub async fn serve(mut self) {
        let Some(socket) = self.socket.take() else { return };
        let socket = match tokio::net::TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(event = "admin.failed", %error);
                return;
            }
        };
        let own = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok((stream, peer)) = socket.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let own = Arc::clone(&own);
            tokio::spawn(async move {
                let _ = tokio::time::timeout(LONGEST, own.connection(stream, peer.ip().to_canonical())).await;
                drop(place);
            });
        }
    }

    async fn connection(self: Arc<Self>, stream: tokio::net::TcpStream, peer: IpAddr) {
        match &self.tls {
            None => Arc::clone(&self).requests(stream, peer).await,
            Some(config) => {
                let acceptor = TlsAcceptor::from(Arc::clone(config));
                if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
                    Arc::clone(&self).requests(stream, peer).await;
                }
            }
        }
    }

    async fn requests<I: AsyncRead + AsyncWrite + Unpin>(self: Arc<Self>, stream: I, peer: IpAddr) {
        let service = service_fn(|request: Request<Incoming>| {
            let own = Arc::clone(&self);
            async move { Ok::<_, Infallible>(own.answer(request, peer).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(event = "admin.connection_failed", %error);
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Response<Full<Bytes>> {
        let Some(page) = Page::at(request.uri().path()) else {
            return text(
                StatusCode::NOT_FOUND,
                "there are /status, /metrics, /healthz, /readyz, /reload, /revoke, /keys and /keys/rotate\n".to_owned(),
            );
        };
        let fits = match *request.method() {
            Method::GET | Method::HEAD => !page.is_action(),
            Method::POST => page.is_action(),
            _ => false,
        };
        if !fits {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, String::new());
            let allow = HeaderValue::from_static(if page.is_action() { "POST" } else { "GET, HEAD" });
            response.headers_mut().insert(header::ALLOW, allow);
            return response;
        }
        if !page.is_open() && !self.is_authorized(page, request.headers()) {
            let mut response = text(StatusCode::UNAUTHORIZED, String::new());
            let headers = response.headers_mut();
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tollgate admin\""));
            if page == Page::Status {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"tollgate admin\""));
            }
            return response;
        }
        if page.is_for_this_machine() && self.token.is_none() && !is_from_this_machine(&request, peer) {
            return text(StatusCode::FORBIDDEN, "without a token, only this machine may do this\n".to_owned());
        }
        match page {
            Page::Health => text(StatusCode::OK, "ok\n".to_owned()),
            Page::Ready => match self.control.not_ready() {
                reasons if reasons.is_empty() => text(StatusCode::OK, "ready\n".to_owned()),
                reasons => text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
            },
            Page::Status => {
                let json = request.uri().path().ends_with(".json") || prefers_json(request.headers());
                let refresh = request.uri().query() == Some("refresh");
                status_answer(&Status::of(&self.control, Clock::system().now()), json, refresh)
            }
            Page::Metrics => {
                self.control.gateway().measure();
                let mut response = text(StatusCode::OK, self.control.metrics.exposition());
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            Page::Reload => self.reload().await,
            Page::Revoke => match revocation::Wanted::read(request).await {
                Ok(wanted) => self.revoke(wanted).await,
                Err(refusal) => refusal,
            },
            Page::Keys | Page::RotateKeys => self.keys(page, request.uri().query().unwrap_or_default()).await,
        }
    }

    /// 200 with the new generation; 422 with what is wrong and keeps the old one in force.
    async fn reload(&self) -> Response<Full<Bytes>> {
        let (answer, answered) = oneshot::channel();
        // Who does not get a place has others before it that read the same files.
        if self.control.reloads.try_send(ReloadRequest(answer)).is_err() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "too many reloads are waiting\n".to_owned());
        }
        let (status, configuration) = match answered.await {
            Ok(Ok(_)) => (StatusCode::OK, self.control.configuration()),
            Ok(Err(_)) => (StatusCode::UNPROCESSABLE_ENTITY, self.control.configuration()),
            Err(_) => return text(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping\n".to_owned()),
        };
        json_text(status, &serde_json::json!(configuration))
    }

    /// 200 with how much there was to end.
    async fn revoke(&self, wanted: revocation::Wanted) -> Response<Full<Bytes>> {
        let gateway = self.control.gateway();
        let Some(server) = gateway.authorization_server() else { return no_server() };
        let ended = match wanted {
            revocation::Wanted::Token(token) => server.end_token(token.expose()).await,
            revocation::Wanted::All(whose) => server.end_all(whose).await,
        };
        match ended {
            Ok(ended) => json_text(StatusCode::OK, &serde_json::json!(ended)),
            Err(error) => {
                tracing::error!(event = "revocation.failed", %error);
                text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
            }
        }
    }

    async fn keys(&self, page: Page, query: &str) -> Response<Full<Bytes>> {
        let gateway = self.control.gateway();
        let Some(server) = gateway.authorization_server() else { return no_server() };
        let keys = if page == Page::RotateKeys {
            let asked = |name: &str| {
                form_urlencoded::parse(query.as_bytes()).any(|(own, value)| own == name && value == "true")
            };
            match server.rotate_keys(asked("now"), asked("revoke_old")).await {
                Ok(keys) => keys,
                Err(error) => {
                    tracing::error!(event = "keys.rotation_failed", %error);
                    return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"));
                }
            }
        } else {
            server.list_keys()
        };
        json_text(StatusCode::OK, &serde_json::json!(keys))
    }

    fn is_authorized(&self, page: Page, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let Some(given) = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes) else { return false };
        let after = |scheme: &str| {
            let (start, rest) = given.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest.trim_ascii())
        };
        if let Some(given) = after("bearer ") {
            return token.matches(given);
        }
        // A browser can ask a person for nothing else, and sends it along by itself afterwards: for what only shows.
        let basic = after("basic ").filter(|_| page == Page::Status).and_then(|given| BASE64.decode(given).ok());
        let password = basic.as_deref().and_then(|pair| pair.splitn(2, |byte| *byte == b':').nth(1));
        password.is_some_and(|password| token.matches(password))
    }
}

/// What there is to see or to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Status,
    Metrics,
    Health,
    Ready,
    Keys,
    RotateKeys,
    Reload,
    Revoke,
}

impl Page {
    fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/status" | "/status.json" => Self::Status,
            "/metrics" => Self::Metrics,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/keys" => Self::Keys,
            "/keys/rotate" => Self::RotateKeys,
            "/reload" => Self::Reload,
            "/revoke" => Self::Revoke,
            _ => return None,
        })
    }

    /// Changes something, and is asked by POST.
    fn is_action(self) -> bool {
        matches!(self, Self::RotateKeys | Self::Reload | Self::Revoke)
    }

    /// Without a token to ask for, no page of another site that a browser on this machine shows may have it.
    fn is_for_this_machine(self) -> bool {
        self.is_action() || self == Self::Status
    }

    /// Needs no token.
    fn is_open(self) -> bool {
        matches!(self, Self::Health | Self::Ready)
    }
}

/// Sent from this machine, to a name of this machine, and not by a page in a browser.
fn is_from_this_machine(request: &Request<Incoming>, peer: IpAddr) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.and_then(canonical_host);
    peer.is_loopback()
        && host.is_some_and(|host| is_loopback_host(&host))
        && !request.headers().contains_key(header::ORIGIN)
}

fn no_server() -> Response<Full<Bytes>> {
    text(StatusCode::NOT_FOUND, "there is no authorization server\n".to_owned())
}

/// Asks for JSON and not for a page.
fn prefers_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.contains("application/json") && !accept.contains("text/html")
}

fn status_answer(status: &Status, json: bool, refresh: bool) -> Response<Full<Bytes>> {
    if json {
        return json_text(StatusCode::OK, &serde_json::json!(status));
    }
    match status.page(refresh) {
        Ok((page, policy)) => {
            let mut response = text(StatusCode::OK, page);
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
            headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            let strictest = HeaderValue::from_static("default-src 'none'");
            headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::try_from(policy).unwrap_or(strictest));
            response
        }
        Err(error) => {
            tracing::error!(event = "admin.failed", %error, "the status page could not be rendered");
            text(StatusCode::INTERNAL_SERVER_ERROR, "this page could not be shown\n".to_owned())
        }
    }
}

fn json_text(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = text(status, value.to_string() + "\n");
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
