//! The time of day, passed in wherever a decision depends on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01 UTC (RFC 7519 NumericDate, whole seconds).
pub type UnixSeconds = u64;

/// Where the time comes from. Clones share it.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<AtomicU64>),
}

impl Clock {
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `seconds` until `advance` is called.
    pub fn manual(seconds: UnixSeconds) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(seconds))))
    }

    pub fn now(&self) -> UnixSeconds {
        match &self.0 {
            Source::System => since_1970().as_secs(),
            Source::Manual(seconds) => seconds.load(Ordering::Relaxed),
        }
    }

    /// The same, to the fraction of a second that a span is timed by.
    pub fn precisely(&self) -> Duration {
        match &self.0 {
            Source::System => since_1970(),
            Source::Manual(seconds) => Duration::from_secs(seconds.load(Ordering::Relaxed)),
        }
    }

    /// Moves a manual clock forward; the system's clock is left alone.
    pub fn advance(&self, seconds: u64) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(seconds, Ordering::Relaxed);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
