//! Every metric of the process. Labels come only from names in the configuration and from closed sets, never from input.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::denials::{Denial, Denials};
use super::readings::Readings;

/// Upper bounds in seconds, from a cached answer on the same host to a report that takes its time.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// The limits of `[server.limits]` that are counted.
const LIMITS: [&str; 9] = [
    "connections",
    "connections_per_ip",
    "header_bytes",
    "header_count",
    "header_timeout",
    "body_bytes",
    "body_timeout",
    "idle_timeout",
    "stream_idle",
];

#[derive(Clone, Debug)]
pub struct Metrics {
    registry: prometheus::Registry,
    announced: Arc<[Announced]>,
    /// `route`, `method`, `status`, `decision`.
    pub requests: IntCounterVec,
    /// `route`, `reason`.
    denials: IntCounterVec,
    /// The last of them.
    latest_denials: Denials,
    /// `route`.
    pub request_seconds: HistogramVec,
    /// `reason`: what was no request, or more than one.
    pub requests_malformed: IntCounterVec,
    /// `issuer`.
    pub tokens_verified: IntCounterVec,
    /// `issuer`.
    pub tokens_cached: IntCounterVec,
    /// `reason`.
    pub tokens_refused: IntCounterVec,
    /// `issuer`, `result`.
    pub key_fetches: IntCounterVec,
    /// `issuer`.
    pub keys: IntGaugeVec,
    /// `issuer`. Read at the time of a scrape.
    pub key_set_age: IntGaugeVec,
    /// `issuer`. Read at the time of a scrape.
    pub key_set_last_success: IntGaugeVec,
    /// `issuer`.
    pub unknown_key_ids: IntCounterVec,
    /// Tokens that are remembered as good. Read at the time of a scrape.
    pub token_cache_entries: IntGauge,
    /// `issuer`, `result`.
    pub introspection_calls: IntCounterVec,
    /// `issuer`.
    pub introspection_seconds: HistogramVec,
    /// `issuer`, `found`.
    pub introspection_lookups: IntCounterVec,
    /// `issuer`: 1 while the issuer gives no usable answer.
    pub introspection_failing: IntGaugeVec,
    /// `issuer`. Read at the time of a scrape.
    pub introspection_entries: IntGaugeVec,
    /// `upstream`.
    pub upstream_requests: IntCounterVec,
    /// `upstream`.
    pub upstream_connects: IntCounterVec,
    /// `upstream`, `kind`.
    pub upstream_errors: IntCounterVec,
    /// `upstream`, `result`.
    pub upstream_retries: IntCounterVec,
    /// `upstream`, `server`: 1 while it is given requests. Read at the time of a scrape.
    pub upstream_server_up: IntGaugeVec,
    /// `upstream`.
    pub upstream_seconds: HistogramVec,
    /// `listener`.
    pub connections: IntGaugeVec,
    /// `listener`.
    pub connections_accepted: IntCounterVec,
    /// `listener`, `result`.
    pub tls_handshakes: IntCounterVec,
    /// `listener`, `reason`.
    pub proxies_refused: IntCounterVec,
    /// `limit`: which of `[server.limits]` ended a connection or a request.
    pub limits_reached: IntCounterVec,
    /// `route`.
    pub rate_limited: IntCounterVec,
    /// `listener`, `certificate` (its place in the list, from 1).
    pub certificate_not_after: IntGaugeVec,
    /// Counts from 1, with each configuration that was taken up.
    pub config_generation: IntGauge,
    /// `result`.
    pub config_reloads: IntCounterVec,
    /// 1 when the last reload was one, or there was none.
    pub config_last_reload_successful: IntGauge,
    /// Seconds since 1970; 0: none since the start.
    pub config_last_reload: IntGauge,
    /// `result`: what became of the spans for the collector.
    spans: IntCounterVec,
    /// Panics: each is a bug, and ended a connection or a background task.
    pub panics: IntCounter,
    /// Log lines that were dropped because they came faster than they could be written.
    pub log_lines_dropped: IntCounter,
    /// The same of the file for audit events.
    pub audit_lines_dropped: IntCounter,
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
        let registry = Registry::default();
        let build = gauges(&registry, "build_info", "the version that runs", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            requests: counters(&registry, "requests_total", "requests", &["route", "method", "status", "decision"]),
            denials: counters(
                &registry,
                "denials_total",
                "requests that were denied, by the reason that the log has too",
                &["route", "reason"],
            ),
            latest_denials: Denials::default(),
            request_seconds: histograms(
                &registry,
                "request_duration_seconds",
                "from the request's head to the end of the answer",
                &["route"],
            ),
            requests_malformed: counters(
                &registry,
                "requests_malformed_total",
                "what was no HTTP/1 request, or could be read as two",
                &["reason"],
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
            keys: gauges(&registry, "keys", "keys that can verify tokens", &["issuer"]),
            key_set_age: gauges(
                &registry,
                "key_set_age_seconds",
                "since the key set was last found to be current",
                &["issuer"],
            ),
            key_set_last_success: gauges(
                &registry,
                "key_set_last_success_timestamp_seconds",
                "when the key set was last found to be current, in seconds since 1970",
                &["issuer"],
            ),
            unknown_key_ids: counters(
                &registry,
                "unknown_key_ids_total",
                "tokens that named a key which the issuer's set did not have",
                &["issuer"],
            ),
            token_cache_entries: gauge(&registry, "token_cache_entries", "tokens that are remembered as good"),
            introspection_calls: counters(
                &registry,
                "introspection_calls_total",
                "calls to introspection endpoints",
                &["issuer", "result"],
            ),
            introspection_seconds: histograms(
                &registry,
                "introspection_duration_seconds",
                "of a call to an introspection endpoint",
                &["issuer"],
            ),
            introspection_lookups: counters(
                &registry,
                "introspection_lookups_total",
                "tokens to be introspected, by what was found: hit, negative, shared (a call under way), miss",
                &["issuer", "found"],
            ),
            introspection_failing: gauges(
                &registry,
                "introspection_failing",
                "1 while an issuer gives no usable answer",
                &["issuer"],
            ),
            introspection_entries: gauges(
                &registry,
                "introspection_cache_entries",
                "answers of introspection endpoints that are kept",
                &["issuer"],
            ),
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
            upstream_retries: counters(
                &registry,
                "upstream_retries_total",
                "requests that were to be sent again",
                &["upstream", "result"],
            ),
            upstream_server_up: gauges(
                &registry,
                "upstream_server_up",
                "1 while a server is given requests",
                &["upstream", "server"],
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
            proxies_refused: counters(
                &registry,
                "proxy_protocol_refused_total",
                "connections without a good PROXY protocol header of a trusted proxy",
                &["listener", "reason"],
            ),
            limits_reached: counters(
                &registry,
                "limits_reached_total",
                "connections or requests that a limit ended",
                &["limit"],
            ),
            rate_limited: counters(
                &registry,
                "rate_limited_total",
                "requests that a route's rate limit refused",
                &["route"],
            ),
            certificate_not_after: gauges(
                &registry,
                "certificate_not_after_seconds",
                "end of validity, in seconds since 1970",
                &["listener", "certificate"],
            ),
            config_generation: gauge(&registry, "config_generation", "configurations taken up since the start"),
            config_reloads: counters(&registry, "config_reloads_total", "reloads of the configuration", &["result"]),
            config_last_reload_successful: gauge(
                &registry,
                "config_last_reload_successful",
                "0 when the configuration was read again and found wrong, so that the one before is in force",
            ),
            config_last_reload: gauge(
                &registry,
                "config_last_reload_timestamp_seconds",
                "when the configuration was last read again, in seconds since 1970",
            ),
            spans: counters(
                &registry,
                "spans_total",
                "spans for the OpenTelemetry collector, by what became of them",
                &["result"],
            ),
            panics: counter(&registry, "panics_total", "panics, each of which is a bug"),
            log_lines_dropped: counter(
                &registry,
                "log_lines_dropped_total",
                "log lines that could not be written in time",
            ),
            audit_lines_dropped: counter(
                &registry,
                "audit_lines_dropped_total",
                "lines that waited for the file of the audit events and were too many",
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
            announced: registry.announced.into_inner().into(),
            registry: registry.registry,
        };
        // A rate sees no event that is the first of its series, and of these every one counts.
        for limit in LIMITS {
            metrics.limits_reached.with_label_values(&[limit]);
        }
        for result in ["success", "failure"] {
            metrics.config_reloads.with_label_values(&[result]);
        }
        metrics
    }

    pub fn route(&self, route: &Arc<str>) -> RouteMetrics {
        RouteMetrics {
            seconds: self.request_seconds.with_label_values(&[&**route]),
            requests: self.requests.clone(),
            resolved: Resolved::default(),
            denials: self.denials.clone(),
            reasons: Resolved::default(),
            route: Arc::clone(route),
        }
    }

    /// Keeps a denial for those who look. What counts it is its route, or the endpoint of the authorization server.
    pub fn note_denial(&self, request_id: &str, denial: Denial) {
        self.latest_denials.note(request_id, denial);
    }

    /// The last denials, the latest first.
    pub fn latest_denials(&self) -> Vec<Denial> {
        self.latest_denials.latest()
    }

    pub fn tokens(&self, issuer: &str) -> TokenMetrics {
        TokenMetrics {
            verified: self.tokens_verified.with_label_values(&[issuer]),
            cached: self.tokens_cached.with_label_values(&[issuer]),
        }
    }

    pub fn keys(&self, issuer: &str) -> KeyMetrics {
        KeyMetrics {
            succeeded: self.key_fetches.with_label_values(&[issuer, "success"]),
            failed: self.key_fetches.with_label_values(&[issuer, "failure"]),
            unknown: self.unknown_key_ids.with_label_values(&[issuer]),
            keys: self.keys.with_label_values(&[issuer]),
        }
    }

    pub fn introspection(&self, issuer: &str) -> IntrospectionMetrics {
        let found = |found: &str| self.introspection_lookups.with_label_values(&[issuer, found]);
        IntrospectionMetrics {
            hits: found("hit"),
            negatives: found("negative"),
            shared: found("shared"),
            misses: found("miss"),
            seconds: self.introspection_seconds.with_label_values(&[issuer]),
            failing: self.introspection_failing.with_label_values(&[issuer]),
            calls: self.introspection_calls.clone(),
            issuer: issuer.into(),
        }
    }

    pub fn spans(&self) -> SpanMetrics {
        let result = |result: &str| self.spans.with_label_values(&[result]);
        SpanMetrics {
            exported: result("exported"),
            queue_full: result("queue_full"),
            rejected: result("rejected"),
            failed: result("failed"),
        }
    }

    /// What is counted at this moment.
    pub fn readings(&self) -> Readings {
        Readings(self.registry.gather())
    }

    /// The text that Prometheus scrapes. What has no series yet is announced all the same, so that everybody can see what
    /// there is to count.
    pub fn exposition(&self) -> String {
        let mut text = String::new();
        let families = self.registry.gather();
        if prometheus::TextEncoder::new().encode_utf8(&families, &mut text).is_err() {
            text.clear();
        }
        for Announced { name, help, kind } in &*self.announced {
            if !families.iter().any(|family| family.name() == name) {
                let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            }
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

/// Of one issuer's key set.
#[derive(Clone, Debug)]
pub struct KeyMetrics {
    pub succeeded: IntCounter,
    pub failed: IntCounter,
    /// Tokens that named a key which was not there.
    pub unknown: IntCounter,
    pub keys: IntGauge,
}

/// Of one issuer's introspection endpoint.
#[derive(Clone, Debug)]
pub struct IntrospectionMetrics {
    pub hits: IntCounter,
    pub negatives: IntCounter,
    /// Requests that joined a call under way.
    pub shared: IntCounter,
    pub misses: IntCounter,
    pub seconds: Histogram,
    pub failing: IntGauge,
    calls: IntCounterVec,
    issuer: Box<str>,
}

impl IntrospectionMetrics {
    /// Counts what came of a call.
    pub fn call(&self, result: &'static str) {
        self.calls.with_label_values(&[&*self.issuer, result]).inc();
    }
}

/// What became of the spans for the collector.
#[derive(Clone, Debug)]
pub struct SpanMetrics {
    /// The collector took them.
    pub exported: IntCounter,
    /// Too many waited already.
    pub queue_full: IntCounter,
    /// The collector did not want them.
    pub rejected: IntCounter,
    /// The collector could not be reached, or refused the call.
    pub failed: IntCounter,
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
    /// Answered here: by the authorization server, or a preflight.
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

/// Of one route's requests.
#[derive(Debug)]
pub struct RouteMetrics {
    pub seconds: Histogram,
    requests: IntCounterVec,
    resolved: Resolved<Combination>,
    denials: IntCounterVec,
    reasons: Resolved<&'static str>,
    route: Arc<str>,
}

type Combination = (Decision, &'static str, u16);

impl RouteMetrics {
    pub fn route(&self) -> &Arc<str> {
        &self.route
    }

    pub fn count(&self, method: &http::Method, status: u16, decision: Decision) {
        let method = method_label(method);
        self.resolved.count((decision, method, status), || {
            self.requests.with_label_values(&[&*self.route, method, &status.to_string(), decision.name()])
        });
    }

    pub fn count_denial(&self, reason: &'static str) {
        self.reasons.count(reason, || self.denials.with_label_values(&[&*self.route, reason]));
    }
}

/// Counters by what they count. Label values are resolved once for each combination that occurs; a few make up nearly all
/// traffic, so a linear search is the cheapest.
#[derive(Debug)]
pub struct Resolved<K>(RwLock<Vec<(K, IntCounter)>>);

impl<K> Default for Resolved<K> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: PartialEq> Resolved<K> {
    pub fn count(&self, wanted: K, resolve: impl FnOnce() -> IntCounter) {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counter)) = known.iter().find(|(combination, _)| *combination == wanted) {
            counter.inc();
            return;
        }
        drop(known);
        let counter = resolve();
        counter.inc();
        let mut resolved = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been faster since the lock was let go.
        if !resolved.iter().any(|(combination, _)| *combination == wanted) {
            resolved.push((wanted, counter));
        }
    }
}

pub fn method_label(method: &http::Method) -> &'static str {
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

/// What a metric is, beside its series.
#[derive(Debug)]
struct Announced {
    name: String,
    help: String,
    kind: &'static str,
}

/// Where metrics are registered while they are made.
#[derive(Default)]
struct Registry {
    registry: prometheus::Registry,
    announced: RefCell<Vec<Announced>>,
}

impl Registry {
    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>, kind: &'static str) -> C {
        let collector = made.expect("metric names and labels are constants");
        self.registry.register(Box::new(collector.clone())).expect("each metric is registered once");
        let described = collector.desc().into_iter();
        let new = described.map(|of| Announced { name: of.fq_name.clone(), help: of.help.clone(), kind });
        self.announced.borrow_mut().extend(new);
        collector
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(format!("tollgate_{name}"), help)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registry.register(IntCounterVec::new(options(name, help), labels), "counter")
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    registry.register(IntCounter::with_opts(options(name, help)), "counter")
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    registry.register(IntGauge::with_opts(options(name, help)), "gauge")
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registry.register(IntGaugeVec::new(options(name, help), labels), "gauge")
}

fn histograms(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let options = HistogramOpts::from(options(name, help)).buckets(SECONDS.to_vec());
    registry.register(HistogramVec::new(options, labels), "histogram")
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
            assert_eq!(route.resolved.0.read().unwrap_or_else(PoisonError::into_inner).len(), 1);
        }
    }
}
