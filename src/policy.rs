//! Who may do what on a route: the entries of `allow`, the pure function that judges a request by them, and the addresses
//! that may ask at all.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use crate::token::{ClaimPath, VerifiedToken};

/// A route's `allow`: alternatives in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Empty: every method but CONNECT and TRACE. GET admits HEAD.
    pub methods: Vec<http::Method>,
    pub condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No token needed, and none looked at when every entry for the method is public.
    Public,
    /// All of these must hold; with none of them, any valid token does (`authenticated = true`).
    Token(Requirements),
}

/// The conditions of one entry. An empty list demands nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// Where a route may be called from, whatever its entries say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Empty: from everywhere.
    pub allow: Vec<IpNet>,
    /// Wins over `allow`.
    pub deny: Vec<IpNet>,
}

impl Addresses {
    pub fn admit(&self, address: IpAddr) -> bool {
        let listed = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        (self.allow.is_empty() || listed(&self.allow)) && !listed(&self.deny)
    }

    /// Whether every address is admitted.
    pub fn are_all(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

/// Proof that a request may be forwarded. Only [`authorize`] makes one and `upstream` demands it.
#[derive(Clone, Debug)]
pub struct Permit {
    token: Option<Arc<VerifiedToken>>,
}

impl Permit {
    /// Whose token admitted the request; `None` on what is open to all.
    pub fn token(&self) -> Option<&Arc<VerifiedToken>> {
        self.token.as_ref()
    }
}

/// Who asks, as far as a route's entries for the method made it necessary to know.
#[derive(Clone, Debug)]
pub enum Caller {
    /// No credentials of a kind that is understood.
    Nobody,
    /// A token that was verified.
    Known(Arc<VerifiedToken>),
}

/// Why a request is not forwarded. Entries are named by their index.
#[derive(Debug, PartialEq, Eq)]
pub enum Denied {
    /// 405; `Access::allowed_methods` says which would do.
    Method,
    /// 401 without an error code, with the scopes of this entry.
    Unauthenticated(usize),
    /// 403 `insufficient_scope` with the scopes of this entry.
    Scope(usize),
    /// 403: no further scope would help.
    Forbidden,
}

/// What must be known of the caller before the entries for a method can be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// No entry names the method.
    Refuse,
    /// Every entry for it is public: no token is looked at.
    Nothing,
    /// A token, if there is one; if not, an entry is public.
    TokenIfAny,
    Token,
}

impl Access {
    fn admitting<'a>(&'a self, method: &'a http::Method) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.admits(method))
    }

    /// Rules 1 to 3: what the gateway has to find out before `authorize`.
    pub fn need(&self, method: &http::Method) -> Need {
        let mut public = 0;
        let mut all = 0;
        for entry in self.admitting(method) {
            all += 1;
            public += usize::from(matches!(entry.condition, Condition::Public));
        }
        match (all, public) {
            (0, _) => Need::Refuse,
            _ if all == public => Need::Nothing,
            (_, 0) => Need::Token,
            _ => Need::TokenIfAny,
        }
    }

    /// The methods that some entry names, for `Allow`; where an entry names none, the usual ones.
    pub fn allowed_methods(&self) -> Vec<http::Method> {
        use http::Method;
        let usual =
            [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
        let mut methods: Vec<Method> = Vec::new();
        for entry in &self.entries {
            for method in if entry.methods.is_empty() { &usual[..] } else { &entry.methods } {
                let head = (*method == Method::GET).then_some(Method::HEAD);
                for method in [method.clone()].into_iter().chain(head) {
                    if !methods.contains(&method) {
                        methods.push(method);
                    }
                }
            }
        }
        methods
    }
}

impl Entry {
    pub fn admits(&self, method: &http::Method) -> bool {
        use http::Method;
        // In any case: a server behind may be lax about it.
        if ["connect", "trace"].iter().any(|name| method.as_str().eq_ignore_ascii_case(name)) {
            return false;
        }
        self.methods.is_empty()
            || self.methods.contains(method)
            || (*method == Method::HEAD && self.methods.contains(&Method::GET))
    }

    /// The scopes that a challenge names: all that are demanded, then those of which one is.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        let requirements = match &self.condition {
            Condition::Public => None,
            Condition::Token(requirements) => Some(requirements),
        };
        requirements.into_iter().flat_map(|r| r.scopes.iter().chain(&r.any_scope)).map(|scope| &**scope)
    }
}

/// One demand of an entry.
#[derive(Clone, Copy, Debug)]
pub enum Check<'a> {
    Scope(&'a str),
    AnyScope(&'a [Box<str>]),
    Roles(&'a [Box<str>]),
    Users(&'a [Box<str>]),
    Clients(&'a [Box<str>]),
    Issuers(&'a [Arc<str>]),
    Claim(&'a ClaimPath, &'a [Box<str>]),
}

impl Requirements {
    /// Every demand, those that cost least first.
    pub fn checks(&self) -> impl Iterator<Item = Check<'_>> {
        fn listed<'a, T>(list: &'a [T], check: fn(&'a [T]) -> Check<'a>) -> Option<Check<'a>> {
            (!list.is_empty()).then(|| check(list))
        }
        let scopes = self.scopes.iter().map(|scope| Check::Scope(scope));
        let claims = self.claims.iter().map(|(path, values)| Check::Claim(path, values));
        scopes
            .chain(listed(&self.any_scope, Check::AnyScope))
            .chain(listed(&self.issuers, Check::Issuers))
            .chain(listed(&self.roles, Check::Roles))
            .chain(listed(&self.users, Check::Users))
            .chain(listed(&self.clients, Check::Clients))
            .chain(claims)
    }
}

impl Check<'_> {
    pub fn is_scope(&self) -> bool {
        matches!(self, Self::Scope(_) | Self::AnyScope(_))
    }

    pub fn holds(&self, token: &VerifiedToken) -> bool {
        match *self {
            Self::Scope(scope) => token.scope().contains(scope),
            Self::AnyScope(scopes) => scopes.iter().any(|scope| token.scope().contains(scope)),
            Self::Roles(roles) => roles.iter().any(|role| token.roles().contains(role)),
            Self::Users(users) => token.user().is_some_and(|user| users.iter().any(|name| **name == *user)),
            Self::Clients(clients) => token.client_id().is_some_and(|id| clients.iter().any(|name| **name == *id)),
            Self::Issuers(issuers) => issuers.contains(token.issuer()),
            Self::Claim(path, values) => path.find(token.claims()).is_some_and(|claim| match claim {
                Value::Array(elements) => elements.iter().any(|element| equals_one(element, values)),
                claim => equals_one(claim, values),
            }),
        }
    }
}

/// Exact, without case folding or partial matches; numbers and booleans compare by their JSON text.
fn equals_one(claim: &Value, values: &[Box<str>]) -> bool {
    match claim {
        Value::String(text) => values.iter().any(|value| **value == **text),
        Value::Number(number) => {
            let text = number.to_string();
            values.iter().any(|value| **value == *text)
        }
        Value::Bool(flag) => values.iter().any(|value| **value == *if *flag { "true" } else { "false" }),
        _ => false,
    }
}

/// Judges a request. Pure: the same function decides for traffic, `explain` and `[[tests]]`.
pub fn authorize(access: &Access, method: &http::Method, caller: Caller) -> Result<Permit, Denied> {
    match decide(access, method, caller_token(&caller)) {
        Ok(_) => Ok(Permit {
            token: match caller {
                Caller::Known(token) if access.need(method) != Need::Nothing => Some(token),
                _ => None,
            },
        }),
        Err(denied) => Err(denied),
    }
}

fn caller_token(caller: &Caller) -> Option<&VerifiedToken> {
    match caller {
        Caller::Nobody => None,
        Caller::Known(token) => Some(token),
    }
}

/// The entry that admits a request, or why none does.
pub fn decide<'a>(
    access: &'a Access,
    method: &http::Method,
    token: Option<&VerifiedToken>,
) -> Result<&'a Entry, Denied> {
    let mut first = None;
    let mut nearest: Option<(usize, usize)> = None;
    for (index, entry) in access.entries.iter().enumerate().filter(|(_, entry)| entry.admits(method)) {
        first.get_or_insert(index);
        let requirements = match (&entry.condition, token) {
            (Condition::Public, _) => return Ok(entry),
            (Condition::Token(_), None) => continue,
            (Condition::Token(requirements), Some(token)) => (requirements, token),
        };
        let (mut scopes_missing, mut others_fail) = (0, false);
        // Not a `for`, which would ask each of the lists again for every check.
        requirements.0.checks().filter(|check| !check.holds(requirements.1)).for_each(|check| {
            if check.is_scope() {
                scopes_missing += 1;
            } else {
                others_fail = true;
            }
        });
        match (scopes_missing, others_fail) {
            (0, false) => return Ok(entry),
            (_, true) => {}
            (missing, false) if nearest.is_none_or(|(fewest, _)| missing < fewest) => nearest = Some((missing, index)),
            _ => {}
        }
    }
    match (first, token, nearest) {
        (None, ..) => Err(Denied::Method),
        (Some(index), None, _) => Err(Denied::Unauthenticated(index)),
        (Some(_), Some(_), Some((_, index))) => Err(Denied::Scope(index)),
        (Some(_), Some(_), None) => Err(Denied::Forbidden),
    }
}
