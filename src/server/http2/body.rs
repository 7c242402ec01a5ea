//! The body of a request, and the bytes of a tunnel.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Reason;
use super::wire::{Gone, Shared, lock};
use crate::net::body::BodyError;

/// The body of a request, until that is answered.
pub(super) struct RequestBody {
    wire: Shared,
    id: u32,
}

impl RequestBody {
    pub(super) fn new(wire: &Shared, id: u32) -> Self {
        Self { wire: wire.clone(), id }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        lock(&self.wire).poll_body(cx, self.id).map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.wire).body(self.id).0
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.wire).body(self.id).1.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A stream that somebody answers. When it is dropped, it is over.
pub(super) struct Open {
    pub(super) wire: Shared,
    pub(super) id: u32,
    /// For a peer that does not know yet that it is.
    pub(super) reason: Reason,
}

impl Drop for Open {
    fn drop(&mut self) {
        let reason = if std::thread::panicking() { Reason::INTERNAL_ERROR } else { self.reason };
        lock(&self.wire).close(self.id, reason);
    }
}

/// The bytes of both directions in a tunnel (RFC 8441 section 5).
pub(super) struct Tunnelled {
    stream: Open,
    /// Was received and not read.
    received: Bytes,
}

impl Tunnelled {
    pub(super) fn new(stream: Open) -> Self {
        Self { stream, received: Bytes::new() }
    }
}

impl AsyncRead for Tunnelled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.received.is_empty() {
            let received = ready!(lock(&self.stream.wire).poll_body(cx, self.stream.id));
            self.received = received.transpose().map_err(io::Error::other)?.unwrap_or_default();
        }
        let bytes = self.received.len().min(buffer.remaining());
        buffer.put_slice(&self.received[..bytes]);
        self.received.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl From<Gone> for io::Error {
    fn from(_: Gone) -> Self {
        io::ErrorKind::BrokenPipe.into()
    }
}

impl AsyncWrite for Tunnelled {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Open { wire, id, .. } = &self.stream;
        let mut wire = lock(wire);
        let most = ready!(wire.poll_window(cx, *id))?;
        let bytes = &bytes[..bytes.len().min(most)];
        if !bytes.is_empty() {
            wire.write_data(*id, Bytes::copy_from_slice(bytes), false);
            wire.wake_driver();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Open { wire, id, .. } = &self.stream;
        let mut wire = lock(wire);
        if wire.watch(cx, *id).is_ok() {
            wire.write_data(*id, Bytes::new(), true);
            wire.wake_driver();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tunnelled {
    fn drop(&mut self) {
        // The connection may be idle from now on.
        lock(&self.stream.wire).wake_driver();
    }
}
