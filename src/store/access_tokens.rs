//! What the gateway's request path asks about access tokens of the embedded server: the facts of an opaque one, and it
//! tells which tokens it saw, because a refresh token whose successors were never used may still be used again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};

use super::tx::Table;
use super::{Digest, GrantId, Store, StoreError};
use crate::clock::UnixSeconds;

/// How opaque access tokens begin, so that scanners for leaked secrets know them.
pub const OPAQUE_PREFIX: &str = "tga_";
/// How refresh tokens begin.
pub const REFRESH_PREFIX: &str = "tgr_";
/// How authorization codes begin.
pub const CODE_PREFIX: &str = "tgc_";

/// Whether the embedded server issued `text`, if anybody did.
pub fn is_own_token(text: &str) -> bool {
    [OPAQUE_PREFIX, REFRESH_PREFIX, CODE_PREFIX].iter().any(|prefix| text.starts_with(prefix))
}

/// An opaque access token: the claims a JWT in its place would have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpaqueToken {
    pub jti: String,
    pub grant: Option<GrantId>,
    pub expires: UnixSeconds,
    pub claims: serde_json::Map<String, serde_json::Value>,
}

/// An access token that was issued under a grant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct GrantToken {
    pub(super) expires: UnixSeconds,
    pub(super) used: bool,
    /// Whether it came from a rotation, so that its first use matters.
    pub(super) watched: bool,
    /// Of an opaque one.
    pub(super) digest: Option<Digest>,
}

/// The access tokens that came from a rotation, and which of them were seen.
#[derive(Debug, Default)]
pub struct TokenUse {
    /// How many were not seen yet.
    unseen: AtomicUsize,
    by_jti: RwLock<HashMap<Box<str>, Watched>>,
}

#[derive(Debug)]
struct Watched {
    grant: GrantId,
    expires: UnixSeconds,
    seen: bool,
}

impl TokenUse {
    pub(super) fn watch(&self, jti: &str, grant: GrantId, expires: UnixSeconds) {
        let watched = Watched { grant, expires, seen: false };
        let mut by_jti = self.change();
        if by_jti.insert(jti.into(), watched).is_none_or(|old| old.seen) {
            self.unseen.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The grant of a token that is seen for the first time.
    fn mark_seen(&self, jti: &str) -> Option<GrantId> {
        let none_unseen = self.unseen.load(Ordering::Acquire) == 0;
        if none_unseen || self.read().get(jti).is_none_or(|watched| watched.seen) {
            return None;
        }
        let mut by_jti = self.change();
        let watched = by_jti.get_mut(jti).filter(|watched| !watched.seen)?;
        watched.seen = true;
        self.unseen.fetch_sub(1, Ordering::AcqRel);
        Some(watched.grant.clone())
    }

    pub(super) fn was_seen(&self, jti: &str) -> bool {
        self.read().get(jti).is_some_and(|watched| watched.seen)
    }

    pub(super) fn forget_expired(&self, now: UnixSeconds) {
        let mut by_jti = self.change();
        by_jti.retain(|_, watched| watched.expires > now);
        self.unseen.store(by_jti.values().filter(|watched| !watched.seen).count(), Ordering::Release);
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Box<str>, Watched>> {
        self.by_jti.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counter is changed under this lock.
    fn change(&self) -> RwLockWriteGuard<'_, HashMap<Box<str>, Watched>> {
        self.by_jti.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opaque tokens that one transaction removes.
const FORGOTTEN_AT_ONCE: usize = 500;

impl Store {
    /// The facts of an opaque access token that has neither expired nor been revoked.
    pub async fn opaque_token(&self, token: &str) -> Result<Option<OpaqueToken>, StoreError> {
        let digest = Digest::of(token);
        let found: Option<OpaqueToken> = self.read(|tx| tx.get(Table::OpaqueTokens, digest.as_bytes()))?;
        Ok(found.filter(|token| !self.0.live.revocations.is_revoked(&token.jti) && !self.is_ended(&token.claims)))
    }

    /// Ends every opaque access token.
    pub async fn forget_opaque_tokens(&self) -> Result<(), StoreError> {
        loop {
            let removed = self.write(|tx| {
                let rows = tx.scan::<OpaqueToken>(Table::OpaqueTokens, b"", FORGOTTEN_AT_ONCE)?;
                for (key, _) in &rows {
                    tx.delete(Table::OpaqueTokens, key);
                }
                Ok(rows.len())
            });
            if removed.await? < FORGOTTEN_AT_ONCE {
                return Ok(());
            }
        }
    }

    /// To be called when an access token of the embedded server was verified; once for each token is enough. Costs one
    /// atomic load when no token is watched.
    pub fn access_token_seen(&self, jti: &str) {
        let Some(grant) = self.0.live.token_use.mark_seen(jti) else { return };
        let jti = jti.to_owned();
        // What does not find room in the queue is still known until a restart.
        let _ = self.write_later(move |tx| {
            let key = grant_token_key(&grant, &jti);
            if let Some(mut token) = tx.get::<GrantToken>(Table::GrantTokens, &key)? {
                token.used = true;
                tx.put(Table::GrantTokens, &key, &token, token.expires)?;
            }
            Ok(())
        });
    }

    /// Whether `once` (the digest of an assertion) was not used before; it is now, until the assertion has expired.
    pub async fn use_assertion(&self, once: Vec<u8>, expires: UnixSeconds) -> Result<bool, StoreError> {
        self.write(move |tx| {
            if tx.get::<bool>(Table::Assertions, &once)?.is_some() {
                return Ok(false);
            }
            tx.put(Table::Assertions, &once, &true, expires)?;
            Ok(true)
        })
        .await
    }

    pub(super) fn load_watched_tokens(&self) -> Result<(), StoreError> {
        let rows = self.read(|tx| tx.scan::<GrantToken>(Table::GrantTokens, b"", usize::MAX))?;
        for (key, token) in rows.into_iter().filter(|(_, token)| token.watched && !token.used) {
            if let Some((grant, jti)) = split_grant_token_key(&key) {
                self.0.live.token_use.watch(jti, grant, token.expires);
            }
        }
        Ok(())
    }
}

pub(super) fn grant_token_key(grant: &GrantId, jti: &str) -> Vec<u8> {
    format!("{}.{jti}", grant.as_str()).into_bytes()
}

fn split_grant_token_key(key: &[u8]) -> Option<(GrantId, &str)> {
    let (grant, jti) = std::str::from_utf8(key).ok()?.split_once('.')?;
    Some((serde_json::from_value(grant.into()).ok()?, jti))
}
