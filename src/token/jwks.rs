//! The keys of one issuer, as they are now: swapped as a whole, never edited. Who fetches them asks nothing of a request;
//! a request with an unknown `kid` asks for one refresh and waits a bounded while for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::IntCounterVec;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{IssuerSettings, KeySource, Refusal};
use crate::jose::KeySet;
use crate::net::fetch::Fetcher;

/// Longest wait of a request for keys that are being fetched.
const WAIT: Duration = Duration::from_secs(5);
/// Largest JWK set that is read.
const MAX_BYTES: usize = 256 * 1024;
/// First pause after a failed fetch; it doubles up to the issuer's refresh interval.
const RETRY: Duration = Duration::from_secs(1);

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
    state: watch::Sender<JwksState>,
    /// Requests for a refresh, when the keys come from a URL.
    wanted: Option<watch::Sender<u64>>,
}

/// How far the keys are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JwksState {
    /// Fetches that ended, well or not.
    pub attempts: u64,
    /// Whether keys were had at least once.
    pub loaded: bool,
    /// The last unknown-kid refresh, as a moment before which no other is made.
    pub cooling_until: Option<Instant>,
}

impl KeyRing {
    /// Keys that are known from the start and change only by `replace`.
    pub fn fixed(keys: KeySet) -> Self {
        let state = JwksState { loaded: true, ..JwksState::default() };
        Self {
            keys: ArcSwap::from_pointee(keys),
            shared: None,
            generation: AtomicU64::new(0),
            state: watch::Sender::new(state),
            wanted: None,
        }
    }

    /// Keys that change under somebody else's hands.
    pub fn shared(keys: Box<dyn SharedKeys>) -> Self {
        Self { shared: Some(keys), ..Self::fixed(KeySet::default()) }
    }

    /// Keys that `keep_fresh` will bring.
    pub fn fetched() -> Self {
        let state = watch::Sender::new(JwksState::default());
        let wanted = Some(watch::Sender::new(0));
        Self { wanted, state, ..Self::fixed(KeySet::default()) }
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

    /// Swaps the keys. Tokens that a key verified which is gone now are verified again.
    pub fn replace(&self, keys: KeySet) {
        let old = self.keys.swap(Arc::new(keys));
        if !old.is_subset(&self.current()) {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Asks for a refresh because of an unknown `kid`, unless one was just made, and waits for it. True when keys may have
    /// changed; `Unavailable` when there never were any.
    pub(super) async fn refreshed(&self, kid: Option<&str>) -> Result<bool, Refusal> {
        let Some(wanted) = &self.wanted else { return Ok(false) };
        let before = self.state();
        let cooling = before.cooling_until.is_some_and(|until| Instant::now() < until);
        if before.loaded && (cooling || kid.is_none()) {
            return Ok(false);
        }
        let mut state = self.state.subscribe();
        if !cooling {
            wanted.send_modify(|count| *count += 1);
        }
        let ended = state.wait_for(|now| now.attempts > before.attempts);
        let waited = tokio::time::timeout(WAIT, ended).await.is_ok();
        if self.state().loaded { Ok(waited) } else { Err(Refusal::Unavailable) }
    }

    /// Fetches the keys now, then at the issuer's interval and when a request asks. Runs until dropped.
    pub async fn keep_fresh(self: Arc<Self>, settings: IssuerSettings, fetcher: Fetcher, fetches: IntCounterVec) {
        let KeySource::Url { url, refresh, cooldown, .. } = &settings.keys else { return };
        let mut wanted = match &self.wanted {
            Some(wanted) => wanted.subscribe(),
            None => return,
        };
        let mut pause = RETRY;
        loop {
            let asked = wanted.borrow_and_update().to_owned() > 0 && self.state().loaded;
            let fetched = fetcher.get(url, MAX_BYTES).await.map_err(|error| error.to_string());
            let parsed = fetched.and_then(|body| {
                let (keys, left_out) = KeySet::parse(&body, &settings.algorithms).map_err(|error| error.to_string())?;
                if keys.is_empty() {
                    Err(format!("no usable key: {}", left_out.join("; ")))
                } else {
                    Ok((keys, left_out))
                }
            });
            let next = match parsed {
                Ok((keys, left_out)) => {
                    for reason in &left_out {
                        warn!(event = "jwks.key_left_out", issuer = &*settings.name, reason);
                    }
                    info!(event = "jwks.fetched", issuer = &*settings.name, keys = keys.len());
                    fetches.with_label_values(&[&*settings.name, "success"]).inc();
                    self.replace(keys);
                    self.ended(true, asked.then_some(*cooldown));
                    pause = RETRY;
                    *refresh
                }
                Err(error) => {
                    warn!(event = "jwks.failed", issuer = &*settings.name, url = url.as_str(), error);
                    fetches.with_label_values(&[&*settings.name, "failure"]).inc();
                    self.ended(false, Some(*cooldown.min(&pause)));
                    pause = (pause * 2).min(*refresh);
                    pause
                }
            };
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    }

    fn ended(&self, loaded: bool, cooldown: Option<Duration>) {
        self.state.send_modify(|state| {
            state.attempts += 1;
            state.loaded |= loaded;
            if let Some(cooldown) = cooldown {
                state.cooling_until = Some(Instant::now() + cooldown);
            }
        });
    }
}
