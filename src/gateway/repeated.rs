//! What goes on of a caller's fields, kept for when they come again: most callers repeat theirs word for word, with the same
//! token, to the same route.

use std::sync::{Arc, Mutex, Weak};

use http::header::{HeaderMap, HeaderValue};

use super::route::Route;
use crate::token::VerifiedToken;
use crate::upstream::Block;

/// What a request's fields are made of, beside its connection. The same in all of it: the same fields.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) headers: &'a Arc<HeaderMap>,
    pub(super) route: &'a Arc<Route>,
    pub(super) token: Option<&'a Arc<VerifiedToken>>,
    /// Of the target.
    pub(super) authority: Option<&'a str>,
}

/// What goes on of a caller's fields, but for those that differ from request to request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sent {
    pub(super) fields: Arc<Block>,
    pub(super) host: Option<HeaderValue>,
}

/// What went on of the fields that came last on a connection.
#[derive(Debug, Default)]
pub struct Repeated(Mutex<Option<Last>>);

/// Of what it was made is held weakly: that is let go of when nobody else has it, and yet nothing else gets its address.
#[derive(Debug)]
struct Last {
    headers: Weak<HeaderMap>,
    route: Weak<Route>,
    token: Option<Weak<VerifiedToken>>,
    authority: Option<Box<str>>,
    sent: Sent,
}

impl Repeated {
    /// Nobody waits for another request of the connection.
    pub(super) fn get(&self, source: Source<'_>) -> Option<Sent> {
        let last = self.0.try_lock().ok()?;
        let last = last.as_ref().filter(|last| last.is_of(source))?;
        Some(last.sent.clone())
    }

    pub(super) fn keep(&self, source: Source<'_>, sent: &Sent) {
        let Source { headers, route, token, authority } = source;
        let Ok(mut last) = self.0.try_lock() else { return };
        *last = Some(Last {
            headers: Arc::downgrade(headers),
            route: Arc::downgrade(route),
            token: token.map(Arc::downgrade),
            authority: authority.map(Into::into),
            sent: sent.clone(),
        });
    }
}

impl Last {
    fn is_of(&self, source: Source<'_>) -> bool {
        let has_token = match (&self.token, source.token) {
            (None, None) => true,
            (Some(own), Some(token)) => is_same(own, token),
            _ => false,
        };
        has_token
            && is_same(&self.headers, source.headers)
            && is_same(&self.route, source.route)
            && self.authority.as_deref() == source.authority
    }
}

fn is_same<T>(one: &Weak<T>, other: &Arc<T>) -> bool {
    one.as_ptr() == Arc::as_ptr(other)
}
