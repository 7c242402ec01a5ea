//! Errors of the token, revocation and introspection endpoints (RFC 6749 section 5.2) and how they are answered.
//!
//! What the caller reads is fixed text that never says why a credential failed; `reason` goes to the log.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::passwords::Busy;
use crate::store::StoreError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorCode {
    InvalidRequest,
    InvalidClient,
    InvalidGrant,
    UnauthorizedClient,
    UnsupportedGrantType,
    InvalidScope,
    InvalidTarget,
    ServerError,
    /// Too much to do; trying later helps.
    Overloaded,
    /// Too many failures from this address.
    TooMany,
    TooLarge,
    Timeout,
    MethodNotAllowed,
}

#[derive(Clone, Debug)]
pub(super) struct Error {
    pub(super) code: ErrorCode,
    /// For the caller: only %x20-21 / %x23-5B / %x5D-7E, and nothing that was sent.
    pub(super) description: Cow<'static, str>,
    /// For the log.
    pub(super) reason: Option<Cow<'static, str>>,
    retry_after: Option<u64>,
    allow: Option<&'static str>,
}

impl Error {
    pub(super) fn new(code: ErrorCode, description: impl Into<Cow<'static, str>>) -> Self {
        Self { code, description: description.into(), reason: None, retry_after: None, allow: None }
    }

    pub(super) fn reason(self, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::new(ErrorCode::MethodNotAllowed, "this method is not supported here") }
    }

    /// One answer for every way in which client authentication fails.
    pub(super) fn invalid_client(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidClient, "client authentication failed").reason(reason)
    }

    /// One answer for every way in which the user's credentials fail.
    pub(super) fn bad_credentials(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidGrant, "the user name or password is wrong").reason(reason)
    }

    pub(super) fn too_many(retry_after: u64) -> Self {
        let error = Self::new(ErrorCode::TooMany, "too many failures from this address");
        Self { retry_after: Some(retry_after), ..error }
    }

    pub(super) fn overloaded(reason: impl Into<Cow<'static, str>>) -> Self {
        let error = Self::new(ErrorCode::Overloaded, "try again in a moment").reason(reason);
        Self { retry_after: Some(2), ..error }
    }

    /// The registered code, which is also the metric's label.
    pub(super) fn code(&self) -> &'static str {
        match self.code {
            ErrorCode::InvalidRequest | ErrorCode::TooLarge | ErrorCode::Timeout | ErrorCode::MethodNotAllowed => {
                "invalid_request"
            }
            ErrorCode::InvalidClient => "invalid_client",
            ErrorCode::InvalidGrant => "invalid_grant",
            ErrorCode::UnauthorizedClient => "unauthorized_client",
            ErrorCode::UnsupportedGrantType => "unsupported_grant_type",
            ErrorCode::InvalidScope => "invalid_scope",
            ErrorCode::InvalidTarget => "invalid_target",
            ErrorCode::ServerError => "server_error",
            ErrorCode::Overloaded | ErrorCode::TooMany => "temporarily_unavailable",
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self.code {
            ErrorCode::InvalidClient => StatusCode::UNAUTHORIZED,
            ErrorCode::ServerError => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::TooMany => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::Timeout => StatusCode::REQUEST_TIMEOUT,
            ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// What an answer says beside its text: when trying again helps, and which methods there are.
    pub(super) fn add_headers(&self, headers: &mut http::HeaderMap) {
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
    }

    /// The JSON answer. A 401 carries a challenge whose realm is the issuer.
    pub(super) fn response(&self, issuer: &str) -> Response<Bytes> {
        let body = json!({ "error": self.code(), "error_description": self.description });
        let mut response = json_response(self.status(), &body);
        let headers = response.headers_mut();
        if self.code == ErrorCode::InvalidClient {
            let challenge = format!(
                "Basic realm=\"{issuer}\", error=\"{}\", error_description=\"{}\"",
                self.code(),
                self.description
            );
            if let Ok(challenge) = HeaderValue::try_from(challenge) {
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
        }
        self.add_headers(headers);
        response
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy => Self::overloaded("the store's queue is full"),
            StoreError::HandedOver => {
                Self { retry_after: Some(1), ..Self::overloaded("the store was handed over to the next process") }
            }
            other => {
                tracing::error!(error = %other, "the store failed a request");
                Self::new(ErrorCode::ServerError, "the server failed").reason(other.to_string())
            }
        }
    }
}

impl From<Busy> for Error {
    fn from(Busy: Busy) -> Self {
        Self::overloaded("the queue for password hashes is full")
    }
}

/// An answer that no cache may keep (RFC 6749 section 5.1).
pub(super) fn json_response(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    no_store(headers);
    response
}

pub(super) fn no_store(headers: &mut http::HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
}
