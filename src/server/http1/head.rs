//! The head of a request, out of bytes as they come (RFC 9112 sections 2 to 6). What two readers could read as two
//! different requests is refused: a line that ends in LF alone, a `#` in the target, `Content-Length` beside
//! `Transfer-Encoding`, either of them twice. What passes has one framing, which is how the next head is found.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri, Version};

use crate::net::headers::has_token;
use crate::net::http1::{Known, LineEnd, Lines, Malformed, Most, Remaining, number};
use crate::net::request::RequestHead;

/// Longest target.
const TARGET_BYTES: usize = 65_534;
/// Longest `Content-Length` in digits; one more may not fit into 64 bits.
const LENGTH_DIGITS: usize = 19;

/// Why what came is answered without a look at what it asks for, and is the last of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::server) enum Unfit {
    #[error("no request")]
    Syntax,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The target has a fragment, which belongs to no request.
    #[error("the target has a fragment")]
    Fragment,
    #[error("Content-Length twice, or not one number")]
    Length,
    #[error("Transfer-Encoding twice, or not `chunked` alone")]
    Coding,
    #[error("Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    #[error("a target that is too long")]
    TargetBytes,
}

impl Unfit {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Malformed(Malformed::TooLarge | Malformed::TooMany) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetBytes => StatusCode::URI_TOO_LONG,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// For metrics and logs: what is malformed, or else which limit was reached.
    pub(in crate::server) fn reason(self) -> Result<&'static str, &'static str> {
        match self {
            Self::Syntax | Self::Malformed(Malformed::Trailers) => Ok("syntax"),
            Self::Malformed(Malformed::LineEnd) => Ok("line_end"),
            Self::Malformed(Malformed::Chunk) => Ok("chunk"),
            Self::Fragment => Ok("fragment"),
            Self::Length => Ok("length"),
            Self::Coding => Ok("coding"),
            Self::LengthAndCoding => Ok("length_and_coding"),
            Self::Malformed(Malformed::TooLarge) | Self::TargetBytes => Err("header_bytes"),
            Self::Malformed(Malformed::TooMany) => Err("header_count"),
        }
    }
}

/// A request without its body, and what its head says of the connection.
#[derive(Debug)]
pub(super) struct Head {
    /// It is handed on a few times, which moves a pointer.
    pub(super) request: Box<RequestHead>,
    pub(super) body: Remaining,
    pub(super) facts: Facts,
    /// The body is sent when it is asked for (RFC 9110 section 10.1.1).
    pub(super) expects_continue: bool,
    /// It may be one that switches protocols.
    pub(super) names_upgrade: bool,
}

/// What the answer has to know.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) method: Method,
    pub(super) version: Version,
    /// The caller goes on with the connection after the answer (RFC 9112 section 9.3).
    pub(super) persists: bool,
    /// The caller takes trailers (RFC 9110 section 6.5.1).
    pub(super) takes_trailers: bool,
}

/// Whether a head has begun. Empty lines may come before one (RFC 9112 section 2.2).
pub(super) fn has_begun(input: &[u8]) -> bool {
    !matches!(input, [] | [b'\r'])
}

/// What the heads of a connection had in common so far.
#[derive(Default)]
pub(super) struct Seen {
    known: Known,
    again: Option<Box<Again>>,
}

/// All that followed the request lines of two heads in a row, word for word. It is likely to come again.
struct Again {
    text: Vec<u8>,
    headers: Arc<HeaderMap>,
    said: Said,
}

/// Most that is kept to be compared.
const AGAIN_BYTES: usize = 4 * 1024;

impl Seen {
    /// The end of a head that goes on as the two before it did, and what it says.
    fn again(&self, input: &[u8]) -> Option<(usize, &Again)> {
        let again = self.again.as_deref()?;
        let start = memchr::memchr(b'\n', input)? + 1;
        let is_line = input[..start].ends_with(b"\r\n");
        (is_line && input[start..].starts_with(&again.text)).then_some((start + again.text.len(), again))
    }
}

/// Takes a head out of `input`, when all of it is there.
pub(super) fn take(
    input: &mut BytesMut,
    lines: &mut Lines,
    seen: &mut Seen,
    most: Most,
) -> Result<Option<Head>, Unfit> {
    while input.starts_with(b"\r\n") {
        input.advance(2);
    }
    if !has_begun(input) {
        return Ok(None);
    }
    if lines.are_new()
        && let Some((end, again)) = seen.again(input).filter(|(end, _)| *end <= most.bytes)
    {
        let bytes = input.split_to(end).freeze();
        let line = request_line(&bytes, &bytes[..end - again.text.len() - b"\r\n".len()])?;
        return Head::new(line, Arc::clone(&again.headers), again.said).map(Some);
    }
    let bytes = lines.take(input, most, LineEnd::CrLf)?;
    bytes.map(|bytes| parse(&bytes, lines, seen)).transpose()
}

fn parse(bytes: &Bytes, lines: &Lines, seen: &mut Seen) -> Result<Head, Unfit> {
    let fields = lines.count().saturating_sub(1);
    let mut lines = lines.of(bytes);
    let first = lines.next().unwrap_or_default();
    let line = request_line(bytes, first)?;
    let (mut said, mut all_known) = (Said::default(), true);
    let mut headers = HeaderMap::with_capacity(fields);
    for (place, line) in lines.enumerate() {
        let (name, value) = match seen.known.get(place, line) {
            Some(field) => field,
            None => {
                all_known = false;
                seen.known.learn(place, bytes, line).ok_or(Unfit::Syntax)?
            }
        };
        said.note(&name, &value)?;
        headers.append(name, value);
    }
    let headers = Arc::new(headers);
    let text = &bytes[bytes.len().min(first.len() + b"\r\n".len())..];
    if all_known && text.len() <= AGAIN_BYTES {
        seen.again = Some(Box::new(Again { text: text.to_vec(), headers: Arc::clone(&headers), said }));
    }
    Head::new(line, headers, said)
}

impl Head {
    fn new((method, uri, version): (Method, Uri, Version), headers: Arc<HeaderMap>, said: Said) -> Result<Self, Unfit> {
        let is_http11 = version == Version::HTTP_11;
        if said.chunked && !is_http11 {
            return Err(Unfit::Syntax);
        }
        let facts = Facts {
            method: method.clone(),
            version,
            persists: !said.close && (is_http11 || said.keep_alive),
            takes_trailers: said.trailers,
        };
        Ok(Self {
            request: Box::new(RequestHead { method, uri, version, headers, switch: None, protocol: None }),
            body: if said.chunked { Remaining::ChunkSize } else { Remaining::Bytes(said.length.unwrap_or(0)) },
            facts,
            expects_continue: is_http11 && said.expects_continue,
            names_upgrade: is_http11 && said.upgrade,
        })
    }
}

/// RFC 9112 section 3: with one space in each place.
fn request_line(bytes: &Bytes, line: &[u8]) -> Result<(Method, Uri, Version), Unfit> {
    let (rest, version) = match line.split_last_chunk() {
        Some((rest, b" HTTP/1.1")) => (rest, Version::HTTP_11),
        Some((rest, b" HTTP/1.0")) => (rest, Version::HTTP_10),
        _ => return Err(Unfit::Syntax),
    };
    let space = rest.iter().position(|byte| *byte == b' ').ok_or(Unfit::Syntax)?;
    let method = Method::from_bytes(&rest[..space]).map_err(|_| Unfit::Syntax)?;
    let target = &rest[space + 1..];
    if memchr::memchr2(b' ', b'#', target).is_some() {
        return Err(if target.contains(&b' ') { Unfit::Syntax } else { Unfit::Fragment });
    }
    if target.len() > TARGET_BYTES {
        return Err(Unfit::TargetBytes);
    }
    let uri = Uri::from_maybe_shared(bytes.slice_ref(target)).map_err(|_| Unfit::Syntax)?;
    Ok((method, uri, version))
}

/// What the fields of a head say of its framing and its connection, so far.
#[derive(Clone, Copy, Default)]
struct Said {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    upgrade: bool,
    trailers: bool,
}

impl Said {
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Unfit> {
        match *name {
            header::CONTENT_LENGTH => self.length(value)?,
            header::TRANSFER_ENCODING => self.coding(value)?,
            header::CONNECTION => {
                self.close |= has_token([value], "close");
                self.keep_alive |= has_token([value], "keep-alive");
            }
            header::EXPECT => self.expects_continue = value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            header::UPGRADE => self.upgrade = true,
            header::TE => self.trailers = value.as_bytes().eq_ignore_ascii_case(b"trailers"),
            _ => {}
        }
        Ok(())
    }

    fn length(&mut self, value: &HeaderValue) -> Result<(), Unfit> {
        if self.chunked {
            return Err(Unfit::LengthAndCoding);
        }
        let length = number(value.as_bytes(), 10, LENGTH_DIGITS).filter(|_| self.length.is_none());
        self.length = Some(length.ok_or(Unfit::Length)?);
        Ok(())
    }

    fn coding(&mut self, value: &HeaderValue) -> Result<(), Unfit> {
        if self.length.is_some() {
            return Err(Unfit::LengthAndCoding);
        }
        if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(Unfit::Coding);
        }
        self.chunked = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::http1::Malformed;
    use crate::server::fuzzing::{is_read_alike, pieces_change_nothing, read_here};

    #[test]
    fn class_31_what_has_two_readings() {
        use Malformed::{Chunk, LineEnd};
        use Unfit::{Coding, Fragment, Length, LengthAndCoding, Syntax};
        let chunked = "Transfer-Encoding: chunked\r\n";
        let long = "x".repeat(200);
        for (head, body, expected) in [
            ("", "", None),
            ("Host: a\r\nX: y\r\n", "", None),
            ("Content-Length: 5\r\n", "a\nb\nc", None),
            ("content-length:5 \t\r\n", "12345", None),
            ("Content-Length-X: 5, 6\r\nX-Content-Length: y\r\n", "", None),
            (chunked, "5\r\na\nb\nc\r\n0\r\n\r\n", None),
            ("TRANSFER-ENCODING:CHUNKED\r\n", "a;x=\"y\"\r\n0123456789\r\n0\r\nX: y\r\n\r\n", None),
            (chunked, "0000000000000005 ; x\r\n12345\r\n000\r\n\r\n", None),
            (&format!("X: {long}\r\nContent-Length: 5\r\n"), "12345", None),
            (&format!("X{long}: y\r\n"), "", None),
            ("Host: a\n", "", Some(LineEnd.into())),
            ("Host: a\r\nX: y\n", "", Some(LineEnd.into())),
            (&format!("X: {long}\n"), "", Some(LineEnd.into())),
            ("\n", "", Some(LineEnd.into())),
            (chunked, "5\n12345\r\n0\r\n\r\n", Some(LineEnd.into())),
            (chunked, "5;x\n12345\r\n0\r\n\r\n", Some(LineEnd.into())),
            (chunked, "5\r\n12345\n0\r\n\r\n", Some(LineEnd.into())),
            (chunked, "0\r\n\n", Some(LineEnd.into())),
            (chunked, "0\r\nX: y\n\r\n", Some(LineEnd.into())),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "", Some(LengthAndCoding)),
            ("Transfer-Encoding: chunked\r\nX: y\r\nContent-Length: 5\r\n", "", Some(LengthAndCoding)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "", Some(LengthAndCoding)),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", "", Some(Length)),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", "", Some(Length)),
            ("Content-Length: 5, 5\r\n", "", Some(Length)),
            ("Content-Length: +5\r\n", "", Some(Length)),
            ("Content-Length: -5\r\n", "", Some(Length)),
            ("Content-Length: 0x5\r\n", "", Some(Length)),
            ("Content-Length: 5 5\r\n", "", Some(Length)),
            ("Content-Length: 5;\r\n", "", Some(Length)),
            ("Content-Length:\r\n", "", Some(Length)),
            ("Content-Length: \u{665}\r\n", "", Some(Length)),
            ("Content-Length: 18446744073709551616\r\n", "", Some(Length)),
            (&format!("Content-Length: {}5\r\n", " ".repeat(200)), "12345", None),
            (&format!("Content-Length: {}5\r\n", "0".repeat(200)), "", Some(Length)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "", Some(Coding)),
            ("Transfer-Encoding: gzip, chunked\r\n", "", Some(Coding)),
            ("Transfer-Encoding: chunked, chunked\r\n", "", Some(Coding)),
            ("Transfer-Encoding: chunked, identity\r\n", "", Some(Coding)),
            ("Transfer-Encoding: identity\r\n", "", Some(Coding)),
            ("Transfer-Encoding: xchunked\r\n", "", Some(Coding)),
            ("Transfer-Encoding: \"chunked\"\r\n", "", Some(Coding)),
            ("Transfer-Encoding:\r\n", "", Some(Coding)),
            ("Transfer-Encoding: chunked\u{c}\r\n", "", Some(Syntax)),
            (&format!("Transfer-Encoding: {}chunked\r\n", " ".repeat(200)), "0\r\n\r\n", None),
            (chunked, "\r\n12345\r\n", Some(Chunk.into())),
            (chunked, "+5\r\n12345\r\n", Some(Chunk.into())),
            (chunked, "-5\r\n12345\r\n", Some(Chunk.into())),
            (chunked, "0x5\r\n12345\r\n", Some(Chunk.into())),
            (chunked, " 5\r\n12345\r\n", Some(Chunk.into())),
            (chunked, "5_\r\n12345\r\n", Some(Chunk.into())),
            (chunked, "5\u{c}\r\n12345\r\n", Some(Chunk.into())),
            (chunked, "5 \t\u{b};x\r\n12345\r\n", Some(Chunk.into())),
            (chunked, "10000000000000005\r\n12345\r\n", Some(Chunk.into())),
            (chunked, "00000000000000005\r\n12345\r\n", Some(Chunk.into())),
            (chunked, "5\r\n123456\r\n0\r\n\r\n", Some(Chunk.into())),
            (chunked, "5\r\n1234\r\n0\r\n\r\n", Some(LineEnd.into())),
            (chunked, &format!("0\r\n{}\r\n", "X: y\r\n".repeat(100)), None),
            (chunked, &format!("0\r\n{}\r\n", "X: y\r\n".repeat(101)), Some(Malformed::TooMany.into())),
        ] {
            let request = format!("POST /a HTTP/1.1\r\n{head}\r\n{body}");
            // Behind another, and before one: the next head is found.
            for stream in [request.clone(), format!("\r\n{request}GET /b HTTP/1.1\r\n\r\n")] {
                assert_eq!(pieces_change_nothing(stream.as_bytes()), expected, "{stream:?}");
            }
        }
        for (stream, expected) in [
            ("GET /#a HTTP/1.1\r\n\r\n", Some(Fragment)),
            ("GET http://a/?b#c HTTP/1.1\r\n\r\n", Some(Fragment)),
            ("GET / HTTP/1.1\n\r\n", Some(LineEnd.into())),
            ("GET / HTTP/1.1\n\n", Some(LineEnd.into())),
            ("\nGET / HTTP/1.1\r\n\r\n", Some(LineEnd.into())),
            ("\r\n\nGET / HTTP/1.1\r\n\r\n", Some(LineEnd.into())),
            ("\rGET / HTTP/1.1\r\n\r\n", Some(Syntax)),
            ("\r\n\r\nGET / HTTP/1.1\r\nX: #\r\n\r\n", None),
        ] {
            assert_eq!(pieces_change_nothing(stream.as_bytes()), expected, "{stream:?}");
        }
    }

    /// Sound requests in many spellings, often with something changed here and there; and whether nothing was.
    fn stream() -> impl Strategy<Value = (Vec<u8>, bool)> {
        let field = prop_oneof![
            6 => Just(String::new()),
            1 => "[A-Za-z-]{1,20}: [ -~]{0,90}\r\n",
            1 => Just("Connection: keep-alive\r\n".to_owned()),
        ];
        let data = prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()], 0..40);
        let framed = (data, 0..3usize, prop::collection::vec(1..9usize, 0..5)).prop_map(|(data, kind, sizes)| {
            let mut bytes = Vec::new();
            match kind {
                0 => bytes.extend_from_slice(b"\r\n"),
                1 => {
                    bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", data.len()).as_bytes());
                    bytes.extend_from_slice(&data);
                }
                _ => {
                    bytes.extend_from_slice(b"transfer-encoding: Chunked\r\n\r\n");
                    let mut rest = &data[..];
                    for size in sizes {
                        let (chunk, left) = rest.split_at(size.min(rest.len()));
                        if !chunk.is_empty() {
                            bytes.extend_from_slice(format!("{:x};x\r\n", chunk.len()).as_bytes());
                            bytes.extend_from_slice(chunk);
                            bytes.extend_from_slice(b"\r\n");
                        }
                        rest = left;
                    }
                    bytes.extend_from_slice(b"0\r\nX: y\r\n\r\n");
                }
            }
            bytes
        });
        let request = ("[\r\n]{0,1}", 0..9u8, field, framed).prop_map(|(empty, number, field, framed)| {
            let empty = if empty.is_empty() { "" } else { "\r\n" };
            [format!("{empty}POST /{number} HTTP/1.1\r\n{field}").as_bytes(), &framed].concat()
        });
        let change = (any::<prop::sample::Index>(), prop::sample::select(&b"\r\n\0 \t:;#+05aCT"[..]), 0..3u8);
        (prop::collection::vec(request, 1..5), prop::collection::vec(change, 0..3)).prop_map(|(requests, changes)| {
            let (mut bytes, sound) = (requests.concat(), changes.is_empty());
            for (at, byte, how) in changes {
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => drop(bytes.remove(at)),
                }
            }
            (bytes, sound)
        })
    }

    #[test]
    fn what_comes_again_is_read_as_it_was() {
        let most = Most { bytes: 200, fields: 5 };
        let read = |head: &str, seen: &mut Seen| {
            format!("{:?}", take(&mut BytesMut::from(head), &mut Lines::default(), seen, most))
        };
        let mut again = 0;
        for rest in [
            "\r\n",
            "Host: a\r\n\r\n",
            "Host: a\r\nConnection: close\r\nUpgrade: x\r\nTE: trailers\r\nExpect: 100-continue\r\nA: b\r\n\r\n",
            "Host: a\r\nConnection: close\r\nUpgrade: x\r\nTE: trailers\r\nExpect: 100-continue\r\n\r\n",
            "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "Host: a\r\nContent-Length: 3\r\n\r\n",
            "Host: a\nContent-Length: 3\r\n\r\n",
            "Content-Length: 3\r\nContent-Length: 3\r\n\r\n",
        ] {
            let mut seen = Seen::default();
            for line in ["GET /a HTTP/1.1\r\n"; 3].into_iter().chain([
                "POST /b HTTP/1.1\r\n",
                "GET /a HTTP/1.0\r\n",
                "GET /a HTTP/1.1\n",
                "GET /# HTTP/1.1\r\n",
                "GET  HTTP/1.1\r\n",
                "\r\r\n",
                "\r\n\r\nGET /c HTTP/1.1\r\n",
                &format!("GET /{} HTTP/1.1\r\n", "x".repeat(180)),
            ]) {
                let head = format!("{line}{rest}");
                again += usize::from(seen.again.is_some());
                assert_eq!(read(&head, &mut seen), read(&head, &mut Seen::default()), "{head:?}");
            }
        }
        assert_eq!(again, 10 + 4 * 9);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        /// What is let through is read by the library as it is read here: where it goes on, so does this, at the same byte.
        #[test]
        fn class_31_the_library_frames_what_passes_in_the_same_way((stream, sound) in stream()) {
            let (_, unfit) = read_here(&stream, usize::MAX);
            prop_assert!(unfit.is_none() || !sound);
            is_read_alike(&stream);
        }

        #[test]
        fn class_31_pieces_change_nothing((stream, _) in stream()) {
            pieces_change_nothing(&stream);
        }
    }
}
