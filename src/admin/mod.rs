//! The operators' listener: metrics, health and readiness. It shares nothing with the listeners that serve traffic, so no
//! path there can reach it.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::gateway::Gateway;
use crate::secret::Secret;
use crate::telemetry::metrics::Metrics;
use crate::tls::{Certificates, TlsError};

/// `[admin]`.
#[derive(Debug)]
pub struct Settings {
    pub address: SocketAddr,
    pub token: Option<Secret<String>>,
    pub tls: Option<crate::tls::ServerSettings>,
}

/// Connections at a time; more wait.
const CONNECTIONS: usize = 64;
/// For a TLS handshake and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a whole connection: scrapers come back.
const LONGEST: Duration = Duration::from_secs(300);

/// What the operators' listener shows and moves.
#[derive(Debug)]
pub struct Control {
    pub metrics: Metrics,
    pub gateway: Arc<Gateway>,
    /// Set when the process was asked to stop.
    pub draining: AtomicBool,
}

impl Control {
    /// Why no traffic should be sent here; empty when it should.
    fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining.load(Ordering::Relaxed) {
            reasons.push("draining".to_owned());
        }
        for issuer in self.gateway.verifier().issuers() {
            if !issuer.keys.state().loaded {
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
    control: Arc<Control>,
}

impl Admin {
    pub fn new(settings: Settings, socket: TcpListener, control: Arc<Control>) -> Result<Self, TlsError> {
        let tls = match &settings.tls {
            None => None,
            Some(tls) => {
                let certificates = Arc::new(Certificates::load(tls)?);
                Some(tls.build(certificates, &[b"http/1.1"])?)
            }
        };
        Ok(Self { socket: Some(socket), token: settings.token, tls, control })
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
            let Ok((stream, _)) = socket.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let own = Arc::clone(&own);
            tokio::spawn(async move {
                let _ = tokio::time::timeout(LONGEST, own.connection(stream)).await;
                drop(place);
            });
        }
    }

    async fn connection(self: Arc<Self>, stream: tokio::net::TcpStream) {
        match &self.tls {
            None => Arc::clone(&self).requests(stream).await,
            Some(config) => {
                let acceptor = TlsAcceptor::from(Arc::clone(config));
                if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
                    Arc::clone(&self).requests(stream).await;
                }
            }
        }
    }

    async fn requests<I: AsyncRead + AsyncWrite + Unpin>(self: Arc<Self>, stream: I) {
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            std::future::ready(Ok::<_, Infallible>(self.answer(
                request.method(),
                request.uri().path(),
                request.headers(),
            )))
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

    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".to_owned());
        }
        if *method != Method::GET && *method != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, String::new());
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => match self.control.not_ready() {
                reasons if reasons.is_empty() => text(StatusCode::OK, "ready\n".to_owned()),
                reasons => text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
            },
            _ if !self.is_authorized(headers) => {
                let mut response = text(StatusCode::UNAUTHORIZED, String::new());
                let challenge = HeaderValue::from_static("Bearer realm=\"tollgate admin\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                response
            }
            _ => {
                let mut response = text(StatusCode::OK, self.control.metrics.exposition());
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
        }
    }

    fn is_authorized(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let given =
            headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).and_then(|value| value.split_at_checked(7));
        given
            .is_some_and(|(scheme, given)| scheme.eq_ignore_ascii_case(b"bearer ") && token.matches(given.trim_ascii()))
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
