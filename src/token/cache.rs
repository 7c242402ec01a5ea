//! Tokens that were found good. The key is the whole token, so no digest can collide; the value are facts, which are judged
//! anew for every request.

use std::sync::Arc;
use std::time::Duration;

use super::VerifiedToken;

/// Most bytes of tokens and claims that are kept, roughly.
const CAPACITY_BYTES: u64 = 64 << 20;
/// What an entry weighs besides its token and claims.
const OVERHEAD_BYTES: usize = 512;
/// Longest that an entry is kept; tokens themselves end earlier or are verified once more.
const TIME_TO_LIVE: Duration = Duration::from_secs(15 * 60);

#[derive(Debug)]
pub(super) struct Cache(moka::sync::Cache<Box<str>, Entry>);

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub token: Arc<VerifiedToken>,
    /// Of the issuer's key ring when the signature was checked.
    pub keys_generation: u64,
}

impl Cache {
    pub(super) fn new() -> Self {
        // Claims take a few times the room of their text.
        Self(
            moka::sync::Cache::<Box<str>, Entry>::builder()
                .max_capacity(CAPACITY_BYTES)
                .weigher(|key, _| u32::try_from(key.len() * 4 + OVERHEAD_BYTES).unwrap_or(u32::MAX))
                .time_to_live(TIME_TO_LIVE)
                .build(),
        )
    }

    pub(super) fn get(&self, token: &str) -> Option<Entry> {
        self.0.get(token)
    }

    pub(super) fn insert(&self, text: &str, token: Arc<VerifiedToken>, keys_generation: u64) {
        self.0.insert(text.into(), Entry { token, keys_generation });
    }

    pub(super) fn entries(&self) -> u64 {
        // What was written lately is counted late.
        self.0.run_pending_tasks();
        self.0.entry_count()
    }
}
