//! What both sides of an HTTP/1.1 hop share (RFC 9112): where lines and bodies end, and bytes on their way out.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What is read at once, at first and at most: fewer system calls for big bodies, a bounded buffer for each connection. It
/// grows as long as the peer fills it.
pub const READ_BYTES: (usize, usize) = (8 * 1024, 128 * 1024);
/// The first bytes on a connection that rests are read without a buffer of its own.
const PROBE_BYTES: usize = 2 * 1024;
/// Longest line with the size of a chunk; what follows the size means nothing to anybody.
const CHUNK_LINE_BYTES: usize = 1024;
/// What is copied to what comes before it rather than sent from where it is, which takes a costlier system call.
pub const COPIED: usize = 4 * 1024;
/// Buffers that grew beyond this are not kept for the next message.
const KEPT_BYTES: usize = 16 * 1024;
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
    #[error("too many fields")]
    TooMany,
}

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, malformed)
    }
}

/// What a head, or trailers, may come to.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    pub bytes: usize,
    pub fields: usize,
}

/// What ends a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnd {
    CrLf,
    /// Old servers write an LF alone (RFC 9112 section 2.2).
    AnyLf,
}

/// The lines of a head or of trailers, found as the bytes come.
#[derive(Debug, Default)]
pub struct Lines {
    /// The place behind each line.
    ends: Vec<usize>,
    /// Bytes that were looked through in vain.
    searched: usize,
}

impl Lines {
    /// Takes lines and the empty one that ends them out of `input`, when all of them are there. Where it fails, it does so
    /// however the bytes come.
    pub fn take(&mut self, input: &mut BytesMut, most: Most, end: LineEnd) -> Result<Option<Bytes>, Malformed> {
        if self.searched == 0 {
            self.ends.clear();
        }
        let from = std::mem::take(&mut self.searched);
        let seen = &input[..input.len().min(most.bytes)];
        for at in memchr::memchr_iter(b'\n', &seen[from..]) {
            let at = from + at;
            let line = &seen[self.ends.last().copied().unwrap_or(0)..at];
            if end == LineEnd::CrLf && line.last() != Some(&b'\r') {
                return Err(Malformed::LineEnd);
            }
            if matches!(line, [] | [b'\r']) {
                return Ok(Some(input.split_to(at + 1).freeze()));
            }
            // With the one that begins a head.
            if self.ends.len() > most.fields {
                return Err(Malformed::TooMany);
            }
            self.ends.push(at + 1);
        }
        self.searched = seen.len();
        if input.len() > most.bytes { Err(Malformed::TooLarge) } else { Ok(None) }
    }

    /// Whether nothing was looked through since the last were taken.
    pub fn are_new(&self) -> bool {
        self.searched == 0
    }

    /// How many were taken, but for the empty one.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Those of the bytes that were taken, without their ends.
    pub fn of<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let line = &bytes[std::mem::replace(&mut start, *end)..*end - 1];
            line.strip_suffix(b"\r").unwrap_or(line)
        })
    }
}

/// What was read and not taken.
#[derive(Debug)]
pub struct Input {
    pub bytes: BytesMut,
    /// To be read at once; 0 of a connection that rests.
    at_once: usize,
}

impl Default for Input {
    fn default() -> Self {
        Self { bytes: BytesMut::new(), at_once: READ_BYTES.0 }
    }
}

impl Input {
    /// Reads more. Gives 0 when the peer has closed.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut (impl AsyncRead + ?Sized)>,
    ) -> Poll<io::Result<usize>> {
        if self.at_once == 0 {
            let mut probe = [0; PROBE_BYTES];
            let mut probe = ReadBuf::new(&mut probe);
            ready!(from.poll_read(cx, &mut probe))?;
            self.bytes.extend_from_slice(probe.filled());
            self.at_once = READ_BYTES.0;
            return Poll::Ready(Ok(probe.filled().len()));
        }
        // As long as half of it is free, it is shared by what is read after what.
        if self.bytes.capacity() - self.bytes.len() < self.at_once / 2 {
            self.bytes.reserve(self.at_once);
        }
        let room = self.bytes.capacity() - self.bytes.len();
        let bytes = ready!(pin!(from.read_buf(&mut self.bytes)).poll(cx))?;
        if bytes == room {
            self.at_once = (self.at_once * 4).min(READ_BYTES.1);
        }
        Poll::Ready(Ok(bytes))
    }

    /// Whether the peer has more each time than can be read at once.
    pub fn is_behind(&self) -> bool {
        self.at_once == READ_BYTES.1
    }

    /// Lets go of what one message made large.
    pub fn shrink(&mut self) {
        self.at_once = READ_BYTES.0;
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_BYTES {
            self.bytes = BytesMut::new();
        }
    }

    /// Lets go of all of it until something comes, if nothing has.
    pub fn rest(&mut self) {
        if self.bytes.is_empty() {
            (self.bytes, self.at_once) = (BytesMut::new(), 0);
        }
    }
}

/// A field (RFC 9112 section 5): no space before the colon, and no line that goes on with another. Name and value are judged
/// by their types, which take all that they may have; a quote is no character of a name. The value is not copied: it is a
/// part of `bytes`.
pub fn field(bytes: &Bytes, line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let end = line.iter().position(|byte| matches!(byte, b':' | b'"'))?;
    let (name, value) = line.split_at(end);
    let mut value = value.strip_prefix(b":")?;
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    let name = HeaderName::from_bytes(name).ok()?;
    Some((name, HeaderValue::from_maybe_shared(bytes.slice_ref(value)).ok()?))
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
    Trailers,
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
    pub fn take(
        &mut self,
        input: &mut BytesMut,
        lines: &mut Lines,
        most: Most,
    ) -> Result<Option<Frame<Bytes>>, Malformed> {
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
                    *self = if size == 0 { Self::Trailers } else { Self::Chunk(size) };
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
                Self::Trailers => {
                    // There is no line before them.
                    let most = Most { fields: most.fields.saturating_sub(1), ..most };
                    let Some(bytes) = lines.take(input, most, LineEnd::CrLf)? else { return Ok(None) };
                    let fields = lines.of(&bytes).map(|line| field(&bytes, line));
                    let trailers: HeaderMap = fields.collect::<Option<_>>().ok_or(Malformed::Trailers)?;
                    *self = Self::NOTHING;
                    return Ok(Some(trailers).filter(|trailers| !trailers.is_empty()).map(Frame::trailers));
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
    let after = rest.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
    if !matches!(after, None | Some(b';')) || rest.contains(&b'\r') {
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

/// The fields of the last head on a connection. Most come again word for word, and need not be judged anew.
#[derive(Debug, Default)]
pub struct Known(Vec<(Bytes, HeaderName, HeaderValue)>);

/// Fields that are known on a connection, and the longest of them.
const KNOWN: usize = 24;
const KNOWN_BYTES: usize = 2 * 1024;

impl Known {
    /// The field on a line at its place in the head, if that is known.
    pub fn get(&self, place: usize, line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
        let (_, name, value) = self.0.get(place).filter(|(known, ..)| known == line)?;
        Some((name.clone(), value.clone()))
    }

    /// The field on a line of `bytes`, which is known from then on.
    pub fn learn(&mut self, place: usize, bytes: &Bytes, line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
        if place >= KNOWN || place > self.0.len() || line.len() > KNOWN_BYTES {
            return field(bytes, line);
        }
        // A part of `bytes` would keep all of them.
        let line = Bytes::copy_from_slice(line);
        let (name, value) = field(&line, &line)?;
        self.0.splice(place..self.0.len().min(place + 1), [(line, name.clone(), value.clone())]);
        Some((name, value))
    }
}

/// Bytes on their way out: a head or the size of a chunk, data, and what ends them.
#[derive(Debug, Default)]
pub struct Pieces {
    pub before: Vec<u8>,
    /// Of `before`.
    written: usize,
    pub data: Bytes,
    pub after: &'static [u8],
    /// Data stands behind `before`, not all of it written.
    copied: bool,
    /// Whether a byte was written.
    pub begun: bool,
}

impl Pieces {
    pub fn is_empty(&self) -> bool {
        self.written == self.before.len() && self.data.is_empty() && self.after.is_empty()
    }

    /// Whether there is more than what comes before data: nothing is added to it then, or it would grow without end where
    /// the peer does not read.
    pub fn has_data(&self) -> bool {
        self.copied || !self.data.is_empty() || !self.after.is_empty()
    }

    /// For another message.
    pub fn clear(&mut self) {
        self.before.clear();
        (self.written, self.data, self.after) = (0, Bytes::new(), b"");
        (self.copied, self.begun) = (false, false);
    }

    /// Until all of it is on its way.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        mut to: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<io::Result<()>> {
        if self.has_data() && !self.copied && self.data.len() <= COPIED {
            self.before.extend_from_slice(&std::mem::take(&mut self.data));
            self.before.extend_from_slice(std::mem::take(&mut self.after));
            self.copied = true;
        }
        while !self.is_empty() {
            let before = &self.before[self.written..];
            let polled = if self.has_data() && !self.copied {
                let pieces = [IoSlice::new(before), IoSlice::new(&self.data), IoSlice::new(self.after)];
                to.as_mut().poll_write_vectored(cx, &pieces)
            } else {
                to.as_mut().poll_write(cx, before)
            };
            let bytes = ready!(polled)?;
            if bytes == 0 {
                // Who takes nothing will never take anything.
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.begun = true;
            let head = bytes.min(before.len());
            let data = (bytes - head).min(self.data.len());
            self.written += head;
            self.data.advance(data);
            if self.data.is_empty() {
                // It would hold on to its buffer.
                self.data = Bytes::new();
            }
            self.after = &self.after[bytes - head - data..];
        }
        self.before.clear();
        (self.written, self.copied) = (0, false);
        if self.before.capacity() > KEPT_BYTES {
            self.before = Vec::new();
        }
        to.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_cannot_be_written_keeps_others_from_adding_to_it() {
        // So much is taken, and no more.
        let (mut ours, _theirs) = tokio::io::duplex(5);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for bytes in [1, COPIED, COPIED + 1] {
            let mut pieces = Pieces { before: b"head".to_vec(), ..Pieces::default() };
            assert!(!pieces.has_data());
            (pieces.data, pieces.after) = (vec![b'x'; bytes].into(), b"\r\n");
            for _ in 0..3 {
                assert!(pieces.poll_write(&mut cx, Pin::new(&mut ours)).is_pending());
                assert!(pieces.has_data(), "{bytes}");
            }
            assert!(pieces.before.len() + pieces.data.len() <= b"head".len() + bytes + 2);
        }
    }

    proptest! {
        #[test]
        fn a_field_that_is_known_is_the_one_that_stands_there(heads in prop::collection::vec(
            prop::collection::vec(prop_oneof![
                4 => prop::sample::select(vec!["Host: a", "Host: b", "X-A: ", "x-a:b", "X-A : b", "", ":", "A\"b: c", "a: \u{7f}"])
                    .prop_map(str::to_owned),
                1 => (KNOWN_BYTES - 5..KNOWN_BYTES + 5).prop_map(|length| format!("L: {}", "x".repeat(length))),
            ], 0..KNOWN + 4), 1..5)) {
            let mut known = Known::default();
            for head in heads {
                let bytes = Bytes::from(head.join("\n"));
                for (place, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
                    let known = known.get(place, line).or_else(|| known.learn(place, &bytes, line));
                    prop_assert_eq!(known, field(&bytes, line));
                }
                prop_assert!(known.0.len() <= KNOWN);
            }
        }
    }
}
