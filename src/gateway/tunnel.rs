//! Bytes in both directions after a switch of protocols, until one side ends, nothing moves for too long, or the token ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::exchange::Exchange;
use crate::upstream;

pub(super) struct Tunnel {
    pub(super) caller: OnUpgrade,
    pub(super) server: OnUpgrade,
    pub(super) idle: Duration,
    pub(super) ends_at: Option<Instant>,
    /// Keeps the upstream's connection counted.
    pub(super) lease: upstream::ResponseBody,
    /// Told of at the end of the tunnel.
    pub(super) exchange: Box<Exchange>,
}

impl Tunnel {
    /// Runs until both directions are closed.
    pub(super) async fn run(mut self) {
        let reason = match self.copy().await {
            Ok(bytes) => {
                self.exchange.complete = true;
                self.exchange.bytes = bytes;
                return;
            }
            Err(reason) => reason,
        };
        self.exchange.cause = Some(reason);
        drop(self.lease);
    }

    async fn copy(&mut self) -> Result<u64, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let (caller, server) = tokio::try_join!(&mut self.caller, &mut self.server).map_err(|error| text(&error))?;
        let moved = Arc::new(AtomicU64::new(0));
        let mut caller = Counted { io: TokioIo::new(caller), moved: Arc::clone(&moved) };
        let mut server = TokioIo::new(server);
        let copy = tokio::io::copy_bidirectional(&mut caller, &mut server);
        tokio::pin!(copy);
        let mut seen = 0;
        loop {
            let mut wake = Instant::now() + self.idle;
            if let Some(end) = self.ends_at {
                wake = wake.min(end);
            }
            tokio::select! {
                done = &mut copy => return done.map(|(_, down)| down).map_err(|error| text(&error)),
                () = tokio::time::sleep_until(wake) => {}
            }
            if self.ends_at.is_some_and(|end| Instant::now() >= end) {
                return Err("the token expired".to_owned());
            }
            let now_moved = moved.load(Ordering::Relaxed);
            if now_moved == seen {
                return Err(format!("no byte for {:?}", self.idle));
            }
            seen = now_moved;
        }
    }
}

/// Counts every byte on its way, so that a silent tunnel is noticed within two idle times.
struct Counted<I> {
    io: I,
    moved: Arc<AtomicU64>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Counted<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.moved.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Counted<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            self.moved.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
