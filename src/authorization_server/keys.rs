//! The server's signing keys and their life: published before they sign (pending), signing (active), published until the
//! last token they signed has expired (retired), removed.
//!
//! What should change is decided by a pure function over the stored keys and the time; it is applied in one transaction,
//! then the ring in memory and the published set are replaced. Private parts never leave the store but to sign.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use super::StartError;
use crate::clock::{Clock, UnixSeconds};
use crate::jose::{Algorithm, KeySet, SigningError, SigningKey};
use crate::store::{KeyState, Store, StoreError, StoredKey};

/// How long verifiers may keep the published set.
pub(super) const JWKS_MAX_AGE: Duration = Duration::from_secs(300);
/// How long a key is published before it signs, at most.
const PREPUBLISH: Duration = Duration::from_secs(24 * 3600);
/// Clocks that differ, and requests under way.
const MARGIN: Duration = Duration::from_secs(300);

/// What verifiers of the server's tokens need: loaded at every use, replaced when keys change.
#[derive(Debug)]
pub struct PublicKeys(ArcSwap<PublishedKeys>);

#[derive(Debug)]
pub struct PublishedKeys {
    /// Grows with every change.
    pub generation: u64,
    /// The JWK set, as it is published.
    pub jwks: Value,
    /// The same, parsed once.
    pub keys: Arc<KeySet>,
}

impl PublishedKeys {
    fn new(generation: u64, jwks: Value) -> Result<Self, KeyError> {
        let (keys, _) = KeySet::parse(jwks.to_string().as_bytes(), &Algorithm::ALL)
            .map_err(|error| StoreError::Record(error.to_string()))?;
        Ok(Self { generation, jwks, keys: Arc::new(keys) })
    }
}

impl PublicKeys {
    /// The keys of this moment.
    pub fn current(&self) -> Arc<PublishedKeys> {
        self.0.load_full()
    }
}

/// One key, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct KeyInfo {
    pub kid: String,
    pub algorithm: String,
    pub state: KeyState,
    pub created: UnixSeconds,
    /// Since when it is in this state.
    pub since: UnixSeconds,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a signing key: {0}")]
    Key(#[from] SigningError),
}

/// When keys change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) algorithm: Algorithm,
    pub(super) rotation: Duration,
    /// The longest lifetime of an access token.
    pub(super) longest_token: Duration,
}

impl Policy {
    fn prepublish(&self) -> u64 {
        PREPUBLISH.min(self.rotation / 2).as_secs()
    }

    fn retention(&self) -> u64 {
        (self.longest_token + MARGIN).as_secs()
    }
}

#[derive(Debug)]
pub(super) struct Keys {
    store: Store,
    clock: Clock,
    policy: ArcSwap<Policy>,
    ring: ArcSwap<Ring>,
    published: Arc<PublicKeys>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Ring {
    active: Arc<SigningKey>,
    /// Every key, parsed once.
    parsed: HashMap<String, Arc<SigningKey>>,
    stored: Vec<StoredKey>,
}

impl Keys {
    pub(super) async fn open(store: Store, clock: Clock, policy: Policy) -> Result<Self, StartError> {
        let stored = change(&store, &clock, &policy, store.signing_keys().await?, Wish::None).await?;
        let ring = Ring::load(stored, &HashMap::new())?;
        let published = PublicKeys(ArcSwap::from_pointee(PublishedKeys::new(1, ring.jwks())?));
        Ok(Self {
            store,
            clock,
            policy: ArcSwap::from_pointee(policy),
            ring: ArcSwap::from_pointee(ring),
            published: Arc::new(published),
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// The key that signs now.
    pub(super) fn active(&self) -> Arc<SigningKey> {
        self.ring.load().active.clone()
    }

    pub(super) fn longest_token(&self) -> Duration {
        self.policy.load().longest_token
    }

    pub(super) fn published(&self) -> Arc<PublicKeys> {
        self.published.clone()
    }

    pub(super) fn list(&self) -> Vec<KeyInfo> {
        let info = |key: &StoredKey| KeyInfo {
            kid: key.kid.clone(),
            algorithm: key.algorithm.clone(),
            state: key.state,
            created: key.created,
            since: key.since,
        };
        self.ring.load().stored.iter().map(info).collect()
    }

    /// Brings the keys to where they should be at this time.
    pub(super) async fn maintain(&self) -> Result<(), KeyError> {
        self.change(Wish::None).await
    }

    /// Publishes a new key that takes over when verifiers know it, or at once with `now`. `revoke_old` then removes the
    /// old ones, and with them every token they signed.
    pub(super) async fn rotate(&self, now: bool, revoke_old: bool) -> Result<(), KeyError> {
        self.change(if now { Wish::Now { revoke_old } } else { Wish::Announce }).await
    }

    pub(super) async fn set_policy(&self, policy: Policy) -> Result<(), KeyError> {
        self.policy.store(Arc::new(policy));
        self.maintain().await
    }

    async fn change(&self, wish: Wish) -> Result<(), KeyError> {
        let _one_at_a_time = self.changing.lock().await;
        let before = self.ring.load_full();
        let stored = change(&self.store, &self.clock, &self.policy.load(), before.stored.clone(), wish).await?;
        if stored.iter().map(|key| (&key.kid, key.state)).eq(before.stored.iter().map(|key| (&key.kid, key.state))) {
            return Ok(());
        }
        let ring = Ring::load(stored, &before.parsed)?;
        let generation = self.published.current().generation + 1;
        // Verifiers first: a token must not come before its key.
        self.published.0.store(Arc::new(PublishedKeys::new(generation, ring.jwks())?));
        self.ring.store(Arc::new(ring));
        Ok(())
    }
}

impl Ring {
    fn load(stored: Vec<StoredKey>, known: &HashMap<String, Arc<SigningKey>>) -> Result<Self, KeyError> {
        let mut parsed = HashMap::new();
        for key in &stored {
            let signing = match known.get(&key.kid) {
                Some(signing) => signing.clone(),
                None => {
                    let algorithm = Algorithm::parse(&key.algorithm);
                    let (Some(algorithm), Some(der)) = (algorithm, key.pkcs8()) else {
                        return Err(StoreError::Record(format!("signing key {}", key.kid)).into());
                    };
                    Arc::new(SigningKey::from_pkcs8(algorithm, der.expose())?)
                }
            };
            parsed.insert(key.kid.clone(), signing);
        }
        let active = stored.iter().find(|key| key.state == KeyState::Active).and_then(|key| parsed.get(&key.kid));
        let active = active.cloned().ok_or_else(|| StoreError::Record("no active signing key".to_owned()))?;
        Ok(Self { active, parsed, stored })
    }

    /// The active key first, for verifiers that take the first.
    fn jwks(&self) -> Value {
        let mut keys: Vec<_> = self.stored.iter().collect();
        keys.sort_by_key(|key| match key.state {
            KeyState::Active => 0,
            KeyState::Pending => 1,
            KeyState::Retired => 2,
        });
        let keys: Vec<_> = keys.iter().filter_map(|key| Some(self.parsed.get(&key.kid)?.public_jwk())).collect();
        json!({ "keys": keys })
    }
}

/// What an operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    None,
    Announce,
    Now { revoke_old: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Makes a new key.
    Generate(KeyState),
    Move(String, KeyState),
    Remove(String),
}

async fn change(
    store: &Store,
    clock: &Clock,
    policy: &Policy,
    mut keys: Vec<StoredKey>,
    wish: Wish,
) -> Result<Vec<StoredKey>, KeyError> {
    let now = clock.now();
    let steps = decide(&keys, policy, wish, now);
    if steps.is_empty() {
        return Ok(keys);
    }
    let (mut put, mut remove) = (Vec::new(), Vec::new());
    for step in steps {
        let (change, kid) = match &step {
            Step::Generate(state) => (state.name(), None),
            Step::Move(kid, state) => (state.name(), Some(kid.as_str())),
            Step::Remove(kid) => ("removed", Some(kid.as_str())),
        };
        tracing::info!(target: "audit", event = "signing_key", change, kid);
        match step {
            Step::Generate(state) => {
                let algorithm = policy.algorithm;
                let made = tokio::task::spawn_blocking(move || SigningKey::generate(algorithm)).await;
                let key = made.map_err(|_| SigningError::Failed)??;
                let stored = StoredKey::new(key.kid(), algorithm.name(), state, now, &key.to_pkcs8()?);
                keys.push(stored.clone());
                put.push(stored);
            }
            Step::Move(kid, state) => {
                for key in keys.iter_mut().filter(|key| key.kid == kid) {
                    (key.state, key.since) = (state, now);
                    put.push(key.clone());
                }
            }
            Step::Remove(kid) => {
                keys.retain(|key| key.kid != kid);
                remove.push(kid);
            }
        }
    }
    store.change_signing_keys(put, remove).await?;
    Ok(keys)
}

/// The steps that are due. Exactly one key is active afterwards.
fn decide(keys: &[StoredKey], policy: &Policy, wish: Wish, now: UnixSeconds) -> Vec<Step> {
    let age = |key: &StoredKey| now.saturating_sub(key.since);
    let fits = |key: &&StoredKey| key.algorithm == policy.algorithm.name();
    let active = keys.iter().find(|key| key.state == KeyState::Active);
    let pending = keys.iter().filter(|key| key.state == KeyState::Pending).find(fits);
    let mut steps = Vec::new();

    let overdue = active.is_none_or(|key| !fits(&key));
    let announced = pending.is_some_and(|key| age(key) >= policy.prepublish());
    let old = active.is_some_and(|key| age(key) >= policy.rotation.as_secs());
    let revoke_old = wish == Wish::Now { revoke_old: true };
    if overdue || matches!(wish, Wish::Now { .. }) || announced {
        steps.push(match pending {
            Some(key) => Step::Move(key.kid.clone(), KeyState::Active),
            None => Step::Generate(KeyState::Active),
        });
        steps.extend(active.filter(|_| !revoke_old).map(|key| Step::Move(key.kid.clone(), KeyState::Retired)));
        steps.extend(active.filter(|_| revoke_old).map(|key| Step::Remove(key.kid.clone())));
    } else if pending.is_none() {
        let due = active.is_some_and(|key| age(key) + policy.prepublish() >= policy.rotation.as_secs());
        if old || due || wish == Wish::Announce {
            steps.push(Step::Generate(KeyState::Pending));
        }
    }
    for key in keys {
        let outlived = key.state == KeyState::Retired && age(key) >= policy.retention();
        let unfit = key.state == KeyState::Pending && !fits(&key);
        if outlived || unfit || (revoke_old && key.state == KeyState::Retired) {
            steps.push(Step::Remove(key.kid.clone()));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Settings;

    const DAY: u64 = 24 * 3600;

    async fn keys() -> (Keys, Store, Clock) {
        let clock = Clock::manual(1_000_000_000);
        let store = Store::open(&Settings::Memory, clock.clone()).unwrap();
        (Keys::open(store.clone(), clock.clone(), policy(Algorithm::Es256)).await.unwrap(), store, clock)
    }

    fn policy(algorithm: Algorithm) -> Policy {
        let (rotation, longest_token) = (Duration::from_secs(90 * DAY), Duration::from_secs(3600));
        Policy { algorithm, rotation, longest_token }
    }

    fn states(keys: &Keys) -> Vec<KeyState> {
        keys.list().into_iter().map(|key| key.state).collect()
    }

    fn kids(keys: &Keys) -> Vec<String> {
        let jwks = keys.published().current().jwks.clone();
        jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn j2_a_key_is_published_before_it_signs_and_after_it_signed() {
        use KeyState::{Active, Pending, Retired};
        let (keys, store, clock) = keys().await;
        let first = keys.active().kid().to_owned();
        keys.maintain().await.unwrap();
        assert_eq!((states(&keys), keys.published().current().generation), (vec![Active], 1));
        clock.advance(89 * DAY);
        keys.maintain().await.unwrap();
        assert_eq!(states(&keys), [Active, Pending]);
        assert_eq!((keys.active().kid(), kids(&keys).len()), (first.as_str(), 2));
        clock.advance(DAY - 1);
        keys.maintain().await.unwrap();
        assert_eq!(states(&keys), [Active, Pending]);
        clock.advance(1);
        keys.maintain().await.unwrap();
        assert_eq!(states(&keys), [Retired, Active]);
        assert_ne!(keys.active().kid(), first);
        assert!(kids(&keys).contains(&first));
        clock.advance(3600 + 299);
        keys.maintain().await.unwrap();
        assert!(kids(&keys).contains(&first));
        clock.advance(1);
        keys.maintain().await.unwrap();
        assert_eq!(kids(&keys), [keys.active().kid()]);
        let again = Keys::open(store, clock, policy(Algorithm::Es256)).await.unwrap();
        assert_eq!(again.active().kid(), keys.active().kid());
    }

    #[tokio::test]
    async fn j4_an_operator_can_announce_rotate_now_and_revoke() {
        use KeyState::{Active, Pending, Retired};
        let (keys, _, _) = keys().await;
        let first = keys.active().kid().to_owned();
        keys.rotate(false, false).await.unwrap();
        keys.rotate(false, false).await.unwrap();
        assert_eq!(states(&keys), [Active, Pending]);
        keys.rotate(true, false).await.unwrap();
        assert_eq!(states(&keys), [Retired, Active]);
        keys.rotate(true, true).await.unwrap();
        assert_eq!(states(&keys), [Active]);
        assert_ne!(keys.active().kid(), first);
        assert_eq!(kids(&keys).len(), 1);
    }

    #[tokio::test]
    async fn another_algorithm_takes_over_at_once_and_the_old_key_is_kept() {
        let (keys, _, _) = keys().await;
        keys.set_policy(policy(Algorithm::EdDsa)).await.unwrap();
        assert_eq!(states(&keys), [KeyState::Retired, KeyState::Active]);
        assert_eq!(keys.active().algorithm(), Algorithm::EdDsa);
    }
}
