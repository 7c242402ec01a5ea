//! The authorization code grant's second half: the code for tokens (RFC 6749 section 4.1.3, RFC 7636 section 4.6).
//!
//! Only a request that is right in everything uses the code, and only such a one, coming again, revokes what the first one
//! got: whoever merely saw a code can neither burn it nor harm its owner.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::Value;

use super::super::error::{Error, ErrorCode};
use super::super::server::AuthorizationServer;
use super::super::tokens::{Facts, UserFacts, narrow_audience};
use super::GrantRequest;
use crate::scope::ScopeSet;
use crate::store::{Code, Digest, Grant, GrantId, Redemption};

impl AuthorizationServer {
    pub(in super::super) async fn authorization_code_grant(&self, request: &GrantRequest<'_>) -> Result<Value, Error> {
        let client = request.client();
        let presented = Digest::of(request.required("code")?);
        let verifier = request.form.get("code_verifier");
        if verifier.is_some_and(|verifier| !is_verifier(verifier)) {
            return Err(Error::new(ErrorCode::InvalidRequest, "code_verifier is malformed"));
        }
        let Some(code) = self.store().code(presented).await? else { return Err(invalid_grant("unknown code")) };
        if *code.client != *client.id {
            return Err(invalid_grant("the code of another client"));
        }
        check_redirect(&code, request.form.get("redirect_uri"))?;
        match (&code.challenge, verifier) {
            (None, None) => {}
            // A client that made no challenge has no verifier: somebody took the challenge out (RFC 9700 section 4.8.2).
            (None, Some(_)) => {
                let error = Error::new(ErrorCode::InvalidRequest, "code_verifier without a code_challenge");
                return Err(error.reason("downgrade of PKCE"));
            }
            (Some(_), None) => return Err(invalid_grant("code_verifier is missing")),
            (Some(challenge), Some(verifier)) => {
                let hash = BASE64URL.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
                if verify_slices_are_equal(hash.as_bytes(), challenge.as_bytes()).is_err() {
                    self.store().code_failed(presented).await?;
                    return Err(invalid_grant("wrong code_verifier"));
                }
            }
        }
        if code.grant.is_none() {
            if code.expires <= self.now() {
                return Err(invalid_grant("the code has expired"));
            }
            if self.store().session(code.session).await?.is_none() {
                return Err(invalid_grant("the user has logged out"));
            }
        }
        let account = self.users().enabled(&code.user).filter(|user| user.password_stamp == code.password_stamp);
        let account = account.ok_or_else(|| invalid_grant("the user is disabled or changed the password"))?;
        let granted = ScopeSet::parse(&code.scope).unwrap_or_default();
        let left = granted.filter(|scope| client.scopes.contains(scope));
        let (scope, with_refresh) = self.granted_scope(client, account, &left)?;
        let audience = narrow_audience(&code.audience, request.form)?;

        let user = UserFacts { account, auth_time: code.auth_time, amr: &code.amr };
        let prepared = self.prepare(&Facts { client, scope: &scope, audience: &audience, user: Some(user) });
        let refresh = with_refresh.then(|| self.new_refresh_token());
        let now = self.now();
        let grant = Grant {
            id: GrantId::random(),
            client: code.client.clone(),
            user: code.user.clone(),
            scope: scope.to_string(),
            audience: code.audience.clone(),
            auth_time: code.auth_time,
            amr: code.amr.clone(),
            password_stamp: code.password_stamp.clone(),
            created: now,
            expires: match with_refresh {
                true => now.saturating_add(self.settings().refresh_token_lifetime.as_secs()),
                false => prepared.record.expires,
            },
            revoked: false,
        };
        let (text, record) = refresh.unzip();
        match self.store().redeem(presented, grant, prepared.record.clone(), record).await? {
            Redemption::Redeemed => {
                self.audit_grant(request, Some(&code.user), &scope);
                self.finish(prepared, text.as_deref())
            }
            Redemption::Reused(id) => {
                tracing::warn!(
                    target: "audit", event = "code_reuse", request_id = request.caller.request_id,
                    client = %client.id, user = code.user, grant = id.as_str(), address = %request.caller.peer,
                );
                Err(invalid_grant("a used code: what it gave is revoked"))
            }
            Redemption::Invalid => Err(invalid_grant("the code is void")),
        }
    }
}

/// RFC 6749 section 4.1.3: named in the authorization request, it must be named here too, and be the same.
fn check_redirect(code: &Code, redirect_uri: Option<&str>) -> Result<(), Error> {
    match redirect_uri {
        None if code.redirect_given => Err(invalid_grant("redirect_uri is missing")),
        Some(uri) if uri != code.redirect_uri => Err(invalid_grant("another redirect_uri")),
        _ => Ok(()),
    }
}

/// RFC 7636 section 4.1.
fn is_verifier(text: &str) -> bool {
    (43..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
}

fn invalid_grant(reason: &'static str) -> Error {
    Error::new(ErrorCode::InvalidGrant, "the code is not valid").reason(reason)
}
