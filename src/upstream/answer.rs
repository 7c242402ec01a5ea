//! The head of an HTTP/1.1 server's answer, out of the bytes as they come (RFC 9112 sections 4 and 6). An answer that has no
//! clear end is an error.

use std::io;

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use hyper::ext::ReasonPhrase;

use crate::net::headers::{connection_options, is_hop_by_hop, named_by};
use crate::net::http1::{Known, LineEnd, Lines, Most, Remaining, field, number};
use crate::net::response::ResponseHead;

/// Largest head of an answer, and largest trailers.
pub(super) const MOST: Most = Most { bytes: 128 * 1024, fields: 256 };
/// Longest `Content-Length` in digits; one more may not fit into 64 bits.
const LENGTH_DIGITS: usize = 19;

/// The head of an answer. What it said of its own hop alone is gone, but for that of a switch of protocols.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: ResponseHead,
    pub(super) body: Remaining,
    /// Whether the server goes on with the connection after this answer (RFC 9112 section 9.3).
    pub(super) goes_on: bool,
}

/// What fields say of the hop.
#[derive(Clone, Default)]
struct Hop {
    chunked: bool,
    length: Option<u64>,
    closes: bool,
    stays: bool,
    /// Fields that are the hop's beside the usual ones.
    named: Vec<HeaderName>,
}

impl Hop {
    /// Takes a length. Said twice alike, it is said once: gives the first alone.
    fn length(&mut self, value: &HeaderValue) -> io::Result<Option<u64>> {
        let length = number(value.as_bytes(), 10, LENGTH_DIGITS).ok_or_else(|| invalid("a length that is none"))?;
        match self.length.replace(length) {
            None => Ok(Some(length)),
            Some(known) if known == length => Ok(None),
            Some(_) => Err(invalid("two lengths")),
        }
    }

    /// No other coding was asked for, and none could be passed on.
    fn coding(&mut self, value: &HeaderValue) -> io::Result<()> {
        let chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
        match chunked && !std::mem::replace(&mut self.chunked, true) {
            true => Ok(()),
            false => Err(invalid("a transfer coding that nobody asked for")),
        }
    }

    fn connection(&mut self, value: &HeaderValue) {
        for option in connection_options(value) {
            self.closes |= option.eq_ignore_ascii_case(b"close");
            self.stays |= option.eq_ignore_ascii_case(b"keep-alive");
            self.named.extend(named_by(option));
        }
    }

    /// RFC 9112 section 6.3.
    fn framing(&self, status: StatusCode, version: Version, asked: &Method) -> io::Result<Remaining> {
        if *asked == Method::HEAD
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        {
            return Ok(Remaining::NOTHING);
        }
        match (self.chunked, self.length) {
            (true, _) if version == Version::HTTP_10 => Err(invalid("chunks in an answer of HTTP/1.0")),
            (true, _) => Ok(Remaining::ChunkSize),
            (false, Some(length)) => Ok(Remaining::Bytes(length)),
            (false, None) => Ok(Remaining::UntilClose),
        }
    }

    fn goes_on(&self, body: Remaining, version: Version) -> bool {
        body != Remaining::UntilClose && if version == Version::HTTP_11 { !self.closes } else { self.stays }
    }
}

/// What the answers of a connection had in common so far.
#[derive(Default)]
pub(super) struct Seen {
    known: Known,
    again: Option<Box<Again>>,
}

/// The head of two answers in a row, word for word, and what was made of it. It is likely to come again.
struct Again {
    text: Bytes,
    version: Version,
    status: StatusCode,
    fields: Arc<HeaderMap>,
    hop: Hop,
}

/// Most that is kept to be compared.
const AGAIN_BYTES: usize = 4 * 1024;

/// Takes the head of an answer to `asked` out of `input`, when all of it is there; what was said before it for information is
/// dropped.
pub(super) fn take_head(
    input: &mut BytesMut,
    lines: &mut Lines,
    seen: &mut Seen,
    asked: &Method,
) -> io::Result<Option<Head>> {
    loop {
        if lines.are_new()
            && let Some(again) = seen.again.as_deref().filter(|again| input.starts_with(&again.text))
        {
            input.advance(again.text.len());
            return Head::new(again.version, again.status, Arc::clone(&again.fields), &again.hop, asked).map(Some);
        }
        let Some(bytes) = lines.take(input, MOST, LineEnd::AnyLf)? else { return Ok(None) };
        let fields = lines.count().saturating_sub(1);
        let mut lines = lines.of(&bytes);
        let (version, status, reason) = status_line(lines.next().unwrap_or_default())?;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            match lines.all(|line| field(&bytes, line).is_some()) {
                true => continue,
                false => return Err(invalid("a field that is none")),
            }
        }
        let (mut hop, mut all_known) = (Hop::default(), true);
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        let parsed = lines.enumerate().map(|(place, line)| {
            let known = seen.known.get(place, line);
            all_known &= known.is_some();
            known.or_else(|| seen.known.learn(place, &bytes, line))
        });
        let fields = Arc::new(travelling(HeaderMap::with_capacity(fields), parsed, switches, &mut hop)?);
        if all_known && reason.is_none() && bytes.len() <= AGAIN_BYTES {
            let text = Bytes::copy_from_slice(&bytes);
            seen.again = Some(Box::new(Again { text, version, status, fields: Arc::clone(&fields), hop: hop.clone() }));
        }
        let mut head = Head::new(version, status, fields, &hop, asked)?;
        head.response.reason = reason;
        return Ok(Some(head));
    }
}

impl Head {
    fn new(
        version: Version,
        status: StatusCode,
        headers: Arc<HeaderMap>,
        hop: &Hop,
        asked: &Method,
    ) -> io::Result<Self> {
        let body = hop.framing(status, version, asked)?;
        let response = ResponseHead { status, headers, reason: None };
        Ok(Self { response, body, goes_on: hop.goes_on(body, version) })
    }
}

/// RFC 9112 section 4, with the reason when it is not the usual one. Many a server leaves the space away that stands before
/// an empty reason.
fn status_line(line: &[u8]) -> io::Result<(Version, StatusCode, Option<ReasonPhrase>)> {
    let (version, rest) = match line.split_at_checked(b"HTTP/1.x ".len()) {
        Some((b"HTTP/1.1 ", rest)) => (Version::HTTP_11, rest),
        Some((b"HTTP/1.0 ", rest)) => (Version::HTTP_10, rest),
        _ => return Err(invalid("no status line of HTTP/1")),
    };
    let (status, reason) = rest.split_at_checked(3).ok_or_else(|| invalid("no status"))?;
    let status = StatusCode::from_bytes(status).map_err(invalid)?;
    let reason = match reason {
        [] => reason,
        [b' ', reason @ ..] => reason,
        _ => return Err(invalid("no status")),
    };
    let is_usual = status.canonical_reason().map(str::as_bytes) == Some(reason);
    let reason = (!is_usual).then(|| ReasonPhrase::try_from(reason)).transpose().map_err(invalid)?;
    Ok((version, status, reason))
}

/// The fields of a head that go further; what the others say of the hop comes to be known.
fn travelling(
    mut fields: HeaderMap,
    parsed: impl Iterator<Item = Option<(HeaderName, HeaderValue)>>,
    switches: bool,
    hop: &mut Hop,
) -> io::Result<HeaderMap> {
    for field in parsed {
        let (name, mut value) = field.ok_or_else(|| invalid("a field that is none"))?;
        let travels = match name.as_str() {
            "content-length" => match hop.length(&value)? {
                Some(length) if value.as_bytes().starts_with(b"0") => {
                    value = length.into();
                    true
                }
                length => length.is_some(),
            },
            "transfer-encoding" => {
                hop.coding(&value)?;
                false
            }
            "connection" => {
                hop.connection(&value);
                switches
            }
            // Trailers themselves travel on, so their announcement does.
            "trailer" => true,
            _ => switches || !is_hop_by_hop(&name),
        };
        if travels {
            fields.append(name, value);
        }
    }
    if hop.chunked && hop.length.is_some() {
        fields.remove(header::CONTENT_LENGTH);
    }
    for name in hop.named.iter().filter(|name| !switches && **name != header::TRAILER) {
        fields.remove(name);
    }
    Ok(fields)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_the_hop_ends_with_it() {
        let hop =
            "Connection: X-Hop, Trailer, Content-Length\r\nX-Hop: a\r\nKeep-Alive: timeout=5\r\nTrailer: T\r\nA: b\r\n";
        for (status, fields, left) in [
            ("200", "Content-Length: 007\r\n", &["content-length: 7"][..]),
            (
                "200",
                "Content-Length: 7\r\nContent-Length: 7\r\nA: b\r\nA: c\r\n",
                &["a: b", "a: c", "content-length: 7"],
            ),
            ("200", "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n", &[]),
            ("200", &format!("Content-Length: 7\r\n{hop}"), &["a: b", "content-length: 7", "trailer: T"]),
            ("101", "Connection: upgrade\r\nUpgrade: x\r\n", &["connection: upgrade", "upgrade: x"]),
        ] {
            let said = format!("HTTP/1.1 103 Early Hints\r\nE: h\r\n\r\nHTTP/1.1 {status} x\r\n{fields}\r\n");
            let head =
                take_head(&mut BytesMut::from(&*said), &mut Lines::default(), &mut Seen::default(), &Method::GET)
                    .unwrap()
                    .unwrap();
            let line = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
            let mut found: Vec<_> = head.response.headers.iter().map(line).collect();
            found.sort_unstable();
            assert_eq!(found, left, "{said}");
        }
    }

    #[test]
    fn what_comes_again_is_read_as_it_was() {
        let read = |said: &str, asked: &Method, seen: &mut Seen| {
            let mut input = BytesMut::from(said);
            let read = take_head(&mut input, &mut Lines::default(), seen, asked);
            format!("{read:?} and then {input:?}")
        };
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 03\r\nA: b\r\nA: c\r\n";
        let mut again = 0;
        for said in [
            "HTTP/1.1 200 OK\r\n\r\nabc",
            &format!("{head}\r\nabc"),
            &format!("{head}Connection: close, A\r\n\r\nabc"),
            &format!("{head}Connection: keep-alive\nTransfer-Encoding: chunked\n\n1\r\na"),
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\nabc",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabc",
            // Not kept: a reason of its own, nothing that is an answer, a length that differs, no end.
            "HTTP/1.1 200 Fine\r\nA: b\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n",
        ] {
            let mut seen = Seen::default();
            for asked in [Method::GET, Method::GET, Method::GET, Method::HEAD, Method::POST] {
                again += usize::from(seen.again.is_some());
                for said in [said, &format!("HTTP/1.1 100 Continue\r\n\r\n{said}"), &said.replace("A: b", "A: d")] {
                    assert_eq!(read(said, &asked, &mut seen), read(said, &asked, &mut Seen::default()), "{said:?}");
                }
            }
        }
        assert_eq!(again, 7 * 4);
    }
}
