//! What holds of HTTP/1 as it is read here, whatever comes: checked by the fuzz targets, on their corpus, and on requests
//! that are made for it. `http2/fuzzing` has what holds of HTTP/2.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus::{IntCounterVec, Opts};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::Phase;
use super::deadline::{Served, Waits};
use super::http1::{self, Ended, Unfit};
use crate::gateway::{Activity, Answered};
use crate::net::body::{Incoming, RequestBody};
use crate::net::http1::Most;
use crate::net::request::RequestHead;

pub use super::http2::fuzzing::frames;

/// What comes on a connection.
pub fn framing(data: &[u8]) {
    let data = &data[..data.len().min(2048)];
    pieces_change_nothing(data);
    is_read_alike(data);
    again_changes_nothing(data);
}

/// What comes again on a connection is read as it was.
fn again_changes_nothing(data: &[u8]) {
    let end = &b"GET /the-end HTTP/1.1\r\n\r\n"[..];
    let (mut once, unfit) = read_here(&[data, end].concat(), usize::MAX);
    // Where these differ, something is not complete.
    let is_complete = unfit.is_none() && read_here(&[data, b"\r\n", end].concat(), usize::MAX).0 == once;
    let Some(last) = once.pop_if(|(target, body)| target == "/the-end" && body.is_empty()) else { return };
    if !is_complete || data.windows(8).any(|word| word == b"/the-end") {
        return;
    }
    let (again, _) = read_here(&[data, data, data, end].concat(), usize::MAX);
    assert_eq!(again, [&once[..], &once, &once, &[last]].concat());
}

/// However the bytes come, they are read alike, and the same is found wrong.
pub(super) fn pieces_change_nothing(data: &[u8]) -> Option<Unfit> {
    let whole = read_here(data, usize::MAX);
    for size in [1, 2, 7, 63, 64, 65] {
        assert_eq!(read_here(data, size), whole, "in pieces of {size}");
    }
    whole.1
}

/// What is taken for a request here is the same one to the HTTP library, and what is one to that is refused here or taken.
pub(super) fn is_read_alike(data: &[u8]) {
    let (here, unfit) = read_here(data, usize::MAX);
    let (there, waits) = read_by_library(data);
    // Where nothing is said to be the last, both read on.
    let taken = if unfit.is_none() && waits { here.len() } else { here.len().min(there.len()) };
    assert_eq!(&here[..taken], &there[..taken.min(there.len())], "{unfit:?}");
    assert!(there.len() <= here.len() || unfit.is_some(), "{there:?} where {here:?} is read here");
    // It ends after CONNECT.
    let connects = data.windows(7).any(|word| word == b"CONNECT");
    assert!(
        here.len() <= there.len() || connects,
        "{here:?} where {there:?} is read by the library: {}",
        data.escape_ascii()
    );
}

/// A request's target and its body.
pub(super) type Reading = (String, Vec<u8>);

/// A peer that says so much, in pieces, and then waits; it closes when it is left.
pub(super) struct Peer {
    says: Bytes,
    piece: usize,
    left: bool,
    hears: Arc<Mutex<Vec<u8>>>,
}

impl Peer {
    pub(super) fn new(says: &[u8], piece: usize) -> Self {
        Self { says: Bytes::copy_from_slice(says), piece, left: false, hears: Arc::default() }
    }

    /// What it was told so far.
    pub(super) fn hears(&self) -> Arc<Mutex<Vec<u8>>> {
        Arc::clone(&self.hears)
    }
}

impl AsyncRead for Peer {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.says.is_empty() && !self.left {
            return Poll::Pending;
        }
        let bytes = self.says.len().min(self.piece).min(buffer.remaining());
        buffer.put_slice(&self.says.split_to(bytes));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.hears).extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.left = true;
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

/// Runs a connection until it waits for its peer; what it comes to before that.
pub(super) fn run<T>(connection: impl Future<Output = T>) -> Option<T> {
    let mut connection = pin!(connection);
    let woken = Arc::new(Woken::default());
    let waker = Arc::clone(&woken).into();
    loop {
        if let Poll::Ready(result) = connection.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(result);
        }
        if !woken.0.swap(false, Ordering::Relaxed) {
            return None;
        }
    }
}

pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Time that never passes.
const WAIT: Duration = Duration::from_secs(3600);

/// What a connection is served by.
pub(super) fn within<T>(serve: impl FnOnce(Served<'_>) -> T) -> T {
    // Timers want a clock; nothing moves it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let _entered = runtime.enter();
    let reached = IntCounterVec::new(Opts::new("limits", "-"), &["limit"]).expect("a counter");
    let waits = Waits { header: WAIT, idle: WAIT, write: WAIT, reached };
    let (_phase, phase) = watch::channel(Phase::Serving);
    let most = Most { bytes: 16 * 1024, fields: 100 };
    serve(Served { most, waits: &waits, activity: &Activity::default(), phase, linger: WAIT })
}

/// Answers a request when its body has come, and notes both.
pub(super) async fn note(found: &Mutex<Vec<Reading>>, request: String, body: Incoming) -> Answered<Empty<Bytes>> {
    let (body, _) = RequestBody::new(body, u64::MAX, WAIT).expect("no limit");
    if let Ok(body) = body.collect().await {
        lock(found).push((request, body.to_bytes().to_vec()));
    }
    let response = http::Response::new(Empty::<Bytes>::new()).into();
    Answered { request_id: http::HeaderValue::from_static("-"), response }
}

/// The complete requests as they are read here, and what is wrong with what follows them.
pub(super) fn read_here(stream: &[u8], piece: usize) -> (Vec<Reading>, Option<Unfit>) {
    let found = Mutex::new(Vec::new());
    let answer = |request: Box<RequestHead>, body| note(&found, request.uri.to_string(), body);
    let ended = within(|served| run(http1::serve(Peer::new(stream, piece), served, answer)));
    let unfit = match ended {
        Some(Err(Ended::Unfit(unfit))) => Some(unfit),
        _ => None,
    };
    let found = lock(&found).clone();
    (found, unfit)
}

/// The complete requests as the HTTP library reads them, and whether it would go on reading.
fn read_by_library(stream: &[u8]) -> (Vec<Reading>, bool) {
    let found = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&found);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let target = request.uri().to_string();
            if let Ok(body) = request.into_body().collect().await {
                let reading = (target, body.to_bytes().to_vec());
                lock(&seen).push(reading);
            }
            Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
        }
    });
    let io = TokioIo::new(Peer::new(stream, usize::MAX));
    let waits = run(hyper::server::conn::http1::Builder::new().serve_connection(io, service)).is_none();
    let found = lock(&found).clone();
    (found, waits)
}
