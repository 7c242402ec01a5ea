//! The access tokens of the embedded server that are refused although they have not expired, in memory.
//!
//! Every request with a token asks, so the usual answer ("none at all") costs one atomic load. The entries are those of
//! the store: loaded when it opens, added when a revocation is committed, forgotten when the token has expired anyway.
//! Keyed by `jti`, not by the token's text: the same token can be spelled in more than one way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use super::tx::Table;
use super::{Store, StoreError};
use crate::clock::UnixSeconds;

#[derive(Debug, Default)]
pub struct Revocations {
    /// How many there are.
    count: AtomicUsize,
    by_jti: RwLock<HashMap<Box<str>, UnixSeconds>>,
}

impl Revocations {
    /// Whether the token with this `jti` was revoked.
    pub fn is_revoked(&self, jti: &str) -> bool {
        self.count.load(Ordering::Acquire) > 0
            && self.by_jti.read().unwrap_or_else(PoisonError::into_inner).contains_key(jti)
    }

    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn insert(&self, jti: &str, expires: UnixSeconds) {
        let mut by_jti = self.by_jti.write().unwrap_or_else(PoisonError::into_inner);
        by_jti.insert(jti.into(), expires);
        self.count.store(by_jti.len(), Ordering::Release);
    }

    pub(super) fn forget_expired(&self, now: UnixSeconds) {
        if self.is_empty() {
            return;
        }
        let mut by_jti = self.by_jti.write().unwrap_or_else(PoisonError::into_inner);
        by_jti.retain(|_, expires| *expires > now);
        self.count.store(by_jti.len(), Ordering::Release);
    }
}

/// How long a revocation outlives the token's `exp`: verifiers may allow for clocks that differ.
pub(super) const LEEWAY_SECONDS: u64 = 120;

impl Store {
    /// Refuses the access token `jti` from now until it expires by itself.
    pub async fn revoke_access_token(&self, jti: String, expires: UnixSeconds) -> Result<(), StoreError> {
        self.write(move |tx| revoke(tx, &jti, expires)).await
    }

    pub(super) fn load_revocations(&self) -> Result<(), StoreError> {
        let rows = self.read(|tx| tx.scan::<UnixSeconds>(Table::Revocations, b"", usize::MAX))?;
        for (jti, expires) in rows {
            self.0.live.revocations.insert(&String::from_utf8_lossy(&jti), expires);
        }
        Ok(())
    }
}

pub(super) fn revoke(tx: &mut super::tx::Tx<'_>, jti: &str, expires: UnixSeconds) -> Result<(), StoreError> {
    let until = expires.saturating_add(LEEWAY_SECONDS);
    if until > tx.now() {
        tx.put(Table::Revocations, jti.as_bytes(), &until, until)?;
        tx.changes.revoked.push((jti.to_owned(), until));
    }
    Ok(())
}
