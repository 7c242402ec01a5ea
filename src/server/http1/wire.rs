//! The bytes of an HTTP/1.1 connection, shared by whoever answers a request and whoever reads its body.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Ended;
use super::head::{self, Head, Seen, Unfit};
use crate::net::Stream;
use crate::net::bell::Bell;
use crate::net::body::BodyError;
use crate::net::http1::{Input, Lines, Most, Pieces, Remaining};
use crate::net::pipe::Piped;
use crate::server::deadline::Bounded;

/// Most that is read of a body that nobody wanted, so that the connection can go on.
const LEFT_BYTES: usize = 256 * 1024;

pub(super) struct Wire<I> {
    io: Bounded<I>,
    bell: Bell,
    input: Input,
    lines: Lines,
    seen: Seen,
    most: Most,
    /// Which request it is that is answered. Who still holds the body of another reads nothing.
    request: u64,
    body: Remaining,
    /// The caller sends the body when it is asked for it.
    expects_continue: bool,
    /// What was wrong with the body.
    unfit: Option<Unfit>,
    /// Waits for more of the body.
    reader: Option<Waker>,
    /// Waits for the body's end, to watch for the caller's then.
    watcher: Option<Waker>,
    output: Pieces,
    /// Behind that.
    piped: Option<Piped>,
}

pub(super) type Shared<I> = Arc<Mutex<Wire<I>>>;

pub(super) fn lock<I>(wire: &Mutex<Wire<I>>) -> MutexGuard<'_, Wire<I>> {
    // Nothing that panics leaves it half changed.
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<I: Stream> Wire<I> {
    pub(super) fn new(io: Bounded<I>, most: Most) -> Self {
        Self {
            io,
            bell: Bell::default(),
            input: Input::default(),
            lines: Lines::default(),
            seen: Seen::default(),
            most,
            request: 0,
            body: Remaining::NOTHING,
            expects_continue: false,
            unfit: None,
            reader: None,
            watcher: None,
            output: Pieces::default(),
            piped: None,
        }
    }

    /// The next head; `None` when the caller has closed.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Head>, Ended>> {
        loop {
            if let Some(head) = head::take(&mut self.input.bytes, &mut self.lines, &mut self.seen, self.most)? {
                (self.body, self.expects_continue) = (head.body, head.expects_continue);
                return Poll::Ready(Ok(Some(head)));
            }
            if ready!(self.poll_new(cx))? == 0 {
                return Poll::Ready(Ok(None));
            }
        }
    }

    /// Whether the head of a request has begun to come.
    pub(super) fn is_in_head(&self) -> bool {
        head::has_begun(&self.input.bytes)
    }

    /// The next piece of the request's body, which is asked for where the caller waits for that.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if std::mem::take(&mut self.expects_continue) && !self.body.is_nothing() {
            self.output.before.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            // What cannot be written now leaves with the answer.
            let _ = self.poll_flush(cx);
        }
        loop {
            if self.unfit.is_some() {
                return Poll::Ready(Some(Err(BodyError::Aborted)));
            }
            let taken = self.body.take(&mut self.input.bytes, &mut self.lines, self.most);
            if self.body.is_nothing() {
                self.watcher.take().inspect(Waker::wake_by_ref);
            }
            match taken {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.body.is_nothing() => return Poll::Ready(None),
                Ok(None) => {}
                // Nothing that follows has a meaning.
                Err(malformed) => {
                    self.unfit = Some(malformed.into());
                    continue;
                }
            }
            if !matches!(ready!(self.poll_read(cx)), Ok(1..)) {
                return Poll::Ready(Some(Err(BodyError::Aborted)));
            }
        }
    }

    /// Ready when the caller has gone, for whoever waits for something else. Sees no further than to the next request.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.body.is_nothing() {
            // Whoever reads the body will see it.
            if !self.watcher.as_ref().is_some_and(|watcher| watcher.will_wake(cx.waker())) {
                self.watcher = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        if !self.input.bytes.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.poll_new(cx)) {
            Ok(1..) => Poll::Pending,
            Ok(0) | Err(_) => Poll::Ready(()),
        }
    }

    /// After the answer: whether the request's body is over, with what has come of it, and whether more has come. Nobody else
    /// is given more of it.
    pub(super) fn end(&mut self, cx: &mut Context<'_>) -> (bool, bool) {
        // Nobody is sent a body with a hole, or that of the next request, or holds on to the connection for more of it.
        self.request += 1;
        self.reader.take().inspect(Waker::wake_by_ref);
        // It is not asked for any more.
        self.expects_continue = false;
        let mut most = LEFT_BYTES;
        while let Poll::Ready(Some(Ok(frame))) = self.poll_body(cx) {
            let Some(left) = most.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { break };
            most = left;
        }
        // What one request made large is let go.
        self.input.shrink();
        (self.unfit.is_none() && self.body.is_nothing(), !self.input.bytes.is_empty())
    }

    /// What was wrong with the body of a request.
    pub(super) fn unfit(&self) -> Option<Unfit> {
        self.unfit
    }

    /// Where to put what goes out.
    pub(super) fn output(&mut self) -> &mut Pieces {
        &mut self.output
    }

    /// Goes out behind the output, where the stream takes such bytes.
    pub(super) fn put_piped(&mut self, piped: Piped) {
        self.piped = Some(piped);
    }

    /// Whether data is on its way out: more must not be put behind it.
    pub(super) fn has_data(&self) -> bool {
        self.piped.is_some() || self.output.has_data()
    }

    /// Until what was put into the output is on its way.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What is empty has nothing to tell of how long the caller has been reading nothing.
        if self.piped.is_none() || !self.output.is_empty() {
            ready!(self.output.poll_write(cx, Pin::new(&mut self.io)))?;
        }
        if let Some(piped) = &mut self.piped {
            ready!(self.io.poll_piped(cx, piped))?;
            self.piped = None;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Reads bytes that nobody wants, until the caller has closed; at most so many.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>, most: &mut usize) -> Poll<()> {
        loop {
            self.input.bytes.clear();
            match ready!(self.poll_read(cx)) {
                Ok(bytes @ 1..) if bytes < *most => *most -= bytes,
                _ => return Poll::Ready(()),
            }
        }
    }

    /// Lets go of all buffers, until something comes.
    pub(super) fn rest(&mut self) {
        self.input.rest();
        (self.lines, self.seen, self.output) = (Lines::default(), Seen::default(), Pieces::default());
    }

    /// Gives 0 when the caller has closed.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.bell.forget();
        self.input.poll_read(cx, Pin::new(&mut self.io))
    }

    /// The same, for the connection's own task.
    fn poll_new(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Self { bell, input, io, .. } = self;
        bell.poll(cx, |cx| input.poll_read(cx, Pin::new(io)))
    }
}

/// The body of a request, until that is answered.
pub(super) struct RequestBody<I> {
    wire: Shared<I>,
    request: u64,
}

impl<I> RequestBody<I> {
    pub(super) fn new(wire: &Shared<I>) -> Self {
        Self { request: lock(wire).request, wire: Arc::clone(wire) }
    }
}

impl<I: Stream> Body for RequestBody<I> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut wire = lock(&self.wire);
        if wire.request != self.request {
            return Poll::Ready(Some(Err(BodyError::Aborted)));
        }
        let polled = wire.poll_body(cx);
        wire.reader = polled.is_pending().then(|| cx.waker().clone());
        polled
    }

    fn is_end_stream(&self) -> bool {
        let wire = lock(&self.wire);
        wire.request == self.request && wire.body.is_nothing()
    }

    fn size_hint(&self) -> SizeHint {
        let wire = lock(&self.wire);
        if wire.request == self.request { wire.body.size_hint() } else { SizeHint::default() }
    }
}

/// The bytes of both directions, after a switch of protocols.
pub(super) struct Switched<I>(pub(super) Shared<I>);

impl<I: Stream> AsyncRead for Switched<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *lock(&self.0);
        if wire.input.bytes.is_empty() {
            return Pin::new(&mut wire.io).poll_read(cx, buffer);
        }
        // Came together with the head.
        let bytes = wire.input.bytes.len().min(buffer.remaining());
        buffer.put_slice(&wire.input.bytes.split_to(bytes));
        Poll::Ready(Ok(()))
    }
}

impl<I: Stream> AsyncWrite for Switched<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut lock(&self.0).io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).io).poll_shutdown(cx)
    }
}
