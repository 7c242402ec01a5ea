//! Who may do what on a route: the entries of `allow`, and the pure function that judges a request by them.

use std::sync::Arc;

use crate::token::ClaimPath;

/// A route's `allow`: alternatives in the order of the file. Never empty.
#[derive(Clone, Debug)]
pub struct Access {
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    /// Empty: every method but CONNECT and TRACE. GET admits HEAD.
    pub methods: Vec<http::Method>,
    pub condition: Condition,
}

#[derive(Clone, Debug)]
pub enum Condition {
    /// No token needed, and none looked at when every entry for the method is public.
    Public,
    /// All of these must hold; with none of them, any valid token does (`authenticated = true`).
    Token(Requirements),
}

/// The conditions of one entry. An empty list demands nothing.
#[derive(Clone, Debug, Default)]
pub struct Requirements {
    /// All of these.
    pub scopes: Vec<Box<str>>,
    /// At least one of these.
    pub any_scope: Vec<Box<str>>,
    /// At least one of these.
    pub roles: Vec<Box<str>>,
    /// The token's user is one of these.
    pub users: Vec<Box<str>>,
    /// The token's client is one of these.
    pub clients: Vec<Box<str>>,
    /// The token's issuer is one of these, by configured name.
    pub issuers: Vec<Arc<str>>,
    /// Each claim equals one of its values (an array claim: any element does).
    pub claims: Vec<(ClaimPath, Vec<Box<str>>)>,
}
