//! Fields as HTTP/2 writes them (HPACK, RFC 7541): literal, or as places in two tables, one of which both sides fill as they go.

mod encode;
mod huffman;

use std::collections::VecDeque;
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};

pub(super) use encode::Encoder;

/// What the table of a side holds at most, in the bytes of section 4.1. The other side may ask for less.
pub(super) const TABLE_BYTES: usize = 4096;
/// What an entry takes beside its text (section 4.1).
const ENTRY_BYTES: usize = 32;

/// What is no block of fields. The tables of both sides are the same no longer: the connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a block of fields that cannot be read")]
pub(super) struct Unreadable;

/// A field as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Method(Bytes),
    Scheme(Bytes),
    Authority(Bytes),
    Path(Bytes),
    Protocol(Bytes),
    Other(HeaderName, HeaderValue),
    /// None that a request may have.
    Unfit,
}

/// A field, and what it counts in bytes.
#[derive(Clone, Debug)]
struct Entry {
    field: Field,
    name_bytes: usize,
    bytes: usize,
}

impl Entry {
    fn new(name: &Name, value: Bytes) -> Self {
        let (name_bytes, bytes) = (name.bytes, name.bytes + value.len() + ENTRY_BYTES);
        // A value that begins or ends with space has two readings (RFC 9113 section 8.2.1).
        let padded = |value: &[u8]| matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']);
        let field = match &name.kind {
            Kind::Method => Field::Method(value),
            Kind::Scheme => Field::Scheme(value),
            Kind::Authority => Field::Authority(value),
            Kind::Path => Field::Path(value),
            Kind::Protocol => Field::Protocol(value),
            Kind::Other(_) if padded(&value) => Field::Unfit,
            Kind::Other(name) => {
                HeaderValue::from_maybe_shared(value).map_or(Field::Unfit, |value| Field::Other(name.clone(), value))
            }
            Kind::Unfit => Field::Unfit,
        };
        Self { field, name_bytes, bytes }
    }

    fn name(&self) -> Name {
        let kind = match &self.field {
            Field::Method(_) => Kind::Method,
            Field::Scheme(_) => Kind::Scheme,
            Field::Authority(_) => Kind::Authority,
            Field::Path(_) => Kind::Path,
            Field::Protocol(_) => Kind::Protocol,
            Field::Other(name, _) => Kind::Other(name.clone()),
            Field::Unfit => Kind::Unfit,
        };
        Name { kind, bytes: self.name_bytes }
    }
}

/// The name of a field.
struct Name {
    kind: Kind,
    bytes: usize,
}

enum Kind {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Other(HeaderName),
    Unfit,
}

impl Name {
    fn new(text: &[u8]) -> Self {
        let kind = match text {
            b":method" => Kind::Method,
            b":scheme" => Kind::Scheme,
            b":authority" => Kind::Authority,
            b":path" => Kind::Path,
            b":protocol" => Kind::Protocol,
            // Capitals have no place in it (RFC 9113 section 8.2.1).
            _ => HeaderName::from_lowercase(text).map_or(Kind::Unfit, Kind::Other),
        };
        Self { kind, bytes: text.len() }
    }
}

/// Reads what the peer sends.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The newest first.
    table: VecDeque<Entry>,
    bytes: usize,
    limit: usize,
    changes: u64,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), bytes: 0, limit: TABLE_BYTES, changes: 0 }
    }
}

impl Decoder {
    /// Changes of the table so far. As long as there is none, a block says what it said before.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Gives each field of a whole block, with what it counts in bytes, to `take`.
    pub(super) fn decode<E: From<Unreadable>>(
        &mut self,
        block: &Bytes,
        mut take: impl FnMut(&Field, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = Rest { block, at: 0 };
        let mut begun = false;
        while let Some(first) = rest.next_byte() {
            // Section 6: an indexed field; a literal that is to be known, or not; a size of the table.
            match first {
                0x80.. => {
                    let entry = self.entry(rest.integer(first, 7)?)?;
                    take(&entry.field, entry.bytes)?;
                }
                0x40.. => {
                    let entry = self.literal(&mut rest, first, 6, true)?;
                    take(&entry.field, entry.bytes)?;
                    self.insert(entry);
                }
                0x20.. if begun => return Err(Unreadable.into()),
                0x20.. => {
                    self.limit =
                        Some(rest.integer(first, 5)?).filter(|limit| *limit <= TABLE_BYTES).ok_or(Unreadable)?;
                    self.changes += 1;
                    self.evict();
                    continue;
                }
                _ => {
                    let entry = self.literal(&mut rest, first, 4, false)?;
                    take(&entry.field, entry.bytes)?;
                }
            }
            begun = true;
        }
        Ok(())
    }

    /// What is `kept` does not keep the whole block with it.
    fn literal(&self, rest: &mut Rest<'_>, first: u8, prefix: u32, kept: bool) -> Result<Entry, Unreadable> {
        let name = match rest.integer(first, prefix)? {
            0 => Name::new(&rest.text(false)?),
            index => self.entry(index)?.name(),
        };
        Ok(Entry::new(&name, rest.text(kept)?))
    }

    /// The entry of a place in both tables (section 2.3.3).
    fn entry(&self, index: usize) -> Result<&Entry, Unreadable> {
        let place = index.checked_sub(1).ok_or(Unreadable)?;
        match place.checked_sub(STATIC.len()) {
            None => Ok(&STATIC[place]),
            Some(place) => self.table.get(place).ok_or(Unreadable),
        }
    }

    fn insert(&mut self, entry: Entry) {
        self.bytes += entry.bytes;
        self.table.push_front(entry);
        self.changes += 1;
        self.evict();
    }

    fn evict(&mut self) {
        while self.bytes > self.limit
            && let Some(entry) = self.table.pop_back()
        {
            self.bytes -= entry.bytes;
        }
    }
}

/// What was not read of a block.
struct Rest<'a> {
    block: &'a Bytes,
    at: usize,
}

impl Rest<'_> {
    fn next_byte(&mut self) -> Option<u8> {
        let byte = self.block.get(self.at).copied();
        self.at += usize::from(byte.is_some());
        byte
    }

    /// An integer that begins in the last bits of a byte (section 5.1), below 2^28.
    fn integer(&mut self, first: u8, prefix: u32) -> Result<usize, Unreadable> {
        let most = (1 << prefix) - 1;
        let mut value = usize::from(first) & most;
        if value < most {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.next_byte().ok_or(Unreadable)?;
            value += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Unreadable)
    }

    /// A text (section 5.2); one that is `kept` is no part of the block.
    fn text(&mut self, kept: bool) -> Result<Bytes, Unreadable> {
        let first = self.next_byte().ok_or(Unreadable)?;
        let length = self.integer(first, 7)?;
        let end = self.at + length;
        let text = self.block.get(self.at..end).ok_or(Unreadable)?;
        let text = match first {
            0x80.. => huffman::decode(text).ok_or(Unreadable)?.into(),
            _ if kept => Bytes::copy_from_slice(text),
            _ => self.block.slice(self.at..end),
        };
        self.at = end;
        Ok(text)
    }
}

/// The table that is always there (appendix A). `:status` is in no request.
#[rustfmt::skip]
const STATIC_TEXT: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

static STATIC: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let entry = |(name, value): &(&'static str, &'static str)| {
        Entry::new(&Name::new(name.as_bytes()), Bytes::from_static(value.as_bytes()))
    };
    STATIC_TEXT.iter().map(entry).collect()
});
