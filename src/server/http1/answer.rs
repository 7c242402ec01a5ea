//! The head of an answer as it is sent (RFC 9112 sections 2 to 6), and how its body goes out.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use http_body::Body;
use hyper::ext::ReasonPhrase;

use super::head::Facts;
use crate::gateway::X_REQUEST_ID;
use crate::net::headers::has_token;
use crate::net::http1::number;
use crate::net::response::ResponseHead;
use crate::server::answer::{date, may_have_body};

/// How the caller finds the end of an answer's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// There is none.
    Nothing,
    Length(u64),
    /// With the names of the trailers that may follow.
    Chunked(Vec<HeaderName>),
    UntilClose,
}

/// What was promised with a head.
#[derive(Debug)]
pub(super) struct Promised {
    pub(super) coding: Coding,
    /// The connection goes on after the answer.
    pub(super) persists: bool,
}

/// Writes the head of the answer to a request. What it says of the body is what will be sent, whatever its fields say.
pub(super) fn write_head(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    request_id: &HeaderValue,
    body: &impl Body,
    request: &Facts,
) -> Promised {
    let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let mut persists = request.persists && !switches;
    let coding = coding(head, body, request);
    persists &= coding != Coding::UntilClose;
    write_status(out, head.status, head.reason.as_ref(), request.version);
    write_field(out, X_REQUEST_ID.as_str().as_bytes(), request_id.as_bytes());
    let (mut dated, mut closes) = (false, false);
    for (name, value) in &*head.headers {
        match *name {
            header::TRANSFER_ENCODING => continue,
            // Of an answer without a body, it says what another would have.
            header::CONTENT_LENGTH if request.method != Method::HEAD => continue,
            header::TRAILER if !matches!(coding, Coding::Chunked(_)) => continue,
            header::CONNECTION => closes |= has_token([value], "close"),
            header::DATE => dated = true,
            _ => {}
        }
        write_field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    persists &= !closes;
    match &coding {
        Coding::Nothing if may_have_body(head.status) && request.method != Method::HEAD => {
            write_field(out, b"content-length", b"0");
        }
        Coding::Nothing | Coding::UntilClose => {}
        Coding::Length(length) => {
            let mut digits = [0; 20];
            write_field(out, b"content-length", decimal(*length, &mut digits));
        }
        Coding::Chunked(_) => write_field(out, b"transfer-encoding", b"chunked"),
    }
    match request.version {
        _ if switches || closes => {}
        Version::HTTP_10 if persists => write_field(out, b"connection", b"keep-alive"),
        Version::HTTP_10 => {}
        _ if !persists => write_field(out, b"connection", b"close"),
        _ => {}
    }
    if !dated {
        write_field(out, b"date", &date());
    }
    out.extend_from_slice(b"\r\n");
    Promised { coding, persists }
}

/// The answer to what is no request.
pub(super) fn write_refusal(out: &mut Vec<u8>, status: StatusCode) {
    write_status(out, status, None, Version::HTTP_11);
    write_field(out, b"connection", b"close");
    write_field(out, b"content-length", b"0");
    write_field(out, b"date", &date());
    out.extend_from_slice(b"\r\n");
}

fn coding(head: &ResponseHead, body: &impl Body, request: &Facts) -> Coding {
    if request.method == Method::HEAD || !may_have_body(head.status) || body.is_end_stream() {
        return Coding::Nothing;
    }
    let said = || number(head.headers.get(header::CONTENT_LENGTH)?.as_bytes(), 10, 19);
    match body.size_hint().exact().or_else(said) {
        Some(length) => Coding::Length(length),
        None if request.version == Version::HTTP_10 => Coding::UntilClose,
        None if request.takes_trailers => Coding::Chunked(announced_trailers(&head.headers)),
        None => Coding::Chunked(Vec::new()),
    }
}

/// The trailers that an answer announces, but for those that would change how it is read (RFC 9110 section 6.5.1).
fn announced_trailers(headers: &HeaderMap) -> Vec<HeaderName> {
    let names = headers.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
    let names = names.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
    let may_follow = |name: &HeaderName| {
        ![
            header::AUTHORIZATION,
            header::CACHE_CONTROL,
            header::CONNECTION,
            header::CONTENT_ENCODING,
            header::CONTENT_LENGTH,
            header::CONTENT_RANGE,
            header::CONTENT_TYPE,
            header::HOST,
            header::LOCATION,
            header::MAX_FORWARDS,
            header::SET_COOKIE,
            header::TE,
            header::TRAILER,
            header::TRANSFER_ENCODING,
        ]
        .contains(name)
    };
    names.filter(may_follow).collect()
}

/// What ends a chunked body, with those of its trailers that were announced.
pub(super) fn write_end(out: &mut Vec<u8>, trailers: &HeaderMap, announced: &[HeaderName]) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.iter().filter(|(name, _)| announced.contains(name)) {
        write_field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// A number's digits, which stand at the end of `room`.
fn decimal(mut number: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut start = room.len();
    loop {
        start -= 1;
        room[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &room[start..];
        }
    }
}

fn write_status(out: &mut Vec<u8>, status: StatusCode, reason: Option<&ReasonPhrase>, version: Version) {
    let reason = reason.map(ReasonPhrase::as_bytes);
    if (status, version, reason) == (StatusCode::OK, Version::HTTP_11, None) {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    let reason = reason.or_else(|| status.canonical_reason().map(str::as_bytes)).unwrap_or_default();
    let version: &[u8] = if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
    for part in [version, status.as_str().as_bytes(), b" ", reason, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use http::Response;
    use http_body::{Frame, SizeHint};

    use super::*;

    /// A body of which no more is known than this.
    struct Of(Option<u64>);

    impl Body for Of {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }

        fn is_end_stream(&self) -> bool {
            self.0 == Some(0)
        }

        fn size_hint(&self) -> SizeHint {
            self.0.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    #[test]
    fn a_head_says_of_the_body_what_will_be_sent() {
        let (http10, http11) = (Version::HTTP_10, Version::HTTP_11);
        let (get, head) = (Method::GET, Method::HEAD);
        let (nothing, two, any) = (Some(0), Some(2), None);
        let chunked = || Coding::Chunked(Vec::new());
        for (method, version, status, fields, body, said, coding) in [
            (&get, http11, 200, &[][..], two, "content-length: 2", Coding::Length(2)),
            (&get, http11, 200, &["content-length: 9"], two, "content-length: 2", Coding::Length(2)),
            (&get, http11, 200, &["content-length: 9"], any, "content-length: 9", Coding::Length(9)),
            (&get, http11, 200, &["content-length: 9, 9"], any, "transfer-encoding: chunked", chunked()),
            (&get, http11, 200, &["transfer-encoding: gzip"], any, "transfer-encoding: chunked", chunked()),
            (&get, http11, 200, &["content-length: 9"], nothing, "content-length: 0", Coding::Nothing),
            (&get, http11, 304, &["content-length: 9"], nothing, "", Coding::Nothing),
            (&get, http11, 204, &["content-length: 9"], any, "", Coding::Nothing),
            (&get, http11, 204, &["trailer: x"], any, "", Coding::Nothing),
            (&head, http11, 200, &["content-length: 9"], nothing, "content-length: 9", Coding::Nothing),
            (&head, http11, 200, &[], any, "", Coding::Nothing),
            (&get, http11, 101, &["connection: upgrade"], nothing, "connection: upgrade", Coding::Nothing),
            (&get, http11, 200, &["trailer: a"], any, "trailer: a transfer-encoding: chunked", chunked()),
            (&get, http10, 200, &["trailer: a"], any, "", Coding::UntilClose),
            (&get, http10, 200, &[], two, "content-length: 2 connection: keep-alive", Coding::Length(2)),
            (&get, http11, 200, &["connection: close"], two, "connection: close content-length: 2", Coding::Length(2)),
        ] {
            let response = fields.iter().fold(Response::builder().status(status), |response, field| {
                let (name, value) = field.split_once(": ").unwrap();
                response.header(name, value)
            });
            let head = crate::net::response::Response::from(response.body(()).unwrap()).head;
            let facts = Facts { method: method.clone(), version, persists: true, takes_trailers: false };
            let mut out = Vec::new();
            let promised = write_head(&mut out, &head, &HeaderValue::from_static("7"), &Of(body), &facts);
            let out = String::from_utf8(out).unwrap();
            let (lines, date) = out.split_once("\r\nx-request-id: 7\r\n").unwrap().1.rsplit_once("date: ").unwrap();
            assert!(date.ends_with(" GMT\r\n\r\n"), "{date}");
            let lines: Vec<&str> = lines.split_terminator("\r\n").collect();
            assert_eq!((lines.join(" ").as_str(), &promised.coding), (said, &coding), "{status} {fields:?}");
            let persists = coding != Coding::UntilClose && status != 101 && !said.contains("close");
            assert_eq!(promised.persists, persists, "{status} {fields:?}");
        }
    }
}
