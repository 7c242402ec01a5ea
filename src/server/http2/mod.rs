//! HTTP/2 to a caller (RFC 9113): its frames, and on each of its streams a request, whoever answers it, its answer. One task
//! does all of it, turn by turn: what has come is read, those who can go on do, what they wrote is sent.

mod body;
mod frame;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod head;
mod hpack;
mod wire;

use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::StatusCode;
use http::header::{self, HeaderValue};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::answer::may_have_body;
use super::deadline::{Draining, HEADER, IDLE, REST, Served, Waits};
use crate::gateway::Answered;
use crate::net::alarm::Alarm;
use crate::net::bell::Bell;
use crate::net::body::Incoming;
use crate::net::http1::{Input, number};
use crate::net::request::RequestHead;
use crate::net::response::Response;
use crate::net::switch::{HandedOver, Handover};

use body::{Open, RequestBody, Tunnelled};
use frame::{Frame, Kind, flags};
use head::{Head, Heads, Unfit};
use wire::{CONNECTION_WINDOW, Gone, Opening, STREAM_WINDOW, Shared, Wire, lock};

/// Requests that one connection may have under way.
const MAX_STREAMS: usize = 250;
/// Requests that are taken up before those that are there go on.
const TURN: usize = 32;
/// Longest block of fields, as a multiple of what fields may come to.
const BLOCK: usize = 4;
/// Comes back when the peer has seen that the connection ends.
const FAREWELL: [u8; 8] = *b"farewell";
/// What is read of a peer that still sends, so that it sees our last word: for how long, and how much.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 1 << 20);

/// The code of a stream's or a connection's end (section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reason(u32);

impl Reason {
    const NO_ERROR: Self = Self(0);
    const PROTOCOL_ERROR: Self = Self(1);
    const INTERNAL_ERROR: Self = Self(2);
    const FLOW_CONTROL_ERROR: Self = Self(3);
    const STREAM_CLOSED: Self = Self(5);
    const FRAME_SIZE_ERROR: Self = Self(6);
    const REFUSED_STREAM: Self = Self(7);
    const CANCEL: Self = Self(8);
    const COMPRESSION_ERROR: Self = Self(9);
    const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// Why a connection came to its end before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("{1}")]
    Fault(Reason, &'static str),
    #[error("{0}")]
    Timeout(&'static str),
    #[error("the caller left before its answers")]
    Left,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves a connection to its end.
pub(super) async fn serve<I, A, F, B>(io: I, served: Served<'_>, answer: A) -> Result<(), Ended>
where
    I: AsyncRead + AsyncWrite + Send + Unpin,
    A: Fn(Box<RequestHead>, Incoming) -> F,
    F: Future<Output = Answered<B>>,
    B: Body<Data = Bytes> + Unpin,
{
    let waits = served.waits;
    let mut connection = Connection::new(io, served);
    let wire = Arc::clone(&connection.wire);
    let mut exchanges = FuturesUnordered::new();
    let begin = |asked: Asked| {
        let Asked { id, head, ends } = asked;
        let body = if ends { Incoming::empty() } else { Incoming::new(RequestBody::new(&wire, id)) };
        let (is_to_head, names_protocol) = (head.is_to_head(), head.names_protocol());
        let mut request = head.into_request();
        let handover = names_protocol.then(|| request.may_switch());
        let stream = Open { wire: Arc::clone(&wire), id, reason: Reason::CANCEL };
        let exchange = Exchange { stream, is_to_head, handover, waits }.run(Box::pin(answer(request, body)));
        // A panic is told of where it comes up, and ends no other request.
        AssertUnwindSafe(exchange).catch_unwind()
    };
    let _over = Over(Arc::clone(&wire));
    let ended = std::future::poll_fn(|cx| connection.poll(cx, &mut exchanges, begin)).await;
    let fault = match &ended {
        Err(Ended::Fault(reason, _)) => Some(*reason),
        _ => None,
    };
    lock(&wire).finish(fault);
    drop(exchanges);
    if !matches!(ended, Err(Ended::Io(_))) {
        connection.close(fault.is_some()).await;
    }
    ended
}

/// However it ends, whoever still has to do with a stream is told.
struct Over(Shared);

impl Drop for Over {
    fn drop(&mut self) {
        lock(&self.0).finish(None);
    }
}

/// A request that somebody has to answer.
struct Asked {
    id: u32,
    head: Head,
    /// It has no body.
    ends: bool,
}

/// A connection, but for those who answer.
struct Connection<'a, I> {
    io: I,
    bell: Bell,
    served: Served<'a>,
    wire: Shared,
    input: Input,
    heads: Heads,
    begins: Begins,
    /// A block whose end has not come.
    block: Option<Unfinished>,
    alarm: Alarm,
    rests: bool,
    draining: Draining,
    leaving: Leaving,
}

/// What a connection has to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    WithPreface,
    WithSettings,
    Begun,
}

struct Unfinished {
    id: u32,
    ends: bool,
    bytes: BytesMut,
    since: Instant,
}

/// How far a connection is on its way to its end (section 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// The peer was told. What it had sent by then is taken up, until it has seen that, or this moment.
    Told(Instant),
    /// Nothing new is taken up.
    Closing,
}

/// What is waited for.
enum Limit {
    Rest,
    Farewell,
    Header,
    Idle,
}

impl<'a, I: AsyncRead + AsyncWrite + Unpin> Connection<'a, I> {
    fn new(io: I, served: Served<'a>) -> Self {
        let mut wire = Wire::new();
        let out = wire.out();
        let list = u32::try_from(served.most.bytes).unwrap_or(u32::MAX);
        let settings = [(3, MAX_STREAMS as u32), (4, STREAM_WINDOW), (6, list), (ENABLE_CONNECT_PROTOCOL, 1)];
        frame::write_head(out, frame::SETTINGS, 0, 0, 6 * settings.len());
        for (name, value) in settings {
            out.extend_from_slice(&u16::to_be_bytes(name));
            out.extend_from_slice(&u32::to_be_bytes(value));
        }
        frame::write_window(out, 0, CONNECTION_WINDOW - frame::WINDOW as u32);
        Self {
            io,
            bell: Bell::default(),
            draining: Draining::new(served.phase.clone()),
            served,
            wire: Arc::new(Mutex::new(wire)),
            input: Input::default(),
            heads: Heads::default(),
            begins: Begins::WithPreface,
            block: None,
            alarm: Alarm::default(),
            rests: false,
            leaving: Leaving::No,
        }
    }

    /// Turn by turn, until the connection is over.
    fn poll<X: Future>(
        &mut self,
        cx: &mut Context<'_>,
        exchanges: &mut FuturesUnordered<X>,
        begin: impl Fn(Asked) -> X,
    ) -> Poll<Result<(), Ended>> {
        lock(&self.wire).driven_by(cx.waker());
        loop {
            let mut begun = 0;
            while begun < TURN
                && let Poll::Ready(asked) = self.poll_request(cx)?
            {
                let Some(asked) = asked else {
                    let is_over = lock(&self.wire).is_idle();
                    return Poll::Ready(if is_over { Ok(()) } else { Err(Ended::Left) });
                };
                exchanges.push(begin(asked));
                begun += 1;
            }
            lock(&self.wire).admit();
            while let Poll::Ready(Some(_)) = exchanges.poll_next_unpin(cx) {}
            if self.served.activity.asks_in_vain() {
                self.served.waits.reached.with_label_values(&["taken_back"]).inc();
                let why = "most requests were taken back";
                return Poll::Ready(Err(Ended::Fault(Reason::ENHANCE_YOUR_CALM, why)));
            }
            self.poll_deadlines(cx)?;
            let mut wire = lock(&self.wire);
            wire.seen();
            let was_clogged = wire.is_clogged();
            let flushed = wire.poll_flush(cx, Pin::new(&mut self.io))?;
            if begun == TURN || (was_clogged && flushed.is_ready()) || wire.admit() {
                continue;
            }
            let is_over = self.leaving == Leaving::Closing && wire.is_idle();
            return if is_over { flushed.map(Ok) } else { Poll::Pending };
        }
    }

    /// The next request; `None` when the peer has closed.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Asked>, Ended>> {
        let wire = Arc::clone(&self.wire);
        let mut wire = lock(&wire);
        loop {
            if wire.is_clogged() {
                return Poll::Pending;
            }
            if let Some(asked) = self.next(&mut wire)? {
                return Poll::Ready(Ok(Some(asked)));
            }
            let Self { bell, input, io, .. } = self;
            if ready!(bell.poll(cx, |cx| input.poll_read(cx, Pin::new(io))))? == 0 {
                return Poll::Ready(Ok(None));
            }
            self.rests = false;
        }
    }

    /// Looks at the frames that are there, up to the next request.
    fn next(&mut self, wire: &mut Wire) -> Result<Option<Asked>, Ended> {
        if self.begins == Begins::WithPreface {
            let bytes = self.input.bytes.len().min(frame::PREFACE.len());
            if self.input.bytes[..bytes] != frame::PREFACE[..bytes] {
                return Err(fault("no HTTP/2"));
            }
            if bytes < frame::PREFACE.len() {
                return Ok(None);
            }
            self.input.bytes.advance(bytes);
            self.begins = Begins::WithSettings;
        }
        while !wire.is_clogged()
            && let Some(frame) = Frame::take(&mut self.input.bytes)?
        {
            if let Some(asked) = self.on_frame(&frame, wire)? {
                return Ok(Some(asked));
            }
        }
        Ok(None)
    }

    fn on_frame(&mut self, frame: &Frame, wire: &mut Wire) -> Result<Option<Asked>, Ended> {
        if let Some(block) = &self.block
            && (frame.kind, frame.stream) != (Kind::Continuation, block.id)
        {
            return Err(fault("a block of fields that does not go on"));
        }
        if self.begins == Begins::WithSettings {
            if frame.kind != Kind::Settings || frame.has(flags::ACK) {
                return Err(fault("no settings to begin with"));
            }
            self.begins = Begins::Begun;
        }
        let is_of_connection = matches!(frame.kind, Kind::Settings | Kind::Ping | Kind::GoAway);
        let is_of_either = matches!(frame.kind, Kind::WindowUpdate | Kind::Unknown);
        if !is_of_either && is_of_connection != (frame.stream == 0) {
            return Err(fault("a frame on a stream that it has no business on"));
        }
        match frame.kind {
            Kind::Headers | Kind::Continuation => return self.on_block(frame, wire),
            Kind::Data => wire.on_data(frame)?,
            Kind::RstStream => {
                frame.number()?;
                wire.on_reset(frame.stream)?;
            }
            Kind::WindowUpdate => wire.on_window(frame)?,
            Kind::Settings => wire.on_settings(frame)?,
            Kind::Ping => {
                wire.note_idle_frame()?;
                let payload = frame.payload[..].try_into().map_err(|_| frame::SHORT)?;
                if !frame.has(flags::ACK) {
                    frame::write_ping(wire.out(), flags::ACK, payload);
                } else if payload == FAREWELL && matches!(self.leaving, Leaving::Told(_)) {
                    self.take_up_no_more(wire);
                }
            }
            // There is nothing that it would have to be told of.
            Kind::GoAway => {
                wire.note_idle_frame()?;
                if frame.payload.len() < 8 {
                    return Err(frame::SHORT);
                }
                self.take_up_no_more(wire);
            }
            Kind::Priority => {
                wire.note_idle_frame()?;
                let depends_on =
                    frame.payload.first_chunk().filter(|_| frame.payload.len() == 5).ok_or(frame::SHORT)?;
                frame.depends_on(u32::from_be_bytes(*depends_on))?;
            }
            Kind::PushPromise => return Err(fault("a push")),
            Kind::Unknown => wire.note_idle_frame()?,
        }
        Ok(None)
    }

    /// A block of fields, or a part of one.
    fn on_block(&mut self, frame: &Frame, wire: &mut Wire) -> Result<Option<Asked>, Ended> {
        let is_whole = frame.has(flags::END_HEADERS);
        let mut content = frame.content()?;
        let (id, mut ends) = (frame.stream, frame.has(flags::END_STREAM));
        if frame.kind == Kind::Continuation {
            wire.note_idle_frame()?;
            let block = self.block.as_mut().ok_or(fault("a block of fields without a beginning"))?;
            if block.bytes.len() + content.len() > self.served.most.bytes.saturating_mul(BLOCK) {
                return Err(Ended::Fault(Reason::ENHANCE_YOUR_CALM, "a block of fields that is too long"));
            }
            block.bytes.extend_from_slice(&content);
        } else if id.is_multiple_of(2) {
            return Err(fault("a request on a stream of ours"));
        } else if !is_whole {
            let (bytes, since) = (BytesMut::from(content), Instant::now());
            self.block = Some(Unfinished { id, ends, bytes, since });
            return Ok(None);
        }
        if !is_whole {
            return Ok(None);
        }
        if let Some(block) = self.block.take() {
            (content, ends) = (block.bytes.freeze(), block.ends);
        }
        let most = self.served.most;
        if id <= wire.last() {
            let are_fit = self.heads.trailers(&content, most)? && ends;
            if wire.is_open(id) {
                wire.on_trailers(id, are_fit)?
            } else {
                wire.ignore(id)?
            }
            return Ok(None);
        }
        let head = self.heads.head(&content, most)?;
        if self.leaving == Leaving::Closing {
            wire.refuse(id);
            return Ok(None);
        }
        let (length, expects_continue) = head.as_ref().map_or((None, false), |h| (h.length, h.expects_continue));
        wire.open(Opening { id, length, expects_continue, ends });
        let reason = match head {
            _ if wire.running() > MAX_STREAMS => Reason::REFUSED_STREAM,
            Ok(head) if !ends || length.unwrap_or(0) == 0 => return Ok(Some(Asked { id, head, ends })),
            Ok(_) | Err(Unfit::Malformed) => Reason::PROTOCOL_ERROR,
            Err(Unfit::TooLarge) => {
                self.served.waits.reached.with_label_values(&["header_bytes"]).inc();
                wire.write_status(id, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
                wire.close(id, Reason::NO_ERROR);
                return Ok(None);
            }
        };
        wire.fault(id, reason)?;
        wire.close(id, reason);
        Ok(None)
    }

    /// Tells the peer that the connection comes to its end, and waits for its word until then.
    fn leave(&mut self, wire: &mut Wire, until: Instant) {
        self.leaving = Leaving::Told(until);
        frame::write_goaway(wire.out(), frame::WINDOW_MOST as u32, Reason::NO_ERROR);
        frame::write_ping(wire.out(), 0, FAREWELL);
    }

    fn take_up_no_more(&mut self, wire: &mut Wire) {
        if self.leaving != Leaving::Closing {
            self.leaving = Leaving::Closing;
            wire.write_goaway(Reason::NO_ERROR);
        }
    }

    fn poll_deadlines(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let wire = Arc::clone(&self.wire);
        let mut wire = lock(&wire);
        if self.leaving == Leaving::No && self.draining.poll(cx).is_ready() {
            self.leave(&mut wire, Instant::now() + self.served.linger);
        }
        let reached = |limit| self.served.waits.reached.with_label_values(&[limit]).inc();
        while let Some((moment, limit)) = self.deadline(&wire)
            && self.alarm.poll(cx, moment).is_ready()
        {
            match limit {
                Limit::Rest => {
                    self.rests = true;
                    self.input.rest();
                    self.heads.rest();
                    self.served.activity.rest();
                    wire.rest();
                }
                Limit::Farewell => self.take_up_no_more(&mut wire),
                Limit::Header => {
                    reached(HEADER);
                    return Err(Ended::Timeout(HEADER));
                }
                Limit::Idle => {
                    reached(IDLE);
                    self.leave(&mut wire, Instant::now() + self.served.waits.header);
                }
            }
        }
        Ok(())
    }

    /// The moment at which waiting ends, and for what.
    fn deadline(&self, wire: &Wire) -> Option<(Instant, Limit)> {
        let Served { activity, waits, .. } = &self.served;
        let since = activity.last_end();
        match (self.leaving, &self.block) {
            (_, Some(block)) => Some((block.since + waits.header, Limit::Header)),
            (Leaving::Told(until), _) => Some((until, Limit::Farewell)),
            _ if self.begins != Begins::Begun => Some((since + waits.header, Limit::Header)),
            (Leaving::No, _) if wire.is_idle() => {
                let (rest, idle) = (since + REST, since + waits.idle);
                Some(if self.rests || idle < rest { (idle, Limit::Idle) } else { (rest, Limit::Rest) })
            }
            _ => None,
        }
    }

    /// Sends the last word. A peer at fault may not have read it yet, nor stopped to send.
    async fn close(&mut self, lingers: bool) {
        let Self { io, wire, input, .. } = self;
        let (time, mut most) = LINGER;
        let last_word = async {
            std::future::poll_fn(|cx| lock(wire).poll_flush(cx, Pin::new(&mut *io))).await?;
            std::future::poll_fn(|cx| Pin::new(&mut *io).poll_shutdown(cx)).await?;
            while lingers && most > 0 {
                input.bytes.clear();
                match std::future::poll_fn(|cx| input.poll_read(cx, Pin::new(&mut *io))).await? {
                    0 => break,
                    bytes => most = most.saturating_sub(bytes),
                }
            }
            Ok::<_, io::Error>(())
        };
        // However it ends, it is over.
        let _ = tokio::time::timeout(time, last_word).await;
    }
}

/// RFC 8441 section 3.
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// What the peer did wrong, and the connection does not survive.
const fn fault(what: &'static str) -> Ended {
    Ended::Fault(Reason::PROTOCOL_ERROR, what)
}

/// A request and its answer.
struct Exchange<'a> {
    stream: Open,
    is_to_head: bool,
    /// Of a request that may become a tunnel.
    handover: Option<Handover>,
    waits: &'a Waits,
}

impl Exchange<'_> {
    async fn run<F, B>(self, answering: Pin<Box<F>>)
    where
        F: Future<Output = Answered<B>>,
        B: Body<Data = Bytes> + Unpin,
    {
        // There is nobody left to tell.
        let _gone = self.answer(answering).await;
    }

    async fn answer<F, B>(mut self, mut answering: Pin<Box<F>>) -> Result<(), Gone>
    where
        F: Future<Output = Answered<B>>,
        B: Body<Data = Bytes> + Unpin,
    {
        let (wire, id) = (Arc::clone(&self.stream.wire), self.stream.id);
        let answered = std::future::poll_fn(|cx| {
            lock(&wire).watch(cx, id)?;
            answering.as_mut().poll(cx).map(Ok)
        });
        let Answered { request_id, response } = answered.await?;
        drop(answering);
        let Response { head, mut body } = response;
        let opens = self.handover.take().filter(|handover| head.status.is_success() && !handover.is_closed());
        let has_body = may_have_body(head.status) && !self.is_to_head && !body.is_end_stream();
        let said = head.headers.get(header::CONTENT_LENGTH);
        let mut left = None;
        let length = if self.is_to_head {
            said.cloned()
        } else if opens.is_some() || !may_have_body(head.status) {
            None
        } else if has_body {
            left = body.size_hint().exact().or_else(|| number(said?.as_bytes(), 10, 19));
            left.map(HeaderValue::from)
        } else {
            said.filter(|said| *said == "0").cloned()
        };
        self.in_time(|cx| lock(&wire).poll_room(cx, id)).await??;
        lock(&wire).write_head(id, &head, &request_id, length.as_ref(), !has_body && opens.is_none());
        drop((head, request_id));
        if let Some(handover) = opens {
            // Nobody takes it where the tunnel is gone already.
            let over = lock(&wire).tunnelled(id);
            let _ = handover.send(HandedOver { io: Box::new(Tunnelled::new(self.stream)), over });
            return Ok(());
        }
        if !has_body {
            return Ok(());
        }
        self.stream.reason = Reason::INTERNAL_ERROR;
        loop {
            let frame = std::future::poll_fn(|cx| {
                lock(&wire).watch(cx, id)?;
                Pin::new(&mut body).poll_frame(cx).map(Ok)
            });
            let frame = match frame.await? {
                Some(Ok(frame)) => frame,
                None if left.unwrap_or(0) == 0 => {
                    lock(&wire).write_data(id, Bytes::new(), true);
                    return Ok(());
                }
                // Its end must not look like one.
                None | Some(Err(_)) => return Ok(()),
            };
            let mut data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) if left.unwrap_or(0) == 0 => {
                    self.in_time(|cx| lock(&wire).poll_room(cx, id)).await??;
                    lock(&wire).write_trailers(id, &frame.into_trailers().unwrap_or_default());
                    return Ok(());
                }
                Err(_) => return Ok(()),
            };
            if let Some(left) = &mut left {
                let Some(less) = left.checked_sub(data.len() as u64) else { return Ok(()) };
                *left = less;
            }
            // Trailers may follow, also where the length was said.
            let is_last = body.is_end_stream() && left.unwrap_or(0) == 0;
            if is_last && data.is_empty() {
                lock(&wire).write_data(id, Bytes::new(), true);
            }
            while !data.is_empty() {
                let bytes = self.in_time(|cx| lock(&wire).poll_window(cx, id)).await??;
                let piece = data.split_to(bytes.min(data.len()));
                lock(&wire).write_data(id, piece, is_last && data.is_empty());
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Waits no longer for the peer than it may take.
    async fn in_time<T>(&mut self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Result<T, Gone> {
        let first = std::future::poll_fn(|cx| Poll::Ready(poll(cx)));
        if let Poll::Ready(done) = first.await {
            return Ok(done);
        }
        let done = tokio::time::timeout(self.waits.write, std::future::poll_fn(poll)).await;
        done.map_err(|_| {
            self.waits.reached.with_label_values(&["stream_idle"]).inc();
            self.stream.reason = Reason::CANCEL;
            Gone
        })
    }
}
