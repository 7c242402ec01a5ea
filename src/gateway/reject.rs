//! The one place where an error gets a status, a public text and headers (RFC 6750 section 3, RFC 9457). What is said
//! outside is fixed for each kind of error; why exactly goes to the log.

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
    Unauthenticated { scope: String },
    #[error("the Authorization header is not `Bearer` and one token")]
    BearerSyntax,
    #[error("{0}")]
    InvalidToken(Refusal),
    #[error("the issuer cannot be asked")]
    IssuerUnavailable,
    #[error("the token lacks scopes")]
    InsufficientScope { scope: String },
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

    /// The answer. `realm` is quoted as it is, so it must hold no quotes.
    pub fn response(&self, realm: &str, request_id: &HeaderValue) -> Response<Bytes> {
        let status = self.status();
        let mut response = problem(status, request_id);
        self.add_headers(response.headers_mut(), realm);
        response
    }

    fn add_headers(&self, headers: &mut HeaderMap, realm: &str) {
        let challenge = match self {
            Self::Unauthenticated { scope } => Some(challenge(realm, None, scope)),
            Self::BearerSyntax => {
                let error = ("invalid_request", "The Authorization header must be Bearer and one token");
                Some(challenge(realm, Some(error), ""))
            }
            Self::InvalidToken(_) => {
                let error = ("invalid_token", "The access token is not valid here");
                Some(challenge(realm, Some(error), ""))
            }
            Self::InsufficientScope { scope } => {
                let error = ("insufficient_scope", "The access token lacks a scope that is needed here");
                Some(challenge(realm, Some(error), scope))
            }
            Self::Method { allow } => {
                headers.insert(header::ALLOW, allow.clone());
                None
            }
            Self::IssuerUnavailable | Self::Upstream(SendError::Busy { .. } | SendError::NoServer { .. }) => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER);
                None
            }
            Self::RateLimited { retry_after } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after));
                None
            }
            Self::ContentLength
            | Self::Body(BodyError::Timeout)
            | Self::Upstream(SendError::RequestBody(BodyError::Timeout)) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                None
            }
            _ => None,
        };
        if let Some(challenge) = challenge.and_then(|text| HeaderValue::from_maybe_shared(Bytes::from(text)).ok()) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
    }
}

/// `Bearer realm="…", error="…", error_description="…", scope="…"`, each at most once. Scopes hold no quotes (RFC 6749
/// section 3.3).
fn challenge(realm: &str, error: Option<(&str, &str)>, scope: &str) -> String {
    // Room for the longest of the texts, so that it need not grow.
    let mut text = String::with_capacity(192 + realm.len() + scope.len());
    text.extend(["Bearer realm=\"", realm, "\""]);
    if let Some((code, description)) = error {
        text.extend([", error=\"", code, "\", error_description=\"", description, "\""]);
    }
    if !scope.is_empty() {
        text.extend([", scope=\"", scope, "\""]);
    }
    text
}

/// A refusal's body (RFC 9457). Refusals are never stored by caches. Nothing in it has a character that JSON would escape.
pub fn problem(status: StatusCode, request_id: &HeaderValue) -> Response<Bytes> {
    let parts = [
        "{\"request_id\":\"",
        request_id.to_str().unwrap_or_default(),
        "\",\"status\":",
        status.as_str(),
        ",\"title\":\"",
        status.canonical_reason().unwrap_or("Error"),
        "\",\"type\":\"about:blank\"}\n",
    ];
    let mut response = Response::new(Bytes::from(parts.concat()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
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
            Reject::Unauthenticated { scope: "orders:read".to_owned() },
            Reject::Unauthenticated { scope: String::new() },
            Reject::BearerSyntax,
            Reject::InvalidToken(Refusal::Expired),
            Reject::InvalidToken(Refusal::Signature),
            Reject::IssuerUnavailable,
            Reject::InsufficientScope { scope: "a b".to_owned() },
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
                let response = reject.response("api", &HeaderValue::from_static("id"));
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
