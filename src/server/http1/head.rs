//! The head of a request, out of bytes as they come (RFC 9112 sections 2 to 6). What two readers could read as two
//! different requests is refused: a line that ends in LF alone, a `#` in the target, `Content-Length` beside
//! `Transfer-Encoding`, either of them twice. What passes has one framing, which is how the next head is found.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri, Version};

use crate::net::headers::has_token;
use crate::net::http1::{Known, LineEnd, Lines, Malformed, Most, Remaining, number};

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
    pub(super) request: Request<()>,
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

/// Takes a head out of `input`, when all of it is there.
pub(super) fn take(
    input: &mut BytesMut,
    lines: &mut Lines,
    known: &mut Known,
    most: Most,
) -> Result<Option<Head>, Unfit> {
    while input.starts_with(b"\r\n") {
        input.advance(2);
    }
    if !has_begun(input) {
        return Ok(None);
    }
    let bytes = lines.take(input, most, LineEnd::CrLf)?;
    bytes.map(|bytes| parse(&bytes, lines, known)).transpose()
}

fn parse(bytes: &Bytes, lines: &Lines, known: &mut Known) -> Result<Head, Unfit> {
    let fields = lines.count().saturating_sub(1);
    let mut lines = lines.of(bytes);
    let (method, uri, version) = request_line(bytes, lines.next().unwrap_or_default())?;
    let is_http11 = version == Version::HTTP_11;
    let mut said = Said::default();
    let mut headers = HeaderMap::with_capacity(fields);
    for (place, line) in lines.enumerate() {
        let (name, value) = known.field(place, bytes, line).ok_or(Unfit::Syntax)?;
        match name {
            header::CONTENT_LENGTH => said.length(&value)?,
            header::TRANSFER_ENCODING => said.coding(&value)?,
            header::CONNECTION => {
                said.close |= has_token([&value], "close");
                said.keep_alive |= has_token([&value], "keep-alive");
            }
            header::EXPECT => said.expects_continue = value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            header::UPGRADE => said.upgrade = true,
            header::TE => said.trailers = value.as_bytes().eq_ignore_ascii_case(b"trailers"),
            _ => {}
        }
        headers.append(name, value);
    }
    if said.chunked && !is_http11 {
        return Err(Unfit::Syntax);
    }
    let facts = Facts {
        method: method.clone(),
        version,
        persists: !said.close && (is_http11 || said.keep_alive),
        takes_trailers: said.trailers,
    };
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = version;
    *request.headers_mut() = headers;
    Ok(Head {
        request,
        body: if said.chunked { Remaining::ChunkSize } else { Remaining::Bytes(said.length.unwrap_or(0)) },
        facts,
        expects_continue: is_http11 && said.expects_continue,
        names_upgrade: is_http11 && said.upgrade,
    })
}

/// RFC 9112 section 3: with one space in each place.
fn request_line(bytes: &Bytes, line: &[u8]) -> Result<(Method, Uri, Version), Unfit> {
    let mut spaces = memchr::memchr_iter(b' ', line);
    let (Some(first), Some(second), None) = (spaces.next(), spaces.next(), spaces.next()) else {
        return Err(Unfit::Syntax);
    };
    let version = match &line[second + 1..] {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        _ => return Err(Unfit::Syntax),
    };
    let method = Method::from_bytes(&line[..first]).map_err(|_| Unfit::Syntax)?;
    let target = &line[first + 1..second];
    if memchr::memchr(b'#', target).is_some() {
        return Err(Unfit::Fragment);
    }
    if target.len() > TARGET_BYTES {
        return Err(Unfit::TargetBytes);
    }
    let uri = Uri::from_maybe_shared(bytes.slice_ref(target)).map_err(|_| Unfit::Syntax)?;
    Ok((method, uri, version))
}

/// What the fields of a head say of its framing and its connection, so far.
#[derive(Default)]
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
