//! What `POST /revoke` is to end: one token, or everything of a user, of a client, or of a user by a client. It is told in
//! the body, since queries are written down in many places.

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;

use super::{PATIENCE, text};
use crate::secret::Secret;
use crate::store::Whose;

/// Largest form that is read.
const MAX_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) enum Wanted {
    Token(Secret<String>),
    All(Whose),
}

impl Wanted {
    pub(super) async fn read(request: Request<Incoming>) -> Result<Self, Response<Full<Bytes>>> {
        let refusal = |status, why: &str| text(status, format!("{why}\n"));
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send a form"));
        }
        let read = Limited::new(request.into_body(), MAX_BYTES).collect();
        let body = match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, "the form is too large"));
            }
            Ok(Err(_)) => return Err(refusal(StatusCode::BAD_REQUEST, "the form broke off")),
            Err(_) => return Err(refusal(StatusCode::REQUEST_TIMEOUT, "the form took too long")),
        };
        let wanted = Self::of(&body);
        wanted.ok_or_else(|| {
            refusal(
                StatusCode::BAD_REQUEST,
                "name a `token`, or a `subject`, a `client` or both: each once, nothing else",
            )
        })
    }

    fn of(form: &[u8]) -> Option<Self> {
        let (mut token, mut user, mut client) = (None, None, None);
        for (name, value) in form_urlencoded::parse(form) {
            let field = match &*name {
                "token" => &mut token,
                "subject" => &mut user,
                "client" => &mut client,
                _ => return None,
            };
            if value.is_empty() || field.replace(value.into_owned()).is_some() {
                return None;
            }
        }
        match (token, user, client) {
            (Some(token), None, None) => Some(Self::Token(Secret::new(token))),
            (None, None, None) | (Some(_), _, _) => None,
            (None, user, client) => Some(Self::All(Whose { user, client })),
        }
    }
}
