//! The answer of an HTTP/1.1 server, out of the bytes as they come (RFC 9112 sections 4, 6 and 7): its head, where its body
//! ends, and its body. Whatever has no clear end is an error.

use std::io;
use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use hyper::ext::ReasonPhrase;

use crate::net::headers::{connection_options, is_hop_by_hop, named_by};

/// Largest head of an answer, and largest trailers.
const HEAD_BYTES: usize = 128 * 1024;
/// Fields in the head of an answer.
const FIELDS: usize = 256;
/// Longest line with the size of a chunk; what follows the size means nothing to anybody.
const CHUNK_LINE_BYTES: usize = 1024;

/// How the end of an answer's body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Bytes(u64),
    Chunked,
    UntilClose,
}

/// The head of an answer. What it said of its own hop alone is gone, but for that of a switch of protocols.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) length: Length,
    /// Whether the server goes on with the connection after this answer (RFC 9112 section 9.3).
    pub(super) goes_on: bool,
}

/// What fields say of the hop.
#[derive(Default)]
struct Hop<'a> {
    chunked: bool,
    /// As a number, and as it is written.
    length: Option<(u64, &'a [u8])>,
    closes: bool,
    stays: bool,
    /// Fields that are the hop's beside the usual ones.
    named: Vec<HeaderName>,
}

impl<'a> Hop<'a> {
    /// Takes a length. Said twice alike, it is said once: gives the first alone.
    fn length(&mut self, text: &'a [u8]) -> io::Result<Option<u64>> {
        let known = self.length.map(|(_, known)| known);
        let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let length = digits.and_then(|digits| digits.parse().ok()).filter(|_| known.is_none_or(|known| known == text));
        let length = length.ok_or_else(|| invalid("a length that is none"))?;
        self.length = Some((length, text));
        Ok(known.is_none().then_some(length))
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
    fn framing(&self, status: StatusCode, version: Version, asked: &Method) -> io::Result<Length> {
        if *asked == Method::HEAD
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        {
            return Ok(Length::Bytes(0));
        }
        match (self.chunked, self.length) {
            (true, _) if version == Version::HTTP_10 => Err(invalid("chunks in an answer of HTTP/1.0")),
            (true, _) => Ok(Length::Chunked),
            (false, Some((length, _))) => Ok(Length::Bytes(length)),
            (false, None) => Ok(Length::UntilClose),
        }
    }

    fn goes_on(&self, length: Length, version: Version) -> bool {
        length != Length::UntilClose && if version == Version::HTTP_11 { !self.closes } else { self.stays }
    }
}

/// Takes the head of an answer to `asked` out of `input`, when all of it is there; what was said before it for information is
/// dropped. `searched` is how much of the input was searched in vain before.
pub(super) fn take_head(input: &mut BytesMut, searched: &mut usize, asked: &Method) -> io::Result<Option<Head>> {
    loop {
        let Some(bytes) = take_fields(input, searched)? else { return Ok(None) };
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let complete = config.parse_response_with_uninit_headers(&mut parsed, &bytes, &mut fields).map_err(invalid)?;
        if !complete.is_complete() {
            return Err(invalid("a head that ends too early"));
        }
        let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(invalid)?;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
        let mut response = Response::new(());
        (*response.version_mut(), *response.status_mut()) = (version, status);
        let reason = parsed.reason.unwrap_or_default();
        if status.canonical_reason() != Some(reason)
            && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
        {
            response.extensions_mut().insert(reason);
        }
        let mut hop = Hop::default();
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = travelling(&bytes, parsed.headers, switches, &mut hop)?;
        let length = hop.framing(status, version, asked)?;
        return Ok(Some(Head { response, length, goes_on: hop.goes_on(length, version) }));
    }
}

/// The fields of a head that go further; what the others say of the hop comes to be known.
fn travelling<'a>(
    bytes: &Bytes,
    parsed: &[httparse::Header<'a>],
    switches: bool,
    hop: &mut Hop<'a>,
) -> io::Result<HeaderMap> {
    // With room for the request's id.
    let mut fields = HeaderMap::with_capacity(parsed.len() + 1);
    for field in parsed {
        let (name, mut value) = name_and_value(bytes, field)?;
        let travels = match name.as_str() {
            "content-length" => match hop.length(field.value)? {
                Some(length) if field.value.starts_with(b"0") => {
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

/// The value is not copied: it is a part of `bytes`.
fn name_and_value(bytes: &Bytes, field: &httparse::Header<'_>) -> io::Result<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(invalid)?;
    let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).map_err(invalid)?;
    Ok((name, value))
}

/// Takes a head or trailers with the empty line that ends them.
fn take_fields(input: &mut BytesMut, searched: &mut usize) -> io::Result<Option<Bytes>> {
    if input.len() == *searched {
        return Ok(None);
    }
    // The last line may have come without what follows it.
    let from = searched.saturating_sub(2);
    let end = memchr::memchr_iter(b'\n', &input[from..]).find_map(|at| match &input[from + at + 1..] {
        [b'\n', ..] => Some(from + at + 2),
        [b'\r', b'\n', ..] => Some(from + at + 3),
        _ => None,
    });
    *searched = if end.is_some() { 0 } else { input.len() };
    match end {
        Some(end) if end <= HEAD_BYTES => Ok(Some(input.split_to(end).freeze())),
        None if input.len() <= HEAD_BYTES => Ok(None),
        _ => Err(invalid("a head that is too large")),
    }
}

/// An answer's body, as far as it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Bytes that have to come.
    Bytes(u64),
    UntilClose,
    /// The line with a chunk's size is next.
    ChunkSize,
    /// Bytes of the chunk that have to come.
    Chunk(u64),
    ChunkEnd,
    /// With how much was searched for their end.
    Trailers(usize),
}

impl Default for Answer {
    fn default() -> Self {
        Self::Bytes(0)
    }
}

impl Answer {
    pub(super) fn new(length: Length) -> Self {
        match length {
            Length::Bytes(bytes) => Self::Bytes(bytes),
            Length::Chunked => Self::ChunkSize,
            Length::UntilClose => Self::UntilClose,
        }
    }

    pub(super) fn is_complete(self) -> bool {
        self == Self::Bytes(0)
    }

    pub(super) fn size_hint(self) -> SizeHint {
        match self {
            Self::Bytes(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }

    /// The server has closed: the end of a body that only that ends, and else an error.
    pub(super) fn cut(&mut self) -> io::Result<()> {
        match std::mem::take(self) {
            Self::UntilClose => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed before the end of its answer")),
        }
    }

    /// Takes the next piece out of `input`; `None` when nothing is there, or nothing to come.
    pub(super) fn take(&mut self, input: &mut BytesMut) -> io::Result<Option<Frame<Bytes>>> {
        loop {
            match self {
                Self::Bytes(left) | Self::Chunk(left) if *left > 0 => {
                    let bytes = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= bytes as u64;
                    return Ok(Some(bytes).filter(|bytes| *bytes > 0).map(|bytes| data(input, bytes)));
                }
                Self::Bytes(_) => return Ok(None),
                Self::UntilClose => return Ok(Some(input.len()).filter(|b| *b > 0).map(|bytes| data(input, bytes))),
                Self::Chunk(_) => *self = Self::ChunkEnd,
                Self::ChunkSize => {
                    let Some((line, size)) = chunk_size(input)? else { return Ok(None) };
                    input.advance(line);
                    *self = if size == 0 { Self::Trailers(0) } else { Self::Chunk(size) };
                }
                Self::ChunkEnd => match &input[..] {
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        *self = Self::ChunkSize;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(invalid("a chunk that is longer than its size")),
                },
                Self::Trailers(_) => return self.take_trailers(input),
            }
        }
    }

    fn take_trailers(&mut self, input: &mut BytesMut) -> io::Result<Option<Frame<Bytes>>> {
        if input.starts_with(b"\r\n") {
            input.advance(2);
            *self = Self::default();
            return Ok(None);
        }
        let Self::Trailers(searched) = self else { return Ok(None) };
        let Some(bytes) = take_fields(input, searched)? else { return Ok(None) };
        *self = Self::default();
        // Where chunks go, a line ends in CRLF.
        if memchr::memchr_iter(b'\n', &bytes).any(|at| !bytes[..at].ends_with(b"\r")) {
            return Err(invalid("an end of line in trailers that is none"));
        }
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        match httparse::parse_headers(&bytes, &mut fields).map_err(invalid)? {
            httparse::Status::Complete((_, parsed)) => {
                let fields = parsed.iter().map(|field| name_and_value(&bytes, field));
                Ok(Some(Frame::trailers(fields.collect::<io::Result<HeaderMap>>()?)))
            }
            httparse::Status::Partial => Err(invalid("trailers that end too early")),
        }
    }
}

/// The length of the line with a chunk's size, and the size.
fn chunk_size(input: &[u8]) -> io::Result<Option<(usize, u64)>> {
    let end = memchr::memchr(b'\n', input);
    if end.unwrap_or(input.len()) > CHUNK_LINE_BYTES {
        return Err(invalid("a size of a chunk that is too long"));
    }
    let Some(line) = end.map(|end| &input[..=end]) else { return Ok(None) };
    // The parser takes nothing for 0, and would overlook an end of line that has no CR.
    match httparse::parse_chunk_size(line) {
        Ok(httparse::Status::Complete((_, size))) if line[0].is_ascii_hexdigit() => Ok(Some((line.len(), size))),
        _ => Err(invalid("no size of a chunk")),
    }
}

fn data(input: &mut BytesMut, bytes: usize) -> Frame<Bytes> {
    Frame::data(input.split_to(bytes).freeze())
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
            let head = take_head(&mut BytesMut::from(&*said), &mut 0, &Method::GET).unwrap().unwrap();
            let line = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
            let mut found: Vec<_> = head.response.headers().iter().map(line).collect();
            found.sort_unstable();
            assert_eq!(found, left, "{said}");
        }
    }
}
