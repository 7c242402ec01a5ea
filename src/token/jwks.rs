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
use crate::net::fetch::{FetchError, Fetcher};

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
    /// Whether `keep_fresh` brings them.
    fetched: bool,
}

/// How far the keys are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JwksState {
    /// Fetches that ended, well or not.
    pub attempts: u64,
    /// Whether keys were had at least once.
    pub loaded: bool,
    /// Whether the issuer could not be reached the last time.
    unreachable: bool,
    /// A request waits for keys: the fetch that is under way will do, or else one is to begin.
    wanted: bool,
    /// The moment before which no request causes a refresh.
    cooling_until: Option<Instant>,
}

impl JwksState {
    fn is_cooling(&self) -> bool {
        self.cooling_until.is_some_and(|until| Instant::now() < until)
    }
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
            fetched: false,
        }
    }

    /// Keys that change under somebody else's hands.
    pub fn shared(keys: Box<dyn SharedKeys>) -> Self {
        Self { shared: Some(keys), ..Self::fixed(KeySet::default()) }
    }

    /// Keys that `keep_fresh` will bring.
    pub fn fetched() -> Self {
        let state = watch::Sender::new(JwksState::default());
        Self { fetched: true, state, ..Self::fixed(KeySet::default()) }
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
    /// changed; `Unavailable` when there never were any or the issuer could not be asked.
    pub(super) async fn refreshed(&self, kid: Option<&str>) -> Result<bool, Refusal> {
        if !self.fetched {
            return Ok(false);
        }
        let mut state = self.state.subscribe();
        let mut before = JwksState::default();
        // One step, so that no wish slips in between the end of a fetch and the cool-down after it.
        self.state.send_if_modified(|state| {
            before = *state;
            let wanted = !state.is_cooling() && (kid.is_some() || !state.loaded);
            let first = wanted && !state.wanted;
            state.wanted |= wanted;
            first
        });
        if before.loaded && kid.is_none() {
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

    /// Fetches the keys now, then at the issuer's interval and when a request asks. Runs until dropped.
    pub async fn keep_fresh(self: Arc<Self>, settings: IssuerSettings, fetcher: Fetcher, fetches: IntCounterVec) {
        let KeySource::Url { url, refresh, cooldown, .. } = &settings.keys else { return };
        let mut state = self.state.subscribe();
        let mut pause = RETRY;
        loop {
            let fetched = fetcher.get(url, MAX_BYTES).await;
            let unreachable = fetched.as_ref().is_err_and(is_unreachable);
            let parsed = fetched.map_err(|error| error.to_string()).and_then(|body| {
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
                    self.state.send_modify(|state| {
                        if state.wanted && state.loaded {
                            state.cooling_until = Some(Instant::now() + *cooldown);
                        }
                        (state.loaded, state.unreachable, state.wanted) = (true, false, false);
                        state.attempts += 1;
                    });
                    pause = RETRY;
                    *refresh
                }
                Err(error) => {
                    warn!(event = "jwks.failed", issuer = &*settings.name, url = url.as_str(), error);
                    fetches.with_label_values(&[&*settings.name, "failure"]).inc();
                    let cooldown = *cooldown.min(&pause);
                    self.state.send_modify(|state| {
                        state.cooling_until = Some(Instant::now() + cooldown);
                        (state.unreachable, state.wanted) = (unreachable, false);
                        state.attempts += 1;
                    });
                    pause = (pause * 2).min(*refresh);
                    pause
                }
            };
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                wanted = state.wait_for(|state| state.wanted) => if wanted.is_err() { return },
            }
        }
    }
}

/// Whether the issuer did not answer, or said that it is in trouble, rather than publishing something unfit.
fn is_unreachable(error: &FetchError) -> bool {
    match error {
        FetchError::Status(status) => status.is_server_error(),
        FetchError::Io(_) | FetchError::Http(_) | FetchError::Tls(_) | FetchError::Body(_) | FetchError::Timeout => {
            true
        }
        FetchError::Request(_) => false,
    }
}
