//! Frames (RFC 9113 sections 4 and 6), as bytes.

use bytes::{Buf, Bytes, BytesMut};

use super::{Ended, Reason};

/// What a connection begins with (section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of a frame's head.
pub(super) const HEAD_BYTES: usize = 9;
/// Longest payload that is taken, and sent: the least that may be allowed.
pub(super) const FRAME_BYTES: usize = 16_384;
/// Most that a window holds.
pub(super) const WINDOW_MOST: i64 = 0x7fff_ffff;
/// What a window holds before anybody says otherwise.
pub(super) const WINDOW: i64 = 65_535;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Priority,
    RstStream,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// To be ignored (section 4.1).
    Unknown,
}

pub(super) mod flags {
    pub(in super::super) const END_STREAM: u8 = 0x1;
    pub(in super::super) const ACK: u8 = 0x1;
    pub(in super::super) const END_HEADERS: u8 = 0x4;
    pub(in super::super) const PADDED: u8 = 0x8;
    pub(in super::super) const PRIORITY: u8 = 0x20;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Bytes,
}

impl Frame {
    /// Takes the next one out of `input`, when all of it is there.
    pub(super) fn take(input: &mut BytesMut) -> Result<Option<Self>, Ended> {
        let Some(head) = input.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [a, b, c, kind, flags, stream @ ..] = *head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > FRAME_BYTES {
            return Err(Ended::Fault(Reason::FRAME_SIZE_ERROR, "a frame that is too long"));
        }
        if input.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Headers,
            2 => Kind::Priority,
            3 => Kind::RstStream,
            4 => Kind::Settings,
            5 => Kind::PushPromise,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::WindowUpdate,
            9 => Kind::Continuation,
            _ => Kind::Unknown,
        };
        input.advance(HEAD_BYTES);
        // The bit in front has no meaning.
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        Ok(Some(Self { kind, flags, stream, payload: input.split_to(length).freeze() }))
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without its padding (section 6.1), and without the priority that a head may have.
    pub(super) fn content(&self) -> Result<Bytes, Ended> {
        let mut content = self.payload.clone();
        if matches!(self.kind, Kind::Data | Kind::Headers) && self.has(flags::PADDED) {
            let padding = usize::from(content.try_get_u8().map_err(|_| SHORT)?);
            let length = content.len().checked_sub(padding);
            content.truncate(length.ok_or(Ended::Fault(Reason::PROTOCOL_ERROR, "padding longer than its frame"))?);
        }
        if self.kind == Kind::Headers && self.has(flags::PRIORITY) {
            self.depends_on(content.try_get_u32().map_err(|_| SHORT)?)?;
            content.try_get_u8().map_err(|_| SHORT)?;
        }
        Ok(content)
    }

    /// Looks at a dependency, which means nothing any more.
    pub(super) fn depends_on(&self, stream: u32) -> Result<(), Ended> {
        if stream & 0x7fff_ffff == self.stream {
            return Err(Ended::Fault(Reason::PROTOCOL_ERROR, "a stream that depends on itself"));
        }
        Ok(())
    }

    /// A payload of four bytes.
    pub(super) fn number(&self) -> Result<u32, Ended> {
        self.payload[..].try_into().map(u32::from_be_bytes).map_err(|_| SHORT)
    }
}

/// A frame whose length is not that of its kind.
pub(super) const SHORT: Ended = Ended::Fault(Reason::FRAME_SIZE_ERROR, "a frame of the wrong length");

/// Writes the head of a frame.
pub(super) fn write_head(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, length: usize) {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags, d, e, f, g]);
}

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) fn write_reset(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    write_head(out, RST_STREAM, 0, stream, 4);
    out.extend_from_slice(&reason.0.to_be_bytes());
}

pub(super) fn write_window(out: &mut Vec<u8>, stream: u32, more: u32) {
    write_head(out, WINDOW_UPDATE, 0, stream, 4);
    out.extend_from_slice(&more.to_be_bytes());
}

pub(super) fn write_ping(out: &mut Vec<u8>, flags: u8, payload: [u8; 8]) {
    write_head(out, PING, flags, 0, 8);
    out.extend_from_slice(&payload);
}

pub(super) fn write_goaway(out: &mut Vec<u8>, last: u32, reason: Reason) {
    write_head(out, GOAWAY, 0, 0, 8);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&reason.0.to_be_bytes());
}
