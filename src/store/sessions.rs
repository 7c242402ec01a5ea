//! Login sessions of browsers, and the consents users gave.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::tx::{NEVER, Table};
use super::{Digest, Store, StoreError};
use crate::clock::UnixSeconds;

/// A browser in which a user logged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub user: String,
    pub auth_time: UnixSeconds,
    pub amr: Vec<String>,
    pub password_stamp: String,
    /// When it was last used.
    pub seen: UnixSeconds,
    /// It ends then, whether it is used or not.
    pub ends: UnixSeconds,
}

impl Store {
    pub async fn session(&self, digest: Digest) -> Result<Option<Session>, StoreError> {
        self.read(|tx| tx.get(Table::Sessions, digest.as_bytes()))
    }

    /// Puts a session, which ends at `expires` unless it is put again, and removes the one it takes the place of.
    pub async fn put_session(
        &self,
        digest: Digest,
        session: Session,
        expires: UnixSeconds,
        replaces: Option<Digest>,
    ) -> Result<(), StoreError> {
        self.write(move |tx| {
            if let Some(old) = replaces.filter(|old| *old != digest) {
                tx.delete(Table::Sessions, old.as_bytes());
            }
            tx.put(Table::Sessions, digest.as_bytes(), &session, expires.min(session.ends))
        })
        .await
    }

    /// Notes that a session was used and ends at `expires` now.
    pub async fn touch_session(
        &self,
        digest: Digest,
        seen: UnixSeconds,
        expires: UnixSeconds,
    ) -> Result<(), StoreError> {
        self.write(move |tx| {
            let Some(mut session) = tx.get::<Session>(Table::Sessions, digest.as_bytes())? else { return Ok(()) };
            session.seen = seen;
            tx.put(Table::Sessions, digest.as_bytes(), &session, expires.min(session.ends))
        })
        .await
    }

    pub async fn end_session(&self, digest: Digest) -> Result<(), StoreError> {
        self.write(move |tx| {
            tx.delete(Table::Sessions, digest.as_bytes());
            Ok(())
        })
        .await
    }

    /// Takes note of the users' passwords (by stamp) and tells when each was seen to change; 0: never.
    pub async fn note_passwords(
        &self,
        stamps: Vec<(String, String)>,
    ) -> Result<HashMap<String, UnixSeconds>, StoreError> {
        self.write(move |tx| {
            let mut changes = HashMap::new();
            for (user, stamp) in stamps {
                let known: Option<KnownPassword> = tx.get(Table::Passwords, user.as_bytes())?;
                let changed = match known {
                    Some(known) if known.stamp == stamp => known.changed,
                    other => {
                        let changed = other.map_or(0, |_| tx.now());
                        tx.put(Table::Passwords, user.as_bytes(), &KnownPassword { stamp, changed }, NEVER)?;
                        changed
                    }
                };
                changes.insert(user, changed);
            }
            Ok(changes)
        })
        .await
    }

    /// The scopes that a user let a client have.
    pub async fn consent(&self, user: &str, client: &str) -> Result<Vec<String>, StoreError> {
        let key = consent_key(user, client);
        Ok(self.read(|tx| tx.get(Table::Consents, &key))?.unwrap_or_default())
    }

    /// Adds to the scopes that a user lets a client have.
    pub async fn add_consent(&self, user: &str, client: &str, scopes: Vec<String>) -> Result<(), StoreError> {
        let key = consent_key(user, client);
        self.write(move |tx| {
            let mut all: Vec<String> = tx.get(Table::Consents, &key)?.unwrap_or_default();
            all.extend(scopes);
            all.sort();
            all.dedup();
            tx.put(Table::Consents, &key, &all, NEVER)
        })
        .await
    }
}

/// The password a user has now, and since when.
#[derive(Debug, Serialize, Deserialize)]
struct KnownPassword {
    stamp: String,
    changed: UnixSeconds,
}

/// Neither name holds a NUL: forms with one are refused, and so are names in the configuration.
fn consent_key(user: &str, client: &str) -> Vec<u8> {
    [user.as_bytes(), b"\0", client.as_bytes()].concat()
}
