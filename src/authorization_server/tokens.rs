//! What an access token says (RFC 9068 section 2.2) and the response that carries it (RFC 6749 section 5.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Map, Value, json};

use super::clients::Authenticated;
use super::error::{Error, ErrorCode};
use super::form::Form;
use super::server::AuthorizationServer;
use super::users::Account;
use super::{AccessTokenFormat, Client};
use crate::clock::UnixSeconds;
use crate::jose::UnverifiedJws;
use crate::scope::ScopeSet;
use crate::secret::random;
use crate::store::{CODE_PREFIX, Digest, NewAccessToken, NewRefreshToken, OPAQUE_PREFIX, REFRESH_PREFIX, StoreError};

/// RFC 9068 section 2.1.
const TYP: &str = "at+jwt";

/// Claims that the server alone sets: a user's own claims of these names are left out.
pub const RESERVED_CLAIMS: [&str; 25] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "client_id",
    "scope",
    "auth_time",
    "roles",
    "amr",
    "acr",
    "azp",
    "cnf",
    "act",
    "may_act",
    "active",
    "username",
    "token_type",
    "token_use",
    "sid",
    "nonce",
    "typ",
    "events",
];

/// For whom and what an access token is issued.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) client: &'a Client,
    pub(super) scope: &'a ScopeSet,
    pub(super) audience: &'a [String],
    /// None: the client itself.
    pub(super) user: Option<UserFacts<'a>>,
}

#[derive(Debug)]
pub(super) struct UserFacts<'a> {
    pub(super) account: &'a Account,
    pub(super) auth_time: UnixSeconds,
    pub(super) amr: &'a [String],
}

/// An access token with everything decided but the signature.
#[derive(Debug)]
pub(super) struct Prepared {
    claims: Map<String, Value>,
    /// Of an opaque token.
    text: Option<String>,
    pub(super) record: NewAccessToken,
    lifetime: u64,
    scope: String,
}

impl AuthorizationServer {
    pub(super) fn prepare(&self, facts: &Facts<'_>) -> Prepared {
        let now = self.now();
        let lifetime = facts.client.access_token_lifetime.unwrap_or(self.settings().access_token_lifetime).as_secs();
        let expires = now.saturating_add(lifetime);
        let jti = BASE64URL.encode(random::<16>());
        // User names hold no colon, so this is nobody's (RFC 9700 section 4.15).
        let client_itself = || format!("client:{}", facts.client.id);
        let subject = facts.user.as_ref().map_or_else(client_itself, |user| user.account.name.clone());
        let issued = self.store().issued_at(&subject, &facts.client.id);
        let mut claims = Map::new();
        if let Some(user) = &facts.user {
            let own = user.account.claims.iter().filter(|(name, _)| !RESERVED_CLAIMS.contains(&name.as_str()));
            claims.extend(own.map(|(name, value)| (name.clone(), value.clone())));
            claims.insert("auth_time".into(), user.auth_time.into());
            claims.insert("amr".into(), json!(user.amr));
            claims.insert("roles".into(), json!(user.account.roles));
        }
        claims.insert("sub".into(), subject.into());
        claims.insert("iss".into(), self.settings().issuer.as_str().into());
        claims.insert(
            "aud".into(),
            match facts.audience {
                [one] => one.as_str().into(),
                several => json!(several),
            },
        );
        claims.insert("exp".into(), expires.into());
        claims.insert("iat".into(), issued.into());
        claims.insert("jti".into(), jti.as_str().into());
        claims.insert("client_id".into(), facts.client.id.as_ref().into());
        claims.insert("scope".into(), facts.scope.to_string().into());
        let (text, opaque) = match self.settings().access_token_format {
            AccessTokenFormat::Jwt => (None, None),
            AccessTokenFormat::Opaque => {
                let text = format!("{OPAQUE_PREFIX}{}", BASE64URL.encode(random::<32>()));
                let digest = Digest::of(&text);
                (Some(text), Some((digest, claims.clone())))
            }
        };
        let record = NewAccessToken { jti, expires, opaque };
        Prepared { claims, text, record, lifetime, scope: facts.scope.to_string() }
    }

    /// The response with the signed token.
    pub(super) fn finish(&self, prepared: Prepared, refresh: Option<&str>) -> Result<Value, Error> {
        let text = match prepared.text {
            Some(text) => text,
            None => {
                let key = self.signing_key();
                key.sign(TYP, &prepared.claims).map_err(|error| {
                    tracing::error!(%error, "an access token could not be signed");
                    Error::new(ErrorCode::ServerError, "the server failed").reason(error.to_string())
                })?
            }
        };
        let mut response = json!({
            "access_token": text,
            "token_type": "Bearer",
            "expires_in": prepared.lifetime,
            "scope": prepared.scope,
        });
        if let Some(refresh) = refresh {
            response["refresh_token"] = refresh.into();
        }
        Ok(response)
    }

    /// The claims of an access token that this server issued and that is active: neither expired nor revoked.
    pub(super) async fn own_access_token(&self, text: &str) -> Result<Option<Map<String, Value>>, StoreError> {
        if let Some(opaque) = self.store().opaque_token(text).await? {
            return Ok(Some(opaque.claims));
        }
        let Ok(jws) = UnverifiedJws::parse(text) else { return Ok(None) };
        let published = self.public_keys().current();
        let verified = published.keys.find(jws.kid.as_deref(), jws.algorithm).is_some_and(|key| jws.verify(key));
        let text = |name: &str| jws.claims.get(name).and_then(Value::as_str);
        let issued_here = text("iss") == Some(self.settings().issuer.as_str()) && jws.typ.as_deref() == Some(TYP);
        let alive = jws.claims.get("exp").and_then(Value::as_u64).is_some_and(|expires| expires > self.now());
        let revoked = text("jti").is_none_or(|jti| self.revocations().is_revoked(jti));
        let revoked = revoked || self.store().is_ended(&jws.claims);
        Ok((verified && issued_here && alive && !revoked).then_some(jws.claims))
    }

    /// A new refresh token that ends when nobody uses it for the idle time.
    pub(super) fn new_refresh_token(&self) -> (String, NewRefreshToken) {
        let text = format!("{REFRESH_PREFIX}{}", BASE64URL.encode(random::<32>()));
        let expires = self.now().saturating_add(self.settings().refresh_token_idle.as_secs());
        let record = NewRefreshToken { digest: Digest::of(&text), expires };
        (text, record)
    }

    /// The audience of the tokens: the client's, or those of its resources that the request names (RFC 8707).
    pub(super) fn audience(&self, of: &Authenticated, form: &Form) -> Result<Vec<String>, Error> {
        let own = &of.client.audience;
        narrow_audience(if own.is_empty() { &self.settings().audience } else { own }, form)
    }
}

/// Those of `allowed` that the `resource` parameters name; all of them without the parameter.
pub(super) fn narrow_audience(allowed: &[String], form: &Form) -> Result<Vec<String>, Error> {
    let mut audience: Vec<String> = Vec::new();
    for resource in form.all("resource") {
        if !is_absolute_uri(resource) || !allowed.iter().any(|own| own == resource) {
            return Err(Error::new(ErrorCode::InvalidTarget, "the resource is not one that this client may name"));
        }
        if !audience.iter().any(|own| own == resource) {
            audience.push(resource.to_owned());
        }
    }
    Ok(if audience.is_empty() { allowed.to_vec() } else { audience })
}

/// RFC 3986 section 4.3: a scheme, something after it, no fragment.
fn is_absolute_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        && !rest.is_empty()
        && !rest.contains('#')
}

/// A new authorization code: 256 random bits.
pub(super) fn new_code() -> String {
    format!("{CODE_PREFIX}{}", BASE64URL.encode(random::<32>()))
}
