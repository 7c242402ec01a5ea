//! The streams of an HTTP/2 connection, each a task. One whose answer waits for a window that the peer never opens is ended:
//! the library does not even look at its body then, so the body's own time-out cannot.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use prometheus::IntCounterVec;
use tokio::time::{Instant, Sleep};

use crate::gateway::AnswerProgress;

/// Runs each stream as a task, which ends when its answer makes no progress for `idle`.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    pub(super) idle: Duration,
    pub(super) reached: IntCounterVec,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let progress = Arc::new(AnswerProgress::default());
        let watched = Watched {
            stream: Box::pin(stream),
            progress: Arc::clone(&progress),
            seen: 0,
            since: Instant::now(),
            timer: None,
            limits: self.clone(),
        };
        tokio::spawn(progress.noted_in(watched));
    }
}

struct Watched<F> {
    stream: Pin<Box<F>>,
    progress: Arc<AnswerProgress>,
    seen: u64,
    /// When `seen` last changed.
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    limits: Streams,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let count = self.progress.count();
        if count != self.seen {
            (self.seen, self.since) = (count, Instant::now());
        }
        if count == 0 {
            // There is no answer yet; what is waited for has time-outs of its own.
            return Poll::Pending;
        }
        let deadline = self.since + self.limits.idle;
        loop {
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= deadline {
                self.limits.reached.with_label_values(&["stream_idle"]).inc();
                // Dropped before its end, the stream is reset.
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}
