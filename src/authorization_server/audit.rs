//! The trail of what was granted and refused: events of the target `audit`, with who, from where and why, and no secret.
//! Each carries the request's id; the caller was told less.

use http::StatusCode;

use super::clients::Authenticated;
use super::error::Error;
use super::grants::GrantRequest;
use super::server::{AuthorizationServer, Caller};
use crate::scope::ScopeSet;
use crate::telemetry::denials::Denial;

impl AuthorizationServer {
    /// A name that no user has may be a password typed into the wrong field: it is not logged.
    pub(super) fn name_for_log<'a>(&self, name: &'a str) -> &'a str {
        if self.users().is_known(name) { name } else { "(unknown)" }
    }

    pub(super) fn audit_login(
        &self,
        caller: &Caller<'_>,
        user: &str,
        client: Option<&str>,
        outcome: Result<(), &'static str>,
    ) {
        let result = if outcome.is_ok() { "success" } else { "failure" };
        let by = if client.is_some() { "client" } else { "address" };
        self.metrics().logins.with_label_values(&[by, result]).inc();
        tracing::info!(
            target: "audit", event = "login", result, reason = outcome.err(), user, client,
            address = %caller.peer, request_id = caller.request_id,
        );
    }

    pub(super) fn audit_grant(&self, request: &GrantRequest<'_>, user: Option<&str>, scope: &ScopeSet) {
        let (grant, client, caller) = (request.grant.name(), &request.by.client.id, request.caller);
        self.metrics().tokens_issued.with_label_values(&[grant, client]).inc();
        tracing::info!(
            target: "audit", event = "grant", grant, client = %client, user, scope = %scope,
            address = %caller.peer, request_id = caller.request_id,
        );
    }

    pub(super) fn audit_refusal(
        &self,
        endpoint: &'static str,
        error: &Error,
        client: Option<&Authenticated>,
        caller: &Caller<'_>,
    ) {
        self.metrics().token_requests_refused.with_label_values(&[endpoint, error.code()]).inc();
        let client = client.map(|by| by.client.id.as_ref());
        let reason = error.reason.as_ref().unwrap_or(&error.description).as_ref();
        self.note_refusal(endpoint, error.status(), (error.code(), reason), caller);
        tracing::info!(
            target: "audit", event = "refusal", endpoint, error = error.code(), reason, client,
            address = %caller.peer, request_id = caller.request_id,
        );
    }

    /// Shows operators a refusal among the last denials. `why` is the code, and a fixed text beside it.
    pub(super) fn note_refusal(
        &self,
        endpoint: &'static str,
        status: StatusCode,
        why: (&'static str, &str),
        caller: &Caller<'_>,
    ) {
        self.metrics().note_denial(
            caller.request_id,
            Denial {
                at: self.now(),
                request_id: String::new(),
                route: "(authorization_server)".into(),
                endpoint: Some(endpoint),
                method: None,
                status: status.as_u16(),
                reason: why.0,
                cause: why.1.to_owned().into(),
            },
        );
    }
}
