//! What goes out on an HTTP/2 connection, and its streams, shared by whoever reads frames, answers requests and reads their
//! bodies.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::frame::{self, Frame, WINDOW, WINDOW_MOST, flags};
use super::hpack::Encoder;
use super::{Ended, Reason};
use crate::gateway::X_REQUEST_ID;
use crate::net::body::BodyError;
use crate::net::http1::{COPIED, Pieces};
use crate::net::response::ResponseHead;
use crate::server::answer::date;

/// What a peer may send ahead, for a stream and for the connection.
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
pub(super) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What waits to be sent, beyond which nobody adds to it.
const ROOM: usize = 16 * 1024;
/// What waits to be sent of what the peer made us say, beyond which it is not read.
const CLOGGED: usize = 64 * 1024;
/// Who waits for room is woken in groups of this.
const GROUP: usize = 4;
/// Frames that ask for nothing, or carry next to nothing: how many may come at once, and how many more each millisecond.
const IDLE_FRAMES: (u32, u32) = (5_000, 5);
/// What a frame of data carries at least that is no such frame.
const SMALL: usize = 32;
/// Frames of the peer that its use of what we send may take, for a frame and for so many bytes: a window for the stream and
/// one for the connection.
const RETURNS: (u32, usize) = (2, 4 * 1024);
/// Streams that may end by the peer's fault, beyond as many as are answered.
const FAULTS: u32 = 1_000;
/// Requests that may be taken back before anybody has looked at them: at once; and in all, where they are more than a quarter.
const UNSEEN: (u32, u32) = (20, 200);
/// Streams that were ended here, on which something may still be on its way.
const FORGOTTEN: usize = 256;

const TOO_WIDE: Ended = Ended::Fault(Reason::FLOW_CONTROL_ERROR, "a window beyond its limit");

/// The stream is over, by the peer or its fault, or with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// A stream whose request is not yet answered to its end.
#[derive(Debug)]
struct Stream {
    id: u32,
    /// What came of the request's body and was not taken.
    received: BytesMut,
    /// What the peer may send, and what was taken since it was told of that.
    receive_window: i64,
    unreleased: u32,
    /// Of an announced length: what has to come, and what has to be taken.
    left: Option<u64>,
    unread: Option<u64>,
    /// The caller sends the body when it is asked for it.
    expects_continue: bool,
    end_received: bool,
    /// Waits for more of the body.
    reader: Option<Waker>,
    /// What the peer takes.
    window: i64,
    /// Whoever answers.
    sender: Option<Waker>,
    /// It is in one of the queues.
    waits: bool,
    /// Somebody began to answer.
    seen: bool,
    head_sent: bool,
    end_sent: bool,
    over: bool,
    /// Gone with the stream, which tells whoever carries a tunnel.
    tunnel: Option<oneshot::Sender<Infallible>>,
}

impl Stream {
    /// Tells all who have to do with it that it is over.
    fn end(&mut self) {
        (self.over, self.tunnel) = (true, None);
        self.sender.as_ref().inspect(|sender| sender.wake_by_ref());
        self.reader.take().inspect(Waker::wake_by_ref);
    }
}

/// What is to be known of a request to open its stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    pub(super) id: u32,
    pub(super) length: Option<u64>,
    pub(super) expects_continue: bool,
    /// It has no body.
    pub(super) ends: bool,
}

#[derive(Debug)]
pub(super) struct Wire {
    /// By their ids.
    streams: Vec<Stream>,
    /// Those of them that are not over.
    running: usize,
    /// The last one of the peer's, and the last that was taken up; and how many were.
    last: u32,
    last_taken_up: u32,
    taken_up: u32,
    /// What the peer takes: on the connection, on a new stream.
    window: i64,
    initial_window: i64,
    /// What the peer may send, and what was taken since it was told of that.
    receive_window: i64,
    unreleased: u32,
    output: Pieces,
    /// Goes out when the data of `output` is gone.
    behind: Vec<u8>,
    /// Nothing is left to be sent, also of what is written already.
    flushed: bool,
    encoder: Encoder,
    /// Streams that wait for room in the output, and for the connection's window.
    for_room: VecDeque<u32>,
    for_window: VecDeque<u32>,
    /// Streams that were ended here of late.
    forgotten: VecDeque<u32>,
    idle_frames: IdleFrames,
    faults: u32,
    unseen: (u32, u32),
    /// Whoever reads and sends.
    driver: Option<Waker>,
}

pub(super) type Shared = Arc<Mutex<Wire>>;

pub(super) fn lock(wire: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    // Nothing that panics leaves it half changed.
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    pub(super) fn new() -> Self {
        Self {
            streams: Vec::new(),
            running: 0,
            last: 0,
            last_taken_up: 0,
            taken_up: 0,
            window: WINDOW,
            initial_window: WINDOW,
            receive_window: i64::from(CONNECTION_WINDOW),
            unreleased: 0,
            output: Pieces::default(),
            behind: Vec::new(),
            flushed: true,
            encoder: Encoder::default(),
            for_room: VecDeque::new(),
            for_window: VecDeque::new(),
            forgotten: VecDeque::new(),
            idle_frames: IdleFrames::new(),
            faults: 0,
            unseen: (0, 0),
            driver: None,
        }
    }

    /// Notes who reads and sends.
    pub(super) fn driven_by(&mut self, waker: &Waker) {
        note(&mut self.driver, waker);
    }

    /// What was written goes out with the next turn of whoever sends, who has to be told where it is not his own.
    pub(super) fn wake_driver(&self) {
        self.driver.as_ref().inspect(|driver| driver.wake_by_ref());
    }

    /// How many requests the peer has under way.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// Whether nobody answers any more, or carries a tunnel.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    /// The last stream that the peer opened.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// Tells the peer what was taken up, and why nothing more will be.
    pub(super) fn write_goaway(&mut self, reason: Reason) {
        let last = self.last_taken_up;
        frame::write_goaway(self.out(), last, reason);
    }

    /// The connection is over, and its streams with it, by this fault if by any.
    pub(super) fn finish(&mut self, fault: Option<Reason>) {
        if let Some(reason) = fault {
            self.write_goaway(reason);
        }
        self.streams.iter_mut().for_each(Stream::end);
    }

    /// Lets go of all buffers, until something comes.
    pub(super) fn rest(&mut self) {
        if self.flushed {
            (self.output, self.behind) = (Pieces::default(), Vec::new());
        }
        (self.for_room, self.for_window) = (VecDeque::new(), VecDeque::new());
        self.streams.shrink_to_fit();
    }

    fn find(&mut self, id: u32) -> Option<&mut Stream> {
        let place = self.streams.binary_search_by_key(&id, |stream| stream.id).ok()?;
        Some(&mut self.streams[place])
    }

    // What goes out.

    /// Where to put it, in the order in which it goes.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        self.flushed = false;
        out(&mut self.output, &mut self.behind)
    }

    fn has_room(&self) -> bool {
        !self.output.has_data() && self.output.before.len() + self.behind.len() < ROOM
    }

    /// Whether so much waits to be sent that nothing more is read.
    pub(super) fn is_clogged(&self) -> bool {
        self.output.before.len() + self.behind.len() > CLOGGED
    }

    /// Until all of it is on its way.
    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        mut io: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<()>> {
        while !self.flushed {
            ready!(self.output.poll_write(cx, io.as_mut()))?;
            self.flushed = self.behind.is_empty();
            self.output.before.append(&mut self.behind);
        }
        Poll::Ready(Ok(()))
    }

    /// Wakes some of those who wait for what is there now. Whether there were any.
    pub(super) fn admit(&mut self) -> bool {
        if self.for_room.is_empty() && self.for_window.is_empty() {
            return false;
        }
        let mut woken = 0;
        while woken < GROUP && self.has_room() {
            let next = self.for_room.pop_front();
            let Some(id) = next.or_else(|| if self.window > 0 { self.for_window.pop_front() } else { None }) else {
                break;
            };
            if let Some(stream) = self.find(id) {
                stream.waits = false;
                stream.sender.as_ref().inspect(|sender| sender.wake_by_ref());
                woken += 1;
            }
        }
        woken > 0
    }

    /// Whether the stream goes on; whoever answers on it is woken when it does not, or when what it waits for may be there.
    pub(super) fn watch(&mut self, cx: &Context<'_>, id: u32) -> Result<(), Gone> {
        let stream = self.find(id).filter(|stream| !stream.over).ok_or(Gone)?;
        stream.seen = true;
        note(&mut stream.sender, cx.waker());
        Ok(())
    }

    /// Ends with the stream, which is a tunnel from now on.
    pub(super) fn tunnelled(&mut self, id: u32) -> Option<oneshot::Receiver<Infallible>> {
        let stream = self.find(id).filter(|stream| !stream.over)?;
        let (sender, over) = oneshot::channel();
        stream.tunnel = Some(sender);
        Some(over)
    }

    /// Until a head or trailers may be written.
    pub(super) fn poll_room(&mut self, cx: &Context<'_>, id: u32) -> Poll<Result<(), Gone>> {
        self.watch(cx, id)?;
        if self.has_room() {
            return Poll::Ready(Ok(()));
        }
        self.wait(id, false);
        Poll::Pending
    }

    /// Until data may be written, and how much.
    pub(super) fn poll_window(&mut self, cx: &Context<'_>, id: u32) -> Poll<Result<usize, Gone>> {
        self.watch(cx, id)?;
        let window = self.find(id).map_or(0, |stream| stream.window);
        if window <= 0 {
            return Poll::Pending;
        }
        if self.window <= 0 || !self.has_room() {
            self.wait(id, self.window <= 0);
            return Poll::Pending;
        }
        let bytes = usize::try_from(window.min(self.window)).unwrap_or(0);
        Poll::Ready(Ok(bytes.min(frame::FRAME_BYTES)))
    }

    fn wait(&mut self, id: u32, for_window: bool) {
        let waits = self.find(id).is_none_or(|stream| std::mem::replace(&mut stream.waits, true));
        if !waits {
            if for_window { &mut self.for_window } else { &mut self.for_room }.push_back(id);
        }
    }

    /// Writes the head of an answer. `length`: of its body, where it is to be said. It `ends` what has none.
    pub(super) fn write_head(
        &mut self,
        id: u32,
        head: &ResponseHead,
        request_id: &HeaderValue,
        length: Option<&HeaderValue>,
        ends: bool,
    ) {
        if let Some(stream) = self.find(id) {
            stream.head_sent = true;
        }
        self.faults = self.faults.saturating_sub(1);
        self.write_block(id, ends, |encoder, out| {
            encoder.begin(out, Some(head.status));
            let mut place = 0;
            let mut field = |name: &HeaderName, value: &HeaderValue| {
                encoder.field(out, Some(place), name, value);
                place += 1;
            };
            let mut dated = false;
            for (name, value) in &*head.headers {
                match *name {
                    header::CONTENT_LENGTH => continue,
                    header::DATE => dated = true,
                    _ if is_of_http1(name) => continue,
                    _ => {}
                }
                field(name, value);
            }
            if !dated && let Ok(date) = HeaderValue::from_bytes(&date()) {
                field(&header::DATE, &date);
            }
            if let Some(length) = length {
                field(&header::CONTENT_LENGTH, length);
            }
            field(&X_REQUEST_ID, request_id);
        });
    }

    /// Writes an answer that says nothing but this.
    pub(super) fn write_status(&mut self, id: u32, status: StatusCode) {
        self.write_block(id, true, |encoder, out| {
            encoder.begin(out, Some(status));
            encoder.field(out, None, &header::CONTENT_LENGTH, &HeaderValue::from_static("0"));
        });
    }

    /// Writes what ends an answer.
    pub(super) fn write_trailers(&mut self, id: u32, trailers: &HeaderMap) {
        self.write_block(id, true, |encoder, out| {
            encoder.begin(out, None);
            for (name, value) in trailers.iter().filter(|(name, _)| !is_of_http1(name)) {
                encoder.field(out, None, name, value);
            }
        });
    }

    fn write_block(&mut self, id: u32, ends: bool, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let Some(stream) = self.find(id).filter(|stream| !stream.over && !stream.end_sent) else { return };
        stream.end_sent = ends;
        self.idle_frames.earn(RETURNS.0);
        let most = frame::FRAME_BYTES;
        self.flushed = false;
        let out = out(&mut self.output, &mut self.behind);
        let start = out.len();
        let end_stream = if ends { flags::END_STREAM } else { 0 };
        frame::write_head(out, frame::HEADERS, end_stream | flags::END_HEADERS, id, 0);
        let begin = out.len();
        write(&mut self.encoder, out);
        let length = out.len() - begin;
        if length <= most {
            let [_, length @ ..] = (length as u32).to_be_bytes();
            out[start..start + length.len()].copy_from_slice(&length);
        } else {
            let block = out.split_off(begin);
            out.truncate(start);
            let (mut kind, mut first) = (frame::HEADERS, end_stream);
            let mut parts = block.chunks(most).peekable();
            while let Some(part) = parts.next() {
                let last = if parts.peek().is_none() { flags::END_HEADERS } else { 0 };
                frame::write_head(out, kind, first | last, id, part.len());
                out.extend_from_slice(part);
                (kind, first) = (frame::CONTINUATION, 0);
            }
        }
    }

    /// Writes data, no more than there is a window for. It may be what `ends` the answer.
    pub(super) fn write_data(&mut self, id: u32, data: Bytes, ends: bool) {
        let bytes = data.len();
        let Some(stream) = self.find(id).filter(|stream| !stream.over && !stream.end_sent) else { return };
        stream.window -= bytes as i64;
        stream.end_sent = ends;
        self.window -= bytes as i64;
        self.idle_frames.earn(RETURNS.0 * (1 + (bytes / RETURNS.1) as u32));
        let out = self.out();
        frame::write_head(out, frame::DATA, if ends { flags::END_STREAM } else { 0 }, id, bytes);
        if bytes <= COPIED || self.output.has_data() {
            self.out().extend_from_slice(&data);
        } else {
            self.output.data = data;
        }
    }

    // What comes in.

    /// A frame that asks for nothing was read.
    pub(super) fn note_idle_frame(&mut self) -> Result<(), Ended> {
        self.idle_frames.spend()
    }

    /// Opens a stream, whose request somebody is to answer.
    pub(super) fn open(&mut self, opening: Opening) {
        let Opening { id, length, expects_continue, ends } = opening;
        (self.last, self.last_taken_up) = (id, id);
        self.taken_up += 1;
        self.running += 1;
        self.streams.push(Stream {
            id,
            received: BytesMut::new(),
            receive_window: i64::from(STREAM_WINDOW),
            unreleased: 0,
            left: length,
            unread: length,
            expects_continue,
            end_received: ends,
            reader: None,
            window: self.initial_window,
            sender: None,
            waits: false,
            seen: false,
            head_sent: false,
            end_sent: false,
            over: false,
            tunnel: None,
        });
    }

    /// A stream that came too late to be answered: the peer may ask elsewhere.
    pub(super) fn refuse(&mut self, id: u32) {
        self.last = id;
        self.reset(id, Reason::REFUSED_STREAM);
    }

    /// Ends a stream by the peer's fault.
    pub(super) fn fault(&mut self, id: u32, reason: Reason) -> Result<(), Ended> {
        self.faults += 1;
        if self.faults > FAULTS {
            return Err(Ended::Fault(Reason::ENHANCE_YOUR_CALM, "too many faults"));
        }
        self.reset(id, reason);
        Ok(())
    }

    /// Ends a stream, and tells the peer.
    pub(super) fn reset(&mut self, id: u32, reason: Reason) {
        frame::write_reset(self.out(), id, reason);
        if self.forgotten.len() == FORGOTTEN {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(id);
        self.end(id);
    }

    /// Tells all who have to do with a stream that it is over.
    fn end(&mut self, id: u32) {
        if let Some(stream) = self.find(id).filter(|stream| !stream.over) {
            stream.end();
            self.running -= 1;
        }
    }

    /// Where something came on a stream that is no more. Whether it never was.
    fn late(&self, id: u32) -> Result<(), Ended> {
        if id > self.last || id.is_multiple_of(2) {
            return Err(Ended::Fault(Reason::PROTOCOL_ERROR, "a frame on a stream that was not opened"));
        }
        Ok(())
    }

    /// Data or trailers on a stream that is no more.
    pub(super) fn ignore(&mut self, id: u32) -> Result<(), Ended> {
        self.late(id)?;
        self.idle_frames.spend()?;
        if self.forgotten.contains(&id) { Ok(()) } else { self.fault(id, Reason::STREAM_CLOSED) }
    }

    /// Whether a request or its body is still coming on the stream.
    pub(super) fn is_open(&mut self, id: u32) -> bool {
        self.find(id).is_some()
    }

    pub(super) fn on_data(&mut self, frame: &Frame) -> Result<(), Ended> {
        let (id, bytes) = (frame.stream, frame.payload.len() as u32);
        let content = frame.content()?;
        let ends = frame.has(flags::END_STREAM);
        self.receive_window -= i64::from(bytes);
        if self.receive_window < 0 {
            return Err(Ended::Fault(Reason::FLOW_CONTROL_ERROR, "data beyond the connection's window"));
        }
        if content.len() < SMALL && !ends {
            self.idle_frames.spend()?;
        }
        let Some(stream) = self.find(id) else {
            self.release(bytes);
            return self.ignore(id);
        };
        stream.receive_window -= i64::from(bytes);
        let left = stream.left.map(|left| left.checked_sub(content.len() as u64));
        let fault = if stream.over {
            self.release(bytes);
            return self.idle_frames.spend();
        } else if stream.end_received {
            Some(Reason::STREAM_CLOSED)
        } else if stream.receive_window < 0 {
            Some(Reason::FLOW_CONTROL_ERROR)
        } else if left.is_some_and(|left| left.is_none_or(|left| ends && left > 0)) {
            Some(Reason::PROTOCOL_ERROR)
        } else {
            None
        };
        if let Some(reason) = fault {
            self.release(bytes);
            return self.fault(id, reason);
        }
        stream.left = left.flatten();
        stream.received.extend_from_slice(&content);
        stream.end_received = ends;
        stream.reader.take().inspect(Waker::wake_by_ref);
        // Padding is taken at once.
        self.taken(id, bytes - content.len() as u32);
        Ok(())
    }

    /// The request has ended with trailers.
    pub(super) fn on_trailers(&mut self, id: u32, are_fit: bool) -> Result<(), Ended> {
        let Some(stream) = self.find(id).filter(|stream| !stream.over) else { return self.idle_frames.spend() };
        if stream.end_received {
            return self.fault(id, Reason::STREAM_CLOSED);
        }
        if !are_fit || stream.left.is_some_and(|left| left > 0) {
            return self.fault(id, Reason::PROTOCOL_ERROR);
        }
        stream.end_received = true;
        stream.reader.take().inspect(Waker::wake_by_ref);
        Ok(())
    }

    pub(super) fn on_reset(&mut self, id: u32) -> Result<(), Ended> {
        let taken_up = self.taken_up;
        let Some(stream) = self.find(id) else {
            self.late(id)?;
            return self.idle_frames.spend();
        };
        if stream.over {
            return self.idle_frames.spend();
        }
        if !stream.seen {
            let (at_once, in_all) = &mut self.unseen;
            (*at_once, *in_all) = (*at_once + 1, *in_all + 1);
            if *at_once > UNSEEN.0 || (*in_all > UNSEEN.1 && *in_all > taken_up / 4) {
                return Err(Ended::Fault(Reason::ENHANCE_YOUR_CALM, "too many requests taken back"));
            }
        }
        self.end(id);
        Ok(())
    }

    /// All requests were looked at.
    pub(super) fn seen(&mut self) {
        self.unseen.0 = 0;
    }

    pub(super) fn on_window(&mut self, frame: &Frame) -> Result<(), Ended> {
        let (id, more) = (frame.stream, i64::from(frame.number()? & 0x7fff_ffff));
        self.idle_frames.spend()?;
        if more == 0 {
            return Err(Ended::Fault(Reason::PROTOCOL_ERROR, "a window of nothing"));
        }
        if id == 0 {
            self.window += more;
            if self.window > WINDOW_MOST {
                return Err(TOO_WIDE);
            }
            return Ok(());
        }
        let Some(stream) = self.find(id) else { return self.late(id) };
        stream.window += more;
        if stream.window > WINDOW_MOST && !stream.over {
            return self.fault(id, Reason::FLOW_CONTROL_ERROR);
        }
        stream.sender.as_ref().inspect(|sender| sender.wake_by_ref());
        Ok(())
    }

    /// RFC 9113 section 6.5, RFC 8441 section 3.
    pub(super) fn on_settings(&mut self, frame: &Frame) -> Result<(), Ended> {
        self.idle_frames.spend()?;
        if frame.has(flags::ACK) {
            return if frame.payload.is_empty() { Ok(()) } else { Err(frame::SHORT) };
        }
        let (settings, []) = frame.payload.as_chunks::<6>() else { return Err(frame::SHORT) };
        // What counts is the last of each.
        let mut window = None;
        for [a, b, value @ ..] in settings {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                1 => self.encoder.set_limit(value as usize),
                2 if value > 1 => return Err(Ended::Fault(Reason::PROTOCOL_ERROR, "a setting that may not be")),
                4 if i64::from(value) > WINDOW_MOST => return Err(TOO_WIDE),
                4 => window = Some(i64::from(value)),
                5 if !(frame::FRAME_BYTES as u32..1 << 24).contains(&value) => {
                    return Err(Ended::Fault(Reason::PROTOCOL_ERROR, "a frame size that may not be"));
                }
                // Longer ones would make others wait.
                _ => {}
            }
        }
        if let Some(window) = window {
            self.set_initial_window(window)?;
        }
        frame::write_head(self.out(), frame::SETTINGS, flags::ACK, 0, 0);
        Ok(())
    }

    fn set_initial_window(&mut self, window: i64) -> Result<(), Ended> {
        let more = window - std::mem::replace(&mut self.initial_window, window);
        for stream in &mut self.streams {
            let was_shut = stream.window <= 0;
            stream.window += more;
            if stream.window > WINDOW_MOST {
                return Err(TOO_WIDE);
            }
            if was_shut && stream.window > 0 {
                stream.sender.as_ref().inspect(|sender| sender.wake_by_ref());
            }
        }
        Ok(())
    }

    // Bodies of requests.

    /// The next piece of a request's body, which is asked for where the caller waits for that.
    pub(super) fn poll_body(&mut self, cx: &Context<'_>, id: u32) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(stream) = self.find(id).filter(|stream| !stream.over) else {
            return Poll::Ready(Some(Err(BodyError::Aborted)));
        };
        if !stream.received.is_empty() {
            let data = stream.received.split().freeze();
            let bytes = data.len() as u32;
            stream.unread = stream.unread.map(|unread| unread.saturating_sub(u64::from(bytes)));
            self.taken(id, bytes);
            return Poll::Ready(Some(Ok(data)));
        }
        if stream.end_received {
            return Poll::Ready(None);
        }
        note(&mut stream.reader, cx.waker());
        if std::mem::take(&mut stream.expects_continue) && !stream.head_sent {
            self.write_block(id, false, |encoder, out| encoder.begin(out, Some(StatusCode::CONTINUE)));
            self.wake_driver();
        }
        Poll::Pending
    }

    /// Whether nothing more comes of a body; and how much does, if that is known.
    pub(super) fn body(&mut self, id: u32) -> (bool, Option<u64>) {
        match self.find(id).filter(|stream| !stream.over) {
            Some(stream) => (stream.end_received && stream.received.is_empty(), stream.unread),
            None => (false, None),
        }
    }

    /// So much of a stream's data was taken: the peer may send more.
    fn taken(&mut self, id: u32, bytes: u32) {
        self.release(bytes);
        let Some(stream) = self.find(id) else { return };
        stream.unreleased += bytes;
        if stream.unreleased >= STREAM_WINDOW / 2 && !stream.end_received {
            let more = std::mem::take(&mut stream.unreleased);
            stream.receive_window += i64::from(more);
            frame::write_window(self.out(), id, more);
            self.wake_driver();
        }
    }

    fn release(&mut self, bytes: u32) {
        self.unreleased += bytes;
        if self.unreleased >= CONNECTION_WINDOW / 2 {
            let more = std::mem::take(&mut self.unreleased);
            self.receive_window += i64::from(more);
            frame::write_window(self.out(), 0, more);
            self.wake_driver();
        }
    }

    /// Forgets a stream. The peer is told what it does not know.
    pub(super) fn close(&mut self, id: u32, reason: Reason) {
        let Ok(place) = self.streams.binary_search_by_key(&id, |stream| stream.id) else { return };
        let stream = self.streams.remove(place);
        self.running -= usize::from(!stream.over);
        if stream.waits {
            self.for_room.retain(|waiting| *waiting != id);
            self.for_window.retain(|waiting| *waiting != id);
        }
        self.release(stream.received.len() as u32);
        stream.reader.inspect(Waker::wake_by_ref);
        let is_known = stream.over || (stream.end_sent && stream.end_received);
        if !is_known {
            self.reset(id, if stream.end_sent { Reason::NO_ERROR } else { reason });
            self.wake_driver();
        }
    }
}

fn out<'a>(output: &'a mut Pieces, behind: &'a mut Vec<u8>) -> &'a mut Vec<u8> {
    if output.has_data() {
        return behind;
    }
    output.before.append(behind);
    &mut output.before
}

fn note(noted: &mut Option<Waker>, waker: &Waker) {
    if !noted.as_ref().is_some_and(|noted| noted.will_wake(waker)) {
        *noted = Some(waker.clone());
    }
}

/// Fields of HTTP/1's connections (RFC 9113 section 8.2.2).
fn is_of_http1(name: &HeaderName) -> bool {
    matches!(name.as_str(), "connection" | "transfer-encoding" | "upgrade" | "te" | "keep-alive" | "proxy-connection")
}

/// How many frames that ask for nothing may still come.
#[derive(Debug)]
struct IdleFrames {
    left: u32,
    since: Instant,
}

impl IdleFrames {
    fn new() -> Self {
        Self { left: IDLE_FRAMES.0, since: Instant::now() }
    }

    fn earn(&mut self, frames: u32) {
        self.left = self.left.saturating_add(frames).min(IDLE_FRAMES.0);
    }

    fn spend(&mut self) -> Result<(), Ended> {
        if self.left == 0 {
            let now = Instant::now();
            let millis = now.duration_since(std::mem::replace(&mut self.since, now)).as_millis();
            self.earn(u32::try_from(millis).unwrap_or(u32::MAX).saturating_mul(IDLE_FRAMES.1));
        }
        self.left = self.left.checked_sub(1).ok_or(Ended::Fault(Reason::ENHANCE_YOUR_CALM, "frames for nothing"))?;
        Ok(())
    }
}
