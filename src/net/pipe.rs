//! Bytes that go from one socket to another without being copied to us and back: the kernel moves them by way of a pipe.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe is made to hold, and what is moved at once.
pub const PIPE_BYTES: usize = 256 * 1024;
/// One that holds less is slower than copying. It is so where a user has more pipes than the kernel likes.
const LEAST_BYTES: usize = 64 * 1024;
/// Most pipes at once, each of two descriptors. What finds none is copied.
const MOST: usize = 128;
/// How long none is asked for where there was none to be had.
const PAUSE: Duration = Duration::from_secs(1);
const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

static OPEN: AtomicUsize = AtomicUsize::new(0);
/// Whether bytes ever went in and out of one.
static WORKED: AtomicBool = AtomicBool::new(false);
/// Whether the kernel, or who guards it, does not do this.
static REFUSED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static UNUSED: Cell<Option<Pipe>> = const { Cell::new(None) };
    static FAILED: Cell<Option<Instant>> = const { Cell::new(None) };
}

#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    _counted: Counted,
}

/// One of those that are open.
#[derive(Debug)]
struct Counted;

impl Counted {
    fn new() -> Option<Self> {
        OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < MOST).then_some(open + 1)).ok()?;
        Some(Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pipe {
    fn take() -> Option<Self> {
        UNUSED.take().or_else(|| {
            if FAILED.get().is_some_and(|at| at.elapsed() < PAUSE) {
                return None;
            }
            let counted = Counted::new()?;
            let opened = Self::open(counted);
            FAILED.set(opened.is_none().then(Instant::now));
            opened
        })
    }

    fn open(counted: Counted) -> Option<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        let size = fcntl_getpipe_size(&writer).ok()?;
        let holds_enough = size >= PIPE_BYTES || fcntl_setpipe_size(&writer, PIPE_BYTES).is_ok() || size >= LEAST_BYTES;
        holds_enough.then_some(Self { reader, writer, _counted: counted })
    }

    /// For another connection of the thread. One is enough: only those whose caller waits keep theirs.
    fn give_back(self) {
        // A thread that ends keeps none.
        let _ = UNUSED.try_with(|unused| unused.set(Some(self)));
    }
}

/// Whether this is not done here at all. What worked once is not given up for what befell one connection.
fn is_refused(error: &io::Error) -> bool {
    let refused =
        matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::PermissionDenied)
            && !WORKED.load(Ordering::Relaxed);
    if refused {
        REFUSED.store(true, Ordering::Relaxed);
        tracing::warn!(event = "pipes.refused", %error, "long answers are copied");
    }
    refused
}

/// Bytes on their way, in a pipe.
#[derive(Debug)]
pub struct Piped {
    /// Present until it is dropped.
    pipe: Option<Pipe>,
    bytes: usize,
}

impl Piped {
    /// Takes what is there, at most `most` bytes of it. `None` where it has to be read, or reading tells what there is.
    pub fn poll_from(cx: &mut Context<'_>, from: &TcpStream, most: usize) -> Poll<io::Result<Option<Self>>> {
        if REFUSED.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(None));
        }
        ready!(from.poll_read_ready(cx))?;
        let Some(pipe) = Pipe::take() else { return Poll::Ready(Ok(None)) };
        let taken = splice(from, None, &pipe.writer, None, most, FLAGS).map_err(io::Error::from);
        // It is empty again as soon as this is dropped.
        let piped = Self { pipe: Some(pipe), bytes: *taken.as_ref().unwrap_or(&0) };
        match taken {
            Ok(1..) => Poll::Ready(Ok(Some(piped))),
            Ok(0) => Poll::Ready(Ok(None)),
            // There are bytes that can be read and not be moved, so that this does not say that there are none.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Poll::Ready(Ok(None))
            }
            Err(error) if is_refused(&error) => Poll::Ready(Ok(None)),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Gives some of them to a socket, and how many.
    pub fn poll_into(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        let Some(pipe) = &self.pipe else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || Ok(splice(&pipe.reader, None, to, None, self.bytes, FLAGS)?)) {
                Ok(bytes) => {
                    self.bytes -= bytes;
                    if !WORKED.load(Ordering::Relaxed) {
                        WORKED.store(true, Ordering::Relaxed);
                    }
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => {
                    is_refused(&error);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        // The bytes of one connection never come to another.
        if let Some(pipe) = self.pipe.take().filter(|_| self.bytes == 0) {
            pipe.give_back();
        }
    }
}

/// For tests that count on pipes.
#[cfg(test)]
pub static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// No pipe is to be had for as long as this lives.
#[cfg(test)]
pub fn none_left() -> impl Sized {
    drop(UNUSED.take());
    std::iter::from_fn(Counted::new).collect::<Vec<_>>()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (ours.unwrap(), theirs.unwrap().0)
    }

    async fn take(from: &TcpStream, most: usize) -> Option<Piped> {
        std::future::poll_fn(|cx| Piped::poll_from(cx, from, most)).await.unwrap()
    }

    #[tokio::test]
    async fn what_goes_in_comes_out() {
        let _alone = ALONE.lock().await;
        let ((from, mut server), (mut to, mut caller)) = (connected().await, connected().await);
        let sent: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
        let serves = async {
            server.write_all(&sent).await.unwrap();
            drop(server);
        };
        let moves = async {
            let mut left = sent.len();
            while left > 0 {
                let Some(mut piped) = take(&from, PIPE_BYTES).await else {
                    // Nothing is there now: reading would tell, and wait.
                    let mut byte = [0];
                    match from.try_read(&mut byte) {
                        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                        // It has just come.
                        Ok(read) => {
                            to.write_all(&byte[..read]).await.unwrap();
                            left -= read;
                        }
                    }
                    continue;
                };
                left -= piped.len();
                while !piped.is_empty() {
                    std::future::poll_fn(|cx| piped.poll_into(cx, &to)).await.unwrap();
                }
            }
            assert!(take(&from, PIPE_BYTES).await.is_none(), "the end is told by reading");
            drop(to);
        };
        let mut got = Vec::new();
        let ((), (), read) = tokio::join!(serves, moves, caller.read_to_end(&mut got));
        read.unwrap();
        assert!(got == sent);
    }

    #[tokio::test]
    async fn there_are_so_many_and_none_is_used_again_with_bytes_in_it() {
        let _alone = ALONE.lock().await;
        let (from, mut server) = connected().await;
        server.write_all(&[b'x'; 2 * MOST]).await.unwrap();
        let mut held = Vec::new();
        while let Some(piped) = take(&from, 1).await {
            assert_eq!(piped.len(), 1);
            held.push(piped);
        }
        assert_eq!(held.len(), MOST);
        drop(held);
        assert!(UNUSED.take().is_none());
        drop(take(&from, 1).await.unwrap());
        let none = none_left();
        assert!(take(&from, 1).await.is_none());
        drop(none);
        assert!(take(&from, 1).await.is_some());
    }
}
