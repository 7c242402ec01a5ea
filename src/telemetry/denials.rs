//! The last denials, for people who look at what the gateway does now: which route refused what, and why. A request that
//! is forwarded never comes near it. No token, no query and no name that a caller typed has a place here.

use std::borrow::Cow;
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
    /// Written when it is noted. A trusted proxy may have chosen it.
    pub request_id: String,
    pub route: Arc<str>,
    /// Of the authorization server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static str>,
    pub status: u16,
    pub reason: &'static str,
    pub cause: Cow<'static, str>,
}

/// A ring of the last ones. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Denials(Arc<Mutex<VecDeque<Denial>>>);

impl Denials {
    pub fn note(&self, request_id: &str, mut denial: Denial) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut oldest = if kept.len() == KEPT { kept.pop_front() } else { None };
        if let Some(oldest) = &mut oldest {
            // Ids are alike, so that there is room for this one.
            denial.request_id = std::mem::take(&mut oldest.request_id);
        }
        denial.request_id.clear();
        denial.request_id.push_str(request_id);
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
            denials.note(
                &at.to_string(),
                Denial {
                    at,
                    request_id: String::new(),
                    route: "r".into(),
                    endpoint: None,
                    method: Some("GET"),
                    status: 403,
                    reason: "forbidden",
                    cause: "".into(),
                },
            );
        }
        let kept = denials.latest();
        assert!(kept.iter().all(|denial| denial.request_id == denial.at.to_string()));
        let kept: Vec<u64> = kept.iter().map(|denial| denial.at).collect();
        assert_eq!(kept, (150..250).rev().collect::<Vec<u64>>());
    }
}
