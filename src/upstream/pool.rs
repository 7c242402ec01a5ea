//! The kept-alive connections of one worker. Nothing here is shared between workers but the count of open connections.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::{http1, http2};
use tokio::time::Instant;

use super::{ResponseBody, SendError, Slot, Upstream};
use crate::net::body::RequestBody;

/// Longest that an unused connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// Longest wait for an evicted connection to be gone.
const EVICTION: Duration = Duration::from_millis(500);

/// One worker's connections to all upstreams.
#[derive(Debug)]
pub struct Pools {
    pub(super) upstreams: Arc<[Upstream]>,
    /// By upstream, by server.
    pools: Vec<Vec<Arc<ServerPool>>>,
}

#[derive(Debug, Default)]
pub(super) struct ServerPool {
    /// The most recently used last.
    idle: Mutex<Vec<Idle>>,
    keep: usize,
    /// The one connection that all requests share, when the server speaks HTTP/2.
    shared: tokio::sync::Mutex<Option<http2::SendRequest<RequestBody>>>,
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
}

#[derive(Debug)]
pub(super) enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

/// A connection taken for one request.
pub(super) struct Connection {
    sender: Sender,
    pool: Arc<ServerPool>,
    /// Whether it served a request before, so that the server may have closed it meanwhile.
    reused: bool,
}

pub(super) struct SendFailure {
    pub error: hyper::Error,
    /// The request, when not a byte of it was sent.
    pub unsent: Option<Request<RequestBody>>,
    pub reused: bool,
}

impl Pools {
    pub fn new(upstreams: Arc<[Upstream]>) -> Self {
        let pool = |upstream: &Upstream| {
            let keep = upstream.settings.idle_connections;
            let pool = |server: &super::Server| {
                let pool = Arc::new(ServerPool { keep, ..ServerPool::default() });
                server.pools.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&pool));
                pool
            };
            upstream.servers.iter().map(pool).collect()
        };
        let pools = upstreams.iter().map(pool).collect();
        Self { upstreams, pools }
    }

    pub fn upstream(&self, index: usize) -> &Upstream {
        &self.upstreams[index]
    }

    /// Closes connections that were unused for long. To be called now and then.
    pub fn close_idle(&self) {
        for pool in self.pools.iter().flatten() {
            pool.lock().retain(|idle| idle.since.elapsed() < IDLE && !idle.sender.is_closed());
        }
    }

    pub(super) async fn checkout(&self, upstream: usize, server: usize) -> Result<Connection, SendError> {
        let pool = &self.pools[upstream][server];
        if let Some(sender) = pool.take() {
            return Ok(Connection { sender: Sender::Http1(sender), pool: Arc::clone(pool), reused: true });
        }
        let upstream = &self.upstreams[upstream];
        if !upstream.settings.http2 {
            let sender = self.connect(upstream, server).await?;
            return Ok(Connection { sender, pool: Arc::clone(pool), reused: false });
        }
        // One dials, the others wait for the connection that they will share.
        let mut shared = pool.shared.lock().await;
        if let Some(sender) = shared.as_ref().filter(|sender| !sender.is_closed()) {
            let sender = Sender::Http2(sender.clone());
            return Ok(Connection { sender, pool: Arc::clone(pool), reused: true });
        }
        let sender = self.connect(upstream, server).await?;
        if let Sender::Http2(sender) = &sender {
            *shared = Some(sender.clone());
        }
        drop(shared);
        Ok(Connection { sender, pool: Arc::clone(pool), reused: false })
    }

    async fn connect(&self, upstream: &Upstream, place: usize) -> Result<Sender, SendError> {
        let server = &upstream.servers[place];
        let (limit, timeout) = (upstream.settings.connections, upstream.settings.connect_timeout);
        let slot = match Slot::take(&server.places, limit) {
            Some(slot) => Some(slot),
            None => freed_slot(server, limit).await,
        };
        let slot = slot.ok_or_else(|| SendError::Busy { server: server.url.to_string(), limit })?;
        upstream.metrics.connects.inc();
        match tokio::time::timeout(timeout, server.connector.connect(slot)).await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(source)) => Err(SendError::Connect { server: server.url.to_string(), source }),
            Err(_) => Err(SendError::ConnectTimeout { server: server.url.to_string(), limit: timeout }),
        }
    }
}

/// Takes the place of a connection that waits unused in the pool of another worker, if there is one.
async fn freed_slot(server: &super::Server, limit: usize) -> Option<Slot> {
    let freed = server.places.freed.notified();
    let pools = server.pools.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let unused = pools.iter().filter_map(Weak::upgrade).find_map(|pool| pool.evict());
    drop(unused?);
    tokio::time::timeout(EVICTION, freed).await.ok()?;
    Slot::take(&server.places, limit)
}

impl ServerPool {
    fn evict(&self) -> Option<Idle> {
        let mut idle = self.lock();
        if idle.is_empty() { None } else { Some(idle.remove(0)) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<http1::SendRequest<RequestBody>> {
        let mut idle = self.lock();
        while let Some(Idle { sender, .. }) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn give_back(&self, sender: http1::SendRequest<RequestBody>) {
        let mut idle = self.lock();
        if idle.len() < self.keep {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }
}

/// Brings an HTTP/1.1 connection back into its pool once the answer was read to its end.
#[derive(Debug)]
pub(super) struct Lease {
    sender: http1::SendRequest<RequestBody>,
    pool: Weak<ServerPool>,
}

impl Lease {
    pub(super) fn give_back(mut self) {
        let Some(pool) = self.pool.upgrade() else { return };
        if self.sender.is_closed() {
            return;
        }
        if self.sender.is_ready() {
            pool.give_back(self.sender);
            return;
        }
        // The answer came before the request was sent to its end; the connection is worth keeping if that ends soon.
        tokio::spawn(async move {
            if let Ok(Ok(())) = tokio::time::timeout(IDLE, self.sender.ready()).await {
                pool.give_back(self.sender);
            }
        });
    }
}

impl Connection {
    pub(super) async fn send(self, mut request: Request<RequestBody>) -> Result<Response<ResponseBody>, SendFailure> {
        let reused = self.reused;
        let failure = |mut failure: hyper::client::conn::TrySendError<Request<RequestBody>>| {
            let unsent = failure.take_message();
            SendFailure { error: failure.into_error(), unsent, reused }
        };
        match self.sender {
            Sender::Http1(mut sender) => {
                *request.version_mut() = http::Version::HTTP_11;
                let response = sender.try_send_request(request).await.map_err(failure)?;
                let lease = Lease { sender, pool: Arc::downgrade(&self.pool) };
                Ok(response.map(|body| ResponseBody::new(body, Some(lease))))
            }
            Sender::Http2(mut sender) => {
                to_http2(&mut request);
                let response = sender.try_send_request(request).await.map_err(failure)?;
                Ok(response.map(|body| ResponseBody::new(body, None)))
            }
        }
    }
}

/// HTTP/2 wants the authority in the target instead of `Host`.
fn to_http2(request: &mut Request<RequestBody>) {
    *request.version_mut() = http::Version::HTTP_2;
    let host = request.headers_mut().remove(http::header::HOST);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = host.and_then(|host| http::uri::Authority::try_from(host.as_bytes()).ok());
    if parts.authority.is_none() {
        parts.scheme = None;
    }
    *request.uri_mut() = http::Uri::from_parts(parts).unwrap_or_default();
}
