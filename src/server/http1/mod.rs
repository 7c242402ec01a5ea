//! HTTP/1.1 to a caller (RFC 9112), one request at a time: its head, whoever answers it, its answer.

mod answer;
mod head;
mod wire;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use tokio::time::Instant;

use super::deadline::{Bounded, Draining, HEADER, IDLE, REST, Served};
use crate::gateway::Answered;
use crate::net::Stream;
use crate::net::alarm::Alarm;
use crate::net::body::Incoming;
use crate::net::pipe::Piped;
use crate::net::request::RequestHead;
use crate::net::response::{AnswerBody, Response};
use crate::net::switch::HandedOver;

use answer::{Coding, Promised};
use head::Head;
pub(super) use head::Unfit;
use wire::{RequestBody, Shared, Switched, Wire, lock};

/// What is read of a caller that still sends, so that it sees the answer before the connection is gone (RFC 9112
/// section 9.6): for how long, and how much.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 1 << 20);

/// Why a connection came to its end before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("{0}")]
    Unfit(#[from] Unfit),
    #[error("{0}")]
    Timeout(&'static str),
    #[error("the caller left before its answer")]
    Left,
    /// Its end must not look like one.
    #[error("the answer broke off")]
    Broken,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves a connection to its end.
pub(super) async fn serve<I, A, F, B>(io: I, served: Served<'_>, answer: A) -> Result<(), Ended>
where
    I: Stream,
    A: Fn(Box<RequestHead>, Incoming) -> F,
    F: Future<Output = Answered<B>>,
    B: AnswerBody<Data = Bytes> + Unpin,
{
    let io = Bounded::new(io, served.waits);
    let takes_piped = io.takes_piped();
    let wire = Arc::new(Mutex::new(Wire::new(io, served.most)));
    let mut waiting = Waiting::new(served);
    // Kept for the next request; an idle connection gives it back.
    let mut answering: Option<Pin<Box<Option<F>>>> = None;
    loop {
        let head = std::future::poll_fn(|cx| waiting.poll(cx, &mut lock(&wire), || answering = None)).await;
        let Head { mut request, body, facts, names_upgrade, .. } = match head {
            Ok(Some(head)) => head,
            Ok(None) => break,
            Err(Ended::Unfit(unfit)) => {
                answer::write_refusal(&mut lock(&wire).output().before, unfit.status());
                std::future::poll_fn(|cx| lock(&wire).poll_flush(cx)).await?;
                close_slowly(&wire).await?;
                return Err(Ended::Unfit(unfit));
            }
            Err(ended) => return Err(ended),
        };
        let handover = names_upgrade.then(|| request.may_switch());
        let body = if body.is_nothing() { Incoming::empty() } else { Incoming::new(RequestBody::new(&wire)) };
        let answering = answering.get_or_insert_with(|| Box::pin(None));
        answering.as_mut().set(Some(answer(request, body)));
        let mut asked = false;
        let answered = std::future::poll_fn(|cx| {
            if let Some(answering) = answering.as_mut().as_pin_mut()
                && let Poll::Ready(answered) = answering.poll(cx)
            {
                return Poll::Ready(Some(answered));
            }
            if !std::mem::replace(&mut asked, true) {
                // What is sent to a server waits for the next turn too: nobody looks at the caller twice.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            lock(&wire).poll_gone(cx).map(|()| None)
        })
        .await;
        answering.as_mut().set(None);
        let Answered { request_id, response } = answered.ok_or(Ended::Left)?;
        let Response { head, body } = response;
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let promised = answer::write_head(&mut lock(&wire).output().before, &head, &request_id, &body, &facts);
        drop((head, request_id));
        let Promised { coding, persists } = promised;
        let mut sending =
            Sending { finished: coding == Coding::Nothing, body, coding, takes_piped, next: None, sends: false };
        std::future::poll_fn(|cx| sending.poll(cx, &wire)).await?;
        drop(sending);
        let (body_is_over, has_more) = std::future::poll_fn(|cx| Poll::Ready(lock(&wire).end(cx))).await;
        if switches && body_is_over {
            // Nobody takes it where the tunnel is gone already.
            let _ = handover.map(|handover| handover.send(HandedOver { io: Box::new(Switched(wire)), over: None }));
            return Ok(());
        }
        if !body_is_over {
            close_slowly(&wire).await?;
            return lock(&wire).unfit().map_or(Ok(()), |unfit| Err(Ended::Unfit(unfit)));
        }
        if !persists && has_more {
            return Ok(close_slowly(&wire).await?);
        }
        if !persists {
            break;
        }
    }
    std::future::poll_fn(|cx| lock(&wire).poll_shutdown(cx)).await?;
    Ok(())
}

/// Closes towards a caller that may still send.
async fn close_slowly<I: Stream>(wire: &Shared<I>) -> io::Result<()> {
    std::future::poll_fn(|cx| lock(wire).poll_shutdown(cx)).await?;
    let (time, mut most) = LINGER;
    let gone = std::future::poll_fn(|cx| lock(wire).poll_discard(cx, &mut most));
    // However it ends, it is over.
    let _ = tokio::time::timeout(time, gone).await;
    Ok(())
}

/// Waiting for the next request of a connection.
struct Waiting<'a> {
    served: Served<'a>,
    /// Since when the head of a request is coming.
    head_since: Option<Instant>,
    alarm: Alarm,
    rests: bool,
    draining: Draining,
    /// When the server drains, it is over then.
    leaves_at: Option<Instant>,
}

impl<'a> Waiting<'a> {
    fn new(served: Served<'a>) -> Self {
        let draining = Draining::new(served.phase.clone());
        Self { served, head_since: None, alarm: Alarm::default(), rests: false, draining, leaves_at: None }
    }

    /// Ready with the next head; with `None` when the caller has closed, or is not waited for any longer. `rest` is called
    /// when nothing came for a while.
    fn poll<I: Stream>(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut Wire<I>,
        rest: impl FnOnce(),
    ) -> Poll<Result<Option<Head>, Ended>> {
        let activity = self.served.activity;
        if self.leaves_at.is_none() && self.draining.poll(cx).is_ready() {
            // A request may be on its way to a connection that is idle: it is answered, and told that it is the last.
            activity.close_soon();
            self.leaves_at = Some(Instant::now() + self.served.linger);
        }
        if let Poll::Ready(read) = wire.poll_head(cx) {
            (self.head_since, self.rests) = (None, false);
            return Poll::Ready(read);
        }
        self.head_since = if wire.is_in_head() { self.head_since.or_else(|| Some(Instant::now())) } else { None };
        let (deadline, limit) = self.deadline();
        let rests_at = activity.last_end() + REST;
        if self.head_since.is_none() && !self.rests && rests_at < deadline {
            ready!(self.alarm.poll(cx, rests_at));
            self.rests = true;
            wire.rest();
            activity.rest();
            rest();
        }
        ready!(self.alarm.poll(cx, deadline));
        let Some(limit) = limit else { return Poll::Ready(Ok(None)) };
        self.served.waits.reached.with_label_values(&[limit]).inc();
        Poll::Ready(if limit == IDLE { Ok(None) } else { Err(Ended::Timeout(limit)) })
    }

    /// The moment at which waiting for the peer ends, and the limit that it is, if it is one.
    fn deadline(&self) -> (Instant, Option<&'static str>) {
        let (activity, waits) = (self.served.activity, self.served.waits);
        match (self.head_since, self.leaves_at) {
            // It may have come behind another request, and wait for that one's answer.
            (Some(since), _) => (since.max(activity.last_end()) + waits.header, Some(HEADER)),
            (None, Some(moment)) => (moment, None),
            (None, None) if activity.begun() == 0 => (activity.last_end() + waits.header, Some(HEADER)),
            (None, None) => (activity.last_end() + waits.idle, Some(IDLE)),
        }
    }
}

/// The body of an answer on its way out. It is let go when its last byte is gone.
struct Sending<B> {
    body: B,
    coding: Coding,
    /// The caller's socket may be given bytes by way of a pipe.
    takes_piped: bool,
    /// Was taken from the body already.
    next: Option<Frame<Bytes>>,
    /// Nothing more comes of the body.
    finished: bool,
    /// A piece of it is on its way: no more is taken until the peer has that.
    sends: bool,
}

/// What is sent of a body at once.
#[derive(Default)]
struct Piece {
    before: Vec<u8>,
    data: Bytes,
    after: &'static [u8],
    piped: Option<Piped>,
}

impl<B: AnswerBody<Data = Bytes> + Unpin> Sending<B> {
    fn poll<I: Stream>(&mut self, cx: &mut Context<'_>, wire: &Shared<I>) -> Poll<Result<(), Ended>> {
        loop {
            // The head leaves with the beginning of the body, and its end with what comes before that. Whoever moves the body
            // on may read the request's, so that the bytes are not locked here.
            let asks = !self.finished && !self.sends;
            let piece = if asks { self.next_piece(cx)? } else { Poll::Pending };
            let mut wire = lock(wire);
            let waits = asks && piece.is_pending();
            if let Poll::Ready(Piece { before, data, after, piped }) = piece {
                let output = wire.output();
                output.before.extend_from_slice(&before);
                (output.data, output.after) = (data, after);
                if let Some(piped) = piped {
                    wire.put_piped(piped);
                }
            }
            let flushed = wire.poll_flush(cx);
            self.sends = wire.has_data();
            ready!(flushed)?;
            if self.finished {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return wire.poll_gone(cx).map(|()| Err(Ended::Left));
            }
        }
    }

    fn next_piece(&mut self, cx: &mut Context<'_>) -> Result<Poll<Piece>, Ended> {
        if self.takes_piped
            && let Coding::Length(left) = &mut self.coding
            && let Some(polled) = self.body.poll_piped(cx)
        {
            let Poll::Ready(piped) = polled.map_err(|_| Ended::Broken)? else { return Ok(Poll::Pending) };
            *left = left.checked_sub(piped.len() as u64).ok_or(Ended::Broken)?;
            self.finished = *left == 0;
            return Ok(Poll::Ready(Piece { piped: Some(piped), ..Piece::default() }));
        }
        let frame = match self.next.take() {
            Some(frame) => Some(frame),
            None => match self.poll_frame(cx)? {
                Poll::Ready(frame) => frame,
                Poll::Pending => return Ok(Poll::Pending),
            },
        };
        let mut piece = match frame.map(Frame::into_data) {
            Some(Ok(data)) => Piece { data, ..Piece::default() },
            Some(Err(trailers)) => return self.end(&trailers.into_trailers().unwrap_or_default()).map(Poll::Ready),
            None => return self.end(&HeaderMap::new()).map(Poll::Ready),
        };
        match &mut self.coding {
            // An empty chunk would be the last.
            _ if piece.data.is_empty() => {}
            Coding::Length(left) => {
                *left = left.checked_sub(piece.data.len() as u64).ok_or(Ended::Broken)?;
                self.finished = *left == 0;
            }
            Coding::Chunked(_) => {
                piece.before = format!("{:x}\r\n", piece.data.len()).into_bytes();
                piece.after = b"\r\n";
                match self.poll_frame(cx)? {
                    Poll::Ready(Some(next)) => self.next = Some(next),
                    Poll::Ready(None) => (self.finished, piece.after) = (true, b"\r\n0\r\n\r\n"),
                    Poll::Pending => {}
                }
            }
            Coding::UntilClose | Coding::Nothing => {}
        }
        Ok(Poll::Ready(piece))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Result<Poll<Option<Frame<Bytes>>>, Ended> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Err(_))) => Err(Ended::Broken),
            Poll::Ready(Some(Ok(frame))) => Ok(Poll::Ready(Some(frame))),
            Poll::Ready(None) => Ok(Poll::Ready(None)),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    fn end(&mut self, trailers: &HeaderMap) -> Result<Piece, Ended> {
        self.finished = true;
        let mut piece = Piece::default();
        match &self.coding {
            Coding::Length(1..) => return Err(Ended::Broken),
            Coding::Chunked(announced) => answer::write_end(&mut piece.before, trailers, announced),
            _ => {}
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http_body_util::{BodyExt, Empty};
    use prometheus::{IntCounterVec, Opts};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use tokio::sync::watch;

    use super::*;
    use crate::gateway::Activity;
    use crate::net::body::{BodyError, RequestBody};
    use crate::net::http1::Most;
    use crate::server::Phase;
    use crate::server::deadline::Waits;

    const HOUR: Duration = Duration::from_secs(3600);

    /// What a caller who says so much gets until the connection is closed, and what became of the bodies, which are read
    /// when the answer is there; by somebody else before, where `at_once`.
    async fn served(says: &str, at_once: bool) -> (String, Vec<Option<Result<Frame<Bytes>, BodyError>>>) {
        let reached = IntCounterVec::new(Opts::new("limits", "-"), &["limit"]).unwrap();
        let waits = Waits { header: HOUR, idle: HOUR, write: HOUR, reached };
        let (_phase, phase) = watch::channel(Phase::Serving);
        let most = Most { bytes: 1 << 14, fields: 100 };
        let served = Served { most, waits: &waits, activity: &Activity::default(), phase, linger: HOUR };
        let (answered, is_answered) = watch::channel(at_once);
        let reading = Mutex::new(Vec::new());
        let answer = |_: Box<RequestHead>, body: Incoming| {
            let (mut body, _) = RequestBody::new(body, u64::MAX, HOUR).unwrap();
            let mut is_answered = is_answered.clone();
            reading.lock().unwrap().push(tokio::spawn(async move {
                is_answered.wait_for(|answered| *answered).await.unwrap();
                body.frame().await
            }));
            async {
                // The other task goes first.
                tokio::task::yield_now().await;
                Answered {
                    request_id: HeaderValue::from_static("-"),
                    response: http::Response::new(Empty::<Bytes>::new()).into(),
                }
            }
        };
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let mut answers = String::new();
        let caller = async {
            theirs.write_all(says.as_bytes()).await.unwrap();
            theirs.read_to_string(&mut answers).await.unwrap();
        };
        let (ended, ()) = tokio::join!(serve(ours, served, answer), caller);
        ended.unwrap();
        answered.send_replace(true);
        let mut read = Vec::new();
        for reading in reading.into_inner().unwrap() {
            read.push(reading.await.unwrap());
        }
        (answers, read)
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_reads_on_in_a_body_whose_request_is_answered() {
        let request = "POST / HTTP/1.1\r\nContent-Length: 4\r\n";
        let two = format!("{request}\r\nbody{request}Connection: close\r\n\r\nbody");
        // Some of it comes too late, or never.
        let begun = Instant::now();
        for (says, at_once, answers) in [(&*two, false, 2), (&*format!("{request}\r\n"), true, 1)] {
            let (got, read) = served(says, at_once).await;
            assert_eq!(got.matches("HTTP/1.1 200 OK").count(), answers, "{got}");
            assert_eq!(read.len(), answers);
            for frame in read {
                assert_eq!(frame.unwrap().unwrap_err(), BodyError::Aborted);
            }
        }
        // Whoever waited was told, and did not find out when its own time was up.
        assert!(begun.elapsed() < HOUR);
    }
}
