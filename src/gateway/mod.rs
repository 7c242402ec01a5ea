//! The journey of a request, told once in [`Worker::forward`]: head, route, token, permit, transformed request, upstream,
//! answer. Any error on the way becomes an answer in `reject`; whatever happened is told by the `exchange` at its end.

pub mod assemble;
mod cors;
mod exchange;
pub mod explain;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod head;
pub mod plan;
mod rate_limit;
mod reject;
mod repeated;
mod route;
mod transform;
mod tunnel;
mod upstream_jwt;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode};
use tokio::time::Instant;

pub use exchange::{BrokenAnswer, ResponseBody};
pub use head::{Activity, Connection};
pub use reject::{Realm, Reject, problem};
pub use route::{Route, Routes, Target};
pub use transform::X_REQUEST_ID;

use crate::authorization_server::{self, AuthorizationServer, Endpoint};
use crate::clock::Clock;
use crate::net::body::{Incoming, RequestBody};
use crate::net::forwarded::Origin;
use crate::net::request::RequestHead;
use crate::net::response::{Response, ResponseHead};
use crate::net::switch::Switch;
use crate::net::trace_context::TraceParent;
use crate::net::{BaseUrl, TrustedProxies};
use crate::otlp::Tracer;
use crate::policy::{self, Caller, Denied, Need, Permit};
use crate::routing::path::CanonicalPath;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::{Decision, Metrics, Resolved, RouteMetrics};
use crate::token::{Bearer, BearerError, Refusal, Verifier};
use crate::upstream::{Pools, Upstream};

use cors::Preflight;
use exchange::Exchange;
use head::Noted;
use transform::{Inbound, Managed, UpgradeWanted};
use tunnel::Tunnel;

/// Everything that serves traffic under one configuration, shared by the workers.
#[derive(Debug)]
pub struct Gateway {
    public_url: BaseUrl,
    realm: Realm,
    trusted_proxies: TrustedProxies,
    /// By their index in the routes.
    listeners: Vec<Arc<str>>,
    routes: Routes,
    managed: Managed,
    verifier: Arc<Verifier>,
    authorization_server: Option<assemble::Embedded>,
    upstreams: Arc<[Arc<Upstream>]>,
    limits: Limits,
    metrics: Metrics,
    authorization_server_metrics: RouteMetrics,
    no_route_metrics: RouteMetrics,
    tokens_refused: Resolved<&'static str>,
    access_log: Option<AccessLog>,
    tracer: Option<Arc<Tracer>>,
    request_ids: head::RequestIds,
    clock: Clock,
}

/// Longest that the end of the process waits for a collector.
const FLUSH: Duration = Duration::from_secs(5);

/// What bounds a request once its head is there.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub header_count: usize,
    /// Between two reads of a request's body.
    pub body_timeout: Duration,
    /// Of an answer's body or a tunnel without a byte.
    pub stream_idle: Duration,
}

/// A gateway on one thread, with upstream connections of its own.
#[derive(Debug)]
pub struct Worker {
    gateway: Arc<Gateway>,
    pools: Pools,
}

impl Worker {
    /// The connections of `former` to upstreams that go on are kept.
    pub fn new(gateway: Arc<Gateway>, former: Option<&Self>) -> Self {
        let pools = Pools::new(Arc::clone(&gateway.upstreams), former.map(|former| &former.pools));
        Self { gateway, pools }
    }

    /// Closes upstream connections that were unused for long. To be called now and then.
    pub fn close_idle(&self) {
        self.pools.close_idle();
    }

    /// Answers one request.
    #[expect(clippy::manual_async_fn, reason = "a block holds what it takes once, a function its parameters twice")]
    pub fn answer(
        self: Arc<Self>,
        connection: Arc<Connection>,
        mut request: Box<RequestHead>,
        body: Incoming,
    ) -> impl Future<Output = Answered<ResponseBody>> + Send {
        async move {
            connection.activity.begin();
            let last = connection.activity.is_closing();
            let gateway = &self.gateway;
            let mut trace = TraceParent::of(&mut request.headers);
            let span = gateway.tracer.as_ref().and_then(|tracer| tracer.begin(&mut trace));
            let origin = head::origin(&connection, &request.headers, &gateway.trusted_proxies);
            let request_id = gateway.request_ids.id(&request.headers, origin.trusted);
            let logged = gateway.access_log.is_some() || span.is_some();
            let mut exchange = Box::new(Exchange {
                started: Instant::now(),
                request_id: request_id.clone(),
                client: origin.client,
                https: origin.https,
                version: request.version,
                method: request.method.clone(),
                host: if logged { logged_host(&request) } else { None },
                target: if logged { request.uri.path_and_query().cloned() } else { None },
                trace,
                span,
                route: None,
                token: None,
                decision: Decision::Denied,
                standing: None,
                allowed_origin: None,
                reason: None,
                cause: None,
                status: 0,
                bytes: 0,
                complete: false,
                source: None,
                worker: Arc::clone(&self),
                connection,
            });
            let outcome = self.forward(&mut exchange, &origin, &mut request, body).await;
            let marked = exchange.route.as_ref().filter(|route| route.marks_answers()).cloned();
            let (standing, allowed_origin) = (exchange.standing, exchange.allowed_origin.take());
            let mut response = match outcome {
                Ok(Answer::Local(response)) => {
                    exchange.status = response.status().as_u16();
                    local(response, exchange)
                }
                Ok(Answer::Upstream { response, ends_at }) => {
                    exchange.status = response.status().as_u16();
                    let idle = gateway.limits.stream_idle;
                    response.map(|body| ResponseBody::upstream(body, idle, ends_at, exchange))
                }
                Ok(Answer::Tunnel { head, tunnel }) => self.tunnel(head, tunnel, exchange),
                Err(reject) => {
                    exchange.refused(&reject);
                    local(reject.response(&gateway.realm, &request_id), exchange)
                }
            };
            if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            if let Some(route) = marked {
                if let (Some(limit), Some(standing)) = (&route.rate_limit, standing) {
                    limit.tell(standing, response.headers_mut());
                }
                if let Some(cors) = &route.plan.cors {
                    cors.tell(allowed_origin, response.headers_mut());
                }
            }
            Answered { request_id, response }
        }
    }

    /// The way of a request, from its head to the head of its answer.
    async fn forward(
        &self,
        exchange: &mut Exchange,
        origin: &Origin,
        request: &mut RequestHead,
        body: Incoming,
    ) -> Result<Answer, Reject> {
        let gateway = &*self.gateway;
        let noted = Noted::of(&request.headers);
        gateway.check_fields(request, &noted)?;
        let host = noted.host(request)?;
        if exchange.connection.redirects {
            let answer = redirect(&gateway.public_url, request)?;
            exchange.decision = Decision::Local;
            return Ok(Answer::Local(answer));
        }
        let path = head::path(request)?;
        let route = match gateway.target(gateway.listener(&exchange.connection)?, &host, &path, &noted)? {
            GoesTo::Route(route) => Arc::clone(route),
            GoesTo::AuthorizationServer(server, endpoint) => {
                drop(host);
                exchange.decision = Decision::Local;
                let caller = self.caller_of(exchange, origin);
                return self.authorization_server(server, endpoint, &caller, request, body).await;
            }
        };
        drop(host);
        exchange.route = Some(Arc::clone(&route));
        exchange.allowed_origin = route.plan.cors.as_ref().and_then(|cors| cors.allowed(&request.headers));
        if !route.plan.addresses.admit(origin.client) {
            return Err(Reject::Address);
        }
        route.accepts(&path, self.pools.upstream(route.plan.upstream).dialect())?;

        if let Some(cors) = &route.plan.cors
            && let Some(preflight) = Preflight::of(request)
        {
            exchange.decision = Decision::Local;
            return cors.answer(&preflight, &route, exchange.allowed_origin.as_ref()).map(Answer::Local);
        }

        let upgrade = UpgradeWanted::of(request);
        let by_connect = upgrade.as_ref().is_some_and(|upgrade| upgrade.by_connect);
        let method = if by_connect { &Method::GET } else { &request.method };
        let caller = gateway.caller(&route, method, &noted).await?;
        if let Caller::Known(token) = &caller {
            exchange.token = Some(Arc::clone(token));
        }
        let permit =
            policy::authorize(&route.plan.access, method, caller).map_err(|denied| refusal(&denied, &route))?;
        exchange.decision = if permit.token().is_some() { Decision::Admitted } else { Decision::Public };
        if let Some(limit) = &route.rate_limit {
            let standing = limit.count(&permit, origin.client);
            exchange.standing = Some(standing);
            rate_limit::judge(standing)?;
        }

        let switch = request.switch.take();
        let body = match &upgrade {
            Some(upgrade) if upgrade.by_connect => (RequestBody::empty(), Default::default()),
            _ => RequestBody::new(body, route.plan.body_bytes, gateway.limits.body_timeout).map_err(Reject::Body)?,
        };
        let request_id = exchange.request_id.clone();
        let inbound = Inbound {
            connection: &exchange.connection,
            origin,
            path,
            request_id: &request_id,
            trace: gateway.tracer.as_ref().and(exchange.trace.as_ref()),
            managed: &gateway.managed,
            upgrade: upgrade.as_ref(),
        };
        let mut outgoing = transform::request(&route, &permit, inbound, request, body)?;
        let mut response =
            self.pools.send(route.plan.upstream, &permit, &mut outgoing).await.map_err(Reject::Upstream)?;

        if route.plan.cors.is_some() {
            cors::remove_upstreams_own(response.headers_mut());
        }
        let ends_at = if route.plan.end_with_token { gateway.end_of(&permit) } else { None };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // To an extended CONNECT, a 2xx would say that the tunnel is open.
            if response.status().is_success() && upgrade.is_some_and(|upgrade| upgrade.by_connect) {
                return Err(Reject::Upgrade);
            }
            transform::response_head(&route.plan.forward, &mut response.head.headers);
            return Ok(Answer::Upstream { response, ends_at });
        }
        let (Some(upgrade), Some(caller)) = (upgrade, switch) else { return Err(Reject::Upgrade) };
        let Response { head, body } = response;
        let head = switch_response(&upgrade, head, &route.plan.forward);
        let server = body.into_switched().ok_or(Reject::Upgrade)?;
        Ok(Answer::Tunnel { head, tunnel: Pending { caller, server, ends_at } })
    }

    /// Who asks, for the endpoints.
    fn caller_of<'a>(&self, exchange: &'a Exchange, origin: &Origin) -> authorization_server::Caller<'a> {
        authorization_server::Caller {
            peer: origin.client,
            https: origin.https,
            loopback: exchange.connection.peer.is_loopback() && self.gateway.public_url.is_loopback(),
            request_id: exchange.request_id.to_str().unwrap_or_default(),
        }
    }

    async fn authorization_server(
        &self,
        server: &AuthorizationServer,
        endpoint: Endpoint,
        caller: &authorization_server::Caller<'_>,
        request: &mut RequestHead,
        body: Incoming,
    ) -> Result<Answer, Reject> {
        let gateway = &*self.gateway;
        // The endpoints bound what they read, and say so in their own words.
        let body = RequestBody::new(body, u64::MAX, gateway.limits.body_timeout);
        let (body, _) = body.map_err(Reject::Body)?;
        let mut asked = Request::new(body);
        *asked.method_mut() = std::mem::take(&mut request.method);
        *asked.uri_mut() = std::mem::take(&mut request.uri);
        *asked.headers_mut() = Arc::unwrap_or_clone(std::mem::take(&mut request.headers));
        Ok(Answer::Local(server.handle(endpoint, asked, caller).await))
    }

    /// The answer that switches protocols; what follows it runs on by itself and is told of at its end.
    fn tunnel(&self, head: ResponseHead, tunnel: Pending, mut exchange: Box<Exchange>) -> Response<ResponseBody> {
        exchange.status = head.status.as_u16();
        let Pending { caller, server, ends_at } = tunnel;
        // There may be no next request for as long as it lasts.
        exchange.connection.activity.rest();
        let idle = self.gateway.limits.stream_idle;
        tokio::spawn(Tunnel { caller, server, idle, ends_at, exchange }.run());
        Response { head, body: ResponseBody::nothing() }
    }
}

/// An answer, and the id that it carries in [`X_REQUEST_ID`], which is not yet among its fields.
#[derive(Debug)]
pub struct Answered<B> {
    pub request_id: HeaderValue,
    pub response: Response<B>,
}

/// What a request comes to when nothing refuses it.
enum Answer {
    Local(http::Response<Bytes>),
    Upstream { response: Response<crate::upstream::ResponseBody>, ends_at: Option<Instant> },
    Tunnel { head: ResponseHead, tunnel: Pending },
}

/// A tunnel whose ends are not there yet.
struct Pending {
    caller: Switch,
    server: crate::upstream::Switched,
    ends_at: Option<Instant>,
}

enum GoesTo<'a> {
    Route(&'a Arc<Route>),
    AuthorizationServer(&'a AuthorizationServer, Endpoint),
}

impl Gateway {
    /// What holds of every request, whatever the route.
    fn check_fields(&self, request: &RequestHead, noted: &Noted<'_>) -> Result<(), Reject> {
        if request.headers.len() > self.limits.header_count {
            self.metrics.limits_reached.with_label_values(&["header_count"]).inc();
            return Err(Reject::HeaderCount);
        }
        if noted.has_plain_length() { Ok(()) } else { Err(Reject::ContentLength) }
    }

    /// The index of the listener that a connection came in by. It may have been opened under another configuration.
    fn listener(&self, connection: &Connection) -> Result<usize, Reject> {
        let name = &connection.listener_name;
        let same = |own: &Arc<str>| Arc::ptr_eq(own, name) || own == name;
        match self.listeners.get(connection.listener) {
            Some(own) if same(own) => Ok(connection.listener),
            // Nothing is served any more by a listener that is gone.
            _ => self.listeners.iter().position(same).ok_or(Reject::NoRoute),
        }
    }

    fn target(
        &self,
        listener: usize,
        host: &str,
        path: &CanonicalPath,
        noted: &Noted<'_>,
    ) -> Result<GoesTo<'_>, Reject> {
        let found = self.routes.find(listener, host, path);
        if let (Some(Target::AuthorizationServer), Some(assemble::Embedded { server, .. })) =
            (&found, &self.authorization_server)
        {
            let endpoint = server.endpoint(path.as_str()).unwrap_or(Endpoint::Unknown);
            return Ok(GoesTo::AuthorizationServer(server, endpoint));
        }
        // The authorization server says this in its own words.
        noted.authorization()?;
        match found {
            Some(Target::Route(route)) => Ok(GoesTo::Route(route)),
            _ => Err(nowhere(path)),
        }
    }

    /// Who asks, as far as the route's entries for the method make it necessary to know.
    async fn caller(&self, route: &Route, method: &Method, noted: &Noted<'_>) -> Result<Caller, Reject> {
        match route.plan.access.need(method) {
            Need::Refuse | Need::Nothing => return Ok(Caller::Nobody),
            Need::Token | Need::TokenIfAny => {}
        }
        let Some(header) = noted.authorization()? else { return Ok(Caller::Nobody) };
        let plan = &route.plan;
        let verified = match Bearer::parse(header) {
            Ok(Some(bearer)) => self.verifier.verify(bearer, &plan.issuers, &plan.audience, plan.introspection).await,
            Ok(None) => return Ok(Caller::Nobody),
            Err(error) => Err(error),
        };
        verified.map(Caller::Known).map_err(|error| match error {
            BearerError::Syntax => Reject::BearerSyntax,
            BearerError::Token(refusal) => self.refused(refusal),
        })
    }

    fn refused(&self, refusal: Refusal) -> Reject {
        let reason = refusal.reason();
        self.tokens_refused.count(reason, || self.metrics.tokens_refused.with_label_values(&[reason]));
        match refusal {
            Refusal::Unavailable => Reject::IssuerUnavailable,
            refusal => Reject::InvalidToken(refusal),
        }
    }

    /// When what the permit's token admitted must end.
    fn end_of(&self, permit: &Permit) -> Option<Instant> {
        let left = permit.token()?.validity().until.saturating_sub(self.clock.now());
        Instant::now().checked_add(Duration::from_secs(left))
    }

    /// Brings the metrics up to date that are read rather than counted.
    pub fn measure(&self) {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let metrics = &self.metrics;
        metrics.token_cache_entries.set(number(self.verifier.cached()));
        for issuer in self.verifier.issuers() {
            let name = [&*issuer.settings.name];
            if let Some(age) = issuer.keys.as_ref().and_then(|keys| keys.age()) {
                metrics.key_set_age.with_label_values(&name).set(number(age.as_secs()));
                let success = self.clock.now().saturating_sub(age.as_secs());
                metrics.key_set_last_success.with_label_values(&name).set(number(success));
            }
            if let Some(introspector) = &issuer.introspector {
                metrics.introspection_entries.with_label_values(&name).set(number(introspector.entries()));
            }
        }
        // Servers that are configured no more are gone from it.
        metrics.upstream_server_up.reset();
        for upstream in &*self.upstreams {
            for (server, up) in upstream.servers() {
                let name = [&**upstream.name(), &server.to_string()];
                metrics.upstream_server_up.with_label_values(&name).set(i64::from(up));
            }
        }
    }

    /// Has the collector told of what ended by now; what that takes is bounded.
    pub async fn flush_spans(&self) {
        if let Some(tracer) = &self.tracer {
            tracer.flush(FLUSH).await;
        }
    }

    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    pub fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    pub fn authorization_server(&self) -> Option<&Arc<AuthorizationServer>> {
        self.authorization_server.as_ref().map(|embedded| &embedded.server)
    }
}

/// An answer made here. That to a HEAD says how long the body would be, and has none.
fn local(mut response: http::Response<Bytes>, exchange: Box<Exchange>) -> Response<ResponseBody> {
    if exchange.method == Method::HEAD {
        let length = HeaderValue::from(response.body().len());
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(length);
        *response.body_mut() = Bytes::new();
    }
    Response::from(response).map(|body| ResponseBody::local(body, exchange))
}

/// Where no route could open it, a path that can be read in two ways is told as such.
fn nowhere(path: &CanonicalPath) -> Reject {
    if path.spelled() == Default::default() { Reject::NoRoute } else { Reject::Spelling }
}

/// The answer of a listener that forwards nothing: 308 to the same target under the public URL for what has no body. What
/// was sent in clear is not asked for again.
fn redirect(public_url: &BaseUrl, request: &RequestHead) -> Result<http::Response<Bytes>, Reject> {
    let target = request.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let location = HeaderValue::from_str(&format!("{}{target}", public_url.origin()));
    match location {
        Ok(location) if matches!(request.method, Method::GET | Method::HEAD) && target.starts_with('/') => {
            let mut response = http::Response::new(Bytes::new());
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(header::LOCATION, location);
            Ok(response)
        }
        _ => Err(Reject::Cleartext),
    }
}

fn refusal(denied: &Denied, route: &Route) -> Reject {
    match *denied {
        Denied::Method => Reject::Method { allow: route.allow.clone() },
        Denied::Unauthenticated(entry) => Reject::Unauthenticated { challenge: route.challenges[entry].0.clone() },
        Denied::Scope(entry) => Reject::InsufficientScope { challenge: route.challenges[entry].1.clone() },
        Denied::Forbidden => Reject::Forbidden,
    }
}

/// The head of the answer to a switch of protocols.
fn switch_response(upgrade: &UpgradeWanted, mut head: ResponseHead, forward: &plan::Forward) -> ResponseHead {
    let protocol = head.headers.get(header::UPGRADE).cloned();
    transform::response_head(forward, &mut head.headers);
    let headers = Arc::make_mut(&mut head.headers);
    if upgrade.by_connect {
        // RFC 8441 section 5: the handshake's own fields have no meaning in HTTP/2.
        head.status = StatusCode::OK;
        headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    } else {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            headers.insert(header::UPGRADE, protocol);
        }
    }
    ResponseHead { reason: None, ..head }
}

fn logged_host(request: &RequestHead) -> Option<HeaderValue> {
    let header = request.headers.get(header::HOST).cloned();
    header.or_else(|| HeaderValue::from_str(request.uri.authority()?.as_str()).ok())
}

/// An address as the value of a header.
pub fn peer_text(peer: IpAddr) -> HeaderValue {
    HeaderValue::from_str(&peer.to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}
