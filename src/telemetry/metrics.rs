//! Every metric of the process. Labels come only from names in the configuration and from closed sets, never from input.

use prometheus::{IntCounterVec, Opts, Registry};

#[derive(Clone, Debug)]
pub struct Metrics {
    pub registry: Registry,
    /// `grant`, `client`.
    pub tokens_issued: IntCounterVec,
    /// `endpoint`, `error` (the code of RFC 6749 section 5.2).
    pub token_requests_refused: IntCounterVec,
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

/// Of one issuer's tokens.
#[derive(Clone, Debug)]
pub struct TokenMetrics {
    /// Signature checked.
    pub verified: prometheus::IntCounter,
    /// Known from before.
    pub cached: prometheus::IntCounter,
}
