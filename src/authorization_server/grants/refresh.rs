//! The refresh token grant (RFC 6749 section 6), with rotation (RFC 9700 section 4.14.2).
//!
//! What the user may have is asked anew each time: a disabled user or a changed password ends the family, a role that was
//! taken away narrows it.

use serde_json::Value;

use super::super::error::{Error, ErrorCode};
use super::super::server::AuthorizationServer;
use super::super::tokens::{Facts, UserFacts, narrow_audience};
use super::super::users::OFFLINE_ACCESS;
use super::{GrantRequest, invalid_scope, within};
use crate::scope::ScopeSet;
use crate::store::{Digest, Rotation};

impl AuthorizationServer {
    pub(in super::super) async fn refresh_grant(&self, request: &GrantRequest<'_>) -> Result<Value, Error> {
        let client = request.client();
        let presented = Digest::of(request.required("refresh_token")?);
        let Some((_, grant)) = self.store().refresh_token(presented).await? else {
            return Err(invalid_grant("unknown or expired refresh token"));
        };
        if *grant.client != *client.id {
            return Err(invalid_grant("the refresh token of another client"));
        }
        if grant.revoked {
            return Err(invalid_grant("the grant was revoked"));
        }
        let account = self.users().enabled(&grant.user).filter(|user| user.password_stamp == grant.password_stamp);
        let Some(account) = account else {
            self.revoke_grant(&grant, "the user is disabled or changed the password").await?;
            return Err(invalid_grant("the user is disabled or changed the password"));
        };
        let full = ScopeSet::parse(&grant.scope).unwrap_or_default();
        let requested = match request.form.get("scope") {
            Some(text) => within(&full, text, "a refresh cannot ask for more than was granted")?,
            None => full,
        };
        let left = requested.filter(|scope| client.scopes.contains(scope));
        let (scope, _) = self.granted_scope(client, account, &left)?;
        let for_use = |scopes: &ScopeSet| scopes.iter().any(|scope| scope != OFFLINE_ACCESS);
        if for_use(&requested) && !for_use(&scope) {
            return Err(invalid_scope("nothing is left of what was granted"));
        }
        let audience = narrow_audience(&grant.audience, request.form)?;

        let user = UserFacts { account, auth_time: grant.auth_time, amr: &grant.amr };
        let prepared = self.prepare(&Facts { client, scope: &scope, audience: &audience, user: Some(user) });
        let (text, record) = self.new_refresh_token();
        let rotation = self.store().rotate(presented, grant.client.clone(), prepared.record.clone(), record).await?;
        match rotation {
            Rotation::Rotated { again } => {
                if again {
                    tracing::info!(
                        target: "audit", event = "refresh_again", request_id = request.caller.request_id,
                        client = %client.id, user = grant.user, grant = grant.id.as_str(),
                    );
                }
                self.audit_grant(request, Some(&grant.user), &scope);
                self.finish(prepared, Some(&text))
            }
            Rotation::Invalid => Err(invalid_grant("the refresh token was revoked a moment ago")),
            Rotation::Reused(grant_id) => {
                self.metrics().refresh_reuse.inc();
                tracing::warn!(
                    target: "audit", event = "refresh_reuse", request_id = request.caller.request_id,
                    client = %client.id, user = grant.user, grant = grant_id.as_str(), address = %request.caller.peer,
                );
                Err(invalid_grant("a retired refresh token: its family is revoked"))
            }
        }
    }
}

fn invalid_grant(reason: &'static str) -> Error {
    Error::new(ErrorCode::InvalidGrant, "the refresh token is not valid").reason(reason)
}
