//! An answer on its way through the layers, whatever the version.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::StatusCode;
use http::header::HeaderMap;
use http_body::Body;
use hyper::ext::ReasonPhrase;

use super::pipe::Piped;

/// An answer without its body.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    /// Shared with whoever expects them to come again.
    pub headers: Arc<HeaderMap>,
    /// What stands behind the status in HTTP/1, where it is not the usual.
    pub reason: Option<ReasonPhrase>,
}

#[derive(Debug)]
pub struct Response<B> {
    pub head: ResponseHead,
    pub body: B,
}

impl<B> Response<B> {
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        Arc::make_mut(&mut self.head.headers)
    }

    pub fn map<C>(self, change: impl FnOnce(B) -> C) -> Response<C> {
        Response { head: self.head, body: change(self.body) }
    }
}

impl<B> From<http::Response<B>> for Response<B> {
    fn from(response: http::Response<B>) -> Self {
        let (mut parts, body) = response.into_parts();
        let reason = parts.extensions.remove();
        let head = ResponseHead { status: parts.status, headers: Arc::new(parts.headers), reason };
        Self { head, body }
    }
}

/// A body of an answer. What nobody needs to see of it may come by way of a pipe.
pub trait AnswerBody: Body {
    /// The next bytes of the body; `None` where a frame is next.
    fn poll_piped(&mut self, _: &mut Context<'_>) -> Option<Poll<Result<Piped, Self::Error>>> {
        None
    }
}

#[cfg(any(test, fuzzing))]
impl AnswerBody for http_body_util::Empty<bytes::Bytes> {}
