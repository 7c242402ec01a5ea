//! Tokens that have ended, for clients that go on with one: refusing it again shall cost no more than admitting a good one.
//! What is kept is when a token ends, which its text alone tells; whether that is past is judged anew for every request.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard};

use super::cache::ByEnd;
use crate::clock::UnixSeconds;

/// Tokens that are kept at most. A power of two.
const PLACES: usize = 512;
/// Longest token that is kept.
const TOKEN_BYTES: usize = 4096;

/// A place for each hash. Nobody waits for one: whoever finds it taken reads the token once more.
pub(super) struct Ended {
    places: Box<[Mutex<Place>]>,
    hashes: ByEnd,
}

#[derive(Default)]
struct Place {
    /// Hash of the token that came last. Only one that comes twice in a row is kept, so that tokens that come once each
    /// cost no copy and push out nothing.
    last: u64,
    kept: Option<Kept>,
}

/// The end is that of `issuer` (in the plan), whose leeway it includes.
struct Kept {
    text: Box<str>,
    issuer: usize,
    until: UnixSeconds,
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ended")
    }
}

impl Ended {
    pub(super) fn new() -> Self {
        Self { places: (0..PLACES).map(|_| Mutex::default()).collect(), hashes: ByEnd::default() }
    }

    /// Whether `text` is known as a token of one of `accepted` that has ended.
    pub(super) fn knows(&self, text: &[u8], accepted: &[usize], now: UnixSeconds) -> bool {
        let place = self.place(self.hashes.hash_one(text));
        let kept = place.as_ref().and_then(|place| place.kept.as_ref());
        kept.is_some_and(|kept| now >= kept.until && kept.text.as_bytes() == text && accepted.contains(&kept.issuer))
    }

    pub(super) fn note(&self, text: &str, issuer: usize, until: UnixSeconds) {
        let hash = self.hashes.hash_one(text.as_bytes());
        let Some(mut place) = self.place(hash) else { return };
        if std::mem::replace(&mut place.last, hash) == hash && text.len() <= TOKEN_BYTES {
            place.kept = Some(Kept { text: text.into(), issuer, until });
        }
    }

    fn place(&self, hash: u64) -> Option<MutexGuard<'_, Place>> {
        #[expect(clippy::cast_possible_truncation, reason = "the last bits are as good as any")]
        self.places[hash as usize % PLACES].try_lock().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: UnixSeconds = 1000;

    fn twice(ended: &Ended, text: &str) {
        ended.note(text, 1, UNTIL);
        ended.note(text, 1, UNTIL);
    }

    #[test]
    fn class_38_an_end_is_a_fact_of_one_text_and_one_issuer_and_judged_by_the_clock() {
        let ended = Ended::new();
        let text = |start: &str| start.to_owned() + &"x".repeat(64);
        twice(&ended, &text("a.b."));
        assert!(ended.knows(text("a.b.").as_bytes(), &[0, 1], UNTIL));
        // A clock that was set back brings the token back; another issuer's is read once more.
        assert!(!ended.knows(text("a.b.").as_bytes(), &[1], UNTIL - 1));
        assert!(!ended.knows(text("a.b.").as_bytes(), &[0, 2], UNTIL));
        // The same place, and another token.
        assert!(!ended.knows(text("a.c.").as_bytes(), &[1], UNTIL));
    }

    #[test]
    fn x9_tokens_that_come_once_take_no_room_and_push_out_none() {
        let ended = Ended::new();
        twice(&ended, "kept");
        for n in 0..20 * PLACES {
            ended.note(&n.to_string(), 1, UNTIL);
        }
        assert!(ended.knows(b"kept", &[1], UNTIL));
        let long = "y".repeat(TOKEN_BYTES + 1);
        twice(&ended, &long);
        assert!(!ended.knows(long.as_bytes(), &[1], UNTIL));
        let kept = ended.places.iter().filter(|place| place.lock().is_ok_and(|place| place.kept.is_some())).count();
        assert_eq!(kept, 1);
    }
}
