//! A stream that hands on no HTTP/1 request with two readings. In place of the line that makes one ambiguous, the HTTP
//! library gets bytes that are no HTTP in any place: it answers 400, after what was asked before, and closes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::{Ambiguity, Framing};
use crate::gateway::Connection;

/// A CR without LF is wrong wherever a line may stand; the rest ends the head, so that nobody waits for more of it.
const NO_HTTP: &[u8] = b"\r\0\r\n\r\n";

/// Why a connection's requests were refused, for whoever sees it end.
pub(super) type Refusal = Arc<OnceLock<Ambiguity>>;

pub(super) struct Strict<I> {
    io: I,
    connection: Arc<Connection>,
    /// None in HTTP/2, and after a switch of protocols.
    framing: Option<Framing>,
    refusal: Refusal,
}

impl<I> Strict<I> {
    pub(super) fn new(io: I, connection: Arc<Connection>, http2: bool) -> Self {
        let framing = if http2 { None } else { Some(Framing::new()) };
        Self { io, connection, framing, refusal: Refusal::default() }
    }

    pub(super) fn refusal(&self) -> Refusal {
        Arc::clone(&self.refusal)
    }

    /// Whether the head of a request has begun to come and is not complete.
    pub(super) fn is_in_head(&self) -> bool {
        self.framing.as_ref().is_some_and(Framing::is_in_head)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Strict<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, connection, framing, refusal } = self.get_mut();
        let before = buf.filled().len();
        if refusal.get().is_none() {
            ready!(Pin::new(io).poll_read(cx, buf))?;
            let Some(followed) = framing else { return Poll::Ready(Ok(())) };
            if connection.activity.has_switched() {
                *framing = None;
                return Poll::Ready(Ok(()));
            }
            let Err((at, ambiguity)) = followed.follow(&buf.filled()[before..]) else { return Poll::Ready(Ok(())) };
            refusal.get_or_init(|| ambiguity);
            buf.set_filled(before + at);
        }
        // The bytes must not become the start of a tunnel.
        if framing.as_ref().is_some_and(Framing::may_switch) || buf.remaining() < NO_HTTP.len() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        buf.put_slice(NO_HTTP);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Strict<I> {
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
