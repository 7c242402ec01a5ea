//! What stands in where the program is built without the feature `otlp`: of none of these there is a value.

use std::sync::Arc;
use std::time::Duration;

use super::{Request, Span};
use crate::clock::Clock;
use crate::net::trace_context::TraceParent;
use crate::telemetry::metrics::SpanMetrics;
use crate::tls::TlsError;

#[derive(Clone, Debug)]
pub enum Settings {}

#[derive(Debug)]
pub enum Tracer {}

#[derive(Debug)]
pub enum Exporter {}

impl Tracer {
    #[expect(clippy::needless_pass_by_value, reason = "as where it is built in")]
    pub fn new(settings: Settings, _: SpanMetrics, _: Clock) -> Result<(Arc<Self>, Exporter), TlsError> {
        match settings {}
    }

    pub fn is_still(&self, _: &Settings) -> bool {
        match *self {}
    }

    pub fn begin(&self, _: &mut Option<TraceParent>) -> Option<Span> {
        match *self {}
    }

    pub fn end(&self, _: &Span, _: &Request<'_>) {
        match *self {}
    }

    #[expect(clippy::unused_async, reason = "as where it is built in")]
    pub async fn flush(&self, _: Duration) {
        match *self {}
    }
}

impl Exporter {
    #[expect(clippy::unused_async, reason = "as where it is built in")]
    pub async fn run(self) {
        match self {}
    }
}
