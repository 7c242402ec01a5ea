//! `application/x-www-form-urlencoded` as RFC 6749 appendix B reads it: UTF-8, strict escapes, no repeated parameters.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body::Body;
use http_body_util::BodyExt as _;
use zeroize::Zeroizing;

use super::error::{Error, ErrorCode};
use crate::net::body::BodyError;

/// Most bytes of a form.
const MAX_BYTES: usize = 64 * 1024;
/// All of a form must have arrived by then.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Parameters of these endpoints that may not be repeated. Others are ignored, however often they come.
const DEFINED: [&str; 29] = [
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "client_secret",
    "code",
    "code_challenge",
    "code_challenge_method",
    "code_verifier",
    "csrf",
    "decision",
    "grant_type",
    "login_hint",
    "max_age",
    "password",
    "prompt",
    "redirect_uri",
    "refresh_token",
    "registration",
    "request",
    "request_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
    "token",
    "token_type_hint",
    "transaction",
    "username",
    "iss",
];

/// Parameters that must never stand in a URL.
const CREDENTIALS: [&str; 9] = [
    "client_assertion",
    "client_secret",
    "code",
    "code_verifier",
    "password",
    "refresh_token",
    "token",
    "username",
    "access_token",
];

/// The parameters of a request; their values are wiped when it is done.
#[derive(Debug, Default)]
pub(super) struct Form(Vec<(String, Zeroizing<String>)>);

/// Bytes that are not a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Form {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let mut pairs = Vec::new();
        for pair in text.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.splitn(2, |b| *b == b'=');
            let name = decode(halves.next().unwrap_or_default())?;
            let value = decode(halves.next().unwrap_or_default())?;
            pairs.push((name, Zeroizing::new(value)));
        }
        Ok(Self(pairs))
    }

    /// The value of a parameter. An empty one counts as absent (RFC 6749 section 3.2).
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// All values of one that may be repeated.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(own, value)| own == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// A defined parameter that is there more than once, even empty, even with equal values.
    pub(super) fn repeated(&self) -> Option<&'static str> {
        DEFINED.into_iter().find(|name| self.0.iter().filter(|(own, _)| own == name).count() > 1)
    }

    pub(super) fn is_repeated(&self, name: &str) -> bool {
        self.0.iter().filter(|(own, _)| own == name).count() > 1
    }

    fn has_credentials(&self) -> bool {
        self.0.iter().any(|(name, _)| CREDENTIALS.contains(&name.as_str()))
    }
}

/// Percent-decoding without forgiveness: a bad escape, a NUL or text that is not UTF-8 is an error. `+` is a space.
pub(super) fn decode(text: &[u8]) -> Result<String, Malformed> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(*b).to_digit(16)).ok_or(Malformed);
                u8::try_from(digit()? * 16 + digit()?).map_err(|_| Malformed)?
            }
            byte => *byte,
        });
    }
    if decoded.contains(&0) {
        return Err(Malformed);
    }
    String::from_utf8(decoded).map_err(|_| Malformed)
}

/// Appends `name=value`, form-encoded, to a query.
pub(super) fn append(query: &mut String, name: &str, value: &str) {
    if !query.is_empty() && !query.ends_with('&') {
        query.push('&');
    }
    query.push_str(name);
    query.push('=');
    query.extend(form_urlencoded::byte_serialize(value.as_bytes()));
}

/// The form in the body of a POST, after its size, its type, its syntax and its parameters' names were checked.
pub(super) async fn read<B>(request: Request<B>) -> Result<(HeaderMap, Form), Error>
where
    B: Body<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let headers = request.headers().clone();
    // A script asks in another mode, and what is no browser says nothing. Any page could send forms from the addresses of
    // its visitors, and have these closed for guessing.
    let mode = headers.get("sec-fetch-mode").map(HeaderValue::as_bytes);
    if mode.is_some_and(|mode| !matches!(mode, b"cors" | b"same-origin")) {
        return Err(invalid("this endpoint is not for the forms of pages"));
    }
    let form = read_pages(request).await?;
    match form.repeated() {
        Some(name) => Err(invalid(format!("{name} is there more than once"))),
        None => Ok((headers, form)),
    }
}

/// The same, where it is not an error yet that a parameter is repeated.
pub(super) async fn read_pages<B>(request: Request<B>) -> Result<Form, Error>
where
    B: Body<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let (head, body) = request.into_parts();
    if let Some(query) = head.uri.query() {
        let query = Form::parse(query.as_bytes()).map_err(|_| invalid("the query cannot be read"))?;
        if query.has_credentials() {
            return Err(invalid("credentials have no place in the URL"));
        }
    }
    let body = read_body(body).await?;
    if !is_form(&head.headers) {
        return Err(invalid("the body must be application/x-www-form-urlencoded"));
    }
    Form::parse(&body).map_err(|_| invalid("the form cannot be read"))
}

fn invalid(description: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorCode::InvalidRequest, description)
}

/// Whether exactly one Content-Type names a form; parameters such as a charset are ignored.
fn is_form(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else { return false };
    let essence = only.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

async fn read_body<B>(body: B) -> Result<Zeroizing<Vec<u8>>, Error>
where
    B: Body<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    if body.size_hint().lower() > MAX_BYTES as u64 {
        return Err(Error::new(ErrorCode::TooLarge, "the form is too large"));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    let collect = async {
        let mut body = std::pin::pin!(body);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| body_error(&error))?;
            if let Some(data) = frame.data_ref() {
                if bytes.len() + data.len() > MAX_BYTES {
                    return Err(Error::new(ErrorCode::TooLarge, "the form is too large"));
                }
                bytes.extend_from_slice(data);
            }
        }
        Ok(())
    };
    match tokio::time::timeout(BODY_TIMEOUT, collect).await {
        Ok(read) => read.map(|()| bytes),
        Err(_) => Err(Error::new(ErrorCode::Timeout, "the form took too long")),
    }
}

fn body_error(error: &(dyn std::error::Error + 'static)) -> Error {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<BodyError>() {
            Some(BodyError::TooLarge) => return Error::new(ErrorCode::TooLarge, "the form is too large"),
            Some(BodyError::Timeout) => return Error::new(ErrorCode::Timeout, "the form took too long"),
            Some(BodyError::Aborted) | None => {}
        }
        cause = error.source();
    }
    invalid("the body cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g7_the_vector_of_appendix_b() {
        assert_eq!(decode(b"+%25%26%2B%C2%A3%E2%82%AC").unwrap(), " %&+\u{a3}\u{20ac}");
    }

    #[test]
    fn g7_bad_escapes_bad_utf8_and_nul_are_refused() {
        for text in ["a=%", "a=%1", "a=%zz", "a=%ff", "a=%00", "%=1", "a=\0"] {
            assert_eq!(Form::parse(text.as_bytes()).unwrap_err(), Malformed, "{text:?}");
        }
    }

    #[test]
    fn g3_g4_g5_empty_unknown_and_repeated_parameters() {
        let form = Form::parse(b"scope=&a=1&a=2&a[]=3&grant_type=x&&resource=1&resource=2").unwrap();
        assert_eq!(form.get("scope"), None);
        assert_eq!(form.get("a[]"), Some("3"));
        assert_eq!(form.repeated(), None);
        assert_eq!(form.all("resource").collect::<Vec<_>>(), ["1", "2"]);
        for text in ["scope=a&scope=a", "scope=&scope=a", "client_id&client_id"] {
            assert!(Form::parse(text.as_bytes()).unwrap().repeated().is_some(), "{text}");
        }
    }
}
