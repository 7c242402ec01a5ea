//! A request's body on its way to an upstream or to the authorization server: counted, timed, never held whole.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::alarm::Alarm;

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

/// Tells, after the body was handed away, how far it is and how it ended.
#[derive(Clone, Debug, Default)]
pub struct BodyOutcome(Option<Arc<Progress>>);

#[derive(Debug)]
struct Progress {
    error: AtomicU8,
    timeout: Duration,
    turn: Mutex<Turn>,
    ended: Notify,
}

/// Who is waited for, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nobody has asked for the body yet.
    Start,
    /// The caller, to send more.
    Caller,
    /// The upstream, to take more.
    Upstream(Instant),
    /// The upstream, to answer.
    Ended(Instant),
}

impl BodyOutcome {
    /// The error the body ended with, so far.
    pub fn error(&self) -> Option<BodyError> {
        match self.0.as_ref()?.error.load(Ordering::Relaxed) {
            1 => Some(BodyError::TooLarge),
            2 => Some(BodyError::Timeout),
            3 => Some(BodyError::Aborted),
            _ => None,
        }
    }

    /// Waits until the upstream should have answered: `limit` after the end of the body, or after `started` if there is
    /// none. Until then it must take the body as fast as the caller must send it. Gives the time that ran out.
    pub async fn overdue(&self, alarm: &mut Alarm, started: Instant, limit: Duration) -> Duration {
        let Some(progress) = &self.0 else {
            alarm.until(started + limit).await;
            return limit;
        };
        loop {
            let now = Instant::now();
            let (end, patience) = match progress.turn() {
                Turn::Start => (started + limit, limit),
                // The body's own timer sees to it.
                Turn::Caller => (now + progress.timeout, progress.timeout),
                Turn::Upstream(since) => (since + progress.timeout, progress.timeout),
                Turn::Ended(at) => (at + limit, limit),
            };
            if now >= end {
                return patience;
            }
            // Turns change without a word; only the end of the body is told of.
            tokio::select! {
                () = alarm.until(end.min(now + progress.timeout)) => {}
                () = progress.ended.notified() => {}
            }
        }
    }
}

impl Progress {
    fn turn(&self) -> Turn {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turns(&self, turn: Turn) {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = turn;
    }

    fn ends(&self) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*turn, Turn::Ended(_)) {
            *turn = Turn::Ended(Instant::now());
            self.ended.notify_one();
        }
    }
}

/// The body of a request as it comes in, whatever the version.
pub struct Incoming(Option<Pin<Box<dyn Body<Data = Bytes, Error = BodyError> + Send>>>);

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Incoming").field(&self.0.as_ref().map(|body| body.size_hint())).finish()
    }
}

impl Incoming {
    pub fn empty() -> Self {
        Self(None)
    }

    pub fn new(body: impl Body<Data = Bytes, Error = BodyError> + Send + 'static) -> Self {
        Self((!body.is_end_stream()).then(|| Box::pin(body) as _))
    }
}

/// The body of a request, within its limits. Trailers are dropped: nothing in them was judged.
#[derive(Debug)]
pub struct RequestBody(Option<Box<Limited>>);

struct Limited {
    body: Pin<Box<dyn Body<Data = Bytes, Error = BodyError> + Send>>,
    left: u64,
    /// Runs while the caller is waited for.
    timer: Option<Pin<Box<Sleep>>>,
    progress: Arc<Progress>,
}

impl RequestBody {
    pub fn empty() -> Self {
        Self(None)
    }

    /// `limit` in bytes; `timeout` between two reads. `TooLarge` when the length is announced and beyond the limit.
    pub fn new(body: Incoming, limit: u64, timeout: Duration) -> Result<(Self, BodyOutcome), BodyError> {
        let Some(body) = body.0 else { return Ok((Self(None), BodyOutcome(None))) };
        if body.size_hint().lower() > limit {
            return Err(BodyError::TooLarge);
        }
        let (error, turn) = (AtomicU8::new(0), Mutex::new(Turn::Start));
        let progress = Arc::new(Progress { error, timeout, turn, ended: Notify::new() });
        let limited = Limited { body, left: limit, timer: None, progress: Arc::clone(&progress) };
        Ok((Self(Some(Box::new(limited))), BodyOutcome(Some(progress))))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl std::fmt::Debug for Limited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limited").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Limited {
    fn fail(&self, error: BodyError) -> BodyError {
        let code = match error {
            BodyError::TooLarge => 1,
            BodyError::Timeout => 2,
            BodyError::Aborted => 3,
        };
        self.progress.error.store(code, Ordering::Relaxed);
        error
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.poll_body(cx);
        match &polled {
            Poll::Pending => {}
            // A body of announced length is not polled beyond its last byte.
            Poll::Ready(Some(Ok(_))) if !self.body.is_end_stream() => {
                self.progress.turns(Turn::Upstream(Instant::now()));
            }
            Poll::Ready(_) => self.progress.ends(),
        }
        polled
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.body.as_mut().poll_frame(cx);
        let Poll::Ready(frame) = polled else {
            let timeout = self.progress.timeout;
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
            if self.progress.turn() != Turn::Caller {
                self.progress.turns(Turn::Caller);
                timer.as_mut().reset(Instant::now() + timeout);
            }
            ready!(timer.as_mut().poll(cx));
            return Poll::Ready(Some(Err(self.fail(BodyError::Timeout))));
        };
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

impl Drop for Limited {
    fn drop(&mut self) {
        self.progress.ends();
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
