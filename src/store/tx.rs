//! A transaction as the typed operations see it: rows of named tables, each with the moment at which it expires.
//!
//! An operation reads what was committed and what it has itself put, and collects its changes; the backend applies them
//! when the operation succeeds. An expired row is as good as gone even before the sweep removes it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{GrantId, StoreError, not_before};
use crate::clock::UnixSeconds;

/// The tables. All live in one key space, told apart by the first byte of the key: never change a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Table {
    /// When ‖ key of the row that expires then. Written with every row that expires.
    Expiry = 0,
    Grants = 1,
    Codes = 2,
    RefreshTokens = 3,
    /// Opaque access tokens by digest.
    OpaqueTokens = 4,
    /// Grant ‖ jti: the access tokens that were issued under a grant.
    GrantTokens = 5,
    Revocations = 6,
    Sessions = 7,
    /// User, NUL, client.
    Consents = 8,
    SigningKeys = 9,
    /// Assertions that were used.
    Assertions = 10,
    /// By user name: the stamp of the password, and when it changed.
    Passwords = 12,
    /// Keys of the server's own, by purpose.
    Secrets = 11,
    /// User, NUL, client, of which one may be empty.
    NotBefore = 13,
}

/// A row that never expires.
pub(super) const NEVER: UnixSeconds = UnixSeconds::MAX;

/// A consistent view of what was committed.
pub(super) trait Reader {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Up to `limit` rows with `from <= key < to`, in order.
    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError>;
}

pub(super) type Row = (Vec<u8>, Vec<u8>);

/// What an operation wants changed, and what the in-memory views must learn once that is durable.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// None: the row is deleted.
    pub(super) rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pub(super) revoked: Vec<(String, UnixSeconds)>,
    pub(super) not_before: Vec<not_before::Row>,
    pub(super) watched: Vec<(String, GrantId, UnixSeconds)>,
}

pub(super) struct Tx<'a> {
    reader: &'a dyn Reader,
    now: UnixSeconds,
    pub(super) changes: Changes,
}

impl<'a> Tx<'a> {
    pub(super) fn new(reader: &'a dyn Reader, now: UnixSeconds) -> Self {
        Self { reader, now, changes: Changes::default() }
    }

    pub(super) fn now(&self) -> UnixSeconds {
        self.now
    }

    /// The record under `key`, unless it has expired.
    pub(super) fn get<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> Result<Option<T>, StoreError> {
        let key = full_key(table, key);
        let row = match self.changes.rows.get(&key) {
            Some(own) => own.clone(),
            None => self.reader.get(&key)?,
        };
        row.map_or(Ok(None), |row| decode(table, &row, self.now))
    }

    /// Puts a record that is gone from `expires` on.
    pub(super) fn put<T: Serialize>(
        &mut self,
        table: Table,
        key: &[u8],
        record: &T,
        expires: UnixSeconds,
    ) -> Result<(), StoreError> {
        let key = full_key(table, key);
        let mut row = expires.to_be_bytes().to_vec();
        serde_json::to_writer(&mut row, record).map_err(|error| unreadable(table, &error))?;
        if expires != NEVER {
            let index = [&[Table::Expiry as u8][..], &expires.to_be_bytes(), &key].concat();
            self.changes.rows.insert(index, Some(Vec::new()));
        }
        self.changes.rows.insert(key, Some(row));
        Ok(())
    }

    pub(super) fn delete(&mut self, table: Table, key: &[u8]) {
        self.changes.rows.insert(full_key(table, key), None);
    }

    /// Up to `limit` committed records whose key starts with `prefix`, with the rest of their keys. Expired ones are
    /// left out.
    pub(super) fn scan<T: DeserializeOwned>(
        &self,
        table: Table,
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, T)>, StoreError> {
        let from = full_key(table, prefix);
        let mut found = Vec::new();
        for (key, row) in self.reader.range(&from, &after_prefix(&from), limit)? {
            if let Some(record) = decode(table, &row, self.now)? {
                found.push((key[from.len()..].to_vec(), record));
            }
        }
        Ok(found)
    }

    /// Up to `limit` committed records of a table whose keys come after `after`, with their keys; and the last key, when
    /// there may be more.
    #[expect(clippy::type_complexity, reason = "records, and where to go on")]
    pub(super) fn page<T: DeserializeOwned>(
        &self,
        table: Table,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<(Vec<u8>, T)>, Option<Vec<u8>>), StoreError> {
        // The next key there can be is the same with a zero at its end.
        let from = after.map_or_else(|| full_key(table, b""), |after| full_key(table, &[after, &[0]].concat()));
        let rows = self.reader.range(&from, &after_prefix(&full_key(table, b"")), limit)?;
        let last = rows.last().filter(|_| rows.len() == limit).map(|(key, _)| key[1..].to_vec());
        let mut found = Vec::new();
        for (key, row) in rows {
            if let Some(record) = decode(table, &row, self.now)? {
                found.push((key[1..].to_vec(), record));
            }
        }
        Ok((found, last))
    }

    /// Marks up to `limit` expired rows for removal, and with them the entries of the index.
    pub(super) fn sweep(&mut self, limit: usize) -> Result<usize, StoreError> {
        let from = [Table::Expiry as u8];
        let to = [&from[..], &self.now.saturating_add(1).to_be_bytes()].concat();
        let due = self.reader.range(&from, &to, limit)?;
        for (index, _) in &due {
            let key = index.get(9..).unwrap_or_default();
            // The row may have been put again since, with a later end and an entry of its own.
            let ended = self.reader.get(key)?.is_some_and(|row| expiry(&row) <= self.now);
            if ended {
                self.changes.rows.insert(key.to_vec(), None);
            }
            self.changes.rows.insert(index.clone(), None);
        }
        Ok(due.len())
    }
}

impl fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("now", &self.now).finish_non_exhaustive()
    }
}

fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    [&[table as u8][..], key].concat()
}

fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

fn expiry(row: &[u8]) -> UnixSeconds {
    row.first_chunk::<8>().map_or(0, |bytes| UnixSeconds::from_be_bytes(*bytes))
}

/// Where and of what kind; serde's own text quotes what it found, which may be a key.
fn unreadable(table: Table, error: &serde_json::Error) -> StoreError {
    StoreError::Record(format!("{table:?}: {:?} at column {}", error.classify(), error.column()))
}

fn decode<T: DeserializeOwned>(table: Table, row: &[u8], now: UnixSeconds) -> Result<Option<T>, StoreError> {
    if expiry(row) <= now {
        return Ok(None);
    }
    serde_json::from_slice(&row[8..]).map(Some).map_err(|error| unreadable(table, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g17_a_record_that_cannot_be_read_is_not_quoted() {
        let row = [&1_u64.to_be_bytes()[..], br#"{"created":"MIIEprivate"}"#].concat();
        let error = decode::<std::collections::BTreeMap<String, u64>>(Table::SigningKeys, &row, 0).unwrap_err();
        assert!(!error.to_string().contains("MIIE"), "{error}");
        assert!(error.to_string().contains("SigningKeys"), "{error}");
    }
}
