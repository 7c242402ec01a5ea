//! One worker's thread: it accepts, and hands a connection to the worker that has the fewest.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::announced::{self, Peer, Refused};
use super::connection::{self, Listener};
use super::guard::Population;
use super::{Generation, Phase};
use crate::gateway::Worker;

/// Pause after the process ran out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Turns of tasks between two looks at the sockets, at most. A request takes a few turns, and each look is a system call
/// while none is due: what is ready is served first.
const TURNS: u32 = 256;
/// How often upstream connections are looked through for unused ones.
const UPKEEP: Duration = Duration::from_secs(15);

/// A connection on its way from the worker that accepted it to the one that has the fewest.
pub(super) type Handover = (Arc<Listener>, std::net::TcpStream, SocketAddr);

/// The worker of a thread under the configuration of the moment.
pub(super) type CurrentWorker = Arc<ArcSwap<Worker>>;

/// One worker's share of accepting.
pub(super) struct Acceptor {
    pub(super) index: usize,
    pub(super) worker: CurrentWorker,
    pub(super) population: Arc<Population>,
    /// Open connections of each worker.
    pub(super) loads: Arc<[AtomicUsize]>,
    pub(super) senders: Arc<[mpsc::Sender<Handover>]>,
    pub(super) phase: watch::Receiver<Phase>,
}

impl Acceptor {
    pub(super) fn run(self, mut generations: watch::Receiver<Arc<Generation>>, mut received: mpsc::Receiver<Handover>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().event_interval(TURNS).build() {
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
        // In a box at once: a task is moved more than once until it has its place, and when it ends.
        tokio::spawn(Box::pin(async move {
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
        }));
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
