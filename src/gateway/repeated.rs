//! What goes on of a caller's fields, kept for when they come again: most callers repeat theirs word for word, with the
//! same token, to the same route.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::header::{HeaderMap, HeaderValue};

use super::route::Route;
use crate::token::VerifiedToken;
use crate::upstream::Block;

/// What a request's fields are made of, beside its connection. The same in all of it: the same fields.
#[derive(Clone, Copy)]
pub(super) struct Basis<'a> {
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
#[derive(Default)]
pub(super) struct Repeated(Mutex<Option<Last>>);

/// Of what it was made is held weakly: that is let go of when nobody else has it, and yet nothing else gets its address.
struct Last {
    headers: Weak<HeaderMap>,
    route: Weak<Route>,
    token: Option<Weak<VerifiedToken>>,
    authority: Option<Box<str>>,
    /// Kept when it was made for the second time.
    sent: Option<Sent>,
}

/// Most that is kept of the fields of one request.
pub(super) const KEPT_BYTES: usize = 4 * 1024;

/// Without the fields, which may hold secrets.
impl std::fmt::Debug for Repeated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repeated").finish_non_exhaustive()
    }
}

impl Repeated {
    /// Nobody waits for another request of the connection.
    pub(super) fn get(&self, basis: Basis<'_>) -> Option<Sent> {
        let last = self.0.try_lock().ok()?;
        last.as_ref().filter(|last| last.is_of(basis))?.sent.clone()
    }

    /// Keeps what was made, if it was made before.
    pub(super) fn keep(&self, basis: Basis<'_>, sent: &Sent) {
        let Ok(mut kept) = self.0.try_lock() else { return };
        match &mut *kept {
            Some(last) if last.is_of(basis) => {
                last.sent = (sent.fields.bytes() <= KEPT_BYTES).then(|| sent.clone());
            }
            _ => *kept = Some(Last::of(basis)),
        }
    }

    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Last {
    fn of(basis: Basis<'_>) -> Self {
        let Basis { headers, route, token, authority } = basis;
        Self {
            headers: Arc::downgrade(headers),
            route: Arc::downgrade(route),
            token: token.map(Arc::downgrade),
            authority: authority.map(Into::into),
            sent: None,
        }
    }

    fn is_of(&self, basis: Basis<'_>) -> bool {
        let has_token = match (&self.token, basis.token) {
            (None, None) => true,
            (Some(own), Some(token)) => is_same(own, token),
            _ => false,
        };
        has_token
            && is_same(&self.headers, basis.headers)
            && is_same(&self.route, basis.route)
            && self.authority.as_deref() == basis.authority
    }
}

fn is_same<T>(one: &Weak<T>, other: &Arc<T>) -> bool {
    one.as_ptr() == Arc::as_ptr(other)
}
