//! From claims to facts: what a token says of its bearer, by the names that its issuer uses (RFC 7519, RFC 9068, RFC 7662).
//! Pure: no time, no network.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::Refusal;
use crate::clock::UnixSeconds;
use crate::scope::ScopeSet;

/// A claim, by the names on the way to it: `realm_access.roles` is `["realm_access", "roles"]`.
/// A top-level claim whose own name holds the dots (`https://example.com/roles`) is tried first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimPath(pub Box<str>);

impl ClaimPath {
    pub fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        if let Some(value) = claims.get(&*self.0) {
            return Some(value);
        }
        let mut names = self.0.split('.');
        let mut value = claims.get(names.next()?)?;
        for name in names {
            value = value.as_object()?.get(name)?;
        }
        Some(value)
    }
}

/// Which claims of an issuer mean what, and what they have to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRules {
    /// A token must name one of these; never empty.
    pub audience: Vec<String>,
    pub audience_claim: ClaimPath,
    pub client_id_claim: ClaimPath,
    pub user_claim: ClaimPath,
    pub required_claims: Vec<ClaimPath>,
    pub scope_claim: ClaimPath,
    pub roles_claim: ClaimPath,
    pub leeway: Duration,
}

/// What a token's issuer says of its bearer, after every check but the route's. Only the verifiers make one.
#[derive(Debug)]
pub struct VerifiedToken {
    issuer: Arc<str>,
    /// Index of the issuer in the plan.
    issuer_index: usize,
    user: Option<Box<str>>,
    client_id: Option<Box<str>>,
    scope: ScopeSet,
    roles: Vec<Box<str>>,
    audience: Vec<Box<str>>,
    jti: Option<Box<str>>,
    validity: Validity,
    claims: Map<String, Value>,
}

impl VerifiedToken {
    /// The issuer's name in the configuration.
    pub fn issuer(&self) -> &Arc<str> {
        &self.issuer
    }

    pub fn issuer_index(&self) -> usize {
        self.issuer_index
    }

    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub fn client_id(&self) -> Option<&str> {
        self.client_id.as_deref()
    }

    pub fn scope(&self) -> &ScopeSet {
        &self.scope
    }

    pub fn roles(&self) -> &[Box<str>] {
        &self.roles
    }

    pub fn audience(&self) -> &[Box<str>] {
        &self.audience
    }

    pub fn jti(&self) -> Option<&str> {
        self.jti.as_deref()
    }

    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Whether one of `own` is an audience of the token.
    pub fn is_meant_for(&self, own: &[String]) -> bool {
        own.iter().any(|own| self.audience.iter().any(|named| **named == **own))
    }
}

/// When a token counts, the issuer's leeway included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First second in which it counts.
    pub from: UnixSeconds,
    /// First second in which it counts no more; [`Validity::FOREVER`] when its issuer names no end.
    pub until: UnixSeconds,
}

/// How far beyond the leeway an `iat` may lie in the future, in seconds.
const IAT_TOLERANCE: u64 = 300;

/// The year 9999 is far enough, and a leeway can be added.
const MAX_SECONDS: u64 = 253_402_300_799;

impl Validity {
    pub const FOREVER: UnixSeconds = UnixSeconds::MAX;

    pub fn at(self, now: UnixSeconds) -> Result<(), Refusal> {
        if now >= self.until {
            return Err(Refusal::Expired);
        }
        if now < self.from { Err(Refusal::NotYetValid) } else { Ok(()) }
    }
}

impl ClaimRules {
    /// `exp`, `nbf` and `iat`, each a number where it is there. An `iat` in the future is a clock that is wrong.
    pub fn validity(&self, claims: &Map<String, Value>) -> Result<Validity, Refusal> {
        let leeway = self.leeway.as_secs();
        let until = numeric_date(claims, "exp")?.map_or(Validity::FOREVER, |exp| exp.saturating_add(leeway));
        let nbf = numeric_date(claims, "nbf")?.map_or(0, |nbf| nbf.saturating_sub(leeway));
        let iat = numeric_date(claims, "iat")?.map_or(0, |iat| iat.saturating_sub(leeway + IAT_TOLERANCE));
        Ok(Validity { from: nbf.max(iat), until })
    }

    /// Whom the token is for; one of them is us.
    pub fn audience(&self, claims: &Map<String, Value>) -> Result<Vec<Box<str>>, Refusal> {
        let named = self.audience_claim.find(claims).map(strings).transpose()?.ok_or(Refusal::Audience)?;
        let ours = named.iter().any(|named| self.audience.iter().any(|own| **own == **named));
        if ours { Ok(named) } else { Err(Refusal::Audience) }
    }

    /// The facts that `claims` of the issuer called `issuer` (number `issuer_index` of the plan) amount to. The caller has
    /// made sure that the issuer said this, or, when it explains a configuration, pretends to have.
    pub fn facts(
        &self,
        issuer: &Arc<str>,
        issuer_index: usize,
        claims: Map<String, Value>,
    ) -> Result<VerifiedToken, Refusal> {
        accept_kind(&claims)?;
        let validity = self.validity(&claims)?;
        let audience = self.audience(&claims)?;
        if claims.contains_key("cnf") {
            return Err(Refusal::Bound);
        }
        for required in &self.required_claims {
            match required.find(&claims) {
                None | Some(Value::Null) => return Err(Refusal::Claim),
                Some(Value::String(text)) if text.is_empty() => return Err(Refusal::Claim),
                Some(_) => {}
            }
        }
        let scope = match self.scope_claim.find(&claims) {
            None | Some(Value::Null) => ScopeSet::default(),
            Some(Value::String(text)) => ScopeSet::parse(text).map_err(|_| Refusal::Claim)?,
            Some(list) => {
                let mut scope = ScopeSet::default();
                for token in strings(list)? {
                    scope.insert(&token).map_err(|_| Refusal::Claim)?;
                }
                scope
            }
        };
        let roles = match self.roles_claim.find(&claims) {
            None | Some(Value::Null) => Vec::new(),
            Some(value) => strings(value)?,
        };
        Ok(VerifiedToken {
            issuer: Arc::clone(issuer),
            issuer_index,
            user: text(self.user_claim.find(&claims))?,
            client_id: text(self.client_id_claim.find(&claims))?,
            scope,
            roles,
            audience,
            jti: text(claims.get("jti"))?,
            validity,
            claims,
        })
    }
}

/// Refuses what says of itself that it is no access token: `token_use` (Cognito, Hydra) and, in the payload, `typ`
/// (Keycloak) name the kind where the JOSE header does not.
fn accept_kind(claims: &Map<String, Value>) -> Result<(), Refusal> {
    const ACCESS: [&str; 2] = ["access", "access_token"];
    const OTHER: [&str; 4] = ["id", "refresh", "offline", "logout"];
    let is_one_of = |kind: &Value, names: &[&str]| {
        kind.as_str().is_some_and(|kind| names.iter().any(|name| kind.eq_ignore_ascii_case(name)))
    };
    let other_use = claims.get("token_use").is_some_and(|kind| !is_one_of(kind, &ACCESS));
    let other_type = claims.get("typ").is_some_and(|kind| is_one_of(kind, &OTHER));
    if other_use || other_type { Err(Refusal::Kind) } else { Ok(()) }
}

/// RFC 7519 section 2: a number of seconds that may have a fraction. A wrong type is an error, never an absent claim.
fn numeric_date(claims: &Map<String, Value>, name: &str) -> Result<Option<UnixSeconds>, Refusal> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    if let Some(seconds) = value.as_u64() {
        return if seconds <= MAX_SECONDS { Ok(Some(seconds)) } else { Err(Refusal::Claim) };
    }
    match value.as_f64() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        Some(seconds) if (0.0..=MAX_SECONDS as f64).contains(&seconds) => Ok(Some(seconds as UnixSeconds)),
        _ => Err(Refusal::Claim),
    }
}

/// A string, or an array of strings.
fn strings(value: &Value) -> Result<Vec<Box<str>>, Refusal> {
    match value {
        Value::String(text) => Ok(vec![text.as_str().into()]),
        Value::Array(list) => list.iter().map(|item| item.as_str().map(Box::from).ok_or(Refusal::Claim)).collect(),
        _ => Err(Refusal::Claim),
    }
}

fn text(value: Option<&Value>) -> Result<Option<Box<str>>, Refusal> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str().into())),
        Some(_) => Err(Refusal::Claim),
    }
}
