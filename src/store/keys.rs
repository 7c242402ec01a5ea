//! Signing keys: the private parts never leave the store but to sign.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::tx::{NEVER, Table};
use super::{Store, StoreError};
use crate::clock::UnixSeconds;
use crate::secret::{Secret, random};

/// Where a key stands: published before it signs, signing, published after it signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    Pending,
    Active,
    Retired,
}

impl KeyState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Retired => "retired",
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
pub struct StoredKey {
    pub kid: String,
    /// The registered name, `RS256` for one.
    pub algorithm: String,
    pub state: KeyState,
    pub created: UnixSeconds,
    /// Since when it is in this state.
    pub since: UnixSeconds,
    pkcs8: String,
}

impl StoredKey {
    pub fn new(kid: &str, algorithm: &str, state: KeyState, now: UnixSeconds, pkcs8: &Secret<Vec<u8>>) -> Self {
        let (kid, algorithm) = (kid.to_owned(), algorithm.to_owned());
        Self { kid, algorithm, state, created: now, since: now, pkcs8: STANDARD.encode(pkcs8.expose()) }
    }

    pub fn pkcs8(&self) -> Option<Secret<Vec<u8>>> {
        STANDARD.decode(&self.pkcs8).ok().map(Secret::new)
    }
}

impl fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredKey").field("kid", &self.kid).field("state", &self.state).finish_non_exhaustive()
    }
}

/// More signing keys than any rotation leaves behind.
const KEYS: usize = 1000;

impl Store {
    /// All keys, the oldest first.
    pub async fn signing_keys(&self) -> Result<Vec<StoredKey>, StoreError> {
        let rows = self.read(|tx| tx.scan::<StoredKey>(Table::SigningKeys, b"", KEYS))?;
        let mut keys: Vec<_> = rows.into_iter().map(|(_, key)| key).collect();
        keys.sort_by_key(|key| key.created);
        Ok(keys)
    }

    /// Puts and removes keys, all at once.
    pub async fn change_signing_keys(&self, put: Vec<StoredKey>, remove: Vec<String>) -> Result<(), StoreError> {
        self.write(move |tx| {
            for key in &put {
                tx.put(Table::SigningKeys, key.kid.as_bytes(), key, NEVER)?;
            }
            for kid in &remove {
                tx.delete(Table::SigningKeys, kid.as_bytes());
            }
            Ok(())
        })
        .await
    }

    /// The secret for `purpose`: 256 random bits, made when first asked for.
    pub async fn secret(&self, purpose: &'static str) -> Result<Secret<Vec<u8>>, StoreError> {
        let text: String = self
            .write(move |tx| match tx.get(Table::Secrets, purpose.as_bytes())? {
                Some(known) => Ok(known),
                None => {
                    let made = STANDARD.encode(random::<32>());
                    tx.put(Table::Secrets, purpose.as_bytes(), &made, NEVER)?;
                    Ok(made)
                }
            })
            .await?;
        let text = Secret::new(text);
        STANDARD.decode(text.expose()).map(Secret::new).map_err(|error| StoreError::Record(error.to_string()))
    }
}
