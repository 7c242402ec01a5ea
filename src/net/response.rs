//! An answer on its way through the layers, whatever the version.

use std::sync::Arc;

use http::StatusCode;
use http::header::HeaderMap;
use hyper::ext::ReasonPhrase;

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
