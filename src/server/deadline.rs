//! Waiting that gives up: on a peer that does not read, on an HTTP/2 connection nobody uses, and on one whose peer wants
//! nothing of what it asks for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use prometheus::IntCounterVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::gateway::Connection;

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

/// Tells the driver of an HTTP/2 connection that it was idle for long enough, so that it can say goodbye.
#[derive(Clone, Debug, Default)]
pub(super) struct Expired(Arc<AtomicBool>);

impl Expired {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// RFC 9113 section 3.4.
const PREFACE_BYTES: usize = 24;
/// In place of a limit while a request runs.
const RUNNING: &str = "running";

/// The stream of an HTTP/2 connection.
pub(super) struct Timed<I> {
    io: Bounded<I>,
    connection: Arc<Connection>,
    waits: Waits,
    /// Bytes of the connection preface that did not come yet.
    preface_left: usize,
    /// After it was told to go because it was idle.
    goodbye_until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    expired: Expired,
}

impl<I> Timed<I> {
    pub(super) fn new(io: Bounded<I>, connection: Arc<Connection>, waits: Waits) -> Self {
        let (preface_left, expired) = (PREFACE_BYTES, Expired::default());
        Self { io, connection, waits, preface_left, goodbye_until: None, timer: None, expired }
    }

    pub(super) fn expired(&self) -> Expired {
        self.expired.clone()
    }

    /// The moment at which waiting for the peer ends, and the limit that it is.
    fn deadline(&self) -> (Instant, &'static str) {
        let activity = &self.connection.activity;
        if activity.is_running() {
            // Nothing is waited for; a look when the connection may have been idle for long enough.
            return (Instant::now() + self.waits.idle, RUNNING);
        }
        match self.goodbye_until {
            // It was asked to go and does not answer.
            Some(deadline) => (deadline, "idle_timeout"),
            None if self.preface_left > 0 => (activity.last_end() + self.waits.header, "header_timeout"),
            None => (activity.last_end() + self.waits.idle, "idle_timeout"),
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let (deadline, limit) = self.deadline();
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            // A timer that was set for later is moved; one that fires too early is set anew below.
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if limit == RUNNING || Instant::now() < deadline {
                timer.as_mut().reset(deadline);
                continue;
            }
            self.waits.reached.with_label_values(&[limit]).inc();
            if limit == "idle_timeout" && self.goodbye_until.is_none() {
                self.goodbye_until = Some(Instant::now() + self.waits.header);
                self.expired.0.store(true, Ordering::Relaxed);
                continue;
            }
            return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, limit));
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Timed<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        match polled {
            Poll::Ready(result) => {
                self.preface_left = self.preface_left.saturating_sub(buf.filled().len() - before);
                if self.connection.activity.asks_in_vain() {
                    self.waits.reached.with_label_values(&["taken_back"]).inc();
                    return Poll::Ready(Err(io::Error::other("most requests were taken back")));
                }
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_deadline(cx).map(Err),
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Timed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
