//! Tokens that were found good. The key is the whole token, so no digest can collide; the value are facts, which are judged
//! anew for every request.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use super::VerifiedToken;

/// Most bytes of tokens and claims that are kept, roughly.
const CAPACITY_BYTES: u64 = 64 << 20;
/// What an entry weighs besides its token and claims.
const OVERHEAD_BYTES: usize = 512;
/// Longest that an entry is kept; tokens themselves end earlier or are verified once more.
const TIME_TO_LIVE: Duration = Duration::from_secs(15 * 60);

/// Where a token stands in the table is told by its last bytes: they are of its signature or random, and nobody can choose
/// them for a token that is found good. Whether it is the same token is told by all of it.
const HASHED_BYTES: usize = 32;

#[derive(Debug)]
pub(super) struct Cache(moka::sync::Cache<Box<[u8]>, Entry, ByEnd>);

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
            moka::sync::Cache::<Box<[u8]>, Entry>::builder()
                .max_capacity(CAPACITY_BYTES)
                .weigher(|key, _| u32::try_from(key.len() * 4 + OVERHEAD_BYTES).unwrap_or(u32::MAX))
                .time_to_live(TIME_TO_LIVE)
                .build_with_hasher(ByEnd::default()),
        )
    }

    pub(super) fn get(&self, token: &[u8]) -> Option<Entry> {
        self.0.get(token)
    }

    pub(super) fn insert(&self, text: &str, token: Arc<VerifiedToken>, keys_generation: u64) {
        self.0.insert(text.as_bytes().into(), Entry { token, keys_generation });
    }

    pub(super) fn entries(&self) -> u64 {
        // What was written lately is counted late.
        self.0.run_pending_tasks();
        self.0.entry_count()
    }
}

/// Hashes of tokens. Nobody can choose tokens that are found good, or knows the seed: a cheap one will do.
#[derive(Clone, Debug)]
pub(super) struct ByEnd {
    seed: u64,
}

impl Default for ByEnd {
    fn default() -> Self {
        Self { seed: RandomState::new().hash_one(()) }
    }
}

pub(super) struct EndHasher(u64);

/// Odd, and without a pattern: of the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl BuildHasher for ByEnd {
    type Hasher = EndHasher;

    fn build_hasher(&self) -> EndHasher {
        EndHasher(self.seed)
    }
}

impl Hasher for EndHasher {
    fn write(&mut self, bytes: &[u8]) {
        let end = bytes.last_chunk::<HASHED_BYTES>().map_or(bytes, |end| end);
        for chunk in end.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            // Every bit of a word comes to bear on all others, once the upper half is folded onto the lower.
            let product = u128::from(self.0 ^ u64::from_ne_bytes(word)) * u128::from(FACTOR);
            #[expect(clippy::cast_possible_truncation, reason = "the halves of it")]
            let (upper, lower) = ((product >> 64) as u64, product as u64);
            self.0 = upper ^ lower;
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_with_the_same_end_are_not_the_same() {
        let token = |text: &str| text.to_owned() + &"x".repeat(2 * HASHED_BYTES);
        let hash = |text: &str| {
            let mut hasher = EndHasher(7);
            std::hash::Hash::hash(text.as_bytes(), &mut hasher);
            hasher.finish()
        };
        assert_eq!(hash(&token("a")), hash(&token("b")));
        assert_ne!(hash("short"), hash("shorter"));
        let cache = moka::sync::Cache::builder().build_with_hasher(ByEnd::default());
        cache.insert(Box::<[u8]>::from(token("a").as_bytes()), 1);
        assert_eq!(cache.get(token("a").as_bytes()), Some(1));
        assert_eq!(cache.get(token("b").as_bytes()), None);
    }
}
