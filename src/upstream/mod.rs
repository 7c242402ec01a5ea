//! Where requests go: pools of kept-alive connections to the servers of each upstream. Nothing is sent without a `Permit`.

mod answer;
mod balance;
mod body;
mod budget;
mod connect;
mod dialect;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod head;
mod health;
mod http1;
mod pool;
mod resolve;
mod server_url;
mod standing;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;
use std::time::Duration;

use http::{HeaderValue, Method};
use prometheus::{Histogram, IntCounter};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use balance::Balance;
pub use body::ResponseBody;
pub use dialect::Dialect;
pub use head::{Block, Head};
pub use health::Health;
pub use http1::Switched;
pub use pool::Pools;
pub use server_url::ServerUrl;

use balance::{Choice, Order, Running};
use budget::Budget;
use standing::Standing;

use crate::net::body::{BodyError, BodyOutcome, RequestBody};
use crate::net::response::Response;
use crate::policy::Permit;
use crate::telemetry::metrics::Metrics;
use crate::tls::{self, TlsError};

/// One `[upstreams.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub name: Arc<str>,
    /// At least one.
    pub servers: Vec<ServerUrl>,
    pub balance: Balance,
    /// Per server, over all workers.
    pub connections: usize,
    pub connect_timeout: Duration,
    /// From the end of the request to the response head.
    pub response_timeout: Duration,
    /// Kept per server and worker.
    pub idle_connections: usize,
    /// h2c with prior knowledge to `http://` and `unix:`, offered by ALPN to `https://`.
    pub http2: bool,
    /// Further tries of a request that never reached a server, or that is idempotent and has no body.
    pub retries: u32,
    pub dialect: Dialect,
    pub health: Option<Health>,
    pub tls: crate::tls::ClientSettings,
}

/// Why there is no answer of an upstream.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendError {
    #[error("no connection to {server}: {source}")]
    Connect { server: String, source: Arc<std::io::Error> },
    #[error("no connection to {server} within {limit:?}")]
    ConnectTimeout { server: String, limit: Duration },
    #[error("all {limit} connections to {server} are in use")]
    Busy { server: String, limit: usize },
    #[error("{server} broke off: {source}")]
    Broken { server: String, source: Arc<std::io::Error> },
    #[error("no answer of {server} within {limit:?}")]
    Timeout { server: String, limit: Duration },
    #[error("all servers of {upstream} are out")]
    NoServer { upstream: Arc<str> },
    #[error("{0}")]
    RequestBody(BodyError),
}

/// One upstream, shared by all workers.
#[derive(Debug)]
pub struct Upstream {
    settings: Settings,
    servers: Vec<Server>,
    /// Where the next round-robin turn begins.
    turn: AtomicUsize,
    budget: Budget,
    metrics: UpstreamMetrics,
    /// What the files of `settings.tls` held.
    files: Option<[u8; 32]>,
}

#[derive(Debug)]
struct Server {
    url: ServerUrl,
    authority: HeaderValue,
    connector: connect::Connector,
    standing: Standing,
    /// Of the url, for `balance = "hash"`.
    key: u64,
    /// Requests that are not answered to their end, for `balance = "least_requests"`.
    running: Arc<AtomicUsize>,
    places: Arc<Places>,
    /// The pools of all workers, for when the last place is taken by a connection that nobody uses.
    pools: Mutex<Vec<Weak<pool::ServerPool>>>,
}

/// How many connections a server has over all workers.
#[derive(Debug, Default)]
struct Places {
    taken: AtomicUsize,
    freed: Notify,
}

#[derive(Debug)]
struct UpstreamMetrics {
    requests: IntCounter,
    latency: Histogram,
    connects: IntCounter,
    errors: prometheus::IntCounterVec,
    retried: IntCounter,
    over_budget: IntCounter,
    name: Arc<str>,
}

impl Upstream {
    pub fn new(settings: Settings, metrics: &Metrics) -> Result<Self, TlsError> {
        let server = |url: &ServerUrl| {
            Ok(Server {
                authority: HeaderValue::from_str(&url.authority())
                    .map_err(|_| TlsError::ServerName(url.to_string()))?,
                connector: connect::Connector::new(url, &settings)?,
                standing: Standing::new(),
                key: balance::digest(&[url.to_string().as_bytes()]),
                running: Arc::default(),
                places: Arc::default(),
                pools: Mutex::default(),
                url: url.clone(),
            })
        };
        let servers = settings.servers.iter().map(server).collect::<Result<_, TlsError>>()?;
        let name: &str = &settings.name;
        let metrics = UpstreamMetrics {
            requests: metrics.upstream_requests.with_label_values(&[name]),
            latency: metrics.upstream_seconds.with_label_values(&[name]),
            connects: metrics.upstream_connects.with_label_values(&[name]),
            errors: metrics.upstream_errors.clone(),
            retried: metrics.upstream_retries.with_label_values(&[name, "sent"]),
            over_budget: metrics.upstream_retries.with_label_values(&[name, "over_budget"]),
            name: settings.name.clone(),
        };
        let files = tls::contents(settings.tls.files());
        let budget = Budget::new(settings.connections, metrics.requests.get());
        Ok(Self { settings, servers, turn: AtomicUsize::new(0), budget, metrics, files })
    }

    /// Whether it is just what `settings` ask for, so that it may go on with its connections.
    pub fn is_still(&self, settings: &Settings) -> bool {
        self.settings == *settings && self.files == tls::contents(settings.tls.files())
    }

    /// What goes on beside traffic for as long as the upstream lives.
    pub fn upkeep(self: &Arc<Self>) -> impl Iterator<Item = impl Future<Output = ()> + Send + 'static> {
        let checked = if self.settings.health.is_some() { self.servers.len() } else { 0 };
        (0..checked).map(|place| health::watch(Arc::downgrade(self), place))
    }

    pub fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// Open now, over all workers and servers.
    pub fn connections(&self) -> usize {
        self.servers.iter().map(|server| server.places.taken.load(Ordering::Relaxed)).sum()
    }

    pub fn dialect(&self) -> Dialect {
        self.settings.dialect
    }

    /// The servers as configured, and whether each is given requests.
    pub fn servers(&self) -> impl Iterator<Item = (&ServerUrl, bool)> {
        self.servers.iter().map(|server| (&server.url, !server.standing.is_out()))
    }

    fn running(&self, choice: Choice) -> Option<Running> {
        let counted = self.settings.balance == Balance::LeastRequests;
        counted.then(|| Running::on(&self.servers[choice.place].running))
    }

    fn answered(&self, choice: Choice) {
        let server = &self.servers[choice.place];
        if server.standing.answered(choice.trial.then(Instant::now)) {
            self.is_back(server);
        }
    }

    fn is_well(&self, place: usize) {
        let server = &self.servers[place];
        if server.standing.is_well(Instant::now()) {
            self.is_back(server);
        }
    }

    fn is_ill(&self, place: usize, reason: &str) {
        let server = &self.servers[place];
        if server.standing.is_ill() {
            self.is_gone(server, reason);
        }
    }

    fn is_back(&self, server: &Server) {
        tracing::info!(event = "upstream.server_back", upstream = &*self.settings.name, server = %server.url);
    }

    fn is_gone(&self, server: &Server, reason: &str) {
        let upstream = &*self.settings.name;
        tracing::warn!(event = "upstream.server_out", upstream, server = %server.url, reason);
    }

    /// Notes a failure, and how long it `took`.
    fn failed(&self, choice: Choice, error: &SendError, took: Duration) {
        let server = &self.servers[choice.place];
        let may_go = match error {
            SendError::Connect { .. } | SendError::ConnectTimeout { .. } => true,
            // Some requests break or hold up any server that they come to: whoever sends them could put out all.
            SendError::Broken { .. } | SendError::Timeout { .. } => {
                let out = self.servers.iter().filter(|server| server.standing.is_out()).count();
                2 * (out + 1) <= self.servers.len()
            }
            SendError::Busy { .. } | SendError::NoServer { .. } | SendError::RequestBody(_) => return,
        };
        if server.standing.failed(choice.trial, took, Instant::now(), || may_go) {
            self.is_gone(server, &error.to_string());
        }
    }

    /// Whether there is a retry left for one more request.
    fn may_retry(&self) -> bool {
        let may = self.budget.spend(self.metrics.requests.get());
        if may { &self.metrics.retried } else { &self.metrics.over_budget }.inc();
        may
    }
}

/// A request ready to go, but for the server that will take it.
#[derive(Debug)]
pub struct Outgoing {
    pub head: Head,
    pub content: RequestBody,
    /// From the end of the request to the response head; absent: the upstream's.
    pub timeout: Option<Duration>,
    pub body: BodyOutcome,
    /// The caller's address.
    pub client: std::net::IpAddr,
}

impl Pools {
    /// Sends a permitted request to one of the upstream's servers and gives its answer's head; the body streams. Takes the
    /// content out of `outgoing`.
    pub async fn send(
        &self,
        index: usize,
        permit: &Permit,
        outgoing: &mut Outgoing,
    ) -> Result<Response<ResponseBody>, SendError> {
        next_turn().await;
        let upstream = &self.upstreams[index];
        upstream.metrics.requests.inc();
        let started = Instant::now();
        let limit = outgoing.timeout.unwrap_or(upstream.settings.response_timeout);
        let body = outgoing.body.clone();
        let order = Order::new(upstream, permit, outgoing.client);
        let Some(choice) = order.choose(upstream, None, started) else {
            // Nobody waits for what is known to fail; one request at a time finds out when it does not.
            let error = SendError::NoServer { upstream: Arc::clone(upstream.name()) };
            upstream.metrics.errors.with_label_values(&[&*upstream.metrics.name, error.kind()]).inc();
            return Err(error);
        };
        let mut progress = Progress { order, choice, running: upstream.running(choice), shared: None };
        let mut alarm = self.alarms.take();
        let result = tokio::select! {
            biased;
            result = self.attempt(index, &mut progress, outgoing) => result,
            limit = body.overdue(&mut alarm, started, limit) => {
                // Nobody else shall wait for a connection that may have died without a word.
                if let Some(shared) = progress.shared {
                    shared.forget();
                }
                let error = SendError::Timeout { server: upstream.servers[progress.choice.place].url.to_string(), limit };
                if body.error().is_none() {
                    upstream.failed(progress.choice, &error, started.elapsed());
                }
                Err(error)
            }
        };
        self.alarms.give_back(alarm);
        upstream.metrics.latency.observe(started.elapsed().as_secs_f64());
        result.map_err(|error| match body.error() {
            // What the server made of a body that failed on the caller's side is no fault of the server.
            Some(error) => SendError::RequestBody(error),
            None => {
                upstream.metrics.errors.with_label_values(&[&*upstream.metrics.name, error.kind()]).inc();
                error
            }
        })
    }

    /// Tries servers from the one in `progress` on until one answers or the tries are used up.
    async fn attempt(
        &self,
        index: usize,
        progress: &mut Progress,
        outgoing: &mut Outgoing,
    ) -> Result<Response<ResponseBody>, SendError> {
        let upstream = &self.upstreams[index];
        let Outgoing { head, content, body, .. } = outgoing;
        let mut content = std::mem::replace(content, RequestBody::empty());
        // What is sent again must be the same in full: only a request without a body can be kept.
        let repeatable = content.is_empty() && upstream.settings.retries > 0;
        let idempotent = is_idempotent(&head.method);
        let mut retries_left = upstream.settings.retries;
        loop {
            let choice = progress.choice;
            let server = &upstream.servers[choice.place];
            let host = head.host.as_ref().unwrap_or(&server.authority);
            let began = choice.trial.then(Instant::now);
            let took = || began.map_or(Duration::ZERO, |began| began.elapsed());
            progress.shared = None;
            let error = match self.checkout(index, choice.place).await {
                Err(error) => {
                    // Else it was counted when the connection failed: once, however many wait for it.
                    if choice.trial {
                        upstream.failed(choice, &error, took());
                    }
                    error
                }
                Ok(connection) => match connection.send(head, host, content, &mut progress.shared).await {
                    Ok(response) => {
                        upstream.answered(choice);
                        return Ok(response.map(|body| body.counted(progress.running.take())));
                    }
                    Err(failure) => {
                        let source = Arc::new(failure.error);
                        let error = SendError::Broken { server: server.url.to_string(), source };
                        let again = match failure.unsent {
                            // The server closed a kept connection: that says nothing of the next.
                            Some(unsent) if failure.reused => {
                                content = unsent;
                                continue;
                            }
                            Some(unsent) => Some(unsent),
                            None => {
                                let may = failure.unprocessed || (idempotent && !failure.heard);
                                (repeatable && may).then(RequestBody::empty)
                            }
                        };
                        if !failure.unprocessed && body.error().is_none() {
                            upstream.failed(choice, &error, took());
                        }
                        let Some(again) = again else { return Err(error) };
                        content = again;
                        error
                    }
                },
            };
            let next = progress.order.choose(upstream, Some(choice.place), Instant::now());
            let unreachable = matches!(error, SendError::Connect { .. } | SendError::ConnectTimeout { .. });
            // What cannot be reached is not to be reached at once.
            let next = next.filter(|next| !unreachable || next.place != choice.place);
            let Some(next) = next.filter(|_| retries_left > 0 && upstream.may_retry()) else { return Err(error) };
            retries_left -= 1;
            (progress.choice, progress.running) = (next, upstream.running(next));
        }
    }
}

/// How far a request has come.
#[derive(Debug)]
struct Progress {
    order: Order,
    /// The server that is tried.
    choice: Choice,
    /// The request as one of that server's, where they are counted.
    running: Option<Running>,
    /// The connection it is on, if others use that too.
    shared: Option<pool::SharedConnection>,
}

impl SendError {
    /// For metric labels.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::ConnectTimeout { .. } => "connect_timeout",
            Self::Busy { .. } => "busy",
            Self::Broken { .. } => "broken",
            Self::Timeout { .. } => "timeout",
            Self::NoServer { .. } => "no_server",
            Self::RequestBody(_) => "request_body",
        }
    }
}

/// Whoever is ready in this turn goes first, so that what is sent to servers leaves together: each time one is woken from
/// its sleep costs more than this.
async fn next_turn() {
    let mut turned = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut turned, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE].contains(method)
}

/// One of a server's connections; gives the place back when dropped.
#[derive(Debug)]
struct Slot {
    places: Arc<Places>,
    since: Instant,
}

impl Slot {
    fn take(places: &Arc<Places>, limit: usize) -> Option<Self> {
        places
            .taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| (taken < limit).then_some(taken + 1))
            .is_ok()
            .then(|| Self { places: Arc::clone(places), since: Instant::now() })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::AcqRel);
        self.places.freed.notify_one();
    }
}
