//! Large pieces of bodies. Their buffers are a thread's and not a connection's: the one that was used last is still at hand
//! for the processor, where those of many connections in turn would not be.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use super::http1::READ_BYTES;

/// The size of a buffer. Twice as much needs fewer system calls, and as much time.
pub const PIECE_BYTES: usize = READ_BYTES.1;
/// What is copied out of its buffer.
const SMALL_BYTES: usize = PIECE_BYTES / 8;
/// Most unused buffers that a thread keeps.
const KEPT: usize = 8;

thread_local! {
    static UNUSED: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

type Buffer = Box<[u8]>;

/// Gives its buffer back when the last piece of it is gone.
struct Lent(Buffer);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.0));
    }
}

fn give_back(buffer: Buffer) {
    // A thread that ends keeps none.
    let _ = UNUSED.try_with(|unused| {
        let mut unused = unused.borrow_mut();
        if unused.len() < KEPT {
            unused.push(buffer);
        }
    });
}

/// Reads what is there, at most `most` bytes of it; nothing at the end.
pub fn poll_piece(
    cx: &mut Context<'_>,
    from: Pin<&mut (impl AsyncRead + ?Sized)>,
    most: u64,
) -> Poll<io::Result<Bytes>> {
    let unused = UNUSED.with_borrow_mut(Vec::pop);
    let mut buffer = unused.unwrap_or_else(|| vec![0; PIECE_BYTES].into());
    let most = buffer.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    let mut room = ReadBuf::new(&mut buffer[..most]);
    let polled = from.poll_read(cx, &mut room);
    let read = room.filled().len();
    let lent = Lent(buffer);
    ready!(polled)?;
    Poll::Ready(Ok(match read {
        // It may wait for long: it shall not have a buffer of many times its size.
        ..=SMALL_BYTES => Bytes::copy_from_slice(&lent.0[..read]),
        _ => Bytes::from_owner(lent).slice(..read),
    }))
}
