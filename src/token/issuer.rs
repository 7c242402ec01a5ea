//! Whose token a text is: the settings of the issuers, and the choice among them by the token alone.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{ClaimRules, Refusal};
use crate::jose::{Algorithm, Malformed, UnverifiedJws, named_issuer};
use crate::net::EndpointUrl;
use crate::secret::Secret;
use crate::store::{OPAQUE_PREFIX, is_own_token};

/// One `[issuers.NAME]`: at least one of its tables. With both, a JWT is verified and then introspected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSettings {
    pub name: Arc<str>,
    pub jwt: Option<JwtSettings>,
    pub introspection: Option<IntrospectionSettings>,
}

/// `[issuers.NAME.jwt]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSettings {
    /// Compared byte for byte with the `iss` claim.
    pub issuer: String,
    pub keys: KeySource,
    pub algorithms: Vec<Algorithm>,
    /// Lower case, without the `application/` prefix; `""` stands for an absent `typ`.
    pub typ: Vec<String>,
    pub claims: ClaimRules,
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    File(PathBuf),
    Remote {
        location: Box<KeyLocation>,
        ca: Option<PathBuf>,
        /// Longest time between two fetches; what the answer says of its age may shorten it.
        refresh: Duration,
        /// Shortest time between two fetches, but for those that failed.
        cooldown: Duration,
    },
    /// The embedded authorization server: `gateway::assemble` hands its public keys over.
    Embedded,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyLocation {
    Url(EndpointUrl),
    /// By the metadata of the issuer.
    Metadata {
        /// OpenID Connect Discovery section 4, which most have.
        openid: EndpointUrl,
        /// RFC 8414 section 3, asked where the other is not there.
        oauth: EndpointUrl,
    },
}

impl KeyLocation {
    /// What is called first.
    pub fn first(&self) -> &EndpointUrl {
        match self {
            Self::Url(url) => url,
            Self::Metadata { openid, .. } => openid,
        }
    }
}

/// `[issuers.NAME.introspection]` (RFC 7662).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectionSettings {
    /// The `iss` of its JWTs, and of answers that name one; absent: none of its tokens is a JWT.
    pub issuer: Option<String>,
    /// How its opaque tokens begin; may be empty.
    pub token_prefix: String,
    pub url: EndpointUrl,
    pub client_id: String,
    pub client_secret: Arc<Secret<String>>,
    pub ca: Option<PathBuf>,
    pub claims: ClaimRules,
    /// Longest time for which an answer counts. Zero: every request asks.
    pub cache_ttl: Duration,
    /// Longest time for which a refusal counts.
    pub negative_ttl: Duration,
    /// Answers that are kept, of 2 KiB each; larger ones count for more.
    pub cache_entries: u64,
    /// For a call, the wait for its turn included.
    pub timeout: Duration,
    /// Calls at a time.
    pub concurrency: usize,
}

impl IssuerSettings {
    /// The `iss` of its JWTs.
    pub fn issuer(&self) -> Option<&str> {
        let introspected = || self.introspection.as_ref().and_then(|settings| settings.issuer.as_ref());
        self.jwt.as_ref().map(|settings| &settings.issuer).or_else(introspected).map(String::as_str)
    }

    /// How its claims are read: those of a JWT where it has them.
    pub fn claims(&self) -> Option<&ClaimRules> {
        let introspected = || self.introspection.as_ref().map(|settings| &settings.claims);
        self.jwt.as_ref().map(|settings| &settings.claims).or_else(introspected)
    }

    /// The authorities that it names. A file of keys is looked after by whoever reads it.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let jwt = self.jwt.as_ref().and_then(|jwt| match &jwt.keys {
            KeySource::Remote { ca, .. } => ca.as_deref(),
            KeySource::File(_) | KeySource::Embedded => None,
        });
        let introspection = self.introspection.as_ref().and_then(|settings| settings.ca.as_deref());
        jwt.into_iter().chain(introspection)
    }

    fn is_embedded(&self) -> bool {
        self.jwt.as_ref().is_some_and(|jwt| matches!(jwt.keys, KeySource::Embedded))
    }
}

/// What a text is, and the place of the issuer that it belongs to.
#[derive(Debug)]
pub enum Kin<'t> {
    /// Verified here.
    Jwt(usize, Box<UnverifiedJws<'t>>),
    /// Known to the embedded server's store.
    Own(usize),
    /// For its issuer to say.
    Introspected(usize),
}

/// Whose token `text` is, among those of `issuers` that a route accepts. A token is never attributed to an issuer when it
/// can be known to be another's, so that nobody is sent what is not theirs.
pub fn choose<'t, S>(issuers: &[S], accepted: &[usize], text: &'t str) -> Result<Kin<'t>, Refusal>
where
    S: AsRef<IssuerSettings>,
{
    let settings = |index: &usize| issuers[*index].as_ref();
    let no_form = Refusal::Malformed(Malformed::Segments);
    let mut malformed = no_form;
    if UnverifiedJws::has_form(text) {
        let of = |iss: &str| accepted.iter().copied().find(|index| settings(index).issuer() == Some(iss));
        match UnverifiedJws::parse(text) {
            Ok(jws) => {
                let named = jws.claims.get("iss").and_then(serde_json::Value::as_str);
                let index = named.and_then(of).ok_or(Refusal::Issuer)?;
                return Ok(match settings(&index).jwt {
                    Some(_) => Kin::Jwt(index, Box::new(jws)),
                    None => Kin::Introspected(index),
                });
            }
            // A JWT that nobody could verify here may still be one that its issuer knows.
            Err(error) => match named_issuer(text) {
                Some(named) => {
                    let index = named.as_deref().and_then(of).filter(|index| settings(index).jwt.is_none());
                    return index.map(Kin::Introspected).ok_or(error.into());
                }
                None => malformed = error.into(),
            },
        }
    }
    let embedded = issuers.iter().position(|issuer| issuer.as_ref().is_embedded());
    if let Some(own) = embedded.filter(|_| is_own_token(text)) {
        let known = accepted.contains(&own) && text.starts_with(OPAQUE_PREFIX);
        return if known { Ok(Kin::Own(own)) } else { Err(no_form) };
    }
    let prefix = |index: usize| issuers[index].as_ref().introspection.as_ref().map(|own| own.token_prefix.as_str());
    let begins = |index: &usize| prefix(*index).is_some_and(|own| !own.is_empty() && text.starts_with(own));
    let by_prefix = (0..issuers.len()).filter(begins).max_by_key(|index| prefix(*index).map(str::len));
    match by_prefix {
        Some(index) if accepted.contains(&index) => Ok(Kin::Introspected(index)),
        Some(_) => Err(Refusal::Issuer),
        None => {
            let any = accepted.iter().copied().find(|index| prefix(*index) == Some(""));
            any.map(Kin::Introspected).ok_or(malformed)
        }
    }
}

impl AsRef<Self> for IssuerSettings {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl fmt::Display for KeyLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => url.fmt(f),
            Self::Metadata { openid, oauth } => write!(f, "{openid} or {oauth}"),
        }
    }
}
