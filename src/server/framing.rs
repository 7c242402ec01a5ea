//! Where in an HTTP/1 message each byte stands (RFC 9112), as far as it takes to notice what two readers could read as two
//! different requests. The HTTP library reads the same bytes and judges their syntax; what it settles without a word is
//! refused here: a line that ends in LF alone, a `#` in the target, `Content-Length` beside `Transfer-Encoding`, either of
//! them twice. What passes has one framing, which is how the next head is found; the library has the same.

use memchr::memchr;

/// What could be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ambiguity {
    /// A line ends in LF without CR.
    LineEnd,
    /// The target has a fragment, which belongs to no request.
    Fragment,
    /// `Content-Length` twice, or not one number.
    Length,
    /// `Transfer-Encoding` twice, or not `chunked` alone.
    Coding,
    /// `Content-Length` and `Transfer-Encoding`.
    LengthAndCoding,
    /// A chunk's size is no number, or its data does not end where it should.
    Chunk,
}

impl Ambiguity {
    /// For metrics and logs.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::LineEnd => "line_end",
            Self::Fragment => "fragment",
            Self::Length => "length",
            Self::Coding => "coding",
            Self::LengthAndCoding => "length_and_coding",
            Self::Chunk => "chunk",
        }
    }
}

/// What is kept of a line that comes in pieces.
const LINE_START: usize = 64;
/// Longest field that is read here, so that it is read in the same way whether it comes in pieces or not.
const FIELD: usize = LINE_START - 2;
/// Longest `Content-Length` in digits; one more may not fit into 64 bits.
const LENGTH_DIGITS: usize = 19;
/// Longest chunk size in digits.
const SIZE_DIGITS: usize = 16;

/// Follows the bytes of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    pub(super) place: Place,
    line: Line,
    /// What the fields of the head say, so far.
    head: Head,
    /// Whether that of some complete head was to switch protocols.
    may_switch: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Head {
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Before a request. Empty lines may come (RFC 9112 section 2.2).
    Start,
    RequestLine,
    Field,
    /// So many bytes are left.
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
}

impl Framing {
    pub(super) fn new() -> Self {
        Self { place: Place::Start, line: Line::new(), head: Head::default(), may_switch: false }
    }

    /// Whether a head has begun and not ended.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(self.place, Place::RequestLine | Place::Field)
    }

    /// Whether a request asked to switch protocols, so that what follows may come to be no HTTP.
    pub(super) fn may_switch(&self) -> bool {
        self.may_switch
    }

    /// Takes the bytes that come next. What is wrong stands in the line whose first byte here is at the offset.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<(), (usize, Ambiguity)> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match self.place {
                Place::Body(left) => {
                    let (taken, left) = skip(left, rest);
                    self.place = if left == 0 { Place::Start } else { Place::Body(left) };
                    taken
                }
                Place::Chunk(left) => {
                    let (taken, left) = skip(left, rest);
                    self.place = if left == 0 { Place::ChunkEnd } else { Place::Chunk(left) };
                    taken
                }
                _ => self.follow_line(rest).map_err(|ambiguity| (at, ambiguity))?,
            };
        }
        Ok(())
    }

    /// Takes bytes up to the end of a line, or all of them. Gives how many.
    fn follow_line(&mut self, rest: &[u8]) -> Result<usize, Ambiguity> {
        if self.place == Place::Start && self.line.is_empty() && !matches!(rest.first(), Some(b'\r' | b'\n')) {
            self.place = Place::RequestLine;
        }
        let end = memchr(b'\n', rest);
        let piece = &rest[..end.unwrap_or(rest.len())];
        if self.place == Place::RequestLine && memchr(b'#', piece).is_some() {
            return Err(Ambiguity::Fragment);
        }
        let Some(end) = end else {
            self.line.keep(piece);
            return Ok(rest.len());
        };
        if self.line.is_empty() {
            self.end_line(piece)?;
        } else {
            self.line.keep(piece);
            let line = std::mem::replace(&mut self.line, Line::new());
            self.end_line(line.whole_or_start())?;
        }
        Ok(end + 1)
    }

    /// `line` is without its LF. One longer than `LINE_START` may be cut short, but for its last byte.
    fn end_line(&mut self, line: &[u8]) -> Result<(), Ambiguity> {
        let line = line.strip_suffix(b"\r").ok_or(Ambiguity::LineEnd)?;
        self.place = match self.place {
            Place::Start if line.is_empty() => Place::Start,
            Place::Start => return Err(Ambiguity::LineEnd),
            Place::RequestLine => {
                self.head = Head::default();
                Place::Field
            }
            Place::Field if line.is_empty() => {
                self.may_switch |= self.head.upgrade;
                match self.head {
                    Head { chunked: true, .. } => Place::ChunkSize,
                    Head { length: None | Some(0), .. } => Place::Start,
                    Head { length: Some(length), .. } => Place::Body(length),
                }
            }
            Place::Field => {
                self.head.field(line)?;
                Place::Field
            }
            Place::ChunkSize => match chunk_size(line).ok_or(Ambiguity::Chunk)? {
                0 => Place::Trailer,
                size => Place::Chunk(size),
            },
            Place::ChunkEnd if line.is_empty() => Place::ChunkSize,
            Place::ChunkEnd => return Err(Ambiguity::Chunk),
            Place::Trailer if line.is_empty() => Place::Start,
            Place::Trailer => Place::Trailer,
            Place::Body(_) | Place::Chunk(_) => self.place,
        };
        Ok(())
    }
}

impl Head {
    fn field(&mut self, line: &[u8]) -> Result<(), Ambiguity> {
        match line.first() {
            Some(b'c' | b'C') => {
                let Some(value) = value_of(line, b"content-length") else { return Ok(()) };
                if self.chunked {
                    return Err(Ambiguity::LengthAndCoding);
                }
                if self.length.is_some() || line.len() > FIELD {
                    return Err(Ambiguity::Length);
                }
                self.length = Some(number(value, 10, LENGTH_DIGITS).ok_or(Ambiguity::Length)?);
            }
            Some(b't' | b'T') => {
                let Some(value) = value_of(line, b"transfer-encoding") else { return Ok(()) };
                if self.length.is_some() {
                    return Err(Ambiguity::LengthAndCoding);
                }
                if self.chunked || line.len() > FIELD || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Ambiguity::Coding);
                }
                self.chunked = true;
            }
            Some(b'u' | b'U') => self.upgrade |= value_of(line, b"upgrade").is_some(),
            _ => {}
        }
        Ok(())
    }
}

/// The start of a line that comes in pieces, and its last byte.
#[derive(Debug)]
struct Line {
    start: [u8; LINE_START],
    length: usize,
}

impl Line {
    fn new() -> Self {
        Self { start: [0; LINE_START], length: 0 }
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds a piece. What does not fit is passed over, but for the last byte.
    fn keep(&mut self, piece: &[u8]) {
        let Some(&last) = piece.last() else { return };
        let free = &mut self.start[self.length..];
        let kept = piece.len().min(free.len());
        free[..kept].copy_from_slice(&piece[..kept]);
        self.length += kept;
        if self.length == LINE_START {
            self.start[LINE_START - 1] = last;
        }
    }

    fn whole_or_start(&self) -> &[u8] {
        &self.start[..self.length]
    }
}

/// How many of the bytes belong to the `left` ones, and how many of these are left then.
fn skip(left: u64, bytes: &[u8]) -> (usize, u64) {
    let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    (taken, left - taken as u64)
}

/// What stands behind the colon, if the field has that name. No name has a space before its colon: the library sees to it.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (own, rest) = line.split_at_checked(name.len())?;
    let mut value = rest.strip_prefix(b":").filter(|_| own.eq_ignore_ascii_case(name))?;
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    Some(value)
}

/// A number of digits alone.
fn number(text: &[u8], radix: u32, most_digits: usize) -> Option<u64> {
    if !(1..=most_digits).contains(&text.len()) {
        return None;
    }
    text.iter().try_fold(0, |number: u64, digit| {
        Some(number * u64::from(radix) + u64::from(char::from(*digit).to_digit(radix)?))
    })
}

/// The size at the start of a chunk's first line. Extensions mean nothing here and end with the line.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    matches!(rest.first(), None | Some(b';' | b' ' | b'\t')).then(|| number(size, 16, SIZE_DIGITS)).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::server::fuzzing::{followed, is_read_alike};

    /// What is found wrong, and where it is noticed. However the bytes come, it is the same.
    fn verdict(stream: &[u8]) -> Option<Ambiguity> {
        let whole = Framing::new().follow(stream).err().map(|(_, ambiguity)| ambiguity);
        for at in 0..stream.len() {
            let mut framing = Framing::new();
            let halves = framing.follow(&stream[..at]).and_then(|()| framing.follow(&stream[at..]));
            assert_eq!(halves.err().map(|(_, ambiguity)| ambiguity), whole, "cut at {at}");
        }
        let mut framing = Framing::new();
        let bytes = stream.iter().try_for_each(|byte| framing.follow(std::slice::from_ref(byte)));
        assert_eq!(bytes.err().map(|(_, ambiguity)| ambiguity), whole, "byte by byte");
        whole
    }

    #[test]
    fn class_31_what_has_two_readings() {
        use Ambiguity::*;
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
            ("Host: a\n", "", Some(LineEnd)),
            ("Host: a\r\nX: y\n", "", Some(LineEnd)),
            (&format!("X: {long}\n"), "", Some(LineEnd)),
            ("\n", "", Some(LineEnd)),
            (chunked, "5\n12345\r\n0\r\n\r\n", Some(LineEnd)),
            (chunked, "5;x\n12345\r\n0\r\n\r\n", Some(LineEnd)),
            (chunked, "5\r\n12345\n0\r\n\r\n", Some(LineEnd)),
            (chunked, "0\r\n\n", Some(LineEnd)),
            (chunked, "0\r\nX: y\n\r\n", Some(LineEnd)),
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
            (&format!("Content-Length: {}5\r\n", " ".repeat(200)), "", Some(Length)),
            (&format!("Content-Length: {}5\r\n", "0".repeat(200)), "", Some(Length)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "", Some(Coding)),
            ("Transfer-Encoding: gzip, chunked\r\n", "", Some(Coding)),
            ("Transfer-Encoding: chunked, chunked\r\n", "", Some(Coding)),
            ("Transfer-Encoding: chunked, identity\r\n", "", Some(Coding)),
            ("Transfer-Encoding: identity\r\n", "", Some(Coding)),
            ("Transfer-Encoding: xchunked\r\n", "", Some(Coding)),
            ("Transfer-Encoding: \"chunked\"\r\n", "", Some(Coding)),
            ("Transfer-Encoding:\r\n", "", Some(Coding)),
            ("Transfer-Encoding: chunked\u{c}\r\n", "", Some(Coding)),
            (&format!("Transfer-Encoding: {}chunked\r\n", " ".repeat(200)), "", Some(Coding)),
            (chunked, "\r\n12345\r\n", Some(Chunk)),
            (chunked, "+5\r\n12345\r\n", Some(Chunk)),
            (chunked, "-5\r\n12345\r\n", Some(Chunk)),
            (chunked, "0x5\r\n12345\r\n", Some(Chunk)),
            (chunked, " 5\r\n12345\r\n", Some(Chunk)),
            (chunked, "5_\r\n12345\r\n", Some(Chunk)),
            (chunked, "10000000000000005\r\n12345\r\n", Some(Chunk)),
            (chunked, "00000000000000005\r\n12345\r\n", Some(Chunk)),
            (chunked, "5\r\n123456\r\n0\r\n\r\n", Some(Chunk)),
            (chunked, "5\r\n1234\r\n0\r\n\r\n", Some(LineEnd)),
        ] {
            let request = format!("POST /a HTTP/1.1\r\n{head}\r\n{body}");
            // Behind another, and before one: the next head is found.
            for stream in [request.clone(), format!("\r\n{request}GET /b HTTP/1.1\r\n\r\n")] {
                assert_eq!(verdict(stream.as_bytes()), expected, "{stream:?}");
            }
        }
        for (stream, expected) in [
            ("GET /#a HTTP/1.1\r\n\r\n", Some(Fragment)),
            ("GET http://a/?b#c HTTP/1.1\r\n\r\n", Some(Fragment)),
            ("GET / HTTP/1.1\n\r\n", Some(LineEnd)),
            ("GET / HTTP/1.1\n\n", Some(LineEnd)),
            ("\nGET / HTTP/1.1\r\n\r\n", Some(LineEnd)),
            ("\r\n\nGET / HTTP/1.1\r\n\r\n", Some(LineEnd)),
            ("\rGET / HTTP/1.1\r\n\r\n", Some(LineEnd)),
            ("\r\n\r\nGET / HTTP/1.1\r\nX: #\r\n\r\n", None),
        ] {
            assert_eq!(verdict(stream.as_bytes()), expected, "{stream:?}");
        }
    }

    #[test]
    fn a_head_begins_with_its_first_byte_and_ends_with_the_empty_line() {
        let mut framing = Framing::new();
        for (bytes, in_head) in [
            ("\r\n\r", false),
            ("\n", false),
            ("G", true),
            ("ET / HTTP/1.1\r\n", true),
            ("Content-Length: 2\r\n\r", true),
            ("\n", false),
            ("a", false),
            ("bG", true),
        ] {
            framing.follow(bytes.as_bytes()).unwrap();
            assert_eq!(framing.is_in_head(), in_head, "{bytes:?}");
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
            let (_, passed) = followed(&stream);
            prop_assert!(passed || !sound);
            is_read_alike(&stream);
        }

        #[test]
        fn class_31_pieces_change_nothing((stream, _) in stream(), cuts in prop::collection::vec(1..60usize, 0..40)) {
            let whole = Framing::new().follow(&stream).map_err(|(_, ambiguity)| ambiguity);
            let mut framing = Framing::new();
            let (mut rest, mut result) = (&stream[..], Ok(()));
            for cut in cuts.into_iter().chain([stream.len()]) {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                result = result.and_then(|()| framing.follow(piece).map_err(|(_, ambiguity)| ambiguity));
                rest = left;
            }
            prop_assert_eq!(result, whole);
        }
    }
}
