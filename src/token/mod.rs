//! From the text of a Bearer token to verified facts. Facts are cached, decisions never: what a route makes of them is
//! `policy`'s business.

mod bearer;
mod cache;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod jwks;
mod jwt;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

pub use bearer::{Bearer, BearerError};
pub use jwks::{JwksState, KeyRing, SharedKeys};
pub use jwt::{accept_claims, accept_header};

use crate::clock::{Clock, UnixSeconds};
use crate::jose::{Algorithm, UnverifiedJws};
use crate::net::BaseUrl;
use crate::scope::ScopeSet;
use crate::store::{OPAQUE_PREFIX, Store};
use crate::telemetry::metrics::TokenMetrics;

/// One `[issuers.NAME.jwt]`.
#[derive(Clone, Debug)]
pub struct IssuerSettings {
    pub name: Arc<str>,
    /// Compared byte for byte with the `iss` claim.
    pub issuer: String,
    /// A token must name one of these; never empty.
    pub audience: Vec<String>,
    pub keys: KeySource,
    pub algorithms: Vec<Algorithm>,
    /// Lower case, without the `application/` prefix; `""` stands for an absent `typ`.
    pub typ: Vec<String>,
    pub audience_claim: ClaimPath,
    pub client_id_claim: ClaimPath,
    pub user_claim: ClaimPath,
    pub required_claims: Vec<ClaimPath>,
    pub scope_claim: ClaimPath,
    pub roles_claim: ClaimPath,
    pub leeway: Duration,
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    File(PathBuf),
    Url {
        url: BaseUrl,
        ca: Option<PathBuf>,
        refresh: Duration,
        cooldown: Duration,
    },
    /// The embedded authorization server: `gateway::assemble` hands its public keys over.
    Embedded,
}

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
    /// First second in which it no longer counts, the issuer's leeway included.
    refused_from: UnixSeconds,
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

    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    pub fn refused_from(&self) -> UnixSeconds {
        self.refused_from
    }
}

/// Why a token does not count. The caller is told `invalid_token`, or 503 for `Unavailable`; the log is told this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the token has characters that no token has")]
    Characters,
    #[error("the token is longer than {} bytes", bearer::TOKEN_MAX_BYTES)]
    TooLong,
    #[error("not a token that an issuer of this route could have issued: {0}")]
    Malformed(#[from] crate::jose::Malformed),
    #[error("the issuer is not one that this route accepts")]
    Issuer,
    #[error("the algorithm is not one of the issuer's")]
    Algorithm,
    #[error("no key of the issuer fits the token's kid and algorithm")]
    Key,
    #[error("the signature is wrong")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is not meant for this audience")]
    Audience,
    #[error("the typ header is not one that the issuer's access tokens have")]
    Type,
    #[error("a claim is missing or of the wrong type")]
    Claim,
    #[error("the token is bound to a key (cnf), which is not supported")]
    Bound,
    #[error("the token was revoked")]
    Revoked,
    #[error("an opaque token that was never issued, has expired or was revoked")]
    Unknown,
    #[error("the issuer's keys could not be had")]
    Unavailable,
}

impl Refusal {
    /// For logs and metric labels.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Characters => "characters",
            Self::TooLong => "too_long",
            Self::Malformed(_) => "malformed",
            Self::Issuer => "issuer",
            Self::Algorithm => "algorithm",
            Self::Key => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Audience => "audience",
            Self::Type => "typ",
            Self::Claim => "claim",
            Self::Bound => "bound",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
            Self::Unavailable => "issuer_unavailable",
        }
    }
}

/// One issuer, ready to verify.
#[derive(Debug)]
pub struct Issuer {
    pub settings: IssuerSettings,
    pub keys: Arc<KeyRing>,
    /// Of the embedded server: knows what was revoked, what opaque tokens stand for, and wants to know what was used.
    pub store: Option<Store>,
    pub metrics: TokenMetrics,
}

/// Verifies tokens of the configured issuers and remembers the good ones.
#[derive(Debug)]
pub struct Verifier {
    issuers: Vec<Issuer>,
    cache: cache::Cache,
    clock: Clock,
}

impl Verifier {
    pub fn new(issuers: Vec<Issuer>, clock: Clock) -> Self {
        Self { issuers, cache: cache::Cache::new(), clock }
    }

    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// Tokens remembered now.
    pub fn cached(&self) -> u64 {
        self.cache.entries()
    }

    /// The facts of a token that one of `accepted` (indices of issuers) issued, for one of `audience` if it names any.
    pub async fn verify(
        &self,
        bearer: Bearer<'_>,
        accepted: &[usize],
        audience: &[String],
    ) -> Result<Arc<VerifiedToken>, Refusal> {
        let token = match self.remembered(bearer.as_str()) {
            Some(token) => token,
            None => self.verify_anew(bearer.as_str(), accepted).await?,
        };
        if !accepted.contains(&token.issuer_index) {
            return Err(Refusal::Issuer);
        }
        let issuer = &self.issuers[token.issuer_index];
        if self.clock.now() >= token.refused_from {
            return Err(Refusal::Expired);
        }
        if let (Some(store), Some(jti)) = (&issuer.store, &token.jti)
            && store.is_revoked(jti)
        {
            return Err(Refusal::Revoked);
        }
        if !audience.is_empty() && !audience.iter().any(|own| token.audience.iter().any(|named| **named == **own)) {
            return Err(Refusal::Audience);
        }
        Ok(token)
    }

    fn remembered(&self, token: &str) -> Option<Arc<VerifiedToken>> {
        let entry = self.cache.get(token)?;
        let issuer = &self.issuers[entry.token.issuer_index];
        // Verified with a key that may be gone: once more.
        if entry.keys_generation != issuer.keys.generation() {
            return None;
        }
        issuer.metrics.cached.inc();
        Some(entry.token)
    }

    async fn verify_anew(&self, text: &str, accepted: &[usize]) -> Result<Arc<VerifiedToken>, Refusal> {
        if !UnverifiedJws::has_form(text) {
            return self.resolve(text, accepted).await;
        }
        let jws = UnverifiedJws::parse(text)?;
        let named = jws.claims.get("iss").and_then(Value::as_str);
        let index = accepted
            .iter()
            .copied()
            .find(|index| Some(self.issuers[*index].settings.issuer.as_str()) == named)
            .ok_or(Refusal::Issuer)?;
        let issuer = &self.issuers[index];
        let settings = &issuer.settings;
        jwt::accept_header(settings, &jws)?;
        let generation = issuer.keys.generation();
        let (algorithm, kid) = (jws.algorithm, jws.kid.as_deref());
        let mut keys = issuer.keys.current();
        if keys.find(kid, algorithm).is_none() && issuer.keys.refreshed(kid).await? {
            keys = issuer.keys.current();
        }
        // Cheap checks first: a token that has expired is not worth a signature.
        jwt::accept_times(settings, &jws.claims, self.clock.now())?;
        let key = keys.find(kid, algorithm).ok_or(Refusal::Key)?;
        if !jws.verify(key) {
            return Err(Refusal::Signature);
        }
        let token = Arc::new(accept_claims(settings, index, jws.claims, self.clock.now())?);
        self.remember(issuer, text, &token, generation);
        Ok(token)
    }

    /// An opaque token of the embedded server, by what its store knows of it.
    async fn resolve(&self, text: &str, accepted: &[usize]) -> Result<Arc<VerifiedToken>, Refusal> {
        let own = accepted.iter().find_map(|index| Some((*index, self.issuers[*index].store.as_ref()?)));
        let Some((index, store)) = own.filter(|_| text.starts_with(OPAQUE_PREFIX)) else {
            return Err(Refusal::Malformed(crate::jose::Malformed::Segments));
        };
        let issuer = &self.issuers[index];
        let generation = issuer.keys.generation();
        let found = store.opaque_token(text).await.map_err(|_| Refusal::Unavailable)?.ok_or(Refusal::Unknown)?;
        let token = Arc::new(accept_claims(&issuer.settings, index, found.claims, self.clock.now())?);
        self.remember(issuer, text, &token, generation);
        Ok(token)
    }

    fn remember(&self, issuer: &Issuer, text: &str, token: &Arc<VerifiedToken>, generation: u64) {
        issuer.metrics.verified.inc();
        self.cache.insert(text, Arc::clone(token), generation);
        // The cache stands before this: a token that is used often is told of now and then.
        if let (Some(store), Some(jti)) = (&issuer.store, &token.jti) {
            store.access_token_seen(jti);
        }
    }
}
