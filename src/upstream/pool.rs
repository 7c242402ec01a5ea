//! The connections of one worker. Workers share the count of a server's open connections, and take the place of one that
//! waits unused in another's pool when there is no other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::uri::{self, Authority, Scheme};
use http::{HeaderValue, Request, StatusCode, Uri};
use hyper::client::conn::http2;
use tokio::sync::watch;
use tokio::time::Instant;

use super::balance::Choice;
use super::http1::{Http1, Unanswered};
use super::resolve::RENEWAL;
use super::{Head, ResponseBody, SendError, Slot, Upstream};
use crate::net::alarm::Alarms;
use crate::net::body::RequestBody;
use crate::net::response::Response;

/// Longest that an unused connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// Longest wait for an evicted connection to be gone.
const EVICTION: Duration = Duration::from_millis(500);

/// One worker's connections to all upstreams.
#[derive(Debug)]
pub struct Pools {
    pub(super) upstreams: Arc<[Arc<Upstream>]>,
    /// By upstream, by server.
    pools: Vec<Vec<Arc<ServerPool>>>,
    /// For answers that do not come in time.
    pub(super) alarms: Alarms,
}

#[derive(Debug, Default)]
pub(super) struct ServerPool {
    /// The most recently used last.
    idle: Mutex<Vec<Idle>>,
    keep: usize,
    tls: bool,
    /// Connections are renewed: the server's name may come to mean other addresses.
    named: bool,
    shared: Mutex<Shared>,
}

/// The one connection that all requests share, when the server speaks HTTP/2.
#[derive(Debug, Default)]
struct Shared {
    state: SharedState,
    generations: u64,
}

#[derive(Debug, Default)]
enum SharedState {
    #[default]
    Absent,
    /// One dials, the others wait for what comes of it.
    Dialling(watch::Receiver<Option<Dialled>>),
    Open {
        sender: http2::SendRequest<RequestBody>,
        generation: u64,
        since: Instant,
    },
    /// The server chose HTTP/1.1 when it was last asked: each request has a connection of its own.
    Http1,
}

/// What came of a dial that many wait for.
#[derive(Clone, Debug)]
enum Dialled {
    Http2 {
        sender: http2::SendRequest<RequestBody>,
        generation: u64,
    },
    /// For the first that takes it.
    Http1(Arc<Mutex<Option<Sender>>>),
    Failed(SendError),
}

#[derive(Debug)]
struct Idle {
    connection: Box<Http1>,
    since: Instant,
}

#[derive(Debug)]
pub(super) enum Sender {
    Http1(Box<Http1>),
    Http2(http2::SendRequest<RequestBody>),
}

/// A connection taken for one request.
pub(super) struct Connection {
    sender: Sender,
    pool: Arc<ServerPool>,
    /// Which of the pool's shared connections it is.
    generation: u64,
    /// Whether it served a request before, so that the server may have closed it meanwhile.
    reused: bool,
}

/// An HTTP/2 connection that other requests are on, or will be.
#[derive(Debug)]
pub(super) struct SharedConnection {
    pool: Arc<ServerPool>,
    generation: u64,
}

impl SharedConnection {
    /// Keeps further requests off the connection; those on it go on.
    pub(super) fn forget(&self) {
        let mut shared = self.pool.shared();
        if matches!(shared.state, SharedState::Open { generation, .. } if generation == self.generation) {
            shared.state = SharedState::Absent;
        }
    }
}

pub(super) struct SendFailure {
    pub error: std::io::Error,
    /// The body, when not a byte of the request was sent.
    pub unsent: Option<RequestBody>,
    /// The server said that it did nothing with the request.
    pub unprocessed: bool,
    /// The server began to answer.
    pub heard: bool,
    pub reused: bool,
}

impl Pools {
    /// The connections that `former` has to upstreams which go on are kept.
    pub fn new(upstreams: Arc<[Arc<Upstream>]>, former: Option<&Self>) -> Self {
        let fresh = |upstream: &Upstream| {
            let keep = upstream.settings.idle_connections;
            let pool = |server: &super::Server| {
                let tls = server.connector.is_tls();
                let named = server.connector.is_named();
                let pool = Arc::new(ServerPool { keep, tls, named, ..ServerPool::default() });
                server.pools.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&pool));
                pool
            };
            upstream.servers.iter().map(pool).collect()
        };
        let pools = upstreams.iter().map(|upstream| {
            let kept = former.and_then(|former| {
                let place = former.upstreams.iter().position(|own| Arc::ptr_eq(own, upstream))?;
                former.pools.get(place).cloned()
            });
            kept.unwrap_or_else(|| fresh(upstream))
        });
        let pools = pools.collect();
        Self { upstreams, pools, alarms: Alarms::default() }
    }

    pub fn upstream(&self, index: usize) -> &Upstream {
        &self.upstreams[index]
    }

    /// Closes connections that were unused for long. To be called now and then.
    pub fn close_idle(&self) {
        for pool in self.pools.iter().flatten() {
            pool.lock().retain_mut(|idle| idle.since.elapsed() < IDLE && idle.connection.is_open());
        }
    }

    pub(super) async fn checkout(&self, upstream: usize, server: usize) -> Result<Connection, SendError> {
        let pool = &self.pools[upstream][server];
        let connection = |sender, generation, reused| Connection { sender, pool: Arc::clone(pool), generation, reused };
        if let Some(sender) = pool.take() {
            return Ok(connection(sender, 0, true));
        }
        let settings = &self.upstreams[upstream].settings;
        if !settings.http2 {
            return Ok(connection(Box::pin(connect(&self.upstreams[upstream], server)).await?, 0, false));
        }
        let mut dial = {
            let mut shared = pool.shared();
            match &shared.state {
                SharedState::Open { sender, generation, since } if !sender.is_closed() && !pool.is_old(*since) => {
                    return Ok(connection(Sender::Http2(sender.clone()), *generation, true));
                }
                SharedState::Http1 => None,
                // Closed without an outcome: the task that dialled is no more.
                SharedState::Dialling(dial) if dial.has_changed().is_ok() => Some(dial.clone()),
                SharedState::Open { .. } | SharedState::Absent | SharedState::Dialling(_) => {
                    let dial = self.dial(upstream, server);
                    shared.state = SharedState::Dialling(dial.clone());
                    Some(dial)
                }
            }
        };
        let dialled = match &mut dial {
            None => None,
            Some(dial) => dial.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone()),
        };
        match dialled {
            Some(Dialled::Http2 { sender, generation }) => {
                return Ok(connection(Sender::Http2(sender), generation, false));
            }
            Some(Dialled::Http1(first)) => {
                if let Some(sender) = first.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    return Ok(connection(sender, 0, false));
                }
            }
            Some(Dialled::Failed(error)) => return Err(error),
            None => {}
        }
        let sender = Box::pin(connect(&self.upstreams[upstream], server)).await?;
        let generation = match &sender {
            Sender::Http2(sender) => pool.open(sender),
            Sender::Http1(..) => 0,
        };
        Ok(connection(sender, generation, false))
    }

    /// Dials for everyone who waits: whoever began it may go away meanwhile.
    fn dial(&self, upstream: usize, server: usize) -> watch::Receiver<Option<Dialled>> {
        let (outcome, dial) = watch::channel(None);
        let (upstreams, pool) = (Arc::clone(&self.upstreams), Arc::clone(&self.pools[upstream][server]));
        tokio::spawn(async move {
            let dialled = match connect(&upstreams[upstream], server).await {
                Ok(Sender::Http2(sender)) => Dialled::Http2 { generation: pool.open(&sender), sender },
                Ok(sender) => {
                    pool.shared().state = SharedState::Http1;
                    Dialled::Http1(Arc::new(Mutex::new(Some(sender))))
                }
                Err(error) => {
                    pool.shared().state = SharedState::Absent;
                    Dialled::Failed(error)
                }
            };
            outcome.send_replace(Some(dialled));
        });
        dial
    }
}

/// Rare, and larger than all else that a request waits for: to be boxed by those who wait on a request's way.
async fn connect(upstream: &Upstream, place: usize) -> Result<Sender, SendError> {
    let server = &upstream.servers[place];
    let (limit, timeout) = (upstream.settings.connections, upstream.settings.connect_timeout);
    let slot = match Slot::take(&server.places, limit) {
        Some(slot) => Some(slot),
        None => freed_slot(server, limit).await,
    };
    let slot = slot.ok_or_else(|| SendError::Busy { server: server.url.to_string(), limit })?;
    upstream.metrics.connects.inc();
    let began = Instant::now();
    let error = match tokio::time::timeout(timeout, server.connector.connect(slot)).await {
        Ok(Ok(sender)) => return Ok(sender),
        Ok(Err(source)) => SendError::Connect { server: server.url.to_string(), source: Arc::new(source) },
        Err(_) => SendError::ConnectTimeout { server: server.url.to_string(), limit: timeout },
    };
    upstream.failed(Choice { place, trial: false }, &error, began.elapsed());
    Err(error)
}

/// Takes the place of a connection that waits unused in the pool of another worker, if there is one.
async fn freed_slot(server: &super::Server, limit: usize) -> Option<Slot> {
    let pools = server.pools.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let unused = pools.iter().filter_map(Weak::upgrade).find_map(|pool| pool.evict());
    drop(unused?);
    let deadline = Instant::now() + EVICTION;
    // Being told of a free place does not mean that it still is, nor that it is ours: it may have been told long ago.
    loop {
        let freed = server.places.freed.notified();
        if let Some(slot) = Slot::take(&server.places, limit) {
            return Some(slot);
        }
        if tokio::time::timeout_at(deadline, freed).await.is_err() {
            return Slot::take(&server.places, limit);
        }
    }
}

impl ServerPool {
    fn evict(&self) -> Option<Idle> {
        let mut idle = self.lock();
        if idle.is_empty() { None } else { Some(idle.remove(0)) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has further requests share the connection. Gives its generation.
    fn open(&self, sender: &http2::SendRequest<RequestBody>) -> u64 {
        let mut shared = self.shared();
        shared.generations += 1;
        let generation = shared.generations;
        shared.state = SharedState::Open { sender: sender.clone(), generation, since: Instant::now() };
        generation
    }

    fn is_old(&self, since: Instant) -> bool {
        self.named && since.elapsed() >= RENEWAL
    }

    fn take(&self) -> Option<Sender> {
        let mut idle = self.lock();
        while let Some(Idle { mut connection, .. }) = idle.pop() {
            if connection.is_open() {
                return Some(Sender::Http1(connection));
            }
        }
        None
    }

    /// Takes a connection whose answer was read to its end.
    pub(super) fn give_back(&self, mut connection: Box<Http1>) {
        if !connection.can_go_on() || self.is_old(connection.slot().since) {
            return;
        }
        connection.shrink();
        let mut idle = self.lock();
        if idle.len() < self.keep {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }
}

impl Connection {
    /// Sends the request; tells in `on` if that is on a connection which others use too.
    pub(super) async fn send(
        self,
        head: &Head,
        host: &HeaderValue,
        body: RequestBody,
        on: &mut Option<SharedConnection>,
    ) -> Result<Response<ResponseBody>, SendFailure> {
        let Self { sender, pool, generation, reused } = self;
        match sender {
            Sender::Http1(mut connection) => {
                let head = connection.send(head, host, body).await.map_err(|unanswered| {
                    let Unanswered { error, unsent, heard } = unanswered;
                    SendFailure { error, unsent, unprocessed: false, heard, reused }
                })?;
                let body = match head.status == StatusCode::SWITCHING_PROTOCOLS {
                    true => ResponseBody::switched(connection),
                    false => ResponseBody::http1(connection, &pool),
                };
                Ok(Response { head, body })
            }
            Sender::Http2(mut sender) => {
                let request = to_http2(head, host, body, pool.tls);
                let shared = on.insert(SharedConnection { pool, generation });
                let response = sender.try_send_request(request).await.map_err(|mut failure| {
                    let unsent = failure.take_message().map(Request::into_body);
                    let error = failure.into_error();
                    let source =
                        std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
                    // The end of one stream says nothing of the others.
                    if !source.is_some_and(h2::Error::is_reset) {
                        shared.forget();
                    }
                    let unprocessed = source.is_some_and(is_unprocessed);
                    let error = std::io::Error::other(error);
                    SendFailure { error, unsent, unprocessed, heard: false, reused }
                })?;
                Ok(Response::from(response).map(ResponseBody::http2))
            }
        }
    }
}

/// Whether the server did nothing with the request (RFC 9113 section 8.7): it refused the stream, or the stream came
/// after the last one that its GOAWAY admits.
fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// HTTP/2 wants the authority in the target instead of `Host`.
pub(super) fn to_http2(head: &Head, host: &HeaderValue, body: RequestBody, tls: bool) -> Request<RequestBody> {
    let mut parts = uri::Parts::default();
    parts.authority = Authority::try_from(host.as_bytes()).ok();
    parts.scheme = match (&parts.authority, tls) {
        (None, _) => None,
        (Some(_), true) => Some(Scheme::HTTPS),
        (Some(_), false) => Some(Scheme::HTTP),
    };
    parts.path_and_query = Some(head.target.clone());
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = head.fields().cloned().collect();
    request
}

#[cfg(test)]
mod tests {
    use http::Method;
    use tokio::io::AsyncWriteExt;

    use super::super::fuzzing::ask;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connections_to_a_name_are_renewed_and_those_to_an_address_are_kept() {
        for (named, age, kept) in [(true, RENEWAL / 2, 1), (true, RENEWAL, 0), (false, RENEWAL * 9, 1)] {
            let pool = ServerPool { keep: 9, named, ..ServerPool::default() };
            let slot = Slot::take(&Arc::default(), 1).unwrap();
            let (ours, mut theirs) = tokio::io::duplex(1 << 10);
            let mut connection = Http1::new(ours, slot);
            theirs.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            ask(&mut connection, Method::GET).await.unwrap();
            tokio::time::advance(age).await;
            pool.give_back(connection);
            assert_eq!(pool.lock().len(), kept, "{named} {age:?}");
        }
    }
}
