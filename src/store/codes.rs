//! Authorization codes (RFC 6749 section 4.1.2): good for one use, and remembered after it, because a second valid use
//! means that two hold the code and what the first one got must be revoked.

use serde::{Deserialize, Serialize};

use super::grants::{open, revoke_grant};
use super::tx::Table;
use super::{Digest, Grant, GrantId, NewAccessToken, NewRefreshToken, Store, StoreError};
use crate::clock::UnixSeconds;

/// Wrong verifiers after which a code is void.
const FAILURES: u32 = 5;

/// What a code stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    pub client: String,
    pub redirect_uri: String,
    /// Whether the authorization request named it; then the token request must too.
    pub redirect_given: bool,
    /// The S256 challenge of RFC 7636.
    pub challenge: Option<String>,
    pub user: String,
    pub password_stamp: String,
    /// The login session it was made in.
    pub session: Digest,
    pub scope: String,
    pub audience: Vec<String>,
    pub auth_time: UnixSeconds,
    pub amr: Vec<String>,
    pub expires: UnixSeconds,
    pub failures: u32,
    /// What its use gave.
    pub grant: Option<GrantId>,
}

/// What became of a code that was presented with everything right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redemption {
    Redeemed,
    /// It was used before; what it gave then is revoked.
    Reused(GrantId),
    /// Unknown, expired or void.
    Invalid,
}

impl Store {
    /// Records a code and remembers it until `forget`, long after it has expired.
    pub async fn put_code(&self, digest: Digest, code: Code, forget: UnixSeconds) -> Result<(), StoreError> {
        self.write(move |tx| tx.put(Table::Codes, digest.as_bytes(), &Remembered { code, forget }, forget)).await
    }

    /// A code, whatever its state.
    pub async fn code(&self, digest: Digest) -> Result<Option<Code>, StoreError> {
        let found: Option<Remembered> = self.read(|tx| tx.get(Table::Codes, digest.as_bytes()))?;
        Ok(found.map(|remembered| remembered.code))
    }

    /// Counts a wrong verifier; too many make the code void.
    pub async fn code_failed(&self, digest: Digest) -> Result<(), StoreError> {
        self.write(move |tx| {
            let Some(mut found) = tx.get::<Remembered>(Table::Codes, digest.as_bytes())? else { return Ok(()) };
            found.code.failures = found.code.failures.saturating_add(1);
            if found.code.failures >= FAILURES {
                found.code.expires = 0;
            }
            tx.put(Table::Codes, digest.as_bytes(), &found, found.forget)
        })
        .await
    }

    /// Uses a code: records the grant and its first tokens, or revokes what an earlier use gave, in one transaction.
    pub async fn redeem(
        &self,
        digest: Digest,
        grant: Grant,
        access: NewAccessToken,
        refresh: Option<NewRefreshToken>,
    ) -> Result<Redemption, StoreError> {
        self.write(move |tx| {
            let Some(mut found) = tx.get::<Remembered>(Table::Codes, digest.as_bytes())? else {
                return Ok(Redemption::Invalid);
            };
            if let Some(id) = found.code.grant {
                if let Some(first) = tx.get::<Grant>(Table::Grants, id.as_str().as_bytes())? {
                    revoke_grant(tx, &first)?;
                }
                return Ok(Redemption::Reused(id));
            }
            if found.code.expires <= tx.now() {
                return Ok(Redemption::Invalid);
            }
            open(tx, &grant, &access, refresh)?;
            found.code.grant = Some(grant.id);
            tx.put(Table::Codes, digest.as_bytes(), &found, found.forget)?;
            Ok(Redemption::Redeemed)
        })
        .await
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    code: Code,
    forget: UnixSeconds,
}
