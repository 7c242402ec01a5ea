//! The one place where an error gets a status, a public text and headers (RFC 6750 section 3, RFC 9457). What is said
//! outside is fixed for each kind of error; why exactly goes to the log.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use crate::net::body::BodyError;
use crate::routing::path::PathError;
use crate::token::Refusal;
use crate::upstream::SendError;

/// Why a request was not forwarded, or its answer not passed on.
#[derive(Debug, thiserror::Error)]
pub enum Reject {
    #[error("no host, more than one, or not a host")]
    Host,
    #[error("{0}")]
    Path(PathError),
    #[error("the path has a spelling that the route does not open")]
    Spelling,
    #[error("a header stands twice that may stand once")]
    RepeatedHeader,
    #[error("more header fields than allowed")]
    HeaderCount,
    #[error("more than one Content-Length, or one that is no plain number")]
    ContentLength,
    #[error("this listener takes nothing but what can be sent to https")]
    Cleartext,
    #[error("no route")]
    NoRoute,
    #[error("the route does not let this address in")]
    Address,
    #[error("a preflight of an origin that the route does not name")]
    Origin,
    #[error("no entry of the route names the method")]
    Method { allow: HeaderValue },
    #[error("no credentials")]
    Unauthenticated { challenge: Ready },
    #[error("the Authorization header is not `Bearer` and one token")]
    BearerSyntax,
    #[error("{0}")]
    InvalidToken(Refusal),
    #[error("the issuer cannot be asked")]
    IssuerUnavailable,
    #[error("{LACKS_SCOPES}")]
    InsufficientScope { challenge: Ready },
    #[error("no entry of the route admits this token")]
    Forbidden,
    #[error("more requests than the route lets through")]
    RateLimited { retry_after: u64 },
    #[error("a claim cannot stand in the header {0}")]
    UnfitClaim(http::HeaderName),
    #[error("the JWT for the upstream cannot be signed")]
    Signing,
    #[error("{0}")]
    Body(BodyError),
    #[error("the upstream refused to switch protocols as asked")]
    Upgrade,
    #[error("{0}")]
    Upstream(SendError),
}

const LACKS_SCOPES: &str = "the token lacks scopes";

/// Seconds after which a caller may try again when something is overloaded or away.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

impl Reject {
    /// For logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Path(_) | Self::Spelling => "path",
            Self::RepeatedHeader => "repeated_header",
            Self::HeaderCount => "header_count",
            Self::ContentLength => "content_length",
            Self::Cleartext => "cleartext",
            Self::NoRoute => "no_route",
            Self::Address => "address",
            Self::Origin => "origin",
            Self::Method { .. } => "method",
            Self::Unauthenticated { .. } => "no_credentials",
            Self::BearerSyntax => "invalid_request",
            Self::InvalidToken(refusal) => refusal.reason(),
            Self::IssuerUnavailable => "issuer_unavailable",
            Self::InsufficientScope { .. } => "insufficient_scope",
            Self::Forbidden => "forbidden",
            Self::RateLimited { .. } => "rate_limited",
            Self::UnfitClaim(_) => "unfit_claim",
            Self::Signing => "signing",
            Self::Body(error) | Self::Upstream(SendError::RequestBody(error)) => match error {
                BodyError::TooLarge => "body_too_large",
                BodyError::Timeout => "body_timeout",
                BodyError::Aborted => "body_aborted",
            },
            Self::Upgrade => "upgrade",
            Self::Upstream(error) => error.kind(),
        }
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::Host
            | Self::Path(_)
            | Self::Spelling
            | Self::RepeatedHeader
            | Self::ContentLength
            | Self::BearerSyntax => StatusCode::BAD_REQUEST,
            Self::HeaderCount => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthenticated { .. } | Self::InvalidToken(_) => StatusCode::UNAUTHORIZED,
            Self::Address
            | Self::Origin
            | Self::InsufficientScope { .. }
            | Self::Forbidden
            | Self::UnfitClaim(_)
            | Self::Cleartext => StatusCode::FORBIDDEN,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::IssuerUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Body(error) | Self::Upstream(SendError::RequestBody(error)) => match error {
                BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                BodyError::Timeout => StatusCode::REQUEST_TIMEOUT,
                BodyError::Aborted => StatusCode::BAD_REQUEST,
            },
            Self::Signing => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Upgrade => StatusCode::BAD_GATEWAY,
            Self::Upstream(error) => match error {
                SendError::Connect { .. } | SendError::Broken { .. } => StatusCode::BAD_GATEWAY,
                SendError::ConnectTimeout { .. } | SendError::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
                SendError::Busy { .. } | SendError::NoServer { .. } => StatusCode::SERVICE_UNAVAILABLE,
                SendError::RequestBody(_) => StatusCode::BAD_REQUEST,
            },
        }
    }

    /// Whether it is the rules that refused, not the machinery.
    pub fn is_denial(&self) -> bool {
        self.status().is_client_error()
    }

    /// Why, for the log. What callers can have at will is not written anew for each of them.
    pub fn cause(&self) -> Cow<'static, str> {
        match self {
            Self::InsufficientScope { .. } => LACKS_SCOPES.into(),
            Self::InvalidToken(Refusal::Expired) => Refusal::EXPIRED.into(),
            _ => self.to_string().into(),
        }
    }

    pub fn response(&self, realm: &Realm, request_id: &HeaderValue) -> Response<Bytes> {
        match self {
            Self::Unauthenticated { challenge } | Self::InsufficientScope { challenge } => {
                challenge.response(request_id)
            }
            Self::BearerSyntax => realm.invalid_request.response(request_id),
            Self::InvalidToken(_) => realm.invalid_token.response(request_id),
            _ => {
                let mut response = problem(self.status(), request_id);
                self.add_headers(response.headers_mut());
                response
            }
        }
    }

    fn add_headers(&self, headers: &mut HeaderMap) {
        match self {
            Self::Method { allow } => headers.insert(header::ALLOW, allow.clone()),
            Self::IssuerUnavailable | Self::Upstream(SendError::Busy { .. } | SendError::NoServer { .. }) => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER)
            }
            Self::RateLimited { retry_after } => headers.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after)),
            Self::ContentLength
            | Self::Body(BodyError::Timeout)
            | Self::Upstream(SendError::RequestBody(BodyError::Timeout)) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"))
            }
            _ => None,
        };
    }
}

/// A refusal with a challenge, put together once but for the request's id: callers can have as many of these as they like.
#[derive(Clone, Debug)]
pub struct Ready(Arc<Refused>);

#[derive(Debug)]
struct Refused {
    status: StatusCode,
    headers: HeaderMap,
    after_id: String,
}

impl Ready {
    fn new(status: StatusCode, challenge: String) -> Self {
        let mut headers = headers();
        if let Ok(challenge) = HeaderValue::from_maybe_shared(Bytes::from(challenge)) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        Self(Arc::new(Refused { status, headers, after_id: after_id(&status).concat() }))
    }

    fn response(&self, request_id: &HeaderValue) -> Response<Bytes> {
        let text = [BEFORE_ID, request_id.to_str().unwrap_or_default(), &self.0.after_id].concat();
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = self.0.status;
        *response.headers_mut() = self.0.headers.clone();
        response
    }
}

/// Who asks for tokens, and what of its refusals depends on no route.
#[derive(Debug)]
pub struct Realm {
    name: String,
    invalid_request: Ready,
    invalid_token: Ready,
}

impl Realm {
    /// `name` is quoted as it is, so it must hold no quotes.
    pub fn new(name: &str) -> Self {
        let ready = |status, error| Ready::new(status, challenge(name, Some(error), ""));
        let syntax = ("invalid_request", "The Authorization header must be Bearer and one token");
        let token = ("invalid_token", "The access token is not valid here");
        Self {
            invalid_request: ready(StatusCode::BAD_REQUEST, syntax),
            invalid_token: ready(StatusCode::UNAUTHORIZED, token),
            name: name.to_owned(),
        }
    }

    /// To a caller without a token.
    pub fn unauthenticated(&self, scope: &str) -> Ready {
        Ready::new(StatusCode::UNAUTHORIZED, challenge(&self.name, None, scope))
    }

    pub fn insufficient_scope(&self, scope: &str) -> Ready {
        let error = ("insufficient_scope", "The access token lacks a scope that is needed here");
        Ready::new(StatusCode::FORBIDDEN, challenge(&self.name, Some(error), scope))
    }
}

/// `Bearer realm="…", error="…", error_description="…", scope="…"`, each at most once. Scopes hold no quotes (RFC 6749
/// section 3.3).
fn challenge(realm: &str, error: Option<(&str, &str)>, scope: &str) -> String {
    let mut text = ["Bearer realm=\"", realm, "\""].concat();
    if let Some((code, description)) = error {
        text.extend([", error=\"", code, "\", error_description=\"", description, "\""]);
    }
    if !scope.is_empty() {
        text.extend([", scope=\"", scope, "\""]);
    }
    text
}

/// A refusal (RFC 9457).
pub fn problem(status: StatusCode, request_id: &HeaderValue) -> Response<Bytes> {
    let [a, b, c, d, e] = after_id(&status);
    let text = [BEFORE_ID, request_id.to_str().unwrap_or_default(), a, b, c, d, e].concat();
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    *response.headers_mut() = headers();
    response
}

/// The beginning of a refusal's body. Nothing in it or what follows has a character that JSON would escape.
const BEFORE_ID: &str = "{\"request_id\":\"";

fn after_id(status: &StatusCode) -> [&str; 5] {
    let title = status.canonical_reason().unwrap_or("Error");
    ["\",\"status\":", status.as_str(), ",\"title\":\"", title, "\",\"type\":\"about:blank\"}\n"]
}

/// Refusals are never stored by caches.
fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_of_a_refusal_is_json() {
        let body = problem(StatusCode::NOT_FOUND, &HeaderValue::from_static("a-1_.:=/+")).into_body();
        let told: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let expected =
            serde_json::json!({"type": "about:blank", "title": "Not Found", "status": 404, "request_id": "a-1_.:=/+"});
        assert_eq!(told, expected);
    }

    fn rejects() -> Vec<Reject> {
        let realm = Realm::new("api");
        vec![
            Reject::Host,
            Reject::Path(PathError::DotSegment),
            Reject::Spelling,
            Reject::RepeatedHeader,
            Reject::HeaderCount,
            Reject::ContentLength,
            Reject::Cleartext,
            Reject::NoRoute,
            Reject::Address,
            Reject::Origin,
            Reject::Method { allow: HeaderValue::from_static("GET, HEAD") },
            Reject::Unauthenticated { challenge: realm.unauthenticated("orders:read") },
            Reject::Unauthenticated { challenge: realm.unauthenticated("") },
            Reject::BearerSyntax,
            Reject::InvalidToken(Refusal::Expired),
            Reject::InvalidToken(Refusal::Signature),
            Reject::IssuerUnavailable,
            Reject::InsufficientScope { challenge: realm.insufficient_scope("a b") },
            Reject::Forbidden,
            Reject::RateLimited { retry_after: 7 },
            Reject::UnfitClaim(header::FROM),
            Reject::Signing,
            Reject::Body(BodyError::TooLarge),
            Reject::Body(BodyError::Timeout),
            Reject::Body(BodyError::Aborted),
            Reject::Upgrade,
            Reject::Upstream(SendError::RequestBody(BodyError::TooLarge)),
            Reject::Upstream(SendError::ConnectTimeout {
                server: "s".to_owned(),
                limit: std::time::Duration::from_secs(1),
            }),
            Reject::Upstream(SendError::Busy { server: "s".to_owned(), limit: 1 }),
            Reject::Upstream(SendError::NoServer { upstream: "u".into() }),
            Reject::Upstream(SendError::Timeout { server: "s".to_owned(), limit: std::time::Duration::from_secs(1) }),
        ]
    }

    #[test]
    fn every_reject_as_it_is_told() {
        let table: String = rejects()
            .iter()
            .map(|reject| {
                let response = reject.response(&Realm::new("api"), &HeaderValue::from_static("id"));
                assert_eq!(response.status(), reject.status());
                assert_eq!(reject.cause(), reject.to_string());
                let headers = response.headers();
                let told = [header::ALLOW, header::RETRY_AFTER, header::WWW_AUTHENTICATE];
                let told = told.iter().filter_map(|name| headers.get(name)).filter_map(|value| value.to_str().ok());
                let told: Vec<&str> = told.collect();
                let row = format!("{} {} {}", response.status().as_u16(), reject.code(), told.join(" "));
                row.trim_end().to_owned() + "\n"
            })
            .collect();
        assert_eq!(table, include_str!("../../tests/expected/rejects.txt"), "{table}");
    }

    #[test]
    fn every_reason_is_documented() {
        let document = include_str!("../../docs/monitoring.md");
        let (_, reasons) = document.split_once("## Reasons").expect("a chapter");
        let (reasons, _) = reasons.split_once("\n## ").expect("its end");
        let tokens = [
            Refusal::Characters,
            Refusal::TooLong,
            Refusal::Malformed(crate::jose::Malformed::Segments),
            Refusal::Issuer,
            Refusal::Algorithm,
            Refusal::Key,
            Refusal::Signature,
            Refusal::Expired,
            Refusal::NotYetValid,
            Refusal::Audience,
            Refusal::Type,
            Refusal::Kind,
            Refusal::Claim,
            Refusal::Bound,
            Refusal::Revoked,
            Refusal::Unknown,
            Refusal::Inactive,
            Refusal::Unsupported,
        ];
        for reject in rejects().into_iter().chain(tokens.map(Reject::InvalidToken)) {
            assert!(reasons.contains(&format!("`{}`", reject.code())), "{reject:?}");
        }
    }
}
