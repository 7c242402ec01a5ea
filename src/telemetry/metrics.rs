//! Every metric of the process. Labels come only from names in the configuration and from closed sets, never from input.

use std::sync::{Arc, PoisonError, RwLock};

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Upper bounds in seconds, from a cached answer on the same host to a report that takes its time.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

#[derive(Clone, Debug)]
pub struct Metrics {
    pub registry: Registry,
    /// `route`, `method`, `status`, `decision`.
    pub requests: IntCounterVec,
    /// `route`.
    pub request_seconds: HistogramVec,
    /// `issuer`.
    pub tokens_verified: IntCounterVec,
    /// `issuer`.
    pub tokens_cached: IntCounterVec,
    /// `reason`.
    pub tokens_refused: IntCounterVec,
    /// `issuer`, `result`.
    pub key_fetches: IntCounterVec,
    /// `upstream`.
    pub upstream_requests: IntCounterVec,
    /// `upstream`.
    pub upstream_connects: IntCounterVec,
    /// `upstream`, `kind`.
    pub upstream_errors: IntCounterVec,
    /// `upstream`.
    pub upstream_seconds: HistogramVec,
    /// `listener`.
    pub connections: IntGaugeVec,
    /// `listener`.
    pub connections_accepted: IntCounterVec,
    /// `listener`, `result`.
    pub tls_handshakes: IntCounterVec,
    /// `limit`: which of `[server.limits]` ended a connection or a request.
    pub limits_reached: IntCounterVec,
    /// `listener`, `certificate` (its place in the list, from 1).
    pub certificate_not_after: IntGaugeVec,
    /// Panics: each is a bug, and ended a connection or a background task.
    pub panics: IntCounter,
    /// Log lines that were dropped because they came faster than they could be written.
    pub log_lines_dropped: IntCounter,
    /// `grant`, `client`.
    pub tokens_issued: IntCounterVec,
    /// `endpoint`, `error` (the code of RFC 6749 section 5.2).
    pub token_requests_refused: IntCounterVec,
    /// `by` (what failures count against: the address or the client), `result`.
    pub logins: IntCounterVec,
    /// Refresh tokens that were presented after they had been replaced.
    pub refresh_reuse: IntCounter,
}

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let build = gauges(&registry, "build_info", "the version that runs", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            requests: counters(&registry, "requests_total", "requests", &["route", "method", "status", "decision"]),
            request_seconds: histograms(
                &registry,
                "request_duration_seconds",
                "from the request's head to the end of the answer",
                &["route"],
            ),
            tokens_verified: counters(
                &registry,
                "tokens_verified_total",
                "tokens whose signature was checked",
                &["issuer"],
            ),
            tokens_cached: counters(&registry, "tokens_cached_total", "tokens that were known to be good", &["issuer"]),
            tokens_refused: counters(&registry, "tokens_refused_total", "tokens that did not count", &["reason"]),
            key_fetches: counters(&registry, "key_fetches_total", "fetches of key sets", &["issuer", "result"]),
            upstream_requests: counters(
                &registry,
                "upstream_requests_total",
                "requests sent to upstreams",
                &["upstream"],
            ),
            upstream_connects: counters(
                &registry,
                "upstream_connections_opened_total",
                "connections opened to upstreams",
                &["upstream"],
            ),
            upstream_errors: counters(
                &registry,
                "upstream_errors_total",
                "requests without an answer of the upstream",
                &["upstream", "kind"],
            ),
            upstream_seconds: histograms(
                &registry,
                "upstream_response_seconds",
                "from sending a request to the head of the answer",
                &["upstream"],
            ),
            connections: gauges(&registry, "connections", "open connections", &["listener"]),
            connections_accepted: counters(
                &registry,
                "connections_accepted_total",
                "connections accepted",
                &["listener"],
            ),
            tls_handshakes: counters(&registry, "tls_handshakes_total", "TLS handshakes", &["listener", "result"]),
            limits_reached: counters(
                &registry,
                "limits_reached_total",
                "connections or requests that a limit ended",
                &["limit"],
            ),
            certificate_not_after: gauges(
                &registry,
                "certificate_not_after_seconds",
                "end of validity, in seconds since 1970",
                &["listener", "certificate"],
            ),
            panics: counter(&registry, "panics_total", "panics, each of which is a bug"),
            log_lines_dropped: counter(
                &registry,
                "log_lines_dropped_total",
                "log lines that could not be written in time",
            ),
            tokens_issued: counters(&registry, "tokens_issued_total", "access tokens issued", &["grant", "client"]),
            token_requests_refused: counters(
                &registry,
                "token_requests_refused_total",
                "requests that the authorization server refused",
                &["endpoint", "error"],
            ),
            logins: counters(&registry, "logins_total", "passwords checked", &["by", "result"]),
            refresh_reuse: counter(
                &registry,
                "refresh_token_reuse_total",
                "refresh tokens presented after they had been replaced",
            ),
            registry,
        }
    }

    pub fn route(&self, route: &Arc<str>) -> RouteMetrics {
        RouteMetrics {
            seconds: self.request_seconds.with_label_values(&[&**route]),
            requests: self.requests.clone(),
            resolved: RwLock::default(),
            route: Arc::clone(route),
        }
    }

    pub fn tokens(&self, issuer: &str) -> TokenMetrics {
        TokenMetrics {
            verified: self.tokens_verified.with_label_values(&[issuer]),
            cached: self.tokens_cached.with_label_values(&[issuer]),
        }
    }

    /// The text that Prometheus scrapes.
    pub fn exposition(&self) -> String {
        let mut text = String::new();
        let encoded = prometheus::TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text);
        if encoded.is_err() {
            text.clear();
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Of one issuer's tokens.
#[derive(Clone, Debug)]
pub struct TokenMetrics {
    /// Signature checked.
    pub verified: IntCounter,
    /// Known from before.
    pub cached: IntCounter,
}

/// What was decided of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Admitted by a public entry.
    Public,
    /// Admitted with a token.
    Admitted,
    /// Refused: who asks may not, or what is asked cannot be.
    Denied,
    /// Answered here: the authorization server.
    Local,
}

impl Decision {
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Admitted => "admitted",
            Self::Denied => "denied",
            Self::Local => "local",
        }
    }
}

/// Of one route's requests. Label values are resolved once for each combination that occurs.
#[derive(Debug)]
pub struct RouteMetrics {
    pub seconds: Histogram,
    requests: IntCounterVec,
    /// A few combinations make up nearly all traffic, so a linear search is the cheapest.
    resolved: RwLock<Vec<(Combination, IntCounter)>>,
    route: Arc<str>,
}

type Combination = (Decision, &'static str, u16);

impl RouteMetrics {
    pub fn count(&self, method: &http::Method, status: u16, decision: Decision) {
        let wanted = (decision, method_label(method), status);
        let known = self.resolved.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counter)) = known.iter().find(|(combination, _)| *combination == wanted) {
            counter.inc();
            return;
        }
        drop(known);
        let labels = [&*self.route, wanted.1, &status.to_string(), decision.name()];
        let counter = self.requests.with_label_values(&labels);
        counter.inc();
        let mut resolved = self.resolved.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been faster since the lock was let go.
        if !resolved.iter().any(|(combination, _)| *combination == wanted) {
            resolved.push((wanted, counter));
        }
    }
}

fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "CONNECT" => "CONNECT",
        "TRACE" => "TRACE",
        _ => "other",
    }
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let vec = IntCounterVec::new(Opts::new(format!("tollgate_{name}"), help), labels)
        .expect("metric names and labels are constants");
    registry.register(Box::new(vec.clone())).expect("each metric is registered once");
    vec
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    let counter = IntCounter::new(format!("tollgate_{name}"), help).expect("metric names are constants");
    registry.register(Box::new(counter.clone())).expect("each metric is registered once");
    counter
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let vec = IntGaugeVec::new(Opts::new(format!("tollgate_{name}"), help), labels)
        .expect("metric names and labels are constants");
    registry.register(Box::new(vec.clone())).expect("each metric is registered once");
    vec
}

fn histograms(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let options = HistogramOpts::new(format!("tollgate_{name}"), help).buckets(SECONDS.to_vec());
    let vec = HistogramVec::new(options, labels).expect("metric names and labels are constants");
    registry.register(Box::new(vec.clone())).expect("each metric is registered once");
    vec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_combination_that_many_threads_see_first_is_resolved_once() {
        const THREADS: usize = 8;
        for _ in 0..200 {
            let route = Metrics::new().route(&Arc::from("r"));
            let start = std::sync::Barrier::new(THREADS);
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        start.wait();
                        route.count(&http::Method::GET, 200, Decision::Public);
                    });
                }
            });
            assert_eq!(route.resolved.read().unwrap_or_else(PoisonError::into_inner).len(), 1);
        }
    }
}
