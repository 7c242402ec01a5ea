//! Traces for an OpenTelemetry collector (OTLP/HTTP, JSON encoding): a span for each request that is sampled, as its caller
//! says or else by chance. The worker that answered writes the span down (`encode`) and queues it; what is queued is sent from
//! the control thread (`export`). Nothing waits for a collector: what there is no room for is counted and gone.
//!
//! Without the feature `otlp` there is no value of these types, so that nothing of it is left in the program.

#[cfg(not(feature = "otlp"))]
mod absent;
#[cfg(feature = "otlp")]
mod encode;
#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod tracer;

use std::net::IpAddr;
use std::time::Duration;

#[cfg(not(feature = "otlp"))]
pub use absent::{Exporter, Settings, Tracer};
#[cfg(feature = "otlp")]
pub use export::Exporter;
#[cfg(feature = "otlp")]
pub use tracer::{Settings, Tracer};

use crate::net::trace_context::TraceParent;

/// A span that is kept.
#[derive(Debug)]
pub struct Span {
    /// As the upstream is told it.
    pub own: TraceParent,
    pub parent: Option<TraceParent>,
}

/// What a span tells of its request. `None` is left out; nothing in it is a credential, or says whose it is.
#[derive(Debug)]
pub struct Request<'a> {
    pub request_id: &'a str,
    pub client: IpAddr,
    pub https: bool,
    pub version: http::Version,
    pub method: &'a http::Method,
    /// As the caller named it, without a port.
    pub host: Option<&'a str>,
    /// Without the query, which may hold secrets.
    pub path: &'a str,
    /// The route's name, and its pattern.
    pub route: Option<(&'a str, &'a str)>,
    pub upstream: Option<&'a str>,
    pub decision: &'static str,
    /// The code of what was refused or went wrong.
    pub reason: Option<&'static str>,
    /// `None`: nobody was left to be answered.
    pub status: Option<u16>,
    /// The answer began and could not be brought to its end.
    pub broken: bool,
    /// Since 1970.
    pub ended: Duration,
    pub duration: Duration,
}
