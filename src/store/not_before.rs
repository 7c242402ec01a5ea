//! The access tokens of the embedded server that are refused by when they were issued: all that a user, a client, or a
//! user by a client was given until they were turned out. Nobody keeps a list of those that came alone.
//!
//! As with revocations every request asks, so the usual answer ("nobody was turned out") costs one atomic load. `iat`
//! counts whole seconds: a token that is issued after the end, but in its second, says the next one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::revocations::LEEWAY_SECONDS;
use super::tx::Table;
use super::{Store, StoreError, Whose};
use crate::clock::UnixSeconds;

/// Most that are kept.
const MOST: usize = 100_000;
/// No user or client has a longer name.
const MAX_NAME: usize = 512;
/// They are kept for at least a day: access tokens may have lived longer under the configuration from before.
const LEAST_SECONDS: u64 = 24 * 3600;
/// Commits that may take longer than the time they allow for, which doubles.
const ATTEMPTS: u32 = 8;

/// From when on access tokens count.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    whose: Whose,
    /// First `iat` that does.
    from: UnixSeconds,
    /// Every token from before has expired.
    until: UnixSeconds,
}

#[derive(Debug, Default)]
pub(super) struct NotBefore {
    /// How many there are.
    count: AtomicUsize,
    /// By user, by client. An empty name is anybody's.
    rows: RwLock<HashMap<Box<str>, ByClient>>,
}

type ByClient = HashMap<Box<str>, Row>;

impl NotBefore {
    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// The first `iat` that counts, of tokens of this user by this client.
    fn from(&self, user: &str, client: &str) -> UnixSeconds {
        if self.is_empty() {
            return 0;
        }
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let of = |user, client| rows.get(user).and_then(|own| own.get(client)).map_or(0, |row| row.from);
        of(user, "").max(of("", client)).max(of(user, client))
    }

    /// The latest that a token of `whose` may say because of what was ended before.
    fn latest(&self, whose: &Whose) -> UnixSeconds {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let may_meet = rows.values().flat_map(ByClient::values).filter(|row| row.whose.meets(whose));
        may_meet.map(|row| row.from).max().unwrap_or_default()
    }

    pub(super) fn insert(&self, row: Row) {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let (user, client) = row.whose.names();
        if rows.entry(user.into()).or_default().insert(client.into(), row).is_none() {
            self.count.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(super) fn forget_expired(&self, now: UnixSeconds) {
        if self.is_empty() {
            return;
        }
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        rows.retain(|_, own| {
            own.retain(|_, row| row.until > now);
            !own.is_empty()
        });
        self.count.store(rows.values().map(HashMap::len).sum(), Ordering::Release);
    }
}

impl Whose {
    /// Empty where any will do.
    fn names(&self) -> (&str, &str) {
        (self.user.as_deref().unwrap_or_default(), self.client.as_deref().unwrap_or_default())
    }

    /// Whether a token may be of both.
    fn meets(&self, other: &Self) -> bool {
        let alike = |one: &Option<String>, other: &Option<String>| one.is_none() || other.is_none() || one == other;
        alike(&self.user, &other.user) && alike(&self.client, &other.client)
    }
}

impl Store {
    /// The `iat` of an access token that is issued now.
    pub fn issued_at(&self, user: &str, client: &str) -> UnixSeconds {
        self.now().max(self.0.live.not_before.from(user, client))
    }

    /// Whether the embedded server's access token with these claims was issued before its user or client was turned out.
    /// Usually one atomic load.
    pub fn is_ended(&self, claims: &Map<String, Value>) -> bool {
        let not_before = &self.0.live.not_before;
        if not_before.is_empty() {
            return false;
        }
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        let issued = claims.get("iat").and_then(Value::as_u64).unwrap_or_default();
        issued < not_before.from(text("sub"), text("client_id"))
    }

    /// Whether there is room to end the access tokens of one more.
    pub(super) fn has_room_to_end(&self) -> bool {
        self.0.live.not_before.count.load(Ordering::Acquire) < MOST
    }

    /// Refuses every access token of `whose` that was issued until now; none lives longer than `lifetime`.
    pub(super) async fn end_access_tokens(&self, whose: Whose, lifetime: Duration) -> Result<(), StoreError> {
        let (user, client) = whose.names();
        if user.len().max(client.len()) > MAX_NAME {
            return Ok(());
        }
        let lifetime = lifetime.as_secs().max(LEAST_SECONDS).saturating_add(LEEWAY_SECONDS);
        for attempt in 0..ATTEMPTS {
            let (live, whose) = (self.0.live.clone(), whose.clone());
            let from = self.write(move |tx| {
                let from = tx.now().max(live.not_before.latest(&whose)).saturating_add(1 << attempt);
                let until = from.saturating_add(lifetime);
                let (user, client) = whose.names();
                let key = format!("{user}\0{client}");
                let row = Row { whose, from, until };
                tx.put(Table::NotBefore, key.as_bytes(), &row, until)?;
                tx.changes.not_before.push(row);
                Ok(from)
            });
            // It is known to all by now. What was issued while it was written must be before it.
            if from.await? > self.now() {
                return Ok(());
            }
        }
        Err(StoreError::Busy)
    }

    pub(super) fn load_not_before(&self) -> Result<(), StoreError> {
        for (_, row) in self.read(|tx| tx.scan::<Row>(Table::NotBefore, b"", usize::MAX))? {
            self.0.live.not_before.insert(row);
        }
        Ok(())
    }
}

#[cfg(test)]
impl Store {
    /// As when as many were turned out as are kept.
    pub(super) fn fill_not_before(&self) {
        for n in 0..MOST {
            let whose = Whose { user: Some(n.to_string()), client: None };
            self.0.live.not_before.insert(Row { whose, from: 1, until: UnixSeconds::MAX });
        }
    }
}
