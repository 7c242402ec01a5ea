//! Sockets: what listens where and within which limits; how connections are spread over the workers, and how all of it
//! comes to an end.

mod announced;
mod connection;
mod deadline;
mod framing;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod guard;
mod stream;
mod strict;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::gateway::{Gateway, Worker};
use crate::net::{BaseUrl, TrustedProxies};
use crate::telemetry::metrics::Metrics;
use crate::tls::{Certificates, TlsError};

use announced::{Peer, Refused};
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub tls: Option<crate::tls::ServerSettings>,
    /// Answers GET and HEAD with 308 to the public URL and anything else with 403.
    pub redirect_to_https: bool,
    /// Every connection starts with a PROXY protocol header, of a trusted proxy.
    pub proxy_protocol: bool,
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

/// A listening socket and what its connections need to know.
#[derive(Clone, Debug)]
struct Bound {
    settings: ListenerSettings,
    socket: Arc<TcpListener>,
    tls: Option<Tls>,
    listener: Arc<Listener>,
}

/// TLS as it is set up for a listener. It goes on while its settings stay the same: clients resume their sessions.
#[derive(Clone, Debug)]
struct Tls {
    config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
    /// What the file of client authorities held.
    authorities: Option<[u8; 32]>,
}

impl Bound {
    /// Binds every listener and loads its certificates. What `former` has that is asked for again goes on.
    fn bind(
        settings: Vec<ListenerSettings>,
        limits: &Limits,
        former: &[Self],
        metrics: &Metrics,
    ) -> Result<Vec<Self>, ServerError> {
        let bind = |(index, settings)| Self::new(index, settings, limits, former, metrics);
        settings.into_iter().enumerate().map(bind).collect()
    }

    fn new(
        index: usize,
        settings: ListenerSettings,
        limits: &Limits,
        former: &[Self],
        metrics: &Metrics,
    ) -> Result<Self, ServerError> {
        let ListenerSettings { name, address, tls, redirect_to_https, proxy_protocol } = settings.clone();
        let tls_failed = |source| ServerError::Tls { listener: Arc::clone(&name), source };
        let tls = match &tls {
            None => None,
            Some(tls) => {
                let same = |own: &&Self| own.settings.name == name && own.settings.tls.as_ref() == Some(tls);
                let kept = former.iter().find(same).and_then(|own| own.tls.as_ref());
                let kept = kept.filter(|own| own.authorities == authorities(tls)).cloned();
                Some(kept.map_or_else(|| Tls::new(tls), Ok).map_err(tls_failed)?)
            }
        };
        // Port 0 is another one for each name.
        let same = |own: &&Self| own.settings.address == address && (address.port() != 0 || own.settings.name == name);
        let socket = match former.iter().find(same) {
            Some(own) => Arc::clone(&own.socket),
            None => {
                let failed = |source| ServerError::Bind { listener: Arc::clone(&name), address, source };
                let socket = listen(address).map_err(failed)?;
                let local = socket.local_addr().map_err(failed)?;
                tracing::info!(event = "listener.ready", listener = &*name, address = %local, tls = tls.is_some());
                Arc::new(socket)
            }
        };
        let config = tls.as_ref().map(|tls| Arc::clone(&tls.config));
        let listener = Arc::new(Listener::new(index, name, config, redirect_to_https, proxy_protocol, limits, metrics));
        Ok(Self { settings, socket, tls, listener })
    }
}

impl Tls {
    fn new(settings: &crate::tls::ServerSettings) -> Result<Self, TlsError> {
        let authorities = authorities(settings);
        let certificates = Arc::new(Certificates::load(settings)?);
        let config = settings.build(Arc::clone(&certificates), &[b"h2", b"http/1.1"])?;
        Ok(Self { config, certificates, authorities })
    }
}

fn authorities(settings: &crate::tls::ServerSettings) -> Option<[u8; 32]> {
    crate::tls::contents(settings.client_auth.iter().map(|auth| auth.ca.as_path()))
}

/// What the workers serve by, replaced as a whole.
#[derive(Debug)]
struct Generation {
    gateway: Arc<Gateway>,
    bound: Vec<Bound>,
}

/// The certificates that are served now, those of the operators' listener among them.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    served: Arc<Mutex<Vec<ServedCertificates>>>,
    others: Arc<Mutex<Vec<ServedCertificates>>>,
}

/// The certificates of one listener.
#[derive(Clone, Debug)]
struct ServedCertificates {
    listener: Arc<str>,
    certificates: Arc<Certificates>,
}

impl Watched {
    fn replace(&self, bound: &[Bound], metrics: &Metrics) {
        let served = bound.iter().filter_map(|bound| {
            let certificates = Arc::clone(&bound.tls.as_ref()?.certificates);
            Some(ServedCertificates { listener: Arc::clone(&bound.settings.name), certificates })
        });
        let served: Vec<_> = served.collect();
        metrics.certificate_not_after.reset();
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.iter().chain(&served).for_each(|served| served.count(metrics));
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = served;
    }

    /// Adds those of a listener that is not the server's.
    pub fn also(&self, listener: &str, certificates: Arc<Certificates>, metrics: &Metrics) {
        let served = ServedCertificates { listener: Arc::from(listener), certificates };
        served.count(metrics);
        self.others.lock().unwrap_or_else(PoisonError::into_inner).push(served);
    }

    /// Picks up certificates that are replaced on disk. Runs until dropped.
    pub async fn keep_fresh(self, metrics: Metrics) {
        loop {
            tokio::time::sleep(CERTIFICATES).await;
            let all = [&self.served, &self.others];
            let all: Vec<_> =
                all.iter().flat_map(|some| some.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect();
            for served in all {
                served.refresh(&metrics);
            }
        }
    }
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
    generation: watch::Sender<Arc<Generation>>,
    stop: watch::Sender<Phase>,
    population: Arc<Population>,
    limits: Limits,
    certificates: Watched,
    metrics: Metrics,
    threads: Vec<JoinHandle<()>>,
}

/// Listening sockets, before anything is accepted.
#[derive(Debug)]
pub struct Prepared {
    bound: Vec<Bound>,
    limits: Limits,
    trusted_proxies: TrustedProxies,
    workers: usize,
}

impl Prepared {
    /// Binds the listeners of `settings`; those that `running` has already are shared with it.
    pub fn new(settings: Settings, running: Option<&Server>, metrics: &Metrics) -> Result<Self, ServerError> {
        let Settings { public_url: _, trusted_proxies, workers, limits, listeners } = settings;
        let generation = running.map(|running| Arc::clone(&running.generation.borrow()));
        let former = generation.as_ref().map_or(&[][..], |generation| &generation.bound);
        let bound = Bound::bind(listeners, &limits, former, metrics)?;
        Ok(Self { bound, limits, trusted_proxies, workers })
    }

    /// Starts the worker threads, which serve until `drain`.
    pub fn serve(self, gateway: &Arc<Gateway>, metrics: &Metrics) -> Result<Server, ServerError> {
        let Self { bound, limits, trusted_proxies, workers } = self;
        let certificates = Watched::default();
        certificates.replace(&bound, metrics);
        let population = Arc::new(Population::new(&limits, trusted_proxies, metrics));
        let (stop, stopped) = watch::channel(Phase::Serving);
        let (generation, generations) = watch::channel(Arc::new(Generation { gateway: Arc::clone(gateway), bound }));
        let loads: Arc<[AtomicUsize]> = (0..workers).map(|_| AtomicUsize::new(0)).collect();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(HANDOVER_QUEUE)).unzip();
        let senders: Arc<[mpsc::Sender<Handover>]> = senders.into();
        let mut threads = Vec::new();
        for (index, received) in receivers.into_iter().enumerate() {
            let acceptor = Acceptor {
                index,
                worker: Arc::new(ArcSwap::from_pointee(Worker::new(Arc::clone(gateway), None))),
                population: Arc::clone(&population),
                loads: Arc::clone(&loads),
                senders: Arc::clone(&senders),
                phase: stopped.clone(),
            };
            let generations = generations.clone();
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            threads.push(thread.spawn(move || acceptor.run(generations, received)).map_err(ServerError::Thread)?);
        }
        Ok(Server { generation, stop, population, limits, certificates, metrics: metrics.clone(), threads })
    }
}

impl Server {
    /// Serves by what was prepared from now on. Connections stay; their next requests go to `gateway`.
    pub fn replace(&mut self, prepared: Prepared, gateway: Arc<Gateway>) {
        let Prepared { bound, limits, trusted_proxies, workers: _ } = prepared;
        self.population.set_limits(&limits, trusted_proxies);
        self.certificates.replace(&bound, &self.metrics);
        self.limits = limits;
        self.generation.send_replace(Arc::new(Generation { gateway, bound }));
    }

    /// The number of threads that serve.
    pub fn workers(&self) -> usize {
        self.threads.len()
    }

    /// The certificates that are served, for whoever looks after replaced files.
    pub fn certificates(&self) -> Watched {
        self.certificates.clone()
    }

    /// Stops accepting and waits for what runs, at most for the drain time-out. Gives the number of connections cut off.
    pub async fn drain(self) -> usize {
        self.stop.send_replace(Phase::Draining);
        // With the last of them the sockets are closed: who comes now is refused rather than left waiting.
        self.generation.send_modify(|generation| {
            *generation = Arc::new(Generation { gateway: Arc::clone(&generation.gateway), bound: Vec::new() });
        });
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

/// The worker of a thread under the configuration of the moment.
type CurrentWorker = Arc<ArcSwap<Worker>>;

/// One worker's share of accepting.
struct Acceptor {
    index: usize,
    worker: CurrentWorker,
    population: Arc<Population>,
    /// Open connections of each worker.
    loads: Arc<[AtomicUsize]>,
    senders: Arc<[mpsc::Sender<Handover>]>,
    phase: watch::Receiver<Phase>,
}

impl Acceptor {
    fn run(self, mut generations: watch::Receiver<Arc<Generation>>, mut received: mpsc::Receiver<Handover>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(event = "worker.failed", %error);
                return;
            }
        };
        let own = Arc::new(self);
        runtime.block_on(async {
            let mut accepting = own.accept_all(&generations.borrow_and_update());
            let mut phase = own.phase.clone();
            let mut upkeep = tokio::time::interval(UPKEEP);
            loop {
                tokio::select! {
                    Some((listener, stream, peer)) = received.recv() => match TcpStream::from_std(stream) {
                        Ok(stream) => own.start(&listener, stream, peer),
                        Err(error) => tracing::warn!(event = "connection.lost", %error),
                    },
                    _ = upkeep.tick() => own.worker.load().close_idle(),
                    Ok(()) = generations.changed() => {
                        let next = Arc::clone(&generations.borrow_and_update());
                        let worker = Worker::new(Arc::clone(&next.gateway), Some(&own.worker.load()));
                        own.worker.store(Arc::new(worker));
                        // What waits to be accepted stays with the socket.
                        accepting.abort_all();
                        accepting = own.accept_all(&next);
                    }
                    stopped = phase.wait_for(|phase| *phase == Phase::Stopped) => {
                        drop(stopped);
                        return;
                    }
                }
            }
        });
    }

    fn accept_all(self: &Arc<Self>, generation: &Generation) -> JoinSet<()> {
        let mut accepting = JoinSet::new();
        for bound in &generation.bound {
            match bound.socket.try_clone() {
                Ok(socket) => drop(accepting.spawn(Arc::clone(self).accept(Arc::clone(&bound.listener), socket))),
                Err(error) => {
                    tracing::error!(event = "listener.failed", listener = &*bound.settings.name, %error);
                }
            }
        }
        accepting
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

    fn start(self: &Arc<Self>, listener: &Arc<Listener>, mut stream: TcpStream, peer: SocketAddr) {
        let peer = peer.ip().to_canonical();
        if listener.proxy_protocol && !self.population.trusts(peer) {
            return listener.refuse(peer, &Refused::Untrusted);
        }
        // Over the limit the connection is closed unread.
        let Some(mut guard) = self.population.admit(peer, listener) else { return };
        let load = Load::new(&self.loads, self.index);
        let (own, listener) = (Arc::clone(self), Arc::clone(listener));
        tokio::spawn(async move {
            let _load = load;
            let mut peer = Peer { address: peer, is_silent_proxy: false };
            if listener.proxy_protocol {
                let Some(announced) = announced::peer(&mut stream, peer.address, &listener).await else { return };
                if !guard.announce(announced.address) {
                    return;
                }
                peer = announced;
            }
            connection::serve(Arc::clone(&own.worker), listener, stream, peer, guard, own.phase.clone()).await;
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
