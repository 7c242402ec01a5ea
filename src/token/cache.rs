//! Tokens that were found good. The key is the whole token, so no digest can collide; the value are facts, which are judged
//! anew for every request.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::VerifiedToken;
use crate::clock::UnixSeconds;

/// Most bytes of tokens and claims that are kept, roughly.
const CAPACITY_BYTES: u64 = 64 << 20;
/// What an entry weighs besides its token and claims.
const OVERHEAD_BYTES: usize = 512;
/// Longest that an entry is kept; tokens themselves end earlier or are verified once more.
const TIME_TO_LIVE: Duration = Duration::from_secs(15 * 60);

/// Where a token stands in the table is told by its last bytes: they are of its signature or random, and nobody can choose
/// them for a token that is found good. Whether it is the same token is told by all of it.
const HASHED_BYTES: usize = 32;

/// Places for tokens that are used often, in front of the table, whose books take longer than the rest. A power of two.
const PLACES: usize = 512;
/// Longest token that has a place.
const PLACE_BYTES: usize = 4096;
/// Seconds after which the table is asked again, so that it learns what is used.
const PLACE_SECONDS: u64 = 60;

pub(super) struct Cache {
    table: moka::sync::Cache<Box<[u8]>, Entry, ByEnd>,
    /// No request waits for one: whoever finds it taken asks the table.
    places: Box<[Mutex<Place>]>,
    hashes: ByEnd,
}

#[derive(Default)]
struct Place {
    /// Hash of the token that came last. Only one that comes twice in a row takes the place, so that where tokens change
    /// all the time none is copied.
    last: u64,
    taken: Option<Taken>,
}

struct Taken {
    token: Box<[u8]>,
    entry: Entry,
    since: UnixSeconds,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cache")
    }
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub token: Arc<VerifiedToken>,
    /// Of the issuer's key ring when the signature was checked.
    pub keys_generation: u64,
}

impl Cache {
    pub(super) fn new() -> Self {
        let hashes = ByEnd::default();
        // Claims take a few times the room of their text.
        let table = moka::sync::Cache::<Box<[u8]>, Entry>::builder()
            .max_capacity(CAPACITY_BYTES)
            .weigher(|key, _| u32::try_from(key.len() * 4 + OVERHEAD_BYTES).unwrap_or(u32::MAX))
            .time_to_live(TIME_TO_LIVE)
            .build_with_hasher(hashes.clone());
        Self { table, places: (0..PLACES).map(|_| Mutex::default()).collect(), hashes }
    }

    pub(super) fn get(&self, token: &[u8], now: UnixSeconds) -> Option<Entry> {
        let hash = self.hashes.hash_one(token);
        let Ok(mut place) = self.place(hash).try_lock() else { return self.table.get(token) };
        if let Some(taken) = &place.taken
            && *taken.token == *token
            && now.abs_diff(taken.since) < PLACE_SECONDS
        {
            return Some(taken.entry.clone());
        }
        let Some(entry) = self.table.get(token) else {
            place.taken.take_if(|taken| *taken.token == *token);
            return None;
        };
        if std::mem::replace(&mut place.last, hash) == hash && token.len() <= PLACE_BYTES {
            place.taken = Some(Taken { token: token.into(), entry: entry.clone(), since: now });
        }
        Some(entry)
    }

    pub(super) fn insert(&self, text: &str, token: Arc<VerifiedToken>, keys_generation: u64) {
        self.table.insert(text.as_bytes().into(), Entry { token, keys_generation });
        // What was known of it is out of date.
        let place = self.place(self.hashes.hash_one(text.as_bytes()));
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        place.taken.take_if(|taken| *taken.token == *text.as_bytes());
    }

    fn place(&self, hash: u64) -> &Mutex<Place> {
        #[expect(clippy::cast_possible_truncation, reason = "the last bits are as good as any")]
        &self.places[hash as usize % PLACES]
    }

    pub(super) fn entries(&self) -> u64 {
        // What was written lately is counted late.
        self.table.run_pending_tasks();
        self.table.entry_count()
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

impl EndHasher {
    fn mix(&mut self, word: [u8; 8]) {
        // Every bit of a word comes to bear on all others, once the upper half is folded onto the lower.
        let product = u128::from(self.0 ^ u64::from_ne_bytes(word)) * u128::from(FACTOR);
        #[expect(clippy::cast_possible_truncation, reason = "the halves of it")]
        let (upper, lower) = ((product >> 64) as u64, product as u64);
        self.0 = upper ^ lower;
    }
}

impl Hasher for EndHasher {
    fn write(&mut self, bytes: &[u8]) {
        let end = bytes.last_chunk::<HASHED_BYTES>().map_or(bytes, |end| end);
        let (words, rest) = end.as_chunks();
        words.iter().for_each(|word| self.mix(*word));
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.mix(word);
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

    fn places_taken(cache: &Cache) -> usize {
        cache.places.iter().filter(|place| place.lock().is_ok_and(|place| place.taken.is_some())).count()
    }

    #[test]
    fn a_place_is_for_one_token_that_comes_twice_in_a_row_and_for_a_minute() {
        let cache = Cache::new();
        let token = |start: &str| start.to_owned() + &"x".repeat(2 * HASHED_BYTES);
        let claims = br#"{"iss":"https://issuer.test","aud":"https://api.test","exp":1800000600,"sub":"u"}"#;
        let verified = Arc::new(crate::token::fuzzing::facts(claims).expect("a good token"));
        let facts = |generation| Entry { token: Arc::clone(&verified), keys_generation: generation };
        // Both have the same place.
        for (text, generation) in [("a", 1), ("b", 2)] {
            cache.table.insert(token(text).as_bytes().into(), facts(generation));
        }
        let get = |text: &str, now| cache.get(token(text).as_bytes(), now).map(|entry| entry.keys_generation);
        assert_eq!((get("a", 0), places_taken(&cache)), (Some(1), 0));
        assert_eq!((get("a", 0), places_taken(&cache)), (Some(1), 1));
        assert_eq!((get("b", 0), get("c", 0)), (Some(2), None));
        // The place goes on with what it has; then the table is asked, which may have another answer or none.
        cache.table.insert(token("b").as_bytes().into(), facts(3));
        assert_eq!((get("b", PLACE_SECONDS - 1), get("b", PLACE_SECONDS)), (Some(2), Some(3)));
        // Verified once more, it is known as it is now.
        cache.insert(&token("b"), Arc::clone(&verified), 4);
        assert_eq!((get("b", PLACE_SECONDS), get("b", PLACE_SECONDS), places_taken(&cache)), (Some(4), Some(4), 1));
        cache.table.invalidate(token("b").as_bytes());
        assert_eq!((get("b", PLACE_SECONDS), places_taken(&cache)), (Some(4), 1));
        assert_eq!((get("b", 2 * PLACE_SECONDS), places_taken(&cache)), (None, 0));
    }
}
