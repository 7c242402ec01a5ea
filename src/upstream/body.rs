//! The body of an upstream's answer, passed on piece by piece; at its end the connection goes back to its pool.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::balance::Running;
use super::http1::{Http1, Switched};
use super::pool::ServerPool;
use crate::net::pipe::Piped;
use crate::net::response::AnswerBody;

#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    /// For as long as there is more to come.
    running: Option<Running>,
}

#[derive(Debug)]
enum Source {
    /// None when all was read.
    Http1(Option<Box<Http1>>, Weak<ServerPool>),
    Http2(Incoming),
    Switched(Switched),
    Broken,
}

impl ResponseBody {
    pub(super) fn http1(connection: Box<Http1>, pool: &Arc<ServerPool>) -> Self {
        Self { source: Source::Http1(Some(connection), Arc::downgrade(pool)), running: None }
    }

    pub(super) fn http2(body: Incoming) -> Self {
        Self { source: Source::Http2(body), running: None }
    }

    pub(super) fn switched(connection: Box<Http1>) -> Self {
        Self { source: Source::Switched(connection.into_switched()), running: None }
    }

    pub(super) fn counted(mut self, running: Option<Running>) -> Self {
        if let Source::Switched(switched) = &mut self.source {
            switched.running = running;
        } else {
            self.running = running;
            self.release_at_end();
        }
        self
    }

    /// The connection of an answer that switches protocols.
    pub fn into_switched(self) -> Option<Switched> {
        if let Source::Switched(switched) = self.source { Some(switched) } else { None }
    }

    fn release_at_end(&mut self) {
        if self.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        self.running = None;
        if let Source::Http1(connection, pool) = &mut self.source
            && let (Some(connection), Some(pool)) = (connection.take(), pool.upgrade())
        {
            pool.give_back(connection);
        }
    }
}

impl AnswerBody for ResponseBody {
    /// Never the last of them.
    fn poll_piped(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<Piped>>> {
        let Source::Http1(Some(connection), _) = &mut self.source else { return None };
        let polled = connection.poll_piped(cx)?;
        if matches!(polled, Poll::Ready(Err(_))) {
            (self.source, self.running) = (Source::Broken, None);
        }
        Some(polled)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let polled = match &mut self.source {
            Source::Http1(Some(connection), _) => connection.poll_frame(cx),
            Source::Http2(body) => Pin::new(body).poll_frame(cx).map_err(io::Error::other),
            Source::Http1(None, _) | Source::Switched(_) | Source::Broken => Poll::Ready(None),
        };
        match &polled {
            Poll::Ready(None) => self.release(),
            // Nobody asks for more after trailers.
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => self.release(),
            Poll::Ready(Some(Ok(_))) => self.release_at_end(),
            Poll::Ready(Some(Err(_))) => (self.source, self.running) = (Source::Broken, None),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Http1(connection, _) => connection.as_ref().is_none_or(|connection| connection.is_answered()),
            Source::Http2(body) => body.is_end_stream(),
            Source::Switched(_) => true,
            Source::Broken => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Http1(Some(connection), _) => connection.size_hint(),
            Source::Http2(body) => body.size_hint(),
            Source::Http1(None, _) | Source::Switched(_) => SizeHint::with_exact(0),
            Source::Broken => SizeHint::default(),
        }
    }
}
