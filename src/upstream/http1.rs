//! HTTP/1.1 to a server (RFC 9112), one request at a time. A connection has no task of its own: it is moved on by whoever
//! waits for the answer, so nobody is woken to wake somebody else.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::Method;
use http::header::HeaderValue;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer;
use super::balance::Running;
use super::{Head, Slot};
use crate::net::Stream;
use crate::net::body::{BodyError, RequestBody};
use crate::net::http1::{Input, Lines, Pieces, READ_BYTES, Remaining};
use crate::net::pieces::{PIECE_BYTES, poll_piece};
use crate::net::pipe::{PIPE_BYTES, Piped};
use crate::net::response::ResponseHead;

/// Less of a body is read.
const WORTH_A_PIPE: u64 = 32 * 1024;
/// What comes at once is moved if it is more, and read if it is less: as much as is read at first.
const LITTLE: usize = READ_BYTES.0;
/// The end of a body is read: with it, what a server says beyond it is seen.
const READ_AT_END: u64 = 2 * 1024;

/// A connection, and how far its request and answer are.
pub(super) struct Http1 {
    stream: Box<dyn Stream>,
    slot: Slot,
    input: Input,
    lines: Lines,
    seen: answer::Seen,
    output: Output,
    /// What is left of the answer's body.
    answer: Remaining,
    /// Whether the server has said anything since it was last asked.
    heard: bool,
    /// Whether the server goes on with the connection after the answer.
    keep: bool,
    /// The body comes in small pieces: what is read does not have to be waited for in vain, as what is moved has.
    trickles: bool,
}

impl std::fmt::Debug for Http1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http1").field("slot", &self.slot).field("answer", &self.answer).finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) error: io::Error,
    /// The body, when not a byte of the request was sent.
    pub(super) unsent: Option<RequestBody>,
    /// The server began to answer.
    pub(super) heard: bool,
}

impl Http1 {
    pub(super) fn new(stream: impl Stream + 'static, slot: Slot) -> Box<Self> {
        Box::new(Self {
            stream: Box::new(stream),
            slot,
            input: Input::default(),
            lines: Lines::default(),
            seen: answer::Seen::default(),
            output: Output::default(),
            answer: Remaining::NOTHING,
            heard: false,
            keep: true,
            trickles: false,
        })
    }

    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Whether an unused connection may be used: the server has neither closed it nor said anything unasked.
    pub(super) fn is_open(&mut self) -> bool {
        self.poll_read(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Sends a request and gives the head of its answer; the body comes with [`Self::poll_frame`].
    pub(super) async fn send(
        self: &mut Box<Self>,
        head: &Head,
        host: &HeaderValue,
        body: RequestBody,
    ) -> Result<ResponseHead, Unanswered> {
        (self.heard, self.keep, self.trickles) = (false, true, false);
        self.output.begin(head, host, body);
        let answer = std::future::poll_fn(|cx| self.poll_head(cx, &head.method)).await;
        answer.map_err(|error| Unanswered { error, unsent: self.output.unsent(), heard: self.heard })
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<io::Result<ResponseHead>> {
        self.poll_send(cx)?;
        if !self.output.is_begun()
            && let Some(failure) = self.output.failure.take()
        {
            // Whatever the server says, it does not say it of this request.
            return Poll::Ready(Err(failure));
        }
        loop {
            if let Some(head) = answer::take_head(&mut self.input.bytes, &mut self.lines, &mut self.seen, method)? {
                self.keep = head.goes_on;
                self.answer = head.body;
                return Poll::Ready(Ok(head.response));
            }
            if ready!(self.poll_read(cx))? == 0 {
                // Why the request could not be sent says more than that there is no answer.
                let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection");
                return Poll::Ready(Err(self.output.failure.take().unwrap_or_else(closed)));
            }
        }
    }

    /// The next piece of the answer's body, or its trailers.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Err(error) = self.poll_send(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            if let Some(frame) = self.answer.take(&mut self.input.bytes, &mut self.lines, answer::MOST)? {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.answer.is_nothing() {
                return Poll::Ready(None);
            }
            if let Remaining::Bytes(left) = &mut self.answer
                && self.input.is_behind()
                // With its end, what a server says beyond it is read, and seen.
                && *left > PIECE_BYTES as u64
            {
                let piece = ready!(poll_piece(cx, Pin::new(&mut *self.stream), *left))?;
                *left -= piece.len() as u64;
                self.trickles &= piece.len() < LITTLE;
                if !piece.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
            }
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(match std::mem::replace(&mut self.answer, Remaining::NOTHING) {
                    Remaining::UntilClose => None,
                    _ => Some(Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the server closed before the end of its answer",
                    ))),
                });
            }
        }
    }

    /// The next piece of the answer's body by way of a pipe; `None` where a frame is next.
    pub(super) fn poll_piped(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<Piped>>> {
        let Remaining::Bytes(left) = &mut self.answer else { return None };
        let most = left.checked_sub(READ_AT_END).filter(|most| *most >= WORTH_A_PIPE)?;
        if self.trickles || !self.input.bytes.is_empty() || !self.output.is_sent() {
            return None;
        }
        let most = PIPE_BYTES.min(usize::try_from(most).unwrap_or(usize::MAX));
        match Piped::poll_from(cx, (*self.stream).socket()?, most) {
            Poll::Ready(Ok(piped)) => {
                let piped = piped?;
                *left -= piped.len() as u64;
                self.trickles = piped.len() < LITTLE;
                Some(Poll::Ready(Ok(piped)))
            }
            Poll::Ready(Err(error)) => Some(Poll::Ready(Err(error))),
            Poll::Pending => Some(Poll::Pending),
        }
    }

    pub(super) fn is_answered(&self) -> bool {
        self.answer.is_nothing()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }

    /// Whether another request may be sent after this one.
    pub(super) fn can_go_on(&self) -> bool {
        self.keep && self.answer.is_nothing() && self.output.is_sent() && self.input.bytes.is_empty()
    }

    /// Lets go of what one request made large.
    pub(super) fn shrink(&mut self) {
        self.input.shrink();
    }

    /// The bytes of both directions, after a switch of protocols.
    pub(super) fn into_switched(self) -> Switched {
        Switched { early: self.input.bytes.freeze(), stream: self.stream, running: None, _slot: self.slot }
    }

    /// Sends what can be sent now. Only what is wrong with the body is an error here: a server that reads no more may still
    /// have answered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.output.is_sent() {
            return Ok(());
        }
        match self.output.poll(cx, &mut *self.stream) {
            Poll::Ready(Err(error)) => Err(io::Error::other(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Gives 0 when the server has closed.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let bytes = ready!(self.input.poll_read(cx, Pin::new(&mut *self.stream)))?;
        self.heard |= bytes > 0;
        self.trickles &= bytes < LITTLE;
        Poll::Ready(Ok(bytes))
    }
}

/// A request on its way out.
#[derive(Debug, Default)]
struct Output {
    pieces: Pieces,
    /// `None` when nothing more comes of it.
    body: Option<RequestBody>,
    framing: Framing,
    /// Whether anything was taken from the body.
    body_begun: bool,
    sent: bool,
    /// Why the server did not take all of it.
    failure: Option<io::Error>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Framing {
    /// With the bytes that have to come.
    Length(u64),
    #[default]
    Chunked,
}

impl Output {
    fn begin(&mut self, head: &Head, host: &HeaderValue, body: RequestBody) {
        let length = body.size_hint().exact();
        self.pieces.clear();
        head.write(&mut self.pieces.before, host, length);
        self.framing = length.map_or(Framing::Chunked, Framing::Length);
        (self.body_begun, self.sent, self.failure) = (false, false, None);
        self.body = Some(body);
    }

    /// Whether the server may have seen anything of the request.
    fn is_begun(&self) -> bool {
        self.body_begun || self.pieces.begun
    }

    fn is_sent(&self) -> bool {
        self.sent
    }

    /// The body, if the server can have seen nothing of the request.
    fn unsent(&mut self) -> Option<RequestBody> {
        (!self.is_begun()).then(|| self.body.take().unwrap_or_else(RequestBody::empty))
    }

    /// Until all of it is sent, or will never be.
    fn poll(&mut self, cx: &mut Context<'_>, stream: &mut dyn Stream) -> Poll<Result<(), BodyError>> {
        loop {
            // So that a head and the beginning of its body leave together.
            let waits_for_body = self.poll_body(cx)?.is_pending();
            match self.pieces.poll_write(cx, Pin::new(&mut *stream)) {
                Poll::Ready(Ok(())) if waits_for_body => return Poll::Pending,
                Poll::Ready(Ok(())) if self.body.is_some() => {}
                Poll::Ready(Ok(())) => break,
                Poll::Ready(Err(error)) => {
                    self.failure = Some(error);
                    break;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        self.sent = true;
        Poll::Ready(Ok(()))
    }

    /// Takes the next piece of the body, when the one before it is sent.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
        if self.pieces.has_data() {
            return Poll::Ready(Ok(()));
        }
        let frame = match body.is_end_stream() {
            true => None,
            false => ready!(Pin::new(body).poll_frame(cx)),
        };
        self.body_begun |= frame.is_some();
        let data = match frame {
            Some(frame) => frame?.into_data().unwrap_or_default(),
            None => {
                self.body = None;
                match self.framing {
                    Framing::Length(0) => {}
                    Framing::Length(_) => return Poll::Ready(Err(BodyError::Aborted)),
                    Framing::Chunked => self.pieces.after = b"0\r\n\r\n",
                }
                return Poll::Ready(Ok(()));
            }
        };
        match &mut self.framing {
            Framing::Length(left) => *left = left.checked_sub(data.len() as u64).ok_or(BodyError::Aborted)?,
            // An empty chunk would be the last.
            Framing::Chunked if data.is_empty() => {}
            Framing::Chunked => {
                self.pieces.before.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                self.pieces.after = b"\r\n";
            }
        }
        self.pieces.data = data;
        Poll::Ready(Ok(()))
    }
}

/// A connection that speaks something else from now on; its place is taken for as long as it lives.
pub struct Switched {
    /// Came together with the head.
    early: Bytes,
    stream: Box<dyn Stream>,
    /// The request as one of its server's, where they are counted.
    pub(super) running: Option<Running>,
    _slot: Slot,
}

impl std::fmt::Debug for Switched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switched").finish_non_exhaustive()
    }
}

impl AsyncRead for Switched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let bytes = self.early.len().min(buffer.remaining());
        buffer.put_slice(&self.early.split_to(bytes));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Switched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::io::{AsyncWriteExt, DuplexStream};

    use crate::net::pipe::{ALONE, none_left};

    use super::super::fuzzing::{ask, is_read_alike, read_here};
    use super::*;

    fn connection() -> (Box<Http1>, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        (Http1::new(ours, Slot::take(&Arc::default(), 1).unwrap()), theirs)
    }

    #[test]
    fn answers_are_read_as_rfc_9112_says_or_not_at_all() {
        let ok = "HTTP/1.1 200 OK\r\n";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let many = "x: y\r\n".repeat(256);
        for (said, read) in [
            (format!("{ok}Content-Length: 2\r\n\r\nab"), Some((200, "ab"))),
            (format!("{ok}Content-Length: 2\r\n\r\nabcd"), Some((200, "ab"))),
            (format!("{ok}Content-Length: 2\r\nContent-Length: 2\r\n\r\nab"), Some((200, "ab"))),
            (format!("{ok}\r\nab"), Some((200, "ab"))),
            (format!("{chunked}2\r\nab\r\n3;x=y\r\ncde\r\n0\r\n\r\n"), Some((200, "abcde"))),
            (format!("{chunked}1\r\na\r\n0\r\nT: v\r\n\r\n"), Some((200, "a"))),
            // RFC 9112 section 6.3: the coding counts.
            (
                format!("{ok}Content-Length: 9\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"),
                Some((200, "a")),
            ),
            (
                format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\n\r\n{ok}Content-Length: 1\r\n\r\na"),
                Some((200, "a")),
            ),
            (format!("HTTP/1.1 103 \u{1}\r\n\r\n{ok}Content-Length: 1\r\n\r\na"), None),
            (format!("HTTP/1.1 103 x\r\nX\u{1}: a\r\n\r\n{ok}Content-Length: 1\r\n\r\na"), None),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nab".to_owned(), Some((204, ""))),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n".to_owned(), Some((304, ""))),
            ("HTTP/1.0 200 OK\n\nab".to_owned(), Some((200, "ab"))),
            (format!("{ok}{}\r\n", &many[6..]), Some((200, ""))),
            (format!("{ok}{many}x: y\r\n\r\n"), None),
            (format!("{ok}Content-Length: 3\r\n\r\nab"), None),
            (format!("{ok}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), None),
            (format!("{ok}Content-Length: +2\r\n\r\nab"), None),
            (format!("{ok}Content-Length: 2, 2\r\n\r\nab"), None),
            (format!("{ok}Content-Length: 99999999999999999999\r\n\r\nab"), None),
            (format!("{ok}Content-Length:\r\n\r\n"), None),
            (format!("{ok}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), None),
            (format!("{ok}Transfer-Encoding: gzip\r\n\r\nab"), None),
            (format!("{ok}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), None),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), None),
            (format!("{chunked}2\r\nab\r\n"), None),
            (format!("{chunked}2\r\nabc\r\n0\r\n\r\n"), None),
            (format!("{chunked}\r\n\r\n"), None),
            (format!("{chunked};x\r\n\r\n"), None),
            (format!("{chunked}-1\r\n\r\n"), None),
            (format!("{chunked}0;x\nT: v\r\n\r\n"), None),
            (format!("{chunked}11111111111111111\r\n\r\n"), None),
            (format!("{chunked}0\r\nT: v\r\n"), None),
            (format!("{chunked}0\r\nT v\r\n\r\n"), None),
            (format!("{chunked}0\r\nT: v\n\r\n"), None),
            (format!("{chunked}1;{}\r\na\r\n0\r\n\r\n", "x".repeat(1 << 17)), None),
            (format!("{ok}X: a\r\n b\r\n\r\n"), None),
            (format!("{ok}X : a\r\n\r\n"), None),
            (format!("{ok}X: {}", "x".repeat(1 << 18)), None),
            // Also when it comes at once.
            (format!("{ok}X: {}\r\n\r\n", "x".repeat(1 << 17)), None),
            (format!("{chunked}0\r\nX: {}\r\n\r\n", "x".repeat(1 << 17)), None),
            (format!("{ok}X: y"), None),
            ("HTTP/2 200 OK\r\n\r\n".to_owned(), None),
            ("nonsense\r\n\r\n".to_owned(), None),
            (String::new(), None),
        ] {
            let read = read.map(|(status, body)| (status, body.as_bytes().to_vec()));
            for piece in [1, 3, 4096, usize::MAX] {
                let shown = &said[..said.len().min(200)];
                assert_eq!(read_here(&Method::GET, said.as_bytes(), piece), read, "{shown} by {piece}");
            }
        }
        assert_eq!(
            read_here(&Method::HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", 9),
            Some((200, Vec::new()))
        );
    }

    proptest! {
        #[test]
        fn the_library_reads_what_is_read_here_in_the_same_way(pieces in prop::collection::vec(prop::sample::select(vec![
            "HTTP/1.1 200 OK\r\n", "HTTP/1.0 200 OK\r\n", "HTTP/1.1 103 x\r\n\r\n", "HTTP/1.1 304 x\n", "Content-Length: 5\r\n",
            "content-length: 0\r\n", "Transfer-Encoding: chunked\r\n", "transfer-encoding: x\r\n", "X: y\r\n", "\r\n", "\n", "\r",
            "0\r\n", "5\r\n", "5;x\r\n", " ", "hello", "05\r\nhello\r\n", "0\r\n\r\n", "T: v\r\n", "\r\n\r\n", ":", "\0",
        ]), 1..12), head in any::<bool>()) {
            let method = if head { Method::HEAD } else { Method::GET };
            is_read_alike(&method, pieces.concat().as_bytes());
            is_read_alike(&method, format!("HTTP/1.1 200 OK\r\n{}", pieces.concat()).as_bytes());
        }
    }

    #[tokio::test]
    async fn a_connection_goes_on_after_an_answer_with_an_end() {
        for (said, goes_on) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", true),
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", true),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc", false),
            ("HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n", false),
        ] {
            let (mut connection, mut theirs) = connection();
            theirs.write_all(said.as_bytes()).await.unwrap();
            ask(&mut connection, Method::GET).await.unwrap();
            while let Some(frame) = std::future::poll_fn(|cx| connection.poll_frame(cx)).await {
                frame.unwrap();
            }
            assert_eq!(connection.can_go_on(), goes_on, "{said}");
        }
    }

    #[tokio::test]
    async fn an_unused_connection_is_open_until_the_server_says_anything_or_closes() {
        let (mut connection, mut theirs) = connection();
        assert!(connection.is_open());
        theirs.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
        assert!(!connection.is_open());
        let (mut connection, theirs) = self::connection();
        drop(theirs);
        assert!(!connection.is_open());
        let unanswered = ask(&mut connection, Method::GET).await.unwrap_err();
        assert!(unanswered.unsent.is_some() && !unanswered.heard, "{unanswered:?}");
    }

    #[tokio::test]
    async fn a_long_body_comes_by_way_of_pipes_but_for_its_ends() {
        const LENGTH: usize = 1 << 20;
        let _alone = ALONE.lock().await;
        let body: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8).collect();
        for (beyond, runs_out, goes_on) in
            [("", false, true), ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, false), ("", true, true)]
        {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (ours, theirs) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
            let mut server = theirs.unwrap().0;
            let mut connection = Http1::new(ours.unwrap(), Slot::take(&Arc::default(), 1).unwrap());
            let answers = async {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
                server.write_all(&[head.as_bytes(), &body, beyond.as_bytes()].concat()).await.unwrap();
            };
            let reads = async {
                ask(&mut connection, Method::GET).await.unwrap();
                let (mut at, mut piped) = (0, 0);
                while !connection.is_answered() {
                    // By turns.
                    let _none = (runs_out && at / 100_000 % 2 == 1).then(none_left);
                    at += std::future::poll_fn(|cx| match connection.poll_piped(cx) {
                        Some(polled) => polled.map(|taken| {
                            let taken = taken.unwrap().len();
                            piped += taken;
                            taken
                        }),
                        None => connection.poll_frame(cx).map(|frame| {
                            let data = frame.unwrap().unwrap().into_data().unwrap();
                            assert!(data == body[at..][..data.len()]);
                            data.len()
                        }),
                    })
                    .await;
                }
                assert_eq!(at, LENGTH);
                let least = if runs_out { LENGTH / 10 } else { LENGTH * 9 / 10 };
                assert!((least..=LENGTH - READ_AT_END as usize).contains(&piped), "{piped}");
            };
            tokio::join!(answers, reads);
            assert_eq!(connection.can_go_on(), goes_on, "{beyond}");
        }
    }

    #[tokio::test]
    async fn a_long_body_is_what_the_server_sent_however_many_share_its_buffers() {
        let body =
            |length: usize, salt: usize| (0..length).map(|at| (at * 31 + at / 251 + salt) as u8).collect::<Vec<_>>();
        // Beyond what is read at once, to its end or not.
        let exchange = async |length: usize, sent: usize, salt: usize| {
            let (mut connection, mut server) = connection();
            let body = body(length, salt);
            let answers = async {
                server
                    .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes())
                    .await
                    .unwrap();
                server.write_all(&body[..sent]).await.unwrap();
                server
            };
            let reads = async {
                ask(&mut connection, Method::GET).await.unwrap();
                let mut pieces = Vec::new();
                loop {
                    match std::future::poll_fn(|cx| connection.poll_frame(cx)).await {
                        Some(Ok(frame)) => pieces.push(frame.into_data().unwrap()),
                        Some(Err(error)) => break (pieces, Some(error.kind())),
                        None => break (pieces, None),
                    }
                }
            };
            let (_, (pieces, error)) = tokio::join!(async { drop(answers.await) }, reads);
            assert!(pieces.concat() == body[..sent], "{length} {sent}");
            (pieces, error)
        };
        for (length, sent) in
            [(1 << 21, 1 << 21), ((1 << 20) + 1, (1 << 20) + 1), (1 << 21, 1 << 20), (1 << 19, 1 << 19)]
        {
            let error = (sent < length).then_some(io::ErrorKind::UnexpectedEof);
            let (first, second) = tokio::join!(exchange(length, sent, 1), exchange(length, sent, 2));
            assert_eq!((first.1, second.1), (error, error));
            // Those that are still held are not written over.
            let third = exchange(length, sent, 3).await;
            for (salt, (pieces, _)) in [first, second, third].into_iter().enumerate() {
                assert!(pieces.concat() == body(length, salt + 1)[..sent]);
            }
        }
    }
}
