//! The client credentials grant (RFC 6749 section 4.4): a client acts for itself. No refresh token; it can always ask
//! again.

use serde_json::Value;

use super::super::error::{Error, ErrorCode};
use super::super::server::AuthorizationServer;
use super::super::tokens::Facts;
use super::super::users::OFFLINE_ACCESS;
use super::{GrantRequest, invalid_scope, requested_scope};

impl AuthorizationServer {
    pub(in super::super) async fn client_credentials_grant(&self, request: &GrantRequest<'_>) -> Result<Value, Error> {
        let client = request.client();
        if !request.by.is_confidential() {
            let error = Error::new(ErrorCode::UnauthorizedClient, "the client may not use this grant");
            return Err(error.reason("a public client has no credentials"));
        }
        let scope = requested_scope(client, request.form.get("scope"))?.filter(|scope| scope != OFFLINE_ACCESS);
        if scope.is_empty() {
            return Err(invalid_scope("nothing of this scope can be given"));
        }
        let audience = self.audience(request.by, request.form)?;
        let prepared = self.prepare(&Facts { client, scope: &scope, audience: &audience, user: None });
        if prepared.record.opaque.is_some() {
            self.store().record_access_token(prepared.record.clone()).await?;
        }
        let response = self.finish(prepared, None)?;
        self.audit_grant(request, None, &scope);
        Ok(response)
    }
}
