//! The keys of one issuer, as they are now: swapped as a whole, never edited. Who fetches them asks nothing of a request;
//! a request with an unknown `kid` asks for one refresh and waits a bounded while for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use moka::sync::Cache;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Refusal;
use crate::jose::KeySet;
use crate::telemetry::metrics::KeyMetrics;

/// Longest wait of a request for keys that are being fetched.
const WAIT: Duration = Duration::from_secs(5);
/// `kid`s that are remembered as unknown.
const UNKNOWN: u64 = 1000;

/// Keys that somebody else keeps current: the embedded authorization server.
pub trait SharedKeys: std::fmt::Debug + Send + Sync {
    fn current(&self) -> Arc<KeySet>;

    /// Changes whenever the keys do.
    fn generation(&self) -> u64;
}

/// The current keys of an issuer and the means to ask for newer ones.
#[derive(Debug)]
pub struct KeyRing {
    keys: ArcSwap<KeySet>,
    shared: Option<Box<dyn SharedKeys>>,
    /// Changes whenever a key went away; what was verified before must be verified again.
    generation: AtomicU64,
    pub(super) state: watch::Sender<JwksState>,
    /// How a fetch is asked for, where there is one to ask.
    remote: Option<Remote>,
    pub(super) metrics: KeyMetrics,
}

#[derive(Debug)]
struct Remote {
    /// What a fetch did not bring lately: no reason for another one.
    unknown: Cache<Box<str>, ()>,
}

/// How far the keys are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JwksState {
    /// Fetches that ended, well or not.
    pub attempts: u64,
    /// Whether keys were had at least once.
    pub loaded: bool,
    /// When the keys were last found to be current.
    pub fresh: Option<Instant>,
    /// Whether the issuer could not be reached the last time.
    pub(super) unreachable: bool,
    /// A request waits for keys: the fetch that is under way will do, or else one is to begin.
    pub(super) wanted: bool,
    /// The moment before which no request causes a refresh.
    pub(super) cooling_until: Option<Instant>,
}

impl JwksState {
    fn is_cooling(&self) -> bool {
        self.cooling_until.is_some_and(|until| Instant::now() < until)
    }
}

impl KeyRing {
    /// Keys that are known from the start and change only by `replace`.
    pub fn fixed(keys: KeySet, metrics: KeyMetrics) -> Self {
        let state = JwksState { loaded: true, fresh: Some(Instant::now()), ..JwksState::default() };
        Self { state: watch::Sender::new(state), ..Self::empty(keys, metrics) }
    }

    /// Keys that change under somebody else's hands.
    pub fn shared(keys: Box<dyn SharedKeys>, metrics: KeyMetrics) -> Self {
        Self { shared: Some(keys), ..Self::fixed(KeySet::default(), metrics) }
    }

    /// Keys that are to be fetched, at most once per `cooldown` because of an unknown `kid`.
    pub fn fetched(cooldown: Duration, metrics: KeyMetrics) -> Self {
        // Twice as long: a new key that was not published everywhere yet is not locked out for long.
        let unknown = Cache::builder().max_capacity(UNKNOWN).time_to_live(cooldown * 2).build();
        Self { remote: Some(Remote { unknown }), ..Self::empty(KeySet::default(), metrics) }
    }

    fn empty(keys: KeySet, metrics: KeyMetrics) -> Self {
        metrics.keys.set(i64::try_from(keys.len()).unwrap_or(i64::MAX));
        Self {
            keys: ArcSwap::from_pointee(keys),
            shared: None,
            generation: AtomicU64::new(0),
            state: watch::Sender::default(),
            remote: None,
            metrics,
        }
    }

    pub fn current(&self) -> Arc<KeySet> {
        self.shared.as_ref().map_or_else(|| self.keys.load_full(), |shared| shared.current())
    }

    pub fn generation(&self) -> u64 {
        self.shared.as_ref().map_or_else(|| self.generation.load(Ordering::Acquire), |shared| shared.generation())
    }

    pub fn state(&self) -> JwksState {
        *self.state.borrow()
    }

    /// How long ago the keys were last found to be current; none before that, and where nobody looks.
    pub fn age(&self) -> Option<Duration> {
        if self.shared.is_some() { None } else { self.state().fresh.map(|fresh| fresh.elapsed()) }
    }

    /// Swaps the keys. Tokens that a key verified which is gone now are verified again.
    pub fn replace(&self, keys: KeySet) {
        self.metrics.keys.set(i64::try_from(keys.len()).unwrap_or(i64::MAX));
        let old = self.keys.swap(Arc::new(keys));
        if !old.is_subset(&self.current()) {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Asks for a refresh because of an unknown `kid`, unless one was just made, and waits for it. True when keys may have
    /// changed; `Unavailable` when there never were any or the issuer could not be asked.
    pub(super) async fn refreshed(&self, kid: Option<&str>) -> Result<bool, Refusal> {
        let Some(Remote { unknown }) = &self.remote else { return Ok(false) };
        let is_known_to_be_unknown = kid.is_some_and(|kid| unknown.contains_key(kid));
        let mut state = self.state.subscribe();
        let mut before = JwksState::default();
        // One step, so that no wish slips in between the end of a fetch and the cool-down after it.
        self.state.send_if_modified(|state| {
            before = *state;
            let wanted = !state.is_cooling() && ((kid.is_some() && !is_known_to_be_unknown) || !state.loaded);
            let first = wanted && !state.wanted;
            state.wanted |= wanted;
            first
        });
        if before.loaded && kid.is_some() {
            self.metrics.unknown.inc();
        }
        if before.loaded && (kid.is_none() || is_known_to_be_unknown) {
            return Ok(false);
        }
        if before.loaded && before.is_cooling() {
            return if before.unreachable { Err(Refusal::Unavailable) } else { Ok(false) };
        }
        let ended = state.wait_for(|now| now.attempts > before.attempts);
        let now = match tokio::time::timeout(WAIT, ended).await {
            Ok(Ok(now)) => *now,
            _ => return Err(Refusal::Unavailable),
        };
        if now.loaded && !now.unreachable { Ok(true) } else { Err(Refusal::Unavailable) }
    }

    /// Notes a `kid` that a fetch for its sake did not bring.
    pub(super) fn remember_unknown(&self, kid: Option<&str>) {
        if let (Some(remote), Some(kid)) = (&self.remote, kid) {
            remote.unknown.insert(kid.into(), ());
        }
    }
}
