//! Which requests have a span, and the queue of those that ended.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::{Notify, mpsc, oneshot};

use super::export::{BATCH, Exporter};
use super::{Request, Span, encode};
use crate::clock::Clock;
use crate::net::EndpointUrl;
use crate::net::trace_context::TraceParent;
use crate::secret;
use crate::telemetry::metrics::SpanMetrics;
use crate::tls::{self, TlsError};

/// Spans that wait to be sent, of a kilobyte and at most four.
const QUEUE: usize = 4096;

/// `[telemetry.otlp]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where traces go.
    pub url: EndpointUrl,
    pub ca: Option<PathBuf>,
    /// Beside the fields that every call has. Sensitive.
    pub headers: HeaderMap,
    pub service_name: String,
    /// The share, from 0 to 1, of the requests whose callers say nothing.
    pub sample: f64,
    /// Of a call.
    pub timeout: Duration,
}

/// Begins spans and takes them when they ended. The exporter that belongs to it ends when this is gone.
#[derive(Debug)]
pub struct Tracer {
    settings: Settings,
    /// What the authorities' file held.
    ca: Option<[u8; 32]>,
    /// Lower trace ids are sampled.
    threshold: u64,
    queue: mpsc::Sender<Box<[u8]>>,
    /// Told when there is a batch.
    filled: Arc<Notify>,
    flushes: mpsc::Sender<oneshot::Sender<()>>,
    metrics: SpanMetrics,
}

impl Tracer {
    /// Nothing is sent before the exporter runs.
    pub fn new(settings: Settings, metrics: SpanMetrics, clock: Clock) -> Result<(Arc<Self>, Exporter), TlsError> {
        let (queue, queued) = mpsc::channel(QUEUE);
        let (flushes, asked) = mpsc::channel(1);
        let filled = Arc::new(Notify::new());
        let exporter = Exporter::new(&settings, queued, Arc::clone(&filled), asked, metrics.clone(), clock)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of all ids; 1 is the last of them"
        )]
        let threshold = (settings.sample * 2f64.powi(64)) as u64;
        let ca = tls::contents(settings.ca.as_deref());
        Ok((Arc::new(Self { settings, ca, threshold, queue, filled, flushes, metrics }), exporter))
    }

    /// Whether these settings would make the same one again.
    pub fn is_still(&self, settings: &Settings) -> bool {
        self.settings == *settings && self.ca.is_some() && self.ca == tls::contents(settings.ca.as_deref())
    }

    /// The span of a request whose caller says `trace`; none of one that is not sampled. `trace` becomes what the upstream is
    /// to be told. A caller's decision counts, either way, and where it is not to keep the trace its own span stays the parent.
    pub fn begin(&self, trace: &mut Option<TraceParent>) -> Option<Span> {
        if let Some(parent) = trace {
            if !parent.is_sampled() {
                return None;
            }
            let own = parent.child(span_id());
            return Some(Span { parent: trace.replace(own.clone()), own });
        }
        let trace_id = u128::from_ne_bytes(secret::random());
        #[expect(clippy::cast_possible_truncation, reason = "its second half, by which others sample too")]
        let sampled = (trace_id as u64) < self.threshold;
        let root = TraceParent::root(NonZero::new(trace_id).unwrap_or(NonZero::<u128>::MIN), span_id(), sampled);
        *trace = Some(root.clone());
        sampled.then_some(Span { own: root, parent: None })
    }

    /// Takes a span of a request that ended.
    pub fn end(&self, span: &Span, request: &Request<'_>) {
        if self.queue.try_send(encode::span(span, request).into()).is_err() {
            self.metrics.queue_full.inc();
        } else if self.queue.max_capacity() - self.queue.capacity() >= BATCH {
            self.filled.notify_one();
        }
    }

    /// Has everything sent that ended by now; what is not within `limit` is given up.
    pub async fn flush(&self, limit: Duration) {
        let (done, ended) = oneshot::channel();
        let flush = async {
            if self.flushes.send(done).await.is_ok() {
                let _ = ended.await;
            }
        };
        let _ = tokio::time::timeout(limit, flush).await;
    }
}

fn span_id() -> NonZero<u64> {
    NonZero::new(u64::from_ne_bytes(secret::random())).unwrap_or(NonZero::<u64>::MIN)
}
