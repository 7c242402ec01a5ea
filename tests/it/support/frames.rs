//! HTTP/2 frame by frame (RFC 9113), so that a test can send what no client would.

use std::io;
use std::net::{SocketAddr, TcpStream};

use super::wire::Wire;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags.
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// SETTINGS_HEADER_TABLE_SIZE = 0: answers come without references.
const NO_TABLE: &[u8] = &[0, 1, 0, 0, 0, 0];

/// A frame of RFC 9113 section 4.1.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field as bytes.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// A header block of literals (RFC 7541 section 6.2.2), with nothing that a table knows.
pub fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, 0, 7, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// An integer with a prefix (RFC 7541 section 5.1) in whose first byte `bits` are ours.
pub fn integer(block: &mut Vec<u8>, first: u8, bits: u32, mut value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        return block.push(first | value as u8);
    }
    block.push(first | most as u8);
    value -= most;
    while value >= 128 {
        block.push((value % 128) as u8 | 128);
        value /= 128;
    }
    block.push(value as u8);
}

/// The fields of a sound GET.
pub fn get(target: &str) -> Vec<Field<'_>> {
    vec![(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"api.test"), (b":path", target.as_bytes())]
}

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Status(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code.
    GoAway(u32),
    Closed,
    Waiting,
}

pub struct Frames {
    pub wire: Wire,
}

impl Frames {
    pub fn open(address: SocketAddr) -> Self {
        let mut frames = Self::silent(address);
        frames.write(&[PREFACE, &frame(SETTINGS, 0, 0, NO_TABLE)].concat()).unwrap();
        frames
    }

    /// A connection on which nothing was said.
    pub fn silent(address: SocketAddr) -> Self {
        Self { wire: Wire::plain(TcpStream::connect(address).unwrap()) }
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write(bytes)
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.write(&frame(kind, flags, stream, payload))
    }

    /// A request that ends with its head.
    pub fn request(&mut self, stream: u32, fields: &[Field<'_>]) -> io::Result<()> {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(fields))
    }

    pub fn next(&mut self) -> io::Result<Frame> {
        let head = self.wire.exact(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok(Frame { kind: head[3], flags: head[4], stream, payload: self.wire.exact(length)? })
    }

    /// Reads until the stream is answered or ended, or the connection is.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        let code = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
        loop {
            let next = match self.next() {
                Ok(next) => next,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Outcome::Waiting;
                }
                Err(_) => return Outcome::Closed,
            };
            match next.kind {
                HEADERS if next.stream == stream => return Outcome::Status(status(&next.payload)),
                RST_STREAM if next.stream == stream => return Outcome::Reset(code(&next.payload)),
                GOAWAY => return Outcome::GoAway(code(&next.payload[4..])),
                _ => {}
            }
        }
    }
}

/// The status of an answer, which is its first field: indexed, or a literal of three digits, perhaps in Huffman's code.
fn status(block: &[u8]) -> u16 {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // A change of the table's size may come first.
    let block = &block[block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap()..];
    if block[0] & 0x80 != 0 {
        return INDEXED[usize::from(block[0] & 0x7f) - 8];
    }
    let (coded, text) = (block[1] & 0x80 != 0, &block[2..2 + usize::from(block[1] & 0x7f)]);
    if !coded {
        return std::str::from_utf8(text).unwrap().parse().unwrap();
    }
    // Digits to 2 have five bits, the others six (RFC 7541 appendix B).
    let bits: Vec<u16> = text.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1))).collect();
    let number = |bits: &[u16]| bits.iter().fold(0, |number, bit| number << 1 | bit);
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let short = number(&bits[at..at + 5]);
        let (digit, width) = if short < 3 { (short, 5) } else { (number(&bits[at..at + 6]) - 0b011001 + 3, 6) };
        (status, at) = (status * 10 + digit, at + width);
    }
    status
}
