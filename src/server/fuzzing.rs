//! What holds of the framing of HTTP/1, whatever comes: checked by the fuzz targets, on their corpus, and on requests that
//! are made for it.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};

use super::framing::{Ambiguity, Framing, Place};

/// What comes on a connection.
pub fn framing(data: &[u8]) {
    let data = &data[..data.len().min(2048)];
    pieces_change_nothing(data);
    is_read_alike(data);
}

/// However the bytes come, the same is found wrong.
fn pieces_change_nothing(data: &[u8]) {
    let found = |size| -> Option<Ambiguity> {
        let mut framing = Framing::new();
        data.chunks(size).find_map(|piece| framing.follow(piece).err()).map(|(_, ambiguity)| ambiguity)
    };
    let whole = found(data.len().max(1));
    for size in [1, 2, 7, 63, 64, 65] {
        assert_eq!(found(size), whole, "in pieces of {size}");
    }
}

/// What is let through is read by the library as it is read here: where it goes on, so does this, at the same byte.
pub(super) fn is_read_alike(data: &[u8]) {
    let (here, passed) = followed(data);
    let (there, waits) = read_by_library(data);
    let shared = here.len().min(there.len());
    assert_eq!(&here[..shared], &there[..shared]);
    if passed {
        assert!(there.len() == shared, "{there:?} where {here:?} is read here");
        assert!(!waits || here.len() == shared, "{here:?} where {there:?} is read by the library");
    }
}

/// A request's target and its body.
type Reading = (String, Vec<u8>);

/// The complete requests as they are followed here, and whether all of it may pass.
pub(super) fn followed(stream: &[u8]) -> (Vec<Reading>, bool) {
    let mut framing = Framing::new();
    let (mut found, mut line, mut body) = (Vec::new(), Vec::new(), Vec::new());
    let mut begun = false;
    for byte in stream {
        match framing.place {
            Place::Body(_) | Place::Chunk(_) => body.push(*byte),
            Place::Start | Place::RequestLine => line.push(*byte),
            _ => {}
        }
        if framing.follow(&[*byte]).is_err() {
            return (found, false);
        }
        begun |= framing.is_in_head();
        if begun && framing.place == Place::Start {
            let target = String::from_utf8_lossy(&line).split(' ').nth(1).unwrap_or_default().to_owned();
            found.push((target, std::mem::take(&mut body)));
            (begun, line) = (false, Vec::new());
        }
    }
    (found, true)
}

/// A peer that says so much and then waits.
struct Peer<'a>(&'a [u8]);

impl AsyncRead for Peer<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let (now, later) = self.0.split_at(self.0.len().min(buf.remaining()));
        buf.put_slice(now);
        self.0 = later;
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
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(reading);
            }
            Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
        }
    });
    let io = TokioIo::new(tokio::io::join(Peer(stream), tokio::io::sink()));
    let mut connection = pin!(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
    let woken = Arc::new(Woken::default());
    let waker = Arc::clone(&woken).into();
    let waits = loop {
        if connection.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            break false;
        }
        if !woken.0.swap(false, Ordering::Relaxed) {
            break true;
        }
    };
    let found = found.lock().unwrap_or_else(PoisonError::into_inner).clone();
    (found, waits)
}
