//! Sending spans: in batches, one call at a time, again after a pause where the collector may do better then. A collector that
//! is away costs a full queue and no more.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{info, warn};

use super::{Settings, encode};
use crate::clock::Clock;
use crate::net::EndpointUrl;
use crate::net::fetch::{Answer, FetchError, Fetcher};
use crate::secret;
use crate::telemetry::metrics::SpanMetrics;
use crate::tls::TlsError;

/// Spans of one call.
pub(super) const BATCH: usize = 512;
/// Longest that a span waits for others.
const INTERVAL: Duration = Duration::from_secs(1);
/// Calls for one batch, before it is given up.
const ATTEMPTS: u32 = 5;
/// The first pause; each further one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause, whatever a collector wishes.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Largest answer that is read.
const MAX_BYTES: usize = 64 * 1024;

/// Sends what a [`super::Tracer`] takes.
#[derive(Debug)]
pub struct Exporter {
    fetcher: Fetcher,
    url: EndpointUrl,
    headers: HeaderMap,
    timeout: Duration,
    prologue: String,
    queue: mpsc::Receiver<Box<[u8]>>,
    filled: Arc<Notify>,
    flushes: mpsc::Receiver<oneshot::Sender<()>>,
    /// Somebody waits for everything to be sent: this is no time for pauses.
    flushing: Option<oneshot::Sender<()>>,
    failing: bool,
    metrics: SpanMetrics,
    clock: Clock,
}

/// Why spans did not reach the collector.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the answer was {status}")]
    Status { status: StatusCode, retry_after: Option<Duration> },
}

impl Failure {
    /// The pause after which the batch is worth another call, the `attempt`-th having failed; none where it never is.
    fn pause(&self, attempt: u32) -> Option<Duration> {
        const AGAIN: [StatusCode; 4] = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ];
        let wished = match self {
            Self::Status { status, .. } if !AGAIN.contains(status) => return None,
            Self::Status { retry_after, .. } => *retry_after,
            Self::Fetch(_) => None,
        };
        // From half of it to the whole, so that many gateways do not come back at once.
        let own =
            || PAUSE.saturating_mul(1 << (attempt - 1)).mul_f64(0.5 + f64::from(secret::random::<1>()[0]) / 510.0);
        (attempt < ATTEMPTS).then(|| wished.unwrap_or_else(own).min(MAX_PAUSE))
    }
}

impl Exporter {
    pub(super) fn new(
        settings: &Settings,
        queue: mpsc::Receiver<Box<[u8]>>,
        filled: Arc<Notify>,
        flushes: mpsc::Receiver<oneshot::Sender<()>>,
        metrics: SpanMetrics,
        clock: Clock,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            fetcher: Fetcher::new(&settings.url, settings.ca.as_deref(), 1)?,
            url: settings.url.clone(),
            headers: settings.headers.clone(),
            timeout: settings.timeout,
            prologue: encode::prologue(&settings.service_name),
            queue,
            filled,
            flushes,
            flushing: None,
            failing: false,
            metrics,
            clock,
        })
    }

    /// Runs until the tracer is gone and its last span is sent or given up.
    pub async fn run(mut self) {
        loop {
            // Not the queue itself is waited for: a worker would have to wake this thread for each span.
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = self.filled.notified() => {}
                Some(done) = self.flushes.recv() => self.flushing = Some(done),
            }
            let last = self.queue.is_closed();
            let mut left = self.queue.len();
            while left > 0 {
                let (body, spans) = self.batch();
                left = left.saturating_sub(spans);
                self.send(body, spans as u64).await;
            }
            if let Some(done) = self.flushing.take() {
                let _ = done.send(());
            }
            if last {
                return;
            }
        }
    }

    /// The next spans of the queue, as one document.
    fn batch(&mut self) -> (Bytes, usize) {
        let mut document = Vec::from(self.prologue.as_bytes());
        let mut spans = 0;
        while spans < BATCH
            && let Ok(span) = self.queue.try_recv()
        {
            if spans > 0 {
                document.push(b',');
            }
            document.extend_from_slice(&span);
            spans += 1;
        }
        document.extend_from_slice(encode::EPILOGUE.as_bytes());
        (document.into(), spans)
    }

    async fn send(&mut self, document: Bytes, spans: u64) {
        for attempt in 1.. {
            let failure = match self.call(document.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(spans);
                    self.metrics.exported.inc_by(spans - rejected);
                    self.metrics.rejected.inc_by(rejected);
                    if std::mem::take(&mut self.failing) {
                        info!(event = "otlp.recovered", url = %self.url);
                    }
                    return;
                }
                Err(failure) => failure,
            };
            // Told once for each time it begins.
            if !std::mem::replace(&mut self.failing, true) {
                warn!(event = "otlp.failed", url = %self.url, error = %failure);
            }
            match failure.pause(attempt).filter(|_| self.flushing.is_none()) {
                None => break,
                Some(pause) => tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    Some(done) = self.flushes.recv() => self.flushing = Some(done),
                },
            }
        }
        self.metrics.failed.inc_by(spans);
    }

    /// Gives the number of spans that the collector did not want.
    async fn call(&self, document: Bytes) -> Result<u64, Failure> {
        let answer = self.fetcher.post_json(&self.url, &self.headers, document, self.timeout, MAX_BYTES).await?;
        if answer.status.is_success() {
            return Ok(rejected(&answer.body));
        }
        Err(Failure::Status { status: answer.status, retry_after: self.retry_after(&answer) })
    }

    /// RFC 9110 section 10.2.3.
    fn retry_after(&self, answer: &Answer) -> Option<Duration> {
        let text = answer.headers.get(header::RETRY_AFTER)?.to_str().ok()?;
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let date = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(date.saturating_sub(self.clock.precisely()))
    }
}

/// `rejectedSpans` of an answer that takes some of the spans.
fn rejected(body: &[u8]) -> u64 {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let count = &answer["partialSuccess"]["rejectedSpans"];
    count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_bounded_whatever_the_collector_says() {
        let seconds = |status, retry_after: Option<u64>, attempt| {
            let failure = Failure::Status { status, retry_after: retry_after.map(Duration::from_secs) };
            failure.pause(attempt).map(|pause| pause.as_secs_f64())
        };
        let busy = StatusCode::TOO_MANY_REQUESTS;
        for (attempt, longest) in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0)] {
            let pause = seconds(busy, None, attempt).expect("another call");
            assert!((longest / 2.0..=longest).contains(&pause), "{attempt}: {pause}");
        }
        assert_eq!(seconds(busy, Some(7), 1), Some(7.0));
        assert_eq!(seconds(busy, Some(u64::MAX), 1), Some(30.0));
        assert_eq!(seconds(busy, Some(7), ATTEMPTS), None);
        for never in
            [StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED, StatusCode::INTERNAL_SERVER_ERROR, StatusCode::FOUND]
        {
            assert_eq!(seconds(never, Some(7), 1), None, "{never}");
        }
        assert!(Failure::Fetch(FetchError::Timeout(PAUSE)).pause(1).is_some());
    }

    #[test]
    fn what_a_collector_did_not_want() {
        for (body, expected) in [
            (r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}}"#, 3),
            (r#"{"partialSuccess":{"rejectedSpans":3}}"#, 3),
            (r#"{"partialSuccess":{}}"#, 0),
            ("{}", 0),
            ("", 0),
            (r#"{"partialSuccess":{"rejectedSpans":-3}}"#, 0),
            ("[", 0),
        ] {
            assert_eq!(rejected(body.as_bytes()), expected, "{body}");
        }
    }
}
