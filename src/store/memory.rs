//! The store that forgets: a map behind one lock, gone with the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::tx::{Reader, Row, Tx};
use super::{Live, StoreError};
use crate::clock::UnixSeconds;

#[derive(Debug)]
pub(super) struct Memory {
    rows: Mutex<Rows>,
    live: Live,
}

#[derive(Debug, Default)]
struct Rows(BTreeMap<Vec<u8>, Vec<u8>>);

impl Memory {
    pub(super) fn new(live: Live) -> Self {
        Self { rows: Mutex::default(), live }
    }

    pub(super) fn write<T>(
        &self,
        now: UnixSeconds,
        op: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tx = Tx::new(&*rows, now);
        let answer = op(&mut tx)?;
        let mut changes = std::mem::take(&mut tx.changes);
        for (key, row) in std::mem::take(&mut changes.rows) {
            match row {
                Some(row) => rows.0.insert(key, row),
                None => rows.0.remove(&key),
            };
        }
        self.live.follow(&mut changes);
        Ok(answer)
    }

    pub(super) fn read<T>(
        &self,
        now: UnixSeconds,
        op: impl FnOnce(&Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        op(&Tx::new(&*rows, now))
    }
}

impl Reader for Rows {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let rows = self.0.range(from.to_vec()..to.to_vec());
        Ok(rows.take(limit).map(|(key, row)| (key.clone(), row.clone())).collect())
    }
}
