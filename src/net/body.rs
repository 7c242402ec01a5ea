//! A request's body on its way to an upstream or to the authorization server: counted, timed, never held whole.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

/// Why a request's body ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the request body is larger than allowed")]
    TooLarge,
    #[error("the request body stopped coming")]
    Timeout,
    #[error("the request body was cut off")]
    Aborted,
}

/// Tells, after the body was handed away, how it ended.
#[derive(Clone, Debug, Default)]
pub struct BodyOutcome(Option<Arc<AtomicU8>>);

impl BodyOutcome {
    /// The error the body ended with, so far.
    pub fn error(&self) -> Option<BodyError> {
        match self.0.as_ref()?.load(Ordering::Relaxed) {
            1 => Some(BodyError::TooLarge),
            2 => Some(BodyError::Timeout),
            3 => Some(BodyError::Aborted),
            _ => None,
        }
    }
}

/// The body of a request, within its limits. Trailers are dropped: nothing in them was judged.
#[derive(Debug)]
pub struct RequestBody(Option<Box<Limited>>);

#[derive(Debug)]
struct Limited {
    body: Incoming,
    left: u64,
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    outcome: Arc<AtomicU8>,
}

impl RequestBody {
    pub fn empty() -> Self {
        Self(None)
    }

    /// `limit` in bytes; `timeout` between two reads. `TooLarge` when the length is announced and beyond the limit.
    pub fn new(body: Incoming, limit: u64, timeout: Duration) -> Result<(Self, BodyOutcome), BodyError> {
        if body.is_end_stream() {
            return Ok((Self(None), BodyOutcome(None)));
        }
        if body.size_hint().lower() > limit {
            return Err(BodyError::TooLarge);
        }
        let outcome = Arc::new(AtomicU8::new(0));
        let limited = Limited { body, left: limit, timeout, timer: None, outcome: Arc::clone(&outcome) };
        Ok((Self(Some(Box::new(limited))), BodyOutcome(Some(outcome))))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Limited {
    fn fail(&self, error: BodyError) -> BodyError {
        let code = match error {
            BodyError::TooLarge => 1,
            BodyError::Timeout => 2,
            BodyError::Aborted => 3,
        };
        self.outcome.store(code, Ordering::Relaxed);
        error
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let Poll::Ready(frame) = polled else {
            let timeout = self.timeout;
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
            ready!(timer.as_mut().poll(cx));
            return Poll::Ready(Some(Err(self.fail(BodyError::Timeout))));
        };
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(Instant::now() + self.timeout);
        }
        let data = match frame {
            None => return Poll::Ready(None),
            Some(Err(_)) => return Poll::Ready(Some(Err(self.fail(BodyError::Aborted)))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(_trailers) => return Poll::Ready(None),
            },
        };
        match self.left.checked_sub(data.len() as u64) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Some(Err(self.fail(BodyError::TooLarge)))),
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            None => Poll::Ready(None),
            Some(limited) => limited.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|limited| limited.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |limited| limited.body.size_hint())
    }
}
