//! One connection: TLS, the HTTP version, and the requests on it, each given to the gateway.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounter, IntCounterVec, IntGauge};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::acceptor::CurrentWorker;
use super::announced::{Peer, Refused};
use super::deadline::{Bounded, Served, Waits};
use super::guard::Guard;
use super::one_piece::OnePiece;
use super::{Limits, Phase};
use super::{http1, http2};
use crate::gateway::{Activity, Connection, peer_text};
use crate::net::Stream;
use crate::net::http1::Most;
use crate::telemetry::metrics::Metrics;

/// What an HTTP/2 connection starts with (RFC 9113 section 3.4); no HTTP/1 method has its first three letters.
const PREFACE_START: &[u8] = b"PRI";
/// At most, for the request that may be on its way to an idle connection when the server drains.
const LINGER: Duration = Duration::from_secs(1);
/// First pause between two looks at a connection that sent one or two bytes; it doubles.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);
/// A listener, as its connections need to know it.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) index: usize,
    pub(super) name: Arc<str>,
    tls: Option<Arc<ServerConfig>>,
    /// Sends everybody to https and forwards nothing.
    redirects: bool,
    /// Connections start with a PROXY protocol header.
    pub(super) proxy_protocol: bool,
    waits: Waits,
    most: Most,
    /// For the last request of an idle connection when the server drains.
    linger: Duration,
    pub(super) open: IntGauge,
    pub(super) accepted: IntCounter,
    handshakes: IntCounterVec,
    malformed: IntCounterVec,
    proxies_refused: IntCounterVec,
}

impl Listener {
    pub(super) fn new(
        index: usize,
        name: Arc<str>,
        tls: Option<Arc<ServerConfig>>,
        redirects: bool,
        proxy_protocol: bool,
        limits: &Limits,
        metrics: &Metrics,
    ) -> Self {
        Self {
            index,
            open: metrics.connections.with_label_values(&[&*name]),
            accepted: metrics.connections_accepted.with_label_values(&[&*name]),
            handshakes: metrics.tls_handshakes.clone(),
            malformed: metrics.requests_malformed.clone(),
            proxies_refused: metrics.proxies_refused.clone(),
            name,
            tls,
            redirects,
            proxy_protocol,
            waits: Waits {
                header: limits.header_timeout,
                idle: limits.idle_timeout,
                write: limits.stream_idle,
                reached: metrics.limits_reached.clone(),
            },
            most: Most { bytes: limits.header_bytes, fields: limits.header_count },
            linger: LINGER.min(limits.drain_timeout / 4),
        }
    }

    pub(super) fn header_timeout(&self) -> Duration {
        self.waits.header
    }

    /// Tells of a connection that is closed for want of a good PROXY protocol header.
    pub(super) fn refuse(&self, peer: IpAddr, refused: &Refused) {
        self.proxies_refused.with_label_values(&[&*self.name, refused.reason()]).inc();
        if matches!(refused, Refused::Timeout) {
            self.waits.reached.with_label_values(&["header_timeout"]).inc();
        }
        let (listener, reason) = (&*self.name, refused);
        match refused {
            // So do health checks that only connect.
            Refused::Ended => tracing::debug!(event = "proxy_protocol.refused", listener, %peer, %reason),
            _ => tracing::warn!(event = "proxy_protocol.refused", listener, %peer, %reason),
        }
    }

    fn served<'a>(&'a self, activity: &'a Activity, phase: watch::Receiver<Phase>) -> Served<'a> {
        Served { most: self.most, waits: &self.waits, activity, phase, linger: self.linger }
    }

    fn handshake_ended(&self, result: &str) {
        self.handshakes.with_label_values(&[&*self.name, result]).inc();
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(
    worker: CurrentWorker,
    listener: Arc<Listener>,
    stream: TcpStream,
    peer: Peer,
    guard: Guard,
    phase: watch::Receiver<Phase>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(event = "connection.lost", %error);
        return;
    }
    let connection = Arc::new(Connection {
        listener: listener.index,
        listener_name: Arc::clone(&listener.name),
        peer: peer.address,
        peer_text: peer_text(peer.address),
        forwarded: Default::default(),
        is_silent_proxy: peer.is_silent_proxy,
        tls: listener.tls.is_some(),
        redirects: listener.redirects,
        activity: Activity::default(),
        guard: Box::new(guard),
    });
    let accepted = Accepted { worker, listener: Arc::clone(&listener), connection, phase };
    match &listener.tls {
        None => {
            let Ok(http2) = tokio::time::timeout(listener.waits.header, starts_like_http2(&stream)).await else {
                listener.waits.reached.with_label_values(&["header_timeout"]).inc();
                return;
            };
            accepted.speak(stream, http2).await;
        }
        Some(config) => {
            let handshake = TlsAcceptor::from(Arc::clone(config)).accept(OnePiece(stream));
            match tokio::time::timeout(listener.waits.header, handshake).await {
                Ok(Ok(stream)) => {
                    listener.handshake_ended("success");
                    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    // What is moved about from here on is a pointer, not the keys and buffers of a session.
                    accepted.speak(Box::new(stream), http2).await;
                }
                Ok(Err(error)) => {
                    listener.handshake_ended("failure");
                    tracing::debug!(event = "tls.handshake_failed", listener = &*listener.name, peer = %peer.address, %error);
                }
                Err(_) => {
                    listener.handshake_ended("timeout");
                    listener.waits.reached.with_label_values(&["header_timeout"]).inc();
                }
            }
        }
    }
}

/// Whether the first bytes are those of HTTP/2. Nothing is taken from the stream.
async fn starts_like_http2(stream: &TcpStream) -> bool {
    let mut start = [0; PREFACE_START.len()];
    let mut pause = PREFACE_PAUSE;
    loop {
        match stream.peek(&mut start).await {
            Ok(3..) => return start == PREFACE_START,
            Ok(1..) if PREFACE_START.starts_with(&start[..1]) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            _ => return false,
        }
    }
}

struct Accepted {
    worker: CurrentWorker,
    listener: Arc<Listener>,
    connection: Arc<Connection>,
    phase: watch::Receiver<Phase>,
}

impl Accepted {
    async fn speak<I: Stream>(self, stream: I, http2: bool) {
        if http2 { self.speak_http2(stream).await } else { self.speak_http1(stream).await }
    }

    async fn speak_http1<I: Stream>(self, io: I) {
        let Self { worker, listener, connection, phase } = self;
        let served = listener.served(&connection.activity, phase);
        let answer = |request, body| worker.load_full().answer(Arc::clone(&connection), request, body);
        let peer = connection.peer;
        match http1::serve(io, served, answer).await {
            Ok(()) => {}
            Err(http1::Ended::Unfit(unfit)) => {
                let (counter, reason) = match unfit.reason() {
                    Ok(malformed) => (&listener.malformed, malformed),
                    Err(limit) => (&listener.waits.reached, limit),
                };
                counter.with_label_values(&[reason]).inc();
                tracing::debug!(event = "connection.refused", listener = &*listener.name, %peer, reason, error = %unfit);
            }
            Err(error) => tracing::debug!(event = "connection.failed", listener = &*listener.name, %peer, %error),
        }
    }

    async fn speak_http2<I: Stream>(self, io: I) {
        let Self { worker, listener, connection, phase } = self;
        let served = listener.served(&connection.activity, phase);
        let answer = |request, body| worker.load_full().answer(Arc::clone(&connection), request, body);
        let peer = connection.peer;
        if let Err(error) = http2::serve(Bounded::new(io, served.waits), served, answer).await {
            tracing::debug!(event = "connection.failed", listener = &*listener.name, %peer, %error);
        }
    }
}
