//! The resource owner password credentials grant (RFC 6749 section 4.3), for applications that cannot be changed. Off
//! unless a client has it; RFC 9700 section 2.4 says why it should have an end.

use serde_json::Value;

use super::super::error::{Error, ErrorCode};
use super::super::server::AuthorizationServer;
use super::super::tokens::{Facts, UserFacts};
use super::super::users::{Account, MAX_NAME, MAX_PASSWORD};
use super::{GrantRequest, requested_scope};
use crate::clock::UnixSeconds;
use crate::store::{Grant, GrantId};

/// Longest `state` that is echoed, in bytes.
const MAX_STATE: usize = 2048;

impl AuthorizationServer {
    pub(in super::super) async fn password_grant(&self, request: &GrantRequest<'_>) -> Result<Value, Error> {
        let client = request.client();
        if (client.public && !client.public_password) || client.password_until.is_some_and(|until| self.now() >= until)
        {
            let error = Error::new(ErrorCode::UnauthorizedClient, "the client may not use this grant");
            return Err(error.reason("the password grant is closed to this client"));
        }
        let (name, password) = (request.required("username")?, request.required("password")?);
        if [name, password].iter().any(|text| text.contains(['\r', '\n'])) {
            return Err(Error::new(ErrorCode::InvalidRequest, "username or password holds a line break"));
        }
        if name.len() > MAX_NAME || password.len() > MAX_PASSWORD {
            return Err(Error::new(ErrorCode::InvalidRequest, "username or password is too long"));
        }
        let state = request.form.get("state");
        if state.is_some_and(|state| state.len() > MAX_STATE || !state.bytes().all(|b| matches!(b, 0x20..=0x7E))) {
            return Err(Error::new(ErrorCode::InvalidRequest, "the state is malformed"));
        }
        let requested = requested_scope(client, request.form.get("scope"))?;
        let audience = self.audience(request.by, request.form)?;

        let account = self.check_password(request, name, password).await?;
        let (scope, with_refresh) = self.granted_scope(client, &account, &requested)?;

        let now = self.now();
        let amr = ["pwd".to_owned()];
        let user = UserFacts { account: &account, auth_time: now, amr: &amr };
        let prepared = self.prepare(&Facts { client, scope: &scope, audience: &audience, user: Some(user) });
        let refresh = with_refresh.then(|| self.new_refresh_token());
        if let Some((_, record)) = &refresh {
            let grant = Grant {
                id: GrantId::random(),
                client: client.id.as_ref().to_owned(),
                user: account.name.clone(),
                scope: scope.to_string(),
                audience,
                auth_time: now,
                amr: amr.to_vec(),
                password_stamp: account.password_stamp.clone(),
                created: now,
                expires: now.saturating_add(self.settings().refresh_token_lifetime.as_secs()),
                revoked: false,
            };
            self.store().open_grant(grant, prepared.record.clone(), Some(*record)).await?;
        } else if prepared.record.opaque.is_some() {
            self.store().record_access_token(prepared.record.clone()).await?;
        }
        let mut response = self.finish(prepared, refresh.as_ref().map(|(text, _)| text.as_str()))?;
        if let Some(state) = state {
            response["state"] = state.into();
        }
        self.audit_grant(request, Some(&account.name), &scope);
        Ok(response)
    }

    /// Waits until the next attempt counts, unless that was waited for already (`waited`); gives the moment.
    async fn wait_for_turn(&self, name: &str, client: &str, waited: UnixSeconds) -> Result<UnixSeconds, Error> {
        let turn = self.guesses().turn(name, client);
        let turn = turn.ok_or_else(|| Error::overloaded("too many attempts for this user wait"))?;
        if turn.until > waited {
            tokio::time::sleep(turn.wait).await;
        }
        Ok(turn.until)
    }

    /// The user whose password this is. Failures count where the guesser is: at the address, or, behind an application
    /// that proved who it is, at the user and the application, where they only slow it down.
    async fn check_password(
        &self,
        request: &GrantRequest<'_>,
        name: &str,
        password: &str,
    ) -> Result<std::sync::Arc<Account>, Error> {
        let (guesses, peer) = (self.guesses(), request.caller.peer);
        if !request.by.is_confidential() {
            return self.check_password_from(name, password, request.caller).await;
        }
        let client = &request.client().id;
        let user = self.name_for_log(name);
        let waited = self.wait_for_turn(name, client, 0).await?;
        let checked = self.users().authenticate(self.pool(), name, password).await?;
        // Others may have failed meanwhile: many attempts at once must not all be answered at once.
        self.wait_for_turn(name, client, waited).await?;
        match checked {
            Ok(account) => {
                guesses.succeeded_through(name, client);
                self.audit_login(request.caller, user, Some(client), Ok(()));
                Ok(account)
            }
            Err(reason) => {
                self.audit_login(request.caller, user, Some(client), Err(reason));
                if guesses.failed_through(name, client) {
                    tracing::info!(target: "audit", event = "slowed_down", user, client = %client, address = %peer);
                }
                Err(Error::bad_credentials(reason))
            }
        }
    }
}
