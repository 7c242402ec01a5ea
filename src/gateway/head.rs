//! What a request's head says before anybody is asked who sent it: which host, which path, which way it came.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::reject::Reject;
use super::repeated::Repeated;
use super::transform::X_REQUEST_ID;
use crate::net::TrustedProxies;
use crate::net::forwarded::{Origin, Written};
use crate::net::request::RequestHead;
use crate::routing::canonical_host;
use crate::routing::path::CanonicalPath;

/// A connection to us, as its requests need to know it.
#[derive(Debug)]
pub struct Connection {
    pub listener: usize,
    pub listener_name: Arc<str>,
    pub peer: IpAddr,
    /// The peer as a header value, written once.
    pub peer_text: HeaderValue,
    pub forwarded: Written,
    /// Of a TCP proxy that did not say for whom it passes bytes on: what it sends in headers is anybody's word.
    pub is_silent_proxy: bool,
    pub tls: bool,
    /// Of a listener that forwards nothing.
    pub redirects: bool,
    pub activity: Activity,
    /// Kept for as long as the connection or a tunnel over it lives.
    pub guard: Box<dyn std::fmt::Debug + Send + Sync>,
}

/// How many requests of a connection are under way, when the last one ended, whether they are over for good, and what one
/// leaves for the next.
#[derive(Debug)]
pub struct Activity {
    pub(super) repeated: Repeated,
    running: AtomicUsize,
    begun: AtomicU64,
    taken_back: AtomicU64,
    last_end_millis: AtomicU64,
    closing: AtomicBool,
    opened: Instant,
}

/// Requests that a connection may take back before it matters how many it lets be answered.
const TAKEN_BACK: u64 = 200;

impl Default for Activity {
    fn default() -> Self {
        Self {
            repeated: Repeated::default(),
            running: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            taken_back: AtomicU64::new(0),
            last_end_millis: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            opened: Instant::now(),
        }
    }
}

impl Activity {
    pub fn begin(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// `answered`: the peer did not take the request back before.
    pub fn end(&self, now: Instant, answered: bool) {
        if !answered {
            self.taken_back.fetch_add(1, Ordering::Relaxed);
        }
        let millis = u64::try_from(now.duration_since(self.opened).as_millis()).unwrap_or(u64::MAX);
        self.last_end_millis.store(millis, Ordering::Relaxed);
        self.running.fetch_sub(1, Ordering::Release);
    }

    /// Nothing comes for a while: what was kept for the next request is let go of.
    pub fn rest(&self) {
        self.repeated.forget();
    }

    /// The next answer is to be the last: the peer is told so with it.
    pub fn close_soon(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire) > 0
    }

    /// Whether the peer asks for more than it wants: most of its requests were taken back before they were answered, and
    /// left their upstreams with work that nobody waits for.
    pub fn asks_in_vain(&self) -> bool {
        let taken_back = self.taken_back.load(Ordering::Relaxed);
        taken_back > TAKEN_BACK && taken_back > self.begun() / 2
    }

    /// Requests so far.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// The end of the last request; before there was one, the moment the connection was opened.
    pub fn last_end(&self) -> Instant {
        self.opened + std::time::Duration::from_millis(self.last_end_millis.load(Ordering::Relaxed))
    }
}

/// The fields that the way of a request depends on, found by one look at all of them: to search for each costs more, and most
/// requests lack most of what could be searched for.
#[derive(Debug, Default)]
pub(super) struct Noted<'a> {
    host: Once<'a>,
    authorization: Once<'a>,
    content_length: Once<'a>,
}

/// A field that may stand once.
#[derive(Clone, Copy, Debug, Default)]
enum Once<'a> {
    #[default]
    Absent,
    Said(&'a HeaderValue),
    Repeated,
}

impl<'a> Once<'a> {
    fn note(&mut self, value: &'a HeaderValue) {
        *self = if matches!(self, Self::Absent) { Self::Said(value) } else { Self::Repeated };
    }

    fn value(self) -> Result<Option<&'a HeaderValue>, Reject> {
        match self {
            Self::Absent => Ok(None),
            Self::Said(value) => Ok(Some(value)),
            Self::Repeated => Err(Reject::RepeatedHeader),
        }
    }
}

impl<'a> Noted<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let mut noted = Self::default();
        for (name, value) in headers {
            match *name {
                header::HOST => noted.host.note(value),
                header::AUTHORIZATION => noted.authorization.note(value),
                header::CONTENT_LENGTH => noted.content_length.note(value),
                _ => {}
            }
        }
        noted
    }

    /// One length in one spelling. (Of HTTP/1, the server passes on no other coding than `chunked`, HTTP/2 has none.)
    pub(super) fn has_plain_length(&self) -> bool {
        match self.content_length {
            Once::Absent => true,
            Once::Said(length) => is_plain_number(length),
            Once::Repeated => false,
        }
    }

    /// The credentials. Two would be for two readers two different callers.
    pub(super) fn authorization(&self) -> Result<Option<&'a HeaderValue>, Reject> {
        self.authorization.value()
    }

    /// The host that the request names, canonical; empty for HTTP/1.0 without one.
    pub(super) fn host(&self, request: &'a RequestHead) -> Result<Cow<'a, str>, Reject> {
        let header = match self.host.value()? {
            Some(value) => Some(std::str::from_utf8(value.as_bytes()).map_err(|_| Reject::Host)?),
            None => None,
        };
        let target = request.uri.authority().map(http::uri::Authority::as_str);
        let host = match (header, target) {
            // A target and a Host that differ are two requests in one.
            (Some(header), Some(target)) if !header.eq_ignore_ascii_case(target) => return Err(Reject::Host),
            (Some(host), _) => host,
            (None, Some(host)) if request.version == http::Version::HTTP_2 => host,
            // RFC 9112 section 3.2: HTTP/1.1 wants the field whatever the target.
            (None, Some(_)) => return Err(Reject::Host),
            (None, None) if request.version == http::Version::HTTP_10 => return Ok(Cow::Borrowed("")),
            (None, None) => return Err(Reject::Host),
        };
        canonical_host(host).ok_or(Reject::Host)
    }
}

/// Digits alone, and no zeros before them: some take those for octal.
fn is_plain_number(value: &HeaderValue) -> bool {
    match value.as_bytes() {
        [] | [b'0', _, ..] => false,
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

/// The path, in its one spelling.
pub(super) fn path(request: &RequestHead) -> Result<CanonicalPath, Reject> {
    let target = request.uri.path_and_query().ok_or(Reject::Path(crate::routing::path::PathError::NotAbsolute))?;
    CanonicalPath::parse(target).map_err(Reject::Path)
}

pub(super) fn origin(connection: &Connection, headers: &HeaderMap, trusted: &TrustedProxies) -> Origin {
    if connection.is_silent_proxy {
        return Origin { client: connection.peer, https: connection.tls, trusted: false };
    }
    Origin::of(connection.peer, connection.tls, headers, trusted)
}

/// Where request ids come from: a random start for the process, then a count. They name, they protect nothing.
#[derive(Debug)]
pub(super) struct RequestIds {
    /// In hexadecimal.
    prefix: [u8; 16],
    next: AtomicU64,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        let mut random = [0; 8];
        // Without randomness two processes might share ids, which is a nuisance and no more.
        let _ = aws_lc_rs::rand::fill(&mut random);
        Self { prefix: hex(u64::from_ne_bytes(random)), next: AtomicU64::new(1) }
    }

    /// The id that a trusted proxy gave, else a new one. It comes but once: HTTP/2 shall not put it into its tables, where it
    /// would take the room of what comes again.
    pub(super) fn id(&self, headers: &HeaderMap, trusted: bool) -> HeaderValue {
        let mut id = self.given_or_new(headers, trusted);
        id.set_sensitive(true);
        id
    }

    fn given_or_new(&self, headers: &HeaderMap, trusted: bool) -> HeaderValue {
        if trusted && let Some(given) = headers.get(X_REQUEST_ID).filter(|value| is_sound_id(value)) {
            return given.clone();
        }
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let mut id = Id { text: [0; 32], length: 24 };
        id.text[..16].copy_from_slice(&self.prefix);
        if count >> 32 == 0 {
            id.text[16..24].copy_from_slice(&hex::<8>(count));
        } else {
            let leading = count.leading_zeros() as usize / 4;
            id.length = 32 - leading;
            id.text[16..id.length].copy_from_slice(&hex::<16>(count)[leading..]);
        }
        HeaderValue::from_maybe_shared(Bytes::from_owner(id)).unwrap_or(HeaderValue::from_static("none"))
    }
}

/// An id's text beside the count of those who share it, which makes one allocation of the two.
struct Id {
    text: [u8; 32],
    length: usize,
}

impl AsRef<[u8]> for Id {
    fn as_ref(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// The last digits of a number.
fn hex<const DIGITS: usize>(number: u64) -> [u8; DIGITS] {
    std::array::from_fn(|place| b"0123456789abcdef"[(number >> (4 * (DIGITS - 1 - place))) as usize & 15])
}

fn is_sound_id(value: &HeaderValue) -> bool {
    let sound =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'=' | b'/' | b'+');
    (1..=128).contains(&value.len()) && value.as_bytes().iter().all(sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_a_prefix_and_a_count_of_eight_digits_or_more() {
        let ids = RequestIds { prefix: hex(0x0123_4567_89ab_cdef), next: AtomicU64::new(0x1f) };
        assert_eq!(ids.id(&HeaderMap::new(), false), "0123456789abcdef0000001f");
        ids.next.store(0x9_0000_0000, Ordering::Relaxed);
        assert_eq!(ids.id(&HeaderMap::new(), false), "0123456789abcdef900000000");
    }
}
