//! `{path}/revoke` (RFC 7009). Takes effect at once, for JWTs too: the gateway asks for revoked `jti`s at every request.
//! Only a token's own client may revoke it, and an operator; what is no token, or none any more, is revoked already.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use serde_json::{Map, Value};

use super::clients::Authenticated;
use super::error::{Error, ErrorCode, no_store};
use super::form;
use super::server::{AuthorizationServer, Caller};
use crate::store::{Digest, Ended, StoreError, Whose};

/// Why, in the audit trail.
const OPERATOR: &str = "by an operator";

impl AuthorizationServer {
    pub(super) async fn revocation_endpoint<B>(&self, request: Request<B>, caller: &Caller<'_>) -> Response<Bytes>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let origin = request.headers().get(header::ORIGIN).cloned();
        if request.method() == Method::OPTIONS {
            return self.preflight(origin.as_ref());
        }
        let mut client = None;
        let answer = match *request.method() {
            Method::POST => self.revoke(request, caller, &mut client).await,
            _ => Err(Error::method_not_allowed("POST")),
        };
        let mut response = match answer {
            Ok(()) => {
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = StatusCode::OK;
                no_store(response.headers_mut());
                response
            }
            Err(error) => {
                self.audit_refusal("revoke", &error, client.as_ref(), caller);
                error.response(self.settings().issuer.as_str())
            }
        };
        self.allow_origin(origin.as_ref(), client.as_ref(), response.headers_mut());
        response
    }

    async fn revoke<B>(
        &self,
        request: Request<B>,
        caller: &Caller<'_>,
        client: &mut Option<Authenticated>,
    ) -> Result<(), Error>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let (headers, form) = form::read(request).await?;
        let by = client.insert(self.authenticate_client(&headers, &form, caller).await?);
        // token_type_hint is not needed: every kind is looked for.
        let token = form.get("token").ok_or_else(|| Error::new(ErrorCode::InvalidRequest, "token is missing"))?;
        if let Some((_, grant)) = self.store().refresh_token(Digest::of(token)).await? {
            own(by, &grant.client)?;
            self.revoke_grant(&grant, "by its client").await?;
            return Ok(());
        }
        if let Some(claims) = self.own_access_token(token).await? {
            let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
            own(by, text("client_id"))?;
            self.revoke_access_token(&claims, "by its client", Some(caller)).await?;
        }
        Ok(())
    }

    async fn revoke_access_token(
        &self,
        claims: &Map<String, Value>,
        reason: &'static str,
        caller: Option<&Caller<'_>>,
    ) -> Result<(), StoreError> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        let expires = claims.get("exp").and_then(Value::as_u64).unwrap_or_default();
        self.store().revoke_access_token(text("jti").to_owned(), expires).await?;
        tracing::info!(
            target: "audit", event = "revocation", jti = text("jti"), client = text("client_id"),
            user = text("sub"), reason, request_id = caller.map(|caller| caller.request_id),
        );
        Ok(())
    }

    /// For operators: ends a token of any kind, whoever it belongs to.
    pub async fn end_token(&self, token: &str) -> Result<Ended, StoreError> {
        let mut ended = Ended::default();
        if let Some((_, grant)) = self.store().refresh_token(Digest::of(token)).await? {
            ended.grants = usize::from(self.revoke_grant(&grant, OPERATOR).await?);
        } else if let Some(claims) = self.own_access_token(token).await? {
            self.revoke_access_token(&claims, OPERATOR, None).await?;
            ended.access_tokens = 1;
        }
        Ok(ended)
    }

    /// For operators: ends everything that a user or a client was given. JWTs that came alone are not kept anywhere, and
    /// not among those counted.
    pub async fn end_all(&self, whose: Whose) -> Result<Ended, StoreError> {
        let ended = self.store().end_all(whose.clone(), self.longest_token()).await?;
        // What is no user's name, and had nothing, may be a slip of the hand: a token, a password.
        let known = |user: &str| ended != Ended::default() || self.users().is_known(user);
        let user = whose.user.as_deref().map(|user| if known(user) { user } else { "(unknown)" });
        let client = whose.client.as_deref().map(|client| match ended == Ended::default() {
            true if self.clients().iter().all(|own| *own.id != *client) => "(unknown)",
            _ => client,
        });
        tracing::info!(
            target: "audit", event = "revocation", user, client, grants = ended.grants,
            access_tokens = ended.access_tokens, sessions = ended.sessions, reason = OPERATOR,
        );
        Ok(ended)
    }
}

fn own(by: &Authenticated, client: &str) -> Result<(), Error> {
    if *by.client.id == *client {
        return Ok(());
    }
    Err(Error::new(ErrorCode::InvalidGrant, "the token was not issued to this client"))
}
