//! What holds of the answers of HTTP/1 servers, whatever comes: checked by the fuzz target, on its corpus, and on answers
//! that are made for it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::{self, Seen};
use super::http1::{Http1, Unanswered};
use super::{Head, Slot};
use crate::net::body::RequestBody;
use crate::net::http1::Lines;
use crate::net::response::ResponseHead;

/// A first byte for the method, and what a server says to it before it closes.
pub fn answer(data: &[u8]) {
    let Some((first, said)) = data[..data.len().min(2048)].split_first() else { return };
    let method = if first % 4 == 0 { Method::HEAD } else { Method::GET };
    pieces_change_nothing(&method, said);
    is_read_alike(&method, said);
    again_changes_nothing(&method, said, usize::from(*first));
}

/// What comes again on a connection is read as it was, and what differs by a bit is not taken for it.
fn again_changes_nothing(method: &Method, said: &[u8], place: usize) {
    let read = |said: &[u8], seen: &mut Seen| {
        let mut input = BytesMut::from(said);
        let read = answer::take_head(&mut input, &mut Lines::default(), seen, method);
        (format!("{read:?}"), input)
    };
    let mut seen = Seen::default();
    for _ in 0..3 {
        assert_eq!(read(said, &mut seen), read(said, &mut Seen::default()));
    }
    let mut other = said.to_vec();
    if let Some(byte) = other.get_mut(place) {
        *byte ^= 1;
    }
    assert_eq!(read(&other, &mut seen), read(&other, &mut Seen::default()));
}

/// An answer's status and body.
type Reading = (u16, Vec<u8>);

/// However the bytes come, they are read alike.
fn pieces_change_nothing(method: &Method, said: &[u8]) {
    let whole = read_here(method, said, said.len().max(1));
    for size in [1, 2, 7, 64] {
        assert_eq!(read_here(method, said, size), whole, "in pieces of {size}");
    }
}

/// What is taken for an answer here is the same answer to the HTTP library.
pub(super) fn is_read_alike(method: &Method, said: &[u8]) {
    if let Some(here) = read_here(method, said, said.len().max(1)) {
        assert_eq!(read_by_library(method, said), Some(here));
    }
}

/// The answer, if it came to its end.
pub(super) fn read_here(method: &Method, said: &[u8], piece: usize) -> Option<Reading> {
    let mut connection = Http1::new(Server::new(said, piece), Slot::take(&Arc::default(), 1)?);
    let exchange = async {
        let head = ask(&mut connection, method.clone()).await.ok()?;
        let mut body = Vec::new();
        while let Some(frame) = poll_fn(|cx| connection.poll_frame(cx)).await {
            body.extend(frame.ok()?.into_data().unwrap_or_default());
        }
        Some((head.status.as_u16(), body))
    };
    run(exchange)
}

/// Sends a request that says next to nothing.
pub(super) async fn ask(connection: &mut Box<Http1>, method: Method) -> Result<ResponseHead, Unanswered> {
    let head = Head { method, target: PathAndQuery::from_static("/"), host: None, fields: Arc::default(), own: None };
    connection.send(&head, &HeaderValue::from_static("a"), RequestBody::empty()).await
}

/// A server that says so much when it is asked, in pieces, and then closes.
struct Server {
    said: Bytes,
    piece: usize,
    asked: bool,
    waits: Option<Waker>,
}

impl Server {
    fn new(said: &[u8], piece: usize) -> Self {
        Self { said: Bytes::copy_from_slice(said), piece, asked: false, waits: None }
    }
}

impl AsyncRead for Server {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.asked {
            self.waits = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = self.said.len().min(self.piece).min(buffer.remaining());
        buffer.put_slice(&self.said.split_to(bytes));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        self.waits.take().inspect(Waker::wake_by_ref);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The answer as the HTTP library reads it.
fn read_by_library(method: &Method, said: &[u8]) -> Option<Reading> {
    let io = TokioIo::new(Server::new(said, usize::MAX));
    let exchange = async {
        let mut client = hyper::client::conn::http1::Builder::new();
        let (mut sender, connection) = client.max_headers(256).handshake(io).await.ok()?;
        let request = Request::builder().method(method).body(Empty::<&[u8]>::new()).ok()?;
        let answered = async {
            let (head, body) = sender.send_request(request).await.ok()?.into_parts();
            let body = body.collect().await.ok()?.to_bytes();
            Some((head.status.as_u16(), body.to_vec()))
        };
        // The connection ends before its last answer is taken from it.
        tokio::join!(answered, connection).0
    };
    run(exchange)
}

/// Runs what never waits but for its own turn: the server has said everything and closed.
fn run<T>(exchange: impl Future<Output = T>) -> T {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut exchange = pin!(exchange);
    loop {
        if let Poll::Ready(reading) = exchange.as_mut().poll(&mut Context::from_waker(&waker)) {
            return reading;
        }
        assert!(woken.0.swap(false, Ordering::Relaxed), "it waits for a server that has closed");
    }
}
