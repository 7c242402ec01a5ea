//! Calls of our own to other servers, with small documents: key sets, metadata, introspection, spans. Bounded in size and time, no
//! redirects, TLS verified. Connections are kept and used again.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::EndpointUrl;
use crate::tls::{ClientSettings, TlsError};

/// Longest that an unused connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// Larger heads of answers are an error.
const MAX_HEAD_BYTES: usize = 32 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{}", told(.0))]
    Unreachable(#[from] hyper_util::client::legacy::Error),
    #[error("the answer is cut off or larger than {0} bytes")]
    Body(usize),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// What is wrong with an answer that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    #[error("the answer was {0}")]
    Status(StatusCode),
    #[error("the answer is not JSON by its Content-Type")]
    ContentType,
    #[error("the answer has a Content-Encoding, which nobody asked for")]
    Encoded,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Calls the servers of one issuer. Clones share the connections, which live in the runtime that calls.
#[derive(Clone, Debug)]
pub struct Fetcher(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Fetcher {
    /// For `url` and what it leads to. `ca` holds the authorities that are trusted; absent: the platform's. At most `keep`
    /// unused connections stay open.
    pub fn new(url: &EndpointUrl, ca: Option<&Path>, keep: usize) -> Result<Self, TlsError> {
        let settings = ClientSettings { ca: ca.map(Path::to_owned), ..ClientSettings::default() };
        let tls = if url.is_https() { (*settings.build(&[])?).clone() } else { ClientSettings::none()? };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(keep)
            .http1_max_buf_size(MAX_HEAD_BYTES)
            .build(connector);
        Ok(Self(client))
    }

    /// Fetches a document.
    pub async fn get(&self, url: &EndpointUrl, limit: Duration, max_bytes: usize) -> Result<Answer, FetchError> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = url.uri().clone();
        self.call(request, limit, max_bytes).await
    }

    /// Posts a form.
    pub async fn post(
        &self,
        url: &EndpointUrl,
        authorization: &HeaderValue,
        form: String,
        limit: Duration,
        max_bytes: usize,
    ) -> Result<Answer, FetchError> {
        let mut request = Request::new(Full::new(Bytes::from(form)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = url.uri().clone();
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, authorization.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        self.call(request, limit, max_bytes).await
    }

    /// Posts a JSON document, with these fields beside its own.
    pub async fn post_json(
        &self,
        url: &EndpointUrl,
        headers: &HeaderMap,
        document: Bytes,
        limit: Duration,
        max_bytes: usize,
    ) -> Result<Answer, FetchError> {
        let mut request = Request::new(Full::new(document));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = url.uri().clone();
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.call(request, limit, max_bytes).await
    }

    async fn call(
        &self,
        mut request: Request<Full<Bytes>>,
        limit: Duration,
        max_bytes: usize,
    ) -> Result<Answer, FetchError> {
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
        let exchange = async {
            let (head, body) = self.0.request(request).await?.into_parts();
            let body = Limited::new(body, max_bytes).collect().await.map_err(|_| FetchError::Body(max_bytes))?;
            Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        tokio::time::timeout(limit, exchange).await.map_err(|_| FetchError::Timeout(limit))?
    }
}

impl Answer {
    /// The body of a 200 answer that can be JSON. Key sets and metadata are published with all sorts of types, so that the
    /// type is looked at only where `typed` demands `application/json`.
    pub fn json(&self, typed: bool) -> Result<&Bytes, AnswerError> {
        if self.status != StatusCode::OK {
            return Err(AnswerError::Status(self.status));
        }
        if self.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err(AnswerError::Encoded);
        }
        if typed && !self.is_json() {
            return Err(AnswerError::ContentType);
        }
        Ok(&self.body)
    }

    fn is_json(&self) -> bool {
        let named = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        named.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    }

    /// How long the document may be kept (RFC 9111 section 5.2.2); none where the answer says nothing, or not to keep it.
    pub fn max_age(&self) -> Option<Duration> {
        let mut max_age = None;
        for value in self.headers.get_all(header::CACHE_CONTROL) {
            for directive in value.to_str().unwrap_or_default().split(',') {
                let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
                match name.trim().to_ascii_lowercase().as_str() {
                    "no-store" | "no-cache" => return None,
                    "max-age" => max_age = max_age.or(argument.trim().trim_matches('"').parse().ok()),
                    _ => {}
                }
            }
        }
        max_age.filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }
}

/// An error with its causes: the outermost says little.
fn told(error: &hyper_util::client::legacy::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(headers: &[(&'static str, &'static str)]) -> Answer {
        let mut answer = Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: Bytes::new() };
        for (name, value) in headers {
            answer.headers.append(*name, HeaderValue::from_static(value));
        }
        answer
    }

    #[test]
    fn x9_how_long_a_document_may_be_kept() {
        for (values, expected) in [
            (&["max-age=300"][..], Some(300)),
            (&["public, max-age=300, must-revalidate"], Some(300)),
            (&["public", "MAX-AGE=\"60\""], Some(60)),
            (&["max-age=60, max-age=600"], Some(60)),
            (&["max-age=300, no-store"], None),
            (&["no-cache"], None),
            (&["max-age=0"], None),
            (&["max-age=soon"], None),
            (&["max-age=-1"], None),
            (&["max-age=99999999999999999999999"], None),
            (&["s-maxage=300"], None),
            (&[], None),
        ] {
            let headers: Vec<_> = values.iter().map(|value| ("cache-control", *value)).collect();
            assert_eq!(answer(&headers).max_age().map(|age| age.as_secs()), expected, "{values:?}");
        }
    }

    #[test]
    fn x6_what_counts_as_json() {
        for (headers, expected) in [
            (&[("content-type", "application/json")][..], Ok(())),
            (&[("content-type", "Application/JSON; charset=utf-8")], Ok(())),
            (&[("content-type", "text/html")], Err(AnswerError::ContentType)),
            (&[("content-type", "application/jsonp")], Err(AnswerError::ContentType)),
            (&[], Err(AnswerError::ContentType)),
            (&[("content-type", "application/json"), ("content-encoding", "gzip")], Err(AnswerError::Encoded)),
        ] {
            assert_eq!(answer(headers).json(true).map(|_| ()), expected, "{headers:?}");
        }
        assert_eq!(answer(&[]).json(false).map(|_| ()), Ok(()));
    }
}
