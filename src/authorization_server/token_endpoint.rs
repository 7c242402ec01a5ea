//! `{path}/token` (RFC 6749 section 3.2). The order of the checks tells an unauthenticated caller nothing about users or
//! tokens: size, content type, syntax, client, grant, and only then what the grant is about.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;

use super::clients::Authenticated;
use super::error::{Error, ErrorCode, json_response};
use super::form;
use super::grants::GrantRequest;
use super::server::{AuthorizationServer, Caller};
use super::{Client, Grant};

impl AuthorizationServer {
    pub(super) async fn token_endpoint<B>(&self, request: Request<B>, caller: &Caller<'_>) -> Response<Bytes>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let origin = request.headers().get(header::ORIGIN).cloned();
        if request.method() == Method::OPTIONS {
            return self.preflight(origin.as_ref());
        }
        let mut client = None;
        let answer = match request.method() {
            &Method::POST => self.token(request, caller, &mut client).await,
            _ => Err(Error::method_not_allowed("POST")),
        };
        let mut response = match answer {
            Ok(body) => json_response(StatusCode::OK, &body),
            Err(error) => {
                self.audit_refusal("token", &error, client.as_ref(), caller);
                error.response(self.settings().issuer.as_str())
            }
        };
        self.allow_origin(origin.as_ref(), client.as_ref(), response.headers_mut());
        response
    }

    async fn token<B>(
        &self,
        request: Request<B>,
        caller: &Caller<'_>,
        client: &mut Option<Authenticated>,
    ) -> Result<serde_json::Value, Error>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let (headers, form) = form::read(request).await?;
        let by = client.insert(self.authenticate_client(&headers, &form, caller).await?);
        let name =
            form.get("grant_type").ok_or_else(|| Error::new(ErrorCode::InvalidRequest, "grant_type is missing"))?;
        let grant = Grant::ALL.into_iter().find(|grant| grant.name() == name).ok_or_else(unsupported)?;
        if !by.client.grants.contains(&grant) {
            // A grant that nobody has is as good as not built.
            let known = self.clients().any_has(grant);
            return Err(if known { unauthorized() } else { unsupported() });
        }
        let request = GrantRequest { grant, by, form: &form, caller };
        match grant {
            Grant::Password => self.password_grant(&request).await,
            Grant::RefreshToken => self.refresh_grant(&request).await,
            Grant::AuthorizationCode => self.authorization_code_grant(&request).await,
            Grant::ClientCredentials => self.client_credentials_grant(&request).await,
        }
    }

    pub(super) fn preflight(&self, origin: Option<&HeaderValue>) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        self.allow_origin(origin, None, headers);
        if headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
            headers
                .insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type"));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
        response
    }

    /// Lets a script read the answer when its origin is one of the client's, or of any client before that is known.
    pub(super) fn allow_origin(
        &self,
        origin: Option<&HeaderValue>,
        client: Option<&Authenticated>,
        headers: &mut HeaderMap,
    ) {
        let Some(origin) = origin else { return };
        let lists = |client: &Client| client.origins.iter().any(|own| own.as_bytes() == origin.as_bytes());
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        let allowed = match client {
            Some(by) => lists(&by.client),
            None => self.clients().iter().any(|client| lists(client)),
        };
        if allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("WWW-Authenticate"));
        }
    }
}

fn unsupported() -> Error {
    Error::new(ErrorCode::UnsupportedGrantType, "this grant type is not supported")
}

fn unauthorized() -> Error {
    Error::new(ErrorCode::UnauthorizedClient, "the client may not use this grant")
}
