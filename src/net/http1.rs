//! What both sides of an HTTP/1.1 hop share (RFC 9112): where lines and bodies end, and bytes on their way out.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};
use tokio::io::AsyncWrite;

/// Fields of trailers.
const TRAILERS: usize = 64;
/// Longest line with the size of a chunk; what follows the size means nothing to anybody.
const CHUNK_LINE_BYTES: usize = 1024;
/// Longest size of a chunk, in digits.
const SIZE_DIGITS: usize = 16;

/// What could be read in two ways, or in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a line ends in LF without CR")]
    LineEnd,
    #[error("a chunk has no size, or not the one it should have")]
    Chunk,
    #[error("trailers are none")]
    Trailers,
    #[error("a head or trailers that are too large")]
    TooLarge,
}

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, malformed)
    }
}

/// The end of lines that each end in CRLF, behind the empty one, among the first `most` bytes. `searched` bytes were looked
/// through in vain before.
pub fn end_of_fields(input: &[u8], searched: &mut usize, most: usize) -> Result<Option<usize>, Malformed> {
    let from = *searched;
    // Where it stops, it does so however the bytes come.
    let seen = &input[..input.len().min(most)];
    for at in memchr::memchr_iter(b'\n', &seen[from..]) {
        match &seen[..from + at] {
            [b'\r'] | [.., b'\n', b'\r'] => {
                *searched = 0;
                return Ok(Some(from + at + 1));
            }
            [.., b'\r'] => {}
            _ => return Err(Malformed::LineEnd),
        }
    }
    *searched = seen.len();
    if input.len() > most { Err(Malformed::TooLarge) } else { Ok(None) }
}

/// A message's body, as far as it was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remaining {
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

impl Remaining {
    pub const NOTHING: Self = Self::Bytes(0);

    pub fn is_nothing(self) -> bool {
        self == Self::NOTHING
    }

    pub fn size_hint(self) -> SizeHint {
        match self {
            Self::Bytes(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }

    /// Takes the next piece out of `input`; `None` when nothing is there, or nothing to come.
    pub fn take(&mut self, input: &mut BytesMut, most_trailers: usize) -> Result<Option<Frame<Bytes>>, Malformed> {
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
                    [b'\n', ..] => return Err(Malformed::LineEnd),
                    _ => return Err(Malformed::Chunk),
                },
                Self::Trailers(searched) => {
                    let Some(end) = end_of_fields(input, searched, most_trailers)? else { return Ok(None) };
                    let trailers = trailers(&input.split_to(end).freeze())?;
                    *self = Self::NOTHING;
                    return Ok(trailers);
                }
            }
        }
    }
}

fn data(input: &mut BytesMut, bytes: usize) -> Frame<Bytes> {
    Frame::data(input.split_to(bytes).freeze())
}

/// The length of the line with a chunk's size, and the size. Extensions mean nothing here and end with the line.
fn chunk_size(input: &[u8]) -> Result<Option<(usize, u64)>, Malformed> {
    let end = memchr::memchr(b'\n', input);
    if end.unwrap_or(input.len()) > CHUNK_LINE_BYTES {
        return Err(Malformed::Chunk);
    }
    let Some(end) = end else { return Ok(None) };
    let line = input[..end].strip_suffix(b"\r").ok_or(Malformed::LineEnd)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    if !matches!(rest.trim_ascii_start().first(), None | Some(b';')) || rest.contains(&b'\r') {
        return Err(Malformed::Chunk);
    }
    Ok(Some((end + 1, number(size, 16, SIZE_DIGITS).ok_or(Malformed::Chunk)?)))
}

/// A number of digits alone.
pub fn number(text: &[u8], radix: u32, most_digits: usize) -> Option<u64> {
    if !(1..=most_digits).contains(&text.len()) {
        return None;
    }
    text.iter().try_fold(0, |number: u64, digit| {
        Some(number * u64::from(radix) + u64::from(char::from(*digit).to_digit(radix)?))
    })
}

fn trailers(bytes: &Bytes) -> Result<Option<Frame<Bytes>>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; TRAILERS];
    let Ok(httparse::Status::Complete((_, parsed))) = httparse::parse_headers(bytes, &mut fields) else {
        return Err(Malformed::Trailers);
    };
    if parsed.is_empty() {
        return Ok(None);
    }
    let mut trailers = HeaderMap::with_capacity(parsed.len());
    for field in parsed {
        let (name, value) = field_of(bytes, field).ok_or(Malformed::Trailers)?;
        trailers.append(name, value);
    }
    Ok(Some(Frame::trailers(trailers)))
}

/// A field that was parsed in `bytes`. Its value is not copied: it is a part of them.
pub fn field_of(bytes: &Bytes, field: &httparse::Header<'_>) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
    Some((name, HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).ok()?))
}

/// Bytes on their way out: a head or the size of a chunk, data, and what ends them.
#[derive(Debug, Default)]
pub struct Pieces {
    pub before: Vec<u8>,
    /// Of `before`.
    written: usize,
    pub data: Bytes,
    pub after: &'static [u8],
}

impl Pieces {
    pub fn is_empty(&self) -> bool {
        self.written == self.before.len() && self.data.is_empty() && self.after.is_empty()
    }

    /// Whether there is more than what comes before data.
    pub fn has_data(&self) -> bool {
        !self.data.is_empty() || !self.after.is_empty()
    }

    /// Until all of it is written.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        mut to: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let before = &self.before[self.written..];
            let polled = if self.data.is_empty() && self.after.is_empty() {
                to.as_mut().poll_write(cx, before)
            } else {
                let pieces = [IoSlice::new(before), IoSlice::new(&self.data), IoSlice::new(self.after)];
                to.as_mut().poll_write_vectored(cx, &pieces)
            };
            let bytes = ready!(polled)?;
            if bytes == 0 {
                // Who takes nothing will never take anything.
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let head = bytes.min(before.len());
            let data = (bytes - head).min(self.data.len());
            self.written += head;
            self.data.advance(data);
            self.after = &self.after[bytes - head - data..];
        }
        self.before.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}
