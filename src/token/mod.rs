//! From the text of a Bearer token to verified facts. Facts are cached, decisions never: what a route makes of them is
//! `policy`'s business.

mod bearer;
mod cache;
mod claims;
mod ended;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod introspection;
mod issuer;
mod jwks;
mod jwks_fetch;
mod jwt;

use std::sync::Arc;

use tokio::sync::watch;

pub use bearer::{Bearer, BearerError};
pub use claims::{ClaimPath, ClaimRules, Validity, VerifiedToken};
pub use introspection::{Calls, Introspector, Reuse};
pub use issuer::{IntrospectionSettings, IssuerSettings, JwtSettings, KeyLocation, KeySource, Kin, choose};
pub use jwks::{JwksState, KeyRing, SharedKeys};
pub use jwks_fetch::{KeyError, KeyKeeper};

use crate::clock::{Clock, UnixSeconds};
use crate::jose::UnverifiedJws;
use crate::store::{Digest, OPAQUE_PREFIX, Store};
use crate::telemetry::metrics::TokenMetrics;
use crate::tls;

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
    #[error("{}", Self::EXPIRED)]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is not meant for this audience")]
    Audience,
    #[error("the typ header is not one that the issuer's access tokens have")]
    Type,
    #[error("the token says that it is something else than an access token")]
    Kind,
    #[error("a claim is missing or of the wrong type")]
    Claim,
    #[error("the token is bound to a key (cnf), which is not supported")]
    Bound,
    #[error("the token was revoked")]
    Revoked,
    #[error("an opaque token that was never issued, has expired or was revoked")]
    Unknown,
    #[error("its issuer says that the token is not active")]
    Inactive,
    #[error("its issuer does not introspect tokens of this kind")]
    Unsupported,
    #[error("the issuer could not be asked")]
    Unavailable,
}

impl Refusal {
    pub const EXPIRED: &str = "the token has expired";

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
            Self::Kind => "kind",
            Self::Claim => "claim",
            Self::Bound => "bound",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
            Self::Inactive => "inactive",
            Self::Unsupported => "unsupported_token_type",
            Self::Unavailable => "issuer_unavailable",
        }
    }
}

/// One issuer, ready to verify. It may go on when the configuration changes.
#[derive(Debug)]
pub struct Issuer {
    /// In the plan.
    pub index: usize,
    pub settings: IssuerSettings,
    /// Where its JWTs are verified here.
    pub keys: Option<Arc<KeyRing>>,
    /// Where it is asked about its tokens.
    pub introspector: Option<Arc<Introspector>>,
    /// Of the embedded server: knows what was revoked, what opaque tokens stand for, and wants to know what was used.
    pub store: Option<Store>,
    pub metrics: TokenMetrics,
    /// What the files of the settings held.
    pub files: Option<[u8; 32]>,
    /// Its work in the background ends when these are dropped.
    pub work: Vec<watch::Sender<()>>,
}

impl AsRef<IssuerSettings> for Arc<Issuer> {
    fn as_ref(&self) -> &IssuerSettings {
        &self.settings
    }
}

impl Issuer {
    /// Whether it is just what `settings` ask for at this place of the plan, so that it may go on with what it knows.
    pub fn is_still(&self, index: usize, settings: &IssuerSettings) -> bool {
        self.index == index && self.settings == *settings && self.files == tls::contents(settings.files())
    }

    fn keys_generation(&self) -> u64 {
        self.keys.as_ref().map_or(0, |keys| keys.generation())
    }
}

/// Verifies tokens of the configured issuers and remembers the good ones, and those that have ended.
#[derive(Debug)]
pub struct Verifier {
    issuers: Vec<Arc<Issuer>>,
    cache: cache::Cache,
    ended: ended::Ended,
    clock: Clock,
}

impl Verifier {
    pub fn new(issuers: Vec<Arc<Issuer>>, clock: Clock) -> Self {
        Self { issuers, cache: cache::Cache::new(), ended: ended::Ended::new(), clock }
    }

    pub fn issuers(&self) -> &[Arc<Issuer>] {
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
        reuse: Reuse,
    ) -> Result<Arc<VerifiedToken>, BearerError> {
        let now = self.clock.now();
        let token = match self.remembered(bearer, now) {
            // Nobody is waited for.
            Some(token) if self.issuers[token.issuer_index()].introspector.is_none() => {
                return self.accept_for(token, accepted, audience, now);
            }
            Some(token) => self.confirmed(bearer, token, accepted, reuse).await?,
            None if self.ended.knows(bearer.as_bytes(), accepted, now) => {
                return Err(Refusal::Expired.into());
            }
            None => match self.kept(bearer.text()?, accepted, reuse) {
                Some(answer) => answer?,
                None => self.verify_anew(bearer, accepted, reuse).await?,
            },
        };
        self.accept_for(token, accepted, audience, self.clock.now())
    }

    fn accept_for(
        &self,
        token: Arc<VerifiedToken>,
        accepted: &[usize],
        audience: &[String],
        now: UnixSeconds,
    ) -> Result<Arc<VerifiedToken>, BearerError> {
        self.accept_at(now, &token, accepted)?;
        if !audience.is_empty() && !token.is_meant_for(audience) {
            return Err(Refusal::Audience.into());
        }
        Ok(token)
    }

    /// What may change from one request to the next, although the token stays the same.
    fn accept_at(&self, now: UnixSeconds, token: &VerifiedToken, accepted: &[usize]) -> Result<(), Refusal> {
        if !accepted.contains(&token.issuer_index()) {
            return Err(Refusal::Issuer);
        }
        token.validity().at(now)?;
        if let Some(store) = &self.issuers[token.issuer_index()].store
            && (token.jti().is_some_and(|jti| store.is_revoked(jti)) || store.is_ended(token.claims()))
        {
            return Err(Refusal::Revoked);
        }
        Ok(())
    }

    /// A token that was verified here before.
    fn remembered(&self, bearer: Bearer<'_>, now: UnixSeconds) -> Option<Arc<VerifiedToken>> {
        let bytes = bearer.as_bytes();
        // Nearly all that are verified here begin with `{"`, in base64.
        let may_be = bytes.starts_with(b"eyJ") || bytes.starts_with(OPAQUE_PREFIX.as_bytes());
        if !may_be && !UnverifiedJws::has_form(bytes) {
            return None;
        }
        let entry = self.cache.get(bytes, now)?;
        let issuer = &self.issuers[entry.token.issuer_index()];
        // Verified with a key that may be gone: once more.
        if entry.keys_generation != issuer.keys_generation() {
            return None;
        }
        issuer.metrics.cached.inc();
        Some(entry.token)
    }

    /// What an issuer that alone knows its tokens said of this one before.
    fn kept(&self, text: &str, accepted: &[usize], reuse: Reuse) -> Option<Result<Arc<VerifiedToken>, Refusal>> {
        if reuse == Reuse::Never {
            return None;
        }
        // Where it is verified here too, that comes first.
        let is_jwt = UnverifiedJws::has_form(text);
        let issuers = accepted.iter().map(|index| &self.issuers[*index]);
        let issuers = issuers.filter(|issuer| !is_jwt || issuer.keys.is_none());
        let mut asked = issuers.filter_map(|issuer| issuer.introspector.as_ref()).peekable();
        asked.peek()?;
        let digest = Digest::of(text);
        asked.find_map(|introspector| introspector.kept(&digest))
    }

    async fn verify_anew(
        &self,
        bearer: Bearer<'_>,
        accepted: &[usize],
        reuse: Reuse,
    ) -> Result<Arc<VerifiedToken>, BearerError> {
        let text = bearer.text()?;
        match choose(&self.issuers, accepted, text)? {
            Kin::Jwt(index, jws) => {
                let token = self.verify_jwt(text, index, *jws).await?;
                self.confirmed(bearer, token, accepted, reuse).await
            }
            Kin::Own(index) => Ok(self.resolve(text, index).await?),
            Kin::Introspected(index) => {
                let introspector = self.issuers[index].introspector.as_ref().ok_or(Refusal::Unavailable)?;
                Ok(introspector.ask(text, Digest::of(text), None, reuse).await?)
            }
        }
    }

    async fn verify_jwt(
        &self,
        text: &str,
        index: usize,
        jws: UnverifiedJws<'_>,
    ) -> Result<Arc<VerifiedToken>, Refusal> {
        let issuer = &self.issuers[index];
        let (Some(settings), Some(ring)) = (&issuer.settings.jwt, &issuer.keys) else { return Err(Refusal::Issuer) };
        let accepted = settings.accept_unverified(&jws, self.clock.now());
        if accepted == Err(Refusal::Expired)
            && let Ok(validity) = settings.claims.validity(&jws.claims)
        {
            self.ended.note(text, index, validity.until);
        }
        accepted?;
        let generation = ring.generation();
        let (algorithm, kid) = (jws.algorithm, jws.kid.as_deref());
        let mut keys = ring.current();
        if keys.find(kid, algorithm).is_none() && ring.refreshed(kid).await? {
            keys = ring.current();
            if keys.find(kid, algorithm).is_none() {
                ring.remember_unknown(kid);
            }
        }
        let key = keys.find(kid, algorithm).ok_or(Refusal::Key)?;
        if !jws.verify(key) {
            return Err(Refusal::Signature);
        }
        let token = Arc::new(settings.claims.facts(&issuer.settings.name, index, jws.claims)?);
        self.remember(issuer, text, &token, generation);
        Ok(token)
    }

    /// Asks the issuer of a JWT that was verified here whether it still counts, where that is configured.
    async fn confirmed(
        &self,
        bearer: Bearer<'_>,
        token: Arc<VerifiedToken>,
        accepted: &[usize],
        reuse: Reuse,
    ) -> Result<Arc<VerifiedToken>, BearerError> {
        let Some(introspector) = &self.issuers[token.issuer_index()].introspector else { return Ok(token) };
        // Nobody is asked about a token that is refused anyway.
        self.accept_at(self.clock.now(), &token, accepted)?;
        let digest = Digest::of(bearer.as_bytes());
        let kept = if reuse == Reuse::Kept { introspector.kept(&digest) } else { None };
        Ok(match kept {
            Some(answer) => answer?,
            None => introspector.ask(bearer.text()?, digest, Some(&token), reuse).await?,
        })
    }

    /// An opaque token of the embedded server, by what its store knows of it.
    async fn resolve(&self, text: &str, index: usize) -> Result<Arc<VerifiedToken>, Refusal> {
        let issuer = &self.issuers[index];
        let (Some(settings), Some(store)) = (&issuer.settings.jwt, &issuer.store) else { return Err(Refusal::Issuer) };
        let generation = issuer.keys_generation();
        let found = store.opaque_token(text).await.map_err(|_| Refusal::Unavailable)?.ok_or(Refusal::Unknown)?;
        settings.accept_claims(&found.claims, self.clock.now())?;
        let token = Arc::new(settings.claims.facts(&issuer.settings.name, index, found.claims)?);
        self.remember(issuer, text, &token, generation);
        Ok(token)
    }

    fn remember(&self, issuer: &Issuer, text: &str, token: &Arc<VerifiedToken>, generation: u64) {
        issuer.metrics.verified.inc();
        self.cache.insert(text, Arc::clone(token), generation);
        // The cache stands before this: a token that is used often is told of now and then.
        if let (Some(store), Some(jti)) = (&issuer.store, token.jti()) {
            store.access_token_seen(jti);
        }
    }
}
