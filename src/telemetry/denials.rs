//! The last denials, for people who look at what the gateway does now: which route refused what, and why. A request that
//! is forwarded never comes near it. No token, no query and no name that a caller typed has a place here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// Denials that are kept.
const KEPT: usize = 100;

/// A request that was refused. All texts are fixed ones or names of the configuration, but for the id.
#[derive(Clone, Debug, Serialize)]
pub struct Denial {
    /// Seconds since 1970.
    pub at: u64,
    /// A trusted proxy may have chosen it.
    pub request_id: Box<str>,
    pub route: Arc<str>,
    /// Of the authorization server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static str>,
    pub status: u16,
    pub reason: &'static str,
    pub cause: Box<str>,
}

/// A ring of the last ones. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Denials(Arc<Mutex<VecDeque<Denial>>>);

impl Denials {
    pub fn note(&self, denial: Denial) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if kept.len() == KEPT { kept.pop_front() } else { None };
        kept.push_back(denial);
        drop(kept);
        // Freed when nobody waits for the lock any more.
        drop(oldest);
    }

    /// The latest first.
    pub fn latest(&self) -> Vec<Denial> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_ones_are_kept() {
        let denials = Denials::default();
        for at in 0..250 {
            denials.note(Denial {
                at,
                request_id: "id".into(),
                route: "r".into(),
                endpoint: None,
                method: Some("GET"),
                status: 403,
                reason: "forbidden",
                cause: "".into(),
            });
        }
        let kept: Vec<u64> = denials.latest().iter().map(|denial| denial.at).collect();
        assert_eq!(kept, (150..250).rev().collect::<Vec<u64>>());
    }
}
