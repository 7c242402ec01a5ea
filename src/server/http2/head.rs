//! The head of a request, out of the fields of its block (RFC 9113 section 8).

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version};

use super::hpack::{Decoder, Field, Unreadable};
use super::{Ended, Reason};
use crate::net::http1::{Most, number};
use crate::net::request::RequestHead;
use crate::net::switch::Protocol;

/// A block that is no request of its stream, which concerns no other (section 8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    Malformed,
    TooLarge,
}

/// A request without its body.
#[derive(Clone, Debug)]
pub(super) struct Head {
    method: Method,
    uri: Uri,
    headers: Arc<HeaderMap>,
    /// What the extended CONNECT of RFC 8441 asks for.
    protocol: Option<Protocol>,
    /// The length of the body, where it is said.
    pub(super) length: Option<u64>,
    /// The body is sent when it is asked for (RFC 9110 section 10.1.1).
    pub(super) expects_continue: bool,
}

impl Head {
    pub(super) fn is_to_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Whether it may be one that opens a tunnel.
    pub(super) fn names_protocol(&self) -> bool {
        self.protocol.is_some()
    }

    pub(super) fn into_request(self) -> Box<RequestHead> {
        let Self { method, uri, headers, protocol, .. } = self;
        Box::new(RequestHead { method, uri, version: Version::HTTP_2, headers, switch: None, protocol })
    }
}

/// How far beyond what fields may come to they are looked at, to be told so: a few bytes can name many (RFC 7541 section 7.3).
const BEYOND: usize = 16;

/// What is wrong with a block, for the whole connection.
enum Wrong {
    Unreadable,
    Bomb,
}

impl From<Unreadable> for Wrong {
    fn from(_: Unreadable) -> Self {
        Self::Unreadable
    }
}

impl From<Wrong> for Ended {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Unreadable => Self::Fault(Reason::COMPRESSION_ERROR, "a block of fields that cannot be read"),
            Wrong::Bomb => Self::Fault(Reason::ENHANCE_YOUR_CALM, "fields far beyond their limit"),
        }
    }
}

/// Reads the blocks of a connection.
#[derive(Debug, Default)]
pub(super) struct Heads {
    decoder: Decoder,
    again: Option<Box<Again>>,
}

/// A block that changed no table, and what it says as long as none has changed. It is likely to come again.
#[derive(Debug)]
struct Again {
    block: Vec<u8>,
    changes: u64,
    head: Head,
}

/// Longest block that is kept to be compared.
const AGAIN_BYTES: usize = 4 * 1024;

impl Heads {
    pub(super) fn head(&mut self, block: &Bytes, most: Most) -> Result<Result<Head, Unfit>, Ended> {
        if let Some(again) = self.again.as_deref()
            && again.changes == self.decoder.changes()
            && again.block == block[..]
        {
            return Ok(Ok(again.head.clone()));
        }
        // What is kept of it shall not keep all that was read with it.
        let block = &Bytes::copy_from_slice(block);
        let before = self.decoder.changes();
        let mut gathered = Gathered::default();
        self.decode(block, most, |field| gathered.take(field))?;
        let read = match gathered {
            Gathered { too_large: true, .. } => Err(Unfit::TooLarge),
            gathered => gathered.head().ok_or(Unfit::Malformed),
        };
        if let Ok(head) = &read
            && before == self.decoder.changes()
            && block.len() <= AGAIN_BYTES
        {
            self.again = Some(Box::new(Again { block: block.to_vec(), changes: before, head: head.clone() }));
        }
        Ok(read)
    }

    /// Reads trailers, which nobody wants, for the sake of the table. Whether they are what they should be.
    pub(super) fn trailers(&mut self, block: &Bytes, most: Most) -> Result<bool, Ended> {
        let mut are_fit = true;
        self.decode(block, most, |field| are_fit &= field.is_some_and(|field| matches!(field, Field::Other(..))))?;
        Ok(are_fit)
    }

    /// Lets go of what can be read anew.
    pub(super) fn rest(&mut self) {
        self.again = None;
    }

    /// Gives each field; and `None` for those that are too many.
    fn decode(&mut self, block: &Bytes, most: Most, mut take: impl FnMut(Option<&Field>)) -> Result<(), Ended> {
        let mut sum = 0;
        let decoded = self.decoder.decode(block, |field, bytes| {
            sum += bytes;
            if sum > most.bytes.saturating_mul(BEYOND) {
                return Err(Wrong::Bomb);
            }
            take(Some(field).filter(|_| sum <= most.bytes));
            Ok(())
        });
        Ok(decoded?)
    }
}

#[derive(Default)]
struct Gathered {
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    protocol: Option<Bytes>,
    headers: HeaderMap,
    length: Option<u64>,
    expects_continue: bool,
    malformed: bool,
    too_large: bool,
}

impl Gathered {
    fn take(&mut self, field: Option<&Field>) {
        let (place, text) = match field {
            None => return self.too_large = true,
            Some(Field::Other(name, value)) => {
                self.malformed |= !self.note(name, value);
                self.too_large |= self.headers.try_append(name.clone(), value.clone()).is_err();
                return;
            }
            Some(Field::Unfit) => return self.malformed = true,
            Some(Field::Method(text)) => (&mut self.method, text),
            Some(Field::Scheme(text)) => (&mut self.scheme, text),
            Some(Field::Authority(text)) => (&mut self.authority, text),
            Some(Field::Path(text)) => (&mut self.path, text),
            Some(Field::Protocol(text)) => (&mut self.protocol, text),
        };
        // Once each, and before all other fields.
        self.malformed |= place.replace(text.clone()).is_some() || !self.headers.is_empty();
    }

    /// Looks at a field that says how the message is to be read; those of HTTP/1's connections have no place here (section
    /// 8.2.2).
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> bool {
        match *name {
            header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE => return false,
            header::TE => return value.as_bytes().eq_ignore_ascii_case(b"trailers"),
            // The gateway says what it is where there is none.
            header::CONTENT_LENGTH if !value.is_empty() => {
                let length = number(value.as_bytes(), 10, 19);
                return length.is_some() && self.length.replace(length.unwrap_or(0)).is_none_or(|l| Some(l) == length);
            }
            header::EXPECT => self.expects_continue = value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            _ => return !matches!(name.as_str(), "keep-alive" | "proxy-connection"),
        }
        true
    }

    /// Sections 8.3.1 and 8.5.
    fn head(self) -> Option<Head> {
        let Self { method, scheme, authority, path, protocol, headers, length, expects_continue, malformed, .. } = self;
        let method = Method::from_bytes(&method?).ok().filter(|_| !malformed)?;
        let is_tunnel = method == Method::CONNECT && protocol.is_none();
        if (protocol.is_some() && method != Method::CONNECT)
            || (path.is_none() != is_tunnel || scheme.is_none() != is_tunnel)
        {
            return None;
        }
        let mut uri = http::uri::Parts::default();
        uri.authority = authority.map(Authority::from_maybe_shared).transpose().ok()?;
        let scheme = scheme.map(|scheme| Scheme::try_from(&scheme[..])).transpose().ok()?;
        if let Some(path) = path {
            // A fragment belongs to no request.
            if (!path.starts_with(b"/") && &path[..] != b"*") || path.contains(&b'#') {
                return None;
            }
            let path = PathAndQuery::from_maybe_shared(path).ok()?;
            // The one without the other is none.
            uri.scheme = scheme.filter(|_| uri.authority.is_some());
            uri.path_and_query = Some(path);
        }
        let uri = Uri::from_parts(uri).ok()?;
        let headers = Arc::new(headers);
        Some(Head { method, uri, headers, protocol: protocol.map(Protocol), length, expects_continue })
    }
}
