//! The grants (RFC 6749 section 1.3), one file each, and what they share: which scopes come out.

mod authorization_code;
mod client_credentials;
mod password;
mod refresh;

use super::clients::Authenticated;
use super::error::{Error, ErrorCode};
use super::form::Form;
use super::server::{AuthorizationServer, Caller};
use super::users::{Account, OFFLINE_ACCESS};
use super::{Client, ExcessUserScope, Grant, RefreshPolicy};
use crate::scope::{self, ScopeSet};

/// A request for a token whose client is known and may use the grant.
#[derive(Debug)]
pub(super) struct GrantRequest<'a> {
    pub(super) grant: Grant,
    pub(super) by: &'a Authenticated,
    pub(super) form: &'a Form,
    pub(super) caller: &'a Caller<'a>,
}

impl GrantRequest<'_> {
    pub(super) fn client(&self) -> &Client {
        &self.by.client
    }

    /// A parameter that the grant cannot do without.
    fn required(&self, name: &'static str) -> Result<&str, Error> {
        self.form.get(name).ok_or_else(|| Error::new(ErrorCode::InvalidRequest, format!("{name} is missing")))
    }
}

fn invalid_scope(description: &'static str) -> Error {
    Error::new(ErrorCode::InvalidScope, description)
}

/// The scopes a request asks for, all of which the client may have; its default ones when it names none.
pub(super) fn requested_scope(client: &Client, scope: Option<&str>) -> Result<ScopeSet, Error> {
    let requested = match scope {
        Some(text) => within(&client.scopes, text, "the client may not ask for this scope")?,
        None => client.default_scopes.clone(),
    };
    if requested.is_empty() {
        return Err(invalid_scope("no scope was asked for and the client has no default"));
    }
    if !requested.is_subset(&client.scopes) {
        return Err(invalid_scope("the client may not ask for this scope"));
    }
    Ok(requested)
}

/// Reads the scopes of a request, all of which must be among `most`. The first that is not ends it: a set takes time with
/// the square of its size, and a request has room for thousands.
fn within(most: &ScopeSet, text: &str, otherwise: &'static str) -> Result<ScopeSet, Error> {
    let mut scopes = ScopeSet::default();
    for token in text.split(' ').filter(|token| !token.is_empty()) {
        if scope::is_token(token) && !most.contains(token) {
            return Err(invalid_scope(otherwise));
        }
        scopes.insert(token).map_err(|_| invalid_scope("the scope is malformed"))?;
    }
    Ok(scopes)
}

impl AuthorizationServer {
    /// What is left of the requested scopes for this user, and whether a refresh token goes with it.
    pub(super) fn granted_scope(
        &self,
        client: &Client,
        account: &Account,
        requested: &ScopeSet,
    ) -> Result<(ScopeSet, bool), Error> {
        let mut granted = requested.filter(|scope| self.users().may_have(account, scope));
        if granted.len() < requested.len() && self.settings().excess_user_scope == ExcessUserScope::Reject {
            return Err(invalid_scope("the user may not have all of this scope"));
        }
        let is_api = |scope: &str| scope != OFFLINE_ACCESS;
        if requested.iter().any(is_api) && !granted.iter().any(is_api) {
            return Err(invalid_scope("the user may have none of this scope"));
        }
        let may_refresh = client.grants.contains(&Grant::RefreshToken) && client.refresh != RefreshPolicy::Never;
        if !may_refresh {
            granted = granted.filter(is_api);
        }
        if granted.is_empty() {
            return Err(invalid_scope("nothing of this scope can be given"));
        }
        let refresh = may_refresh && (client.refresh == RefreshPolicy::Always || granted.contains(OFFLINE_ACCESS));
        Ok((granted, refresh))
    }
}
