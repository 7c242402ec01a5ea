//! The listener that forwards nothing and sends everybody to https.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;

use crate::net::BaseUrl;

/// 308 to the same path under the public URL for what has no body, else 403: what was sent in clear is not asked for again.
pub(super) fn answer<B>(public_url: &BaseUrl, request: &Request<B>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    let safe = *request.method() == Method::GET || *request.method() == Method::HEAD;
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let location = HeaderValue::from_str(&format!("{}{target}", public_url.origin()));
    match location {
        Ok(location) if safe && target.starts_with('/') => {
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(header::LOCATION, location);
        }
        _ => *response.status_mut() = StatusCode::FORBIDDEN,
    }
    response
}
