//! Every metric of the process. Labels come only from names in the configuration and from closed sets, never from input.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

#[derive(Clone, Debug)]
pub struct Metrics {
    pub registry: Registry,
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
        Self {
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
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
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
