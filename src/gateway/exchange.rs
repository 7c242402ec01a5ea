//! The end of a request: its answer's body on the way to the caller, and what is told of the whole when that is over.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::head::Connection;
use super::reject::Reject;
use super::route::Route;
use super::{Gateway, Worker};
use crate::limits::Standing;
use crate::net::body::BodyError;
use crate::net::pipe::Piped;
use crate::net::response::AnswerBody;
use crate::net::trace_context::TraceParent;
use crate::otlp;
use crate::routing::canonical_host;
use crate::telemetry::access_log::Event;
use crate::telemetry::denials::Denial;
use crate::telemetry::metrics::{Decision, method_label};
use crate::token::VerifiedToken;
use crate::upstream::{self, SendError};

/// The body of an answer: one pointer, which is handed on a few times.
#[derive(Debug)]
pub struct ResponseBody(
    /// None for a switch of protocols, whose tunnel tells of it.
    Option<Box<Exchange>>,
);

/// Where the body of an answer comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// Made here; `None` once it was taken.
    Local(Option<Bytes>),
    Upstream(Streaming),
}

#[derive(Debug)]
pub(super) struct Streaming {
    body: upstream::ResponseBody,
    /// How long the upstream may be silent, and the moment at which the answer ends in any case.
    idle: Duration,
    ends_at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Absent as long as there was nothing to wait for.
    last_byte: Option<Instant>,
}

/// What broke an answer off.
#[derive(Debug, thiserror::Error)]
pub enum BrokenAnswer {
    #[error("the upstream broke off: {0}")]
    Upstream(#[from] std::io::Error),
    #[error("no byte for {0:?}")]
    Idle(Duration),
    #[error("the token expired")]
    Expired,
}

impl ResponseBody {
    pub(super) fn local(body: Bytes, mut exchange: Box<Exchange>) -> Self {
        exchange.source = Some(Source::Local(Some(body).filter(|body| !body.is_empty())));
        Self(Some(exchange))
    }

    pub(super) fn upstream(
        body: upstream::ResponseBody,
        idle: Duration,
        ends_at: Option<Instant>,
        mut exchange: Box<Exchange>,
    ) -> Self {
        exchange.source = Some(Source::Upstream(Streaming { body, idle, ends_at, timer: None, last_byte: None }));
        Self(Some(exchange))
    }

    /// Of an answer that is told of elsewhere.
    pub(super) fn nothing() -> Self {
        Self(None)
    }

    fn source(&self) -> Option<&Source> {
        self.0.as_ref()?.source.as_ref()
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenAnswer;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |exchange| exchange.poll_body(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.source().is_none_or(Source::is_at_end)
    }

    fn size_hint(&self) -> SizeHint {
        match self.source() {
            None => SizeHint::with_exact(0),
            Some(Source::Local(body)) => SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Some(Source::Upstream(streaming)) => streaming.body.size_hint(),
        }
    }
}

impl AnswerBody for ResponseBody {
    fn poll_piped(&mut self, cx: &mut Context<'_>) -> Option<Poll<Result<Piped, BrokenAnswer>>> {
        self.0.as_mut()?.poll_piped(cx)
    }
}

impl Source {
    fn is_at_end(&self) -> bool {
        match self {
            Self::Local(body) => body.is_none(),
            Self::Upstream(streaming) => streaming.body.is_end_stream(),
        }
    }
}

impl Streaming {
    /// What the upstream gave, if it is in time.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<Result<T, BrokenAnswer>> {
        if self.ends_at.is_some_and(|end| Instant::now() >= end) {
            return Poll::Ready(Err(BrokenAnswer::Expired));
        }
        if let Poll::Ready(given) = polled {
            if self.timer.is_some() {
                self.last_byte = Some(Instant::now());
            }
            return Poll::Ready(given.map_err(BrokenAnswer::Upstream));
        }
        let silent_until = *self.last_byte.get_or_insert_with(Instant::now) + self.idle;
        loop {
            let next = self.ends_at.map_or(silent_until, |end| end.min(silent_until));
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.ends_at.is_some_and(|end| Instant::now() >= end) {
                return Poll::Ready(Err(BrokenAnswer::Expired));
            }
            if Instant::now() >= silent_until {
                return Poll::Ready(Err(BrokenAnswer::Idle(self.idle)));
            }
            // It was set before the last byte came.
            timer.as_mut().reset(next);
        }
    }
}

/// The reason of an answer that began and could not be brought to its end.
const ANSWER_BROKEN: &str = "answer_broken";

/// One request and its answer, told of when it is dropped.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) worker: Arc<Worker>,
    pub(super) connection: Arc<Connection>,
    pub(super) started: Instant,
    pub(super) request_id: HeaderValue,
    pub(super) client: std::net::IpAddr,
    pub(super) https: bool,
    pub(super) version: http::Version,
    pub(super) method: http::Method,
    pub(super) host: Option<HeaderValue>,
    pub(super) target: Option<PathAndQuery>,
    /// As the upstream is told it.
    pub(super) trace: Option<TraceParent>,
    /// Of a request that a collector is told of.
    pub(super) span: Option<otlp::Span>,
    pub(super) route: Option<Arc<Route>>,
    pub(super) token: Option<Arc<VerifiedToken>>,
    pub(super) decision: Decision,
    /// Of a request that counts against its route's limit.
    pub(super) standing: Option<Standing>,
    /// Where the route says who may read its answers.
    pub(super) allowed_origin: Option<HeaderValue>,
    pub(super) reason: Option<&'static str>,
    pub(super) cause: Option<Cow<'static, str>>,
    pub(super) status: u16,
    pub(super) bytes: u64,
    pub(super) complete: bool,
    /// The body of the answer, when there is one.
    pub(super) source: Option<Source>,
}

impl Exchange {
    pub(super) fn refused(&mut self, reject: &Reject) {
        self.status = reject.status().as_u16();
        self.reason = Some(reject.code());
        let denied = reject.is_denial();
        // A denial is told of beside the log too.
        self.cause = (denied || self.gateway().access_log.is_some()).then(|| reject.cause());
        if denied {
            self.decision = Decision::Denied;
        }
        let limit = match reject {
            Reject::Body(BodyError::TooLarge) | Reject::Upstream(SendError::RequestBody(BodyError::TooLarge)) => {
                "body_bytes"
            }
            Reject::Body(BodyError::Timeout) | Reject::Upstream(SendError::RequestBody(BodyError::Timeout)) => {
                "body_timeout"
            }
            _ => return,
        };
        self.gateway().metrics.limits_reached.with_label_values(&[limit]).inc();
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        let polled = match &mut self.source {
            None => Poll::Ready(None),
            Some(Source::Local(body)) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Some(Source::Upstream(streaming)) => {
                let polled = Pin::new(&mut streaming.body).poll_frame(cx).map(Option::transpose);
                streaming.in_time(cx, polled).map(Result::transpose)
            }
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                // The last frame there is; it is not asked for another.
                self.complete |= frame.is_trailers();
            }
            Poll::Ready(Some(Err(error))) => self.broken(error),
            Poll::Ready(None) => self.complete = true,
            Poll::Pending => {}
        }
        polled
    }

    fn poll_piped(&mut self, cx: &mut Context<'_>) -> Option<Poll<Result<Piped, BrokenAnswer>>> {
        let Some(Source::Upstream(streaming)) = &mut self.source else { return None };
        let polled = streaming.body.poll_piped(cx)?;
        let polled = streaming.in_time(cx, polled);
        match &polled {
            Poll::Ready(Ok(piped)) => self.bytes += piped.len() as u64,
            Poll::Ready(Err(error)) => self.broken(error),
            Poll::Pending => {}
        }
        Some(polled)
    }

    fn broken(&mut self, error: &BrokenAnswer) {
        if matches!(error, BrokenAnswer::Idle(_)) {
            self.gateway().metrics.limits_reached.with_label_values(&["stream_idle"]).inc();
        }
        self.reason = Some(ANSWER_BROKEN);
        self.cause = Some(error.to_string().into());
    }

    fn gateway(&self) -> &Gateway {
        &self.worker.gateway
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // A body of announced length is not polled beyond its last byte.
        self.complete |= self.source.as_ref().is_some_and(Source::is_at_end);
        // An upstream that was not heard to the end is let go of before that is told.
        self.source = None;
        let answered = self.status != 0;
        if !answered {
            // There was nobody left to answer.
            self.status = 499;
            self.reason.get_or_insert("caller_left");
        }
        let gateway = &*self.worker.gateway;
        let now = Instant::now();
        let duration = now.duration_since(self.started);
        let metrics = match (&self.route, self.decision) {
            (Some(route), _) => &route.metrics,
            (None, Decision::Local) if !self.connection.redirects => &gateway.authorization_server_metrics,
            (None, _) => &gateway.no_route_metrics,
        };
        metrics.seconds.observe(duration.as_secs_f64());
        metrics.count(&self.method, self.status, self.decision);
        if let Some(log) = &gateway.access_log {
            let token = self.token.as_deref();
            log.write(&Event {
                request_id: self.request_id.to_str().unwrap_or_default(),
                trace_id: self.trace.as_ref().map(TraceParent::trace_id),
                client: self.client,
                listener: &self.connection.listener_name,
                version: self.version,
                method: &self.method,
                host: self.host.as_ref().and_then(|host| host.to_str().ok()),
                path: self.target.as_ref().map_or("", PathAndQuery::path),
                status: self.status,
                decision: self.decision.name(),
                reason: self.reason,
                cause: self.cause.as_deref(),
                route: self.route.as_ref().map(|route| &*route.plan.name),
                upstream: self.route.as_ref().map(|route| &**gateway.upstreams[route.plan.upstream].name()),
                issuer: token.map(|token| &**token.issuer()),
                user: token.and_then(VerifiedToken::user),
                client_id: token.and_then(VerifiedToken::client_id),
                bytes: self.bytes,
                duration,
                aborted: !self.complete,
            });
        }
        if let (Some(tracer), Some(span)) = (&gateway.tracer, &self.span) {
            let host = self.host.as_ref().and_then(|host| canonical_host(host.to_str().ok()?));
            let route = self.route.as_deref();
            tracer.end(
                span,
                &otlp::Request {
                    request_id: self.request_id.to_str().unwrap_or_default(),
                    client: self.client,
                    https: self.https,
                    version: self.version,
                    method: &self.method,
                    host: host.as_deref().map(|host| host.trim_matches(['[', ']'])),
                    path: self.target.as_ref().map_or("", PathAndQuery::path),
                    route: route.map(|route| (&*route.plan.name, route.plan.path_text.as_str())),
                    upstream: route.map(|route| &**gateway.upstreams[route.plan.upstream].name()),
                    decision: self.decision.name(),
                    reason: self.reason,
                    status: answered.then_some(self.status),
                    broken: self.reason == Some(ANSWER_BROKEN),
                    ended: gateway.clock.precisely(),
                    duration,
                },
            );
        }
        if self.decision == Decision::Denied
            && let Some(reason) = self.reason
        {
            metrics.count_denial(reason);
            let request_id = self.request_id.to_str().unwrap_or_default();
            gateway.metrics.note_denial(
                request_id,
                Denial {
                    at: gateway.clock.now(),
                    request_id: String::new(),
                    route: Arc::clone(metrics.route()),
                    endpoint: None,
                    method: Some(method_label(&self.method)),
                    status: self.status,
                    reason,
                    cause: self.cause.take().unwrap_or_default(),
                },
            );
        }
        // A proxy takes back what its clients do: the others behind it shall not pay for that.
        let blameless = || self.gateway().trusted_proxies.contains(self.connection.peer);
        self.connection.activity.end(now, answered || blameless());
    }
}
