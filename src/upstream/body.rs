//! The body of an upstream's answer, passed on piece by piece; at its end the connection goes back to its pool.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::balance::Running;
use super::pool::Lease;

#[derive(Debug)]
pub struct ResponseBody {
    body: Incoming,
    lease: Option<Lease>,
    /// For as long as there is more to come.
    running: Option<Running>,
}

impl ResponseBody {
    pub(super) fn new(body: Incoming, lease: Option<Lease>) -> Self {
        let mut own = Self { body, lease, running: None };
        own.release_at_end();
        own
    }

    /// Of a switch of protocols: it is never read, and the connection stays counted for as long as this lives.
    pub(super) fn switched(body: Incoming, lease: Lease) -> Self {
        Self { body, lease: Some(lease), running: None }
    }

    pub(super) fn counted(self, running: Option<Running>) -> Self {
        Self { running, ..self }
    }

    fn release_at_end(&mut self) {
        if self.body.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        self.running = None;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => self.release(),
            // Nobody asks for more after trailers.
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => self.release(),
            Poll::Ready(Some(Ok(_))) => self.release_at_end(),
            Poll::Ready(Some(Err(_))) => (self.lease, self.running) = (None, None),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
