//! Bytes in both directions after a switch of protocols, until one side ends, nothing moves for too long, or the token ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::exchange::Exchange;
use crate::net::switch::{HandedOver, Switch};
use crate::upstream;

pub(super) struct Tunnel {
    pub(super) caller: Switch,
    /// Its place at the upstream is taken until the end of the tunnel.
    pub(super) server: upstream::Switched,
    pub(super) idle: Duration,
    pub(super) ends_at: Option<Instant>,
    /// Told of at the end of the tunnel.
    pub(super) exchange: Box<Exchange>,
}

impl Tunnel {
    /// Runs until both directions are closed.
    pub(super) async fn run(self) {
        let Self { caller, server, idle, ends_at, mut exchange } = self;
        match copy(caller, server, idle, ends_at).await {
            Ok(bytes) => {
                exchange.complete = true;
                exchange.bytes = bytes;
            }
            Err(reason) => exchange.cause = Some(reason.into()),
        }
    }
}

async fn copy(
    caller: Switch,
    mut server: upstream::Switched,
    idle: Duration,
    ends_at: Option<Instant>,
) -> Result<u64, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let HandedOver { io, over } = caller.stream().await.map_err(|error| text(&error))?;
    let taken_back = async {
        match over {
            Some(over) => drop(over.await),
            None => std::future::pending().await,
        }
    };
    tokio::pin!(taken_back);
    let last_byte = Arc::new(LastByte::new());
    let mut caller = Observed { io, last_byte: Arc::clone(&last_byte) };
    let copy = tokio::io::copy_bidirectional(&mut caller, &mut server);
    tokio::pin!(copy);
    loop {
        let silent_until = last_byte.moment() + idle;
        let wake = ends_at.map_or(silent_until, |end| end.min(silent_until));
        tokio::select! {
            done = &mut copy => return done.map(|(_, down)| down).map_err(|error| text(&error)),
            () = &mut taken_back => return Err("the caller took it back".to_owned()),
            () = tokio::time::sleep_until(wake) => {}
        }
        if ends_at.is_some_and(|end| Instant::now() >= end) {
            return Err("the token expired".to_owned());
        }
        if Instant::now() >= last_byte.moment() + idle {
            return Err(format!("no byte for {idle:?}"));
        }
    }
}

/// When a byte last passed, as time since the start of the tunnel.
struct LastByte {
    started: Instant,
    nanos: AtomicU64,
}

impl LastByte {
    fn new() -> Self {
        Self { started: Instant::now(), nanos: AtomicU64::new(0) }
    }

    fn is_now(&self) {
        let nanos = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanos.store(nanos, Ordering::Relaxed);
    }

    fn moment(&self) -> Instant {
        self.started + Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

/// The caller's end, where every byte of both directions passes.
struct Observed<I> {
    io: I,
    last_byte: Arc<LastByte>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Observed<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.last_byte.is_now();
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Observed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(1..)) = &polled {
            self.last_byte.is_now();
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
