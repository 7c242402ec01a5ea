//! Sockets: what listens where and within which limits; how connections are spread over the workers, and how all of it
//! comes to an end.

mod connection;
mod deadline;
mod guard;
mod stream;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use crate::gateway::{Gateway, Worker};
use crate::net::{BaseUrl, TrustedProxies};
use crate::telemetry::metrics::Metrics;
use crate::tls::{Certificates, TlsError};

use connection::Listener;
use guard::Population;

/// `[server]` and `[listeners]`.
#[derive(Debug)]
pub struct Settings {
    pub public_url: BaseUrl,
    pub trusted_proxies: TrustedProxies,
    /// Threads that serve traffic, at least 1.
    pub workers: usize,
    pub limits: Limits,
    /// In the order of the file; a listener's place here is its index everywhere.
    pub listeners: Vec<ListenerSettings>,
}

#[derive(Debug)]
pub struct ListenerSettings {
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub tls: Option<crate::tls::ServerSettings>,
    /// Answers GET and HEAD with 308 to the public URL and anything else with 403.
    pub redirect_to_https: bool,
}

/// `[server.limits]`: every queue, buffer and wait of a connection.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections: usize,
    pub connections_per_ip: usize,
    pub header_bytes: usize,
    pub header_count: usize,
    pub body_bytes: u64,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub stream_idle: Duration,
    pub idle_timeout: Duration,
    pub drain_delay: Duration,
    pub drain_timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("listener {listener}: cannot listen on {address}")]
    Bind { listener: Arc<str>, address: SocketAddr, source: io::Error },
    #[error("listener {listener}")]
    Tls { listener: Arc<str>, source: TlsError },
    #[error("cannot start a worker thread")]
    Thread(#[source] io::Error),
}

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 4096;
/// Connections that wait to be taken over by another worker.
const HANDOVER_QUEUE: usize = 256;
/// Pause after the process ran out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Turns of tasks between two looks at the sockets, at most. A request takes a few turns, and each look is a system call
/// while none is due: what is ready is served first.
const TURNS: u32 = 256;
/// How often upstream connections are looked through for unused ones.
const UPKEEP: Duration = Duration::from_secs(15);
/// How often certificate files are looked at.
const CERTIFICATES: Duration = Duration::from_secs(2);

/// A socket that listens.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Listening sockets and what is needed to serve them, before anything is accepted.
#[derive(Debug)]
pub struct Bound {
    listeners: Vec<(Arc<Listener>, TcpListener)>,
    certificates: Vec<ServedCertificates>,
    workers: usize,
    limits: Limits,
    trusted_proxies: TrustedProxies,
}

impl Bound {
    /// Binds every listener and loads its certificates.
    pub fn bind(settings: Settings, metrics: &Metrics) -> Result<Self, ServerError> {
        let Settings { public_url: _, trusted_proxies, workers, limits, listeners } = settings;
        let mut bound = Vec::new();
        let mut watched = Vec::new();
        for (index, settings) in listeners.into_iter().enumerate() {
            let ListenerSettings { name, address, tls, redirect_to_https } = settings;
            let tls_failed = |source| ServerError::Tls { listener: Arc::clone(&name), source };
            let tls = match &tls {
                None => None,
                Some(settings) => {
                    let certificates = Arc::new(Certificates::load(settings).map_err(tls_failed)?);
                    let served =
                        ServedCertificates { listener: Arc::clone(&name), certificates: Arc::clone(&certificates) };
                    served.count(metrics);
                    watched.push(served);
                    Some(settings.build(certificates, &[b"h2", b"http/1.1"]).map_err(tls_failed)?)
                }
            };
            let bind_failed = |source| ServerError::Bind { listener: Arc::clone(&name), address, source };
            let socket = listen(address).map_err(bind_failed)?;
            let local = socket.local_addr().map_err(bind_failed)?;
            tracing::info!(event = "listener.ready", listener = &*name, address = %local, tls = tls.is_some());
            bound.push((Arc::new(Listener::new(index, name, tls, redirect_to_https, &limits, metrics)), socket));
        }
        Ok(Self { listeners: bound, certificates: watched, workers, limits, trusted_proxies })
    }

    /// Has `watch_certificates` look after those of a listener that is not one of ours.
    pub fn also_watch(&mut self, listener: &str, certificates: Arc<Certificates>, metrics: &Metrics) {
        let served = ServedCertificates { listener: Arc::from(listener), certificates };
        served.count(metrics);
        self.certificates.push(served);
    }

    /// Picks up certificates that are replaced on disk. Runs until dropped.
    pub fn watch_certificates(&mut self, metrics: &Metrics) -> impl Future<Output = ()> + Send + use<> {
        let (watched, metrics) = (std::mem::take(&mut self.certificates), metrics.clone());
        async move {
            loop {
                tokio::time::sleep(CERTIFICATES).await;
                for served in &watched {
                    served.refresh(&metrics);
                }
            }
        }
    }

    /// Starts the worker threads, which serve until `drain`.
    pub fn serve(self, gateway: &Arc<Gateway>, metrics: &Metrics) -> Result<Server, ServerError> {
        let Self { listeners, certificates: _, workers, limits, trusted_proxies } = self;
        let population = Arc::new(Population::new(&limits, trusted_proxies, metrics));
        let (stop, stopped) = watch::channel(Phase::Serving);
        let loads: Arc<[AtomicUsize]> = (0..workers).map(|_| AtomicUsize::new(0)).collect();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(HANDOVER_QUEUE)).unzip();
        let senders: Arc<[mpsc::Sender<Handover>]> = senders.into();
        let mut threads = Vec::new();
        for (index, received) in receivers.into_iter().enumerate() {
            let mut own = Vec::new();
            for (listener, socket) in &listeners {
                let socket = socket.try_clone().map_err(ServerError::Thread)?;
                own.push((Arc::clone(listener), socket));
            }
            let acceptor = Acceptor {
                index,
                worker: Arc::new(Worker::new(Arc::clone(gateway))),
                population: Arc::clone(&population),
                loads: Arc::clone(&loads),
                senders: Arc::clone(&senders),
                phase: stopped.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            threads.push(thread.spawn(move || acceptor.run(own, received)).map_err(ServerError::Thread)?);
        }
        Ok(Server { stop, population, limits, threads })
    }
}

/// The certificates of one listener.
#[derive(Debug)]
struct ServedCertificates {
    listener: Arc<str>,
    certificates: Arc<Certificates>,
}

impl ServedCertificates {
    fn refresh(&self, metrics: &Metrics) {
        match self.certificates.refresh() {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(event = "certificates.replaced", listener = &*self.listener);
                self.count(metrics);
            }
            Err(error) => {
                tracing::error!(event = "certificates.unfit", listener = &*self.listener, %error, "the old ones stay");
            }
        }
    }

    fn count(&self, metrics: &Metrics) {
        for (place, certificate) in self.certificates.current().iter().enumerate() {
            let gauge = &metrics.certificate_not_after;
            gauge.with_label_values(&[&*self.listener, &(place + 1).to_string()]).set(certificate.not_after);
        }
    }
}

/// Where the server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// Nothing new is accepted; what runs may finish.
    Draining,
    /// What still runs is cut off.
    Stopped,
}

/// A server that serves.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<Phase>,
    population: Arc<Population>,
    limits: Limits,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Stops accepting and waits for what runs, at most for the drain time-out. Gives the number of connections cut off.
    pub async fn drain(self) -> usize {
        self.stop.send_replace(Phase::Draining);
        let emptied = tokio::time::timeout(self.limits.drain_timeout, self.population.emptied()).await;
        let left = if emptied.is_ok() { 0 } else { self.population.open() };
        self.stop.send_replace(Phase::Stopped);
        for thread in self.threads {
            // A worker that panicked has said so.
            let _ = thread.join();
        }
        left
    }
}

/// A connection on its way from the worker that accepted it to the one that has the fewest.
type Handover = (Arc<Listener>, std::net::TcpStream, SocketAddr);

/// One worker's share of accepting.
struct Acceptor {
    index: usize,
    worker: Arc<Worker>,
    population: Arc<Population>,
    /// Open connections of each worker.
    loads: Arc<[AtomicUsize]>,
    senders: Arc<[mpsc::Sender<Handover>]>,
    phase: watch::Receiver<Phase>,
}

impl Acceptor {
    fn run(self, listeners: Vec<(Arc<Listener>, TcpListener)>, mut received: mpsc::Receiver<Handover>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().event_interval(TURNS).build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(event = "worker.failed", %error);
                return;
            }
        };
        let own = Arc::new(self);
        runtime.block_on(async {
            for (listener, socket) in listeners {
                tokio::spawn(Arc::clone(&own).accept(listener, socket));
            }
            let mut phase = own.phase.clone();
            let mut upkeep = tokio::time::interval(UPKEEP);
            loop {
                tokio::select! {
                    Some((listener, stream, peer)) = received.recv() => match TcpStream::from_std(stream) {
                        Ok(stream) => own.start(&listener, stream, peer),
                        Err(error) => tracing::warn!(event = "connection.lost", %error),
                    },
                    _ = upkeep.tick() => own.worker.close_idle(),
                    stopped = phase.wait_for(|phase| *phase == Phase::Stopped) => {
                        drop(stopped);
                        return;
                    }
                }
            }
        });
    }

    async fn accept(self: Arc<Self>, listener: Arc<Listener>, socket: TcpListener) {
        let socket = match tokio::net::TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(event = "listener.failed", listener = &*listener.name, %error);
                return;
            }
        };
        let mut phase = self.phase.clone();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                _ = phase.wait_for(|phase| *phase != Phase::Serving) => return,
            };
            match accepted {
                Ok((stream, peer)) => self.place(&listener, stream, peer),
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(event = "accept.failed", listener = &*listener.name, %error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Keeps the connection, or hands it to a worker that has at least two fewer.
    fn place(self: &Arc<Self>, listener: &Arc<Listener>, stream: TcpStream, peer: SocketAddr) {
        let load = |index: usize| self.loads[index].load(Ordering::Relaxed);
        let least = (0..self.loads.len()).min_by_key(|index| load(*index)).unwrap_or(self.index);
        if load(least) + 1 >= load(self.index) {
            return self.start(listener, stream, peer);
        }
        let handed = stream.into_std().map(|stream| {
            self.senders[least]
                .try_send((Arc::clone(listener), stream, peer))
                .map_err(mpsc::error::TrySendError::into_inner)
        });
        match handed {
            Ok(Ok(())) => {}
            Ok(Err((listener, stream, peer))) => match TcpStream::from_std(stream) {
                Ok(stream) => self.start(&listener, stream, peer),
                Err(error) => tracing::warn!(event = "connection.lost", %error),
            },
            Err(error) => tracing::warn!(event = "connection.lost", %error),
        }
    }

    fn start(self: &Arc<Self>, listener: &Arc<Listener>, stream: TcpStream, peer: SocketAddr) {
        let peer = peer.ip().to_canonical();
        // Over the limit the connection is closed unread.
        let Some(guard) = self.population.admit(peer, listener) else { return };
        let load = Load::new(&self.loads, self.index);
        let (own, listener) = (Arc::clone(self), Arc::clone(listener));
        tokio::spawn(async move {
            let _load = load;
            let worker = Arc::clone(&own.worker);
            connection::serve(worker, listener, stream, peer, guard, own.phase.clone()).await;
        });
    }
}

/// A connection among those of its worker, until dropped: a task that panics drops it too.
struct Load {
    loads: Arc<[AtomicUsize]>,
    index: usize,
}

impl Load {
    fn new(loads: &Arc<[AtomicUsize]>, index: usize) -> Self {
        loads[index].fetch_add(1, Ordering::Relaxed);
        Self { loads: Arc::clone(loads), index }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.loads[self.index].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether an error of `accept` tells of the one connection only (it was gone before it was accepted).
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_panics_is_counted_no_more() {
        let loads: Arc<[AtomicUsize]> = [AtomicUsize::new(0)].into();
        let load = Load::new(&loads, 0);
        assert_eq!(loads[0].load(Ordering::Relaxed), 1);
        let task = tokio::spawn(async move {
            let _load = load;
            std::panic::resume_unwind(Box::new("a connection fails"));
        });
        assert!(task.await.is_err());
        assert_eq!(loads[0].load(Ordering::Relaxed), 0);
    }
}
