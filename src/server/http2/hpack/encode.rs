//! Writes the fields of answers.

use std::collections::VecDeque;

use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};

use super::{ENTRY_BYTES, STATIC_TEXT, TABLE_BYTES};

/// Of a field that takes more, the table would soon hold nothing else.
const KEPT_BYTES: usize = TABLE_BYTES / 4;

/// Writes what is sent to the peer. Texts are written as they are: what comes again is sent as a place in the table, which is
/// shorter than any code.
#[derive(Debug)]
pub(in crate::server::http2) struct Encoder {
    /// The newest first.
    table: VecDeque<(HeaderName, HeaderValue)>,
    bytes: usize,
    limit: usize,
    /// The peer has to be told of a new limit, and of the lowest that there was since it was told.
    lowest: Option<usize>,
    /// Entries that ever were.
    inserted: u64,
    /// The entries of the last block's fields: the next is likely to have the same ones.
    last: Vec<u64>,
}

impl Default for Encoder {
    fn default() -> Self {
        let table = VecDeque::new();
        Self { table, bytes: 0, limit: TABLE_BYTES, lowest: None, inserted: 0, last: Vec::new() }
    }
}

impl Encoder {
    /// What the peer wants the table to hold at most.
    pub(in crate::server::http2) fn set_limit(&mut self, bytes: usize) {
        let limit = bytes.min(TABLE_BYTES);
        if limit != self.limit {
            self.limit = limit;
            self.lowest = Some(self.lowest.map_or(limit, |lowest| lowest.min(limit)));
            self.evict();
        }
    }

    /// Writes the beginning of a block, and the status where it is that of an answer.
    pub(in crate::server::http2) fn begin(&mut self, out: &mut Vec<u8>, status: Option<StatusCode>) {
        if let Some(lowest) = self.lowest.take() {
            if lowest < self.limit {
                integer(out, 0x20, 5, lowest);
            }
            integer(out, 0x20, 5, self.limit);
        }
        match status.map(|status| status.as_u16()) {
            None => {}
            Some(200) => out.push(0x80 | 8),
            Some(204) => out.push(0x80 | 9),
            Some(206) => out.push(0x80 | 10),
            Some(304) => out.push(0x80 | 11),
            Some(400) => out.push(0x80 | 12),
            Some(404) => out.push(0x80 | 13),
            Some(500) => out.push(0x80 | 14),
            Some(other) => {
                out.push(8);
                text(out, other.to_string().as_bytes());
            }
        }
    }

    /// Writes a field, the one at that place in a head.
    pub(in crate::server::http2) fn field(
        &mut self,
        out: &mut Vec<u8>,
        place: Option<usize>,
        name: &HeaderName,
        value: &HeaderValue,
    ) {
        if value.is_sensitive() {
            // Never to be known, which does not pay for a look at the tables.
            out.push(0x10);
            text(out, name.as_str().as_bytes());
            return text(out, value.as_bytes());
        }
        let bytes = name.as_str().len() + value.len() + ENTRY_BYTES;
        if !comes_again(name) || bytes > KEPT_BYTES.min(self.limit) {
            return literal(out, 0, 4, name, value);
        }
        let is_it = |entry: &(HeaderName, HeaderValue)| entry.0 == *name && entry.1 == *value;
        let last = place.and_then(|place| self.last.get(place)).map(|entry| (self.inserted - entry) as usize);
        let known = last.filter(|last| self.table.get(*last).is_some_and(is_it));
        let known = known.or_else(|| self.table.iter().position(is_it));
        let at = match known {
            Some(known) => {
                integer(out, 0x80, 7, STATIC_TEXT.len() + 1 + known);
                known
            }
            None => {
                literal(out, 0x40, 6, name, value);
                self.table.push_front((name.clone(), value.clone()));
                self.inserted += 1;
                self.bytes += bytes;
                self.evict();
                0
            }
        };
        if let Some(place) = place {
            self.last.resize(self.last.len().max(place + 1), 0);
            self.last[place] = self.inserted - at as u64;
        }
    }

    fn evict(&mut self) {
        while self.bytes > self.limit
            && let Some((name, value)) = self.table.pop_back()
        {
            self.bytes -= name.as_str().len() + value.len() + ENTRY_BYTES;
        }
    }
}

/// Whether the same value is likely to come again on a connection.
fn comes_again(name: &HeaderName) -> bool {
    !matches!(
        *name,
        header::AGE
            | header::CONTENT_LENGTH
            | header::CONTENT_RANGE
            | header::ETAG
            | header::LAST_MODIFIED
            | header::LOCATION
            | header::SET_COOKIE
    )
}

fn literal(out: &mut Vec<u8>, kind: u8, prefix: u32, name: &HeaderName, value: &HeaderValue) {
    match STATIC_TEXT.iter().position(|(known, _)| *known == name.as_str()) {
        Some(place) => integer(out, kind, prefix, place + 1),
        None => {
            out.push(kind);
            text(out, name.as_str().as_bytes());
        }
    }
    text(out, value.as_bytes());
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// Section 5.1.
fn integer(out: &mut Vec<u8>, kind: u8, prefix: u32, value: usize) {
    let most = (1 << prefix) - 1;
    if value < most {
        return out.push(kind | value as u8);
    }
    out.push(kind | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
