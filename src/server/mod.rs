//! Sockets: what listens where and within which limits, how it changes, and how all of it comes to an end.

mod acceptor;
mod announced;
mod answer;
mod bound;
mod certificates;
mod connection;
mod deadline;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod guard;
mod http1;
mod http2;
mod inherited;
mod one_piece;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use crate::gateway::{Gateway, Worker};
use crate::net::{BaseUrl, TrustedProxies};
use crate::telemetry::metrics::Metrics;
use crate::tls::TlsError;

pub use bound::listen;
pub use certificates::Watched;
pub use inherited::Inherited;

use acceptor::{Acceptor, Handover};
use bound::Bound;
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

/// Connections that wait to be taken over by another worker.
const HANDOVER_QUEUE: usize = 256;

/// What the workers serve by, replaced as a whole.
#[derive(Debug)]
struct Generation {
    gateway: Arc<Gateway>,
    bound: Vec<Bound>,
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
    /// Binds the listeners of `settings`; those that `running` has already are shared with it, those that were open before
    /// the process began are taken from `inherited`.
    pub fn new(
        settings: Settings,
        running: Option<&Server>,
        inherited: &mut Inherited,
        metrics: &Metrics,
    ) -> Result<Self, ServerError> {
        let Settings { public_url: _, trusted_proxies, workers, limits, listeners } = settings;
        let generation = running.map(|running| Arc::clone(&running.generation.borrow()));
        let former = generation.as_ref().map_or(&[][..], |generation| &generation.bound);
        let bound = Bound::bind(listeners, &limits, former, inherited, metrics)?;
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

    /// Whether every worker still runs.
    pub fn is_alive(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// The number of threads that serve.
    pub fn workers(&self) -> usize {
        self.threads.len()
    }

    /// The certificates that are served, for whoever looks after replaced files.
    pub fn certificates(&self) -> Watched {
        self.certificates.clone()
    }

    /// The sockets that listen, each with its listener and the address in the configuration.
    pub fn sockets(&self) -> Vec<(Arc<str>, SocketAddr, Arc<TcpListener>)> {
        let generation = self.generation.borrow();
        let socket =
            |bound: &Bound| (Arc::clone(&bound.settings.name), bound.settings.address, Arc::clone(&bound.socket));
        generation.bound.iter().map(socket).collect()
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
