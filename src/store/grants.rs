//! Grants and their families of refresh tokens (RFC 6749 section 6, RFC 9700 section 4.14.2).
//!
//! Every refresh gives a new refresh token and retires the one presented. A retired token works again only while neither
//! its successor nor the access token that came with it was used: then the answer that carried them was lost, and they
//! are replaced. In every other case its reuse means that two hold the family, and all of it is revoked.

use super::access_tokens::{GrantToken, grant_token_key};
use super::revocations::revoke;
use super::tx::{Table, Tx};
use super::{Digest, Grant, GrantId, OpaqueToken, RefreshToken, Store, StoreError};
use crate::clock::UnixSeconds;

/// Access tokens of one grant that are looked at when it is revoked. More than a busy client makes in their lifetime.
const TOKENS_PER_GRANT: usize = 10_000;

/// An access token about to be handed out.
#[derive(Clone, Debug)]
pub struct NewAccessToken {
    pub jti: String,
    pub expires: UnixSeconds,
    /// The digest and the claims of an opaque one.
    pub opaque: Option<(Digest, serde_json::Map<String, serde_json::Value>)>,
}

/// A refresh token about to be handed out.
#[derive(Clone, Copy, Debug)]
pub struct NewRefreshToken {
    pub digest: Digest,
    pub expires: UnixSeconds,
}

/// What became of a refresh token that was presented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    Rotated {
        /// Its successor had been handed out before and is void now.
        again: bool,
    },
    /// Never issued, expired, revoked, or of another client: nothing was changed.
    Invalid,
    /// Retired and presented again: the family is revoked by this.
    Reused(GrantId),
}

impl Store {
    /// Records a grant and the first tokens issued under it.
    pub async fn open_grant(
        &self,
        grant: Grant,
        access: NewAccessToken,
        refresh: Option<NewRefreshToken>,
    ) -> Result<(), StoreError> {
        self.write(move |tx| open(tx, &grant, &access, refresh)).await
    }

    /// Records an opaque access token that belongs to no grant.
    pub async fn record_access_token(&self, access: NewAccessToken) -> Result<(), StoreError> {
        self.write(move |tx| put_access_token(tx, None, &access, false)).await
    }

    /// A refresh token and its grant, whatever their state; None when expired or never issued.
    pub async fn refresh_token(&self, digest: Digest) -> Result<Option<(RefreshToken, Grant)>, StoreError> {
        self.read(|tx| find(tx, digest))
    }

    /// Retires the refresh token `presented` by `client` and puts another in its place, in one transaction.
    pub async fn rotate(
        &self,
        presented: Digest,
        client: String,
        access: NewAccessToken,
        refresh: NewRefreshToken,
    ) -> Result<Rotation, StoreError> {
        let live = self.0.live.clone();
        self.write(move |tx| {
            let Some((mut token, grant)) = find(tx, presented)? else { return Ok(Rotation::Invalid) };
            // The client comes before everything else: another one must not be able to revoke the family.
            if grant.client != client || grant.revoked {
                return Ok(Rotation::Invalid);
            }
            if token.superseded {
                revoke_grant(tx, &grant)?;
                return Ok(Rotation::Reused(grant.id));
            }
            let mut again = false;
            if let Some(next) = token.next {
                let successor: Option<RefreshToken> = tx.get(Table::RefreshTokens, next.as_bytes())?;
                let unused = match &successor {
                    Some(next) => {
                        let row: Option<GrantToken> =
                            tx.get(Table::GrantTokens, &grant_token_key(&grant.id, &next.access_jti))?;
                        // The row is written a moment after the gateway saw the token; the view in memory knows at once.
                        let seen = live.token_use.was_seen(&next.access_jti) || row.is_some_and(|row| row.used);
                        next.next.is_none() && !seen
                    }
                    None => false,
                };
                let Some(mut successor) = successor.filter(|_| unused) else {
                    revoke_grant(tx, &grant)?;
                    return Ok(Rotation::Reused(grant.id));
                };
                successor.superseded = true;
                tx.put(Table::RefreshTokens, next.as_bytes(), &successor, successor.expires)?;
                revoke_token_of(tx, &grant.id, &successor.access_jti)?;
                again = true;
            }
            let expires = refresh.expires.min(grant.expires);
            let successor = RefreshToken {
                grant: grant.id.clone(),
                sequence: token.sequence.saturating_add(1),
                previous: Some(presented),
                next: None,
                superseded: false,
                used_at: None,
                access_jti: access.jti.clone(),
                expires,
            };
            token.next = Some(refresh.digest);
            token.used_at = Some(tx.now());
            tx.put(Table::RefreshTokens, presented.as_bytes(), &token, token.expires)?;
            tx.put(Table::RefreshTokens, refresh.digest.as_bytes(), &successor, expires)?;
            put_access_token(tx, Some(&grant.id), &access, true)?;
            Ok(Rotation::Rotated { again })
        })
        .await
    }

    /// Revokes a grant with every token issued under it; whether there was anything to revoke.
    pub async fn revoke_grant(&self, id: GrantId) -> Result<bool, StoreError> {
        self.write(move |tx| match tx.get::<Grant>(Table::Grants, id.as_str().as_bytes())? {
            Some(grant) if !grant.revoked => revoke_grant(tx, &grant).map(|()| true),
            _ => Ok(false),
        })
        .await
    }
}

pub(super) fn open(
    tx: &mut Tx<'_>,
    grant: &Grant,
    access: &NewAccessToken,
    refresh: Option<NewRefreshToken>,
) -> Result<(), StoreError> {
    tx.put(Table::Grants, grant.id.as_str().as_bytes(), grant, grant.expires)?;
    if let Some(refresh) = refresh {
        let expires = refresh.expires.min(grant.expires);
        let token = RefreshToken {
            grant: grant.id.clone(),
            sequence: 0,
            previous: None,
            next: None,
            superseded: false,
            used_at: None,
            access_jti: access.jti.clone(),
            expires,
        };
        tx.put(Table::RefreshTokens, refresh.digest.as_bytes(), &token, expires)?;
    }
    put_access_token(tx, Some(&grant.id), access, false)
}

/// Revokes the grant, and every access token under it that is still alive.
pub(super) fn revoke_grant(tx: &mut Tx<'_>, grant: &Grant) -> Result<(), StoreError> {
    let revoked = Grant { revoked: true, ..grant.clone() };
    tx.put(Table::Grants, grant.id.as_str().as_bytes(), &revoked, grant.expires)?;
    let prefix = grant_token_key(&grant.id, "");
    for (jti, token) in tx.scan::<GrantToken>(Table::GrantTokens, &prefix, TOKENS_PER_GRANT)? {
        revoke(tx, &String::from_utf8_lossy(&jti), token.expires)?;
        if let Some(digest) = token.digest {
            tx.delete(Table::OpaqueTokens, digest.as_bytes());
        }
    }
    Ok(())
}

fn find(tx: &Tx<'_>, digest: Digest) -> Result<Option<(RefreshToken, Grant)>, StoreError> {
    let Some(token) = tx.get::<RefreshToken>(Table::RefreshTokens, digest.as_bytes())? else { return Ok(None) };
    let grant = tx.get::<Grant>(Table::Grants, token.grant.as_str().as_bytes())?;
    Ok(grant.map(|grant| (token, grant)))
}

fn revoke_token_of(tx: &mut Tx<'_>, grant: &GrantId, jti: &str) -> Result<(), StoreError> {
    if let Some(token) = tx.get::<GrantToken>(Table::GrantTokens, &grant_token_key(grant, jti))? {
        revoke(tx, jti, token.expires)?;
        if let Some(digest) = token.digest {
            tx.delete(Table::OpaqueTokens, digest.as_bytes());
        }
    }
    Ok(())
}

fn put_access_token(
    tx: &mut Tx<'_>,
    grant: Option<&GrantId>,
    access: &NewAccessToken,
    watched: bool,
) -> Result<(), StoreError> {
    if let Some((digest, claims)) = &access.opaque {
        let (jti, expires) = (access.jti.clone(), access.expires);
        let record = OpaqueToken { jti, grant: grant.cloned(), expires, claims: claims.clone() };
        tx.put(Table::OpaqueTokens, digest.as_bytes(), &record, expires)?;
    }
    if let Some(grant) = grant {
        let digest = access.opaque.as_ref().map(|(digest, _)| *digest);
        let record = GrantToken { expires: access.expires, used: false, watched, digest };
        tx.put(Table::GrantTokens, &grant_token_key(grant, &access.jti), &record, access.expires)?;
        if watched {
            tx.changes.watched.push((access.jti.clone(), grant.clone(), access.expires));
        }
    }
    Ok(())
}
