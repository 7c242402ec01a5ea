//! What a connection waits for, and how long: a peer that has to read, or to send; the server's end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus::IntCounterVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Sleep;

use super::Phase;
use crate::gateway::Activity;
use crate::net::Stream;
use crate::net::http1::Most;
use crate::net::pipe::Piped;

/// Limits by their names in metrics.
pub(super) const HEADER: &str = "header_timeout";
pub(super) const IDLE: &str = "idle_timeout";

/// Unused for so long, a connection lets go of its buffers.
pub(super) const REST: Duration = Duration::from_secs(1);
/// What a connection needs to know.
pub(super) struct Served<'a> {
    pub(super) most: Most,
    pub(super) waits: &'a Waits,
    pub(super) activity: &'a Activity,
    pub(super) phase: watch::Receiver<Phase>,
    /// For the last request of an idle connection when the server drains.
    pub(super) linger: Duration,
}

/// The waits of a connection.
#[derive(Clone, Debug)]
pub(super) struct Waits {
    /// For a head, from the connection's start or the head's first byte.
    pub header: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For the peer to take a byte of ours, or to let a stream go on.
    pub write: Duration,
    pub reached: IntCounterVec,
}

/// A stream whose peer has to take what it is sent.
pub(super) struct Bounded<I> {
    io: I,
    wait: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    reached: IntCounterVec,
}

impl<I> Bounded<I> {
    pub(super) fn new(io: I, waits: &Waits) -> Self {
        Self { io, wait: waits.write, timer: None, reached: waits.reached.clone() }
    }

    fn poll_deadline<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.timer = None;
            return polled;
        }
        let wait = self.wait;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.reached.with_label_values(&["stream_idle"]).inc();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")))
    }
}

impl<I: Stream> Bounded<I> {
    /// Whether bytes may come by way of a pipe.
    pub(super) fn takes_piped(&self) -> bool {
        self.io.socket().is_some()
    }

    /// Until all of them are on their way.
    pub(super) fn poll_piped(&mut self, cx: &mut Context<'_>, piped: &mut Piped) -> Poll<io::Result<()>> {
        while !piped.is_empty() {
            let polled = self.io.socket().map(|socket| piped.poll_into(cx, socket));
            let polled = polled.unwrap_or(Poll::Ready(Err(io::ErrorKind::Unsupported.into())));
            if ready!(self.poll_deadline(cx, polled))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Bounded<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Bounded<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.poll_deadline(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.poll_deadline(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.poll_deadline(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.poll_deadline(cx, polled)
    }
}

/// Tells that the server drains. Looked at before each request, which costs next to nothing until it does.
pub(super) struct Draining {
    phase: watch::Receiver<Phase>,
    changed: Pin<Box<dyn Future<Output = ()> + Send>>,
    asked: bool,
}

impl Draining {
    pub(super) fn new(phase: watch::Receiver<Phase>) -> Self {
        let mut waiting = phase.clone();
        // Also when nobody is left to say so.
        let changed = Box::pin(async move { drop(waiting.wait_for(|phase| *phase != Phase::Serving).await) });
        Self { phase, changed, asked: false }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The connection's task is woken when it changes; its waker stays the same.
        if self.asked && !self.phase.has_changed().unwrap_or(true) {
            return Poll::Pending;
        }
        // A task that has had its turn is not noted.
        self.asked = tokio::task::coop::has_budget_remaining();
        self.changed.as_mut().poll(cx)
    }
}
