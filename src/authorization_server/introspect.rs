//! `{path}/introspect` (RFC 7662), for JWTs as for opaque tokens. Whoever may not know is told what everybody is told of a
//! token that is not active: nothing.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use serde_json::{Map, Value, json};

use super::clients::Authenticated;
use super::error::{Error, ErrorCode, json_response};
use super::form;
use super::server::{AuthorizationServer, Caller};
use crate::store::Digest;

impl AuthorizationServer {
    pub(super) async fn introspection_endpoint<B>(&self, request: Request<B>, caller: &Caller<'_>) -> Response<Bytes>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let mut client = None;
        let answer = match *request.method() {
            Method::POST => self.introspect(request, caller, &mut client).await,
            _ => Err(Error::method_not_allowed("POST")),
        };
        match answer {
            Ok(facts) => {
                let inactive = || json!({ "active": false });
                json_response(StatusCode::OK, &facts.map_or_else(inactive, Value::Object))
            }
            Err(error) => {
                self.audit_refusal("introspect", &error, client.as_ref(), caller);
                error.response(self.settings().issuer.as_str())
            }
        }
    }

    async fn introspect<B>(
        &self,
        request: Request<B>,
        caller: &Caller<'_>,
        client: &mut Option<Authenticated>,
    ) -> Result<Option<Map<String, Value>>, Error>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let (headers, form) = form::read(request).await?;
        let by = client.insert(self.authenticate_client(&headers, &form, caller).await?);
        if !by.is_confidential() {
            return Err(Error::invalid_client("a public client cannot introspect"));
        }
        let token = form.get("token").ok_or_else(|| Error::new(ErrorCode::InvalidRequest, "token is missing"))?;
        if !by.client.introspect {
            return Ok(None);
        }
        match self.own_access_token(token).await? {
            Some(claims) => Ok(self.access_token_facts(by, claims)),
            None => self.refresh_token_facts(by, token).await,
        }
    }

    /// The claims, for a resource server that the token is for.
    fn access_token_facts(&self, by: &Authenticated, claims: Map<String, Value>) -> Option<Map<String, Value>> {
        let own = &by.client.audience;
        let named = |audience: &Value| own.iter().any(|own| audience.as_str() == Some(own));
        let for_caller = match claims.get("aud") {
            _ if own.is_empty() => true,
            Some(Value::Array(all)) => all.iter().any(named),
            Some(one) => named(one),
            None => false,
        };
        if !for_caller {
            return None;
        }
        let mut facts = claims;
        let subject = facts.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !subject.starts_with("client:") {
            // The token outlives a user who was disabled or changed the password, but it is not active any more.
            let issued = facts.get("iat").and_then(Value::as_u64).unwrap_or_default();
            if !self.users().stands(&subject, issued) {
                return None;
            }
            facts.insert("username".into(), subject.into());
        }
        facts.insert("active".into(), true.into());
        facts.insert("token_type".into(), "Bearer".into());
        Some(facts)
    }

    /// A refresh token is its own client's business, and nobody may take it for an access token.
    async fn refresh_token_facts(&self, by: &Authenticated, token: &str) -> Result<Option<Map<String, Value>>, Error> {
        let found = self.store().refresh_token(Digest::of(token)).await?;
        let Some((token, grant)) = found.filter(|(token, grant)| {
            *grant.client == *by.client.id && !grant.revoked && token.next.is_none() && !token.superseded
        }) else {
            return Ok(None);
        };
        let account = self.users().enabled(&grant.user);
        if account.is_none_or(|account| account.password_stamp != grant.password_stamp) {
            return Ok(None);
        }
        let facts = json!({
            "active": true,
            "iss": self.settings().issuer.as_str(),
            "client_id": grant.client,
            "sub": grant.user,
            "username": grant.user,
            "scope": grant.scope,
            "iat": grant.created,
            "exp": token.expires,
        });
        Ok(facts.as_object().cloned())
    }
}
